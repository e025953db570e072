"""What the next doubling of rows would bring: a line over log2(rows), carried one step further, and its back-test.

The line is the least-squares line of the mean score over sizes. What it says of another size is a linear contrast of
the sizes, item by item, so that sizes stay paired. Two things make the outcome differ from it:

- items: other items would have given another line. Their error is that of the contrast's mean, over passages where
  items share one.
- training: every cell lies off the line by chance, and by what is not straight. Its variance is pooled from three
  sources, each with its degrees of freedom: the sizes' distances from the line, the random seeds' distances from their
  mean, and a prior guess (`SCATTER`, worth `WORTH` degrees), without which two or three sizes would say nothing of it.

The variance of a prediction is that of the items plus that of the scatter times (1 + the sum of squared weights), as of
any prediction by a regression (Draper and Smith 1998, section 3.1), with the t tails of the scatter's degrees of
freedom. A line has no ceiling: a curve that has begun to flatten makes the forecast hopeful. That is what the back-test
shows: the largest size predicted from the smaller ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from harness.core.record import Record
from harness.stats import clusters
from harness.stats.design import INDEPENDENT, Design
from harness.stats.intervals import Floats, Interval

SCATTER = 0.03  # a guess of a cell's standard deviation about the line, for scores between 0 and 1
WORTH = 2  # degrees of freedom that the guess counts for
LEVEL = 0.95


class Forecast(Record):
    """The score at a size that was not trained, or was not looked at."""

    rows: int
    value: Interval
    gain: Interval  # over the largest size that it was predicted from


class BackTest(Record):
    """The largest size as it came out, beside what the smaller ones said."""

    forecast: Forecast
    measured: float

    @property
    def covered(self) -> bool:
        """Whether the interval of the forecast holds what was measured."""
        return self.forecast.value.low <= self.measured <= self.forecast.value.high


def next_doubling(sizes: Sequence[int], scores: Floats, design: Design = INDEPENDENT) -> Forecast | None:
    """The score at twice the largest of `sizes`. Arguments as of `at`. None where it is not estimable."""
    return at(2 * max(sizes), sizes, scores, design)


def back_test(sizes: Sequence[int], scores: Floats, design: Design = INDEPENDENT) -> BackTest | None:
    """The largest size predicted from the smaller ones, of which it takes two. None where it is not estimable."""
    if len(sizes) < 3:
        return None
    forecast = at(sizes[-1], sizes[:-1], scores[:, :-1], design)
    return BackTest(forecast=forecast, measured=float(scores[:, -1].mean())) if forecast else None


def at(rows: int, sizes: Sequence[int], scores: Floats, design: Design = INDEPENDENT) -> Forecast | None:
    """The score at `rows`, from scores between 0 and 1 of shape (seeds, sizes, items). More is better or worse alike.

    `sizes`: rows, above 0, growing, two or more. None for too few passages or items. Raises ValueError for shapes that
    do not match, and for scores that are not finite or lie outside 0 to 1.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 3 or values.shape[1] != len(sizes) or len(sizes) < 2 or list(sizes) != sorted(set(sizes)):
        raise ValueError(f"sizes {list(sizes)} do not go with scores of shape {values.shape}")
    if min(sizes) < 1 or not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise ValueError("want sizes above 0 and scores between 0 and 1")
    x = np.log2(np.asarray(sizes, dtype=float))
    weights = _weights(math.log2(rows), x)
    scatter, freedom = _scatter(values, x)
    of_training = scatter / len(values) * (1 + float((weights**2).sum()))
    gain = weights - np.eye(len(sizes))[-1]
    predicted, gained = (
        _predicted(np.einsum("k,ski->i", contrast, values) / len(values), design, of_training, freedom)
        for contrast in (weights, gain)
    )
    if predicted is None or gained is None:
        return None
    return Forecast(rows=rows, value=_cut(predicted, 0.0, 1.0), gain=_cut(gained, -1.0, 1.0))


def _weights(at: float, x: Floats) -> Floats:
    """What each size's mean counts for in the line's value at the place `at`. They sum to 1."""
    centred = x - x.mean()
    return np.asarray(1 / len(x) + (at - x.mean()) * centred / (centred**2).sum())


def _scatter(values: Floats, x: Floats) -> tuple[float, int]:
    """(Variance of one cell's mean score about the line, its degrees of freedom), pooled with the guess."""
    means = values.mean(axis=2)
    of_size = means.mean(axis=0)
    centred = x - x.mean()
    off = of_size - of_size.mean() - centred * (centred @ of_size) / (centred**2).sum()
    seeds, sizes = means.shape
    squares = WORTH * SCATTER**2 + float(((means - of_size) ** 2).sum()) + seeds * float((off**2).sum())
    freedom = WORTH + (seeds - 1) * sizes + sizes - 2
    return squares / freedom, freedom


def _predicted(by_item: Floats, design: Design, of_training: float, freedom: int) -> Interval | None:
    """The mean of a contrast over items, as a prediction of a training that is still to come."""
    units = clusters.units(by_item[None], design) if by_item.size > 1 else None
    if units is None:
        return None
    count = units.shape[1]
    estimate = float(by_item.mean())
    half = clusters.t_quantile(LEVEL, freedom) * math.sqrt(float(units[0].var(ddof=1)) / count + of_training)
    method = f"line over log2 rows, t with {freedom} degrees of freedom"
    return Interval(estimate=estimate, low=estimate - half, high=estimate + half, method=method, n=count, level=LEVEL)


def _cut(interval: Interval, least: float, most: float) -> Interval:
    """The interval and its estimate, where a line has left what a score can be."""
    estimate = min(max(interval.estimate, least), most)
    low, high = (min(max(end, least), most) for end in (interval.low, interval.high))
    return interval.model_copy(update={"estimate": estimate, "low": min(low, estimate), "high": max(high, estimate)})
