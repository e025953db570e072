"""How a scorer asks: token ids of what is measured, of a chat or a plain text to continue, and the greedy answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.engines.protocols import StudentEngine
from harness.records import Completion, Item, Message, Origin, Pair, Request, Sampling

RenderedPrompt = tuple[Message, ...] | str  # a chat to answer, or a plain text to continue
Prompt = Callable[[Item], RenderedPrompt]


@dataclass(frozen=True)
class Ending:
    """Where an answer ends when a plain text is continued. A chat has its end of turn, and is never cut."""

    after: str = "\n"  # what follows an answer in the examples: its first token is measured with an answer
    next_example: str = ""  # how the next example would begin; empty where the prompt does not say
    one_line: bool = True  # every answer that could be copied is a single line
    guided: bool = False  # an answer that is JSON of a form is written by its schema, token by token

    @property
    def stop(self) -> tuple[str, ...]:
        """Where an engine may stop writing. White space alone is no stop: an answer may begin with it."""
        return (self.next_example,) if self.next_example.strip() else ()

    def read(self, prompt: RenderedPrompt, written: Completion, end: str = "\n") -> tuple[str, bool]:
        """The answer in what was written, and whether the limit of tokens cut it.

        `end` closes an answer of its kind, a line end only where all answers are single lines. White space before
        an answer is no part of it, and ends nothing.
        """
        at_limit = written.finish_reason == "length"
        if not isinstance(prompt, str):
            return written.text, at_limit
        written_text = answer = written.text.lstrip()
        for mark in (self.next_example, end if self.one_line or end != "\n" else ""):
            answer = answer.split(mark)[0] if mark else answer
        return answer.rstrip(), at_limit and answer == written_text


def context_ids(engine: StudentEngine, prompt: RenderedPrompt) -> tuple[int, ...]:
    """Token ids after which the answer begins."""
    return engine.text_ids(prompt) if isinstance(prompt, str) else engine.prompt_ids(prompt)


def answer_ids(engine: StudentEngine, prompt: RenderedPrompt, label: str, ending: Ending) -> tuple[int, ...]:
    """Token ids of an answer and its end: the end of the turn in a chat, in a plain text one token of what follows.

    That token is cut as it stands in the examples, where more text follows: at a text's end many tokenizers make
    one token of two line ends, which no example holds and no model expects.
    """
    if not isinstance(prompt, str):
        return engine.answer_ids(prompt, label)
    with_end = continuation_pair(engine, prompt, f" {label}{ending.after}").continuation
    bare = continuation_pair(engine, prompt, f" {label}").continuation
    shared = next((i for i, pair in enumerate(zip(with_end, bare, strict=False)) if pair[0] != pair[1]), len(bare))
    return with_end[: shared + 1]


def request_for(prompt: RenderedPrompt, model: str, sampling: Sampling, row: str) -> Request:
    """An answer to what is asked, be it a chat or a plain text. `row` says for which item."""
    return Request(
        model=model,
        prompt=prompt if isinstance(prompt, str) else "",
        messages=() if isinstance(prompt, str) else prompt,
        sampling=sampling,
        origin=Origin(purpose="answer", row=row),
    )


def ask(
    prompts: Mapping[int, RenderedPrompt],
    engine: StudentEngine,
    model: str,
    max_tokens: int,
    stop: tuple[str, ...],
    json_schema: dict[str, Any] | None = None,
) -> dict[int, Completion]:
    """The greedy answers, by the same numbers. Equal prompts are asked once. `stop` is for plain texts.

    `json_schema` guides what is written.
    """
    numbers: dict[str, list[int]] = {}
    requests: dict[str, Request] = {}
    for i, prompt in prompts.items():
        ends = stop if isinstance(prompt, str) else ()
        sampling = Sampling(temperature=0.0, max_tokens=max_tokens, stop=ends, json_schema=json_schema)
        request = request_for(prompt, model, sampling, str(i))
        requests.setdefault(request.key, request)
        numbers.setdefault(request.key, []).append(i)
    return {i: answer for answer in engine.generate(requests.values()) for i in numbers[answer.request]}


# --- what is measured -------------------------------------------------------------------------------------------


def continuation_pair(engine: StudentEngine, context: str, continuation: str) -> Pair:
    """Token ids of a context and of what follows it, see `split_pair`."""
    return split_pair(engine.text_ids, context, continuation)


def split_pair(text_ids: Callable[[str], tuple[int, ...]], context: str, continuation: str) -> Pair:
    """The same by a function from text to token ids.

    White space at the context's end goes over to the continuation, and the split is taken from the tokens of the
    whole, since a tokenizer may merge across the border: the convention of lm-evaluation-harness.
    """
    bare = context.rstrip()
    continuation = context[len(bare) :] + continuation
    all_ids, before = text_ids(bare + continuation), text_ids(bare)
    return Pair(context=all_ids[: len(before)], continuation=all_ids[len(before) :])


def fits(pair: Pair, engine: StudentEngine) -> bool:
    """Whether a pair can be measured whole: its last token is predicted, never read."""
    return len(pair.context) + len(pair.continuation) - 1 <= engine.max_length


def shares(logprobs: Sequence[float]) -> list[float]:
    """Probabilities of choices among themselves (they sum to 1), from their log-likelihoods (nats)."""
    top = max(logprobs)
    weights = [math.exp(value - top) for value in logprobs]
    return [weight / sum(weights) for weight in weights]
