"""Who is scored: every student of a trained run, its untuned base in each prompting, and other models by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.config.run import Eval, Train
from harness.config.teacher import Teacher
from harness.errors import UsageError, nearest
from harness.models.resolve import impossible, possible, ready, resolve
from harness.records import Cell, Row
from harness.suites.suite import Suite
from harness.train.keys import BASE, base_key

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
    began_as: Path | None = None  # the weights before tuning; None: `base`

    @property
    def title(self) -> str:
        """What people read."""
        return f"{self.cell.name} ({self.prompting})"


def applies(suite: Suite, candidate: Candidate) -> bool:
    """Whether a suite is asked under the candidate's prompting. Suites of other tasks are asked zero_shot only."""
    return candidate.prompting == "zero_shot" or suite.of_task


def largest_rows(candidates: Sequence[Candidate]) -> tuple[Row, ...]:
    """The rows of the largest filtered cell of the first random seed: what retrieval may look up."""
    tuned = [candidate for candidate in candidates if candidate.tuned]
    filtered = [candidate for candidate in tuned if candidate.cell.data == "filtered"] or tuned
    return task_rows(max(filtered, key=lambda c: (c.cell.size, -c.cell.random_seed)).rows) if filtered else ()


def task_rows(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Those of some rows that are of the task: without the general ones of a replay."""
    return tuple(row for row in rows if row.provenance.source != "replay")


def require_possible_models(train: Train, compare: Sequence[str], root: Path, run: str) -> None:
    """Raises UsageError for a name that no model can have, before anything is spent. Downloads nothing."""
    named = [(name, "train.students") for name in train.students]
    named += [(name, "eval.compare") for name in compare if name != TEACHER]
    for name, key in named:
        if not possible(name, root):
            hint = nearest(name, (TEACHER,)) if key == "eval.compare" else ""
            raise UsageError(f"runs/{run}.yaml: {key}: {impossible(name)}{hint}")


def compared_candidates(
    settings: Eval, teacher: Teacher | None, cache: Path, root: Path, bases: set[str]
) -> tuple[list[Candidate], tuple[str, ...]]:
    """The models that eval.compare names, each once, and a note on each one that is not scored.

    `bases`: the keys of the students' bases, which are scored anyway.
    """
    candidates: list[Candidate] = []
    notes: list[str] = []
    seen = set(bases)
    for name in settings.compare:
        model_name, revision = name, None
        if name == TEACHER and teacher:
            model_name, revision = teacher.model, teacher.revision
            if teacher.engine not in LOADED_HERE:
                how = teacher.engine
                notes.append(f"The teacher is asked through {how}: its weights cannot be scored as a ceiling.")
                continue
        model = resolve(model_name, cache, revision, root)
        key = base_key(model)
        if key in seen:
            who = "The teacher" if name == TEACHER else name
            notes.append(f"{who} has the weights of a student's untuned base: it is no ceiling of its own.")
            continue
        seen.add(key)
        # a student may be of the same name at another revision, and they are two models
        title = f"{model_name}@{revision}" if revision else model_name
        candidates += untuned_candidates(title, key, model.folder, settings.prompting)
    return candidates, tuple(notes)


def untuned_candidates(name: str, key: str, base: Path, promptings: Sequence[str]) -> list[Candidate]:
    """A model as it is, in each prompting."""
    cell = Cell(student=name, data=BASE, size=0, random_seed=0)
    return [Candidate(cell, key, base, None, prompting, tuned=False) for prompting in promptings]


# --- candidates before train


def named_candidates(
    cells: Sequence[Cell], names: Sequence[str], settings: Eval, cache: Path, root: Path
) -> list[Candidate]:
    """Who will be scored: the models `names` as they are, then the tuned cells. Nothing is downloaded or converted.

    Two names of the same weights are one model where the weights are stored here.
    """
    candidates: list[Candidate] = []
    seen: set[str] = set()
    for name in names:
        key = base_key(resolve(name, cache, root=root)) if ready(name, cache, root) else name
        if key not in seen:
            candidates += untuned_candidates(name, "", Path(), settings.prompting)
        seen.add(key)
    return candidates + [
        Candidate(cell, "", Path(), None, prompting, tuned=True)
        for cell in cells
        if cell.size
        for prompting in settings.tuned_prompting
    ]


def untuned_names(train: Train, compare: Sequence[str], teacher: Teacher | None) -> list[str]:
    """The students whose bases are scored, and the models that eval.compare names."""
    names = list(train.students) if 0 in train.sizes else []
    for name in compare:
        if name != TEACHER:
            names.append(name)
        elif teacher and teacher.engine in LOADED_HERE:
            names.append(teacher.model)
    return names
