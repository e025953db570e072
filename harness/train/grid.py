"""The grid: students x data x sizes x random seeds, each cell with its rows, steps and key. No torch.

A cell's key is what its adapter depends on: the base's weights, its exact rows, its settings. Runs that ask
for the same cell share it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from harness.augment.rows import own_rows, rows_of_data, seed_rows
from harness.config.run import Run, Train
from harness.core.record import digest, digested
from harness.core.store import read_manifest
from harness.data.examples import path_of
from harness.errors import UsageError
from harness.models.resolve import Model, ready, resolve
from harness.records import Cell, Row
from harness.train.adapters import is_whole
from harness.train.sizes import nested, step_count

STAGE_VERSION = 1
BASE = "base"  # what stands for the kind of data where there is none
SAMPLE = 256  # rows tokenized for an estimate
TURN_TOKENS = 5  # what chat templates put around one message: marks, role, line break
CHARACTERS = 4  # of a token, where the tokenizer is not at hand


@dataclass(frozen=True)
class GridCell:
    """A cell with all that its training depends on; size 0 has no rows and is not trained."""

    cell: Cell
    model: Model
    rows: tuple[Row, ...]
    steps: int
    key: str  # 64 hex digits
    available: int  # rows that the cell's were drawn from

    def folder(self, run: Run) -> Path:
        """Where the adapter lies, shared by all runs."""
        return run.cache / "students" / self.key

    def trained(self, run: Run) -> bool:
        """Whether there is nothing left to do for this cell: its adapter is there, as training left it."""
        return not self.rows or is_whole(self.folder(run), self.key)


@dataclass(frozen=True)
class Planned:
    """One line of a dry run."""

    cell: Cell
    rows: int
    steps: int
    tokens: int  # read in training, estimated
    trained: bool | None  # None: rows or student are not there yet, so nobody can know


def cells_of(settings: Train, student: str, seeds: int) -> list[Cell]:
    """One student's part of the grid: its base if size 0 is asked for, then data x sizes x random seeds.

    Seeds alone have one size, all `seeds` of them.
    """
    found = [Cell(student=student, data=BASE, size=0, random_seed=0)] if 0 in settings.sizes else []
    for data in settings.data:
        sizes = [seeds] if data == "seeds_only" else [size for size in settings.sizes if size]
        found += [
            Cell(student=student, data=data, size=size, random_seed=random_seed)
            for size in sizes
            for random_seed in settings.random_seeds
        ]
    return found


def expand(run: Run) -> list[GridCell]:
    """The grid with rows, steps and keys. Raises UsageError for a size larger than the rows there are."""
    settings = run.file.train
    rows_by_data: dict[str, tuple[Row, ...]] = {data: rows_of_data(run, data) for data in settings.data}
    for data, rows in rows_by_data.items():
        _sizes_fit(run, data, len(rows))
    drawn: dict[tuple[str, int, int], tuple[Row, ...]] = {}
    grid = []
    for student in settings.students:
        model = resolve(student, run.cache, root=run.root)
        for cell in cells_of(settings, student, len(run.seeds)):
            place = (cell.data, cell.size, cell.random_seed)
            if place not in drawn:
                drawn[place] = nested(rows_by_data[cell.data], cell.size, cell.random_seed) if cell.size else ()
            count = _steps(cell, settings)
            key = cell_key(model, drawn[place], settings, count, cell.random_seed)
            available = len(rows_by_data.get(cell.data, ()))
            grid.append(GridCell(cell, model, drawn[place], count, key, available))
    return grid


def cell_key(model: Model, rows: Sequence[Row], settings: Train, steps: int, random_seed: int) -> str:
    """64 hex digits over all that decides an adapter; a base's key is over its weights alone."""
    if not rows:
        return base_key(model)
    resolved = {  # by their first names, under which adapters are stored
        "updates": steps,
        "random_seed": random_seed,
        "batch_rows": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "warmup": settings.warmup_ratio,
        "lora": digested(settings.lora),
    }
    return digest("cell", STAGE_VERSION, model.weights_digest, [row.id for row in rows], resolved)


def base_key(model: Model) -> str:
    """64 hex digits of a model as it is: its weights alone."""
    return digest("base", STAGE_VERSION, model.weights_digest)


def _steps(cell: Cell, settings: Train) -> int:
    """Optimizer steps; seeds alone get those of the size nearest in rows (of two, the larger)."""
    if not cell.size:
        return 0
    sizes = [size for size in settings.sizes if size]
    if cell.data != "seeds_only" or not sizes:
        return step_count(cell.size, settings)
    return step_count(min(sizes, key=lambda size: (abs(size - cell.size), -size)), settings)


def _sizes_fit(run: Run, data: str, rows: int) -> None:
    largest = max(run.file.train.sizes)
    if data == "seeds_only" or largest <= rows:
        return
    fitting = [size for size in run.file.train.sizes if size <= rows]
    own = run.file.augment.rows_file
    more = f"add rows to {path_of(own)}" if own else "raise augment.rows or augment.max_requests_per_row"
    raise UsageError(
        f"runs/{run.name}.yaml: train.sizes: {largest} is larger than the {rows} rows there are for data"
        f" {data!r}; sizes that fit: {fitting}; or {more} and augment again"
    )


def no_sampling_variance(grid: Sequence[GridCell]) -> list[str]:
    """A sentence for each kind of data whose largest size holds more than half of the rows there are."""
    notes = []
    drawn = sorted((g for g in grid if g.rows and g.cell.data != "seeds_only"), key=lambda g: g.cell.data)
    for data, cells in groupby(drawn, key=lambda g: g.cell.data):
        largest = max(cells, key=lambda g: g.cell.size)
        if largest.available < 2 * largest.cell.size:
            notes.append(
                f"the largest size of data {data!r}, {largest.cell.size}, is drawn from {largest.available}"
                f" rows, fewer than twice as many: random seeds draw much the same rows there, so that size"
                f" has no sampling variance to speak of"
            )
    return notes


# --- a dry run


def plan(run: Run) -> list[Planned]:
    """The cells that `train` would train and what they take; imports no torch, makes no model ready.

    Tokens are counted with the student's own tokenizer on a sample of the rows, its chat template by a
    rule of thumb. Before augment has run, rows are taken to be as long as the seeds, or as the own rows. Of a
    student that is still to be fetched or converted nothing is known but its name.
    """
    settings, sample = run.file.train, own_rows(run) or seed_rows(run)
    seen = [student for student in settings.students if ready(student, run.cache, run.root)]
    folders = {student: resolve(student, run.cache, root=run.root).folder for student in seen}
    counters = {student: _token_counter(folders.get(student, Path())) for student in settings.students}

    def planned(cell: Cell, rows: Sequence[Row], trained: bool | None) -> Planned:
        count = _steps(cell, settings)
        tokens = _tokens(rows, count * settings.batch_size, counters[cell.student])
        return Planned(cell, cell.size, count, tokens, trained)

    if _rows_are_made(run) and len(seen) == len(settings.students):
        return [planned(g.cell, g.rows, g.trained(run)) for g in expand(run)]
    if run.file.augment.rows_file:
        _sizes_fit(run, "filtered", len(sample))
    cells = [cell for student in settings.students for cell in cells_of(settings, student, len(run.seeds))]
    return [planned(cell, sample if cell.size else (), None) for cell in cells]


def _rows_are_made(run: Run) -> bool:
    return set(run.file.train.data) == {"seeds_only"} or read_manifest(run.folder / "augment") is not None


def _token_counter(folder: Path) -> Callable[[str], int]:
    """Counts a text's tokens; by length alone where the folder has no fast tokenizer or none is installed."""
    file = folder / "tokenizer.json"
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return lambda text: len(text) // CHARACTERS + 1
    if not file.is_file():
        return lambda text: len(text) // CHARACTERS + 1
    tokenizer = Tokenizer.from_file(str(file))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def _tokens(rows: Sequence[Row], seen: int, count: Callable[[str], int]) -> int:
    """Tokens of `seen` rows drawn from `rows`, from the mean of a sample."""
    sample = rows[:SAMPLE]
    if not sample:
        return 0
    turns = [message for row in sample for message in row.messages]
    return round(seen * sum(count(turn.content) + TURN_TOKENS for turn in turns) / len(sample))
