"""Several engines as one: every request is answered once, by an engine that has its model, and none of them idles."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from itertools import islice, takewhile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engines.leaving import closed_at_end
from harness.engines.openai import OpenAIEngine
from harness.engines.protocols import Stoppable
from harness.engines.several import SeveralEngines, Source
from harness.errors import MachineError, UsageError
from harness.records import Completion, Origin, Request, Sampling
from tests.http_server import Endpoint, serving


def request(n: int, model: str = "a@1") -> Request:
    origin = Origin(purpose="generate", template="t.j2")
    return Request(model=model, prompt=f"prompt {n}", sampling=Sampling(max_tokens=1), sample_index=n, origin=origin)


class Batch:
    """An engine with room for some requests, which answers the oldest, or all it has after a word from outside."""

    def __init__(self, name: str, room: int = 4, breaks_after: int | None = None, error: str = "") -> None:
        self.name, self.room, self.breaks_after = name, room, breaks_after
        self.error = UsageError(error) if error else MachineError(f"{name} is gone")
        self.asked: list[str] = []
        self.most, self.closed = 0, False
        self.threads: set[threading.Thread] = set()
        self._busy = threading.Lock()

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        assert self._busy.acquire(blocking=False), "one call at a time"
        self.threads.add(threading.current_thread())
        waiting, flying, answered = iter(requests), deque[Request](), 0
        try:
            while True:
                while len(flying) < self.room and (one := next(waiting, None)) is not None:
                    flying.append(one)
                    self.asked.append(one.key)
                self.most = max(self.most, len(flying))
                if not flying:
                    return
                if answered == self.breaks_after:
                    raise self.error
                answered += 1
                yield Completion(request=flying.popleft().key, text=self.name, finish_reason="stop")
        finally:
            self._busy.release()

    def close(self) -> None:
        self.closed = True


def several(*engines: tuple[Batch, str], say: Callable[[str], None] = print) -> SeveralEngines:
    return SeveralEngines([Source(engine.name, model, partial(same, engine)) for engine, model in engines], say)


def same(engine: Batch) -> Batch:
    return engine


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from("abc"), max_size=60), st.integers(1, 9), st.integers(1, 9))
def test_every_request_is_answered_once_by_its_model(models: list[str], small: int, large: int) -> None:
    engines = {name: Batch(name, room) for name, room in zip("abc", (small, large, 3), strict=True)}
    requests = [request(n, f"{name}@1") for n, name in enumerate(models)]
    found = list(several(*((e, f"{name}@1") for name, e in engines.items())).generate(requests))
    assert Counter(c.request for c in found) == Counter(r.key for r in requests)
    by_key = {r.key: r.model for r in requests}
    assert all(by_key[c.request] == f"{c.text}@1" for c in found)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 4))
def test_what_comes_next_may_depend_on_another_engines_answers(rows: int, room: int, steps: int) -> None:
    """Chains whose steps alternate between two models, as augment's scheduler asks them: None while it must wait."""
    engines = [Batch("a", room), Batch("b", 2 * room)]
    ready = deque([(row, 0) for row in range(rows)])
    place_of: dict[str, tuple[int, int]] = {}
    done: list[int] = []

    def source() -> Iterator[Request | None]:
        while len(done) < rows:
            if not ready:
                yield None
                continue
            row, step = ready.popleft()
            one = request(row * 10 + step, "ab"[step % 2] + "@1")
            place_of[one.key] = (row, step)
            yield one

    for completion in several((engines[0], "a@1"), (engines[1], "b@1")).generate(source()):
        row, step = place_of[completion.request]
        if step + 1 < steps:
            ready.append((row, step + 1))
        else:
            done.append(row)
    assert sorted(done) == list(range(rows))


def test_engines_are_full_and_the_models_are_loaded_by_the_callers_thread_when_they_are_needed() -> None:
    built: list[tuple[str, int]] = []
    engines = {name: Batch(name) for name in "abc"}

    def source_of(name: str) -> Source:
        def build() -> Batch:
            built.append((name, threading.get_ident()))
            return engines[name]

        return Source(name, f"{name}@1", build)

    work = SeveralEngines([source_of(name) for name in "abc"])
    for _ in range(2):  # a second call takes the same engines
        assert len(list(work.generate([request(n, "ab"[n % 2] + "@1") for n in range(40)]))) == 40
    assert built == [("a", threading.get_ident()), ("b", threading.get_ident())], "c was never asked"
    assert (engines["a"].most, engines["b"].most) == (4, 4)
    assert engines["a"].threads.isdisjoint(engines["b"].threads)
    work.close()
    assert [e.closed for e in engines.values()] == [True, True, False]


def test_endpoints_of_one_model_share_the_work_and_the_rest_do_that_of_one_that_breaks() -> None:
    said: list[str] = []
    engines = [Batch("one"), Batch("two", breaks_after=5), Batch("three")]
    requests = [request(n) for n in range(200)]
    work = several(*((engine, "a@1") for engine in engines), say=said.append)
    found = list(work.generate(requests))
    assert Counter(c.request for c in found) == Counter(r.key for r in requests)
    assert Counter(c.text for c in found)["two"] == 5
    assert all(len(engine.asked) >= 9 for engine in engines)
    assert len(said) == 1
    assert said[0].startswith("two is left out from here on: two is gone; 4 of its requests")
    assert [c.text for c in work.generate([request(900)])] != ["two"], "it stays left out"


@pytest.mark.parametrize("refused", ["", "the key is refused"])
def test_what_no_other_can_do_ends_the_work_after_all_that_came_back(refused: str) -> None:
    engines = [Batch("a"), Batch("b", breaks_after=3, error=refused)]
    found: deque[Completion] = deque()
    requests = [request(n, "ab"[n % 2] + "@1") for n in range(100)]
    with pytest.raises(UsageError if refused else MachineError, match=refused or "b is gone"):
        found.extend(several((engines[0], "a@1"), (engines[1], "b@1")).generate(requests))
    assert set(engines[0].asked) <= {c.request for c in found}, "what a had in flight came back"


def test_closing_early_ends_every_thread() -> None:
    before = threading.active_count()
    requests = (request(n, "ab"[n % 2] + "@1") for n in range(9**9))
    answers: Any = several((Batch("a"), "a@1"), (Batch("b"), "b@1")).generate(requests)
    next(answers)
    answers.close()
    assert threading.active_count() == before


class Ending(Batch):
    """It ends after three answers, whatever it has in flight, or with an error that is no Exception."""

    def __init__(self, name: str, error: BaseException | None = None) -> None:
        super().__init__(name)
        self.last = error

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        yield from islice(super().generate(requests), 3)
        if self.last is not None:
            raise self.last


class Panic(BaseException):
    """As what pyo3 raises where Rust code panics."""


def test_an_engine_that_ends_too_early_is_one_that_broke() -> None:
    said: list[str] = []
    requests = [request(n) for n in range(60)]
    found = list(several((Ending("one"), "a@1"), (Batch("two"), "a@1"), say=said.append).generate(requests))
    assert Counter(c.request for c in found) == Counter(r.key for r in requests)
    assert said[0].startswith("one is left out from here on: one ended before everything was answered; ")
    with pytest.raises(MachineError, match="a ended before everything was answered"):
        list(several((Ending("a"), "a@1"), (Batch("b"), "b@1")).generate(requests))
    with pytest.raises(Panic):
        list(several((Ending("a", Panic()), "a@1"), (Batch("b"), "b@1")).generate(requests))


def test_the_second_interrupt_waits_for_no_engine() -> None:
    free = threading.Event()

    class Stuck(Batch):
        def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
            _ = list(islice(requests, 2))  # one request that it never answers, and the wish for another
            free.wait()
            yield from ()

    answers: Any = several((Stuck("a"), "a@1"), (Batch("b"), "b@1")).generate(
        [request(0), *(request(n, "b@1") for n in range(1, 9))]
    )
    next(answers)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        answers.throw(KeyboardInterrupt)
    assert time.monotonic() - started < 1
    free.set()


def test_what_fails_at_one_endpoint_is_asked_of_the_others_once() -> None:
    class Failing(Batch):
        def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
            for completion in super().generate(requests):
                yield completion.model_copy(update={"finish_reason": "error", "error": f"{self.name} is ill"})

    ill, well = Failing("ill"), Batch("well")
    found = list(several((ill, "a@1"), (well, "a@1")).generate([request(n) for n in range(40)]))
    assert Counter(c.finish_reason for c in found) == {"stop": 40}
    assert len(well.asked) == 40
    assert 0 < len(ill.asked) < 40
    both = [Failing("one"), Failing("two")]
    found = list(several(*((engine, "a@1") for engine in both)).generate([request(n) for n in range(10)]))
    assert Counter(c.finish_reason for c in found) == {"error": 10}
    assert [len(engine.asked) for engine in both] == [10, 10]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 30), st.integers(1, 4), st.booleans())
def test_once_the_work_has_ended_nothing_more_is_asked(after: int, room: int, fails: bool) -> None:
    """Requests of a busy engine wait in front of it. When the work is stopped they go nowhere, nor does what fails."""
    engines = [Batch("a", room), Batch("b", 2 * room, breaks_after=after if fails else None), Batch("b2", room)]
    stopped = threading.Event()
    requests = (request(n, "ab"[n % 5 == 0] + "@1") for n in range(400))
    until_stopped = takewhile(lambda _: not stopped.is_set(), requests)
    sources = zip(engines, ("a@1", "b@1", "b@1"), strict=True)
    answers = several(*sources).generate(Stoppable(until_stopped, stopped.is_set))
    answered = [next(answers).request for _ in range(after)]
    stopped.set()
    asked = {key for engine in engines for key in engine.asked}
    time.sleep(0.01)  # what was handed out before may still be on its way to an engine
    handed_out = asked | {key for engine in engines for key in engine.asked}
    answered += [completion.request for completion in answers]
    assert len(set(answered)) == len(answered)
    later = {key for engine in engines for key in engine.asked} - handed_out
    assert len(later) <= len(engines), "at most what each engine had just been handed"


def test_a_model_that_no_engine_has_is_a_machine_error() -> None:
    with pytest.raises(MachineError, match="c@1"):
        list(several((Batch("a"), "a@1")).generate([request(1, "c@1")]))


def test_nothing_to_ask_builds_nothing() -> None:
    def never() -> Batch:
        raise AssertionError("nothing is asked")

    work = SeveralEngines([Source("a", "a@1", never)])
    assert list(work.generate([])) == []
    assert list(work.generate([None])) == []


def test_a_server_that_dies_halfway_loses_nothing_where_another_has_the_model() -> None:
    """Two real servers on loopback. One of them drops every connection after a few answers."""
    with ExitStack() as open_now:
        servers = [open_now.enter_context(serving(Endpoint(dies_after=n))) for n in (10, None)]

        def connect(endpoint: Endpoint) -> OpenAIEngine:
            return open_now.enter_context(closing(OpenAIEngine(endpoint.base_url, None, concurrency=4, attempts=2)))

        sources = [Source(server.base_url, "teacher@1", partial(connect, server)) for server in servers]
        requests = [request(n, "teacher@1") for n in range(120)]
        found = list(SeveralEngines(sources).generate(requests))
    assert Counter(c.request for c in found) == Counter(r.key for r in requests)
    assert not [c.error for c in found if c.finish_reason == "error"]
    assert [len(server.posts) for server in servers] == [10, 110]


def use_and_raise(engine: Batch, error: BaseException) -> None:
    with closed_at_end(partial(same, engine)) as build:
        assert build() is build()
        raise error


def test_what_was_built_is_closed_at_the_end_and_after_a_failure() -> None:
    engine = Batch("a")
    with pytest.raises(MachineError):
        use_and_raise(engine, MachineError())
    assert engine.closed

    def never() -> Batch:
        raise AssertionError("nobody asks")

    with closed_at_end(never):
        pass
    left = Batch("left")
    with pytest.raises(KeyboardInterrupt):
        use_and_raise(left, KeyboardInterrupt())
    assert not left.closed, "the process ends and waits for nothing"
