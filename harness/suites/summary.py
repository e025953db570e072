"""From per-item scores to a card's numbers: test items only, rates over all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.metrics.table import METRICS
from harness.records import Score, Scorecard
from harness.stats.design import Design
from harness.suites.suite import Suite

LOWER_IS_BETTER = tuple(name for name, metric in METRICS.items() if metric.better == "lower")
RATES = tuple(name for name, metric in METRICS.items() if metric.kind == "rate")  # an item without one is wrong
EXACT = 1e-9  # sums of floats depend on their order
COMPRESSED = ("compression_all",)  # computed anew from all answers, and machines have other builds of zlib:
CODEC = 0.05


def absent(metric: str) -> float:
    """What an answered item without a value has: of a rate 0, since an item that gave none is wrong, else NaN."""
    return 0.0 if metric in RATES else math.nan


def value_of(score: Score, metric: str) -> float:
    """A metric of one item, `absent` where it has none. NaN of an item that failed: nobody answered it."""
    return math.nan if score.status == "failed" else score.values.get(metric, absent(metric))


def design_of(scores: Sequence[Score]) -> Design:
    """The clusters and strata of the scored items. An item without a group is a cluster of its own."""
    return Design.from_names([score.group or score.item for score in scores], [score.stratum for score in scores])


def summarise(scores: Sequence[Score], suite: Suite) -> dict[str, float]:
    """Metric -> value over the test items. What could not be computed for any item is absent."""
    test = [s for s in scores if s.split == "test"] or list(scores)
    complete = all(s.status != "failed" for s in test)
    metrics: dict[str, float] = {}
    for name in sorted({name for score in test for name in score.values}):
        if name in RATES and not complete:  # a rate of all items is not known while some were not asked
            continue
        values = [score.values[name] for score in test if name in score.values]
        metrics[name] = sum(values) / (len(test) if name in RATES else len(values))
    return metrics | suite.spec.extras.summary(test, suite.items)


def disagreement(card: Scorecard, scores: Sequence[Score], suite: Suite | None) -> str:
    """What a card says of its own scores that they do not bear out, in words. Empty where there is nothing.

    Its metrics are judged where `suite` is the one that was scored. A metric that the card lacks is no disagreement:
    a later version may compute more.
    """
    counts = {status: sum(s.status == status for s in scores) for status in ("scored", "unparsed", "failed")}
    counts |= {"truncated": sum(s.truncated for s in scores), "items": len(scores)}
    wrong = [
        f"{name} {getattr(card, name)} (its scores: {n})" for name, n in counts.items() if getattr(card, name) != n
    ]
    computed = summarise(scores, suite) if suite is not None else card.metrics
    for name, value in card.metrics.items():
        value_now = computed.get(name, math.nan)
        near = CODEC if name in COMPRESSED else EXACT
        if not (
            math.isclose(value, value_now, rel_tol=near, abs_tol=near) or (math.isnan(value) and math.isnan(value_now))
        ):
            wrong.append(f"{name} {value:.6g} (its scores: {value_now:.6g})")
    return ", ".join(wrong)
