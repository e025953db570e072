"""A question with its choices: they become part of the question, and the letter of the right one is the answer."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from harness.core.json_file import as_text
from harness.errors import UsageError

CHOICES = ("choices", "options", "endings")  # columns that hold them
ONE_CHOICE = re.compile(r"(?i)(?P<kind>(?:option|choice|opt|ending)[ _]?)?(?P<name>[a-h]|(?<=.)\d)")


@dataclass(frozen=True)
class Choices:
    """Where a table has the choices of its questions: in one column, or each in a column of its own."""

    columns: tuple[str, ...]
    of: Callable[[Mapping[str, Any]], Any]  # a row -> its choices, a list or a mapping from their names

    @property
    def title(self) -> str:
        """The columns, for people."""
        return " to ".join(repr(name) for name in dict.fromkeys((self.columns[0], self.columns[-1])))


def choices_of(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Choices | None:
    """The choices of a table: of one column that holds several, or of columns such as A, B or option_1, option_2.

    None where it has none.
    """
    held = [name for name in columns if name.casefold() in CHOICES and any(_named(row.get(name)) for row in rows)]
    if held:
        return Choices((held[0],), lambda row: row.get(held[0]))
    by_kind: dict[str, dict[str, str]] = {}
    for name in columns:
        if match := ONE_CHOICE.fullmatch(name.strip()):
            by_kind.setdefault((match["kind"] or "").casefold(), {})[match["name"].casefold()] = name
    return next((_each_in_its_own(named) for named in by_kind.values() if _begins(named)), None)


def _begins(names: Collection[str]) -> bool:
    """Whether names count from their beginning: a and b, 0 and 1, 1 and 2."""
    return any(set(first) <= set(names) for first in ("ab", "01", "12"))


def _each_in_its_own(column_by_name: Mapping[str, str]) -> Choices:
    in_order = dict(sorted(column_by_name.items()))
    return Choices(
        tuple(in_order.values()),
        lambda row: {name: row[column] for name, column in in_order.items() if row.get(column) not in (None, "")},
    )


def first_number(rows: Sequence[tuple[Any, Any]]) -> int | None:
    """What the first choice is called where answers are numbers: 0 or 1. None where answers are choices themselves.

    `rows`: (choices, answer) of the whole file, since one row alone may be read both ways: of 3, 4 and 5 is 4 the
    second one, or none? Answers that are never 0 and somewhere the number of choices count from 1.
    """
    read = [(list(_named(choices).values()), str(as_text(answer)).strip()) for choices, answer in rows]
    if all(written in texts for texts, written in read):
        return None
    numbers = [(int(written), len(texts)) for texts, written in read if written.isdecimal()]
    return int(bool(numbers) and all(number for number, _ in numbers) and any(n == count for n, count in numbers))


def lettered(question: str, choices: Any, answer: Any, first: int | None, where: str) -> tuple[str, str]:
    """(question with its choices, letter of the right one). `answer` is a name, a number, a letter, or the choice.

    `first`: as `first_number` has it. Raises UsageError naming the row for choices or an answer that are none.
    """
    named = _named(choices)
    names, texts = list(named), list(named.values())
    if not 2 <= len(texts) <= len(ascii_uppercase):
        raise UsageError(f"{where}: {len(texts)} choices: 2 to {len(ascii_uppercase)} can be")
    place = _place(str(as_text(answer)).strip(), texts, names, first)
    if place is None:
        counted = f", counted from {first}" if isinstance(answer, int) and first is not None else ""
        raise UsageError(f"{where}: {answer!r} is none of the {len(texts)} choices{counted}")
    listed = "\n".join(f"{letter}. {text}" for letter, text in zip(ascii_uppercase, texts, strict=False))
    return f"{question}\n{listed}", ascii_uppercase[place]


def is_choice(choices: Any, answer: Any) -> bool:
    """Whether an answer may be one of the choices, by its name, its number or its text."""
    named = _named(choices)
    return _place(str(as_text(answer)).strip(), list(named.values()), list(named), 1) is not None


def _place(written: str, texts: Sequence[str], names: Sequence[str], first: int | None) -> int | None:
    if written.casefold() in (folded := [name.casefold() for name in names]):
        place = folded.index(written.casefold())
    elif written.isdecimal() and first is not None:
        place = int(written) - first
    elif written in texts:
        place = texts.index(written)
    elif len(written) == 1 and written.upper() in ascii_uppercase:
        place = ascii_uppercase.index(written.upper())
    else:
        return None
    return place if 0 <= place < len(texts) else None


def _named(value: Any) -> dict[str, str]:
    """Name -> text of each choice. A choice of a list has a name that no answer gives. Empty where these are none.

    A list, a mapping from names, the lists `text` and `label` of a hub dataset, or one of these written as a text,
    which is all that a CSV file can hold.
    """
    if isinstance(value, str):
        value = _written(value)
    if isinstance(value, Mapping) and isinstance(texts := value.get("text"), list | tuple):
        labels = value.get("label")
        names = labels if isinstance(labels, list | tuple) and len(labels) == len(texts) else range(len(texts))
        value = dict(zip(names, texts, strict=True)) if "label" in value else texts
    if isinstance(value, list | tuple):
        value = {f"choice {place}": text for place, text in enumerate(value)}
    if not isinstance(value, Mapping) or not all(isinstance(text, str | int | float) for text in value.values()):
        return {}
    return {str(name): str(as_text(text)).strip() for name, text in value.items()}


def _written(text: str) -> Any:
    """The list or mapping that a text writes as JSON or Python, or None."""
    if text.lstrip()[:1] not in ("[", "{"):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None
