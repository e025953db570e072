"""An exported form held against the student that it was made from: alike, worse, or too little to tell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.check.exported import ALIKE, ScoredAgain, scored_again
from harness.check.formats import exit_code
from harness.eval.current import results_of
from harness.records import Score
from harness.suites.suite import Suite
from tests.fakes import Quiet
from tests.stored import MARGIN, SHIP, Stored, Values, write_stored


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    made = write_stored(tmp_path)
    made.suite(limits=MARGIN)
    made.store(right(0))
    return made


def right(lost: int) -> Values:
    """Right on three of four items, but for the first `lost` of these."""
    return lambda place: {"accuracy": float(place % 4 > 0 and place >= 4 * lost / 3)}


def again(stored: Stored, values: Values, *settings: str) -> ScoredAgain:
    def rescore(suite: Suite) -> Sequence[Score]:
        return [
            Score(item=item.id, split=item.split, status="scored", values=values(place))
            for place, item in enumerate(suite.items)
        ]

    run = stored.run(*settings)
    return scored_again(run, results_of(run), SHIP, rescore, Quiet())


def test_what_answers_alike_passes_however_few_its_items(stored: Stored) -> None:
    found = again(stored, right(0))
    (change,) = found.changes
    assert (change.changed, change.before) == (0, change.now)
    assert [(d.verdict, d.shade) for d in found.decisions] == [("pass", ALIKE)]
    assert exit_code(found.decisions) == 0


@pytest.mark.parametrize(("lost", "code"), [(3, 0), (15, 4), (90, 1)])
def test_what_was_lost_is_judged_by_the_limits_of_the_suite(stored: Stored, lost: int, code: int) -> None:
    found = again(stored, right(lost))
    (change,) = found.changes
    assert 0 < change.changed <= lost  # some of them are dev items, which are not judged
    assert change.now < change.before
    assert exit_code(found.decisions) == code


def test_suites_that_cannot_be_asked_are_named(stored: Stored) -> None:
    stored.suite(limits=MARGIN, version=2, changes={"1": "first", "2": "other"}, max_tokens=5)
    found = again(stored, right(0))
    assert (found.changes, found.decisions) == ((), ())
    assert found.left_out == ("shop: it changed since the student was scored",)
