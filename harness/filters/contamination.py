"""A filter that keeps the items of the suites out of the rows, and lets stock phrases pass.

People share phrases without having read each other: "how do I get my money back for". So what a row and an item have
in common is weighed by how surprising its words are, and what many texts of the run have in common does not count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from harness.core.neighbours import Nearest
from harness.core.record import Record
from harness.core.text import jaccard, ngrams, shingles, words
from harness.errors import UsageError
from harness.filters.base import Answers, Context, Needs, On, Protected, Rule, part_of
from harness.records import Row, Verdict

MIN_CONTAINED = 4  # words; a shorter item inside a row says nothing
VARIETY = 3  # different words before and after a phrase, from which on it is a stock phrase of the run
RAREST = 20.0  # bits of a word that the dictionary does not know: a name, a number, another language
HALF = 0.5  # of a row's words, from which on the row is about the item that it holds

Run = tuple[str, ...]


class Contamination(Record):
    """Drops a row that gives away an item of a suite: words in a row, a whole short item, or nearly all of it.

    A stock phrase does not count: one whose words are all so common that people write it by themselves, or one that
    several seeds or items have in different surroundings.
    """

    needs: ClassVar = Needs(suites=True)

    kind: Literal["contamination"] = "contamination"
    ngram: Annotated[int, Field(ge=MIN_CONTAINED, le=100)] = 8  # words in a row that no row may share with an item
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.8  # Jaccard index of character 4-grams between row and item
    part_bits: Annotated[float, Field(ge=0)] = 85.0  # of information; shared words that have less are a stock phrase
    item_bits: Annotated[float, Field(ge=0)] = 55.0  # the same of a whole item, unless it is half of the row or more
    on: On = "input"

    def prepare(self, context: Context) -> Rule:
        """Looks for the items of every suite. `against` is 'suite/item', `score` the Jaccard index.

        Of several items the one with the longest run of shared words is named, or without such a run the most alike.
        N-gram overlap as in Brown et al. 2020 (GPT-3), appendix C. tests/contamination_pairs.jsonl has labelled pairs.
        """
        texts = [part_of(seed, self.on) for seed in context.seeds]
        index = _index(context.protected, texts, self.ngram)
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
            overlap = _overlap(words(text), index, self._counts)
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

    def _counts(self, overlap: _Overlap, row_words: int, index: _Index) -> bool:
        """Whether shared words are more than a stock phrase."""
        if overlap.is_item and len(overlap.shared) >= HALF * row_words:
            return True
        return index.information(overlap.shared) >= (self.item_bits if overlap.is_item else self.part_bits)


@dataclass(frozen=True)
class _Index:
    """Where runs of words occur in the protected items. Runs shorter than the n-gram are whole items."""

    words: list[list[str]]  # per item
    places: dict[Run, list[tuple[int, int]]]  # run -> (item, its place in the item)
    lengths: tuple[int, ...]  # lengths of the runs, in words
    stock: frozenset[Run]  # runs that several texts have in different surroundings

    def information(self, shared: Sequence[str]) -> float:
        """Bits of a run of words. Words inside a stock phrase have none."""
        bits = [surprise(word) for word in shared]
        for length in self.lengths:
            for start, run in enumerate(ngrams(shared, length)):
                if run in self.stock:
                    bits[start : start + length] = [0.0] * length
        return sum(bits)


@dataclass(frozen=True)
class _Overlap:
    item: int
    shared: list[str]
    is_item: bool


def _index(protected: Sequence[Protected], seeds: Sequence[str], n: int) -> _Index:
    texts = [words(item.text) for item in protected]
    places: dict[Run, list[tuple[int, int]]] = {}
    for i, text in enumerate(texts):
        if len(text) >= MIN_CONTAINED:
            for at, run in enumerate(ngrams(text, min(n, len(text)))):
                places.setdefault(run, []).append((i, at))
    lengths = tuple(sorted({len(run) for run in places}))
    different = {tuple(text) for text in (*texts, *map(words, seeds))}
    return _Index(texts, places, lengths, _stock(different, places.keys(), lengths))


def _stock(texts: Collection[Run], runs: Iterable[Run], lengths: Sequence[int]) -> frozenset[Run]:
    """The runs that stand after and before three different words, each text's beginning and end being one of its own.

    This is the accessor variety of Feng et al. 2004. Runs inside a passage that several items repeat have the same
    neighbours each time, and so are no stock phrases. Nor are those inside a stock phrase of more words than a run has.
    """
    counts = dict.fromkeys(runs, 0)  # of texts; most runs have one, and need no sets of neighbours
    for text in texts:
        for run in {run for length in lengths for run in ngrams(text, length)}:
            if run in counts:
                counts[run] += 1
    before: dict[Run, set[str | int]] = {run: set() for run, count in counts.items() if count >= VARIETY}
    after: dict[Run, set[str | int]] = {run: set() for run in before}
    for number, text in enumerate(texts if before else ()):
        for length in lengths:
            for start, run in enumerate(ngrams(text, length)):
                if run in before:
                    before[run].add(text[start - 1] if start else number)
                    after[run].add(text[start + length] if start + length < len(text) else number)
    return frozenset(run for run in before if min(len(before[run]), len(after[run])) >= VARIETY)


def _overlap(text: list[str], index: _Index, counts: Callable[[_Overlap, int, _Index], bool]) -> _Overlap | None:
    """The longest run of words that `text` shares with an item, among those that count."""
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
                    found = _Overlap(item, text[start : start + end], end == len(protected))
                    best = found if counts(found, len(text), index) else best
    return best


def surprise(word: str) -> float:
    """Bits of information of an English word: -log2 of its share of the words of film subtitles, 20 at most."""
    frequency, total = _frequencies()
    count = frequency.get(word, 0)
    return min(RAREST, math.log2(total / count)) if count else RAREST


@cache
def _frequencies() -> tuple[dict[str, int], int]:
    """(how often each word occurs, how many there are), words as `normalise` writes them: without apostrophes."""
    try:
        from spellchecker import SpellChecker
    except ImportError as error:
        raise UsageError("contamination: it needs pyspellchecker: make setup EXTRAS=train") from error
    frequency: dict[str, int] = {}
    for word, count in SpellChecker().word_frequency.items():
        bare = word.replace("'", "")
        frequency[bare] = frequency.get(bare, 0) + count
    return frequency, sum(frequency.values())
