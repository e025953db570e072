"""The forecast of the next doubling: exact on a line, and as often right as it says in simulated runs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.stats.design import Design
from harness.stats.forecast import LEVEL, at, back_test, next_doubling
from harness.stats.intervals import Floats

SIZES = [16, 32, 64, 128]


def simulated(rng: np.random.Generator, values: list[float], items: int, seeds: int, scatter: float) -> Floats:
    """0/1 scores of shape (seeds, sizes, items): items of unequal difficulty, cells that lie off their value by chance.

    The items are a sample: their difficulty moves all sizes together.
    """
    ease = rng.normal(0, 0.25, items)
    cells = np.array(values) + rng.normal(0, scatter, (seeds, len(values)))
    rates = np.clip(cells[:, :, None] + ease, 0, 1)
    draws = rng.random((1, 1, items))  # one threshold an item: sizes and seeds agree on most of them
    own = rng.random(rates.shape)
    same = rng.random(rates.shape) < 0.6
    return np.asarray(np.where(same, draws, own) < rates, dtype=np.float64)


@given(start=st.floats(0.1, 0.4), slope=st.floats(-0.02, 0.08), seeds=st.integers(1, 4), items=st.integers(5, 40))
@settings(max_examples=40, deadline=None)
def test_a_straight_line_is_carried_on(start: float, slope: float, seeds: int, items: int) -> None:
    means = start + slope * np.arange(4)
    scores = np.broadcast_to(means[None, :, None], (seeds, 4, items)).copy()
    forecast, test = next_doubling(SIZES, scores), back_test(SIZES, scores)
    assert forecast is not None
    assert test is not None
    assert forecast.rows == 256
    assert forecast.value.estimate == pytest.approx(start + 4 * slope)
    assert forecast.gain.estimate == pytest.approx(slope)
    assert test.forecast.rows == 128
    assert test.forecast.value.estimate == pytest.approx(test.measured)
    assert test.covered


@pytest.mark.parametrize(
    ("sizes", "seeds", "scatter"),
    [([16, 64, 256], 1, 0.03), ([16, 32, 64, 128], 3, 0.03), ([64, 128], 1, 0.02), ([16, 32, 64, 128, 256], 1, 0.05)],
)
def test_what_comes_is_within_the_interval_as_often_as_it_says(sizes: list[int], seeds: int, scatter: float) -> None:
    rng, runs, held, tested = np.random.default_rng(len(sizes)), 400, 0, 0
    line = [0.3 + 0.05 * np.log2(size / 16) for size in [*sizes, 2 * sizes[-1]]]
    for _ in range(runs):
        scores = simulated(rng, line, 150, seeds, scatter)
        seen, coming = scores[:, :-1], float(scores[:, -1].mean())
        forecast, test = next_doubling(sizes, seen), back_test(sizes, seen)
        assert forecast is not None
        held += forecast.value.low <= coming <= forecast.value.high
        tested += test.covered if test else 0
    error = 3 * (LEVEL * (1 - LEVEL) / runs) ** 0.5
    assert held / runs > LEVEL - error
    assert len(sizes) < 3 or tested / runs > LEVEL - error


def test_a_curve_that_has_flattened_is_not_what_the_line_said() -> None:
    rng = np.random.default_rng(1)
    scores = simulated(rng, [0.2, 0.45, 0.7, 0.7], 400, 3, 0.005)
    test = back_test(SIZES, scores)
    assert test is not None
    assert not test.covered
    assert test.forecast.value.estimate > test.measured


def test_no_forecast_leaves_what_a_score_can_be() -> None:
    scores = np.broadcast_to(np.array([0.5, 0.8, 0.95])[None, :, None], (1, 3, 20)).copy()
    forecast = next_doubling([16, 64, 256], scores)
    assert forecast is not None
    assert forecast.value.estimate <= forecast.value.high == 1.0


def test_too_few_passages_give_none_and_wrong_shapes_are_refused() -> None:
    scores = np.ones((1, 3, 6))
    design = Design(clusters=("a", "a", "a", "b", "b", "b"), strata=None)
    assert next_doubling([1, 2, 4], scores, design) is None
    assert back_test([1, 2], np.ones((1, 2, 6))) is None
    for sizes, values in (([4, 2], np.ones((1, 2, 6))), ([2, 4], np.ones((2, 6))), ([2, 4], 2 * np.ones((1, 2, 6)))):
        with pytest.raises(ValueError, match=r"sizes|scores"):
            at(8, sizes, values)
