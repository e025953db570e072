"""Beside a comparison: its minimum detectable difference, the items and seeds that a margin needs, several p values.

Power is the chance that the interval excludes the shift (0, or minus a margin) when a difference is true: POWER of it
is asked for everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from harness.stats.intervals import MIN_SEEDS, POWER, Z_POWER, Interval, minimum_detectable_difference
from harness.stats.rates import quantile, tango_variance
from harness.stats.score_matrix import ScoreMatrix

MOST_SEEDS = 1000


def minimum_detectable(interval: Interval, a: ScoreMatrix, b: ScoreMatrix) -> float | None:
    """The smallest true difference that these items find with probability POWER. None where no difference would be.

    `a`, `b`: the scores that were compared. Independent 0/1 scores: by the share of items that
    differ. All others: by the interval's own width, where it has one.
    """
    if interval.method == "Tango":
        flips_share = float(np.mean(a.item_means != b.item_means))
        return minimum_detectable_difference(interval.n, flips_share, level=interval.level)
    return minimum_detectable_by_width(interval) or None


def minimum_detectable_by_width(interval: Interval) -> float:
    """The smallest true difference found with probability POWER, judged by an interval's own width.

    For what has a standard error (real, clustered, stratified, recipes): half the width is the quantile times the
    error, and finding a difference takes the power's quantile more (Cohen 1988, chapter 2). On average over t
    intervals that is within 1% of what the noncentral t asks for, from 4 degrees of freedom on (a power of 0.794
    or more instead of 0.8, with 2 degrees 0.777). For 0/1 scores of independent items
    `stats.minimum_detectable_difference` knows more.
    """
    return (interval.high - interval.low) / 2 * (1 + Z_POWER / quantile(interval.level))


def items_needed(flips_share: float, margin: float, level: float) -> int:
    """The smallest number of items on which Tango's interval excludes -`margin` with probability POWER.

    That is when nothing changed on the whole. `flips_share`: share of items on which the students differ, half of
    them each way. n = ((z_level sqrt(V0) + z_power sqrt(V1)) / margin)^2 with V1 = flips_share and V0 the variance
    under a difference of -margin by constrained likelihood (Nam 1997).
    Raises ValueError for a share outside 0 to 1 or a margin outside (0, 1).
    """
    if not 0 <= flips_share <= 1 or not 0 < margin < 1:
        raise ValueError(f"a margin of {margin} with flips_share {flips_share}")
    under = tango_variance(flips_share / 2, flips_share / 2, 1.0, -margin)
    spread = quantile(level) * math.sqrt(under) + Z_POWER * math.sqrt(flips_share)
    return max(1, math.ceil((spread / margin) ** 2 - 1e-9))


def items_needed_from(interval: Interval, difference: float) -> int:
    """How many of the interval's units (items, or clusters) find `difference`, were they all like those seen.

    The width shrinks with the root of their number. Raises ValueError for a difference of 0.
    """
    if not difference:
        raise ValueError("no number of items finds a difference of 0")
    return max(2, math.ceil(interval.n * (minimum_detectable_by_width(interval) / abs(difference)) ** 2 - 1e-9))


def seeds_needed(seed_spread: float, items_error: float, difference: float, level: float) -> int | None:
    """The smallest number of random seeds a side, at least MIN_SEEDS, with which a recipe's difference is found.

    `seed_spread`: standard deviation of a recipe's score over training runs. `items_error`: standard error of
    the difference that the items alone leave, which no seed takes away. Variance: items_error^2 + 2 seed_spread^2 /
    seeds, with t tails of 2 (seeds - 1) degrees of freedom on the seeds' part (Satterthwaite 1946). None when no
    number up to MOST_SEEDS suffices: more items are needed.
    Raises ValueError for a spread or error below 0, or a difference not above 0.
    """
    from scipy.special import stdtrit

    if min(seed_spread, items_error) < 0 or difference <= 0:
        raise ValueError(f"spread {seed_spread}, error {items_error}, difference {difference}")
    for seeds in range(MIN_SEEDS, MOST_SEEDS + 1):
        of_seeds = 2 * seed_spread**2 / seeds
        total = items_error**2 + of_seeds
        freedom = total**2 / (of_seeds**2 / (2 * (seeds - 1))) if of_seeds else math.inf
        tails = (float(stdtrit(min(freedom, 1e9), tail)) for tail in ((1 + level) / 2, POWER))
        if sum(tails) * math.sqrt(total) <= difference:
            return seeds
    return None


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for being several, in the order given: the step-down method of Holm (1979).

    An adjusted value below 0.05 may be rejected with a 5% chance of any false rejection among all.
    Raises ValueError for a value outside 0 to 1.
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"p values outside 0 to 1: {list(p_values)}")
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = worst
    return adjusted
