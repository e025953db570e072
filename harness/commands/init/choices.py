"""A question with its choices: they become part of the question, and the letter of the right one is the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from harness.core.json_file import as_text
from harness.errors import UsageError

CHOICES = ("choices", "options", "endings")  # columns that hold them


def choices_column(columns: Sequence[str], row: Mapping[str, Any]) -> str | None:
    """The column of a row that holds its choices, or None."""
    return next((name for name in columns if name.casefold() in CHOICES and _texts(row.get(name))), None)


def first_number(rows: Sequence[tuple[Any, Any]]) -> int | None:
    """What the first choice is called where answers are numbers: 0 or 1. None where answers are choices themselves.

    `rows`: (choices, answer) of the whole file, since one row alone may be read both ways: of 3, 4 and 5 is 4 the
    second one, or none? Answers that are never 0 and somewhere the number of choices count from 1.
    """
    read = [(_texts(choices), str(as_text(answer)).strip()) for choices, answer in rows]
    if all(written in texts for texts, written in read):
        return None
    numbers = [(int(written), len(texts)) for texts, written in read if written.isdecimal()]
    return int(bool(numbers) and all(number for number, _ in numbers) and any(n == count for n, count in numbers))


def lettered(question: str, choices: Any, answer: Any, first: int | None, where: str) -> tuple[str, str]:
    """(question with its choices, letter of the right one). `answer` is a name, a number, a letter, or the choice.

    `first`: as `first_number` has it. Raises UsageError naming the row for choices or an answer that are none.
    """
    texts = _texts(choices)
    if not 2 <= len(texts) <= len(ascii_uppercase):
        raise UsageError(f"{where}: {len(texts)} choices: 2 to {len(ascii_uppercase)} can be")
    names = [str(name) for name in choices["label"]] if isinstance(choices, Mapping) and "label" in choices else []
    place = _place(str(as_text(answer)).strip(), texts, names, first)
    if place is None:
        counted = f", counted from {first}" if isinstance(answer, int) and first is not None else ""
        raise UsageError(f"{where}: {answer!r} is none of the {len(texts)} choices{counted}")
    listed = "\n".join(f"{letter}. {text}" for letter, text in zip(ascii_uppercase, texts, strict=False))
    return f"{question}\n{listed}", ascii_uppercase[place]


def _place(written: str, texts: Sequence[str], names: Sequence[str], first: int | None) -> int | None:
    if written in names:
        place = names.index(written)
    elif written.isdecimal() and first is not None:
        place = int(written) - first
    elif written in texts:
        place = texts.index(written)
    elif len(written) == 1 and written.upper() in ascii_uppercase:
        place = ascii_uppercase.index(written.upper())
    else:
        return None
    return place if 0 <= place < len(texts) else None


def _texts(value: Any) -> list[str]:
    listed = value.get("text") if isinstance(value, Mapping) else value
    if not isinstance(listed, list | tuple) or not all(isinstance(text, str | int | float) for text in listed):
        return []
    return [str(as_text(text)).strip() for text in listed]
