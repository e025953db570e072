"""What can be seen, and what it takes: closed forms and simulation."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import stats
from harness.stats import power
from harness.stats.intervals import crossed_estimate
from harness.stats.rates import quantile, tango_ends


def test_smallest_from_a_normal_interval_is_2_8_standard_errors() -> None:
    estimate = stats.mean_estimate(np.random.default_rng(0).normal(0, 5.0, 20_000), random_seed=0)
    found = estimate.interval()
    error = (found.high - found.low) / (2 * 1.959964)
    assert power.minimum_detectable_by_width(found) == pytest.approx((1.959964 + 0.841621) * error, rel=1e-5)
    assert power.minimum_detectable_by_width(estimate.interval(0.90)) == pytest.approx(
        (1.644854 + 0.841621) * error, rel=1e-5
    )


@pytest.mark.parametrize(("freedom", "least"), [(2, 0.777), (4, 0.794), (8, 0.799), (29, 0.799)])
@pytest.mark.parametrize("level", [0.90, 0.95])
def test_smallest_from_t_intervals_has_the_power_that_the_noncentral_t_gives_it(
    freedom: int, least: float, level: float
) -> None:
    from scipy.stats import nct, t

    critical = float(t.ppf((1 + level) / 2, freedom))
    # the mean of an estimated standard error whose true value is 1
    mean = math.sqrt(2 / freedom) * math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
    half = critical * mean
    found = stats.Interval(estimate=0.0, low=-half, high=half, method="t", n=100, level=level)
    assert least - 0.0005 < float(nct.sf(critical, freedom, power.minimum_detectable_by_width(found))) < 0.81


def test_smallest_difference_is_the_inverse_of_the_formula_of_miettinen() -> None:
    exact = ((1.959964 * math.sqrt(0.2) + 0.841621 * math.sqrt(0.2 - 0.0025)) / 0.05) ** 2
    assert stats.minimum_detectable_difference(math.ceil(exact), 0.2) == pytest.approx(0.05, rel=1e-3)


def test_items_needed_to_keep_a_margin_without_any_flip() -> None:
    # no flip at all: the lower end is -z^2 / (n + z^2), so a margin of 0.03 takes n > z^2 (1 - m) / m items
    z = 1.644854
    n = power.items_needed(0.0, 0.03, 0.90)
    assert n == math.ceil(z**2 * 0.97 / 0.03)
    assert tango_ends(0, 0, n, z)[0] > -0.03 > tango_ends(0, 0, n - 1, z)[0]


@pytest.mark.parametrize(("flips", "margin", "level"), [(0.15, 0.05, 0.95), (0.10, 0.03, 0.90), (0.25, 0.05, 0.90)])
def test_so_many_items_decide_a_margin_as_often_as_said(flips: float, margin: float, level: float) -> None:
    n, z = power.items_needed(flips, margin, level), quantile(level)
    draws = np.random.default_rng(0).multinomial(n, [flips / 2, flips / 2, 1 - flips], 1500)
    found = [tango_ends(float(wins), float(losses), n, z)[0] > -margin for wins, losses, _ in draws]
    assert 0.76 < np.mean(found) < 0.84


def test_items_needed_from_an_interval_scales_with_the_square() -> None:
    found = stats.Interval(estimate=0.0, low=-0.0196, high=0.0196, method="t", n=100)
    assert power.minimum_detectable_by_width(found) == pytest.approx(0.028016, rel=1e-4)
    assert power.items_needed_from(found, 0.028017) == 100
    assert power.items_needed_from(found, -0.0140) == math.ceil(100 * (0.0280159 / 0.0140) ** 2)


def test_seeds_needed_by_simulation() -> None:
    spread, items_error, difference = 0.015, 0.01, 0.045
    seeds = power.seeds_needed(spread, items_error, difference, 0.95)
    assert seeds is not None
    rng, n, hits = np.random.default_rng(0), 80, []
    for i in range(250):
        items = rng.normal(0, items_error * math.sqrt(n), n)
        a = difference + items + rng.normal(0, spread, (seeds, 1)) + np.zeros((seeds, n))
        b = rng.normal(0, spread, (seeds, 1)) + np.zeros((seeds, n))
        hits.append(crossed_estimate([a, -b], i).ends(0.95)[0] > 0)
    assert 0.74 < np.mean(hits) < 0.95  # never fewer than three seeds, and whole ones


def test_seeds_needed_knows_when_seeds_cannot_help() -> None:
    assert power.seeds_needed(0.01, 0.02, 0.05, 0.95) is None  # the items alone see 0.056 at best
    assert power.seeds_needed(0.0, 0.01, 0.05, 0.95) == 3
    few, more = power.seeds_needed(0.02, 0.005, 0.05, 0.95), power.seeds_needed(0.04, 0.005, 0.05, 0.95)
    assert few is not None
    assert more is not None
    assert few < more


def test_holm_by_hand() -> None:
    # sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1, never falling: 0.04, 0.06, 0.06, 0.06
    assert power.holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert power.holm([0.5, 0.9]) == [1.0, 1.0]
    assert power.holm([0.02]) == [0.02]
    assert power.holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_never_helps_keeps_the_order_and_is_below_bonferroni(values: list[float]) -> None:
    adjusted = power.holm(values)
    for p, q in zip(values, adjusted, strict=True):
        assert p <= q <= min(1.0, p * len(values)) + 1e-12
    for i in range(len(values)):
        for j in range(len(values)):
            if values[i] <= values[j]:
                assert adjusted[i] <= adjusted[j]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: power.items_needed(0.1, 0.0, 0.90), "a margin of 0.0"),
        (lambda: power.items_needed(1.2, 0.05, 0.90), "flips_share 1.2"),
        (lambda: power.items_needed_from(stats.wilson(1, 2), 0.0), "finds a difference of 0"),
        (lambda: power.seeds_needed(-0.1, 0.0, 0.1, 0.95), "spread -0.1"),
        (lambda: power.seeds_needed(0.1, 0.0, 0.0, 0.95), "difference 0.0"),
        (lambda: power.holm([1.1]), "outside 0 to 1"),
    ],
)
def test_what_cannot_be_computed_is_refused(call: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()
