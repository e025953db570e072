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


def lettered(question: str, choices: Any, answer: Any, where: str) -> tuple[str, str]:
    """(question with its choices, letter of the right one). `answer` is an index, a letter, a name, or the choice.

    Raises UsageError naming the row for choices or an answer that are none.
    """
    texts = _texts(choices)
    if not 2 <= len(texts) <= len(ascii_uppercase):
        raise UsageError(f"{where}: {len(texts)} choices: 2 to {len(ascii_uppercase)} can be")
    names = [str(name) for name in choices["label"]] if isinstance(choices, Mapping) and "label" in choices else []
    place = _place(answer, texts, names)
    if place is None:
        raise UsageError(f"{where}: {answer!r} is none of the {len(texts)} choices")
    listed = "\n".join(f"{letter}. {text}" for letter, text in zip(ascii_uppercase, texts, strict=False))
    return f"{question}\n{listed}", ascii_uppercase[place]


def _place(answer: Any, texts: Sequence[str], names: Sequence[str]) -> int | None:
    written = str(as_text(answer)).strip()
    if written in names:
        place = names.index(written)
    elif written.isdecimal():
        place = int(written)
    elif written in texts:
        place = texts.index(written)
    elif len(written) == 1 and written.upper() in ascii_uppercase:
        place = ascii_uppercase.index(written.upper())
    else:
        return None
    return place if place < len(texts) else None


def _texts(value: Any) -> list[str]:
    listed = value.get("text") if isinstance(value, Mapping) else value
    if not isinstance(listed, list | tuple) or not all(isinstance(text, str | int | float) for text in listed):
        return []
    return [str(as_text(text)).strip() for text in listed]
