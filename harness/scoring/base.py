"""What scoring asks of a student's engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from harness.records import Completion, Loglikelihood, Message, Pair, Request


class StudentEngine(Protocol):
    """A loaded student: it writes, it measures, and it knows its own tokens."""

    @property
    def notes(self) -> Sequence[str]:
        """What a reader should know of how it was loaded."""
        ...

    @property
    def max_length(self) -> int:
        """Tokens of its context."""
        ...

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The chat template's tokens up to where the assistant begins."""
        ...

    def answer_ids(self, messages: Sequence[Message], answer: str) -> tuple[int, ...]:
        """The chat template's tokens of an assistant's answer, the end-of-turn token last."""
        ...

    def text_ids(self, text: str) -> tuple[int, ...]:
        """Tokens of raw text, with whatever the tokenizer puts before a text."""
        ...

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """As records.Generator."""
        ...

    def loglikelihood(self, pairs: Sequence[Pair]) -> list[Loglikelihood]:
        """As records.Likelihood."""
        ...
