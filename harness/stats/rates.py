"""Formulas for rates of 0/1 scores, from counts: Wilson's and Tango's score methods. Imports nothing of ours.

They take a quantile instead of a level, and counts that need not be whole, so that items which share a passage
can enter with the number of independent items they are worth (harness/stats/clusters.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist


def quantile(level: float) -> float:
    """The normal quantile of a two-sided level: 1.96 for 0.95."""
    return NormalDist().inv_cdf((1 + level) / 2)


def wilson_ends(rate: float, n: float, z: float) -> tuple[float, float]:
    """Wilson's (1927) ends of a rate for a normal (or t) quantile `z`. `n` may be an effective number of items."""
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def tango_ends(wins: float, losses: float, n: float, z: float) -> tuple[float, float]:
    """Tango's (1998) ends for a normal (or t) quantile `z`. Counts may be scaled to an effective number of items."""
    return -_tango_high(losses, wins, n, z), _tango_high(wins, losses, n, z)


def tango_variance(wins: float, losses: float, n: float, shift: float) -> float:
    """The variance of one item's difference were the true difference `shift`, flips by constrained likelihood."""
    if shift < 0:
        wins, losses, shift = losses, wins, -shift
    linear = (2 * n - wins + losses) * shift - wins - losses
    cell = (math.sqrt(linear**2 + 8 * n * losses * shift * (1 - shift)) - linear) / (4 * n)  # of the losing flips
    return max(0.0, 2 * cell + shift * (1 - shift))


def _tango_high(wins: float, losses: float, n: float, z: float) -> float:
    """The upper end: the largest difference whose score statistic is at least -z (Tango 1998)."""

    def excluded(d: float) -> bool:
        return wins - losses - n * d < -z * math.sqrt(n * tango_variance(wins, losses, n, d))

    return first_true(excluded, (wins - losses) / n, 1.0)


def first_true(test: Callable[[float], bool], low: float, high: float) -> float:
    """Where `test` turns true between `low` and `high`, by halving. `high` when it never does."""
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if test(middle) else (middle, high)
    return high
