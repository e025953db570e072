"""The engine for OpenAI-compatible endpoints: what it asks, what it reads, what it does when things fail."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engines import openai_wire as wire
from harness.engines.openai import GIVE_UP_AFTER, OpenAIEngine
from harness.errors import MachineError, UsageError
from harness.records import Completion, Generator, Message, Origin, Request, Sampling
from tests.http_server import KEY, Endpoint, Fault, serving, transport

JSON_FORM = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


def ask(index: int = 0, *, chat: bool = False, model: str = "teacher@rev1", **sampling: Any) -> Request:
    form: dict[str, Any] = {"messages": (Message(role="user", content="hi"),)} if chat else {"prompt": "a\n-"}
    return Request(
        model=model,
        sampling=Sampling(**sampling),
        sample_index=index,
        origin=Origin(purpose="generate"),
        **form,
    )


def asks(count: int) -> list[Request]:
    return [ask(i, chat=i % 2 == 0) for i in range(count)]


def engine_for(endpoint: Endpoint, **settings: Any) -> OpenAIEngine:
    settings = {"concurrency": 4, "backoff_s": 0.0, **settings}
    return OpenAIEngine("http://endpoint.invalid/v1", endpoint.key, transport=transport(endpoint), **settings)


def drain(iterator: Iterator[Completion]) -> tuple[list[Completion], Exception | None]:
    """What came, and the error that ended it."""
    done: list[Completion] = []
    try:
        for completion in iterator:
            done.append(completion)  # noqa: PERF402  (a list would lose what came before the error)
    except (MachineError, UsageError) as error:
        return done, error
    return done, None


# --- what is asked --------------------------------------------------------------------------------------


def test_over_a_socket_every_request_is_answered_and_asked_once() -> None:
    requests = asks(40)
    with serving(Endpoint(key=KEY)) as endpoint:
        opened = OpenAIEngine(endpoint.base_url, KEY, concurrency=8)
        engine: Generator = opened
        first = {c.request: c for c in engine.generate(requests)}
        assert len(endpoint.posts) == 40
        again = {c.request: c for c in engine.generate(reversed(requests))}
        opened.close()
    assert set(first) == {r.key for r in requests}
    assert first == again
    assert all(c.finish_reason == "stop" and c.text and c.prompt_tokens for c in first.values())


def test_bodies_of_both_forms() -> None:
    sampling: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 7,
        "stop": ("\n",),
        "logprobs": 5,
    }
    shared = {"model": "m", "temperature": 0.5, "top_p": 0.9, "max_tokens": 7, "stop": ["\n"]}
    assert wire.body(ask(**sampling), "m") == {**shared, "prompt": "a\n-", "logprobs": 5}
    chat = {**shared, "messages": [{"role": "user", "content": "hi"}], "logprobs": True, "top_logprobs": 5}
    assert wire.body(ask(chat=True, **sampling), "m") == chat
    assert wire.body(ask(choices=("a", "b")), "m")["structured_outputs"] == {"choice": ["a", "b"]}
    form = wire.body(ask(json_schema=JSON_FORM), "m")["response_format"]
    assert (form["type"], form["json_schema"]["schema"]) == ("json_schema", JSON_FORM)
    assert not {"stop", "logprobs", "structured_outputs", "response_format"} & set(wire.body(ask(), "m"))


@pytest.mark.parametrize("chat", [False, True])
def test_choices_come_back_with_their_logprobs(chat: bool) -> None:
    endpoint = Endpoint()
    (done,) = engine_for(endpoint).generate([ask(chat=chat, choices=(" a", " b", " c"), logprobs=20)])
    assert set(done.first_logprobs) == {" a", " b", " c"}
    assert done.text == max(done.first_logprobs, key=lambda token: done.first_logprobs[token])
    (silent,) = engine_for(endpoint).generate([ask(chat=chat, choices=("a", "b"))])
    assert silent.first_logprobs == {}


def test_an_endpoint_that_ignores_choices_is_found_out() -> None:
    (done,) = engine_for(Endpoint(guided=False)).generate([ask(choices=("a", "b"))])
    assert (done.finish_reason, done.text) == ("error", "")
    assert "ignored the choices" in done.error


def test_the_limit_of_tokens_is_a_finish_reason() -> None:
    (done,) = engine_for(Endpoint()).generate([ask(max_tokens=1)])
    assert (done.finish_reason, done.completion_tokens) == ("length", 1)


NAMES = st.sampled_from(["choices", "text", "message", "content", "finish_reason", "usage", "logprobs"])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner),
)


@settings(max_examples=50, deadline=None)
@given(answer=ANYTHING)
def test_no_answer_whatever_it_is_breaks_the_reading(answer: object) -> None:
    for chat in (False, True):
        try:
            done = wire.completion(ask(chat=chat), answer)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            continue
        assert Completion.model_validate_json(done.model_dump_json()) == done


def test_logprobs_that_are_no_numbers_are_left_out() -> None:
    logprobs = {
        "tokens": ["a"],
        "token_logprobs": [float("-inf")],
        "top_logprobs": [{"b": -1.0, "c": -9999.0}],
    }
    assert wire.first_logprobs(logprobs) == {"b": -1.0}


# --- faults ---------------------------------------------------------------------------------------------

PASSING: tuple[Fault, ...] = ("ok", "429", "500", "503", "garbage", "half", "reset")


@settings(max_examples=60, deadline=None)
@given(
    faults=st.lists(st.sampled_from([*PASSING, "400"]), max_size=40),
    count=st.integers(0, 12),
    concurrency=st.integers(1, 8),
    attempts=st.integers(1, 4),
)
def test_every_request_gets_exactly_one_completion_whatever_fails(
    faults: list[Fault], count: int, concurrency: int, attempts: int
) -> None:
    endpoint, requests = Endpoint(faults=faults), asks(count)
    engine = engine_for(endpoint, concurrency=concurrency, attempts=attempts)
    done = list(engine.generate(requests))
    assert sorted(c.request for c in done) == sorted(r.key for r in requests)
    assert all(bool(c.error) == (c.finish_reason == "error") for c in done)
    assert len(endpoint.posts) <= count * attempts
    answered = {c.request: c for c in done if not c.error}
    unhurt = {c.request: c for c in engine_for(Endpoint()).generate(requests)}
    assert answered.items() <= unhurt.items()


def test_what_passes_is_tried_again_and_what_does_not_is_not() -> None:
    faults: list[Fault] = ["500", "429", "garbage", "reset"]
    (done,) = engine_for(Endpoint(faults=faults)).generate([ask()])
    assert done.finish_reason == "stop"
    refused = Endpoint(faults=["400"], key=KEY)
    (done,) = engine_for(refused).generate([ask()])
    assert done.error == "HTTP 400: this is fault 400 of ... for ..."
    assert len(refused.posts) == 1


def test_attempts_are_bounded() -> None:
    endpoint = Endpoint(faults=["500", "500", "500", "500"])
    (done,) = engine_for(endpoint, attempts=3).generate([ask()])
    assert done.error.startswith("HTTP 500")
    assert len(endpoint.posts) == 3


@pytest.mark.parametrize("date", [False, True])
def test_retry_after_is_honoured(date: bool) -> None:
    wait = formatdate(time.time() + 2, usegmt=True) if date else "0.5"
    started = time.monotonic()
    (done,) = engine_for(Endpoint(faults=["429"], retry_after=wait)).generate([ask()])
    assert done.finish_reason == "stop"
    assert time.monotonic() - started > 0.4


def test_a_hanging_answer_is_given_up() -> None:
    with serving(Endpoint(faults=["hang"])) as endpoint:
        engine = OpenAIEngine(endpoint.base_url, None, timeout_s=0.3, attempts=1, concurrency=2)
        done = list(engine.generate(asks(3)))
        engine.close()
    assert sorted(c.error for c in done) == ["", "", wire.TIMEOUT]


def test_an_endpoint_that_dies_ends_the_work_and_says_what_is_kept() -> None:
    with serving(Endpoint(dies_after=7)) as endpoint:
        engine = OpenAIEngine(endpoint.base_url, None, concurrency=4, attempts=2, backoff_s=0.0)
        done, error = drain(engine.generate(asks(60)))
        engine.close()
    assert isinstance(error, MachineError)
    assert "20 requests in a row failed" in str(error)
    assert "7 were completed and are kept; the same command goes on" in str(error)
    assert sum(c.finish_reason == "stop" for c in done) == 7
    assert 7 + GIVE_UP_AFTER <= len(done) < 60  # a slow success starts the count again


def test_answers_on_their_way_are_kept_when_the_key_is_taken_back() -> None:
    endpoint = Endpoint(faults=["ok", "401"], delay_s=0.1)
    done, error = drain(engine_for(endpoint, concurrency=4).generate(asks(30)))
    assert "wants a key and none was given" in str(error)
    assert len(done) == len(endpoint.posts) - 1
    assert len(endpoint.posts) <= 5


# --- before anything is spent ---------------------------------------------------------------------------


def test_a_wrong_key_an_unknown_model_and_a_wrong_address_are_said_first() -> None:
    closed = Endpoint(key=KEY)
    wrong = OpenAIEngine("http://user:pw@e.invalid/v1", "sk-wrong", transport=transport(closed))
    with pytest.raises(UsageError, match=r"http://e.invalid/v1 refuses the key \(HTTP 401\)") as caught:
        list(wrong.generate([ask()]))
    assert "sk-wrong" not in str(caught.value)
    assert "pw" not in str(caught.value)
    endpoint = Endpoint(models=("teacher-large", "other"))
    with pytest.raises(UsageError, match=r"no model 'teacher' \(did you mean 'teacher-large'\?\); it serves: tea"):
        list(engine_for(endpoint).generate([ask()]))
    nowhere = OpenAIEngine("http://e.invalid/v2", None, transport=transport(Endpoint()))
    with pytest.raises(UsageError, match=r"HTTP 404\); most addresses end in /v1"):
        list(nowhere.generate([ask()]))
    assert [*closed.posts, *endpoint.posts] == []
    with pytest.raises(UsageError, match="'localhost:8000' is not an address"):
        OpenAIEngine("localhost:8000", None)


def test_an_endpoint_that_is_not_there_is_a_fault_of_the_machine() -> None:
    engine = OpenAIEngine("http://127.0.0.1:9/v1", None, backoff_s=0.0)
    with pytest.raises(MachineError, match=r"cannot reach http://127.0.0.1:9/v1: the connection failed"):
        list(engine.generate([ask()]))


def test_an_endpoint_that_lists_revisions_or_nothing() -> None:
    pinned = Endpoint(models=("teacher@rev1", "teacher"))
    list(engine_for(pinned).generate([ask()]))
    assert pinned.posts[0]["model"] == "teacher@rev1"

    def silent(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"data": []})
        return httpx.Response(200, json={"choices": [{"text": "x", "finish_reason": "stop"}]})

    engine = OpenAIEngine("http://e.invalid/v1", None, transport=httpx.MockTransport(silent))
    (done,) = engine.generate([ask()])
    assert (done.text, done.completion_tokens) == ("x", 0)


def test_something_else_than_an_endpoint_is_named_so() -> None:
    page = httpx.MockTransport(lambda request: httpx.Response(200, text="<html>"))
    with pytest.raises(UsageError, match="not as an OpenAI-compatible endpoint does"):
        list(OpenAIEngine("http://e.invalid", None, transport=page).generate([ask()]))
    moved = httpx.MockTransport(lambda request: httpx.Response(301, headers={"location": "https://x/"}))
    with pytest.raises(UsageError, match="has moved"):
        list(OpenAIEngine("http://e.invalid", None, transport=moved).generate([ask()]))


def test_an_unknown_model_midway_keeps_what_was_asked_before() -> None:
    requests = [*asks(3), ask(9, model="tacher@1")]
    done, error = drain(engine_for(Endpoint(delay_s=0.05), concurrency=8).generate(requests))
    assert "no model 'tacher' (did you mean 'teacher'?)" in str(error)
    assert len(done) == 3


# --- manners --------------------------------------------------------------------------------------------


def test_few_requests_are_pulled_ahead_and_leaving_stops_asking() -> None:
    endpoint, pulled = Endpoint(delay_s=0.01), 0

    def lazily() -> Iterator[Request]:
        nonlocal pulled
        for request in asks(100):
            pulled += 1
            yield request

    iterator = engine_for(endpoint, concurrency=4).generate(lazily())
    for seen in range(1, 6):
        next(iterator)
        assert pulled <= seen + 3
    iterator.close()  # type: ignore[attr-defined]
    time.sleep(0.1)
    assert len(endpoint.posts) <= 8


def test_leaving_does_not_wait_for_a_pause() -> None:
    faults: list[Fault] = ["429"] * 50
    endpoint = Endpoint(faults=["ok", *faults], retry_after="60")
    iterator = engine_for(endpoint, concurrency=4).generate(asks(10))
    assert next(iterator).finish_reason == "stop"
    working = [thread for thread in threading.enumerate() if thread.name.endswith("(_work)")]
    assert working
    iterator.close()  # type: ignore[attr-defined]
    for thread in working:
        thread.join(30)  # half of what the endpoint asks to be left alone
    assert not any(thread.is_alive() for thread in working)
    assert len(endpoint.posts) <= 5, "after the pause each would have asked again"


def test_the_key_is_in_no_error_no_repr_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    faults: list[Fault] = ["400", "500", "401"]
    endpoint = Endpoint(faults=faults, key=KEY)
    engine = engine_for(endpoint, concurrency=1, attempts=1)
    done, error = drain(engine.generate(asks(8)))
    headers = repr(engine.__dict__["_client"].headers)
    written = " ".join([str(error), repr(error), repr(engine), headers, caplog.text, *map(repr, done)])
    assert error is not None
    assert [c.finish_reason for c in done] == ["error", "error"]
    assert KEY not in written
    assert "secret.example" not in written
