"""Which rows a size holds, how many steps it gets, and in which order they are seen. No torch.

Everything here is a function of row ids and the random seed: the order of a file, or of arrival, changes
nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from harness.config.run import Train
from harness.errors import UsageError
from harness.records import Row


def nested(rows: Sequence[Row], size: int, random_seed: int) -> tuple[Row, ...]:
    """The first `size` rows of one fixed sequence, so that every size contains the smaller ones.

    The sequence takes one row of each label in turn (of each answer, where answers are free). Labels and rows are
    both in the order of sha256(random_seed, name). A label that has run out is passed over: labels differ by at
    most one row as long as all have rows left. Raises UsageError when there are fewer than `size` rows.
    """
    if size > len(rows):
        raise UsageError(f"size {size} is larger than the {len(rows)} rows there are")
    return tuple(islice(balanced(rows, random_seed), size))


def balanced(rows: Sequence[Row], random_seed: int) -> Iterator[Row]:
    """All rows in that sequence."""
    by_label: dict[str, list[Row]] = {}
    for row in shuffled(rows, random_seed):
        by_label.setdefault(row.answer, []).append(row)
    return in_turns(by_label, random_seed)


def shuffled(rows: Sequence[Row], random_seed: int) -> list[Row]:
    """The rows in the order of sha256(random_seed, id), whatever order they come in."""
    return sorted(rows, key=lambda row: _rank(random_seed, "row", row.id))


def in_turns(by_label: Mapping[str, Sequence[Row]], random_seed: int) -> Iterator[Row]:
    """One row of each label in turn, each label's in their order, the labels in the order of sha256."""
    labels = sorted(by_label, key=lambda label: _rank(random_seed, "label", label))
    deepest = max((len(of_label) for of_label in by_label.values()), default=0)
    return (by_label[label][i] for i in range(deepest) for label in labels if i < len(by_label[label]))


def step_count(rows: int, settings: Train) -> int:
    """Optimizer steps for a size of `rows` rows: `steps` at any size, else `epochs` passes and at least `min_steps`."""
    return settings.steps or max(settings.min_steps, settings.epochs * math.ceil(rows / settings.batch_size))


def batches(rows: Sequence[Row], steps: int, batch_size: int, random_seed: int) -> Iterator[tuple[Row, ...]]:
    """The rows of each step: `steps` tuples of `batch_size`, drawn from one endless pass after another.

    Each pass is a new permutation, and a batch may span two passes: every row is seen the same number of
    times, give or take one. Raises UsageError when there are no rows.
    """
    if not rows:
        raise UsageError("there are no rows to train on")
    endless = _passes(rows, random_seed)
    for _ in range(steps):
        yield tuple(next(endless) for _ in range(batch_size))


def _passes(rows: Sequence[Row], random_seed: int) -> Iterator[Row]:
    number = 0
    while True:
        yield from sorted(rows, key=lambda r: _rank(random_seed, "pass", str(number), r.id))
        number += 1


def _rank(random_seed: int, *names: str) -> tuple[bytes, str]:
    """A place in a random order that depends on the name alone. The name itself breaks ties."""
    text = "\x1f".join([str(random_seed), *names])
    return hashlib.sha256(text.encode()).digest(), names[-1]
