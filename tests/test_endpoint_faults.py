"""Over real connections: an endpoint that throttles, comes back, drips or breaks off, and how it is asked then."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from openai import OpenAI

from harness.engines import openai_wire as wire
from harness.engines.openai import OpenAIEngine
from harness.engines.several import SeveralEngines, Source
from tests.http_server import Endpoint, Fault, serving
from tests.test_openai_engine import asks

WINDOW = 32


def refused(endpoint: Endpoint) -> int:
    """How many POSTs were one too many."""
    return sum(crowded for _, crowded in endpoint.arrivals)


def ask_with_a_fixed_window(url: str, count: int) -> None:
    """Have WINDOW threads ask as many requests, each until it is answered."""
    client = OpenAI(base_url=url, api_key="none", max_retries=100_000)
    with ThreadPoolExecutor(WINDOW) as threads:
        list(
            threads.map(lambda n: client.completions.create(model="teacher", prompt=str(n), max_tokens=5), range(count))
        )
    client.close()


def test_far_fewer_requests_are_refused_than_with_a_fixed_window() -> None:
    fixed = Endpoint(at_once=4, delay_s=0.02, retry_after="0.02")
    with serving(fixed):
        ask_with_a_fixed_window(fixed.base_url, 150)
    said: list[str] = []
    paced = Endpoint(at_once=4, delay_s=0.02, retry_after="0.02")
    with serving(paced):
        engine = OpenAIEngine(paced.base_url, None, concurrency=WINDOW, say=said.append)
        done = list(engine.generate(asks(150)))
        engine.close()
    assert len(done) == 150
    assert all(one.finish_reason == "stop" for one in done)
    assert refused(paced) * 5 < refused(fixed), (refused(paced), refused(fixed))
    (told,) = said
    assert re.search(r"/v1: it throttles \(HTTP 429\): \d+ in flight from now on, more again as it answers$", told)


def test_a_server_that_allows_less_and_then_more_again_is_followed() -> None:
    endpoint = Endpoint(delay_s=0.05)
    with serving(endpoint):
        engine = OpenAIEngine(endpoint.base_url, None, concurrency=16)
        done, sent = [], asks(600)
        for completion in engine.generate(sent):
            done.append(completion)
            if len(done) == 100:
                endpoint.at_once = 3
            if len(done) == 200:
                endpoint.at_once = None
                few = len(endpoint.arrivals)
        engine.close()
    crowds = [crowd for crowd, _ in endpoint.arrivals]
    assert sorted(one.request for one in done) == sorted(one.key for one in sent)
    assert all(one.finish_reason == "stop" for one in done)
    assert max(crowds[:100]) >= 10
    assert max(crowds[few - 40 : few]) <= 5
    assert max(crowds[-100:]) >= 10, "it comes back"
    assert refused(endpoint) < 100


def test_an_endpoint_that_is_busy_for_a_while_costs_no_completion() -> None:
    busy: list[Fault] = ["503"] * 20
    said: list[str] = []
    with serving(Endpoint(faults=["ok", *busy], retry_after="0", delay_s=0.01)) as endpoint:
        engine = OpenAIEngine(endpoint.base_url, None, concurrency=16, say=said.append)
        done = list(engine.generate(asks(60)))
        engine.close()
    assert len(done) == 60
    assert all(one.finish_reason == "stop" for one in done)
    assert len(endpoint.posts) == 60 + 20
    assert len(said) == 1
    assert "it throttles (HTTP 503)" in said[0]


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        (["429"], "it throttles (HTTP 429)"),
        (["503"], "it throttles (HTTP 503)"),
        (["529"], "it throttles (HTTP 529)"),
        (["500", "reset", "garbage"], ""),
    ],
)
def test_what_a_retry_hides_lowers_the_pace_and_other_failures_do_not(faults: list[Fault], expected: str) -> None:
    said: list[str] = []
    with serving(Endpoint(faults=faults)) as endpoint:
        engine = OpenAIEngine(endpoint.base_url, None, concurrency=16, say=said.append)
        done = list(engine.generate(asks(12)))
        engine.close()
    assert [one.finish_reason for one in done] == ["stop"] * 12
    assert len(said) == bool(expected)
    assert expected in "".join(said)


def test_a_server_that_dies_and_comes_back_costs_no_completion() -> None:
    endpoint, sent = Endpoint(delay_s=0.05), asks(40)
    with serving(endpoint):
        engine = OpenAIEngine(endpoint.base_url, None, concurrency=4)
        answers = engine.generate(sent)
        done = [next(answers) for _ in range(10)]
    time.sleep(0.6)  # the first retry finds nobody
    with serving(endpoint, port=int(endpoint.base_url.split(":")[2].split("/")[0])):
        done += answers
        engine.close()
    assert sorted(one.request for one in done) == sorted(one.key for one in sent)
    assert all(one.finish_reason == "stop" for one in done)
    assert 40 <= len(endpoint.posts) <= 44, "only what was on its way is asked twice"


def test_an_answer_that_breaks_off_is_asked_again() -> None:
    with serving(Endpoint(faults=["cut"])) as endpoint:
        engine = OpenAIEngine(endpoint.base_url, None)
        (done,) = engine.generate(asks(1))
        assert (done.finish_reason, len(endpoint.posts)) == ("stop", 2)
        engine.close()
    with serving(Endpoint(faults=["cut"])) as endpoint:
        engine = OpenAIEngine(endpoint.base_url, None, attempts=1)
        (done,) = engine.generate(asks(1))
        assert done.error.startswith(wire.NO_ANSWER)
        engine.close()


@pytest.mark.parametrize(
    ("drips", "error"),
    [
        pytest.param((15, 0.1), "", id="longer than the time-out, and it comes"),
        pytest.param((200, 0.1), wire.TIMEOUT, id="without end"),
        pytest.param((2, 2.0), wire.TIMEOUT, id="one gap is too long"),
    ],
)
def test_an_answer_that_drips_has_its_time_and_no_more(drips: tuple[int, float], error: str) -> None:
    with serving(Endpoint(faults=["drip"], drips=drips)) as endpoint:
        engine = OpenAIEngine(endpoint.base_url, None, timeout_s=0.5, attempts=1)
        (done,) = engine.generate(asks(1))
        engine.close()
    assert done.error == error
    assert bool(done.text) == (not error)


def test_of_two_endpoints_the_one_that_throttles_is_sent_less() -> None:
    strong, weak = Endpoint(delay_s=0.02), Endpoint(delay_s=0.02, at_once=2, retry_after="0.02")
    sent = asks(300)
    with serving(strong), serving(weak):
        both = [OpenAIEngine(one.base_url, None, concurrency=16) for one in (strong, weak)]
        names = zip(("strong", "weak"), both, strict=True)
        engine = SeveralEngines([Source(name, "teacher@rev1", lambda one=one: one) for name, one in names])  # type: ignore[misc]
        done = list(engine.generate(sent))
        engine.close()
    assert sorted(one.request for one in done) == sorted(one.key for one in sent)
    assert all(one.finish_reason == "stop" for one in done)
    answered = len(weak.posts) - refused(weak)
    assert len(strong.posts) > 2 * answered > 0
    assert refused(weak) < answered
