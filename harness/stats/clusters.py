"""Items that are not independent: clusters (one passage, many questions) and strata (subjects of a benchmark).

`mean_estimate` and `difference_estimate` choose the method for one student or two and say which it was. `units` turns
clustered and stratified items into units that a function for independent items may take.

    items            0/1 scores                                   real scores
    independent      Wilson, paired: Tango                        bootstrap, BCa, normal above 10,000
    clusters         the same at the effective number of items,   cluster t (ratio estimator)
                     with t of G - 1 degrees of freedom
    strata           the same, G - L degrees of freedom           stratified t, fixed shares

Cluster t: the variance of a mean is G / (G - 1) times the sum over clusters of squared sums of residuals, over
n squared (Cochran 1977, section 9A, Cameron and Miller 2015, for language models Miller 2024, "Adding error
bars to evals"). Strata: the shares of the subjects are fixed by the suite, so that only what varies within them
counts (Cochran 1977, section 5.4). L subjects with one cluster each say nothing of their spread: they are put
together as one subject, which overstates the variance a little (collapsed strata: Cochran 1977, section 5A.12).

0/1 scores take the variance's ratio to that of independent items (the design effect) and put n divided by it into
the score interval, with t for the normal quantile (Korn and Graubard 1998, Franco et al. 2019): a plain t has no
width where nothing changed and passes a margin too easily where little did. Both are in bench_intervals.py. What
is left: when whole passages flip together (correlation 0.3, 30 passages), a drop of the margin still passed 8% of
the time instead of 5% (bench_gate_statistics.py).
Clusters never count for more than their items. Where all items agree, each cluster counts as one item.

Below MIN_GROUPS clusters (with strata: MIN_GROUPS - 1 degrees of freedom) nothing is estimable: None.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.stats import intervals as stats
from harness.stats.design import INDEPENDENT, Design, Names
from harness.stats.intervals import MIN_GROUPS, Estimate, Floats, binary
from harness.stats.rates import quantile, tango_ends, wilson_ends

Codes = NDArray[np.int64]

SMALLEST_EFFECT = 0.5  # strata may not make items worth more than twice as many: few flips estimate that badly


def mean_estimate(values: ArrayLike, design: Design = INDEPENDENT, *, random_seed: int) -> Estimate | None:
    """The mean of one student's scores over items, by the method that suits them.

    `values`: shape (items,). None when it is not estimable: too few clusters, or fewer than two real values.
    Raises ValueError for NaN, no items or other lengths.
    """
    x = _scores(values)
    if not binary(x):
        return _real(x, random_seed, design)
    sample = _effective_sample(x, design)
    if sample is None:
        return None
    rate, n = float(x.mean()), sample.effective

    def ends(level: float) -> tuple[float, float]:
        return wilson_ends(rate, n, sample.quantile(level))

    return Estimate(rate, sample.method("Wilson"), sample.units, ends)


def difference_estimate(
    a: ArrayLike, b: ArrayLike, design: Design = INDEPENDENT, *, random_seed: int
) -> Estimate | None:
    """The mean of a - b over the same items, by the method that suits them. None and raises as `mean_estimate`."""
    first, second = _scores(a), _scores(b)
    if first.shape != second.shape:
        raise ValueError(f"paired scores of shapes {first.shape} and {second.shape}")
    x = first - second
    if not (binary(first) and binary(second)):
        estimate = _real(x, random_seed, design)
        return estimate and replace(estimate, method=f"paired {estimate.method}")
    sample = _effective_sample(x, design)
    if sample is None:
        return None
    n = sample.effective
    wins, losses = float((x > 0).mean()) * n, float((x < 0).mean()) * n

    def ends(level: float) -> tuple[float, float]:
        return tango_ends(wins, losses, n, sample.quantile(level))

    return Estimate(float(x.mean()), sample.method("Tango"), sample.units, ends)


def units(values: ArrayLike, design: Design = INDEPENDENT) -> Floats | None:
    """Scores of shape (..., items) as (..., units): as good as independent, with the mean kept.

    A unit is a cluster: the mean plus its sum of residuals from its stratum's mean, scaled so that the plain
    variance of the mean of the units is that of the design (in the head of this file). Without clusters and
    strata the scores come back as they are. None for too few clusters. Raises ValueError for lengths that differ.
    """
    x = np.asarray(values, dtype=np.float64)
    layout = _layout(x.shape[-1], design)
    if layout.plain:
        return x
    return layout.units(x) if layout.estimable else None


def freedom(items: int, design: Design) -> int:
    """The degrees of freedom of a variance between as many items: of their clusters, less their strata."""
    return _layout(items, design).freedom


@dataclass(frozen=True)
class _Layout:
    """Which cluster each item is in, and which stratum each cluster is in (collapsed where it was alone)."""

    cluster: Codes  # (items,)
    stratum: Codes  # (clusters,)
    clustered: bool
    stratified: bool

    @property
    def plain(self) -> bool:
        return not (self.clustered or self.stratified)

    @property
    def freedom(self) -> int:
        """Clusters minus strata."""
        return len(self.stratum) - (int(self.stratum.max()) + 1)

    @property
    def estimable(self) -> bool:
        return self.freedom >= (MIN_GROUPS - 1 if self.clustered else 1)

    def units(self, x: Floats) -> Floats:
        """As the function `units`, for shape (..., items)."""
        flat, n, count = x.reshape(-1, x.shape[-1]), x.shape[-1], len(self.stratum)
        of_item = self.stratum[self.cluster]
        items = np.bincount(of_item)  # of each stratum
        clusters = np.bincount(self.stratum)
        scale = np.sqrt(clusters / np.maximum(clusters - 1, 1) * (count - 1) / count) * count / n
        out = np.empty((len(flat), count))
        for row, values in enumerate(flat):
            residual = values - (np.bincount(of_item, weights=values) / items)[of_item]
            sums = np.bincount(self.cluster, weights=residual, minlength=count)
            out[row] = values.mean() + scale[self.stratum] * sums
        return out.reshape(*x.shape[:-1], count)


@dataclass(frozen=True)
class _EffectiveSample:
    """How many independent items some 0/1 scores, or their differences, are worth."""

    units: int
    effective: float  # number of independent items with the same variance
    freedom: float  # of t; infinite for independent items
    words: str

    def quantile(self, level: float) -> float:
        return t_quantile(level, self.freedom)

    def method(self, name: str) -> str:
        return f"{name}{self.words}"


def _effective_sample(x: Floats, design: Design) -> _EffectiveSample | None:
    """The effective number of items of `x`. None for too few clusters."""
    layout = _layout(x.size, design)
    if layout.plain:
        return _EffectiveSample(x.size, x.size, math.inf, "")
    if not layout.estimable:
        return None
    count = len(layout.stratum)
    independent = float(x.var(ddof=1)) / x.size
    if independent <= 1e-24:  # all items agree: what the clusters share cannot be seen
        effective = float(count)
    else:
        effect = float(layout.units(x).var(ddof=1)) / count / independent
        effective = x.size / max(effect, 1.0 if layout.clustered else SMALLEST_EFFECT)
    words = f"{_words(layout)}, worth {effective:.0f} independent items"
    return _EffectiveSample(count, effective, layout.freedom, words)


def _real(x: Floats, random_seed: int, design: Design) -> Estimate | None:
    """The mean of real values: bootstrap, cluster t or stratified t."""
    layout = _layout(x.size, design)
    if layout.plain:
        return stats.mean_estimate(x, random_seed) if x.size > 1 else None
    if not layout.estimable:
        return None
    mean, count = float(x.mean()), len(layout.stratum)
    error = math.sqrt(float(layout.units(x).var(ddof=1)) / count)

    def ends(level: float) -> tuple[float, float]:
        half = t_quantile(level, layout.freedom) * error
        return mean - half, mean + half

    return Estimate(mean, f"t{_words(layout)}", count, ends)


def _words(layout: _Layout) -> str:
    over = f" over {len(layout.stratum)} clusters" if layout.clustered else ""
    within = f" within {int(layout.stratum.max()) + 1} strata" if layout.stratified else ""
    return f"{over}{within}, {layout.freedom} degrees of freedom"


def _layout(items: int, design: Design) -> _Layout:
    for names in (design.clusters, design.strata):
        if names is not None and len(names) != items:
            raise ValueError(f"{len(names)} names of clusters or strata for {items} items")
    passage, passages = _codes(design.clusters, items)
    subject, subjects = _codes(design.strata, items)
    filled = [name for name in design.clusters or () if name]
    shared = len(set(filled)) < len(filled)
    if not shared and len(subjects) == 1:
        return _Layout(np.arange(items), np.zeros(items, dtype=np.int64), False, False)
    unnamed = passage == passages.get("", -1)  # an item without a passage is a cluster of its own
    passage = np.where(unnamed, len(passages) + np.arange(items), passage)
    # a passage in two subjects is two
    _, first, cluster = np.unique(passage * len(subjects) + subject, return_index=True, return_inverse=True)
    stratum = _collapsed(subject[first], list(subjects))
    return _Layout(cluster.astype(np.int64), stratum, shared, int(stratum.max()) > 0)


def _codes(names: Names, items: int) -> tuple[Codes, dict[str, int]]:
    """Each item's name as a number, and the numbers. One number for all where there are no names."""
    if names is None:
        return np.zeros(items, dtype=np.int64), {"": 0}
    places = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.fromiter((places[name] for name in names), np.int64, items), places


def _collapsed(subject: Codes, names: Sequence[str]) -> Codes:
    """Each cluster's stratum, from 0 on in the order of names, where strata of one cluster are put together."""
    counts = np.bincount(subject, minlength=len(names))
    several = sorted((i for i in range(len(names)) if counts[i] > 1), key=lambda i: names[i])
    # several left alone are a stratum of their own; a single one joins the first
    home = np.full(len(names), len(several) if (counts == 1).sum() > 1 else 0)
    home[several] = np.arange(len(several))
    return np.asarray(home[subject], dtype=np.int64)


def t_quantile(level: float, freedom: float) -> float:
    """The two-sided quantile of t, normal for infinite degrees of freedom."""
    if math.isinf(freedom):
        return quantile(level)
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + level) / 2))


def _scores(values: ArrayLike) -> Floats:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not x.size or not np.isfinite(x).all():
        raise ValueError(f"want finite scores, one per item, got shape {x.shape}")
    return x
