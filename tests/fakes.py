"""Stand-ins for what a test does not load: one for each protocol, told by a function what it answers."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from harness.core.terminal import Stop, Terminal
from harness.engines.protocols import Generator, NextTokens
from harness.records import Completion, Loglikelihood, Message, Pair, Request

END, ASSISTANT = 1, 2  # tokens of a fake student that no text has
Say = Callable[[Request], str | tuple[str, dict[str, float]]]  # a text, or one with its first log-probabilities
Weigh = Callable[[str, str], float]  # context, continuation -> log-probability


def prompt_of(request: Request) -> str:
    """What is asked: the last turn of a chat, or the text to be continued."""
    return request.messages[-1].content if request.messages else request.prompt


def parts(requests: Iterable[Request | None]) -> Iterator[Iterator[Request]]:
    """Requests in parts: None ends one, for what comes after it depends on answers. The next None ends them all."""
    source = iter(requests)
    while (first := next(source, None)) is not None:
        yield chain([first], iter(lambda: next(source, None), None))


def answered(request: Request, text: str, logprobs: Mapping[str, float] = MappingProxyType({})) -> Completion:
    """The completion of a text: "ERROR: why" is a failed call, and what ends in "..." reached the limit of tokens."""
    if text.startswith("ERROR"):
        why = text.removeprefix("ERROR").removeprefix(": ") or "the engine broke"
        return Completion(request=request.key, finish_reason="error", error=why)
    return Completion(
        request=request.key,
        text=text,
        finish_reason="length" if text.endswith("...") else "stop",
        prompt_tokens=len(prompt_of(request).split()),
        completion_tokens=len(text.split()),
        first_logprobs=dict(logprobs),
    )


class FakeGenerator:
    """Answers by a function of the request, and keeps the requests."""

    def __init__(self, say: Say = prompt_of, *, backwards: bool = False) -> None:
        self.say, self.backwards = say, backwards
        self.requests: list[Request] = []
        self.closed = False

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """As Generator; backwards: the last request is answered first, as engines may."""
        for part in parts(requests):
            for request in reversed(list(part)) if self.backwards else part:
                self.requests.append(request)
                said = self.say(request)
                yield answered(request, said) if isinstance(said, str) else answered(request, *said)

    def close(self) -> None:
        """As an engine that holds something."""
        self.closed = True


class FakeStudent(FakeGenerator):
    """A student whose tokens are characters, less those that are `merged` into the ones before."""

    def __init__(
        self,
        say: Say = prompt_of,
        weigh: Weigh = lambda context, continuation: -0.5 * len(continuation),
        *,
        backwards: bool = False,
        max_length: int = 100_000,
        merged: str = "",
        pause: float = 0.0,
    ) -> None:
        super().__init__(say, backwards=backwards)
        self.weigh, self.max_length, self.merged, self.pause = weigh, max_length, merged, pause
        self.notes: Sequence[str] = ("a fake",)
        self.blocks: list[list[Pair]] = []  # the pairs of each call of loglikelihood

    @property
    def measured(self) -> list[tuple[str, str]]:
        """Context and continuation of every pair, as text."""
        return [(_text(pair.context), _text(pair.continuation)) for block in self.blocks for pair in block]

    def text_ids(self, text: str) -> tuple[int, ...]:
        """As StudentEngine."""
        return tuple(ord(letter) for letter in text if letter not in self.merged)

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """As StudentEngine."""
        return (*self.text_ids("".join(f"<{m.role}>{m.content}" for m in messages)), ASSISTANT)

    def answer_ids(self, messages: Sequence[Message], answer: str) -> tuple[int, ...]:
        """As StudentEngine."""
        return (*self.text_ids(answer), END)

    def loglikelihood(self, pairs: Sequence[Pair]) -> list[Loglikelihood]:
        """As StudentEngine."""
        self.blocks.append(list(pairs))
        time.sleep(self.pause)
        values = [self.weigh(_text(pair.context), _text(pair.continuation)) for pair in pairs]
        return [
            Loglikelihood(logprob=value, tokens=len(pair.continuation), greedy=len(pair.context) % 2 == 0)
            for pair, value in zip(pairs, values, strict=True)
        ]

    def next_tokens(self, pairs: Sequence[Pair], k: int, at: Sequence[NextTokens] | None = None) -> list[NextTokens]:
        """As StudentEngine: nothing is expected anywhere."""
        shapes = [(len(pair.continuation), k) for pair in pairs]
        return [NextTokens(np.zeros(shape, np.int64), np.zeros(shape, np.float32)) for shape in shapes]


class Passing:
    """Passes requests on to another engine and keeps both sides.

    With `order` all requests are taken at once and put into another order. `notice` is told how many completions
    there are, before each is given.
    """

    def __init__(
        self,
        inner: Generator,
        notice: Callable[[int], None] = lambda completions: None,
        order: Callable[[list[Request]], None] | None = None,
    ) -> None:
        self.inner, self.notice, self.order = inner, notice, order
        self.requests: list[Request] = []
        self.completed: list[str] = []

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """As Generator."""
        for part in parts(requests) if self.order is not None else [self._kept(requests)]:
            taken: Iterable[Request | None] = part
            if self.order is not None:
                self.order(ordered := [request for request in self._kept(part) if request])
                taken = ordered
            for completion in self.inner.generate(taken):
                self.notice(len(self.completed) + 1)
                self.completed.append(completion.request)
                yield completion

    def _kept(self, requests: Iterable[Request | None]) -> Iterator[Request | None]:
        for request in requests:
            if request is not None:
                self.requests.append(request)
            yield request


class WordEmbedder:
    """Texts as counts of their words, hashed into 64 places: a stand-in for sentence embeddings."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As Embedder."""
        found = np.zeros((len(texts), 64), dtype=np.float32)
        for row, text in zip(found, texts, strict=True):
            for word in text.lower().split() or [""]:
                row[int(hashlib.sha256(word.encode()).hexdigest()[:8], 16) % 64] += 1
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        return found


class Quiet(Terminal):
    """Keeps what is said instead of printing it."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, text: str = "") -> None:
        """As Terminal."""
        self.said.append(text)

    @property
    def text(self) -> str:
        """All that was said."""
        return "\n".join(self.said)


class Compass:
    """Embeds a text by its first letter: a north, b east, c south; anything else between north and east."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As Embedder."""
        points = {"a": (0.0, 1.0), "b": (1.0, 0.0), "c": (0.0, -1.0)}
        found = [points.get(text[0].lower(), (math.sqrt(0.5), math.sqrt(0.5))) for text in texts]
        return np.array(found, dtype=np.float32).reshape(len(texts), 2)


class Pressed(Stop):
    """A Ctrl-C pressed at the nth time somebody looks, or by `press`."""

    def __init__(self, at: float = math.inf) -> None:
        super().__init__()
        self.left = at

    def press(self) -> None:
        """Press it now."""
        self.left = 0

    def __call__(self) -> bool:
        """Count down."""
        self.left -= 1
        return self.left < 0


def _text(ids: Sequence[int]) -> str:
    return "".join(map(chr, ids))
