"""Clusters and strata of items, matrices of scores and their alignment, the minimum detectable difference."""

from __future__ import annotations

import numpy as np
import pytest

from harness import stats
from harness.stats import contrasts, power
from harness.stats.design import INDEPENDENT, Design
from harness.stats.power import minimum_detectable
from harness.stats.score_matrix import ScoreMatrix, align, align_complete


def test_items_whose_names_all_differ_are_independent() -> None:
    assert Design.from_names(["a", "b", "c"], ["", "", ""]) == INDEPENDENT
    assert Design.from_names(["a", "a", "c"], ["s", "s", "s"]) == Design(clusters=("a", "a", "c"))
    assert Design.from_names(["a", "b", "c"], ["s", "t", "s"]) == Design(strata=("s", "t", "s"))


def test_the_design_of_selected_items() -> None:
    design = Design(("a", "a", "b"), ("s", "t", "s"))
    keep = np.array([True, False, True])
    assert design.select(keep) == Design(("a", "b"), ("s", "s"))
    assert INDEPENDENT.select(keep) == INDEPENDENT


def test_an_item_is_complete_where_every_seed_has_a_value() -> None:
    scores = ScoreMatrix.numbered([[1.0, np.nan, 2.0], [1.0, 0.0, np.inf]])
    assert scores.complete.tolist() == [True, False, False]
    assert (scores.seeds, scores.mean) == (2, 1.0)
    assert np.isnan(scores.select(~scores.complete).mean)


def test_candidates_are_aligned_by_item_ids() -> None:
    a = ScoreMatrix(np.array([[1.0, 2.0, np.nan]]), ("x", "y", "z"), Design(("p", "p", "q")))
    b = ScoreMatrix(np.array([[5.0, 6.0, 7.0], [8.0, np.nan, 9.0]]), ("w", "y", "z"))
    c = ScoreMatrix(np.array([[5.0, 6.0]]), ("x", "y"))
    first, second = align(a, b)
    assert first.items == second.items == ("y", "z")
    assert (first.values.tolist()[0][0], second.values[:, 1].tolist()) == (2.0, [7.0, 9.0])
    assert first.design == Design(("p", "q"))
    assert [m.items for m in align_complete(a, b)] == [(), ()], "y lacks a seed of b, z has no value in a"
    assert align_complete(a, c)[1].values.tolist() == [[5.0, 6.0]]
    assert align(a, a)[0] is a


def test_matrices_that_cannot_be_aligned_are_refused() -> None:
    with pytest.raises(ValueError, match="2 item ids for scores of shape"):
        ScoreMatrix(np.ones((1, 3)), ("x", "y"))
    with pytest.raises(ValueError, match="another order"):
        align(ScoreMatrix(np.ones((1, 2)), ("x", "y")), ScoreMatrix(np.ones((1, 2)), ("y", "x")))
    with pytest.raises(ValueError, match="not the same"):
        contrasts.difference(ScoreMatrix.numbered([1.0, 0.0]), ScoreMatrix.numbered([1.0]), random_seed=0)


def test_the_minimum_detectable_difference() -> None:
    a, b = ScoreMatrix.numbered([1.0] * 60 + [0.0] * 40), ScoreMatrix.numbered([1.0] * 50 + [0.0] * 50)
    found = stats.paired_binary(a.values[0], b.values[0])
    assert minimum_detectable(found, a, b) == stats.minimum_detectable_difference(100, 0.1)
    real = stats.mean_estimate(np.linspace(0, 1, 50), 0).interval()
    assert minimum_detectable(real, a, b) == pytest.approx(power.minimum_detectable_by_width(real))
    same = stats.mean_estimate(np.ones(50), 0).interval()
    assert minimum_detectable(same, a, b) is None, "no width says nothing about what could be seen"


def test_the_minimum_detectable_difference_of_three_seeds_beside_two() -> None:
    """Where all seeds of a side agree the sides are compared as one each, whatever their numbers."""
    a, b = [1.0] * 60 + [0.0] * 40, [1.0] * 50 + [0.0] * 50
    now, before = ScoreMatrix.numbered([a] * 3), ScoreMatrix.numbered([b] * 2)
    found = contrasts.difference(now, before, random_seed=0)
    assert found.estimate is not None
    interval = found.estimate.interval()
    assert interval.method == "Tango"
    assert minimum_detectable(interval, now, before) == stats.minimum_detectable_difference(100, 0.1)
