"""Nested sizes, balance over labels, steps, and the order in which rows are seen."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config.run import Train
from harness.errors import UsageError
from harness.records import Row
from harness.train.sizes import batches, nested, step_count
from tests.project import row

SEED = st.integers(-(2**40), 2**40)


@st.composite
def some_rows(draw: st.DrawFn) -> list[Row]:
    """Rows whose labels are as uneven as they come."""
    labels = draw(st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=40))
    return [row(f"text {i}", label) for i, label in enumerate(labels)]


@given(some_rows(), SEED, st.data())
def test_a_size_is_exact_and_holds_every_smaller_one(rows: list[Row], seed: int, data: st.DataObject) -> None:
    large = data.draw(st.integers(0, len(rows)))
    small = data.draw(st.integers(0, large))
    assert nested(rows, small, seed) == nested(rows, large, seed)[:small]
    assert len({r.id for r in nested(rows, large, seed)}) == large


@given(some_rows(), SEED, st.data())
def test_labels_are_balanced_as_far_as_the_rows_allow(rows: list[Row], seed: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(0, len(rows)))
    there = Counter(r.answer for r in rows)
    got = Counter(r.answer for r in nested(rows, size, seed))
    unfinished = [got[label] for label in there if got[label] < there[label]]
    if unfinished:
        assert max(got.values(), default=0) - min(unfinished) <= 1


@given(some_rows(), SEED, st.randoms(use_true_random=False))
def test_the_order_of_the_input_changes_nothing(rows: list[Row], seed: int, random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    half = len(rows) // 2
    assert nested(shuffled, half, seed) == nested(rows, half, seed)
    assert list(batches(shuffled, 5, 3, seed)) == list(batches(rows, 5, 3, seed))


def test_another_random_seed_draws_other_rows() -> None:
    rows = [row(f"text {i}", "ab"[i % 2]) for i in range(40)]
    assert {r.id for r in nested(rows, 10, 0)} != {r.id for r in nested(rows, 10, 1)}


def test_the_draw_is_pinned() -> None:
    rows = [row(f"text {i}", "abc"[i % 3]) for i in range(9)]
    assert [r.text for r in nested(rows, 4, 7)] == ["text 6", "text 2", "text 4", "text 0"]


def test_a_size_beyond_the_rows_is_refused() -> None:
    with pytest.raises(UsageError, match="size 4 is larger than the 3 rows there are"):
        nested([row(f"text {i}", "a") for i in range(3)], 4, 0)


@given(some_rows(), st.integers(1, 12), st.integers(1, 9), SEED)
def test_every_row_is_seen_equally_often_give_or_take_one(
    rows: list[Row], count: int, batch_size: int, seed: int
) -> None:
    seen = list(batches(rows, count, batch_size, seed))
    assert [len(batch) for batch in seen] == [batch_size] * count
    times = Counter(r.id for batch in seen for r in batch)
    fair = count * batch_size // len(rows)
    assert all(fair <= times[r.id] <= fair + 1 for r in rows)


def test_passes_differ_and_no_rows_are_refused() -> None:
    rows = [row(f"text {i}", "a") for i in range(8)]
    first, second = batches(rows, 2, 8, 0)
    assert {r.id for r in first} == {r.id for r in second}
    assert first != second
    with pytest.raises(UsageError, match="no rows"):
        next(batches([], 1, 1, 0))


@pytest.mark.parametrize(("rows", "expected"), [(1, 32), (128, 32), (129, 34), (256, 64)])
def test_steps_are_passes_but_never_fewer_than_the_least(rows: int, expected: int) -> None:
    assert step_count(rows, Train(students=("s",), sizes=(1,), epochs=2, min_steps=32, batch_size=8)) == expected
