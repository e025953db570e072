"""The nearest neighbour of each of some texts, by the Jaccard index of character 4-grams, exactly and for all at once.

The filters search for pairs above a threshold (`text`). Here every text has a neighbour, however far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.core.text import SHINGLE, Twin, normalise

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

CHUNK = 256  # texts that are compared with all others at once
CODE_BITS = 21  # of a Unicode character


@dataclass(frozen=True)
class Shingled:
    """Texts as sets of shingles, those of `text.shingles`."""

    matrix: csr_matrix  # [texts, shingles], 1 where a text has one
    sizes: NDArray[Any]  # shingles of each text

    @classmethod
    def of(cls, texts: Sequence[str]) -> Shingled:
        """Every shingle gets a number: that of a pair of numbered pairs of characters."""
        from scipy.sparse import csr_matrix

        padded = [f" {clean} ".ljust(SHINGLE, "\0") if (clean := normalise(text)) else "" for text in texts]
        codes = np.frombuffer("".join(padded).encode("utf-32-le"), np.uint32).astype(np.int64)
        lengths = np.array([len(text) for text in padded], np.int64)
        text_of = np.repeat(np.arange(len(texts)), lengths)
        within = np.arange(len(codes)) + SHINGLE <= np.repeat(np.cumsum(lengths), lengths)
        places = np.flatnonzero(within)
        _, pair = np.unique((codes[:-1] << CODE_BITS) | codes[1:], return_inverse=True)
        distinct, column = np.unique((pair[places].astype(np.int64) << 32) | pair[places + 2], return_inverse=True)
        shape = (len(texts), max(len(distinct), 1))
        matrix = csr_matrix((np.ones(len(places), np.int32), (text_of[places], column)), shape=shape)
        matrix.data[:] = 1  # equal shingles of a text were added up
        return cls(matrix, np.diff(matrix.indptr))

    def nearest(self, queries: Sequence[int], references: Sequence[int]) -> list[Twin | None]:
        """For each of these texts the most alike of the references but itself (ties: the first), None without any."""
        others, own = np.asarray(references, np.int64), np.asarray(queries, np.int64)
        twins: list[Twin | None] = []
        transposed = self.matrix[others].T.tocsr()
        for start in range(0, len(own), CHUNK):
            part = own[start : start + CHUNK]
            shared = (self.matrix[part] @ transposed).toarray()
            union = self.sizes[part][:, None] + self.sizes[others][None, :] - shared
            score = np.divide(shared, union, out=np.ones(shared.shape), where=union > 0)  # two empty sets are alike
            score[part[:, None] == others[None, :]] = -1
            for row in score if len(others) else ():
                best = int(row.argmax())
                twins.append(Twin(int(others[best]), float(row[best])) if row[best] >= 0 else None)
        return twins if len(others) else [None] * len(own)
