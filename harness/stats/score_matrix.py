"""One metric of one candidate as a matrix of random seeds by items, and the alignment of several by item ids."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce
from itertools import compress
from typing import Any

import numpy as np

from harness.stats.design import INDEPENDENT, Bools, Design
from harness.stats.intervals import Floats


@dataclass(frozen=True, eq=False)
class ScoreMatrix:
    """Scores of shape (random seeds, items) with the items' ids and design. NaN: the item has no value."""

    values: Floats
    items: tuple[str, ...]  # one id per column
    design: Design = INDEPENDENT

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != len(self.items):
            raise ValueError(f"{len(self.items)} item ids for scores of shape {self.values.shape}")

    @classmethod
    def numbered(cls, values: Any, design: Design = INDEPENDENT) -> ScoreMatrix:
        """Scores of shape (seeds, items), or (items,) of one seed, whose columns are named by their position."""
        array = np.atleast_2d(np.asarray(values, dtype=np.float64))
        return cls(array, tuple(map(str, range(array.shape[1]))), design)

    @property
    def seeds(self) -> int:
        """The number of random seeds."""
        return len(self.values)

    @property
    def complete(self) -> Bools:
        """Which items have a value from every random seed: shape (items,)."""
        return np.asarray(np.isfinite(self.values).all(axis=0))

    @property
    def mean(self) -> float:
        """The mean over all seeds and the complete items. NaN where no item is complete."""
        mask = self.complete
        return float(self.values[:, mask].mean()) if mask.any() else math.nan

    @property
    def item_means(self) -> Floats:
        """The mean over random seeds of every item: shape (items,)."""
        return np.asarray(self.values.mean(axis=0))

    def select(self, keep: Bools) -> ScoreMatrix:
        """The items that the mask `keep` selects."""
        return ScoreMatrix(self.values[:, keep], tuple(compress(self.items, keep)), self.design.select(keep))

    def of_seeds(self, rows: Iterable[int]) -> ScoreMatrix:
        """The random seeds in the rows with these indices."""
        return replace(self, values=self.values[list(rows)])

    def renamed(self, items: tuple[str, ...]) -> ScoreMatrix:
        """The same columns under other ids."""
        return replace(self, items=items)

    def zeros(self) -> ScoreMatrix:
        """The same items with a score of 0 each, in one row."""
        return replace(self, values=np.zeros((1, len(self.items))))

    def scaled(self, factor: float) -> ScoreMatrix:
        """Every value times `factor`."""
        return replace(self, values=factor * self.values)

    def seed_mean(self) -> ScoreMatrix:
        """The same items with one row, the mean over random seeds."""
        return replace(self, values=self.values.mean(axis=0, keepdims=True))


def align(*matrices: ScoreMatrix) -> tuple[ScoreMatrix, ...]:
    """The columns whose ids all matrices have. Raises ValueError where their order differs."""
    if all(matrix.items == matrices[0].items for matrix in matrices):
        return matrices
    shared = reduce(set.intersection, (set(matrix.items) for matrix in matrices))
    aligned = tuple(m.select(np.array([item in shared for item in m.items], dtype=bool)) for m in matrices)
    if any(matrix.items != aligned[0].items for matrix in aligned):
        raise ValueError("the same items in another order")
    return aligned


def align_complete(*matrices: ScoreMatrix) -> tuple[ScoreMatrix, ...]:
    """The columns whose ids all matrices have, each with a value from every random seed of every matrix."""
    aligned = align(*matrices)
    mask: Bools = np.asarray(np.all([matrix.complete for matrix in aligned], axis=0))
    return tuple(matrix.select(mask) for matrix in aligned)
