"""A student that knows the answers, and one that is silent: what a suite proves its scorers with.

No model is behind it. It speaks the protocol of a student's engine. Its tokens are characters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.engines.protocols import NextTokens
from harness.records import Completion, Loglikelihood, Message, Pair, Request
from harness.suites.generate import RenderedPrompt

TAIL = "\n[assistant]\n"  # ends a chat as the oracle reads it
END = 0  # the token at the end of a turn


@dataclass(frozen=True)
class Gold:
    """What is right after one prompt."""

    text: str  # to be written
    right: tuple[str, ...]  # continuations


def read(prompt: RenderedPrompt) -> str:
    """A prompt as the oracle reads it."""
    if isinstance(prompt, str):
        return prompt.strip()
    return "\n".join(f"[{message.role}] {message.content}" for message in prompt).strip()


@dataclass
class Oracle:
    """A StudentEngine that knows the right answers. Its tokens are characters.

    `known` maps prompts to what is right after them. With `endings` a prompt need only end in one of them, as one
    with examples does. A silent oracle finds wrong choices likelier and writes nothing.
    """

    known: Mapping[str, Gold]
    endings: bool = False
    silent: bool = False
    notes: Sequence[str] = ()
    max_length: int = 10**9  # lengths are proven apart
    lost: int = 0  # prompts it does not know
    longest: str = ""  # of all texts it was asked about
    _ends: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for prompt in self.known:
            self._ends.setdefault(prompt[-16:], []).append(prompt)

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """As StudentEngine."""
        return self.text_ids(read(tuple(messages)) + TAIL)

    def answer_ids(self, messages: Sequence[Message], answer: str) -> tuple[int, ...]:
        """As StudentEngine."""
        return (*self.text_ids(answer), END)

    def text_ids(self, text: str) -> tuple[int, ...]:
        """As StudentEngine: code points, one up."""
        return tuple(ord(c) + 1 for c in text)

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """As StudentEngine: the right answer up to the first stop, or nothing."""
        for request in requests:
            gold = self._after(read(request.messages or request.prompt))
            text = gold.text if gold and not self.silent else ""
            for stop in request.sampling.stop:
                text = text.split(stop)[0]
            yield Completion(request=request.key, text=text, finish_reason="stop", completion_tokens=len(text))

    def loglikelihood(self, pairs: Sequence[Pair]) -> list[Loglikelihood]:
        """As StudentEngine: right continuations are nearly sure and wrong ones are not, whatever their length."""
        return [self._measure(pair) for pair in pairs]

    def next_tokens(self, pairs: Sequence[Pair], k: int, at: Sequence[NextTokens] | None = None) -> list[NextTokens]:
        """As StudentEngine: all tokens alike."""
        shapes = [(len(pair.continuation), k) for pair in pairs]
        return [NextTokens(np.zeros(s, np.int64), np.full(s, -np.log(k), np.float32)) for s in shapes]

    def _measure(self, pair: Pair) -> Loglikelihood:
        context, continuation = self._text(pair.context), self._text(pair.continuation)
        if len(context) + len(continuation) > len(self.longest):
            self.longest = context + continuation
        gold = self._after(context.removesuffix(TAIL).strip())
        right = gold is not None and continuation.strip() in {text.strip() for text in gold.right}
        preferred = right != self.silent
        return Loglikelihood(
            # also divided by a length, the one is above the other; neither is 0 as a probability
            logprob=-1e-6 * len(pair.continuation) if preferred else -50.0,
            tokens=len(pair.continuation),
            greedy=self.endings and preferred and right,  # on items of ours the answer must be written out
        )

    def _after(self, prompt: str) -> Gold | None:
        gold = self.known.get(prompt)
        if gold is None and self.endings:
            ends = [end for end in self._ends.get(prompt[-16:], ()) if prompt.endswith(end)]
            gold = self.known[max(ends, key=len)] if ends else None
        self.lost += gold is None
        return gold

    def _text(self, ids: Sequence[int]) -> str:
        return "".join(chr(i - 1) for i in ids if i != END)
