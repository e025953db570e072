"""Filters that compare rows with each other, with the seeds, and with the items of the suites.

All rows given take part, in request order, whatever other filters think of them: so a verdict depends on one
filter alone, and changing one filter changes no other verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from harness.core.record import Record
from harness.core.text import Nearest, jaccard, near_duplicates, ngrams, normalise, shingles, words
from harness.filters.base import Answers, Context, Needs, On, Protected, Rule, part_of
from harness.records import Example, Row, Verdict

Threshold = Annotated[float, Field(gt=0, le=1)]
MIN_CONTAINED = 4  # words; a shorter item inside a row says nothing


class Duplicate(Record):
    """Drops a text that, letter case and punctuation aside, an earlier row or a seed already has."""

    needs: ClassVar = Needs()

    kind: Literal["duplicate"] = "duplicate"
    on: On = "input"

    def prepare(self, context: Context) -> Rule:
        """The first of equal rows stays. `against` is the twin's text."""
        seeds: dict[str, Example] = {}
        for seed in context.seeds:
            seeds.setdefault(normalise(part_of(seed, self.on)), seed)
        return Rule(lambda rows, answers: self._verdicts(rows, seeds), compares_rows=True)

    def _verdicts(self, rows: Sequence[Row], seeds: Mapping[str, Example]) -> list[Verdict]:
        first: dict[str, Row] = {}
        verdicts: list[Verdict] = []
        for row in rows:
            text = normalise(part_of(row.example, self.on))
            twin = seeds.get(text) or first.get(text)
            first.setdefault(text, row)
            reason = f"the same words as {_named(twin, row)}" if twin else ""
            against, score = (_part(twin, self.on), 1.0) if twin else ("", None)
            verdicts.append(
                Verdict(row=row.id, filter=self.kind, keep=not twin, reason=reason, score=score, against=against)
            )
        return verdicts


class NearDuplicate(Record):
    """Drops a text that is nearly that of a seed or of an earlier row which this filter kept."""

    needs: ClassVar = Needs()

    kind: Literal["near_duplicate"] = "near_duplicate"
    threshold: Threshold = 0.8  # Jaccard index of character 4-grams
    on: On = "input"

    def prepare(self, context: Context) -> Rule:
        """The first of nearly equal rows stays. `score` is the exact Jaccard index, `against` the twin's text."""
        nearest = Nearest([part_of(seed, self.on) for seed in context.seeds], self.threshold)
        return Rule(lambda rows, answers: self._verdicts(rows, context.seeds, nearest), compares_rows=True)

    def _verdicts(self, rows: Sequence[Row], seeds: Sequence[Example], nearest: Nearest) -> list[Verdict]:
        texts = [part_of(row.example, self.on) for row in rows]
        like_seeds = nearest(texts)
        # a row too like a seed is gone already: it must not take others with it
        standing = [i for i, twin in enumerate(like_seeds) if twin is None]
        twins = dict(zip(standing, near_duplicates([texts[i] for i in standing], self.threshold), strict=True))
        verdicts: list[Verdict] = []
        for i, row in enumerate(rows):
            by_seed, by_row = like_seeds[i], twins.get(i)
            twin: Example | Row | None = None
            score = None
            if by_seed:
                twin, score = seeds[by_seed.index], by_seed.score
            elif by_row:
                twin, score = rows[standing[by_row.index]], by_row.score
            reason = f"nearly {_named(twin, row)} (Jaccard {score:.2f})" if twin else ""
            against = _part(twin, self.on) if twin else ""
            verdicts.append(
                Verdict(row=row.id, filter=self.kind, keep=not twin, reason=reason, score=score, against=against)
            )
        return verdicts


class Contamination(Record):
    """Drops a row that gives away an item of a suite: words in a row, a whole short item, or nearly it."""

    needs: ClassVar = Needs(suites=True)

    kind: Literal["contamination"] = "contamination"
    ngram: Annotated[int, Field(ge=MIN_CONTAINED, le=100)] = 8  # words in a row that no row may share with an item
    threshold: Threshold = 0.8  # Jaccard index of character 4-grams between row and item
    on: On = "input"

    def prepare(self, context: Context) -> Rule:
        """Looks for the items of every suite. `against` is 'suite/item', `score` the Jaccard index.

        Of several items the one with the longest run of shared words is named, or without such a run the most
        alike. N-gram overlap as in Brown et al. 2020 (GPT-3), appendix C.
        """
        index = _index(context.protected, self.ngram)
        nearest = Nearest([item.text for item in context.protected], self.threshold)

        def verdicts(rows: Sequence[Row], answers: Answers) -> list[Verdict]:
            return self._verdicts(rows, context.protected, index, nearest)

        return Rule(verdicts)

    def _verdicts(
        self, rows: Sequence[Row], protected: Sequence[Protected], index: _Index, nearest: Nearest
    ) -> list[Verdict]:
        texts = [part_of(row.example, self.on) for row in rows]
        verdicts: list[Verdict] = []
        for row, text, twin in zip(rows, texts, nearest(texts), strict=True):
            overlap = _overlap(words(text), index)
            item, reason, score = None, "", None
            if overlap:
                item = protected[overlap.item]
                score = jaccard(shingles(text), shingles(item.text))
                what = "holds the whole of" if overlap.is_item else f"shares {len(overlap.shared)} words in a row with"
                reason = f"{what} an item of {item.suite}: {' '.join(overlap.shared)!r}"
            elif twin:
                item, score = protected[twin.index], twin.score
                reason = f"nearly an item of {item.suite} (Jaccard {score:.2f}): {item.text!r}"
            against = f"{item.suite}/{item.item}" if item else ""
            verdicts.append(
                Verdict(row=row.id, filter=self.kind, keep=not item, reason=reason, score=score, against=against)
            )
        return verdicts


@dataclass(frozen=True)
class _Index:
    """Where runs of words occur in the protected items. Runs shorter than the n-gram are whole items."""

    words: list[list[str]]  # per item
    places: dict[tuple[str, ...], list[tuple[int, int]]]  # run -> (item, its place in the item)
    lengths: tuple[int, ...]  # lengths of the runs, in words


@dataclass(frozen=True)
class _Overlap:
    item: int
    shared: list[str]
    is_item: bool


def _index(protected: Sequence[Protected], n: int) -> _Index:
    texts = [words(item.text) for item in protected]
    places: dict[tuple[str, ...], list[tuple[int, int]]] = {}
    for i, text in enumerate(texts):
        if len(text) >= MIN_CONTAINED:
            for at, run in enumerate(ngrams(text, min(n, len(text)))):
                places.setdefault(run, []).append((i, at))
    return _Index(texts, places, tuple(sorted({len(run) for run in places})))


def _overlap(text: list[str], index: _Index) -> _Overlap | None:
    """The longest run of words that `text` shares with an item, if it is long enough to count."""
    best: _Overlap | None = None
    for length in index.lengths:
        for start, run in enumerate(ngrams(text, length)):
            for item, at in index.places.get(run, ()):
                protected = index.words[item]
                end = length
                while (
                    start + end < len(text) and at + end < len(protected) and text[start + end] == protected[at + end]
                ):
                    end += 1
                if best is None or end > len(best.shared):
                    best = _Overlap(item, text[start : start + end], end == len(protected))
    return best


def _part(twin: Example | Row, on: str) -> str:
    return part_of(twin.example if isinstance(twin, Row) else twin, on)


def _named(twin: Example | Row | None, row: Row) -> str:
    """How a reason speaks of a twin. Another label is said, for then one of the two is wrong."""
    what = "a seed" if isinstance(twin, Example) else "an earlier row"
    return f"{what}, labelled {twin.answer!r}" if twin and twin.answer != row.answer else what
