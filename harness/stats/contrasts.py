"""Differences and slopes where few items changed, and rates near 0 and 1: intervals that still hold there.

A bootstrap of 46 items of which 2 changed draws those 2 again and again, and never the ones that might have
changed. Its nominal 95% interval of a slope covered 34% to 97% in simulation (20 to 100 items, rates of 3% to 95%).
Here two items more are imagined, one that changed each way as far as an item can: the adjusted interval of Bonett
and Price (2012, "Adjusted Wald confidence interval for a difference of binomial proportions based on paired
data", after Agresti and Min 2005), with t tails, and for any linear contrast of sizes in place of a difference.
It covers 93% or more in all of these, and more the fewer items change (tests/bench/bench_contrasts.py prints both).

No interval excludes 0 where fewer units changed than an exact sign test could reject with (Conover 1999, section
3.4): with 5 changed items even all of them one way has a two-sided p of 2/32. `fewest_changed` says how many it takes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from harness.core.record import Record
from harness.stats import clusters
from harness.stats.design import INDEPENDENT, Design
from harness.stats.intervals import (
    MIN_SEEDS,
    Estimate,
    Floats,
    Interval,
    binary,
    crossed_estimate,
    crossed_variance,
    mean_estimate,
    recipe_estimate,
)
from harness.stats.rates import wilson_ends
from harness.stats.score_matrix import ScoreMatrix

Question = Literal["these weights", "this recipe"]
Unit = Literal["items", "passages"]
SlopeVerdict = Literal["rises", "falls", "no measurable slope", "inconclusive"]

UNCHANGED = 1e-12  # a contrast nearer to 0 is rounding
MOSTLY = 0.5  # share of unchanged items from which real scores count as mostly unchanged


@dataclass(frozen=True)
class Contrast:
    """A difference or slope over items: its estimate at every level, and how many independent units changed."""

    estimate: Estimate | None  # None: not estimable, too few passages or items
    changed: int  # items, or passages where items share them, whose value changed
    units: int
    unit: Unit  # what they are
    recipe: bool  # whether random seeds vary too

    @property
    def question(self) -> Question:
        """What it asks about."""
        return "this recipe" if self.recipe else "these weights"

    def enough(self, level: float = 0.95) -> bool:
        """Whether so many units changed that an exact test could tell a direction."""
        return self.changed >= fewest_changed(level)


def fewest_changed(level: float = 0.95) -> int:
    """How many units must change, all one way, for a two-sided exact sign test to reject: 6 at 95%."""
    return 1 + math.ceil(-math.log2(1 - level) - 1e-9)


def difference(
    a: ScoreMatrix, b: ScoreMatrix, *, random_seed: int, b_varies: bool = True, same_seeds: bool = False
) -> Contrast:
    """`a` minus `b`, complete scores of the same items. Three seeds a varying side ask about the recipe.

    One seed of 0/1 scores a side: Tango's score interval. `same_seeds`: row by row both sides have one random seed, so
    that what it decides on both (the rows drawn, their order) is in no difference. Raises ValueError for other items
    on one side, and for another number of seeds where they are the same.
    """
    if a.items != b.items:
        raise ValueError(f"{len(a.items)} items against {len(b.items)}: they are not the same ones")
    if same_seeds and a.seeds != b.seeds:
        raise ValueError(f"{a.seeds} random seeds against {b.seeds}: they are not the same ones")
    recipe = a.seeds >= MIN_SEEDS and (not b_varies or b.seeds >= MIN_SEEDS)
    changes = a.item_means - b.item_means
    if not recipe and binary(a.item_means) and binary(b.item_means):
        estimate = clusters.difference_estimate(a.item_means, b.item_means, a.design, random_seed=random_seed)
        return _held(estimate, changes, a.design, recipe=False)
    unit = 1.0 if binary(a.values) and binary(b.values) else None
    sides: tuple[Floats, ...] = (changes[None],)
    if recipe:
        sides = (a.values - b.values,) if same_seeds else (a.values, -(b if b_varies else b.seed_mean()).values)
    return _contrast(sides, changes, unit, random_seed, a.design)


class Slope(Record):
    """How a score changes each time the number of rows doubles."""

    interval: Interval
    verdict: SlopeVerdict
    question: Question
    changed: int  # units whose slope is not 0
    units: int  # items, or passages where items share them
    unit: Unit


def slope_per_doubling(
    sizes: Sequence[int], scores: Floats, random_seed: int, level: float = 0.95, design: Design = INDEPENDENT
) -> Slope | None:
    """The least-squares slope of a score against log2(rows), and whether it can be told from zero.

    `sizes`: rows, above 0, at least two. `scores`: finite, shape (seeds, sizes, items), the same items throughout.
    One linear contrast per seed and item, so sizes are paired. With MIN_SEEDS seeds or more items and seeds
    vary, else items only. None for too few passages or items. Raises ValueError otherwise.
    """
    values = np.asarray(scores, dtype=np.float64)
    if len(set(sizes)) < 2 or min(sizes) < 1 or values.ndim != 3 or values.shape[1] != len(sizes):
        raise ValueError(f"sizes {list(sizes)} do not go with scores of shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("want finite scores")
    doublings = np.log2(np.asarray(sizes, dtype=float))
    doublings -= doublings.mean()
    weights = doublings / (doublings**2).sum()
    slopes = np.einsum("k,ski->si", weights, values)
    unit = float(weights[weights > 0].sum()) if binary(values) else None
    sides = (slopes,) if len(slopes) >= MIN_SEEDS else (slopes.mean(axis=0, keepdims=True),)
    contrast = _contrast(sides, slopes.mean(axis=0), unit, random_seed, design)
    if contrast.estimate is None:
        return None
    interval = contrast.estimate.interval(level)
    verdict: SlopeVerdict = "rises" if interval.low > 0 else "falls" if interval.high < 0 else "no measurable slope"
    if not contrast.enough(level):
        verdict = "inconclusive"
    return Slope(
        interval=interval,
        verdict=verdict,
        question=contrast.question,
        changed=contrast.changed,
        units=contrast.units,
        unit=contrast.unit,
    )


def level(scores: ScoreMatrix, *, random_seed: int) -> Estimate | None:
    """The mean of complete scores at every level. From MIN_SEEDS seeds on random seeds vary too.

    0/1 scores of several seeds: Wilson's interval for the number of items that the variance is worth (Korn and
    Graubard 1998), which has a width where all are right. None where it is not estimable.
    """
    values, mean = scores.values, scores.item_means
    units = clusters.units(values, scores.design) if mean.size > 1 else None
    if scores.seeds < 2 or not binary(values):
        estimate = recipe_estimate(units, random_seed) if units is not None else None
        return estimate or clusters.mean_estimate(mean, scores.design, random_seed=random_seed)
    if units is None:
        return None
    rate, count = float(mean.mean()), units.shape[1]
    variance, freedom = _variance((units,) if len(values) >= MIN_SEEDS else (units.mean(axis=0)[None],))
    spread = rate * (1 - rate)
    worth = min(spread / variance, mean.size * len(values)) if variance > UNCHANGED and spread else float(count)

    def ends(at: float) -> tuple[float, float]:
        return wilson_ends(rate, worth, clusters.t_quantile(at, freedom))

    seeds = "items and random seeds vary" if len(values) >= MIN_SEEDS else "of the mean over random seeds"
    return Estimate(rate, f"Wilson, {seeds}, worth {worth:.0f} independent items", count, ends)


def _contrast(
    sides: Sequence[Floats],
    changes: Floats,
    unit: float | None,
    random_seed: int,
    design: Design,
) -> Contrast:
    """The sum over sides of their means. `unit`: the largest change of one item, where scores are 0/1."""
    recipe = len(sides[0]) >= MIN_SEEDS
    if changes.size < 2:
        return _held(None, changes, design, recipe)
    units = [side for values in sides if (side := clusters.units(values, design)) is not None]
    if len(units) < len(sides):
        return _held(None, changes, design, recipe)
    by_cluster, seeds = _by_cluster(changes, design), max(map(len, sides))
    averaged = changes.size / by_cluster.size * seeds  # answers whose mean a unit's change is
    unit = _unit(by_cluster, unit, averaged)
    if unit is None:
        return _held(_dense(units, recipe, random_seed), changes, design, recipe)
    count = units[0].shape[1]
    variance, freedom = _variance(units)
    shrunk = count / (count + 2)
    value = sum(float(side.mean()) for side in units)
    error = math.sqrt(shrunk**2 * variance + 2 * unit**2 / (count + 2) ** 2)
    freedom = min(freedom, clusters.freedom(changes.size, design)) if not recipe else freedom

    def ends(at: float) -> tuple[float, float]:
        half = clusters.t_quantile(at, freedom) * error
        return min(value, shrunk * value - half), max(value, shrunk * value + half)

    words = f"adjusted t (Bonett and Price), {freedom:.0f} degrees of freedom"
    return _held(Estimate(value, words, count, ends), changes, design, recipe)


def _dense(sides: Sequence[Floats], recipe: bool, random_seed: int) -> Estimate:
    """Where most items changed: the two-way bootstrap of seeds and items, or the bootstrap of items."""
    return crossed_estimate(sides, random_seed) if recipe else mean_estimate(sides[0][0], random_seed)


def _variance(sides: Sequence[Floats]) -> tuple[float, float]:
    """The variance of the sum of the sides' means, and the degrees of freedom of its t tails."""
    if len(sides) > 1 or len(sides[0]) > 1:
        return crossed_variance(sides)
    x = sides[0][0]
    return float(x.var(ddof=1)) / x.size, x.size - 1


def _unit(changes: Floats, largest: float | None, averaged: float) -> float | None:
    """How far the two imagined units change.

    One 0/1 answer changes as far as it can, by `largest`. A mean of several answers (a passage, several seeds) changes
    by the root mean square of the units that changed, but at least by `largest` over the root of how many answers it
    averages, `averaged`. None for real scores of which most changed: there the bootstrap holds.
    """
    moved = changes[np.abs(changes) > UNCHANGED]
    if not moved.size:
        return largest
    typical = math.sqrt(float((moved**2).mean()))
    if largest is None:
        return None if moved.size > (1 - MOSTLY) * changes.size else typical
    return max(typical, largest / math.sqrt(averaged))


def _by_cluster(changes: Floats, design: Design) -> Floats:
    """The change of each independent unit, such that their mean is the mean over items."""
    if design.clusters is None:
        return changes
    # an item without a passage is a unit of its own
    names = [name or f" {place}" for place, name in enumerate(design.clusters)]
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return np.bincount([places[name] for name in names], weights=changes) * len(places) / changes.size


def _held(estimate: Estimate | None, changes: Floats, design: Design, recipe: bool) -> Contrast:
    """Its ends let out to 0 at every level at which too few units changed for an exact test."""
    by_cluster = _by_cluster(changes, design)
    changed, units = int((np.abs(by_cluster) > UNCHANGED).sum()), by_cluster.size
    unit: Unit = "items" if design.clusters is None else "passages"
    if estimate is None:
        return Contrast(None, changed, units, unit, recipe)
    inner = estimate.ends

    def ends(at: float) -> tuple[float, float]:
        low, high = inner(at)
        return (low, high) if changed >= fewest_changed(at) else (min(low, 0.0), max(high, 0.0))

    return Contrast(replace(estimate, ends=ends), changed, units, unit, recipe)
