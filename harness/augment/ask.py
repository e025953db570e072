"""Asking the teacher: every request once, from the cache or the engine, with a count of what it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from harness.augment.sent import Note, not_noted
from harness.config.run import Caps
from harness.config.teacher import Price
from harness.core.record import compact
from harness.core.terminal import Stop, Terminal
from harness.engines.call_cache import CallCache, cached
from harness.engines.protocols import Generator
from harness.errors import MachineError
from harness.records import Completion, Request


@dataclass(frozen=True)
class Spent:
    """What the work took so far."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0  # of this command's engine work
    money: float | None = None  # by the teachers' prices; None where no completion has one

    def plus(self, completion: Completion, seconds: float, price: float | None) -> Spent:
        """After one more completion with its price, and so many seconds in all."""
        return Spent(
            self.prompt_tokens + completion.prompt_tokens,
            self.completion_tokens + completion.completion_tokens,
            seconds,
            self.money if price is None else (self.money or 0.0) + price,
        )


def over_cap(caps: Caps, spent: Spent) -> str:
    """The cap that is reached, in words, or ''."""
    tokens = spent.prompt_tokens + spent.completion_tokens
    if caps.tokens is not None and tokens >= caps.tokens:
        return f"caps.tokens ({caps.tokens}) is reached: {tokens} tokens"
    if caps.seconds is not None and spent.seconds >= caps.seconds:
        return f"caps.seconds ({caps.seconds:g}) is reached"
    if caps.money is not None and spent.money is not None and spent.money >= caps.money:
        return f"caps.money ({caps.money:g}) is reached: {spent.money:.4f}"
    return ""


@dataclass(frozen=True)
class Asked:
    """Calls of one kind, stored ones too."""

    calls: int = 0
    money: float | None = None  # None where none has a price

    def plus(self, price: float | None) -> Asked:
        """After one more, with its price."""
        return Asked(self.calls + 1, self.money if price is None else (self.money or 0.0) + price)


@dataclass
class Asker:
    """Answers requests from the cache or the engine, each once, and keeps count of what that took."""

    cache: CallCache
    engine: Callable[[], Generator]  # builds it at most once
    stop: Stop
    answers: dict[str, Completion] = field(default_factory=dict)  # by request key
    paid: int = 0
    fresh_tokens: int = 0  # generated now
    cut_short: bool = False  # whether the stop left something unasked
    over: Callable[[Spent], str] = lambda spent: ""  # the cap that is reached, in words
    price: Price = lambda model, completion: None
    note: Note = not_noted  # hears of every request, the stored ones too
    spent: Spent = field(default_factory=Spent)
    unpriced: set[str] = field(default_factory=set)  # models that answered, without a price
    asked: dict[tuple[str, str, str], Asked] = field(default_factory=dict)  # (purpose, template, model) -> what it took
    cap: str = ""  # the cap that ended the work

    def ended(self) -> bool:
        """Whether nothing more is to be asked: somebody stopped the work, or a cap is reached."""
        return self.stop() or bool(self.cap)

    def __call__(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """Yield completions as they come. A stop ends it early.

        Requests are taken as the engine wants them, so they may depend on the completions before. None says that
        nothing can be asked before another answer. Those that were answered earlier in this command are left out.
        Raises MachineError when every call fails.
        """
        started, paid_before, seconds_before = time.monotonic(), self.paid, self.spent.seconds
        whom: dict[str, tuple[str, str, str]] = {}  # key of a request on its way -> its purpose, template and model

        def unanswered() -> Iterator[Request | None]:
            for request in requests:
                if request is None:
                    yield None
                elif request.key not in self.answers:
                    whom[request.key] = (request.origin.purpose, request.origin.template, request.model)
                    self.note(request)
                    yield request

        for completion, paid in cached(unanswered(), self.cache, self.engine, self.ended):
            self.answers[completion.request] = compact(completion)
            self.paid += paid
            seconds = seconds_before + (time.monotonic() - started if self.paid > paid_before else 0)
            asked = whom.pop(completion.request, ("", "", ""))
            price = self.price(asked[2], completion)
            if price is None and asked[2]:
                self.unpriced.add(asked[2])
            self.asked[asked] = self.asked.get(asked, Asked()).plus(price)
            self.spent = self.spent.plus(completion, seconds, price)
            self.cap = self.cap or self.over(self.spent)
            self.fresh_tokens += completion.completion_tokens * paid
            yield completion
            if self.stop.overdue:
                break
        failed = [c for c in self.answers.values() if c.finish_reason == "error"]
        if failed and len(failed) == len(self.answers):
            raise MachineError(f"all {len(failed)} calls to the teacher failed; the first said: {failed[0].error}")

    def of(self, key: str) -> Completion:
        """The answer to the request of this key, or what stands for one that was stopped."""
        answer = self.answers.get(key)
        return answer or Completion(request=key, finish_reason="error", error="stopped")


def about_seeds(ask: Asker, terminal: Terminal) -> Callable[[Sequence[Request]], list[Completion]]:
    """What filters ask about the seeds, with a bar: one completion per request, same order."""

    def answers(requests: Sequence[Request]) -> list[Completion]:
        missing = {request.key for request in requests if request.key not in ask.answers}
        with terminal.progress("calibrating the judge", len(missing)) as advance:
            for count, _ in enumerate(ask(requests), start=1):
                advance(count, "")
        ask.cut_short |= any(key not in ask.answers for key in missing)
        return [ask.of(request.key) for request in requests]

    return answers
