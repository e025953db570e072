"""What every engine that writes text keeps to, whatever writes it: one table of checks, one row for each engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.engines.call_cache import CallCache, cached
from harness.engines.openai import OpenAIEngine
from harness.engines.protocols import Generator
from harness.engines.scripted import Script, ScriptedEngine
from harness.records import Completion, Message, Origin, Request, Sampling
from harness.suites.resume import Remembered
from tests.fakes import FakeGenerator, FakeStudent
from tests.http_server import Endpoint, serving
from tests.needs import needs_vllm
from tests.process import harness
from tests.tiny import CONTEXT

COUNT = 150
MOST_AHEAD = 64  # requests pulled before the first completion is given
MAX_TOKENS = 5
TOO_LONG = "again " * (CONTEXT + 1)


def ask(index: int, prompt: str = "Name a colour:") -> Request:
    """Every second request is a chat."""
    messages = (Message(role="user", content=prompt),) if index % 2 else ()
    return Request(
        model="base",
        messages=messages,
        prompt="" if messages else prompt,
        sampling=Sampling(max_tokens=MAX_TOKENS, temperature=0.0),
        sample_index=index,
        origin=Origin(purpose="generate"),
    )


Writer = Generator | Remembered


class Cached:
    """What the call cache makes of an engine: a generator again."""

    def __init__(self, cache: CallCache, inner: Generator) -> None:
        self.cache, self.inner = cache, inner

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """As Generator."""
        return (completion for completion, _ in cached(requests, self.cache, lambda: self.inner, lambda: False))


# --- the engines ----------------------------------------------------------------------------------------------


def fail_if_too_long(request: Request) -> str:
    """As an engine whose context the prompt does not fit."""
    return "ERROR: the prompt is too long" if TOO_LONG in str(request) else "a blue one"


@contextmanager
def scripted(tmp_path: Path, model: Path) -> Iterator[Generator]:
    yield ScriptedEngine(Script().answer)


@contextmanager
def transformers(tmp_path: Path, model: Path) -> Iterator[Generator]:
    from harness.engines.transformers import TransformersEngine

    yield TransformersEngine(model, device="cpu")


@contextmanager
def endpoint(tmp_path: Path, model: Path) -> Iterator[Generator]:
    with serving(Endpoint(models=("base",), longest=len(TOO_LONG))) as server:
        engine = OpenAIEngine(server.base_url, None, concurrency=8)
        yield engine
        engine.close()


@contextmanager
def call_cache(tmp_path: Path, model: Path) -> Iterator[Generator]:
    cache = CallCache(tmp_path / "calls.sqlite")
    yield Cached(cache, FakeGenerator(fail_if_too_long))
    cache.close()


@contextmanager
def remembered(tmp_path: Path, model: Path) -> Iterator[Writer]:
    yield Remembered(lambda: FakeStudent(fail_if_too_long), tmp_path / "answers.jsonl", lambda: False)


ENGINES = {opening.__name__: opening for opening in (scripted, transformers, endpoint, call_cache, remembered)}
WITHOUT_LIMIT = ("scripted",)  # no prompt is too long for it


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path: Path, tiny_model: Path) -> Iterator[Writer]:
    """Each engine in turn."""
    with ENGINES[request.param](tmp_path, tiny_model) as opened:
        yield opened


# --- what they keep to ----------------------------------------------------------------------------------------


def check_one_completion_each(engine: Writer) -> None:
    """Every request is answered once, within its limit of tokens, and the same again; nothing is asked for nothing."""
    requests = [ask(i) for i in range(12)]
    first = list(engine.generate(requests))
    assert sorted(c.request for c in first) == sorted(r.key for r in requests)
    assert all(c.finish_reason in ("stop", "length") and not c.error for c in first)
    assert all(c.prompt_tokens > 0 and c.completion_tokens <= MAX_TOKENS for c in first)
    again = {c.request: c for c in engine.generate(iter(requests[::-1]))}
    assert again == {c.request: c for c in first}
    assert list(engine.generate([])) == []


def check_bounded_pull(engine: Writer) -> None:
    """Few requests are taken before a completion is given, and none once the caller leaves."""
    pulled = 0

    def lazily() -> Iterator[Request]:
        nonlocal pulled
        for i in range(100, 100 + COUNT):
            pulled += 1
            yield ask(i)

    completions = engine.generate(lazily())
    next(completions)
    assert pulled <= MOST_AHEAD
    before = pulled
    completions.close()  # type: ignore[attr-defined]
    assert pulled == before


def check_failed_calls(engine: Writer, fails: bool = True) -> None:
    """What cannot be answered is a completion that says why; what was asked beside it is answered."""
    good, bad = [ask(i) for i in range(400, 404)], ask(500, TOO_LONG)
    done = {c.request: c for c in engine.generate([good[0], bad, *good[1:]])}
    assert done.keys() == {r.key for r in (bad, *good)}
    assert all(done[r.key].finish_reason != "error" for r in good)
    assert (done[bad.key].finish_reason == "error", bool(done[bad.key].error)) == (fails, fails)
    assert not (fails and done[bad.key].text)


def test_every_request_has_one_completion(engine: Writer) -> None:
    check_one_completion_each(engine)


def test_few_requests_are_pulled_ahead(engine: Writer) -> None:
    check_bounded_pull(engine)


def test_a_call_that_fails_is_a_completion(engine: Writer, request: pytest.FixtureRequest) -> None:
    check_failed_calls(engine, fails=request.node.callspec.params["engine"] not in WITHOUT_LIMIT)


@pytest.mark.parametrize("kept_by", ["call cache", "student's answers"])
def test_what_keeps_completions_asks_a_failed_call_again(tmp_path: Path, kept_by: str) -> None:
    inner = FakeStudent(lambda request: "a blue one" if len(inner.requests) > 1 else "ERROR: for now")
    cache = CallCache(tmp_path / "calls.sqlite")
    engines: dict[str, Writer] = {
        "call cache": Cached(cache, inner),
        "student's answers": Remembered(lambda: inner, tmp_path / "answers.jsonl", lambda: False),
    }
    done = [list(engines[kept_by].generate([ask(0)])) for _ in range(3)]
    assert [(c.text, c.error) for [c] in done] == [("", "for now"), ("a blue one", ""), ("a blue one", "")]
    assert len(inner.requests) == 2
    cache.close()


def vllm_keeps_to_it(model: Path) -> None:
    """In a process of its own, since vLLM changes process-wide state."""
    from harness.engines.vllm import VLLMEngine

    engine = VLLMEngine(model, concurrency=8, adapters={"base": None})
    for check in (check_one_completion_each, check_bounded_pull, check_failed_calls):
        check(engine)
    engine.close()


@needs_vllm
@pytest.mark.slow
def test_vllm_keeps_to_it(tiny_model: Path, tmp_path: Path) -> None:
    program = "import sys, pathlib, tests.test_engine_contract as c; c.vllm_keeps_to_it(pathlib.Path(sys.argv[1]))"
    done = harness(tmp_path, str(tiny_model), program=program)
    assert done.returncode == 0, done.stderr[-3000:]
