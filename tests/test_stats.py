"""Intervals: against published examples and other implementations, properties, simulated coverage."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from harness import stats
from harness.stats import clusters
from harness.stats.intervals import crossed_estimate

Scores = tuple[list[int], list[int]]


def table(both: int, first: int, second: int, neither: int) -> Scores:
    """Paired 0/1 scores: how many items both, only the first, only the second, or neither got right."""
    a = [1] * (both + first) + [0] * (second + neither)
    b = [1] * both + [0] * first + [1] * second + [0] * neither
    return a, b


@pytest.mark.parametrize(
    ("counts", "level", "low", "high"),
    [
        ((4, 9, 3, 16), 0.95, -0.027, 0.390),  # Tango 1998, first example
        ((43, 0, 1, 0), 0.90, -0.096, 0.037),  # Tango 1998, second example
        ((53, 16, 8, 9), 0.95, -0.020, 0.207),  # Agresti and Min 2005
        ((1, 1, 7, 12), 0.95, -0.517, -0.026),  # Fagerland, Lydersen, Laake 2014: Bentur et al.
        ((59, 6, 16, 80), 0.95, -0.124, -0.005),  # Fagerland, Lydersen, Laake 2014: Cavo et al.
    ],
)
def test_tango_interval_equals_published_examples(
    counts: tuple[int, int, int, int], level: float, low: float, high: float
) -> None:
    found = stats.paired_binary(*table(*counts), level=level)
    assert found.low == pytest.approx(low, abs=6e-4)
    assert found.high == pytest.approx(high, abs=6e-4)
    assert found.estimate == pytest.approx((counts[1] - counts[2]) / sum(counts))
    assert found.n == sum(counts)


def test_tango_without_flips_is_as_wide_as_the_items_are_few() -> None:
    # with no flip the score equation is n d^2 = z^2 d (1 - d), solved by d = z^2 / (n + z^2)
    found, z = stats.paired_binary([1] * 50, [1] * 50), 1.959964
    assert found.high == pytest.approx(z**2 / (50 + z**2), abs=1e-6)
    assert found.low == -found.high


def test_tango_where_every_item_flips_one_way() -> None:
    found = stats.paired_binary([1] * 20, [0] * 20)
    assert found.estimate == found.high == 1.0
    assert 0.6 < found.low < 1.0


def test_the_score_test_by_hand() -> None:
    def p(a: ArrayLike, b: ArrayLike, shift: float = 0.0) -> stats.OneSided:
        found = clusters.difference_estimate(a, b, random_seed=0)
        assert found is not None
        return found.p(shift)

    # at shift 0 it is McNemar's: (9 - 3) / sqrt(12) = 1.732, upper tail 0.0416
    found = p(*table(4, 9, 3, 16))
    assert (found.above, found.below) == pytest.approx((0.041632, 0.958368), abs=1e-6)
    # without a flip z = sqrt(n d / (1 - d)): 97 items and d = 0.03 give 1.732 too
    kept = p([1] * 97, [1] * 97, -0.03)
    assert kept.above == pytest.approx(0.041632, abs=1e-6)
    assert p([1] * 97, [1] * 97, 0.03).below == pytest.approx(kept.above)
    assert p([1, 0], [1, 0]).above == 0.5
    # Tango 1998, second example: the 90% interval ends at -0.096, so a margin of 0.1 is kept, one of 0.09 not
    pairs = table(43, 0, 1, 0)
    assert p(*pairs, -0.1).above < 0.05 < p(*pairs, -0.09).above


def test_p_of_a_bootstrap_claims_no_more_than_its_draws() -> None:
    x = np.random.default_rng(0).normal(1.0, 0.1, 50)
    found = stats.mean_estimate(x, random_seed=0)
    assert found.p(0.0).above == 1 / stats.RESAMPLES
    assert found.p(2.0).below == 1 / stats.RESAMPLES
    assert found.p(found.value) == stats.OneSided(0.5, 0.5)
    edge = found.interval(0.90).low
    assert found.p(edge).above == pytest.approx(0.05, abs=1e-6)


def test_two_recipes_of_many_items_need_no_resampling() -> None:
    rng = np.random.default_rng(0)
    sides = [rng.normal(0, 1, (3, n)) + rng.normal(0, 0.5, n) for n in (9_000, 11_000)]
    few, many = (crossed_estimate([x], 0).interval() for x in sides)
    assert (few.method[:7], many.method[:10]) == ("two-way", "two-way, t")
    assert many.high - many.low == pytest.approx(few.high - few.low, rel=0.5)


def test_wilson_equals_published_examples() -> None:
    # Newcombe 1998 (one proportion): 81 of 263, 15 of 148, 0 of 20, 1 of 29
    for successes, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
    ):
        found = stats.wilson(successes, n)
        assert (round(found.low, 4), round(found.high, 4)) == (low, high)
    assert (round(stats.wilson(1, 29).low, 4), round(stats.wilson(1, 29).high, 4)) == (0.0061, 0.1718)


def test_mcnemar_mid_p_equals_published_and_exact_values() -> None:
    assert stats.mcnemar_mid_p(*table(59, 6, 16, 80)) == pytest.approx(0.034690, abs=1e-6)  # Fagerland 2013
    # 1 against 7 flips: 2 (P(0) + P(1) / 2) with P(k) = C(8, k) / 256 is 2 (1 + 4) / 256
    assert stats.mcnemar_mid_p(*table(1, 1, 7, 12)) == pytest.approx(10 / 256)
    assert stats.mcnemar_mid_p(*table(5, 3, 3, 5)) == pytest.approx(1 - 20 / 64 / 2)
    assert stats.mcnemar_mid_p(*table(5, 0, 0, 5)) == 1.0
    from scipy.stats import binom

    for losses, wins in ((480, 520), (0, 7), (2, 30), (500, 500)):
        flips, tie = losses + wins, losses == wins
        expected = 2 * binom.cdf(losses, flips, 0.5) - binom.pmf(losses, flips, 0.5) if not tie else 1
        expected -= binom.pmf(losses, flips, 0.5) / 2 if tie else 0
        assert stats.mcnemar_mid_p(*table(0, losses, wins, 0)) == pytest.approx(float(expected), rel=1e-9)


def test_bca_equals_scipy() -> None:
    from scipy.stats import bootstrap

    x = np.random.default_rng(5).gamma(0.7, size=80)
    theirs = bootstrap((x,), np.mean, n_resamples=20_000, rng=1, method="BCa").confidence_interval
    found = stats.mean_estimate(x, random_seed=3).interval()
    width = theirs.high - theirs.low
    assert found.low == pytest.approx(theirs.low, abs=0.04 * width)
    assert found.high == pytest.approx(theirs.high, abs=0.04 * width)


def test_many_items_are_normal_and_equal_values_have_no_width() -> None:
    x = np.random.default_rng(0).normal(2.0, 3.0, 40_000)
    found = stats.mean_estimate(x, random_seed=0).interval()
    assert found.high - found.estimate == pytest.approx(1.959964 * x.std(ddof=1) / 200)
    same = stats.mean_estimate([0.0, 0.0, 0.0], random_seed=0).interval()
    assert (same.low, same.estimate, same.high) == (0.0, 0.0, 0.0)


def test_auc_by_hand_and_against_scikit_learn() -> None:
    assert stats.auc([3, 2], [1, 2]) == pytest.approx(3.5 / 4)
    assert stats.auc([1, 1], [1]) == 0.5
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    up, down = rng.integers(0, 9, 50), rng.integers(0, 7, 70)
    truth = [1] * 50 + [0] * 70
    assert stats.auc(up, down) == pytest.approx(roc_auc_score(truth, [*up, *down]))


def test_auc_interval_takes_groups_for_what_they_are() -> None:
    rng = np.random.default_rng(1)
    up, down = rng.normal(1.0, 1.0, 40), rng.normal(0.0, 1.0, 40)
    groups = [f"g{i}" for i in range(40)]
    alone = stats.auc_interval(up, down, groups, groups, random_seed=0)
    assert alone.low < alone.estimate < alone.high
    # the same scores five times over say nothing new: the groups keep the interval as wide as it was
    copied = stats.auc_interval(np.repeat(up, 5), np.repeat(down, 5), groups * 5, groups * 5, random_seed=0)
    again = stats.auc_interval(np.tile(up, 5), np.tile(down, 5), groups * 5, groups * 5, random_seed=0)
    assert again.low == pytest.approx(alone.low)
    assert again.high == pytest.approx(alone.high)
    assert copied.n == again.n == 40
    few = stats.auc_interval([2, 3], [0, 1], ["a", "b"], ["a", "b"], random_seed=0)
    assert (few.estimate, few.low, few.high) == (1.0, 0.0, 1.0)


def test_smallest_difference_solves_the_sample_size_formula() -> None:
    found = stats.minimum_detectable_difference(300, flips_share=0.2)
    assert found is not None
    needed = (1.959964 * math.sqrt(0.2) + 0.841621 * math.sqrt(0.2 - found**2)) ** 2 / found**2
    assert needed == pytest.approx(300, rel=1e-4)
    assert stats.minimum_detectable_difference(300, flips_share=0.0) is None
    assert stats.minimum_detectable_difference(20, flips_share=0.05) is None  # one flip in 20 items shows nothing


def test_smallest_difference_is_found_as_often_as_it_says() -> None:
    rng, n, flips = np.random.default_rng(4), 300, 0.2
    smallest = stats.minimum_detectable_difference(n, flips) or 0.0
    cells = [(flips + smallest) / 2, (flips - smallest) / 2, 1 - flips]
    hits = [stats.paired_binary(*table(0, b, c, rest)).low > 0 for b, c, rest in rng.multinomial(n, cells, 1000)]
    assert 0.75 < np.mean(hits) < 0.85


def two_recipes(a: stats.Floats, b: stats.Floats, random_seed: int = 0) -> stats.Interval:
    return crossed_estimate([a, -b], random_seed).interval()


def test_a_recipe_needs_three_seeds() -> None:
    rng = np.random.default_rng(0)
    assert stats.recipe_estimate(rng.random((2, 40)), 0) is None
    assert stats.recipe_estimate(rng.random((3, 40)), 0) is not None


def test_two_way_grows_with_the_spread_of_seeds() -> None:
    rng = np.random.default_rng(0)
    items = rng.random(200)
    a, b = items + rng.normal(0, 0.1, (4, 200)), items + rng.normal(0, 0.1, (4, 200))
    calm = two_recipes(a, b)
    shaken = two_recipes(a + np.array([[-0.1], [0.1], [0.0], [0.05]]), b)
    assert shaken.high - shaken.low > 3 * (calm.high - calm.low)
    same = two_recipes(np.ones((3, 9)), np.zeros((3, 9)))
    assert (same.low, same.high) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: stats.wilson(3, 2), "3 successes out of 2"),
        (lambda: stats.wilson(0, 0), "0 successes out of 0"),
        (lambda: stats.paired_binary([1, 0], [1]), "paired scores of shapes"),
        (lambda: stats.paired_binary([], []), "paired scores of shapes"),
        (lambda: stats.paired_binary([0.5], [1]), "scores other than 0 and 1"),
        (lambda: stats.mean_estimate([1.0], 0).interval(), "1 items have no interval"),
        (lambda: stats.mean_estimate([1.0, float("nan")], 0).interval(), "want finite numbers"),
        (lambda: two_recipes(np.ones((3, 1)), np.ones((3, 1))), "1 items have no interval"),
        (lambda: stats.auc([], [1.0]), "scores of both kinds"),
        (lambda: stats.auc_interval([1.0], [0.0], ["a"], [], 0), "each score needs one group"),
        (lambda: stats.minimum_detectable_difference(0, 0.1), "n=0"),
    ],
)
def test_what_cannot_be_computed_is_refused(call: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()


# --- properties ---------------------------------------------------------------------------------------------

BITS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=60)
REALS = st.lists(st.floats(-1e3, 1e3, allow_subnormal=False), min_size=2, max_size=30)


@given(BITS)
def test_tango_is_antisymmetric_and_holds_its_estimate(pairs: list[tuple[int, int]]) -> None:
    a, b = [p[0] for p in pairs], [p[1] for p in pairs]
    there, back = stats.paired_binary(a, b), stats.paired_binary(b, a)
    assert (there.low, there.high) == (-back.high, -back.low)
    assert -1 <= there.low <= there.estimate <= there.high <= 1
    assert stats.mcnemar_mid_p(a, b) == stats.mcnemar_mid_p(b, a)
    assert 0 <= stats.mcnemar_mid_p(a, b) <= 1


@given(BITS)
def test_more_of_the_same_items_narrow_the_interval(pairs: list[tuple[int, int]]) -> None:
    a, b = [p[0] for p in pairs], [p[1] for p in pairs]
    once, four = stats.paired_binary(a, b), stats.paired_binary(a * 4, b * 4)
    assert four.high - four.low < once.high - once.low
    once, four = stats.wilson(sum(a), len(a)), stats.wilson(4 * sum(a), 4 * len(a))
    assert four.high - four.low < once.high - once.low
    wide = stats.paired_binary(a, b, level=0.99)
    assert wide.low <= stats.paired_binary(a, b).low


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_mirrors(counts: tuple[int, int]) -> None:
    successes, n = counts
    there, back = stats.wilson(successes, n), stats.wilson(n - successes, n)
    assert there.low == pytest.approx(1 - back.high)
    assert 0 <= there.low <= there.estimate <= there.high <= 1


@settings(max_examples=25)
@given(REALS)
def test_bootstrap_is_antisymmetric_and_repeatable(values: list[float]) -> None:
    there = stats.mean_estimate(values, random_seed=1).interval()
    back = stats.mean_estimate([-value for value in values], random_seed=1).interval()
    scale = 1e-6 + max(map(abs, values)) * 1e-6
    assert there.low == pytest.approx(-back.high, abs=scale)
    assert there == stats.mean_estimate(values, random_seed=1).interval()


# --- coverage: small and seeded; tests/bench/bench_intervals.py prints the whole table ---------------------


def test_coverage_of_tango() -> None:
    rng, n = np.random.default_rng(0), 200
    found = [stats.paired_binary(*table(*c)) for c in rng.multinomial(n, [0.7, 0.1, 0.05, 0.15], 1500)]
    assert 0.935 < np.mean([interval.low <= 0.05 <= interval.high for interval in found]) < 0.975


def test_coverage_of_the_bootstrap() -> None:
    rng = np.random.default_rng(1)
    found = [stats.mean_estimate(rng.gamma(0.5, size=150), random_seed=i).interval() for i in range(150)]
    assert 0.88 < np.mean([interval.low <= 0.5 <= interval.high for interval in found]) < 0.99


def test_coverage_of_two_recipes() -> None:
    rng, covered = np.random.default_rng(2), []
    for i in range(80):
        items = rng.normal(0, 0.3, 100)
        a, b = (items + rng.normal(0, 0.02, (3, 1)) + rng.normal(0, 0.2, (3, 100)) for _ in range(2))
        found = two_recipes(a, b, i)
        covered.append(found.low <= 0.0 <= found.high)
    assert np.mean(covered) > 0.88


@given(st.floats(-1, 1), st.floats(0, 3), st.floats(0, 3))
def test_an_interval_is_cut_at_what_a_number_can_be(estimate: float, below: float, above: float) -> None:
    interval = stats.Interval(estimate=estimate, low=estimate - below, high=estimate + above, method="t", n=9)
    cut = interval.within(-1.0, 1.0)
    assert -1 <= cut.low <= cut.estimate <= cut.high <= 1
    assert (cut.low, cut.high) == (max(-1, interval.low), min(1, interval.high))
    endless = stats.Interval(estimate=estimate, low=-math.inf, high=math.inf, method="not estimable", n=1)
    assert endless.within(-1.0, 1.0) == endless
