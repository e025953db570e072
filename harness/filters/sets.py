"""Filters that compare rows with each other and with the seeds.

All rows given take part, in request order, whatever other filters think of them: so a verdict depends on one
filter alone, and changing one filter changes no other verdict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from harness.core.neighbours import Nearest, near_duplicates
from harness.core.record import Record
from harness.core.text import normalise, words
from harness.errors import UsageError
from harness.filters.base import Context, Needs, On, Rule, choosing, named_twin, part_of, part_of_twin
from harness.records import Example, Row, Verdict

Threshold = Annotated[float, Field(gt=0, le=1)]


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
            reason = f"the same words as {named_twin(twin, row)}" if twin else ""
            against, score = (part_of_twin(twin, self.on), 1.0) if twin else ("", None)
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
            reason = f"nearly {named_twin(twin, row)} (Jaccard {score:.2f})" if twin else ""
            against = part_of_twin(twin, self.on) if twin else ""
            verdicts.append(
                Verdict(row=row.id, filter=self.kind, keep=not twin, reason=reason, score=score, against=against)
            )
        return verdicts


class Novelty(Record):
    """Drops a text whose words are too much like those of a seed or of an earlier row which this filter kept.

    Likeness is ROUGE-L over words: the longest sequence of words that both have in this order, as an F-measure. Of
    0.7 Self-Instruct made its rule (Wang et al. 2023), so that a growing pool does not circle around its seeds.
    """

    needs: ClassVar = Needs()

    kind: Literal["novelty"] = "novelty"
    threshold: Threshold = 0.7  # ROUGE-L, from which on a text is not new
    on: On = "input"

    def prepare(self, context: Context) -> Rule:
        """The first of texts that are alike stays. `score` is the largest ROUGE-L, `against` the text that has it.

        Every pair is compared, by rapidfuzz, which gives a pair up as soon as it cannot reach the threshold. Raises
        UsageError where it is not installed.
        """
        try:
            import rapidfuzz  # noqa: F401
        except ImportError as error:
            raise UsageError("novelty: it needs rapidfuzz, which is not installed: make setup EXTRAS=train") from error
        return Rule(lambda rows, answers: self._verdicts(rows, context.seeds), compares_rows=True)

    def _verdicts(self, rows: Sequence[Row], seeds: Sequence[Example]) -> list[Verdict]:
        from rapidfuzz.distance import Indel
        from rapidfuzz.process import extractOne

        coded = _Coded()
        earlier: list[Example | Row] = list(seeds)
        codes = [coded(part_of(seed, self.on)) for seed in seeds]
        verdicts: list[Verdict] = []
        for row in rows:
            code = coded(part_of(row.example, self.on))
            # the similarity by insertions and deletions is 2 LCS / (words of both): the F-measure of ROUGE-L
            scorer, cutoff = Indel.normalized_similarity, self.threshold
            found = extractOne(code, codes, scorer=scorer, score_cutoff=cutoff, processor=None) if code else None
            if found is None:
                earlier.append(row)
                codes.append(code)
                verdicts.append(Verdict(row=row.id, filter=self.kind, keep=True))
                continue
            _, score, place = found
            reason = (
                f"too like {named_twin(earlier[place], row)} (ROUGE-L {score:.2f}, below {self.threshold:g} wanted)"
            )
            against = part_of_twin(earlier[place], self.on)
            verdicts.append(
                Verdict(row=row.id, filter=self.kind, keep=False, reason=reason, score=score, against=against)
            )
        return verdicts


class _Coded:
    """Texts with one character for each word, the same for the same word: what rapidfuzz compares fastest."""

    def __init__(self) -> None:
        self._codes: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        return "".join(self._codes.setdefault(word, self._next()) for word in words(text))

    def _next(self) -> str:
        place = len(self._codes) + 1
        return chr(min(place + 0x800 * (place >= 0xD800), 0x10FFFF))  # no half of a surrogate pair


class Balance(Record):
    """Keeps the first rows of each label, or of each value of an attribute, among those that pass every other filter.

    It chooses after all filters that do not choose, so that a row that another filter drops takes no place. What it may
    keep of the more frequent is known once all rows are: it chooses anew each round, among all rows of the run.
    """

    needs: ClassVar = Needs(attributes=("attribute",))

    kind: Literal["balance"] = "balance"
    attribute: str = ""  # whose values are balanced; without it, the labels
    most: Annotated[int, Field(ge=1)] | None = None  # rows of each at most
    max_ratio: Annotated[float, Field(ge=1)] | None = None  # or times as many as of the rarest that occurs, at most

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if (self.most is None) == (self.max_ratio is None):
            raise ValueError("give one of most (rows of each) and max_ratio (to the rarest)")
        return self

    def prepare(self, context: Context) -> Rule:
        """The first rows of each stay. `against` is the value that is too frequent.

        Raises UsageError where there are neither labels nor an attribute.
        """
        if not (self.attribute or context.labels):
            raise UsageError("balance: the task has no labels: name an attribute")
        return choosing(self.kind, self._verdicts)

    def _verdicts(self, rows: Sequence[Row]) -> list[Verdict]:
        values = [row.provenance.attributes.get(self.attribute, "") if self.attribute else row.answer for row in rows]
        counts = Counter(values)
        limit, why = self.most, ""
        if self.max_ratio is not None and counts:
            rarest = min(counts, key=lambda value: counts[value])
            limit = int(self.max_ratio * counts[rarest])
            why = f", {self.max_ratio:g} times the {counts[rarest]} of {rarest!r}"
        seen: Counter[str] = Counter()
        verdicts: list[Verdict] = []
        for row, value in zip(rows, values, strict=True):
            seen[value] += 1
            keep = limit is None or seen[value] <= limit
            what = f"{self.attribute or 'label'} {value!r}"
            reason = "" if keep else f"{seen[value] - 1} rows of {what} stand before it, at most {limit} may be{why}"
            verdicts.append(
                Verdict(row=row.id, filter=self.kind, keep=keep, reason=reason, against="" if keep else value)
            )
        return verdicts
