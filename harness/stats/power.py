"""Before and beside a comparison: what could have been seen, how many items and seeds that needs, several p values.

Power is the chance that the interval excludes the shift (0, or minus a margin) when a difference is true.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from harness.stats.intervals import MIN_SEEDS, Interval
from harness.stats.rates import quantile, tango_variance

MOST_SEEDS = 1000


def smallest_from(interval: Interval, power: float = 0.8) -> float:
    """The smallest true difference found with probability `power`, judged by an interval's own width.

    For what has a standard error (real, clustered, stratified, recipes): half the width is the quantile times the
    error, and finding a difference takes the power's quantile more (Cohen 1988, chapter 2). On average over t
    intervals that is within 1% of what the noncentral t asks for, from 4 degrees of freedom on (a power of 0.794
    or more instead of 0.8; with 2 degrees 0.777). For 0/1 scores of independent items `stats.smallest_difference`
    knows more.
    Raises ValueError for a power outside (0, 1).
    """
    return (interval.high - interval.low) / 2 * (1 + _power(power) / quantile(interval.level))


def items_needed(
    flips_share: float, difference: float, power: float = 0.8, level: float = 0.95, shift: float = 0.0
) -> int:
    """The smallest number of items on which Tango's interval excludes `shift` with probability `power`.

    `flips_share`: share of items on which the students differ, in either direction; `difference`: the true
    difference of rates. To find a difference d: shift 0, level 0.95. To show that nothing worse than margin m
    happened when nothing did: difference 0, shift -m, level 0.90 (a one-sided 95% bound).
    n = ((z_level sqrt(V0) + z_power sqrt(V1)) / (difference - shift))^2 with V1 = flips_share - difference^2 and V0
    the variance under the shift by constrained likelihood (Nam 1997); at shift 0 that is the formula of Miettinen
    (1968) and Connor (1987). Raises ValueError for shares that cannot be and for a difference equal to the shift.
    """
    if not abs(difference) <= flips_share <= 1 or not -1 < shift < 1 or difference == shift:
        raise ValueError(f"difference {difference} with flips_share {flips_share} against {shift}")
    under = tango_variance((flips_share + difference) / 2, (flips_share - difference) / 2, 1.0, shift)
    spread = quantile(level) * math.sqrt(under) + _power(power) * math.sqrt(flips_share - difference**2)
    return max(1, math.ceil((spread / (difference - shift)) ** 2 - 1e-9))


def items_needed_from(interval: Interval, difference: float, power: float = 0.8) -> int:
    """How many of the interval's units (items, or clusters) find `difference`, were they all like those seen.

    The width shrinks with the root of their number. Raises ValueError for a difference of 0.
    """
    if not difference:
        raise ValueError("no number of items finds a difference of 0")
    return max(2, math.ceil(interval.n * (smallest_from(interval, power) / abs(difference)) ** 2 - 1e-9))


def seeds_needed(
    seed_spread: float, items_error: float, difference: float, power: float = 0.8, level: float = 0.95, sides: int = 2
) -> int | None:
    """The smallest number of random seeds a side, at least MIN_SEEDS, with which a recipe's difference is found.

    `seed_spread`: standard deviation of a recipe's score over training runs; `items_error`: standard error of
    the difference that the items alone leave, which no seed takes away; `sides`: 1 where the other side (the
    base) has none. Variance: items_error^2 + sides seed_spread^2 / seeds, with t tails of sides (seeds - 1) degrees of
    freedom on the seeds' part (Satterthwaite 1946). None when no number of seeds suffices: more items are
    needed. Raises ValueError for a spread or error below 0, a difference not above 0, or sides other than 1 and 2.
    """
    from scipy.special import stdtrit

    if min(seed_spread, items_error) < 0 or difference <= 0 or sides not in (1, 2):
        raise ValueError(f"spread {seed_spread}, error {items_error}, difference {difference}, sides {sides}")
    tails = ((1 + level) / 2, _checked(power))
    if items_error * (quantile(level) + _power(power)) >= difference:
        return None
    for seeds in range(MIN_SEEDS, MOST_SEEDS + 1):
        of_seeds = sides * seed_spread**2 / seeds
        total = items_error**2 + of_seeds
        freedom = total**2 / (of_seeds**2 / (sides * (seeds - 1))) if of_seeds else math.inf
        needed = sum(float(stdtrit(min(freedom, 1e9), tail)) for tail in tails) * math.sqrt(total)
        if needed <= difference:
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


def _power(power: float) -> float:
    return NormalDist().inv_cdf(_checked(power))


def _checked(power: float) -> float:
    if not 0 < power < 1:
        raise ValueError(f"a power of {power}")
    return power
