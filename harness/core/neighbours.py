"""Which texts are alike: near duplicates, the nearest of some references, the nearest neighbour of each.

Likeness is the Jaccard index of the shingles of `text.shingles`. A set of shingles is a row of numbers here, a tenth
of the memory of a set of strings. A number has 63 bits, so that two shingles of a pair of texts share one with a chance
of less than 1 in 10^13.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.core.text import SHINGLE, normalise

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

EXACT_CELLS = 4_000_000  # up to 2,000 x 2,000 texts every pair is compared, so nothing can be missed
LIKELY_TEXTS = 1_000  # texts that references are indexed for where their number is not known before
CHUNK_CELLS = 2_000_000  # cells of one slice of that comparison: a few tens of MiB
TEXTS_AT_ONCE = 4_096  # texts that are looked at together, for memory's sake
PAIRS_AT_ONCE = 4_000_000  # proposed pairs that are, and shingles of such pairs
QUERIES_AT_ONCE = 256  # texts that are compared with all others at once
PERMUTATIONS = 240  # of a MinHash; has many divisors, so that bands fit any threshold
RECALL = 0.999  # chance that a pair just at the threshold becomes a candidate
CODES = 2**63 - 1  # above the number of every shingle
# odd 64-bit numbers drawn at random: those of characters, then those of the values of a band
WEIGHTS = np.random.default_rng(0).integers(0, 2**63, SHINGLE + PERMUTATIONS, np.uint64) * 2 + 1


@dataclass(frozen=True)
class Twin:
    """The text that another is a near duplicate of."""

    index: int  # its place in the list that was searched
    score: float  # Jaccard index of the two shingle sets, 0 to 1


@dataclass(frozen=True)
class Shingled:
    """Texts as sets of shingles, those of `text.shingles`."""

    matrix: csr_matrix  # [texts, CODES], 1 where a text has a shingle; rows in the order of codes
    sizes: NDArray[Any]  # shingles of each text

    @classmethod
    def of(cls, texts: Sequence[str]) -> Shingled:
        """The shingles of texts that are not normalised yet."""
        return cls.of_normalised([normalise(text) for text in texts])

    @classmethod
    def of_normalised(cls, clean: Sequence[str]) -> Shingled:
        """The shingles of texts as `text.normalise` writes them."""
        from scipy.sparse import csr_matrix

        lengths = [max(len(text) + 3 - SHINGLE, 1) if text else 0 for text in clean]  # with a space before and after
        starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        codes = np.empty(starts[-1], np.int64)
        for start in range(0, len(clean), TEXTS_AT_ONCE):
            part = clean[start : start + TEXTS_AT_ONCE]
            codes[starts[start] : starts[start + len(part)]] = _codes(part)
        matrix = csr_matrix((np.ones(len(codes), np.int8), codes, starts), shape=(len(clean), CODES))
        matrix.sum_duplicates()
        matrix.data[:] = 1  # equal shingles of a text were added up
        return cls(matrix, np.diff(matrix.indptr))

    def columns(self, vocabulary: NDArray[np.int64]) -> csr_matrix:
        """[texts, vocabulary]: the shingles that are in a sorted vocabulary, whose last entry is CODES."""
        from scipy.sparse import csr_matrix

        column = np.searchsorted(vocabulary, self.matrix.indices)
        known = vocabulary[column] == self.matrix.indices
        starts = np.concatenate([[0], np.cumsum(known)])[self.matrix.indptr]
        shape = (len(self.sizes), len(vocabulary))
        return csr_matrix((np.ones(starts[-1], np.int32), column[known], starts), shape=shape)

    @cached_property
    def vocabulary(self) -> NDArray[np.int64]:
        """Every shingle of the texts, sorted, and CODES."""
        return np.append(np.unique(self.matrix.indices), CODES)

    @cached_property
    def _own_columns(self) -> csr_matrix:
        return self.columns(self.vocabulary)

    def nearest(self, queries: Sequence[int], references: Sequence[int]) -> list[Twin | None]:
        """For each of these texts the most alike of the references but itself (ties: the first), None without any."""
        others, own = np.asarray(references, np.int64), np.asarray(queries, np.int64)
        twins: list[Twin | None] = []
        matrix = self._own_columns
        transposed = matrix[others].T.tocsr()
        for start in range(0, len(own), QUERIES_AT_ONCE):
            part = own[start : start + QUERIES_AT_ONCE]
            shared = (matrix[part] @ transposed).toarray()
            union = self.sizes[part][:, None] + self.sizes[others][None, :] - shared
            score = np.divide(shared, union, out=np.ones(shared.shape), where=union > 0)  # two empty sets are alike
            score[part[:, None] == others[None, :]] = -1
            for row in score if len(others) else ():
                best = int(row.argmax())
                twins.append(Twin(int(others[best]), float(row[best])) if row[best] >= 0 else None)
        return twins if len(others) else [None] * len(own)


def _codes(clean: Sequence[str]) -> NDArray[np.int64]:
    """The number of every shingle of normalised texts, one text after the other, as often as it stands in it."""
    padded = [f" {text} ".ljust(SHINGLE, "\0") if text else "" for text in clean]
    characters = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    lengths = [len(text) for text in padded]
    shingles = max(len(characters) + 1 - SHINGLE, 0)
    codes = np.zeros(shingles, np.uint64)
    for place in range(SHINGLE):
        codes += characters[place : place + shingles] * WEIGHTS[place]
    codes = (codes ^ (codes >> np.uint64(32))) * WEIGHTS[0]  # alike shingles get numbers that are not
    within = np.arange(shingles) + SHINGLE <= np.repeat(np.cumsum(lengths), lengths)[:shingles]
    numbers: NDArray[np.int64] = (codes[within] >> np.uint64(1)).astype(np.int64)
    return numbers


# --- pairs --------------------------------------------------------------------------------------------------

Search = Callable[[Shingled], Iterator[tuple[int, int, float]]]


def similar_pairs(
    texts: Sequence[str], references: Sequence[str], threshold: float, exact_cells: int = EXACT_CELLS
) -> Iterator[tuple[int, int, float]]:
    """(place in `texts`, place in `references`, Jaccard) of all pairs at or above `threshold`.

    Up to `exact_cells` pairs all are compared: that takes under a second and misses none. Above that, MinHash
    bands propose the pairs (each true one with a chance of at least 0.999), and the exact index decides.
    Raises ValueError for a threshold outside (0, 1].
    """
    return _search(Shingled.of(references), threshold, len(texts), exact_cells)(Shingled.of(texts))


class Nearest:
    """Looks for each text's most alike reference. The references are indexed once, for texts that come in parts.

    What is found for a text does not depend on the texts beside it. Raises ValueError for a threshold outside (0, 1].
    """

    def __init__(self, references: Sequence[str], threshold: float) -> None:
        self._search = _search(Shingled.of(references), threshold, LIKELY_TEXTS)

    def __call__(self, texts: Sequence[str]) -> list[Twin | None]:
        """For each text the most alike reference at or above the threshold (ties: the first), or None."""
        nearest: list[Twin | None] = [None] * len(texts)
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            for i, j, score in self._search(Shingled.of(texts[start : start + TEXTS_AT_ONCE])):
                nearest[start + i] = _better(nearest[start + i], Twin(j, score))
        return nearest


def near_duplicates(texts: Sequence[str], threshold: float, exact_cells: int = EXACT_CELLS) -> list[Twin | None]:
    """For each text the earlier kept text it is most like, at or above `threshold`, or None: it is kept.

    First come stays. A text is compared with kept earlier ones only, so a chain of small changes does not
    eat everything: its members stay as soon as they differ enough from what was kept. Raises as `similar_pairs`.
    """
    # equal texts are looked at once: a teacher that repeats itself would make quadratically many pairs
    first: dict[str, int] = {}
    place = [first.setdefault(normalise(text), i) for i, text in enumerate(texts)]
    unique = list(first.values())
    earlier: dict[int, list[Twin]] = {}
    distinct = Shingled.of_normalised(list(first))
    for i, j, score in _search(distinct, threshold, len(unique), exact_cells, earlier=True)(distinct):
        earlier.setdefault(unique[i], []).append(Twin(unique[j], score))
    twin: list[Twin | None] = []
    for i, original in enumerate(place):
        best: Twin | None = None
        if original == i:
            for candidate in earlier.get(i, ()):
                if twin[candidate.index] is None:
                    best = _better(best, candidate)
        else:
            best = twin[original] or Twin(original, 1.0)
        twin.append(best)
    return twin


def _better(a: Twin | None, b: Twin) -> Twin:
    return b if a is None or (b.score, -b.index) > (a.score, -a.index) else a


def _search(
    right: Shingled, threshold: float, texts: int, exact_cells: int = EXACT_CELLS, *, earlier: bool = False
) -> Search:
    """The references indexed for about so many texts, by the method that `similar_pairs` states.

    `earlier`: the texts are the references, and each is compared with those before it.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold {threshold:g} must be above 0 and at most 1")
    method = all_pairs if texts * len(right.sizes) <= exact_cells else minhash_pairs
    return method(right, threshold, earlier=earlier)


def all_pairs(right: Shingled, threshold: float, *, earlier: bool = False) -> Search:
    """Every pair, by a sparse matrix product in slices: shared[i, j] counts the shingles that both have."""
    vocabulary = right.vocabulary
    columns = right.columns(vocabulary).T.tocsr()
    step = max(1, CHUNK_CELLS // max(1, len(right.sizes)))

    def pairs(left: Shingled) -> Iterator[tuple[int, int, float]]:
        rows = left.columns(vocabulary)
        for start in range(0, len(left.sizes), step):
            shared = (rows[start : start + step] @ columns).tocoo()
            text, counted = shared.row.astype(np.int64) + start, shared.data
            if earlier:
                before = shared.col < text
                text, other, counted = text[before], shared.col[before], counted[before]
            else:
                other = shared.col
            yield from _alike(left, right, text, other, counted, threshold)

    return pairs


def _alike(
    left: Shingled, right: Shingled, text: NDArray[Any], other: NDArray[Any], shared: NDArray[Any], threshold: float
) -> Iterator[tuple[int, int, float]]:
    """Those of the pairs (text, other) whose Jaccard index reaches the threshold, given how many shingles they share.

    Of two texts without shingles none is like the other.
    """
    union = left.sizes[text] + right.sizes[other] - shared
    for k in np.flatnonzero((shared > 0) & (shared >= threshold * union - 1e-9)):
        yield int(text[k]), int(other[k]), float(shared[k] / union[k])


# --- MinHash ------------------------------------------------------------------------------------------------


def minhash_pairs(right: Shingled, threshold: float, *, earlier: bool = False) -> Search:
    """Pairs that share a band of their MinHashes (rensa, fixed random seed), checked by the exact index.

    The values of a band are mixed into one. The references stand in its order, so that those with one value are found
    by bisection.
    """
    count, references = bands(threshold), len(right.sizes)
    own = np.empty((count, references), np.uint32)
    for start in range(0, references, TEXTS_AT_ONCE):
        end = min(start + TEXTS_AT_ONCE, references)
        own[:, start:end] = _band_values(right, start, end, count)
    order, values = np.empty(own.shape, np.int32), np.empty_like(own)
    for band, of_band in enumerate(own):
        order[band] = np.argsort(of_band, kind="stable")
        values[band] = of_band[order[band]]

    def proposed(left: Shingled, start: int, end: int) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """(texts, references) of the pairs that share a band, each once."""
        sought = own[:, start:end] if left is right else _band_values(left, start, end, count)
        low = np.array([np.searchsorted(*both) for both in zip(values, sought, strict=True)])
        found = np.array([np.searchsorted(*both, side="right") for both in zip(values, sought, strict=True)]) - low
        for texts in _parts(found.sum(axis=0), PAIRS_AT_ONCE):
            first, times = low[:, texts].ravel(), found[:, texts].ravel()
            within = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
            band = np.repeat(np.repeat(np.arange(count), len(texts)), times)
            other = order[band, np.repeat(first, times) + within].astype(np.int64)
            text = np.repeat(np.tile(texts + start, count), times)
            if earlier:
                text, other = text[other < text], other[other < text]
            yield np.divmod(np.unique(text * references + other), references)

    def pairs(left: Shingled) -> Iterator[tuple[int, int, float]]:
        for start in range(0, len(left.sizes), TEXTS_AT_ONCE):
            end = min(start + TEXTS_AT_ONCE, len(left.sizes))
            for text, other in proposed(left, start, end):
                for part in _parts(left.sizes[text] + right.sizes[other], PAIRS_AT_ONCE):
                    both = left.matrix[text[part]].multiply(right.matrix[other[part]])
                    yield from _alike(left, right, text[part], other[part], np.diff(both.indptr), threshold)

    return pairs


def _band_values(shingled: Shingled, start: int, end: int, count: int) -> NDArray[np.uint32]:
    """[bands, texts] of the texts from `start` to `end`."""
    from rensa import RMinHash

    part = shingled.matrix[start:end]
    tokens, rows = part.indices.astype(np.uint64), part.indptr.astype(np.uint64)
    digests = RMinHash.digest_matrix_from_flat_token_hashes(tokens, rows, PERMUTATIONS, 0).to_rows()
    of_bands = np.array(digests, np.uint64).reshape(end - start, count, -1) * WEIGHTS[: PERMUTATIONS // count]
    mixed: NDArray[np.uint32] = (of_bands.sum(axis=2) >> np.uint64(32)).astype(np.uint32)
    return mixed.T


def _parts(weights: NDArray[Any], most: int) -> list[NDArray[Any]]:
    """The places of `weights` in parts that weigh about `most` each, one place at least."""
    if not len(weights):
        return []
    ends = np.flatnonzero(np.diff(np.cumsum(weights) // most)) + 1
    return np.split(np.arange(len(weights)), ends)


def bands(threshold: float) -> int:
    """The fewest bands of a MinHash that propose a pair at `threshold` with a chance of at least 0.999.

    With b bands of r values the chance is 1 - (1 - threshold^r)^b (Leskovec, Rajaraman, Ullman, "Mining of
    Massive Datasets", 3.4). Fewer, longer bands propose fewer pairs in vain.
    """
    for count in range(1, PERMUTATIONS):
        values, rest = divmod(PERMUTATIONS, count)
        if not rest and 1 - (1 - threshold**values) ** count >= RECALL:
            return count
    return PERMUTATIONS
