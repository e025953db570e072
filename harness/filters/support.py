"""A filter that holds an answer to the document that it was written about."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from harness.core.record import Record
from harness.core.text import plain, words
from harness.errors import UsageError
from harness.filters.base import Context, Needs, On, Rule, each_row, part_of
from harness.metrics.abstention import abstains
from harness.metrics.answers import numbers
from harness.records import Example, Row, Verdict

_COUNTED = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty"""
_TENS = "ten twenty thirty forty fifty sixty seventy eighty ninety hundred"
SAID = {word: 10 * (place + 1) for place, word in enumerate(_TENS.split())}
SAID |= {word: value for value, word in enumerate(_COUNTED.split())}
# words that say nothing of what a text is about
_FUNCTION_WORDS = """a about after again all also an and any are as at be because been before being between both but by
can could did do does doing down during each either else for from further had has have having he her here hers him his
how i if in into is it its itself just may me might more most must my no nor not now of off on once one only or other
our ours out over own same shall she should so some such than that the their theirs them then there these they this
those through to too under until up upon us very was we were what when where whether which while who whom whose why
will with within without would yes you your yours"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
DOCUMENTS_KEPT = 1_024  # whose words are held, since many rows are about one document
Stem = Callable[[str], str]
NAME = re.compile(r"(?<=[\w,;:'’\")] )[A-Z][\w’'-]*\w")  # a capital where no sentence begins
NOT_NAMES = frozenset({"I'm", "I'd", "I'll", "I've"})


class Support(Record):
    """Drops an answer that its document does not support: made-up numbers or names, too few words in common.

    It goes by words, so it cannot see that right words are put together wrongly. Words are compared by their English
    stems. What the question says counts as known. An answer that says that it is not known is kept.
    """

    needs: ClassVar = Needs()

    kind: Literal["support"] = "support"
    min_share: Annotated[float, Field(ge=0, le=1)] = 0.6  # of the answer's content words that stand in the document
    numbers: bool = True  # every number of the answer stands there too, in digits or up to a hundred in words
    names: bool = True  # so does every word with a capital inside a sentence
    document: str = ""  # the field of the task that holds it; without it, the piece of augment.documents
    on: On = "answer"

    def prepare(self, context: Context) -> Rule:
        """The score is the share of content words, None where there are none beside the question's.

        Raises UsageError where rows have no document.
        """
        if not (self.document or context.documents):
            raise UsageError("support: rows have no document: give augment.documents, or the field that holds it")
        try:
            import snowballstemmer
        except ImportError as error:
            raise UsageError("support: it needs snowballstemmer: make setup EXTRAS=train") from error
        stem: Stem = cache(snowballstemmer.stemmer("english").stemWord)
        read = lru_cache(DOCUMENTS_KEPT)(lambda text: _Content.of(text, stem))
        return each_row(lambda row: self._verdict(row, context, stem, read))

    def _verdict(self, row: Row, context: Context, stem: Stem, read: Callable[[str], _Content]) -> Verdict:
        example, answer = row.example, part_of(row.example, self.on)
        document = example.fields.get(self.document, "") or context.documents.get(row.provenance.document, "")
        if not document.strip():
            return Verdict(row=row.id, filter=self.kind, keep=False, reason="it has no document")
        if abstains(answer):
            return Verdict(row=row.id, filter=self.kind, keep=True)
        source, spoken = read(document), _Content.of(self._question(example), stem)
        share, reasons = self._compared(answer, source, spoken, stem)
        return Verdict(row=row.id, filter=self.kind, keep=not reasons, reason="; ".join(reasons), score=share)

    def _question(self, example: Example) -> str:
        if self.on != "answer":
            return ""
        fields = (text for name, text in example.fields.items() if name not in ("answer", self.document))
        return "\n".join([*(turn.content for turn in example.turns), *fields])

    def _compared(self, answer: str, source: _Content, spoken: _Content, stem: Stem) -> tuple[float | None, list[str]]:
        """The share of content words in the document, and what is wrong."""
        reasons: list[str] = []
        checked = [w for w in words(answer) if w not in FUNCTION_WORDS and w not in SAID and not _has_digit(w)]
        checked = [word for word in checked if stem(word) not in spoken.stems]
        lacking = [word for word in checked if stem(word) not in source.stems]
        share = 1 - len(lacking) / len(checked) if checked else None
        if share is not None and share < self.min_share:
            lacks = ", ".join(map(repr, dict.fromkeys(lacking[:5])))
            reasons.append(
                f"{share:.0%} of its words are in the document, at least {self.min_share:.0%} wanted: {lacks}"
            )
        if self.numbers and (invented := [word for word in words(answer) if not _known(word, source, spoken)]):
            reasons.append(f"not in the document: the number {', '.join(dict.fromkeys(invented))}")
        if self.names:
            named = [name for name in NAME.findall(plain(answer)) if name not in NOT_NAMES]
            known = source.stems | spoken.stems
            strangers = [name for name in named if not {stem(word) for word in words(name)} <= known]
            if strangers:
                reasons.append(f"not in the document: the name {', '.join(dict.fromkeys(strangers))}")
        return share, reasons


@dataclass(frozen=True)
class _Content:
    """What a text says, in a form that is quickly looked up."""

    words: frozenset[str]
    stems: frozenset[str]
    numbers: frozenset[float]

    @classmethod
    def of(cls, text: str, stem: Stem) -> _Content:
        found = words(text)
        said = (float(SAID[word]) for word in found if word in SAID)
        return cls(frozenset(found), frozenset(map(stem, found)), frozenset([*numbers(text), *said]))


def _has_digit(word: str) -> bool:
    return any(character.isdigit() for character in word)


def _known(word: str, *sources: _Content) -> bool:
    """Whether a word of an answer is no number, or one that a source has. "One" alone may be a pronoun."""
    if word in SAID and word != "one":
        return any(word in source.words or float(SAID[word]) in source.numbers for source in sources)
    if not _has_digit(word) or any(word in source.words for source in sources):
        return True
    values = numbers(word)
    return bool(values) and all(any(value in source.numbers for source in sources) for value in values)
