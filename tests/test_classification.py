"""Per-label scores: by hand and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from harness.stats.classification import macro_f1, per_label

GOLD = ["a", "a", "a", "b", "b", "z"]
SAID = ["a", "b", "", "b", "a", "a"]


def test_per_label_by_hand() -> None:
    found = per_label(GOLD, SAID, ["a", "b", "c"])
    a, b, c = found.labels
    assert (a.gold, a.predicted, a.hits) == (3, 3, 1)  # the item whose gold is no label counts against precision
    assert (a.precision, a.recall, a.f1) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert (b.precision, b.recall, b.f1) == pytest.approx((1 / 2, 1 / 2, 1 / 2))
    assert (c.precision, c.recall, c.f1) == (0.0, 0.0, 0.0)
    assert found.confusion.tolist() == [[1, 1, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0]]
    assert found.confused() == [("a", "", 1), ("a", "b", 1), ("b", "a", 1)]
    assert found.macro_f1 == pytest.approx(5 / 18)


def test_per_label_equals_scikit_learn() -> None:
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    rng, labels = np.random.default_rng(0), ["a", "b", "c", "d"]
    gold, said = ([str(x) for x in rng.choice(labels[:3], 200)] for _ in range(2))
    found = per_label(gold, said, labels)
    precision, recall, f1, support = precision_recall_fscore_support(gold, said, labels=labels, zero_division=0)
    assert [x.precision for x in found.labels] == pytest.approx(precision.tolist())
    assert [x.recall for x in found.labels] == pytest.approx(recall.tolist())
    assert [x.f1 for x in found.labels] == pytest.approx(f1.tolist())
    assert [x.gold for x in found.labels] == support.tolist()
    assert found.confusion[:, :4].tolist() == confusion_matrix(gold, said, labels=labels).tolist()
    assert macro_f1(gold, said, labels) == pytest.approx(float(np.mean(f1)))


@pytest.mark.parametrize(
    ("gold", "said", "labels"), [(["a"], [], ["a"]), ([], [], ["a"]), (["a"], ["a"], []), (["a"], ["a"], ["a", "a"])]
)
def test_what_cannot_be_counted_is_refused(gold: list[str], said: list[str], labels: list[str]) -> None:
    with pytest.raises(ValueError, match="labels"):
        per_label(gold, said, labels)
