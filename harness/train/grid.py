"""The grid: students x data x sizes x methods x random seeds, each cell with its rows, steps and key. No torch.

A cell's key is what its adapter depends on: the base's weights, its exact rows, its settings. Runs that ask
for the same cell share it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from harness.augment.current import rows_of_data
from harness.config.methods import Method
from harness.config.run import Augment, Run, Train
from harness.core.record import digest
from harness.data.examples import path_of
from harness.errors import UsageError
from harness.models.files import weight_shapes
from harness.models.resolve import Model, resolve
from harness.records import Cell, Row
from harness.train.adapters import is_intact
from harness.train.capacity import capacity_note
from harness.train.keys import BASE, cell_key
from harness.train.sizes import nested, step_count

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

    @property
    def trained(self) -> bool:
        """Whether its weights are stored as training left them. An untuned base has none of its own."""
        return not self.rows or is_intact(self.folder, self.key)

    @property
    def base(self) -> Path:
        """The folder of the weights that an engine loads: the student's, or the cell's own where all were tuned."""
        return self.folder if self.rows and self.method.kind == "full" else self.model.folder

    @property
    def adapter(self) -> Path | None:
        """The folder of the adapter that it puts into them."""
        return self.folder if self.rows and self.method.kind != "full" else None


@dataclass(frozen=True)
class TrainPlan:
    """Every cell of the grid once. The dry run prints this value, train executes it, eval scores its students."""

    cells: tuple[GridCell, ...]

    @property
    def inputs(self) -> str:
        """64 hex digits over all that could change what train writes."""
        cells = [[planned.cell.model_dump(exclude_defaults=True), planned.key] for planned in self.cells]
        return digest("train", CELLS_VERSION, cells)

    @property
    def notes(self) -> list[str]:
        """A sentence for each kind of data whose largest size holds more than half of the available rows.

        One for each adapter that its largest size may be too much for follows.
        """
        return [*self._sampling_notes(), *self._capacity_notes()]

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

    def _sampling_notes(self) -> list[str]:
        notes = []
        drawn = (planned for planned in self.cells if planned.rows and planned.cell.data != "seeds_only")
        by_data = sorted(drawn, key=lambda planned: planned.cell.data)
        for data, cells in groupby(by_data, key=lambda planned: planned.cell.data):
            largest = max(cells, key=lambda planned: planned.cell.size)
            if largest.available < 2 * largest.cell.size:
                notes.append(
                    f"the largest size of data {data!r}, {largest.cell.size}, is drawn from {largest.available}"
                    f" rows, fewer than twice as many: random seeds draw much the same rows there, so that size"
                    f" has no sampling variance to speak of"
                )
        return notes


def plan_training(run: Run) -> TrainPlan:
    """The grid of a run whose rows are made. Raises UsageError for a size larger than the number of rows."""
    settings = run.file.train
    rows_by_data: dict[str, tuple[Row, ...]] = {data: rows_of_data(run, data) for data in settings.data}
    for data, rows in rows_by_data.items():
        require_rows(settings.sizes, data, len(rows), run.file.augment, run.name)
    models = {student: resolve(student, run.cache, root=run.root) for student in settings.students}
    drawn: dict[tuple[str, int, int], tuple[Row, ...]] = {}
    planned, methods = [], settings.by_method
    base_method = next(iter(methods.values()))  # of a base any would do: it is not tuned
    for cell in grid_cells(settings, len(run.seeds)):
        place = (cell.data, cell.size, cell.random_seed)
        if place not in drawn:
            drawn[place] = nested(rows_by_data[cell.data], cell.size, cell.random_seed) if cell.size else ()
        model, steps = models[cell.student], steps_of(cell, settings)
        method = methods.get(cell.method, base_method)
        rate = method.learning_rate
        key = cell_key(model, drawn[place], settings, steps, cell.random_seed, method, rate)
        available, folder = len(rows_by_data.get(cell.data, ())), run.cache / "students" / key
        planned.append(GridCell(cell, model, drawn[place], steps, key, available, folder, method, rate))
    return TrainPlan(tuple(planned))


def grid_cells(settings: Train, seeds: int) -> list[Cell]:
    """Every cell in the order of training: for each student its base, where size 0 is named, then all its tuned cells.

    They are in the order data, sizes, methods, random seeds. Seeds alone have one size, all `seeds` of them.
    """
    cells = []
    for student in settings.students:
        if 0 in settings.sizes:
            cells.append(Cell(student=student, data=BASE, size=0, random_seed=0))
        for data in settings.data:
            sizes = [seeds] if data == "seeds_only" else [size for size in settings.sizes if size]
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
    if cell.data != "seeds_only" or not sizes:
        return step_count(cell.size, settings)
    return step_count(min(sizes, key=lambda size: (abs(size - cell.size), -size)), settings)


def require_rows(sizes: Sequence[int], data: str, rows: int, augment: Augment, run: str) -> None:
    """Raises UsageError where the largest of `sizes` is larger than the number of rows of this kind of data."""
    largest = max(sizes)
    if data == "seeds_only" or largest <= rows:
        return
    fitting = [size for size in sizes if size <= rows]
    more = "raise augment.rows or augment.max_requests_per_row"
    if augment.rows_file and not augment.teacher_writes:
        more = f"add rows to {path_of(augment.rows_file)}"
    raise UsageError(
        f"runs/{run}.yaml: train.sizes: {largest} is larger than the {rows} rows there are for data"
        f" {data!r}; sizes that fit: {fitting}; or {more} and augment again"
    )
