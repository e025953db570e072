"""Who is scored: every student of a trained run, its untuned base in each prompting, and other models by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from harness.augment.rows import rows_of_data
from harness.config.run import Run
from harness.config.ship import ship_cells
from harness.errors import UsageError, nearest
from harness.eval.results import scored_benchmarks
from harness.models.resolve import impossible, possible, resolve
from harness.records import Cell, Example, Row
from harness.suites.benchmark_rows import fingerprint
from harness.suites.suite import Suite
from harness.train.adapters import require_whole
from harness.train.cells import TrainedCell, load_cells
from harness.train.grid import BASE, base_key, expand
from harness.train.sizes import nested

MOST_SHOTS = 64  # own rows that few-shot may show
TEACHER = "teacher"  # what eval.compare calls the run's own teacher


@dataclass(frozen=True)
class Subject:
    """Who is scored: a student, its base or another model, and how it is asked."""

    cell: Cell
    key: str  # digest of what its answers depend on: base weights, and for a cell its training
    base: Path
    adapter: Path | None
    prompting: str
    tuned: bool  # then it is asked with the prompt it was tuned on, with or without an adapter

    @property
    def title(self) -> str:
        """What people read."""
        return f"{self.cell.name} ({self.prompting})"


@dataclass(frozen=True)
class Cast:
    """All subjects of a run, the cells train made, and who was left out and why."""

    subjects: tuple[Subject, ...]
    cells: tuple[TrainedCell, ...]
    notes: tuple[str, ...] = ()
    benchmarks: tuple[tuple[str, int], ...] = ()  # the rows of public benchmarks: at hand, else those last scored
    rows: Mapping[str, tuple[Row, ...]] = field(default_factory=dict)  # kind of data -> all its rows

    def rows_of(self, cell: Cell) -> tuple[Row, ...]:
        """The rows a cell was tuned on; none for an untuned model."""
        return nested(self.rows[cell.data], cell.size, cell.random_seed) if cell.size else ()

    @cached_property
    def largest(self) -> tuple[Row, ...]:
        """The rows of the largest filtered cell of the first random seed: what retrieval may look up."""
        tuned = [cell.cell for cell in self.cells if cell.tuned]
        filtered = [cell for cell in tuned if cell.data == "filtered"] or tuned
        return self.rows_of(max(filtered, key=lambda cell: (cell.size, -cell.random_seed))) if filtered else ()


def models_exist(run: Run) -> None:
    """Raises UsageError for a model's name that can be none, before anything is spent; downloads nothing."""
    named = [(name, "train.students") for name in run.file.train.students]
    named += [(name, "eval.compare") for name in run.file.eval.compare if name != TEACHER]
    for name, key in named:
        if not possible(name, run.root):
            hint = nearest(name, (TEACHER,)) if key == "eval.compare" else ""
            raise UsageError(f"runs/{run.name}.yaml: {key}: {impossible(name)}{hint}")


def read_cast(run: Run) -> Cast:
    """The subjects of a trained run.

    Raises UsageError when train has not made the run's own cells, and for an adapter that was edited or damaged.
    """
    path = run.folder / "train" / "cells.json"
    cells = load_cells(run.folder).cells
    if {cell.key for cell in cells} != {planned.key for planned in expand(run)}:
        raise UsageError(
            f"{path.relative_to(run.root)} is of other rows, students or settings than {run.name} has now, or was"
            f" stopped: train first (make train RUN={run.name})"
        )
    subjects: list[Subject] = []
    for cell in cells:
        adapter = run.root / cell.folder if cell.folder else None
        if adapter:
            require_whole(adapter, cell.key, cell.name, run.name)
        ways = ("zero_shot",) if cell.tuned else run.file.eval.prompting
        base = run.root / cell.base
        subjects += [Subject(cell.cell, cell.key, base, adapter, way, cell.tuned) for way in ways]
    others, notes = _others(run, {subject.key for subject in subjects})
    # untuned models first: a student is compared with what its base expects
    ordered = sorted((*subjects, *others), key=lambda subject: subject.tuned)
    rows: dict[str, tuple[Row, ...]] = {data: rows_of_data(run, data) for data in run.file.train.data}
    return Cast(tuple(ordered), cells, notes, tuple(fingerprint() or scored_benchmarks(run.folder)), rows)


def ship_subject(run: Run) -> tuple[Subject, Cast]:
    """The student that `ship` names, its first random seed, and all others beside it.

    Raises UsageError as `read_cast`, without a ship section, and where train has not made it.
    """
    name, cast = ship_cells(run)[0].name, read_cast(run)
    found = next((s for s in cast.subjects if s.cell.name == name and s.prompting == "zero_shot"), None)
    if found is None:
        raise UsageError(f"runs/{run.name}.yaml: ship names {name}, which is not trained: make train RUN={run.name}")
    return found, cast


def _others(run: Run, known: set[str]) -> tuple[list[Subject], tuple[str, ...]]:
    """The models that eval.compare names, each once; those that are a base anyway, or cannot be loaded, are noted."""
    found: list[Subject] = []
    notes: list[str] = []
    for name in run.file.eval.compare:
        wanted, revision = (run.teacher.model, run.teacher.revision) if name == TEACHER else (name, None)
        if name == TEACHER and run.teacher.engine not in ("vllm", "transformers"):
            how = run.teacher.engine
            notes.append(f"The teacher is asked through {how}: its weights cannot be scored as a ceiling.")
            continue
        model = resolve(wanted, run.cache, revision, run.root)
        key = base_key(model)
        if key in known:
            who = "The teacher" if name == TEACHER else name
            notes.append(f"{who} has the weights of a student's untuned base: it is no ceiling of its own.")
            continue
        known.add(key)
        cell = Cell(student=wanted, data=BASE, size=0, random_seed=0)
        found += [Subject(cell, key, model.folder, None, way, tuned=False) for way in run.file.eval.prompting]
    return found, tuple(notes)


def applies(suite: Suite, subject: Subject) -> bool:
    """Other ways of prompting are for the task's own items; the other suites have one form."""
    return subject.prompting == "zero_shot" or suite.of_task


def shot_pool(run: Run) -> tuple[Example, ...]:
    """What few-shot prompts take their examples from: the seeds; without any, own rows that augment kept.

    These are drawn as a size is, and never items. Raises UsageError when augment has not run.
    """
    if run.seeds:
        return run.seeds
    rows = rows_of_data(run, "filtered")
    return tuple(row.example for row in nested(rows, min(MOST_SHOTS, len(rows)), run.file.random_seed))
