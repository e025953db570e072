"""Clusters and strata: by hand, against the independent case, and by simulation."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import stats
from harness.stats import Estimate, Floats, Interval, clusters
from harness.stats.design import INDEPENDENT, Design
from harness.stats.rates import tango_variance

T7, T9 = 2.364624, 2.262157  # two-sided 95% quantiles of t with 7 and 9 degrees of freedom


def there(found: Estimate | None, level: float = 0.95) -> Interval:
    assert found is not None
    return found.interval(level)


def names(sizes: list[int], prefix: str = "p") -> list[str]:
    return [f"{prefix}{i}" for i, size in enumerate(sizes) for _ in range(size)]


# --- one door, several methods ------------------------------------------------------------------------------


def test_independent_items_get_the_methods_for_independent_items() -> None:
    a, b = [1, 1, 0, 1, 0, 1], [1, 0, 0, 1, 1, 0]
    assert there(clusters.mean_estimate(a, random_seed=0)) == stats.wilson(4, 6)
    assert there(clusters.difference_estimate(a, b, random_seed=0)) == stats.paired_binary(a, b)
    x, y = [0.1, 0.5, 0.2, 0.9, 0.4], [0.3, 0.1, 0.2, 0.7, 0.1]
    assert there(clusters.mean_estimate(x, random_seed=3)) == stats.mean_estimate(x, 3).interval()
    assert (
        there(clusters.difference_estimate(x, y, random_seed=3)).low
        == stats.mean_estimate(np.subtract(x, y), 3).ends(0.95)[0]
    )
    alone = [str(i) for i in range(6)]
    for groups in (alone, [""] * 6):  # every item by itself is no cluster
        assert there(clusters.mean_estimate(a, Design(groups, ["s"] * 6), random_seed=0)) == stats.wilson(4, 6)


def test_cluster_t_by_hand() -> None:
    # eight clusters of two, sums 0 .. 7: mean 28 / 16, residuals sum - 3.5, squares add up to 42
    sums = np.arange(8.0)
    values = np.repeat(sums / 2, 2)
    found = there(clusters.mean_estimate(values, Design(names([2] * 8)), random_seed=0))
    error = math.sqrt(8 / 7 * 42) / 16
    assert found.estimate == pytest.approx(1.75)
    assert found.high - found.estimate == pytest.approx(T7 * error, rel=1e-5)
    assert found.n == 8
    assert found.method == "t over 8 clusters, 7 degrees of freedom"


def test_the_ratio_estimator_with_clusters_of_different_sizes() -> None:
    # ten clusters of one and one of three (0, 0, 0): 1.5, seven times 1, 0.5 and 1 over 13 items
    values = [1.5, *[1.0] * 7, 0.5, *[0.0] * 3, 1.0]
    groups = [*names([1] * 9), *["big"] * 3, "p9"]
    mean = 10 / 13
    squares = (1.5 - mean) ** 2 + 8 * (1 - mean) ** 2 + (0.5 - mean) ** 2 + (0 - 3 * mean) ** 2
    found = there(clusters.mean_estimate(values, Design(groups), random_seed=0))
    assert found.estimate == pytest.approx(mean)
    t10 = 2.228139
    assert found.high - found.estimate == pytest.approx(t10 * math.sqrt(11 / 10 * squares) / 13, rel=1e-5)


def test_the_same_as_a_regression_on_a_constant_with_clustered_errors() -> None:
    # CR1 of Cameron and Miller (2015) for y = mean + error, written out as a sandwich
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 12, 90)
    y = rng.normal(size=90) + rng.normal(size=12)[codes]
    x = np.ones((90, 1))
    residual = y - y.mean()
    meat = sum(
        (x[codes == g].T @ residual[codes == g])[:, None] @ (x[codes == g].T @ residual[codes == g])[None]
        for g in range(12)
    )
    bread = np.linalg.inv(x.T @ x)
    error = math.sqrt(12 / 11 * float((bread @ meat @ bread)[0, 0]))
    found = there(clusters.mean_estimate(y, Design([str(c) for c in codes]), random_seed=0))
    assert found.high - found.estimate == pytest.approx(2.200985 * error, rel=1e-5)  # t with 11


def test_nothing_below_eight_clusters() -> None:
    values = np.arange(14.0)
    assert clusters.mean_estimate(values, Design(names([2] * 7)), random_seed=0) is None
    assert clusters.mean_estimate(values % 2, Design(names([2] * 7)), random_seed=0) is None
    assert clusters.difference_estimate(values, values[::-1], Design(names([2] * 7)), random_seed=0) is None
    assert clusters.units(values, Design(names([2] * 7))) is None
    assert clusters.mean_estimate([0.5], random_seed=0) is None


def test_strata_by_hand() -> None:
    # two subjects: (1, 3) and (10, 10, 13): within-variances 2 and 3, shares 2/5 and 3/5
    values, strata = [1.0, 3.0, 10.0, 10.0, 13.0], ["s", "s", "t", "t", "t"]
    found = there(clusters.mean_estimate(values, Design(strata=strata), random_seed=0))
    error = math.sqrt((2 / 5) ** 2 * 2 / 2 + (3 / 5) ** 2 * 3 / 3)
    assert found.estimate == pytest.approx(37 / 5)
    assert found.high - found.estimate == pytest.approx(3.182446 * error, rel=1e-5)  # t with 5 - 2
    assert found.method == "t within 2 strata, 3 degrees of freedom"


def test_subjects_with_one_item_are_put_together() -> None:
    values = [1.0, 3.0, 4.0, 6.0, 0.0]

    def of(*strata: str) -> Interval:
        return there(clusters.mean_estimate(values, Design(strata=strata), random_seed=0))

    assert of("s", "s", "t", "u", "v") == of("s", "s", "x", "x", "x")
    # a single one left over joins the first subject by name
    assert of("t", "t", "s", "s", "v") == of("t", "t", "s", "s", "s")


def test_strata_that_explain_everything_halve_the_error_at_most_for_rates() -> None:
    found = there(clusters.mean_estimate([1] * 50 + [0] * 50, Design(strata=names([50, 50])), random_seed=0))
    assert found.method == "Wilson within 2 strata, 98 degrees of freedom, worth 200 independent items"
    real = there(clusters.mean_estimate([0.9] * 50 + [0.1] * 50, Design(strata=names([50, 50])), random_seed=0))
    assert real.high - real.low < 1e-9


def test_copies_of_an_item_say_nothing_new() -> None:
    rng = np.random.default_rng(0)
    once_a, once_b = rng.integers(0, 2, 40), rng.integers(0, 2, 40)
    a, b, groups = np.repeat(once_a, 5), np.repeat(once_b, 5), names([5] * 40)
    copied = there(clusters.difference_estimate(a, b, Design(groups), random_seed=0))
    once = stats.paired_binary(once_a, once_b)
    assert copied.n == 40
    assert copied.estimate == pytest.approx(once.estimate)
    assert copied.high - copied.low == pytest.approx((once.high - once.low) * 2.022691 / 1.959964, rel=0.04)
    ignored = stats.paired_binary(a, b)
    assert ignored.high - ignored.low < 0.5 * (copied.high - copied.low)


def test_where_nothing_changed_each_cluster_counts_once() -> None:
    found = there(clusters.difference_estimate([1] * 40, [1] * 40, Design(names([4] * 10)), random_seed=0))
    assert (found.low, found.high) == pytest.approx((-(T9**2) / (10 + T9**2), T9**2 / (10 + T9**2)), abs=1e-6)


def test_clusters_within_strata() -> None:
    # two subjects of five passages of two; a passage name in both subjects is two passages
    rng = np.random.default_rng(1)
    x = rng.normal(size=20) + np.repeat([0.0, 5.0], 10)
    groups, strata = names([2] * 5) * 2, ["s"] * 10 + ["t"] * 10
    found = there(clusters.mean_estimate(x, Design(groups, strata), random_seed=0))
    variance = 0.0
    for part in (x[:10], x[10:]):
        sums = (part - part.mean()).reshape(5, 2).sum(axis=1)
        variance += 5 / 4 * float((sums**2).sum()) / 400
    assert found.high - found.estimate == pytest.approx(2.306004 * math.sqrt(variance), rel=1e-5)  # t with 10 - 2
    assert found.method == "t over 10 clusters within 2 strata, 8 degrees of freedom"


def test_units_keep_the_mean_and_carry_the_variance_of_the_design() -> None:
    rng = np.random.default_rng(2)
    groups = names([3, 1, 4, 2, 5, 1, 2, 3, 4])
    values = rng.normal(size=(2, 3, len(groups)))
    found = clusters.units(values, Design(groups))
    assert found is not None
    assert found.shape == (2, 3, 9)
    assert found.mean(axis=-1) == pytest.approx(values.mean(axis=-1))
    single = there(clusters.mean_estimate(values[1, 2], Design(groups), random_seed=0))
    assert math.sqrt(found[1, 2].var(ddof=1) / 9) * 2.306004 == pytest.approx(single.high - single.estimate, rel=1e-5)
    alone = clusters.units(values[0, 0])
    assert alone is not None
    assert np.array_equal(alone, values[0, 0])


@pytest.mark.parametrize("bad", [[], [1.0, float("nan")], [[1.0, 2.0]]])
def test_what_cannot_be_computed_is_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="finite scores"):
        clusters.mean_estimate(bad, random_seed=0)


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="2 names of clusters or strata for 3 items"):
        clusters.mean_estimate([1.0, 2.0, 3.0], Design(["a", "b"]), random_seed=0)
    with pytest.raises(ValueError, match="shapes"):
        clusters.difference_estimate([1.0], [1.0, 0.0], random_seed=0)


# --- p values agree with intervals --------------------------------------------------------------------------

DESIGNS = [
    INDEPENDENT,
    Design(names([3] * 10)),
    Design(strata=names([10] * 3, "s")),
    Design(names([3] * 10), ["s"] * 15 + ["t"] * 15),
]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6), st.sampled_from(DESIGNS), st.booleans(), st.floats(-0.6, 0.6), st.sampled_from([0.9, 0.95])
)
def test_a_small_p_is_an_interval_that_excludes(
    seed: int, design: Design, binary: bool, shift: float, level: float
) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.random(30), rng.random(30)
    if binary:
        a, b = (a > 0.4).astype(float), (b > 0.6).astype(float)
    found = clusters.difference_estimate(a, b, design, random_seed=1)
    assert found is not None
    p, interval = found.p(shift), found.interval(level)
    tail = (1 - level) / 2
    if min(abs(interval.low - shift), abs(interval.high - shift)) > 1e-6:
        assert (p.above < tail) == (interval.low > shift)
        assert (p.below < tail) == (interval.high < shift)
    assert p.above + p.below == pytest.approx(1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(-0.5, 0.5))
def test_tango_s_p_is_the_same_by_formula_and_by_the_interval(seed: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 2, 25), rng.integers(0, 2, 25)
    wins, losses = int((a > b).sum()), int((a < b).sum())
    z = (wins - losses - 25 * shift) / math.sqrt(25 * tango_variance(wins, losses, 25, shift) or math.inf)
    found = clusters.difference_estimate(a, b, random_seed=0)
    assert found is not None
    assert found.p(shift).above == pytest.approx(NormalDist().cdf(-z), abs=2e-6)


# --- simulated coverage: small and seeded; tests/bench/bench_intervals.py prints the table --------------------


def shared(rng: np.random.Generator, passages: int, each: int) -> tuple[Floats, Floats]:
    """Two equal students on passages whose questions go up and down together, and differently for each student."""
    item = rng.normal(0, 1, passages * each)
    sides = [np.repeat(rng.normal(0, 1.0, passages), each) + item + rng.normal(0, 0.5, item.size) for _ in range(2)]
    return (sides[0] > -0.5).astype(float), (sides[1] > -0.5).astype(float)


def test_ignoring_clusters_raises_false_alarms_and_counting_them_does_not() -> None:
    rng, groups = np.random.default_rng(0), names([8] * 30)
    counted, ignored = [], []
    for _ in range(250):
        a, b = shared(rng, 30, 8)
        one = there(clusters.difference_estimate(a, b, Design(groups), random_seed=0))
        counted.append(one.low <= 0.0 <= one.high)
        one = stats.paired_binary(a, b)
        ignored.append(one.low <= 0.0 <= one.high)
    assert 0.91 < np.mean(counted) < 0.985
    assert np.mean(ignored) < 0.85
