"""Predicted labels against gold labels: precision, recall, F1, the confusion matrix.

Counted here and not by scikit-learn, whose metrics take seconds to import: `harness check` computes the macro-F1 of
every card again. A property test holds the values equal to scikit-learn's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LabelScore:
    """How one label fares. A ratio without a denominator is 0, as in scikit-learn's zero_division=0."""

    label: str
    gold: int  # items that have it
    predicted: int  # items that were given it
    hits: int  # both

    @property
    def precision(self) -> float:
        """Of the items given this label, the share that have it."""
        return self.hits / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        """Of the items that have this label, the share that were given it."""
        return self.hits / self.gold if self.gold else 0.0

    @property
    def f1(self) -> float:
        """The harmonic mean of both: 2 hits / (gold + predicted)."""
        return 2 * self.hits / (self.gold + self.predicted) if self.gold + self.predicted else 0.0


@dataclass(frozen=True)
class PerLabel:
    """Every label's score, and the whole table behind them."""

    labels: tuple[LabelScore, ...]
    confusion: Counts  # shape (labels, labels + 1): gold by predicted; last column: none of the labels

    @property
    def macro_f1(self) -> float:
        """The mean of F1 over labels."""
        return sum(label.f1 for label in self.labels) / len(self.labels)

    def confused(self) -> list[tuple[str, str, int]]:
        """(gold, predicted, items) of every mistake, most frequent first. "" is an answer without a label."""
        names = [label.label for label in self.labels]
        columns = [*names, ""]
        mistakes = [(names[i], columns[j], int(n)) for (i, j), n in np.ndenumerate(self.confusion) if n and i != j]
        return sorted(mistakes, key=lambda pair: (-pair[2], pair[0], pair[1]))


def per_label(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> PerLabel:
    """Precision, recall and F1 of each of `labels`, and the confusion matrix.

    `gold`, `predicted`: one per item, same order. A prediction outside `labels` (an unparsed answer) misses
    its gold label and counts for none. An item whose gold is outside `labels` counts against what it was given.
    Raises ValueError for different lengths, no items, no labels or a label named twice.
    """
    if len(gold) != len(predicted) or not gold or not labels or len(set(labels)) != len(labels):
        raise ValueError(f"{len(gold)} gold, {len(predicted)} predicted, {len(labels)} labels")
    place = {label: i for i, label in enumerate(labels)}
    n = len(labels)
    rows = np.fromiter((place.get(g, n) for g in gold), np.int64, len(gold))
    columns = np.fromiter((place.get(p, n) for p in predicted), np.int64, len(gold))
    table: Counts = np.bincount(rows * (n + 1) + columns, minlength=(n + 1) ** 2).reshape(n + 1, n + 1)
    scores = [
        LabelScore(label, int(table[i].sum()), int(table[:, i].sum()), int(table[i, i])) for label, i in place.items()
    ]
    return PerLabel(tuple(scores), table[:n])


def macro_f1(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> float:
    """The mean over `labels` of F1, 0 for a label that is neither gold nor predicted. Raises as `per_label`."""
    return per_label(gold, predicted, labels).macro_f1


def macro_f1_values(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> Floats:
    """One number per item whose mean is macro-F1, and whose spread is that of macro-F1 over samples of items.

    Macro-F1 linearised at the estimate (the delta method, Takahashi et al. 2022, "Confidence interval for micro-
    averaged F1 and macro-averaged F1 scores"): so every interval of a mean serves, with clusters and strata too.
    Raises as `per_label`.
    """
    scores = per_label(gold, predicted, labels)
    values = np.full(len(gold), scores.macro_f1)
    for label in scores.labels:
        values += (_f1_values(gold, predicted, label) - label.f1) / len(scores.labels)
    return values


def label_values(gold: Sequence[str], predicted: Sequence[str], label: str) -> tuple[Floats, Floats, Floats]:
    """One number per item for precision, recall and F1 of a label, whose means they are. NaN where it has no part."""
    is_gold, is_predicted = (np.array([name == label for name in names]) for names in (gold, predicted))
    hits = (is_gold & is_predicted).astype(np.float64)
    score = LabelScore(label, int(is_gold.sum()), int(is_predicted.sum()), int(hits.sum()))
    f1 = _f1_values(gold, predicted, score) if is_gold.any() or is_predicted.any() else np.full(len(gold), np.nan)
    return np.where(is_predicted, hits, np.nan), np.where(is_gold, hits, np.nan), f1


def _f1_values(gold: Sequence[str], predicted: Sequence[str], score: LabelScore) -> Floats:
    """F1 of a label, linearised: F1 + (2 hit - F1 (gold + predicted)) n / (all gold + all predicted)."""
    is_gold, is_predicted = (
        np.array([name == score.label for name in names], dtype=np.float64) for names in (gold, predicted)
    )
    total = score.gold + score.predicted
    if not total:
        return np.zeros(len(gold))
    return np.asarray(score.f1 + (2 * is_gold * is_predicted - score.f1 * (is_gold + is_predicted)) * len(gold) / total)
