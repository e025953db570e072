"""harness plan: the items and seeds it names do show, by the gate itself, that nothing got worse."""

from __future__ import annotations

import re

import numpy as np
import pytest

from harness.check.margins import table
from harness.check.rules import Evidence, Rule, decide
from harness.errors import UsageError
from harness.stats import power
from harness.stats.contrasts import Question
from harness.stats.score_matrix import ScoreMatrix


def rows(text: str) -> list[list[str]]:
    """The cells of the table's rows, by runs of two blanks."""
    return [re.split(r"  +", line) for line in text.splitlines() if re.match(r"\d+(\.\d+)?%", line)]


def test_the_table_says_items_and_seeds() -> None:
    found = rows(table(0.03, [0.05, 0.1, 0.3], 0.01))
    assert [row[0] for row in found] == ["5%", "10%", "30%"]
    for share, (_, items, twice, seeds) in zip((0.05, 0.1, 0.3), found, strict=True):
        assert int(items) == power.items_needed(share, 0.03, 0.90)
        assert int(twice) == 2 * int(items)
        assert int(seeds) >= 3
    assert int(found[0][1]) < int(found[1][1]) < int(found[2][1])
    # the normal formula says (1.645 + 0.842)^2 x 0.1 / 0.03^2 = 687; the score interval asks for a little more
    assert 687 <= int(found[1][1]) < 800


def test_a_spread_that_is_small_needs_the_fewest_seeds_and_a_large_one_more() -> None:
    assert rows(table(0.03, [0.1], 0.0))[0][3] == "3"
    few, more = (int(rows(table(0.05, [0.1], spread))[0][3]) for spread in (0.02, 0.05))
    assert few < more


@pytest.mark.parametrize(
    ("margin", "flips", "spread", "word"),
    [
        (0.0, [0.1], 0.01, "--margin 0.0"),
        (1.0, [0.1], 0.01, "--margin 1.0"),
        (0.03, [0.1, 0.0], 0.01, "--flips 0.0"),
        (0.03, [1.5], 0.01, "--flips 1.5"),
        (0.03, [0.1], -0.1, "--seed-spread -0.1"),
    ],
)
def test_what_cannot_be_is_refused(margin: float, flips: list[float], spread: float, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        table(margin, flips, spread)


def student(rng: np.random.Generator, right: np.ndarray, moved: float, flips: float) -> np.ndarray:
    """`right` with a share of `flips` changed, so that accuracy 0.8 moves by `moved` on average."""
    lost = rng.random(right.size) < (flips - moved) / 2 / 0.8
    gained = rng.random(right.size) < (flips + moved) / 2 / 0.2
    return np.where(right > 0, 1.0 - lost, gained.astype(float))


def test_so_many_items_and_seeds_pass_as_often_as_said() -> None:
    # flips of 20% against the baseline; a margin of 6 points; seeds spread by 2 points
    margin, share, spread = 0.06, 0.2, 0.02
    _, items, twice, seeds = rows(table(margin, [share], spread))[0]
    rule = Rule("suite", "accuracy", "margin", margin)
    rng = np.random.default_rng(0)

    def passed(n: int, sides: int, seed_spread: float, question: Question) -> bool:
        right = (rng.random(n) < 0.8).astype(float)
        now, before = (
            np.stack([student(rng, right, rng.normal(0, seed_spread), share) for _ in range(sides)]) for _ in range(2)
        )
        blessed = right[None] if question == "these weights" else before
        evidence = Evidence(ScoreMatrix.numbered(blessed), ScoreMatrix.numbered(now))
        return decide([(rule, evidence)], question)[0].verdict == "pass"

    assert np.mean([passed(int(items), 1, 0.0, "these weights") for _ in range(200)]) > 0.75
    assert np.mean([passed(int(twice), int(seeds), spread, "this recipe") for _ in range(40)]) > 0.75
