"""Filters by meaning: what says the same in other words, and which rows together say most.

Nearness is the cosine of sentence embeddings (harness.engines.embeddings), which read a text up to its first 128
tokens, about 100 words. It is rounded to four decimals: what else is embedded beside a text changes less.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from harness.core.record import Record
from harness.engines.protocols import Embedder
from harness.filters.base import Context, Needs, On, Rule, choosing, named_twin, part_of, part_of_twin
from harness.records import Example, Row, Verdict

Vectors = NDArray[np.float32]  # one unit vector a row
BLOCK = 512  # vectors compared with all others at a time: bounds memory
DECIMALS = 4
COSINES_KEPT = 8_192  # vectors whose cosines take 256 MiB


class _Embedded:
    """Embeds each text once, however often rows are judged. An empty text has no meaning: zeros."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._vectors: dict[str, Vectors] = {}

    def __call__(self, texts: Sequence[str]) -> Vectors:
        new = [text for text in dict.fromkeys(texts) if text.strip() and text not in self._vectors]
        self._vectors |= dict(zip(new, self._embedder.embed(new), strict=True)) if new else {}
        dimensions = len(next(iter(self._vectors.values()))) if self._vectors else 1
        nothing = np.zeros(dimensions, np.float32)
        found = [self._vectors.get(text, nothing) for text in texts]
        return np.stack(found) if found else np.zeros((0, dimensions), np.float32)


class SemanticDuplicate(Record):
    """Drops a text that means nearly what a seed means, or an earlier row which this filter kept.

    Questions of one form about different things are near in meaning too: look at what it drops before it is believed.
    """

    needs: ClassVar = Needs()

    kind: Literal["semantic_duplicate"] = "semantic_duplicate"
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.9  # cosine, from which on a text is a duplicate
    on: On = "input"

    def prepare(self, context: Context) -> Rule:
        """Loads the embeddings. The first of texts that are alike stays. `score` is the cosine, `against` the text."""
        embedded = _Embedded(context.embedder())
        return Rule(lambda rows, answers: self._verdicts(rows, context.seeds, embedded), compares_rows=True)

    def _verdicts(self, rows: Sequence[Row], seeds: Sequence[Example], embedded: _Embedded) -> list[Verdict]:
        earlier: list[Example | Row] = list(seeds)
        vectors = embedded([part_of(one, self.on) for one in (*seeds, *(row.example for row in rows))])
        kept = np.empty_like(vectors)  # of what is in `earlier`, in its order
        kept[: len(seeds)] = vectors[: len(seeds)]
        verdicts: list[Verdict] = []
        for row, vector in zip(rows, vectors[len(seeds) :], strict=True):
            near = kept[: len(earlier)] @ vector
            place = int(near.argmax()) if len(near) else -1
            score = round(float(near[place]), DECIMALS) if len(near) else 0.0
            if score < self.threshold:
                kept[len(earlier)] = vector
                earlier.append(row)
                verdicts.append(Verdict(row=row.id, filter=self.kind, keep=True))
                continue
            twin = earlier[place]
            reason = (
                f"it means what {named_twin(twin, row)} means (cosine {score:.3f}, below {self.threshold:g} wanted)"
            )
            against = part_of_twin(twin, self.on)
            verdicts.append(
                Verdict(row=row.id, filter=self.kind, keep=False, reason=reason, score=score, against=against)
            )
        return verdicts


class Diverse(Record):
    """Keeps the `rows` rows that are most diverse among those that pass every other filter, where more pass.

    It chooses after all filters that do not choose, and after `balance` where that stands above it. So a row that
    another filter drops takes no place, and changing another filter changes what it chooses. It chooses anew each
    round, among all rows of the run.

    k_center takes the row that is farthest from those taken, and so reaches for what is rare (Gonzalez 1985, as in
    Sener and Savarese 2018). facility_location takes the row that brings all rows nearest to one that is taken, and so
    prefers what stands for many (Mirzasoleiman et al. 2013, lazily as Minoux 1978). Seeds count as taken.
    """

    needs: ClassVar = Needs()

    kind: Literal["diverse"] = "diverse"
    rows: Annotated[int, Field(ge=1)]  # kept at most
    by: Literal["k_center", "facility_location"] = "k_center"
    on: On = "input"

    def prepare(self, context: Context) -> Rule:
        """Loads the embeddings. `score` is the cosine to the nearest row that is kept, `against` its text."""
        embedded = _Embedded(context.embedder())
        return choosing(self.kind, lambda rows: self._verdicts(rows, context.seeds, embedded))

    def _verdicts(self, rows: Sequence[Row], seeds: Sequence[Example], embedded: _Embedded) -> list[Verdict]:
        if len(rows) <= self.rows:
            return [Verdict(row=row.id, filter=self.kind, keep=True) for row in rows]
        texts = [part_of(row.example, self.on) for row in rows]
        vectors = embedded([*texts, *(part_of(seed, self.on) for seed in seeds)])
        choose = k_center if self.by == "k_center" else facility_location
        chosen = np.array(choose(vectors[: len(rows)], self.rows, vectors[len(rows) :]))
        scores, places = nearest_of(vectors[: len(rows)], vectors[chosen])
        taken = set(chosen.tolist())
        verdicts: list[Verdict] = []
        for i, row in enumerate(rows):
            score, against = round(float(scores[i]), DECIMALS), texts[chosen[places[i]]]
            reason = f"not among the {self.rows} most diverse rows: cosine {score:.3f} to one that is kept"
            verdicts.append(
                Verdict(row=row.id, filter=self.kind, keep=True)
                if i in taken
                else Verdict(row=row.id, filter=self.kind, keep=False, reason=reason, score=score, against=against)
            )
        return verdicts


def nearest_of(vectors: Vectors, others: Vectors) -> tuple[Vectors, NDArray[np.int64]]:
    """(cosine, place) of the nearest of `others` (the first of equals) for each vector. There must be others."""
    scores, places = np.empty(len(vectors), np.float32), np.empty(len(vectors), np.int64)
    for start in range(0, len(vectors), BLOCK):
        near = vectors[start : start + BLOCK] @ others.T
        places[start : start + BLOCK] = near.argmax(axis=1)
        scores[start : start + BLOCK] = near.max(axis=1)
    return scores, places


def k_center(vectors: Vectors, count: int, taken: Vectors) -> list[int]:
    """Places of `count` vectors, in the order in which they are taken: each the farthest from all taken so far.

    `taken` are centres from the start. Without them the first vector is taken first. Of equals the first is taken.
    """
    chosen = [] if len(taken) else [0]
    near = nearest_of(vectors, taken)[0] if len(taken) else vectors @ vectors[0]
    near[chosen] = np.inf  # a place is taken once
    while len(chosen) < count:
        chosen.append(int(np.round(near, DECIMALS).argmin()))
        near = np.maximum(near, vectors @ vectors[chosen[-1]])
        near[chosen[-1]] = np.inf
    return chosen


def facility_location(vectors: Vectors, count: int, taken: Vectors) -> list[int]:
    """Places of `count` vectors, in the order in which they are taken: each adds most to how near all have one taken.

    A vector is as near to what is taken as its largest cosine, and never less than 0. A gain only falls as more are
    taken, so most need not be computed again. Of equals the first is taken. Up to 8,192 vectors all cosines are kept.
    """
    cosines = vectors @ vectors.T if len(vectors) <= COSINES_KEPT else None
    cover = np.maximum(nearest_of(vectors, taken)[0], 0) if len(taken) else np.zeros(len(vectors), np.float32)

    def gains(places: slice) -> NDArray[np.float64]:
        near = vectors[places] @ vectors.T if cosines is None else cosines[places]
        total: NDArray[np.float64] = np.maximum(near - cover, 0).sum(axis=1, dtype=np.float64).round(DECIMALS)
        return total

    firsts = np.concatenate([gains(slice(start, start + BLOCK)) for start in range(0, len(vectors), BLOCK)])
    heap = [(-gain, place, 0) for place, gain in enumerate(firsts.tolist())]  # and how many were taken then
    heapq.heapify(heap)
    chosen: list[int] = []
    while len(chosen) < count:
        _, place, seen = heapq.heappop(heap)
        if seen < len(chosen):
            heapq.heappush(heap, (-float(gains(slice(place, place + 1))[0]), place, len(chosen)))
            continue
        chosen.append(place)
        cover = np.maximum(cover, vectors @ vectors[place])
    return chosen
