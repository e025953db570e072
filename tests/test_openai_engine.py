"""The engine for OpenAI-compatible endpoints: what it asks, what it reads, what it does when things fail."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engines import openai_wire as wire
from harness.engines.openai import FIRST_CALLS, GIVE_UP_AFTER, Failures, OpenAIEngine
from harness.engines.protocols import Generator
from harness.errors import MachineError, UsageError
from harness.records import Completion, Message, Origin, Request, Sampling
from tests.http_server import AT_ONCE, KEY, Endpoint, Fault, serving, transport

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
    settings = {"concurrency": 4, **settings}
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
    assert wire.body(ask(**sampling), "m", wire.Dialect()) == {**shared, "prompt": "a\n-", "logprobs": 5}
    chat = {**shared, "messages": [{"role": "user", "content": "hi"}], "logprobs": True, "top_logprobs": 5}
    assert wire.body(ask(chat=True, **sampling), "m", wire.Dialect()) == chat
    assert wire.body(ask(choices=("a", "b")), "m", wire.Dialect())["structured_outputs"] == {"choice": ["a", "b"]}
    form = wire.body(ask(json_schema=JSON_FORM), "m", wire.Dialect())["response_format"]
    assert (form["type"], form["json_schema"]["schema"]) == ("json_schema", JSON_FORM)
    assert not {"stop", "logprobs", "structured_outputs", "response_format"} & set(
        wire.body(ask(), "m", wire.Dialect())
    )


@pytest.mark.parametrize("chat", [False, True])
def test_choices_come_back_with_their_logprobs(chat: bool) -> None:
    endpoint = Endpoint()
    (done,) = engine_for(endpoint).generate([ask(chat=chat, choices=(" a", " b", " c"), logprobs=20)])
    assert set(done.first_logprobs) == {" a", " b", " c"}
    assert done.text == max(done.first_logprobs, key=lambda token: done.first_logprobs[token])
    (silent,) = engine_for(endpoint).generate([ask(chat=chat, choices=("a", "b"))])
    assert silent.first_logprobs == {}


def test_an_endpoint_that_ignores_choices_is_read_and_said_once() -> None:
    said: list[str] = []
    done = list(
        engine_for(Endpoint(guided=False), say=said.append).generate([ask(i, choices=("a", "b")) for i in (1, 2)])
    )
    assert all(one.finish_reason == "stop" and one.text for one in done)
    assert len(said) == 1
    assert "ignores the choices" in said[0]


def test_the_limit_of_tokens_is_a_finish_reason() -> None:
    (done,) = engine_for(Endpoint()).generate([ask(max_tokens=1)])
    assert (done.finish_reason, done.completion_tokens) == ("length", 1)


NAMES = st.sampled_from(["choices", "text", "message", "content", "finish_reason", "usage", "logprobs", "error"])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner),
)


@settings(max_examples=100, deadline=None)
@given(answer=ANYTHING)
def test_no_answer_whatever_it_is_breaks_the_reading(answer: object) -> None:
    for chat in (False, True):
        wire.error_in(answer)
        done = wire.completion(ask(chat=chat, logprobs=1), answer)
        wire.oddities(ask(chat=chat), answer, done)
        assert Completion.model_validate_json(done.model_dump_json()) == done
        assert bool(done.error) == (done.finish_reason == "error")


def read(message: object, ended: object = "stop", **more: Any) -> Completion:
    """A chat's answer as we read it."""
    return wire.completion(
        ask(chat=True, max_tokens=9), {"choices": [{"message": message, "finish_reason": ended}], **more}
    )


@pytest.mark.parametrize("ended", ["stop", "eos_token", None, "end_turn", "anything"])
def test_an_answer_is_an_answer_however_it_says_that_it_ended(ended: str | None) -> None:
    done = read({"content": "hello"}, ended, usage={"completion_tokens": 3})
    assert (done.text, done.finish_reason, done.completion_tokens) == ("hello", "stop", 3)
    cut = read({"content": "hello"}, ended, usage={"completion_tokens": 9})
    assert cut.finish_reason == ("stop" if ended == "stop" else "length")  # it filled its limit and says no reason
    assert read({"content": "hello"}, "max_tokens").finish_reason == "length"


def test_odd_finish_reasons_are_said_once() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET":
            return httpx2.Response(404)
        return httpx2.Response(200, json={"choices": [{"text": "x", "finish_reason": "eos_token"}, {"text": "y"}]})

    said: list[str] = []
    engine = OpenAIEngine("http://e.invalid/v1", None, transport=httpx2.MockTransport(answer), say=said.append)
    assert {one.text for one in engine.generate(asks(5)[1::2])} == {"x"}
    assert [("eos_token" in one, "2 answers" in one) for one in said] == [(True, False), (False, True)]


@pytest.mark.parametrize(
    ("message", "ended", "why"),
    [
        ({"content": None, "refusal": "I cannot help with that."}, "stop", "the model refused: I cannot help"),
        ({"content": None, "reasoning_content": "I think ..."}, "stop", "it is only thinking"),
        ({"content": "", "reasoning": "I think ..."}, "length", "only thinking, up to the limit of tokens"),
        ({"content": "<think>I think ..."}, "length", "only thinking, up to the limit of tokens"),
        ({"content": "half of"}, "content_filter", "content filter"),
        ({"content": None, "tool_calls": [{"id": "1"}]}, "tool_calls", "calls a tool"),
        ({"content": None}, "stop", "it is empty"),
        ({"content": " \n"}, "stop", "it is empty"),
    ],
)
def test_an_answer_that_is_not_there_says_why(message: dict[str, object], ended: str, why: str) -> None:
    done = read(message, ended)
    assert not done.text.strip()
    assert why in done.no_answer
    assert done.finish_reason != "error"


def test_parts_are_joined_and_thinking_stays_out() -> None:
    parts = [{"type": "thinking", "thinking": [{"text": "no"}]}, {"type": "text", "text": "a"}, {"text": "b"}]
    assert read({"content": parts}).text == "ab"
    done = read({"content": "<think>so so</think>\n\nhello", "reasoning_content": "hm"})
    assert (done.text, done.no_answer) == ("hello", "")
    assert done.thinking


@pytest.mark.parametrize("usage", [None, [], "many", {"completion_tokens": "3"}, {"completion_tokens": -1}])
def test_counts_that_are_none_are_zero(usage: object) -> None:
    assert read({"content": "hello"}, usage=usage).completion_tokens == 0


@pytest.mark.parametrize("answer", [{"choices": []}, {"choices": None}, {"choices": [{"message": {"content": 3}}]}, 7])
def test_what_is_no_answer_is_a_failed_call_with_a_reason(answer: object) -> None:
    done = wire.completion(ask(chat=True), answer)
    assert done.finish_reason == "error"
    assert done.error.startswith(wire.GARBAGE)


def test_logprobs_that_are_no_numbers_are_left_out() -> None:
    logprobs = {
        "tokens": ["a"],
        "token_logprobs": [float("-inf")],
        "top_logprobs": [{"b": -1.0, "c": -9999.0}],
    }
    assert wire.first_logprobs(logprobs) == {"b": -1.0}


# --- faults ---------------------------------------------------------------------------------------------

PASSING: tuple[Fault, ...] = ("ok", "429", "500", "503", "garbage", "half")  # "reset": the client pauses for long


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
    endpoint, requests = Endpoint(faults=["ok", *faults]), asks(count)  # one good call: it is an endpoint
    engine = engine_for(endpoint, concurrency=concurrency, attempts=attempts)
    list(engine.generate([ask(99)]))
    endpoint.posts.clear()
    done = list(engine.generate(requests))
    assert sorted(c.request for c in done) == sorted(r.key for r in requests)
    assert all(bool(c.error) == (c.finish_reason == "error") for c in done)
    assert len(endpoint.posts) <= count * attempts
    answered = {c.request: c for c in done if not c.error}
    unhurt = {c.request: c for c in engine_for(Endpoint()).generate(requests)}
    assert answered.items() <= unhurt.items()


def answering(*answers: httpx2.Response) -> tuple[httpx2.MockTransport, list[httpx2.Request]]:
    """An endpoint without a list of models that gives each answer once, and the last one ever after."""
    left, posts = list(answers), list[httpx2.Request]()

    def handle(request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET":
            return httpx2.Response(404)
        posts.append(request)
        return left.pop(0) if len(left) > 1 else left[0]

    return httpx2.MockTransport(handle), posts


def test_an_error_inside_a_good_status_is_said_in_its_own_words_at_once() -> None:
    error = {"error": {"message": "the quota is used up until tomorrow", "code": 402}}
    handle, posts = answering(httpx2.Response(200, json=error))
    started = time.monotonic()
    engine = OpenAIEngine("http://e.invalid/v1", None, transport=handle, concurrency=64)
    done, stopped = drain(engine.generate(asks(200)))
    assert isinstance(stopped, MachineError)
    assert "quota is used up until tomorrow" in str(stopped)
    assert all("quota" in one.error for one in done)
    assert len(posts) < 2 * FIRST_CALLS
    assert time.monotonic() - started < 5
    busy = {"error": {"message": "slow down", "code": "429"}}
    good = {"choices": [{"text": "x", "finish_reason": "stop"}]}
    handle, posts = answering(httpx2.Response(200, json=busy, headers=AT_ONCE), httpx2.Response(200, json=good))
    (one,) = OpenAIEngine("http://e.invalid/v1", None, transport=handle).generate([ask()])
    assert (one.text, len(posts)) == ("x", 2)


def test_an_answer_that_is_not_utf8_is_said_at_once() -> None:
    handle, posts = answering(httpx2.Response(200, content=b'{"choices": [{"text": "caf\xe9"}]}'))
    (done,) = OpenAIEngine("http://e.invalid/v1", None, transport=handle).generate([ask()])
    assert "not UTF-8" in done.error
    assert len(posts) == 1


def test_server_sent_events_are_joined() -> None:
    chunks = [
        {"choices": [{"delta": {"role": "assistant", "content": "hello\u2028\x85\n"}, "finish_reason": None}]},
        {"choices": [{"delta": {"content": "there"}, "finish_reason": "stop"}], "usage": {"completion_tokens": 2}},
    ]
    events = [f"data: {json.dumps(chunk, ensure_ascii=False)}" for chunk in chunks]
    for end in ("\n", "\r", "\r\n"):
        text = (2 * end).join([": waiting", *events, "data: [DONE]", ""])
        handle, _ = answering(httpx2.Response(200, text=text, headers={"content-type": "text/event-stream"}))
        (done,) = OpenAIEngine("http://e.invalid/v1", None, transport=handle).generate([ask(chat=True)])
        assert (done.text, done.finish_reason, done.completion_tokens) == ("hello\u2028\x85\nthere", "stop", 2)
    handle, _ = answering(httpx2.Response(200, text='data: {"error": {"message": "no seats"}}\n\n'))
    (done,) = OpenAIEngine("http://e.invalid/v1", None, transport=handle).generate([ask(chat=True)])
    assert "no seats" in done.error


REFUSALS = {
    "max_tokens": "Unsupported parameter: 'max_tokens' is not supported with this model."
    " Use 'max_completion_tokens' instead.",
    "structured_outputs": "Unrecognized request argument supplied: structured_outputs",
    "logprobs": "'logprobs' is not supported with this model.",
}


@pytest.mark.parametrize("parameter", REFUSALS)
def test_an_endpoint_is_asked_in_the_way_it_says_and_remembers(parameter: str) -> None:
    bodies: list[dict[str, Any]] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET":
            return httpx2.Response(404)
        bodies.append(json.loads(request.content))
        if parameter in bodies[-1]:
            return httpx2.Response(400, json={"error": {"message": REFUSALS[parameter]}})
        return httpx2.Response(200, json={"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]})

    said: list[str] = []
    engine = OpenAIEngine(
        "http://e.invalid/v1", None, transport=httpx2.MockTransport(handle), concurrency=1, say=said.append
    )
    requests = [ask(i, chat=True, choices=("a", "b"), logprobs=5, max_tokens=7) for i in range(4)]
    assert [one.text for one in engine.generate(requests)] == ["a"] * 4
    assert [parameter in one for one in bodies] == [True, False, False, False, False]
    assert len(said) == 1
    assert parameter in said[0]
    assert bodies[-1].get("max_completion_tokens") == (7 if parameter == "max_tokens" else None)


def test_a_refusal_of_a_value_is_no_lesson() -> None:
    sent = wire.body(ask(logprobs=20), "m", wire.Dialect())
    for said in ("logprobs must be at most 5", "'max_tokens' or 'max_completion_tokens' is too large: 500"):
        assert wire.lesson(said, sent, wire.Dialect()) is None


def test_when_the_first_calls_are_refused_alike_no_more_are_sent() -> None:
    said = "temperature 0.9 is not offered (request 8f3a2b1c9d)"
    handle, posts = answering(httpx2.Response(400, json={"error": said}))
    done, error = drain(OpenAIEngine("http://e.invalid/v1", None, transport=handle, concurrency=64).generate(asks(300)))
    assert isinstance(error, MachineError)
    assert "temperature 0.9 is not offered" in str(error)
    assert len(done) <= len(posts) < 2 * FIRST_CALLS


def test_what_passes_is_tried_again_and_what_does_not_is_not() -> None:
    faults: list[Fault] = ["reset", "500", "429", "garbage"]
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


@pytest.mark.parametrize("said", ["86400", formatdate(4e9, usegmt=True), "soon", "-1", "nan", "0.5"])
def test_a_wait_is_never_longer_than_the_client_is_willing_to(said: str) -> None:
    response = httpx2.Response(429, headers={"retry-after": said})
    wire.cap_wait(response)
    long = said == "86400" or said.endswith("GMT")
    assert response.headers["retry-after"] == (str(wire.LONGEST_WAIT_S) if long else said)


@pytest.mark.parametrize("code", [401, 403, 404])
def test_an_error_code_inside_an_answer_is_that_answers_alone(code: int) -> None:
    good = {"choices": [{"text": "x", "finish_reason": "stop"}]}
    bad = {"error": {"code": code, "message": "nobody serves this prompt"}}
    transport, _ = answering(*(httpx2.Response(200, json=bad if n == 4 else good) for n in range(9)))
    done = list(OpenAIEngine("http://e.invalid/v1", None, concurrency=1, transport=transport).generate(asks(9)))
    assert [c.error.startswith(f"HTTP {code}") for c in done] == [n == 4 for n in range(9)]


def test_a_hanging_answer_is_given_up() -> None:
    with serving(Endpoint(faults=["hang"])) as endpoint:
        engine = OpenAIEngine(endpoint.base_url, None, timeout_s=0.3, attempts=1, concurrency=2)
        done = list(engine.generate(asks(3)))
        engine.close()
    assert sorted(c.error for c in done) == ["", "", wire.TIMEOUT]


@pytest.mark.parametrize("timeouts", [1, 2])
def test_attempts_that_end_without_an_answer_in_time_are_few(timeouts: int) -> None:
    """All six attempts of a request would wait for a hanging endpoint for 12 minutes, at 120 s each."""
    with serving(Endpoint(faults=["hang"] * 2)) as endpoint:
        engine = OpenAIEngine(endpoint.base_url, None, timeout_s=0.3, timeouts=timeouts, concurrency=1)
        done = list(engine.generate(asks(2)))
        engine.close()
    assert [c.error for c in done] == [wire.TIMEOUT, wire.TIMEOUT if timeouts == 1 else ""]
    assert len(endpoint.posts) == (2 if timeouts == 1 else 3)


def test_an_endpoint_that_is_too_slow_for_a_burst_is_asked_less_at_once_and_not_given_up() -> None:
    """It answers two at a time. All others of a burst of 64 wait for longer than the time-out."""

    class Slow(Endpoint):
        def _answer(self, *asked: Any) -> Any:
            with turns:
                return super()._answer(*asked)

    turns = threading.Semaphore(2)
    said: list[str] = []
    with serving(Slow(delay_s=0.05)) as endpoint:
        engine = OpenAIEngine(
            endpoint.base_url, None, timeout_s=0.5, concurrency=64, attempts=20, timeouts=9, say=said.append
        )
        done = list(engine.generate(asks(120)))
        engine.close()
    assert Counter(c.error for c in done) == {"": 120}
    assert said[0].split(": ", 1)[1].startswith("it does not answer in time: ")


def test_a_burst_that_is_late_is_one_event_and_what_is_sent_after_it_counts() -> None:
    failures, requests = Failures(), asks(60)
    for one in requests[:30]:
        failures.sent(one)
    for one in requests[:30]:
        failures.count(Completion(request=one.key, finish_reason="error", error=wire.TIMEOUT))
    assert failures.in_a_row == 0
    for one in requests[30:]:
        failures.sent(one)
        failures.count(Completion(request=one.key, finish_reason="error", error=wire.TIMEOUT))
    assert failures.in_a_row == 30
    failures.count(Completion(request="r", text="a", finish_reason="stop"))
    assert failures.in_a_row == 0


def test_quick_failures_are_not_taken_for_time_outs() -> None:
    with serving(Endpoint(faults=["reset"] * 4)) as endpoint:
        engine = OpenAIEngine(endpoint.base_url, None, timeouts=1, concurrency=1)
        (done,) = engine.generate(asks(1))
        engine.close()
    assert (done.error, len(endpoint.posts)) == ("", 5)


def test_an_endpoint_that_dies_ends_the_work_and_says_what_is_kept() -> None:
    with serving(Endpoint(dies_after=7)) as endpoint:
        engine = OpenAIEngine(endpoint.base_url, None, concurrency=4, attempts=2)
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
    wrong = OpenAIEngine("http://e.invalid/v1", "sk-wrong", transport=transport(closed))
    with pytest.raises(
        UsageError, match=r"http://e.invalid/v1 refuses the key \(HTTP 401: Incorrect API key provided: \.\.\.\)"
    ) as caught:
        list(wrong.generate([ask()]))
    assert "sk-wrong" not in str(caught.value)
    endpoint = Endpoint(models=("teacher-large", "other"))
    with pytest.raises(UsageError, match=r"'teacher' .*'teacher-large'.*teacher-large, other"):
        list(engine_for(endpoint).generate([ask()]))
    nowhere = OpenAIEngine("http://e.invalid/v2", None, transport=transport(Endpoint()))
    with pytest.raises(UsageError, match=r"HTTP 404: Not Found.*/v1"):
        list(nowhere.generate([ask()]))
    assert [*closed.posts, *endpoint.posts] == []


def test_an_endpoint_that_is_not_there_is_a_fault_of_the_machine() -> None:
    engine = OpenAIEngine("http://127.0.0.1:9/v1", None)
    with pytest.raises(MachineError, match=r"http://127\.0\.0\.1:9/v1"):
        list(engine.generate([ask()]))


def test_an_endpoint_that_lists_revisions_or_nothing() -> None:
    pinned = Endpoint(models=("teacher@rev1", "teacher"))
    list(engine_for(pinned).generate([ask()]))
    assert pinned.posts[0]["model"] == "teacher@rev1"

    def silent(request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET":
            return httpx2.Response(200, json={"data": []})
        return httpx2.Response(200, json={"choices": [{"text": "x", "finish_reason": "stop"}]})

    engine = OpenAIEngine("http://e.invalid/v1", None, transport=httpx2.MockTransport(silent))
    (done,) = engine.generate([ask()])
    assert (done.text, done.completion_tokens) == ("x", 0)


@pytest.mark.parametrize(
    "listing",
    [
        httpx2.Response(200, json=[{"id": "teacher"}]),
        httpx2.Response(200, json={"models": "many"}),
        httpx2.Response(404),
        httpx2.Response(401, json={"error": "Missing scopes: api.model.read"}),
        httpx2.Response(403, json={"error": "Missing scopes: api.model.read"}),
        httpx2.Response(500, headers=AT_ONCE),
    ],
)
def test_the_list_of_models_is_a_courtesy(listing: httpx2.Response) -> None:
    good = {"choices": [{"text": "x", "finish_reason": "stop"}]}
    handle = httpx2.MockTransport(lambda r: listing if r.method == "GET" else httpx2.Response(200, json=good))
    (done,) = OpenAIEngine("http://e.invalid/v1", None, transport=handle).generate([ask()])
    assert done.text == "x"


@pytest.mark.parametrize("ending", ["", "/"])
def test_the_query_of_an_address_stays_behind_the_path(ending: str) -> None:
    asked: list[str] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.url.raw_path.decode())
        return httpx2.Response(400, json={"error": "the version 2024-06-01-secret is gone"})

    base = f"http://e.invalid/openai/x{ending}?api-version=2024-06-01-secret"
    (done,) = OpenAIEngine(base, None, transport=httpx2.MockTransport(handle)).generate([ask()])
    query = "?api-version=2024-06-01-secret"
    assert asked == [f"/openai/x/models{query}", f"/openai/x/completions{query}"]
    assert "secret" not in done.error


def test_something_else_than_an_endpoint_is_named_so() -> None:
    page = httpx2.MockTransport(lambda request: httpx2.Response(200, text="<html>"))
    with pytest.raises(UsageError, match="not as an OpenAI-compatible endpoint does"):
        list(OpenAIEngine("http://e.invalid", None, transport=page).generate([ask()]))
    moved = httpx2.MockTransport(lambda request: httpx2.Response(301, headers={"location": "https://x/"}))
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


def test_leaving_does_not_wait_for_a_pause_and_nothing_is_asked_after_it() -> None:
    faults: list[Fault] = ["429"] * 50
    endpoint = Endpoint(faults=["ok", *faults], retry_after="2")
    iterator = engine_for(endpoint, concurrency=4).generate(asks(10))
    assert next(iterator).finish_reason == "stop"
    started = time.monotonic()
    iterator.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 1
    time.sleep(3)
    assert len(endpoint.posts) <= 5, "after the pause each would have asked again"


def test_the_key_is_in_no_error_no_repr_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    faults: list[Fault] = ["400", "500", "401"]
    endpoint = Endpoint(faults=faults, key=KEY)
    engine = engine_for(endpoint, concurrency=1, attempts=1)
    done, error = drain(engine.generate(asks(8)))
    written = " ".join([str(error), repr(error), repr(engine), caplog.text, *map(repr, done)])
    assert error is not None
    assert [c.finish_reason for c in done] == ["error", "error"]
    assert KEY not in written
    assert "secret.example" not in written


def test_nothing_of_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, "from-the-environment")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer from-the-environment")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://from-the-environment/v1")
    sent: list[httpx2.Request] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        return httpx2.Response(200, json={"choices": [{"text": "x", "finish_reason": "stop"}]})

    for key in (None, KEY):
        engine = OpenAIEngine("http://e.invalid/v1", key, transport=httpx2.MockTransport(handle))
        assert [done.text for done in engine.generate([ask()])] == ["x"]
    assert [request.headers.get("authorization") for request in sent] == [None, None, *2 * [f"Bearer {KEY}"]]
    assert not any("from-the-environment" in f"{request.url} {dict(request.headers)}" for request in sent)
