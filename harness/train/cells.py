"""cells.json: what train hands to eval, report and clean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.core.json_file import read_json
from harness.core.record import Record
from harness.core.store import remade_by, require_sealed
from harness.errors import UsageError
from harness.records import Cell

CELLS = "cells.json"
CHECKPOINTS = "checkpoints"  # beside it, while cells are in work


class CellLog(Record):
    """What tuning one cell did and took. It stands in the cell's own folder."""

    base: str  # name@revision
    rows: int
    steps: int  # by the budget
    losses: tuple[float, ...]  # per step done: mean over its answer tokens, nats
    validation: tuple[tuple[int, float], ...] = ()  # (steps done, mean over the answer tokens of the dev items, nats)
    steps_done: int | None = None  # where it may stop early
    best_step: int | None = None  # the same: its weights are those after this step
    tokens: int  # read in all steps
    seconds: float  # of all steps, without loading and validation; of passes that cells share, by tokens
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
    pretraining: str = ""  # the key of the cell of raw text that it began from, which lies in `base`
    rows: int
    available: int  # rows that the cell's were drawn from
    steps: int  # by the budget
    steps_done: int | None = None  # where it may stop early
    best_step: int | None = None  # the same: its weights are those after this step
    tokens: int = 0
    seconds: float = 0.0
    first_loss: float | None = None  # mean over the first tenth of the steps
    final_loss: float | None = None  # mean over the last tenth
    validation_loss: float | None = None  # of the dev items with its weights, where it was measured

    @property
    def updates(self) -> int:
        """How many optimizer steps its weights have had."""
        return self.steps if self.best_step is None else self.best_step

    @property
    def steps_words(self) -> str:
        """Its steps. With early stopping: of how many, and after which one its weights are."""
        if self.updates == self.steps:
            return str(self.steps)
        return f"{self.steps_done} of {self.steps}, weights of {self.best_step}"

    @property
    def cell(self) -> Cell:
        """Its place in the grid."""
        return Cell(
            student=self.student, data=self.data, size=self.size, random_seed=self.random_seed, method=self.method
        )


class TrainedCells(Record):
    """What cells.json holds."""

    cells: tuple[TrainedCell, ...]
    pretraining: tuple[TrainedCell, ...] = ()  # the cells of raw text that some of them begin from
    notes: tuple[str, ...] = ()
    epochs: int
    min_steps: int


def early_stopping_note(cells: Sequence[TrainedCell]) -> list[str]:
    """What a reader must know where early stopping gave cells other numbers of updates than the budget. At most one."""
    fewer = [cell for cell in cells if cell.updates != cell.steps]
    if not fewer:
        return []
    named = ", ".join(f"{cell.name} ({cell.steps_words})" for cell in fewer[:4]) + (", ..." if len(fewer) > 4 else "")
    return [
        f"early stopping: {len(fewer)} of {sum(cell.tuned for cell in cells)} cells have had fewer updates than their"
        f" budget: {named}. Sizes, data and methods are not compared at equal updates here"
    ]


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


def cell_keys(run_folder: Path) -> tuple[set[str], set[str]]:
    """(cells, pretraining): the keys of the cells that a run refers to, and of those of raw text that they begin from.

    Whichever version wrote them. Empty before train.
    """
    if not (run_folder / "train" / CELLS).is_file():
        return set(), set()
    stored = _read(run_folder)
    begun_from = {str(cell["pretraining"]) for cell in stored["cells"] if cell.get("pretraining")}
    begun_from |= {str(cell["key"]) for cell in stored.get("pretraining", ())}
    return {str(cell["key"]) for cell in stored["cells"]}, begun_from


def _read(run_folder: Path) -> dict[str, Any]:
    path, command = run_folder / "train" / CELLS, f"make train RUN={run_folder.name}"
    with remade_by(command):
        stored = read_json(path)
    cells = stored.get("cells") if isinstance(stored, dict) else None
    if not isinstance(cells, list) or not all(isinstance(cell, dict) and "key" in cell for cell in cells):
        raise UsageError(f"{path}: not what train writes; {command}")
    return dict(stored)
