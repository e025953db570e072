"""Scaling laws: planted laws are found, and what cannot be told is not told."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from harness.stats import Floats
from harness.stats.scaling import Scaling, fit_scaling

SIZES = [16, 64, 256, 1024, 4096, 16384]


def losses(law: Callable[[float], float], sizes: list[int], spread: float, seeds: int = 3, seed: int = 0) -> Floats:
    """Shape (seeds, sizes, items): a law and the noise of training, the same on all items."""
    noise = np.random.default_rng(seed).normal(0, spread, (seeds, len(sizes)))
    return (np.array([law(n) for n in sizes]) + noise)[:, :, None].repeat(20, axis=2)


def power(n: float) -> float:
    return 0.5 + 3.0 * float(n**-0.4)


def rectified(n: float) -> float:
    return 0.5 + 40.0 / (60.0 + float(n**0.9))


@pytest.fixture(scope="module")
def found() -> Scaling:
    return fit_scaling(SIZES, losses(power, SIZES, 0.005), random_seed=0)


def test_a_planted_power_law_is_found(found: Scaling) -> None:
    assert (found.verdict, found.law) == ("falls", "power")
    numbers = found.fits[0].parameters
    assert numbers["A"] == pytest.approx(3.0, rel=0.1)
    assert numbers["b"] == pytest.approx(0.4, rel=0.05)
    assert numbers["E"] == pytest.approx(0.5, rel=0.05)
    assert [rows for rows, _ in found.predictions] == [*SIZES, 32768, 65536]
    for rows, interval in found.predictions:
        assert interval.estimate == pytest.approx(power(rows), abs=0.02)
        assert interval.low < interval.high
    assert "power law with A = " in found.sentence


def test_aicc_by_hand(found: Scaling) -> None:
    for fit, k in zip(found.fits, (3, 4), strict=True):
        assert fit.aicc is not None
        assert fit.chi_squared is not None
        assert fit.aicc == pytest.approx(fit.chi_squared + 2 * k + 2 * k * (k + 1) / (6 - k - 1))


def test_rows_to_reach_solves_the_law(found: Scaling) -> None:
    reach = found.rows_to_reach(0.6)
    assert reach.rows is not None
    assert found.predict(reach.rows).estimate <= 0.6 < found.predict(reach.rows - 1).estimate
    assert reach.rows == pytest.approx((3.0 / 0.1) ** (1 / 0.4), rel=0.15)  # 4930
    assert reach.low is not None
    assert reach.high is not None
    assert reach.low < reach.rows < reach.high
    never = found.rows_to_reach(0.1)
    assert (never.rows, never.low, never.high) == (None, None, None)
    assert "more than 65536 rows" in never.sentence
    assert found.rows_to_reach(5.0).rows == 16  # the smallest size is there already


@pytest.mark.parametrize("rows", [15, 65537])
def test_nothing_is_said_outside_the_sizes_and_four_times_the_largest(found: Scaling, rows: int) -> None:
    with pytest.raises(ValueError, match=r"nothing is predicted outside 16 to 65536 rows"):
        found.predict(rows)


def test_a_flat_start_is_the_rectified_law() -> None:
    found = fit_scaling(SIZES, losses(rectified, SIZES, 0.005, seed=1), random_seed=0)
    assert found.law == "rectified"
    numbers = found.fits[1].parameters
    assert numbers["beta"] == pytest.approx(0.9, rel=0.1)
    assert numbers["D_t"] == pytest.approx(60, rel=0.35)
    assert numbers["B"] == pytest.approx(40, rel=0.35)
    assert "does not fit" in found.fits[0].note


def test_five_sizes_have_no_aicc_for_four_parameters() -> None:
    found = fit_scaling(SIZES[:5], losses(power, SIZES[:5], 0.01), random_seed=0)
    assert found.law == "power"
    assert found.fits[1].aicc is None
    assert "takes 6 sizes" in found.fits[1].note


def test_the_wrong_law_is_not_kept_because_the_right_one_has_too_few_sizes() -> None:
    found = fit_scaling(SIZES[:5], losses(rectified, SIZES[:5], 0.002), random_seed=0)
    assert (found.verdict, found.law) == ("not estimable", None)
    assert "does not fit" in found.sentence


def test_few_sizes_or_seeds_get_a_slope_and_no_law() -> None:
    short = fit_scaling(SIZES[:4], losses(power, SIZES[:4], 0.01), random_seed=0)
    assert (short.verdict, short.law, short.fits) == ("falls", None, ())
    assert "5 sizes and 3 random seeds, here 4 and 3" in short.sentence
    noise = np.random.default_rng(0).normal(0, 0.1, (2, 6, 50))
    two = fit_scaling(SIZES, losses(power, SIZES, 0.0, seeds=2)[:, :, :1] + noise, random_seed=0)
    assert (two.verdict, two.law) == ("falls", None)
    with pytest.raises(ValueError, match="no law to predict with"):
        short.predict(16)
    with pytest.raises(ValueError, match="no law to predict with"):
        short.rows_to_reach(1.0)


def test_flat_and_rising_losses_are_called_so() -> None:
    flat = fit_scaling(SIZES, losses(lambda n: 1.0, SIZES, 0.01), random_seed=0)
    assert (flat.verdict, flat.law) == ("no measurable slope", None)
    rising = fit_scaling(SIZES, losses(lambda n: 1 + 0.1 * np.log2(n), SIZES, 0.01), random_seed=0)
    assert (rising.verdict, rising.law) == ("rises", None)


def test_a_straight_line_over_doublings_is_no_power_law() -> None:
    found = fit_scaling(SIZES[:5], losses(lambda n: 2 - 0.01 * np.log2(n), SIZES[:5], 0.001), random_seed=0)
    assert (found.verdict, found.law) == ("not estimable", None)
    assert "power: b at the bound" in found.sentence


def test_the_slope_by_hand() -> None:
    # 0.3 less for each doubling in one seed, 0.2 and 0.1 in the others: -0.2 and t(2) x 0.1 / sqrt(3)
    nll = np.array([[3.0, 2.7, 2.1], [3.0, 2.8, 2.4], [3.0, 2.9, 2.7]])[:, :, None].repeat(20, axis=2)
    found = fit_scaling([1, 2, 8], nll, random_seed=0)
    assert found.slope.estimate == pytest.approx(-0.2)
    assert found.slope.high - found.slope.estimate == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=0.1)


def test_items_widen_the_interval_and_the_same_seed_repeats_it() -> None:
    curve = losses(power, SIZES[:5], 0.005)
    own = np.random.default_rng(3).normal(0, 1.0, 80)  # items that are hard at every size
    own -= own.mean()
    with_items = curve[:, :, :1] + own
    once, again = (fit_scaling(SIZES[:5], with_items, random_seed=5) for _ in range(2))
    assert once == again
    alone = fit_scaling(SIZES[:5], curve, random_seed=5)
    wide, narrow = once.predict(1024), alone.predict(1024)
    assert wide.estimate == pytest.approx(narrow.estimate)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


@pytest.mark.parametrize(
    ("sizes", "nll"),
    [
        ([1, 2], np.ones((3, 3, 9))),
        ([2, 1], np.ones((3, 2, 9))),
        ([0, 1], np.ones((3, 2, 9))),
        ([4], np.ones((3, 1, 9))),
        ([1, 2], np.full((3, 2, 9), np.nan)),
        ([1, 2], np.ones((3, 2, 1))),
        ([1, 2], np.ones((3, 2))),
    ],
)
def test_what_cannot_be_fitted_is_refused(sizes: list[int], nll: Floats) -> None:
    with pytest.raises(ValueError, match="sizes"):
        fit_scaling(sizes, nll, random_seed=0)


@pytest.mark.slow
def test_coverage_of_predictions() -> None:
    inside: list[bool] = []
    ahead: list[bool] = []
    for seed in range(20):
        found = fit_scaling(SIZES[:5], losses(power, SIZES[:5], 0.03, seed=seed), random_seed=seed)
        assert found.law == "power"
        for rows, hits in ((1000, inside), (16384, ahead)):
            there = found.predict(rows)
            hits.append(there.low <= power(rows) <= there.high)
    assert np.mean(inside) > 0.8
    assert np.mean(ahead) > 0.8
