"""Rows in the making: what is asked when, that each row is judged once, and that arrival changes nothing."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.augment.ask import Asker
from harness.augment.chain import Chain, Place
from harness.augment.rows import Judged, Lost
from harness.augment.scheduler import FRUITLESS, Scheduler
from harness.core.terminal import Stop
from harness.engines.call_cache import CallCache
from harness.errors import MachineError
from harness.filters.base import Answers, Rule
from harness.records import Completion, Origin, Request, Row, Sampling, Verdict
from tests.project import row


def wanted(i: int, purpose: str = "generate", words: str = "") -> Request:
    origin = Origin.model_validate({"purpose": purpose})
    return Request(model="t@1", prompt=f"{words or purpose} {i}", sampling=Sampling(), origin=origin)


class Slow:
    """Answers in an order of its own, `room` requests in flight, and notes how full it was."""

    def __init__(self, room: int, random_seed: int = 0) -> None:
        self.room, self.draw = room, random.Random(random_seed)
        self.in_flight: list[int] = []
        self.order: list[str] = []
        self.begun = 0  # answers there were when the last row was begun

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        source, flying = iter(requests), list[Request]()
        while True:
            while len(flying) < self.room and (request := next(source, None)):
                flying.append(request)
                self.begun = len(self.order) if request.prompt.startswith("generate") else self.begun
            if not flying:
                return
            self.in_flight.append(len(flying))
            request = flying.pop(self.draw.randrange(len(flying)))
            self.order.append(request.prompt)
            yield Completion(request=request.key, text=f"text of {request.prompt}", finish_reason="stop")


class Watched:
    """A rule on one row, one that asks about it, and one that compares rows; each notes what it was given."""

    def __init__(self) -> None:
        self.alone: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.compared: list[list[str]] = []

    def rules(self, keep: bool = True) -> list[Rule]:
        def alone(rows: Sequence[Row], answers: Answers) -> list[Verdict]:
            self.alone.update(r.text for r in rows)
            return [Verdict(row=r.id, filter="alone", keep=keep) for r in rows]

        def judged(rows: Sequence[Row], answers: Answers) -> list[Verdict]:
            self.asked.update(r.text for r in rows)
            for r, (answer,) in zip(rows, answers, strict=True):
                assert answer.error or answer.text.endswith(f"judge {r.text.split()[-1]}")
            return [Verdict(row=r.id, filter="judge", keep=not a.error) for r, (a,) in zip(rows, answers, strict=True)]

        def compared(rows: Sequence[Row], answers: Answers) -> list[Verdict]:
            self.compared.append([r.text for r in rows])
            return [Verdict(row=r.id, filter="compared", keep=n % 3 > 0) for n, r in enumerate(rows)]

        def question(r: Row) -> tuple[Request, ...]:
            return (wanted(int(r.text.split()[-1]), "judge"),)

        return [Rule(alone), Rule(compared, compares_rows=True), Rule(judged, question)]


def read(request: Request, completion: Completion) -> Row | Lost:
    if completion.error:
        return Lost(lost="failed", reason=completion.error, request=request.key)
    if request.prompt.endswith("7"):
        return Lost(lost="unparsed", reason="a seven", request=request.key)
    return row(completion.text)


@dataclass(frozen=True)
class Steps:
    """Makes rows in steps. The completion of one stands in the prompt of the next."""

    count: int = 1

    def begin(self, place: Place) -> Chain:
        return Chain(place, (), {}, None)

    def requests(self, chain: Chain) -> tuple[Request, ...]:
        step, i = len(chain.values), chain.place[1]
        return (wanted(i, words=f"step {step} of {chain.values[str(step - 1)]} as") if step else wanted(i),)

    def take(self, chain: Chain, requests: Sequence[Request], answers: Sequence[Completion]) -> Chain | Row | Lost:
        (request,), (completion,) = requests, answers
        if completion.error or len(chain.values) + 1 == self.count:
            return read(request, completion)
        return chain._replace(values={**chain.values, str(len(chain.values)): completion.text})


def places(count: int) -> Iterator[Place]:
    return iter([("", i) for i in range(count)])


def scheduler(folder: Path, engine: Slow, rules: Sequence[Rule], stop: Stop | None = None) -> Scheduler:
    ask = Asker(CallCache(folder / "calls.sqlite"), lambda: engine, stop or Stop())
    return Scheduler(rules, ask)


def no_tick() -> None:
    pass


def outcome(made: Scheduler) -> tuple[list[Judged], list[Lost]]:
    made.ask.cache.close()
    return made.outcome()


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 90), st.integers(1, 40), st.integers(0, 10**6))
def test_the_order_of_arrival_changes_no_row_and_no_verdict(
    tmp_path_factory: pytest.TempPathFactory, count: int, room: int, random_seed: int
) -> None:
    watched = Watched()
    made = scheduler(tmp_path_factory.mktemp("s"), Slow(room, random_seed), watched.rules())
    made.write(places(count), Steps(), no_tick)
    judged, lost = outcome(made)
    numbers = [i for i in range(count) if i % 10 != 7]
    assert [line.row.text for line in judged] == [f"text of generate {i}" for i in numbers]
    assert [line.request for line in lost] == [wanted(i).key for i in range(count) if i % 10 == 7]
    assert [[v.filter for v in line.verdicts] for line in judged] == [["alone", "compared", "judge"]] * len(judged)
    assert [line.kept for line in judged] == [n % 3 > 0 for n in range(len(judged))]
    assert watched.alone == watched.asked == Counter(line.row.text for line in judged)


def test_each_row_is_judged_once_however_many_rounds_there_are(tmp_path: Path) -> None:
    watched, engine = Watched(), Slow(16)
    made = scheduler(tmp_path, engine, watched.rules())
    for total in (50, 80, 200):
        made.write(places(total), Steps(), no_tick)
    judged, _ = outcome(made)
    assert len(judged) == 180
    assert set(watched.alone.values()) == set(watched.asked.values()) == {1}
    assert len(engine.order) == len(set(engine.order)) == 200 + 180
    assert watched.compared == [[line.row.text for line in judged]]


def test_the_engine_is_full_until_the_last_row_is_being_written(tmp_path: Path) -> None:
    engine = Slow(32)
    made = scheduler(tmp_path, engine, Watched().rules())
    made.write(places(600), Steps(), no_tick)
    outcome(made)
    assert min(engine.in_flight[: engine.begun]) == 32
    assert sum(engine.in_flight) / len(engine.in_flight) > 29
    first_judged = min(i for i, prompt in enumerate(engine.order) if prompt.startswith("judge"))
    assert first_judged < 150, "a row is judged while others are written"


def test_nothing_more_is_asked_where_nothing_at_all_is_kept(tmp_path: Path) -> None:
    engine = Slow(8)
    made = scheduler(tmp_path, engine, Watched().rules(keep=False))
    made.write((("", i) for i in range(10**9)), Steps(), no_tick)
    judged, lost = outcome(made)
    assert made.fruitless
    assert len(judged) + len(lost) == len(made.order) == FRUITLESS
    assert not any(line.kept for line in judged)
    assert len(engine.order) < 2 * FRUITLESS + 40


@pytest.mark.parametrize("room", [1, 32, 128])
def test_whether_more_is_asked_does_not_depend_on_the_order_of_arrival(tmp_path: Path, room: int) -> None:
    def late(rows: Sequence[Row], answers: Answers) -> list[Verdict]:
        return [Verdict(row=r.id, filter="late", keep=int(r.text.split()[-1]) >= FRUITLESS) for r in rows]

    made = scheduler(tmp_path, Slow(room, room), [Rule(late)])
    made.write(places(600), Steps(), no_tick)
    judged, lost = outcome(made)
    assert (made.fruitless, len(judged) + len(lost), sum(line.kept for line in judged)) == (True, FRUITLESS, 0)


def test_own_rows_of_which_none_is_kept_are_all_judged_in_parts(tmp_path: Path) -> None:
    watched = Watched()
    made = scheduler(tmp_path, Slow(8), watched.rules(keep=False))
    made.judge([row(f"mine {i}") for i in range(2 * FRUITLESS)], no_tick)
    judged, _ = outcome(made)
    assert (len(judged), len(watched.compared)) == (2 * FRUITLESS, 1)
    assert set(watched.alone.values()) == {1}


def test_two_labels_asked_for_in_the_same_words_are_asked_once_and_give_a_row_each(tmp_path: Path) -> None:
    class Labelled(Steps):
        def requests(self, chain: Chain) -> tuple[Request, ...]:
            label, j = chain.place
            origin = Origin(purpose="generate", label=label)
            request = Request(model="t@1", prompt="write one", sampling=Sampling(), sample_index=j, origin=origin)
            return (request,)

        def take(self, chain: Chain, requests: Sequence[Request], answers: Sequence[Completion]) -> Row:
            return row(answers[0].text, chain.place[0])

    engine = Slow(2)
    made = scheduler(tmp_path, engine, [])
    made.write(iter([(label, j) for j in range(2) for label in ("a", "b")]), Labelled(), no_tick)
    judged, _ = outcome(made)
    assert [line.row.answer for line in judged] == ["a", "b", "a", "b"]
    assert len(engine.order) == 2


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 60), st.integers(1, 24), st.integers(2, 4), st.integers(0, 10**6))
def test_steps_of_many_rows_overlap_and_the_order_of_arrival_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, count: int, room: int, steps: int, random_seed: int
) -> None:
    engine = Slow(room, random_seed)
    made = scheduler(tmp_path_factory.mktemp("s"), engine, Watched().rules())
    made.write(places(count), Steps(steps), no_tick)
    judged, lost = outcome(made)
    assert [int(line.row.text.split()[-1]) for line in judged] == [i for i in range(count) if i % 10 != 7]
    assert len(engine.order) == count * steps + len(judged) == len(set(engine.order))
    assert len(lost) == sum(i % 10 == 7 for i in range(count))
    full = [n for n in engine.in_flight if n == min(room, count)]
    assert len(full) >= len(engine.in_flight) - (steps + 1) * room, "the engine idles at the very end alone"


def test_rows_that_are_there_already_are_judged_and_equal_questions_are_asked_once(tmp_path: Path) -> None:
    engine = Slow(4)
    made = scheduler(tmp_path, engine, Watched().rules())
    rows = [row(f"mine {i // 2}") for i in range(40)]
    made.judge(rows, no_tick)
    judged, lost = outcome(made)
    assert [line.row for line in judged] == rows
    assert (len(lost), len(engine.order)) == (0, 20)


def test_a_row_whose_question_was_stopped_has_a_verdict_and_says_so(tmp_path: Path) -> None:
    stop, engine = Stop(), Slow(4)
    made = scheduler(tmp_path, engine, Watched().rules(), stop)

    def tick() -> None:
        if len(engine.order) == 21:
            stop.request()

    made.write(places(100), Steps(), tick)
    judged, _ = outcome(made)
    assert made.ask.cut_short
    assert all(len(line.verdicts) == 3 for line in judged)
    stopped = [line for line in judged if not line.verdicts[2].keep]
    assert len(made.ask.answers) == len(engine.order)
    assert 0 < len(stopped) <= 4 + 8


def test_a_teacher_that_only_fails_ends_the_work(tmp_path: Path) -> None:
    class Broken(Slow):
        def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
            for request in filter(None, requests):
                yield Completion(request=request.key, finish_reason="error", error="no such model")

    made = scheduler(tmp_path, Broken(4), Watched().rules())
    with pytest.raises(MachineError, match="no such model"):
        made.write(places(10), Steps(), no_tick)
    made.ask.cache.close()


def test_the_last_tick_comes_when_all_is_judged(tmp_path: Path) -> None:
    """Rows that are there already, and ask a judge nothing, are judged in one go: a bar over them ends at their end."""
    settled: list[int] = []
    made = scheduler(tmp_path, Slow(4), Watched().rules()[:1])
    made.judge([row(f"mine {i}") for i in range(40)], lambda: settled.append(made.settled))
    assert settled == [40]
    made.write(places(40), Steps(), lambda: settled.append(made.settled))
    assert settled[-1] == 80
