"""cells.json: what train hands to eval, report and clean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.core.json_file import read_json
from harness.core.record import Record
from harness.core.store import remade_by, require_sealed
from harness.errors import UsageError
from harness.records import Cell

CELLS = "cells.json"


class CellLog(Record):
    """What tuning one cell did and took. It stands in the cell's own folder."""

    base: str  # name@revision
    rows: int
    steps: int
    losses: tuple[float, ...]  # per step: mean over its answer tokens, nats
    tokens: int  # read in all steps
    seconds: float  # of all steps, without loading; of passes that cells share, by tokens
    peak_memory: int  # bytes: of the GPU, or of the whole process so far on a CPU
    device: str
    dtype: str
    packed: bool


class TrainedCell(Record):
    """One cell of the grid as train left it: a tuned student, or the untuned base.

    Paths are relative to the project where they lie in it.
    """

    student: str
    data: str
    size: int
    random_seed: int
    method: str = ""  # by its name in the run file, where the run has several
    learning_rate: float | None = None  # the peak, as a number; None for a base, and in files of earlier versions
    name: str  # Cell.name
    key: str
    model: str  # name@revision of the untuned student
    tuned: bool  # decides how the model is asked: with the prompt it was tuned on, or as an untuned model
    base: str  # the folder of the weights that an engine loads: the cell's own where all of them were tuned
    folder: str  # the adapter that it puts into them; empty where there is none
    rows: int
    available: int  # rows that the cell's were drawn from
    steps: int
    tokens: int = 0
    seconds: float = 0.0
    first_loss: float | None = None  # mean over the first tenth of the steps
    final_loss: float | None = None  # mean over the last tenth

    @property
    def cell(self) -> Cell:
        """Its place in the grid."""
        return Cell(
            student=self.student, data=self.data, size=self.size, random_seed=self.random_seed, method=self.method
        )


class TrainedCells(Record):
    """What cells.json holds."""

    cells: tuple[TrainedCell, ...]
    notes: tuple[str, ...] = ()
    epochs: int
    min_steps: int


def load_cells(run_folder: Path) -> TrainedCells:
    """What train wrote. Raises UsageError for a file that is missing, edited, damaged, or of another version."""
    path, command = run_folder / "train" / CELLS, f"make train RUN={run_folder.name}"
    if not path.is_file():
        raise UsageError(f"{path} is not there: train first ({command})")
    require_sealed(path.parent, [CELLS], command)
    stored = _read(run_folder)
    try:
        return TrainedCells.model_validate(stored)
    except ValidationError as error:
        place = ".".join(map(str, error.errors(include_url=False)[0]["loc"]))
        raise UsageError(f"{path}: an older version wrote it; {command} writes it anew ({place})") from error


def cell_keys(run_folder: Path) -> set[str]:
    """The keys of the cells that a run refers to, whichever version wrote them. Empty before train."""
    if not (run_folder / "train" / CELLS).is_file():
        return set()
    return {str(cell["key"]) for cell in _read(run_folder)["cells"]}


def _read(run_folder: Path) -> dict[str, Any]:
    path, command = run_folder / "train" / CELLS, f"make train RUN={run_folder.name}"
    with remade_by(command):
        stored = read_json(path)
    cells = stored.get("cells") if isinstance(stored, dict) else None
    if not isinstance(cells, list) or not all(isinstance(cell, dict) and "key" in cell for cell in cells):
        raise UsageError(f"{path}: not what train writes; {command}")
    return dict(stored)
