"""From per-item scores to a card's numbers: test items only, rates over all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.records import Score
from harness.scoring.metrics import METRICS
from harness.scoring.open_ended import suite_metrics
from harness.scoring.suites import BenchmarkSuite, LabelsSuite, OpenEndedSuite, Suite
from harness.stats.classification import macro_f1
from harness.stats.ties import Ties
from harness.text import named_label

LOWER_IS_BETTER = tuple(name for name, metric in METRICS.items() if metric.better == "lower")
RATES = tuple(name for name, metric in METRICS.items() if metric.kind == "rate")  # an item without one is wrong


def value_of(score: Score, metric: str) -> float:
    """A metric of one item. A missing rate is 0, since an item that gave none is wrong; what else is missing is NaN.

    So is every value of an item that failed: nobody answered it.
    """
    absent = 0.0 if metric in RATES else math.nan
    return math.nan if score.status == "failed" else score.values.get(metric, absent)


def ties_of(scores: Sequence[Score]) -> Ties:
    """What ties the items of some scores together. An item without a group is a group of its own."""
    return Ties.between([score.group or score.item for score in scores], [score.stratum for score in scores])


def summarise(scores: Sequence[Score], suite: Suite) -> dict[str, float]:
    """Metric -> value over the test items. What could not be computed for any item is absent."""
    test = [s for s in scores if s.split == "test"] or list(scores)
    whole = all(s.status != "failed" for s in test)
    metrics: dict[str, float] = {}
    for name in sorted({name for score in test for name in score.values}):
        if name in RATES and not whole:  # a rate of all items is not known while some were not asked
            continue
        values = [score.values[name] for score in test if name in score.values]
        metrics[name] = sum(values) / (len(test) if name in RATES else len(values))
    if isinstance(suite.spec, LabelsSuite) and whole:
        labels = suite.items[0].choices
        predicted = [named_label(s.output, labels) or "" for s in test]
        metrics["macro_f1"] = macro_f1([s.gold for s in test], predicted, labels)
    if isinstance(suite.spec, OpenEndedSuite):
        metrics |= suite_metrics(test)
    return metrics


def chance(suite: Suite) -> float | None:
    """What guessing gets, or None where the suite's items are not choices."""
    counts = [len(item.choices) for item in suite.items if item.choices]
    if isinstance(suite.spec, BenchmarkSuite) or not counts:
        return None
    return sum(1 / n for n in counts) / len(counts)
