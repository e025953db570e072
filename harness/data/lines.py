"""What one line of items holds, by the kind of suite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from harness.core.json_file import as_text
from harness.core.record import Record
from harness.errors import UsageError, nearest
from harness.records import Split

Text = Annotated[str, Field(min_length=1)]
Written = Annotated[str, BeforeValidator(as_text), Field(min_length=1)]  # a number or JSON value becomes text


def _index(value: Any) -> Any:
    """A choice's letter, as many datasets name it, as its index."""
    letter = isinstance(value, str) and len(value) == 1 and value.isascii() and value.isupper()
    return ord(value) - ord("A") if letter else value


def check_label(where: str, label: str, labels: Sequence[str]) -> None:
    """Raises UsageError for a label that stands there and is none of the task's."""
    if label not in labels:
        raise UsageError(
            f"{where}: label: {label!r} is not a label of the task{nearest(label, labels)};"
            f" allowed: {', '.join(labels)}"
        )


class ItemLine(Record):
    """What a line may say of its item beside question and answer."""

    tags: tuple[str, ...] = ()
    group: str = ""
    stratum: str = ""
    split: Split | None = None  # None: by digest


class LabelLine(ItemLine):
    """One line of a labels suite's items."""

    text: Text
    label: str


class AnswerLine(ItemLine):
    """One line of the items of an answers or facts suite."""

    question: Text
    answer: Written | None = None
    answers: tuple[Written, ...] = ()

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.answer is None) == (not self.answers):
            raise ValueError("give either answer, or answers: a list of all that are right")
        return self

    @property
    def right(self) -> tuple[str, ...]:
        """Every answer that is right, the reference first."""
        return self.answers or (self.answer or "",)


class QuestionLine(ItemLine):
    """One line of an unanswerable suite's items."""

    question: Text


class ChoiceLine(ItemLine):
    """One line of a choice suite's items."""

    question: Text
    choices: Annotated[tuple[str, ...], Field(min_length=2)]
    answer: Annotated[int, BeforeValidator(_index), Field(ge=0)]  # index into choices, or its letter


class OpenLine(Record):
    """One line of an open-ended suite's items."""

    prompt: Annotated[str, Field(min_length=1)]
    answers: tuple[Annotated[str, Field(min_length=1)], ...] = ()  # good ones, the reference first
    variants: tuple[Annotated[str, Field(min_length=1)], ...] = ()  # the prompt in other words
    tags: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _asks_in_other_words(self) -> Self:
        wordings = (self.prompt, *self.variants)
        if len(set(wordings)) != len(wordings):
            raise ValueError("variants: one of them is the prompt itself, or two are equal")
        return self
