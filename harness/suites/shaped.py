"""Items of a task whose input is more than one text: several fields, or a conversation.

They are read as seeds and own rows are, in any of their formats, with the columns of an item beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any, cast, get_args

from harness.data.columns import column_at, listed_texts, locate
from harness.data.examples import Shape, example_of
from harness.errors import Mistakes, UsageError
from harness.records import Example, Item, Split
from harness.suites.base import ItemsSuite, Located
from harness.suites.suite import SuiteFile

BESIDE = ("tags", "group", "stratum", "split", "answers")  # columns of an item that are no part of the example
CONVERSATIONS = {"messages", "conversations"}


def shape_of_items(suite: ItemsSuite, file: SuiteFile, asked_as: str) -> Shape | None:
    """The shape that a suite's items are read by, or None where each is a single text. Raises UsageError."""
    if asked_as != "task" or suite.fields:
        return None
    shape = file.shape or Shape()
    if shape.fields != ("text",):
        return shape
    columns = set(next((row for _, row in islice(_rows(suite, file, Mistakes()), 1)), {}))
    return shape if columns & CONVERSATIONS else None


def shaped_examples(suite: ItemsSuite, file: SuiteFile, shape: Shape) -> list[tuple[str, Example, dict[str, Any]]]:
    """(where it stands, example, what the line says beside it) of every item.

    Raises UsageError naming every line that is wrong.
    """
    mistakes = Mistakes()
    items: list[tuple[str, Example, dict[str, Any]]] = []
    for where, row in _rows(suite, file, mistakes):
        with mistakes.noted():
            columns = {name: value for name, value in row.items() if name not in (*BESIDE, *suite.tags)}
            answers = _answers(row, where)
            if answers and not {"answer", "label", "output", "completion"} & set(columns):
                columns["answer"] = answers[0]
            items.append((where, example_of(columns, shape, where), _beside(suite, row, where, answers)))
    mistakes.check()
    return items


def located(where: str, example: Example, **about: Any) -> Located:
    """An item of an example."""
    fields = {} if example.fields.keys() == {"text"} else example.fields
    return where, Item(text=example.text, fields=fields, turns=example.turns, **about)


def _rows(suite: ItemsSuite, file: SuiteFile, mistakes: Mistakes) -> Any:
    return locate(suite.items, file.root, f"{file.place(('items',))}: items", mistakes)


def _answers(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    answers = listed_texts(row.get("answers"), where)
    if not all(isinstance(answer, str) and answer.strip() for answer in answers):
        raise UsageError(f"{where}: answers: expected a list of texts, got {row['answers']!r}")
    return answers


def _beside(suite: ItemsSuite, row: Mapping[str, Any], where: str, answers: tuple[str, ...]) -> dict[str, Any]:
    tags = list(listed_texts(row.get("tags"), where))
    tags += [f"{name}={column_at(row, name, f'{where}: tags')}" for name in suite.tags]
    return {
        "tags": tuple(tags),
        "group": str(row.get("group") or ""),
        "stratum": str(row.get("stratum") or ""),
        "stated_split": _stated_split(row.get("split"), where),
        "answers": answers,
    }


def _stated_split(value: Any, where: str) -> Split | None:
    """Raises UsageError for anything but dev, test and nothing."""
    if value not in (None, *get_args(Split)):
        raise UsageError(f"{where}: split: expected {' or '.join(get_args(Split))}, got {value!r}")
    return cast(Split | None, value)
