"""How a scorer asks: a chat or a plain text to continue, as token ids, and the greedy answers to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from harness.records import Completion, Message, Origin, Request, Sampling
from harness.scoring.base import StudentEngine
from harness.scoring.choices import continuation_pair

Asked = tuple[Message, ...] | str  # a chat to answer, or a plain text to continue
Prompt = Callable[[str], Asked]  # from an item's text


def context_ids(engine: StudentEngine, asked: Asked) -> tuple[int, ...]:
    """Token ids after which the answer begins."""
    return engine.text_ids(asked) if isinstance(asked, str) else engine.prompt_ids(asked)


def answer_ids(engine: StudentEngine, asked: Asked, label: str) -> tuple[int, ...]:
    """Token ids of a label and its stop: the end of the turn in a chat, the end of the line in a plain text."""
    if isinstance(asked, str):
        return continuation_pair(engine, asked, f" {label}\n").continuation
    return engine.answer_ids(asked, label)


def ask(
    asked: Mapping[int, Asked], engine: StudentEngine, model: str, max_tokens: int, stop: tuple[str, ...]
) -> dict[int, Completion]:
    """The greedy answers, by the same numbers; equal prompts are asked once. `stop` is for plain texts."""
    numbers: dict[str, list[int]] = {}
    requests: dict[str, Request] = {}
    for i, one in asked.items():
        plain = isinstance(one, str)
        request = Request(
            model=model,
            prompt=one if isinstance(one, str) else "",
            messages=() if isinstance(one, str) else one,
            sampling=Sampling(temperature=0.0, max_tokens=max_tokens, stop=stop if plain else ()),
            origin=Origin(purpose="answer", row=str(i)),
        )
        requests.setdefault(request.key, request)
        numbers.setdefault(request.key, []).append(i)
    return {i: answer for answer in engine.generate(requests.values()) for i in numbers[answer.request]}
