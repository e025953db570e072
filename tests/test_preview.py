"""A preview shows how rows come about, costs nothing twice, and its forecast holds what comes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from harness.augment.forecast import LEVEL, Tried, forecast, read_forecast
from harness.augment.preview import preview
from harness.augment.stage import augment
from harness.core.terminal import Stop
from harness.errors import UsageError
from harness.models.teachers import Teachers
from harness.records import Request
from tests.fakes import FakeGenerator, Passing, Quiet
from tests.test_steps import ANSWER, ASK, project, say

SHORT = {**ASK, "filters": [{"kind": "length", "max_words": 2}]}


def long_at_times(request: Request) -> str:
    """Every fourth question is too long for the filter of its step."""
    kept = request.origin.step != "question" or request.sample_index % 4 != 1
    return say(request) if kept else "this question is too long"


def test_it_shows_prompts_completions_and_verdicts_and_augment_asks_none_of_it_again(tmp_path: Path) -> None:
    run = project(tmp_path, [SHORT, ANSWER], filters=[{"kind": "duplicate"}])
    terminal = Quiet()
    tried = Passing(FakeGenerator(long_at_times))
    expected = preview(run, Teachers(own="t@1"), lambda: tried, terminal, Stop(), 10)
    told = "\n".join(terminal.said)
    assert told.count("--- row ") == 10 == expected.tried
    assert "[question] prompt:\n    Write question 0 like" in told
    assert "[answer] prompt:\n    <user> Answer: why 0?" in told
    assert "    answer of <Answer: why 0?>" in told
    assert told.count("no row: filtered by length: too long: words 5") == 10 - expected.kept > 0
    assert told.count("duplicate: keeps it\nkept") == expected.kept
    assert "make augment RUN=q is expected to take (90% intervals)" in told
    assert not (run.folder / "augment/train.jsonl").exists()
    whole = Passing(FakeGenerator(long_at_times))
    funnel = augment(run, Teachers(own="t@1"), lambda: whole, terminal, Stop())
    assert funnel is not None
    assert funnel.calls_cached == len(tried.completed)
    assert not {r.key for r in tried.requests} & {r.key for r in whole.requests}
    assert "the preview expected rows begun" in terminal.said[-1]


def test_answers_that_are_all_the_same_are_said_before_the_whole_is_paid(tmp_path: Path) -> None:
    run, terminal = project(tmp_path, [ASK, ANSWER]), Quiet()
    constant = FakeGenerator(lambda request: say(request) if request.origin.step == "question" else "Nothing.")
    preview(run, Teachers(own="t@1"), lambda: constant, terminal, Stop(), 8)
    assert terminal.text.count("of all 8 kept rows is the same: 'Nothing.'") == 1


def test_nothing_is_to_be_previewed_of_rows_that_are_there(tmp_path: Path) -> None:
    run = project(tmp_path, [], None, rows_file="prompts/q/seeds.jsonl", filters=[])
    with pytest.raises(UsageError, match="nothing to preview"):
        preview(run, Teachers(own="t@1"), lambda: FakeGenerator(say), Quiet(), Stop(), 4)


def test_rows_that_a_cap_cut_short_forecast_nothing(tmp_path: Path) -> None:
    run = project(tmp_path, [ASK, ANSWER], caps={"tokens": 30})
    with pytest.raises(
        UsageError, match=r"augment\.caps\.tokens \(30\) is reached: .* before 10 rows were made: raise it"
    ):
        preview(run, Teachers(own="t@1"), lambda: Passing(FakeGenerator(say)), Quiet(), Stop(), 10)
    assert read_forecast(run.folder / "augment") is None


@pytest.mark.parametrize("rate", [0.2, 0.6, 0.95])
def test_its_intervals_hold_what_comes_as_often_as_they_say(rate: float) -> None:
    draw = random.Random(round(rate * 100))
    wanted, first, most, tried, runs = 200, 300, 2000, 24, 120
    held = {"begun": 0, "rows": 0, "tokens": 0}
    for run in range(runs):

        def row() -> Tried:
            return Tried(kept=draw.random() < rate, requests=3, tokens=draw.randrange(50, 250))

        expected = forecast([row() for _ in range(tried)], wanted, first, most, run)
        came = [row() for _ in range(first)]
        while (kept := sum(r.kept for r in came)) < wanted and len(came) < most:
            seen = max(kept / len(came), 0.05)
            came += [row() for _ in range(min(-int(-(wanted - kept) // seen), most - len(came)))]
        held["begun"] += expected.begun.holds(len(came))
        held["rows"] += expected.rows.holds(kept)
        held["tokens"] += expected.tokens.holds(sum(r.tokens for r in came))
        assert expected.requests.holds(3 * len(came)) == expected.begun.holds(len(came))
    assert all(count / runs > LEVEL - 0.08 for count in held.values()), held


def test_a_forecast_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    assert read_forecast(tmp_path) is None
    (tmp_path / "forecast.json").write_text("[")
    assert read_forecast(tmp_path) is None
