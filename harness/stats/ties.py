"""Scores as a matrix of (random seeds, items): which items count, what ties them together, what they can show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from harness.stats.intervals import Floats, Interval, smallest_difference
from harness.stats.power import smallest_from

Bools = NDArray[np.bool_]


class Named(TypedDict):
    """Groups and strata by the names of harness.stats.clusters' arguments."""

    groups: tuple[str, ...] | None
    strata: tuple[str, ...] | None


@dataclass(frozen=True)
class Ties:
    """What ties items together, one name per item in the matrix' order; None where items stand alone."""

    groups: tuple[str, ...] | None = None  # items of one group (a passage) are alike
    strata: tuple[str, ...] | None = None  # parts of the suite whose shares are fixed

    @classmethod
    def between(cls, groups: Sequence[str], strata: Sequence[str]) -> Ties:
        """From a name per item: groups where any two items share one, strata where there are several."""
        return cls(
            tuple(groups) if len(set(groups)) < len(groups) else None,
            tuple(strata) if len(set(strata)) > 1 else None,
        )

    def of(self, kept: Iterable[bool] | Bools) -> Ties:
        """The same for some of the items."""
        keep = [bool(one) for one in kept]

        def some(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
            return None if names is None else tuple(name for name, there in zip(names, keep, strict=True) if there)

        return Ties(some(self.groups), some(self.strata))

    @property
    def named(self) -> Named:
        """As keyword arguments."""
        return Named(groups=self.groups, strata=self.strata)


ALONE = Ties()


def finite(values: Floats) -> Bools:
    """Which items have a value from every random seed: shape (items,) of (seeds, items)."""
    found: Bools = np.asarray(np.isfinite(values).all(axis=0))
    return found


def could_have_seen(found: Interval, a: Floats, b: Floats) -> float | None:
    """The smallest true difference that the items of `found` would likely have shown (power 0.8); None for none.

    `a`, `b`: the scores that were compared. Independent 0/1 scores by how many of them flip, all others by the
    interval's own width, where it has one.
    """
    if found.method == "Tango":
        return smallest_difference(found.n, float(np.mean(a.mean(axis=0) != b.mean(axis=0))), level=found.level)
    return smallest_from(found) or None
