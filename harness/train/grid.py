"""The grid: students x data x sizes x methods x random seeds, each cell with its rows, steps and key. No torch.

A cell's key is what its adapter depends on: the base's weights, its exact rows, its settings. Runs that ask
for the same cell share it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from harness.config.arms import SEEDS_ONLY, DataArm, Mix, Replay, plain_arms
from harness.config.methods import Method
from harness.config.run import Augment, Run, Train
from harness.core.record import digest
from harness.data.examples import path_of
from harness.errors import UsageError
from harness.models.files import weight_shapes
from harness.models.resolve import Model, resolve
from harness.records import Cell, Row
from harness.train.adapters import is_intact
from harness.train.arm_notes import arm_notes, size_notes
from harness.train.arms import Scores, in_order, rows_of
from harness.train.capacity import capacity_note
from harness.train.keys import BASE, cell_key
from harness.train.learning_rate import peak_rate
from harness.train.pool import Pool, pool_of
from harness.train.pretraining import RAW_TEXT, method_of, raw_text, settings_of
from harness.train.row_scores import Unmeasured, measures_of, stored_scores
from harness.train.sizes import step_count
from harness.train.validation import dev_items, items_digest

CELLS_VERSION = 3  # of what cells.json says of a cell


@dataclass(frozen=True)
class GridCell:
    """A cell with all that its training depends on. Size 0 has no rows and is not trained."""

    cell: Cell
    model: Model
    rows: tuple[Row, ...]
    steps: int
    key: str  # 64 hex digits
    available: int  # rows that the cell's were drawn from
    folder: Path  # of its adapter, or of all its weights, shared by all runs
    method: Method
    learning_rate: float  # the number that the method's setting comes to for this student
    pretraining: GridCell | None = None  # whose weights are tuned in place of the student's own

    @property
    def is_pretraining(self) -> bool:
        """Whether its rows are raw text, which others begin from."""
        return self.cell.data == RAW_TEXT and bool(self.rows) and self.rows[0].provenance.source == "document"

    @property
    def can_begin(self) -> bool:
        """Whether the weights that it begins from are there."""
        return self.pretraining is None or self.pretraining.trained

    @property
    def trained(self) -> bool:
        """Whether its weights are stored as training left them. An untuned base has none of its own."""
        return not self.rows or is_intact(self.folder, self.key)

    @property
    def can_be_loaded(self) -> bool:
        """Whether all that an engine loads is stored: the cell's weights, and the base that its adapter belongs to."""
        return self.trained and (self.adapter is None or self.can_begin)

    @property
    def base(self) -> Path:
        """The folder of the weights that an engine loads: the cell's own where all were tuned, else what it tuned."""
        return self.folder if self.rows and self.method.kind == "full" else self.begins_as.folder

    @property
    def begins_as(self) -> Model:
        """The weights before this cell's training."""
        return self.pretraining.result if self.pretraining else self.model

    @property
    def result(self) -> Model:
        """The student with all its weights as this cell's training left them."""
        return replace(self.model, folder=self.folder, revision=self.key[:16], weights_digest=self.key)

    @property
    def adapter(self) -> Path | None:
        """The folder of the adapter that it puts into them."""
        return self.folder if self.rows and self.method.kind != "full" else None


@dataclass(frozen=True)
class TrainPlan:
    """Every cell of the grid once. The dry run prints this value, train executes it, eval scores its students."""

    cells: tuple[GridCell, ...]
    row_notes: tuple[str, ...] = ()  # what a reader must know of the rows

    @property
    def pretraining(self) -> tuple[GridCell, ...]:
        """The cells of raw text that others begin from, each once. They are trained first, and scored by no suite."""
        first: dict[str, GridCell] = {}
        for planned in self.cells:
            if planned.pretraining:
                first.setdefault(planned.pretraining.key, planned.pretraining)
        return tuple(first.values())

    @property
    def order(self) -> tuple[GridCell, ...]:
        """All that is trained, in the order of training."""
        return (*self.pretraining, *self.cells)

    @property
    def distinct(self) -> dict[str, GridCell]:
        """Key -> cell, in that order. Cells of the same rows and settings are one, the first of them."""
        by_key: dict[str, GridCell] = {}
        for planned in self.order:
            by_key.setdefault(planned.key, planned)
        return by_key

    @property
    def missing(self) -> dict[str, GridCell]:
        """Key -> what is to be trained, in that order. Every call looks at what is stored."""
        return {key: planned for key, planned in self.distinct.items() if not planned.trained}

    @property
    def inputs(self) -> str:
        """64 hex digits over all that could change what train writes."""
        cells = [[planned.cell.model_dump(exclude_defaults=True), planned.key] for planned in self.cells]
        return digest("train", CELLS_VERSION, cells)

    @property
    def notes(self) -> list[str]:
        """Of the rows, then a sentence for each adapter that its largest size may be too much for."""
        return [*self.row_notes, *self._capacity_notes()]

    def _capacity_notes(self) -> Iterator[str]:
        """Of the largest size of each student, kind of data and method, its first random seed."""
        largest: dict[tuple[str, str, str], GridCell] = {}
        for planned in self.cells:
            place = (planned.cell.student, planned.cell.data, planned.cell.method)
            if planned.cell.size > (largest[place].cell.size if place in largest else 0):
                largest[place] = planned
        shapes = {model.folder: weight_shapes(model.folder) for model in {one.model for one in largest.values()}}
        for planned in largest.values():
            if planned.method.lora:
                note = capacity_note(planned.cell.name, planned.rows, shapes[planned.model.folder], planned.method.lora)
                yield from [note] if note else []


def plan_training(run: Run) -> TrainPlan:
    """The grid of a run whose rows are made, and measured where a selection goes by that.

    Raises UsageError for a size larger than the number of rows of an arm.
    """
    plan, unmeasured = outline_training(run)
    if unmeasured:
        what = "; ".join(missing.words for missing in unmeasured)
        raise UsageError(f"runs/{run.name}: {what}: train first ({run.command('train')})")
    return plan


def outline_training(run: Run) -> tuple[TrainPlan, list[Unmeasured]]:
    """(The cells whose rows are known, what must be measured to know those of the others). Raises as `plan_training`.

    Sizes that no measuring could fill are refused before a model is made ready.
    """
    settings, pool = run.file.train, pool_of(run)
    arms = {arm.name: arm for arm in settings.data}
    for arm in settings.data:
        if not measures_of([arm]):
            count = len(in_order(arm, pool, settings.random_seeds[0], {}))
            require_rows(settings.sizes, arm.name, count, _more_rows(arm, pool, run.file.augment), run.name)
    models = {student: resolve(student, run.cache, root=run.root) for student in settings.students}

    @cache
    def scores(student: str) -> tuple[Scores, list[Unmeasured]]:
        return stored_scores(settings.data, pool.kept, max(settings.sizes), models[student], run.cache)

    @cache
    def rows_in_order(data: str, random_seed: int, student: str) -> tuple[Row, ...]:
        rows = in_order(arms[data], pool, random_seed, scores(student)[0] if student else {})
        require_rows(settings.sizes, data, len(rows), _more_rows(arms[data], pool, run.file.augment), run.name)
        return rows

    left_out: list[str] = []  # documents without a piece

    @cache
    def pretrained(student: str, method: str) -> GridCell | None:
        return _pretraining(run, student, models[student], method, left_out.append)

    planned: list[GridCell] = []
    unmeasured: dict[tuple[str, ...], Unmeasured] = {}
    methods = settings.by_method
    base_method = next(iter(methods.values()))  # of a base any would do: it is not tuned
    stopping_by = items_digest(dev_items(run))
    for cell in grid_cells(settings, len(run.seeds)):
        rows: tuple[Row, ...] = ()
        if cell.size:
            measures = measures_of([arms[cell.data]])
            if measures and (missing := [one for one in scores(cell.student)[1] if set(one.data) & set(measures)]):
                unmeasured |= {(*one.data, one.student): one for one in missing}
                continue
            rows = rows_in_order(cell.data, cell.random_seed, cell.student if measures else "")
        model, steps, drawn = models[cell.student], steps_of(cell, settings), rows[: cell.size]
        method = methods.get(cell.method, base_method)
        rate = peak_rate(method, model.name, model.folder)
        first = pretrained(cell.student, cell.method) if drawn else None
        before = first.key if first else ""
        key = cell_key(model, drawn, settings, steps, cell.random_seed, method, rate, stopping_by, before)
        folder = run.cache / "students" / key
        planned.append(GridCell(cell, model, drawn, steps, key, len(rows), folder, method, rate, first))
    measured = {student: scores(student)[0] for student in models} if measures_of(settings.data) else {}
    cells = [(one.cell, one.available) for one in planned if one.rows]
    notes = [*size_notes(cells), *arm_notes(settings, pool, measured), *dict.fromkeys(left_out)]
    return TrainPlan(tuple(planned), tuple(notes)), list(unmeasured.values())


def _pretraining(run: Run, student: str, model: Model, name: str, say: Callable[[str], None]) -> GridCell | None:
    """What a method's cells of a student begin from. None where that is the student itself.

    It has the run's own random seed, and is the same for all of them. Methods that ask for the same one share it, and
    it is called like the first of them. `say` hears of documents that are left out.
    """
    method = run.file.train.by_method[name]
    if method.pretrain is None:
        return None
    tuning, settings, steps = method_of(method.pretrain), settings_of(run.file.train), method.pretrain.steps
    place = f"runs/{run.name}.yaml: train.methods.{name}.pretrain" if name else f"runs/{run.name}.yaml: pretrain"
    rows = raw_text(method.pretrain, run.root, place, say)
    rate, random_seed = peak_rate(tuning, model.name, model.folder), run.file.random_seed
    key = cell_key(model, rows, settings, steps, random_seed, tuning, rate)
    cell = Cell(student=student, data=RAW_TEXT, size=len(rows), random_seed=random_seed, method=name)
    return GridCell(cell, model, rows, steps, key, len(rows), run.cache / "students" / key, tuning, rate)


def grid_cells(settings: Train, seeds: int) -> list[Cell]:
    """Every cell in the order of training: for each student its base, where size 0 is named, then all its tuned cells.

    They are in the order data, sizes, methods, random seeds. Seeds alone have one size, all `seeds` of them.
    """
    cells = []
    for student in settings.students:
        if 0 in settings.sizes:
            cells.append(Cell(student=student, data=BASE, size=0, random_seed=0))
        for data in settings.data_names:
            sizes = [seeds] if data == SEEDS_ONLY else [size for size in settings.sizes if size]
            cells += [
                Cell(student=student, data=data, size=size, random_seed=random_seed, method=method)
                for size in sizes
                for method in settings.by_method
                for random_seed in settings.random_seeds
            ]
    return cells


def steps_of(cell: Cell, settings: Train) -> int:
    """Optimizer steps. Seeds alone get those of the size nearest in rows (of two, the larger)."""
    if not cell.size:
        return 0
    sizes = [size for size in settings.sizes if size]
    if cell.data != SEEDS_ONLY or not sizes:
        return step_count(cell.size, settings)
    return step_count(min(sizes, key=lambda size: (abs(size - cell.size), -size)), settings)


def require_rows(sizes: Sequence[int], data: str, rows: int, more: str, run: str) -> None:
    """Raises UsageError where the largest of `sizes` is larger than the number of rows of an arm.

    `more` says how there would be more.
    """
    largest = max(sizes)
    if data == SEEDS_ONLY or largest <= rows:
        return
    fitting = [size for size in sizes if size <= rows]
    raise UsageError(
        f"runs/{run}.yaml: train.sizes: {largest} is larger than the {rows} rows there are for data"
        f" {data!r}; sizes that fit: {fitting}; or {more} and augment again"
    )


def more_rows(augment: Augment) -> str:
    """What a person would do for more rows."""
    if augment.rows_file and not augment.teacher_writes:
        return f"add rows to {path_of(augment.rows_file)}"
    return "raise augment.rows or augment.max_requests_per_row"


def _more_rows(arm: DataArm, pool: Pool, augment: Augment) -> str:
    """The same, of an arm. Of a mix and a replay with what each part has."""
    if arm.name == "human" and augment.rows_file:
        return f"add rows to {path_of(augment.rows_file)}"
    if not isinstance(arm, Mix | Replay):
        return more_rows(augment)
    counts = {part.name: len(rows_of(part, pool)) for part in plain_arms([arm])}
    if isinstance(arm, Replay):
        counts[path_of(arm.rows)] = len(pool.general[arm.name])
    listed = ", ".join(f"{name} {count}" for name, count in counts.items())
    return f"other shares (its parts have: {listed}), or {more_rows(augment)}"
