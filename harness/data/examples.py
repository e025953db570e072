"""Examples that people wrote, seeds and rows they already have: a text, and what should be answered to it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import Discriminator, Field, Tag

from harness.core.record import Record
from harness.data.columns import read_items, written_as
from harness.data.lines import Text, Written, check_label
from harness.errors import UsageError
from harness.records import Seed

LABELLED = {"question": "text", "answer": "label"}  # other names of a field -> the field
ANSWERED = {"question": "text", "label": "answer"}


class ExampleFile(Record):
    """A file of examples whose columns have names of their own."""

    path: Text
    fields: dict[str, str] = {}  # text, and label or answer -> column; dots lead into nested columns


class LabelExample(Record):
    """One line of seeds or rows where the task has labels."""

    text: Text
    label: Annotated[str, Field(min_length=1)]


class AnswerExample(Record):
    """One line of seeds or rows where answers are free."""

    text: Text
    answer: Written


Examples = Annotated[  # a file, or a file and what its columns are called
    Annotated[Text, Tag("file")] | Annotated[ExampleFile, Tag("mapping")], Discriminator(written_as)
]


def path_of(file: str | ExampleFile) -> str:
    """The path of a file of examples, as it is written."""
    return file if isinstance(file, str) else file.path


def read_examples(file: str | ExampleFile, root: Path, labels: Iterable[str], place: str) -> list[Seed]:
    """The examples of a JSONL, CSV or Parquet file, in order; without `labels` any answer will do.

    `place` says where the file is named, and as what. Raises UsageError naming every line that is wrong.
    """
    known = tuple(labels)
    source, fields = path_of(file), {} if isinstance(file, str) else file.fields
    mapping = f"{{path: {source}, fields: {{FIELD: COLUMN}}}}"
    if not known:
        answered = read_items(source, root, AnswerExample, fields, (), place, _has_words, ANSWERED, mapping)
        return [Seed(text=line.text, label=line.answer.strip()) for _, line in answered]

    def check(where: str, line: LabelExample) -> None:
        _has_words(where, line)
        check_label(where, line.label, known)

    labelled = read_items(source, root, LabelExample, fields, (), place, check, LABELLED, mapping)
    return [Seed(text=line.text, label=line.label) for _, line in labelled]


def _has_words(where: str, line: LabelExample | AnswerExample) -> None:
    empty = next((name for name, value in line if not value.strip()), None)
    if empty:
        raise UsageError(f"{where}: {empty}: it is empty")


def read_seeds(file: str | ExampleFile, root: Path, labels: Iterable[str], place: str) -> tuple[Seed, ...]:
    """The seeds: at least one, and where the task has labels, one of each. Raises UsageError."""
    known = tuple(labels)
    seeds = read_examples(file, root, known, place)
    path = root / path_of(file)
    if not seeds:
        raise UsageError(f"{path}: there are no seeds in it; write at least one line{' per label' * bool(known)}")
    bare = [label for label in known if label not in {seed.label for seed in seeds}]
    if bare:
        raise UsageError(
            f"{path}: no seed has the label {', '.join(map(repr, bare))}; every label of the task needs one"
        )
    return tuple(seeds)
