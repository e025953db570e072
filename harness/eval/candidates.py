"""Who is scored: every student of a trained run, its untuned base in each prompting, and other models by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.config.run import Run, Train
from harness.errors import UsageError, nearest
from harness.models.resolve import impossible, possible, ready, resolve
from harness.records import Cell, Row
from harness.suites.suite import Suite
from harness.train.cells import TrainedCell
from harness.train.grid import BASE, GridCell, base_key, grid_cells

TEACHER = "teacher"  # what eval.compare calls the run's own teacher
LOADED_HERE = ("vllm", "transformers")  # engines whose weights this machine has


@dataclass(frozen=True)
class Candidate:
    """A model under one prompting: a student, its base, or another model."""

    cell: Cell
    key: str  # digest of what its answers depend on: base weights, and for a cell its training; empty before train
    base: Path  # the folder of the weights that an engine loads
    adapter: Path | None  # what it puts into them
    prompting: str
    tuned: bool  # then it is asked with the prompt it was tuned on, with or without an adapter
    rows: tuple[Row, ...] = field(default=(), repr=False)  # that it was tuned on

    @property
    def title(self) -> str:
        """What people read."""
        return f"{self.cell.name} ({self.prompting})"


def applies(suite: Suite, candidate: Candidate) -> bool:
    """Other ways of prompting are for the task's own items; the other suites have one form."""
    return candidate.prompting == "zero_shot" or suite.of_task


def largest_rows(candidates: Sequence[Candidate]) -> tuple[Row, ...]:
    """The rows of the largest filtered cell of the first random seed: what retrieval may look up."""
    tuned = [candidate for candidate in candidates if candidate.tuned]
    filtered = [candidate for candidate in tuned if candidate.cell.data == "filtered"] or tuned
    return max(filtered, key=lambda c: (c.cell.size, -c.cell.random_seed)).rows if filtered else ()


def require_possible_models(train: Train, compare: Sequence[str], root: Path, run: str) -> None:
    """Raises UsageError for a model's name that can be none, before anything is spent; downloads nothing."""
    named = [(name, "train.students") for name in train.students]
    named += [(name, "eval.compare") for name in compare if name != TEACHER]
    for name, key in named:
        if not possible(name, root):
            hint = nearest(name, (TEACHER,)) if key == "eval.compare" else ""
            raise UsageError(f"runs/{run}.yaml: {key}: {impossible(name)}{hint}")


# --- candidates of a trained run


def trained_candidates(
    cells: Sequence[TrainedCell], grid: Mapping[str, GridCell], promptings: Sequence[str], root: Path, run: str
) -> list[Candidate]:
    """The students of a run, and its bases in each prompting. Raises UsageError for an adapter that is not whole."""
    candidates: list[Candidate] = []
    for cell in cells:
        adapter = root / cell.folder if cell.folder else None
        if adapter and not grid[cell.key].trained:
            raise UsageError(
                f"{adapter}: the adapter of {cell.name} is missing, or was edited or damaged since it was trained:"
                f" train first (make train RUN={run} makes it again)"
            )
        base, rows = root / cell.base, grid[cell.key].rows
        candidates += [
            Candidate(cell.cell, cell.key, base, adapter, prompting, cell.tuned, rows)
            for prompting in (("zero_shot",) if cell.tuned else promptings)
        ]
    return candidates


def compared_candidates(run: Run, bases: set[str]) -> tuple[list[Candidate], tuple[str, ...]]:
    """The models that eval.compare names, each once, and a note on each one that is not scored.

    `bases`: the keys of the students' bases, which are scored anyway.
    """
    candidates: list[Candidate] = []
    notes: list[str] = []
    seen = set(bases)
    for name in run.file.eval.compare:
        model_name, revision = (run.teacher.model, run.teacher.revision) if name == TEACHER else (name, None)
        if name == TEACHER and run.teacher.engine not in LOADED_HERE:
            how = run.teacher.engine
            notes.append(f"The teacher is asked through {how}: its weights cannot be scored as a ceiling.")
            continue
        model = resolve(model_name, run.cache, revision, run.root)
        key = base_key(model)
        if key in seen:
            who = "The teacher" if name == TEACHER else name
            notes.append(f"{who} has the weights of a student's untuned base: it is no ceiling of its own.")
            continue
        seen.add(key)
        candidates += untuned_candidates(model_name, key, model.folder, run.file.eval.prompting)
    return candidates, tuple(notes)


def untuned_candidates(name: str, key: str, base: Path, promptings: Sequence[str]) -> list[Candidate]:
    """A model as it is, in each prompting."""
    cell = Cell(student=name, data=BASE, size=0, random_seed=0)
    return [Candidate(cell, key, base, None, prompting, tuned=False) for prompting in promptings]


# --- candidates before train


def named_candidates(run: Run) -> list[Candidate]:
    """Who will be scored as far as the run file tells, untuned models first. Nothing is downloaded or converted.

    Two names of the same weights are one model where the weights are stored here.
    """
    cells = [cell for cell in grid_cells(run.file.train, len(run.seeds)) if cell.size]
    candidates: list[Candidate] = []
    seen: set[str] = set()
    for name in untuned_names(run):
        stored = ready(name, run.cache, run.root)
        key = base_key(resolve(name, run.cache, root=run.root)) if stored else name
        if key not in seen:
            candidates += untuned_candidates(name, "", Path(), run.file.eval.prompting)
        seen.add(key)
    return candidates + [Candidate(cell, "", Path(), None, "zero_shot", tuned=True) for cell in cells]


def untuned_names(run: Run) -> list[str]:
    """The students whose bases are scored, and the models that eval.compare names."""
    names = list(run.file.train.students) if 0 in run.file.train.sizes else []
    for name in run.file.eval.compare:
        if name != TEACHER:
            names.append(name)
        elif run.teacher.engine in LOADED_HERE:
            names.append(run.teacher.model)
    return names
