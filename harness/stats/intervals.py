"""Intervals and paired differences. Pure: arrays in, numbers out. Every random draw takes a seed.

"These weights": two trained students are compared, only the items vary. "This recipe": training again would
give other weights, so items and random seeds both vary. Items are independent here (harness/stats/clusters.py has
those that are not). A difference is always a minus b. Both sides are in the
same item order. Equal real values on all items give an interval of no width. The table of simulated coverage
is printed by tests/bench/bench_intervals.py, the seconds for 100,000 items by bench_scorecards.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import model_validator

from harness.core.record import Record
from harness.stats.rates import first_true, quantile, tango_ends, wilson_ends

Floats = NDArray[np.float64]

RESAMPLES = 2000  # draws of a bootstrap
CELLS = 2_000_000  # weights held at once while resampling: 16 MB
LARGE = 10_000  # items above which the mean is normal to three digits and resampling buys nothing
MIN_SEEDS = 3  # random seeds a side below which "this recipe" is not answered
MIN_GROUPS = 8  # clusters below which resampling them says nothing
POWER = 0.8  # the chance to find a true difference that is called likely
Z_POWER = NormalDist().inv_cdf(POWER)


class Interval(Record):
    """An estimate and the range of values that the data do not exclude."""

    estimate: float
    low: float
    high: float
    method: str
    n: int  # items, or groups where those were resampled
    level: float = 0.95  # two-sided; each end alone is a bound at (1 + level) / 2

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low <= self.estimate <= self.high:
            raise ValueError(f"{self.low} <= {self.estimate} <= {self.high} does not hold ({self.method})")
        return self

    def within(self, least: float, most: float) -> Interval:
        """The same, cut at what the number can be. An interval that is not estimable stays so."""
        if math.isinf(self.low) and math.isinf(self.high):
            return self
        return self.model_copy(update={"low": max(least, self.low), "high": min(most, self.high)})


@dataclass(frozen=True)
class OneSided:
    """Two one-sided p values: small `above` says the number is above the shift, small `below` says below."""

    above: float  # of "it is the shift or less"
    below: float  # of "it is the shift or more"


@dataclass(frozen=True)
class Estimate:
    """A number with its interval at every level, for p values that agree with the interval shown."""

    value: float
    method: str
    n: int  # items, or groups where those are the units
    ends: Callable[[float], tuple[float, float]]  # level -> (low, high), nested
    finest: float = 1e-9  # the smallest tail the method resolves

    def interval(self, level: float = 0.95) -> Interval:
        """The two-sided interval."""
        return _between(self.value, *self.ends(level), self.method, self.n, level)

    def p(self, shift: float) -> OneSided:
        """The tails at which an end of the interval reaches `shift`: p < 0.05 where the 90% interval excludes it.

        By halving. Not below `finest`, so that 2000 draws of a bootstrap claim no more than they can.
        """
        if shift == self.value:
            return OneSided(0.5, 0.5)

        def excludes(tail: float) -> bool:
            low, high = self.ends(1 - 2 * tail)
            return low > shift if shift < self.value else high < shift

        tail = self.finest if excludes(self.finest) else first_true(excludes, self.finest, 0.5)
        return OneSided(tail, 1 - tail) if shift < self.value else OneSided(1 - tail, tail)


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """The interval of a rate out of `n` items: score method of Wilson (1927). Raises ValueError for n < 1."""
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"{successes} successes out of {n} items")
    rate = successes / n
    return _between(rate, *wilson_ends(rate, n, quantile(level)), "Wilson", n, level)


def paired_binary(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Interval:
    """The difference of two rates on the same items: Tango's (1998) score interval.

    `a`, `b`: 0/1 scores, shape (items,). Raises ValueError for other values or shapes. Chosen over method 10
    of Newcombe (1998), whose ends miss lopsidedly when most flips go one way: at a nominal 5% an end missed
    up to 11.5% of the time (n = 100, rates 0.60 and 0.55, correlation 0.9), against 6.9% for Tango's worst.
    """
    wins, losses, n = _flips(a, b)
    return _between((wins - losses) / n, *tango_ends(wins, losses, n, quantile(level)), "Tango", n, level)


def mcnemar_mid_p(a: ArrayLike, b: ArrayLike) -> float:
    """Two-sided p value of equal rates, inputs as `paired_binary`: mid-p McNemar (Fagerland et al. 2013)."""
    wins, losses, _ = _flips(a, b)
    flips, fewer = wins + losses, min(wins, losses)
    if not flips:
        return 1.0
    from scipy.special import bdtr  # the binomial distribution; of scipy.stats the import alone takes a second

    at_most, below = float(bdtr(fewer, flips, 0.5)), float(bdtr(fewer - 1, flips, 0.5)) if fewer else 0.0
    if wins == losses:  # every outcome is at least as uneven: all of them, minus half of this one
        return 1 - (at_most - below) / 2
    return at_most + below


def mean_estimate(values: ArrayLike, random_seed: int) -> Estimate:
    """The mean of real values over items: BCa bootstrap (Efron 1987), normal above LARGE items, drawn once.

    `values`: shape (items,), no NaN. Widened to t tails and n - 1, as Hesterberg (2015) does for few items.
    Raises ValueError for fewer than two values or for NaN.
    """
    x = _finite(values, 1)
    if x.size < 2:
        raise ValueError(f"{x.size} items have no interval")
    n, mean = x.size, float(x.mean())
    spread = x - mean
    if float(np.abs(spread).max()) <= 1e-12 * max(1.0, abs(mean)):
        return Estimate(mean, "all values equal", n, lambda level: (mean, mean))
    if n > LARGE:
        error = float(x.std(ddof=1)) / math.sqrt(n)
        return Estimate(
            mean, "normal", n, lambda level: (mean - quantile(level) * error, mean + quantile(level) * error)
        )
    draws = math.sqrt(n / (n - 1)) * np.concatenate([counts @ spread / n for counts in _resamples(n, random_seed)])
    acceleration = float((spread**3).sum() / (6 * (spread**2).sum() ** 1.5))

    def ends(level: float) -> tuple[float, float]:
        wider = 1 + (quantile(level) ** 2 + 1) / (4 * (n - 1))  # t over normal, nearly
        low, high = _bca(draws, acceleration, level)
        return mean + wider * low, mean + wider * high

    return Estimate(mean, "bootstrap, BCa", n, ends, finest=1 / RESAMPLES)


def recipe_estimate(scores: ArrayLike, random_seed: int) -> Estimate | None:
    """The mean score of one recipe, shape (seeds, items): items and seeds vary. None below MIN_SEEDS seeds."""
    x = _finite(scores, 2)
    return crossed_estimate([x], random_seed) if x.shape[0] >= MIN_SEEDS else None


def auc(positive: ArrayLike, negative: ArrayLike) -> float:
    """The chance that a positive score is above a negative one, ties half (Mann and Whitney 1947).

    `positive`, `negative`: shapes (p,), (q,). Raises ValueError when one is empty or has NaN.
    """
    above, below = _finite(positive, 1), _finite(negative, 1)
    if not above.size or not below.size:
        raise ValueError("the AUC needs scores of both kinds")
    return float(_wins(above, below).sum() / (above.size * below.size))


def auc_interval(
    positive: ArrayLike, negative: ArrayLike, positive_groups: Sequence[str], negative_groups: Sequence[str],
    random_seed: int, level: float = 0.95,
) -> Interval:  # fmt: skip
    """The AUC with whole groups resampled, because scores of one group (a seed, a text) are not independent.

    `positive`, `negative`: shapes (p,), (q,), with the group of each. Percentile bootstrap over clusters
    (Davison and Hinkley 1997, section 3.8). With fewer than MIN_GROUPS groups the interval is 0 to 1, so that
    nothing is claimed. Raises ValueError when a side is empty or groups do not match scores.
    """
    above, below = _finite(positive, 1), _finite(negative, 1)
    estimate = auc(above, below)
    if (len(positive_groups), len(negative_groups)) != (above.size, below.size):
        raise ValueError("each score needs one group")
    names, group = np.unique([*positive_groups, *negative_groups], return_inverse=True)
    n = len(names)
    if n < MIN_GROUPS:
        return _between(estimate, 0.0, 1.0, f"not estimable below {MIN_GROUPS} groups", n, level)
    up, down = group[: above.size], group[above.size :]
    won = np.zeros((n, n))  # won[g, h]: how often a positive of group g beats a negative of group h
    for h in range(n):
        won[:, h] = np.bincount(up, weights=_wins(above, below[down == h]), minlength=n)
    ups, downs = np.bincount(up, minlength=n), np.bincount(down, minlength=n)
    draws: list[Floats] = []
    for counts in _resamples(n, random_seed):
        pairs = (counts @ ups) * (counts @ downs)
        both_kinds = pairs > 0  # a draw without either kind has no AUC
        draws.append(((counts @ won) * counts).sum(axis=1)[both_kinds] / pairs[both_kinds])
    return _around(estimate, np.concatenate(draws) - estimate, "bootstrap over groups", n, level)


def minimum_detectable_difference(n: int, flips_share: float, level: float = 0.95) -> float | None:
    """The smallest true difference of two paired rates that `n` items find with probability POWER.

    `flips_share`: share of items on which the two students differ, in either direction. Solves the sample
    size formula of Miettinen (1968, also Connor 1987) for the difference. None when even flips that all go
    one way would not be found. Raises ValueError for no items, and for shares or levels that cannot be.
    """
    if n < 1 or not 0 <= flips_share <= 1 or not 0 < level < 1:
        raise ValueError(f"n={n}, flips_share={flips_share}, level={level}")
    z_level = quantile(level)

    def is_found(difference: float) -> bool:
        needed = z_level * math.sqrt(flips_share) + Z_POWER * math.sqrt(flips_share - difference**2)
        return difference * math.sqrt(n) >= needed

    # power grows with the difference up to the flips there are, so the bound is where it first suffices
    return first_true(is_found, 0.0, flips_share) if flips_share and is_found(flips_share) else None


def _between(estimate: float, low: float, high: float, method: str, n: int, level: float) -> Interval:
    """An interval whose ends are not let past the estimate, neither by rounding nor by a skewed bootstrap."""
    low, high = min(low, estimate), max(high, estimate)
    return Interval(estimate=estimate, low=low, high=high, method=method, n=n, level=level)


def _around(estimate: float, shifts: Floats, method: str, n: int, level: float) -> Interval:
    """The percentile interval of bootstrap `shifts` from the estimate (Efron 1979)."""
    low, high = np.quantile(shifts, [(1 - level) / 2, (1 + level) / 2])
    return _between(estimate, estimate + float(low), estimate + float(high), method, n, level)


def binary(values: Floats) -> bool:
    """Whether all of them are 0 or 1. NaN is neither."""
    return bool(((values == 0) | (values == 1)).all())


def _finite(values: ArrayLike, dimensions: int) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != dimensions or not np.isfinite(array).all():
        raise ValueError(f"want finite numbers in {dimensions} dimension(s), got shape {array.shape}")
    return array


def _paired(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    first, second = _finite(a, 1), _finite(b, 1)
    if first.shape != second.shape or not first.size:
        raise ValueError(f"paired scores of shapes {first.shape} and {second.shape}")
    return first, second


def _flips(a: ArrayLike, b: ArrayLike) -> tuple[int, int, int]:
    """(items only a has right, items only b has right, items)."""
    first, second = _paired(a, b)
    if not (binary(first) and binary(second)):
        raise ValueError("scores other than 0 and 1")
    return int((first > second).sum()), int((first < second).sum()), first.size


def _resamples(n: int, random_seed: int) -> Iterator[Floats]:
    """How often each of n things is drawn, RESAMPLES times, in blocks of shape (draws, n) with row sums n."""
    rng, block = np.random.default_rng(random_seed), max(1, CELLS // n)
    for start in range(0, RESAMPLES, block):
        rows = min(block, RESAMPLES - start)
        picks = rng.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
        yield np.bincount(picks.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def _bca(shifts: Floats, acceleration: float, level: float) -> tuple[float, float]:
    """The ends, as shifts from the estimate, of Efron's (1987) bias-corrected and accelerated interval."""
    normal, draws = NormalDist(), len(shifts)
    share = float((shifts < 0).mean() + (shifts == 0).mean() / 2)
    bias = normal.inv_cdf(min(max(share, 0.5 / draws), 1 - 0.5 / draws))
    places = [bias + (bias + z) / (1 - acceleration * (bias + z)) for z in (-quantile(level), quantile(level))]
    low, high = np.quantile(shifts, [normal.cdf(place) for place in places])
    return float(low), float(high)


def crossed_variance(sides: Sequence[Floats]) -> tuple[float, float]:
    """The unbiased variance of the sum over sides of their means, and Satterthwaite's (1946) degrees of freedom.

    `sides`: shape (seeds, items) each, items shared, seeds each side's own. A side with one row has no seed variance.
    """
    n = sides[0].shape[1]
    if n < 2:
        raise ValueError(f"{n} items have no interval")
    parts = [(float(sum(side.mean(axis=0) for side in sides).var(ddof=1)) / n, n - 1)]  # (variance, freedom)
    twice = 0.0  # the noise that both the items' and the seeds' part contain
    for side in (side for side in sides if len(side) > 1):
        seeds = len(side)
        parts.append((float(side.mean(axis=1).var(ddof=1)) / seeds, seeds - 1))
        rest = side - side.mean(axis=0) - side.mean(axis=1, keepdims=True) + side.mean()
        twice += float((rest**2).sum()) / ((seeds - 1) * (n - 1) * n * seeds)
    total = max(sum(v for v, _ in parts) - twice, parts[0][0], sum(v for v, _ in parts[1:]))
    squares = sum(v**2 / f for v, f in parts)
    return total, total**2 / squares if squares > 0 else float(n - 1)


def crossed_estimate(sides: Sequence[Floats], random_seed: int) -> Estimate:
    """The sum over sides of the mean of (seeds, items), where items are shared and seeds are each side's own.

    Items and seeds are resampled independently (two-way, "pigeonhole" bootstrap: Owen 2007), seeds rescaled
    for being few (Rao and Wu 1988). That counts the seed-by-item noise up to three times and uses normal
    tails, so its spread is set to the variance of `crossed_variance`, with its t tails. Above LARGE items the
    same variance and tails without resampling.
    """
    from scipy.special import stdtrit

    n, estimate = sides[0].shape[1], sum(float(side.mean()) for side in sides)
    total, freedom = crossed_variance(sides)
    if total <= 1e-24:  # rounding
        return Estimate(estimate, "all values equal", n, lambda level: (estimate, estimate))

    def tail(level: float) -> float:
        return float(stdtrit(freedom, (1 + level) / 2)) * math.sqrt(total)

    if n > LARGE:
        method = f"two-way, t with {freedom:.0f} degrees of freedom"
        return Estimate(estimate, method, n, lambda level: (estimate - tail(level), estimate + tail(level)))
    rng, draws = np.random.default_rng([random_seed, 1]), []  # the seeds' own stream, apart from the items'
    for counts in _resamples(n, random_seed):
        value = np.zeros(len(counts))
        for side in sides:
            seeds = len(side)
            weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), len(counts)) / seeds
            if seeds > 1:
                weights = 1 / seeds + math.sqrt(seeds / (seeds - 1)) * (weights - 1 / seeds)
            value += (weights * (counts @ side.T / n)).sum(axis=1)
        draws.append(value - estimate)
    shifts = np.concatenate(draws)
    shifts /= float(shifts.std())

    def ends(level: float) -> tuple[float, float]:
        low, high = np.quantile(shifts, [(1 - level) / 2, (1 + level) / 2]) * tail(level) / quantile(level)
        return estimate + float(low), estimate + float(high)

    return Estimate(estimate, f"two-way bootstrap, {freedom:.0f} degrees of freedom", n, ends, 1 / RESAMPLES)


def _wins(above: Floats, below: Floats) -> Floats:
    """For each score of `above`, how many of `below` it beats, ties half. Shape of `above`."""
    ranked = np.sort(below)
    return (np.searchsorted(ranked, above, "left") + np.searchsorted(ranked, above, "right")) / 2
