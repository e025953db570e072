"""The design of a sample of items: its clusters (passages with many questions) and strata (fixed parts of a suite)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Names = Sequence[str] | None


@dataclass(frozen=True)
class Design:
    """A cluster and a stratum name per item, in the order of the scores. None where all items are independent."""

    clusters: Names = None  # items of one cluster are alike; an item named "" is a cluster of its own
    strata: Names = None  # parts of the suite whose shares are fixed

    @classmethod
    def from_names(cls, clusters: Sequence[str], strata: Sequence[str]) -> Design:
        """Keeps the clusters where any two items share one, and the strata where there are several."""
        return cls(
            tuple(clusters) if len(set(clusters)) < len(clusters) else None,
            tuple(strata) if len(set(strata)) > 1 else None,
        )

    def select(self, keep: Bools) -> Design:
        """The design of the items that the mask `keep` selects."""
        return Design(*(names and tuple(compress(names, keep)) for names in (self.clusters, self.strata)))


INDEPENDENT = Design()
