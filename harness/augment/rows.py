"""From examples to rows: the messages a student sees, seeds as rows, rows a user already has, rows judged and lost."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from harness.config.task import TaskFile
from harness.core.json_file import lines_of, parse_object, record
from harness.core.record import Record, compact
from harness.core.templates import Template
from harness.data.examples import Examples, path_of, read_examples
from harness.errors import UsageError
from harness.records import Example, Message, Provenance, Row, Verdict

KEPT, DROPPED, VERDICTS = "train.jsonl", "rejected.jsonl", "verdicts.jsonl"


class Judged(Record):
    """A row and every filter's verdict on it. A dropped row is a line of rejected.jsonl in this form."""

    row: Row
    verdicts: tuple[Verdict, ...]

    @property
    def kept(self) -> bool:
        """Whether no filter drops it."""
        return all(verdict.keep for verdict in self.verdicts)


class Said(Record):
    """What every filter said of one kept row. The lines of verdicts.jsonl are in the order of train.jsonl."""

    verdicts: tuple[Verdict, ...]


# where a row in the making ended: the call failed, gave no text, or not in the form asked for; the way to pick took no
# completion of a step, or a filter of the step dropped what was taken
LostAt = Literal["failed", "no answer", "unparsed", "not picked", "filtered"]


class Lost(Record):
    """A request that gave no row. Those that were answered are lines of rejected.jsonl too: what came, and why not."""

    lost: LostAt
    reason: str
    text: str = ""  # what the teacher wrote; of one that only thought, the beginning
    request: str  # its key
    template: str = ""
    label: str = ""
    teacher: str = ""
    step: str = ""  # of a chain
    teachers: dict[str, str] = {}  # step -> who wrote it, or was to, of a chain of several as far as it came
    filter: str = ""  # of the step
    document: str = ""  # id of the piece that it was to be about
    attributes: dict[str, str] = {}


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
    user = compact(Message(role="user", content=template.render_plain(question.input)))
    if question.turns and question.turns[0].role == "system":
        return (*question.turns, user)
    return (_system_message(task.system), *question.turns, user)


@cache
def _system_message(content: str) -> Message:
    """The same message for every row of a task, so that it is held once."""
    return Message(role="system", content=content)


def make_row(task: TaskFile, template: Template, example: Example, provenance: Provenance) -> Row:
    """A training row: the student's prompt, then the example's answer."""
    answer = compact(Message(role="assistant", content=example.answer))
    messages = (*student_prompt(task, template, example), answer)
    made = Row(messages=messages, example=compact(example), provenance=compact(provenance), loss=task.loss)
    return compact(made)


def seed_rows(task: TaskFile, template: Template, seeds: Sequence[Example]) -> tuple[Row, ...]:
    """The seeds alone as training rows, in the order of their file."""
    return tuple(make_row(task, template, seed, Provenance(source="seed", seeds=(seed.id,))) for seed in seeds)


def writers(row: Row) -> set[str]:
    """The models, name@revision, that wrote some of a row. Empty where no teacher did."""
    made = row.provenance
    return {name for name in (*(step.teacher for step in made.steps), made.teacher) if name}


def own_rows(task: TaskFile, template: Template, file: Examples | None, root: Path, place: str) -> tuple[Row, ...]:
    """Rows that a user has, or none where a teacher writes (`file` is None). `place` is where a run file names them.

    Raises UsageError naming every line that is wrong.
    """
    if file is None:
        return ()
    read = read_examples(file, root, task.shape, f"{place}: augment.rows_file")
    if not read.examples:
        raise UsageError(f"{root / path_of(file)}: there are no rows in it")
    provenance = Provenance(source="own", format=read.format)
    return tuple(make_row(task, template, example, provenance) for example in read.examples)
