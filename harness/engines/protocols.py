"""What scoring asks of a student's engine, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from harness.records import Completion, Loglikelihood, Message, Pair, Request

PROBES = 8  # requests that tell whether an engine gives log-probabilities


def lack_logprobs(completions: Iterable[Completion]) -> bool:
    """Whether there are answers, and none of them has log-probabilities."""
    answers = [completion for completion in completions if not completion.error]
    return bool(answers) and not any(answer.first_logprobs for answer in answers)


@dataclass(frozen=True)
class NextTokens:
    """What a model expects at some positions of a text."""

    ids: NDArray[np.int64]  # [positions, k] token ids
    logprobs: NDArray[np.float32]  # [positions, k] their log-probabilities (nats)


class Embedder(Protocol):
    """Texts as points: alike in meaning, near in space."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors, shape (texts, dimensions), same order."""
        ...


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
        """As Generator, with nothing to wait for."""
        ...

    def loglikelihood(self, pairs: Sequence[Pair]) -> list[Loglikelihood]:
        """As Likelihood."""
        ...

    def next_tokens(self, pairs: Sequence[Pair], k: int, at: Sequence[NextTokens] | None = None) -> list[NextTokens]:
        """At each token of every continuation the k likeliest tokens, or those that `at` names there."""
        ...


@dataclass(frozen=True)
class Stoppable:
    """Requests that nobody wants any more once `ended` is true: nor those that were taken and are not asked yet."""

    requests: Iterator[Request | None]
    ended: Callable[[], bool]

    def __iter__(self) -> Iterator[Request | None]:
        """The requests."""
        return self.requests


class Generator(Protocol):
    """Writes text."""

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """Yield completions as they finish, in any order. Pull a bounded number of requests ahead.

        None says that nothing can be asked now, and perhaps more after another completion: it is asked for again
        then. With nothing in flight it ends the work.
        """
        ...


class Likelihood(Protocol):
    """Measures text."""

    def loglikelihood(self, pairs: Sequence[Pair]) -> list[Loglikelihood]:
        """One answer per pair, same order."""
        ...
