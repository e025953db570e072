"""What ties items together, and what they could have shown."""

from __future__ import annotations

import numpy as np
import pytest

from harness import stats
from harness.stats import contrasts, power
from harness.stats.ties import ALONE, Ties, could_have_seen, finite


def test_names_that_all_differ_tie_nothing() -> None:
    assert Ties.between(["a", "b", "c"], ["", "", ""]) == ALONE
    assert Ties.between(["a", "a", "c"], ["s", "s", "s"]) == Ties(groups=("a", "a", "c"))
    assert Ties.between(["a", "b", "c"], ["s", "t", "s"]) == Ties(strata=("s", "t", "s"))


def test_ties_of_some_items() -> None:
    whole = Ties(("a", "a", "b"), ("s", "t", "s"))
    kept = np.array([True, False, True])
    assert whole.of(kept) == Ties(("a", "b"), ("s", "s"))
    assert ALONE.of(kept) == ALONE
    assert whole.of(kept).named == {"groups": ("a", "b"), "strata": ("s", "s")}


def test_an_item_counts_where_every_seed_has_a_value() -> None:
    assert finite(np.array([[1.0, np.nan, 2.0], [1.0, 0.0, np.inf]])).tolist() == [True, False, False]


def test_what_could_have_been_seen() -> None:
    a, b = np.array([[1.0] * 60 + [0.0] * 40]), np.array([[1.0] * 50 + [0.0] * 50])
    found = stats.paired_binary(a[0], b[0])
    assert could_have_seen(found, a, b) == stats.smallest_difference(100, 0.1)
    real = stats.mean_estimate(np.linspace(0, 1, 50), 0).interval()
    assert could_have_seen(real, a, b) == pytest.approx(power.smallest_from(real))
    same = stats.mean_estimate(np.ones(50), 0).interval()
    assert could_have_seen(same, a, b) is None, "no width says nothing about what could be seen"


def test_what_three_seeds_could_have_seen_beside_two() -> None:
    """Where all seeds of a side agree the sides are compared as one each, whatever their numbers."""
    a, b = np.array([1.0] * 60 + [0.0] * 40), np.array([1.0] * 50 + [0.0] * 50)
    found = contrasts.difference(np.stack([a] * 3), np.stack([b] * 2), random_seed=0)
    assert found.estimate is not None
    interval = found.estimate.interval()
    assert interval.method == "Tango"
    assert could_have_seen(interval, np.stack([a] * 3), np.stack([b] * 2)) == stats.smallest_difference(100, 0.1)
