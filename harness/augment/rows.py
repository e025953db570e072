"""From texts to rows: the messages a student sees, seeds as rows, rows a user already has."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from harness.config.inputs import rows_source, unguarded_suites
from harness.config.run import Run
from harness.config.task import TaskFile
from harness.core.json_file import lines_of, parse_object, read_jsonl, record
from harness.core.record import Record
from harness.core.store import read_manifest, remade_by, require_same
from harness.core.templates import Template
from harness.data.examples import path_of, read_examples
from harness.errors import UsageError
from harness.records import Example, Message, Provenance, Row, Verdict

KEPT, DROPPED = "train.jsonl", "rejected.jsonl"


class Judged(Record):
    """A row and every filter's verdict on it. A dropped row is a line of rejected.jsonl in this form."""

    row: Row
    verdicts: tuple[Verdict, ...]

    @property
    def kept(self) -> bool:
        """Whether no filter drops it."""
        return all(verdict.keep for verdict in self.verdicts)


Step = Literal["failed", "no answer", "unparsed"]


class Lost(Record):
    """A request that gave no row. Those that were answered are lines of rejected.jsonl too: what came, and why not."""

    lost: Step
    reason: str
    text: str = ""  # what the teacher wrote; of one that only thought, the beginning
    request: str  # its key
    template: str = ""
    label: str = ""


def read_rejected(path: Path) -> tuple[tuple[Judged, ...], tuple[Lost, ...]]:
    """(dropped rows, completions that gave no row) of a rejected.jsonl. Raises UsageError naming the line."""
    dropped: list[Judged] = []
    lost: list[Lost] = []
    for number, line in lines_of(path):
        row = parse_object(line, path, number)
        if "lost" in row:
            lost.append(record(row, Lost, path, number))
        else:
            dropped.append(record(row, Judged, path, number))
    return tuple(dropped), tuple(lost)


def student_prompt(task: TaskFile, template: Template, question: Example) -> tuple[Message, ...]:
    """System message, earlier turns and user turn, as a student is tuned on them and asked with them.

    A conversation that begins with a system message of its own keeps it in place of the task's.
    """
    user = Message(role="user", content=template.render(**question.input))
    if question.turns and question.turns[0].role == "system":
        return (*question.turns, user)
    return (Message(role="system", content=task.system), *question.turns, user)


def make_row(task: TaskFile, template: Template, example: Example, provenance: Provenance) -> Row:
    """A training row: the student's prompt, then the example's answer."""
    answer = Message(role="assistant", content=example.answer)
    messages = (*student_prompt(task, template, example), answer)
    return Row(messages=messages, example=example, provenance=provenance, loss=task.loss)


def seed_rows(run: Run) -> tuple[Row, ...]:
    """The seeds alone as training rows, in the order of their file."""
    template = run.prompts.student
    return tuple(make_row(run.task, template, seed, Provenance(source="seed", seeds=(seed.id,))) for seed in run.seeds)


def own_rows(run: Run) -> tuple[Row, ...]:
    """Rows that a user has, or none where a teacher writes. Raises UsageError naming every line that is wrong."""
    file = run.file.augment.rows_file
    if file is None:
        return ()
    template = run.prompts.student
    read = read_examples(file, run.root, run.task.shape, f"runs/{run.name}.yaml: augment.rows_file")
    if not read.examples:
        raise UsageError(f"{run.root / path_of(file)}: there are no rows in it")
    provenance = Provenance(source="own", format=read.format)
    return tuple(make_row(run.task, template, example, provenance) for example in read.examples)


def rows_of_data(run: Run, data: str) -> tuple[Row, ...]:
    """The rows a kind of data draws from, as augment stored them.

    Raises UsageError where augment has not finished, a file that it wrote was edited, or anything that a person
    wrote for it has changed since.
    """
    if data == "seeds_only":
        return seed_rows(run)
    folder, first = run.folder / "augment", f"augment first (make augment RUN={run.name})"
    manifest = read_manifest(folder)
    where = (folder / KEPT).relative_to(run.root)
    if not (folder / KEPT).is_file() or manifest is None:
        raise UsageError(f"{where} is not there, not finished, or its seal is damaged: {first}")
    changed = [f"items of {name}" for name in unguarded_suites(run.file.augment.filters, run.suites, manifest.suites)]
    if manifest.settings != rows_source(run):
        changed.append("seeds, own rows, templates, filters, prompts or settings")
    if changed:
        raise UsageError(f"{where} was made with other {changed[-1]} than {run.name} has now: {first}")
    for name in (KEPT, DROPPED):
        require_same(folder, name, manifest, f"make augment RUN={run.name}")
    with remade_by(f"make augment RUN={run.name}"):
        rows = tuple(row for _, row in read_jsonl(folder / KEPT, Row))
        if data == "filtered":
            return rows
        return rows + tuple(line.row for line in read_rejected(folder / DROPPED)[0])
