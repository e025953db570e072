"""The pace: halved once for a burst, one more for each round of answers, never below 1, and kept by threads."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engines.pace import Outcome, Pace

MOST = st.integers(1, 40)
OUTCOMES: tuple[Outcome, ...] = ("answered", "answered", "throttled", "failed")


def never() -> bool:
    return False


def send(pace: Pace, count: int) -> list[int]:
    """What `begin` gives for so many requests, each of which must be let through."""
    sent = [pace.begin(lambda: True) for _ in range(count)]
    return [begun for begun in sent if begun is not None]


def finish(pace: Pace, sent: list[int], outcome: Outcome) -> None:
    for begun in sent:
        pace.end(begun, outcome)


def rounds(pace: Pace, count: int) -> None:
    """So many full rounds of answers."""
    for _ in range(count):
        finish(pace, send(pace, pace.limit), "answered")


@settings(deadline=None)
@given(first=MOST, most=MOST)
def test_it_starts_low_and_the_first_answer_opens_it(first: int, most: int) -> None:
    pace = Pace(first, most)
    assert pace.limit == min(first, most)
    finish(pace, send(pace, pace.limit), "failed")
    assert pace.limit == min(first, most), "a failure says nothing of how many are allowed"
    finish(pace, send(pace, 1), "answered")
    assert pace.limit == most


@settings(deadline=None)
@given(first=MOST, most=MOST)
def test_the_refusals_of_one_burst_halve_it_once(first: int, most: int) -> None:
    pace = Pace(first, most)
    before = pace.limit
    sent = send(pace, before)
    lowered = [pace.end(begun, "throttled") for begun in sent]
    assert pace.limit == max(1, before // 2)
    assert lowered == [pace.limit if before > 1 else None, *[None] * (before - 1)]
    rounds(pace, 1)
    assert pace.limit == min(most, max(1, before // 2) + 1), "what was throttled at first is not opened at once"


@settings(deadline=None)
@given(most=MOST, wanted=st.integers(1, 60))
def test_each_full_round_of_answers_adds_one_up_to_the_most(most: int, wanted: int) -> None:
    pace = Pace(1, most)
    finish(pace, send(pace, 1), "throttled")
    rounds(pace, wanted - 1)
    assert pace.limit == min(most, wanted)


def test_a_round_that_is_throttled_counts_for_nothing() -> None:
    pace = Pace(8, 8)
    *others, last = send(pace, 8)
    finish(pace, others, "answered")
    pace.end(last, "throttled")
    finish(pace, send(pace, 4)[:3], "answered")
    assert pace.limit == 4
    late = Pace(8, 8)
    first, *others = send(late, 8)
    late.end(first, "throttled")
    finish(late, others, "answered")
    assert late.limit == 4, "answers to what was sent before the halving are no round"


@settings(deadline=None)
@given(data=st.data(), first=MOST, most=MOST)
def test_whatever_comes_it_keeps_its_bounds(data: st.DataObject, first: int, most: int) -> None:
    pace = Pace(first, most)
    flying: list[int] = []
    halvings = answers = 0
    for _ in range(data.draw(st.integers(0, 80))):
        before = pace.limit
        if len(flying) < before and data.draw(st.booleans()):
            (begun,) = send(pace, 1)
            assert begun == halvings
            flying.append(begun)
        elif flying:
            begun = flying.pop(data.draw(st.integers(0, len(flying) - 1)))
            outcome = data.draw(st.sampled_from(OUTCOMES))
            lowered = pace.end(begun, outcome)
            answers += outcome == "answered"
            event = outcome == "throttled" and begun == halvings
            halvings += event
            if event:
                assert pace.limit == max(1, before // 2)
            else:
                assert before <= pace.limit <= before + 1 or (answers == 1 and pace.limit == most)
            assert lowered == (pace.limit if pace.limit < before else None)
        assert 1 <= pace.limit <= most
        if len(flying) >= pace.limit:
            assert pace.begin(lambda: True) is None, "there is no room"


def test_threads_keep_the_limit_and_none_waits_for_ever() -> None:
    pace, allowed, work = Pace(16, 16), 3, 400
    lock, draw = threading.Lock(), random.Random(3)
    there = refused = over = 0

    def ask(_: int) -> None:
        nonlocal there, refused, over
        outcome: Outcome = "throttled"
        while outcome != "answered":
            begun = pace.begin(never)
            assert begun is not None
            with lock:
                there += 1
                outcome = "throttled" if there > allowed else draw.choice(["answered", "answered", "failed"])
                refused += outcome == "throttled"
                over += there > 16
            time.sleep(0.0005)
            with lock:
                there -= 1
            pace.end(begun, outcome)

    with ThreadPoolExecutor(32) as threads:
        list(threads.map(ask, range(work)))
    assert (there, over) == (0, 0)
    assert 1 <= pace.limit <= 16
    assert refused < work
    assert len(send(pace, pace.limit)) == pace.limit, "all that began has ended"


@pytest.mark.parametrize("ends", [True, False])
def test_who_waits_goes_when_there_is_room_or_when_nobody_wants_it(ends: bool) -> None:
    pace, given_up = Pace(1, 1), threading.Event()
    (begun,) = send(pace, 1)
    found: list[int | None] = []
    waiting = threading.Thread(target=lambda: found.append(pace.begin(given_up.is_set)))
    waiting.start()
    time.sleep(0.05)
    assert not found
    if ends:
        pace.end(begun, "answered")
    else:
        given_up.set()
    waiting.join(10)
    assert found == [0 if ends else None]
