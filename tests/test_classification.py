"""Per-label scores: by hand and against scikit-learn."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.stats.classification import macro_f1, macro_f1_values, per_label

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


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcz"), st.sampled_from(["a", "b", "c", "d", ""])), min_size=1, max_size=30))
def test_per_label_equals_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support

    gold, said = ([str(name) for name in side] for side in zip(*pairs, strict=True))
    labels = ["a", "b", "c", "d"]
    found = per_label(gold, said, labels)
    precision, recall, f1, support = precision_recall_fscore_support(gold, said, labels=labels, zero_division=0)
    assert [x.precision for x in found.labels] == pytest.approx(precision.tolist())
    assert [x.recall for x in found.labels] == pytest.approx(recall.tolist())
    assert [x.f1 for x in found.labels] == pytest.approx(f1.tolist())
    assert [x.gold for x in found.labels] == support.tolist()
    table = confusion_matrix(gold, said, labels=[*labels, "z", ""])
    assert found.confusion[:, :4].tolist() == table[:4, :4].tolist()
    assert found.confusion[:, 4].tolist() == table[:4, 4:].sum(axis=1).tolist()
    macro = f1_score(gold, said, labels=labels, average="macro", zero_division=0)
    assert macro_f1(gold, said, labels) == pytest.approx(macro)
    assert macro_f1_values(gold, said, labels).mean() == pytest.approx(macro)


@pytest.mark.parametrize(
    ("gold", "said", "labels"), [(["a"], [], ["a"]), ([], [], ["a"]), (["a"], ["a"], []), (["a"], ["a"], ["a", "a"])]
)
def test_what_cannot_be_counted_is_refused(gold: list[str], said: list[str], labels: list[str]) -> None:
    with pytest.raises(ValueError, match="labels"):
        per_label(gold, said, labels)
