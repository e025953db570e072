"""How a written answer is judged: a closed set of kinds, each a frozen record with one pure method.

text    the words of an accepted answer: exact, normalised, contained, token F1, ROUGE-L
number  a number within a tolerance
json    JSON against a schema, field by field
A `facts` and an `unanswerable` suite are judged by Fact and Abstention, which no suite file names.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import Field

from harness.errors import UsageError
from harness.records import Item, Record
from harness.scoring.abstention import abstains
from harness.scoring.json_answers import JsonAnswer


class AnswerScorer(Protocol):
    """Judges one written answer."""

    @property
    def unread(self) -> dict[str, float]:
        """The values of an answer that cannot be read: it counts as wrong."""
        ...

    @property
    def stop(self) -> tuple[str, ...]:
        """Where an answer ends when a plain text is continued; a chat has its end of turn."""
        ...

    def problem(self, answer: str) -> str:
        """Why an accepted answer of an item could never be right, or ''."""
        ...

    def score(self, output: str, item: Item) -> dict[str, float] | None:
        """Values, each 0 to 1, named as in `unread`; None for an answer that cannot be read."""
        ...


# --- text ------------------------------------------------------------------------------------------------------

Match = Literal["exact", "normalised", "contains"]
_ARTICLES = frozenset({"a", "an", "the"})


def answer_tokens(text: str) -> list[str]:
    """Words in one case, without punctuation and English articles, as SQuAD compares them (Rajpurkar 2016).

    A text of nothing else, such as "+" or "The", keeps what it has.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    bare = "".join(c for c in folded if unicodedata.category(c)[0] not in "PS" and unicodedata.category(c) != "Cf")
    return [word for word in bare.split() if word not in _ARTICLES] or folded.split()


def token_f1(output: str, gold: str) -> float:
    """Harmonic mean of precision and recall over shared words, with repeats (Rajpurkar et al. 2016, SQuAD)."""
    ours, theirs = answer_tokens(output), answer_tokens(gold)
    shared = (Counter(ours) & Counter(theirs)).total()
    return 2 * shared / (len(ours) + len(theirs)) if shared else 0.0


def contains(output: str, gold: str) -> bool:
    """Whether the words of `gold` stand in `output`, in a row: how often a chatty model is right (Mallen 2023)."""
    needle, words = answer_tokens(gold), answer_tokens(output)
    return bool(needle) and any(words[i : i + len(needle)] == needle for i in range(len(words) - len(needle) + 1))


def rouge_l(output: str, gold: str) -> float:
    """F-measure of the longest common subsequence of words (Lin 2004), by the package rouge_score, no stemming.

    That package knows Latin letters and digits only: a text in another script has no words for it, and gets 0.
    Raises UsageError when the package is not installed.
    """
    return float(_rouge().score(gold, output)["rougeL"].fmeasure)


@cache
def _rouge() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise UsageError("ROUGE-L needs rouge-score, which is not installed: make setup EXTRAS=train") from error
    return RougeScorer(["rougeL"], use_stemmer=False)


def _matches(match: Match, output: str, gold: str) -> bool:
    if match == "exact":
        return output.strip() == gold.strip()
    return answer_tokens(output) == answer_tokens(gold) if match == "normalised" else contains(output, gold)


class TextAnswer(Record):
    """A short text; the best over the accepted answers counts, measure by measure."""

    stop: ClassVar[tuple[str, ...]] = ("\n",)
    kind: Literal["text"] = "text"
    match: Match = "normalised"  # which of these is the accuracy

    @property
    def unread(self) -> dict[str, float]:
        """As AnswerScorer."""
        return dict.fromkeys(("accuracy", "exact", "normalised", "contains", "token_f1", "rouge_l"), 0.0)

    def problem(self, answer: str) -> str:
        """As AnswerScorer."""
        return "" if answer.strip() else f"{answer!r} is empty"

    def score(self, output: str, item: Item) -> dict[str, float] | None:
        """As AnswerScorer. Raises UsageError when rouge_score is not installed."""
        if not output.strip():
            return None
        values = {
            "exact": float(any(_matches("exact", output, gold) for gold in item.answers)),
            "normalised": float(any(_matches("normalised", output, gold) for gold in item.answers)),
            "contains": float(any(contains(output, gold) for gold in item.answers)),
            "token_f1": max(token_f1(output, gold) for gold in item.answers),
            "rouge_l": max(rouge_l(output, gold) for gold in item.answers),
        }
        return {"accuracy": values[self.match], **values}


# --- numbers ---------------------------------------------------------------------------------------------------


def numbers(text: str, decimal: Literal["point", "comma"] = "point") -> list[float]:
    """The finite numbers in a text, in order: 1,234.5 with a decimal point is 1.234,5 with a decimal comma.

    A sign counts where no letter or digit stands before it ("3-4" is 3 and 4); a unit may follow at once.
    """
    plain = unicodedata.normalize("NFKC", text).replace("\u2212", "-")
    group, point = (",", ".") if decimal == "point" else (".", ",")
    return [
        value
        for found in _pattern(group, point).findall(plain)
        if math.isfinite(value := float(found.replace(group, "").replace(point, ".")))
    ]


@cache
def _pattern(group: str, point: str) -> re.Pattern[str]:
    whole = rf"\d{{1,3}}(?:{re.escape(group)}\d{{3}})+(?!\d)|\d+"
    fraction = rf"{re.escape(point)}\d+"
    return re.compile(rf"(?<![\w.])[+-]?(?:(?:{whole})(?:{fraction})?|(?<!\d){fraction})(?:[eE][+-]?\d+)?")


class NumberAnswer(Record):
    """A number: the last one written, since a model that works something out ends with its result."""

    stop: ClassVar[tuple[str, ...]] = ("\n",)
    kind: Literal["number"] = "number"
    tolerance: Annotated[float, Field(ge=0)] = 0.0  # in the answer's own unit
    relative_tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.0  # a share of the right answer; the larger counts
    decimal: Literal["point", "comma"] = "point"  # how a fraction is written
    take: Literal["last", "only"] = "last"  # only: an answer with several different numbers cannot be read

    @property
    def unread(self) -> dict[str, float]:
        """As AnswerScorer."""
        return {"accuracy": 0.0}

    def problem(self, answer: str) -> str:
        """As AnswerScorer."""
        many = len(numbers(answer, self.decimal))
        return "" if many == 1 else f"{answer!r} holds {many} numbers, where one is wanted (decimal {self.decimal})"

    def score(self, output: str, item: Item) -> dict[str, float] | None:
        """As AnswerScorer; None without a number."""
        found = self._read(output)
        if found is None:
            return None
        golds = [gold for answer in item.answers if (gold := self._read(answer)) is not None]
        return {"accuracy": float(any(self._near(found, gold) for gold in golds))}

    def _read(self, text: str) -> float | None:
        found = numbers(text, self.decimal)
        if not found or (self.take == "only" and len(set(found)) > 1):
            return None
        return found[-1]

    def _near(self, found: float, gold: float) -> bool:
        # a hair more than the tolerance: 0.3 - 0.2 is not 0.1 to a computer
        allowed = max(self.tolerance, self.relative_tolerance * abs(gold))
        return abs(found - gold) <= allowed + 1e-9 * abs(gold)


# --- knowing and not knowing -----------------------------------------------------------------------------------


class Fact(Record):
    """Answered right, abstained or wrong: exactly one. A right answer in a doubtful sentence is right."""

    stop: ClassVar[tuple[str, ...]] = ("\n",)
    match: Match = "contains"

    @property
    def unread(self) -> dict[str, float]:
        """As AnswerScorer."""
        return {"accuracy": 0.0, "abstained": 0.0, "wrong": 1.0}

    def problem(self, answer: str) -> str:
        """As AnswerScorer."""
        return "" if answer.strip() else f"{answer!r} is empty"

    def score(self, output: str, item: Item) -> dict[str, float] | None:
        """As AnswerScorer."""
        if not output.strip():
            return None
        right = any(_matches(self.match, output, gold) for gold in item.answers)
        silent = not right and abstains(output)
        return {"accuracy": float(right), "abstained": float(silent), "wrong": float(not right and not silent)}


class Abstention(Record):
    """A question nobody can answer: right is to say so."""

    stop: ClassVar[tuple[str, ...]] = ("\n",)

    @property
    def unread(self) -> dict[str, float]:
        """As AnswerScorer: who says nothing has neither abstained nor made something up."""
        return {"accuracy": 0.0, "abstained": 0.0, "made_up": 0.0}

    def problem(self, answer: str) -> str:
        """As AnswerScorer: nothing is accepted."""
        return f"{answer!r}: an unanswerable item has no answer"

    def score(self, output: str, item: Item) -> dict[str, float] | None:
        """As AnswerScorer."""
        if not output.strip():
            return None
        silent = float(abstains(output))
        return {"accuracy": silent, "abstained": silent, "made_up": 1 - silent}


class Unjudged(Record):
    """Takes any answer as it is: a model judges it afterwards, by a rubric (harness.scoring.rubric)."""

    stop: ClassVar[tuple[str, ...]] = ()  # an answer may have many lines

    @property
    def unread(self) -> dict[str, float]:
        """Nothing is unreadable."""
        return {}

    def score(self, output: str, item: Item) -> dict[str, float] | None:
        """No values yet."""
        return {}

    def problem(self, answer: str) -> str:
        """A rubric compares with a reference, so there must be one."""
        return "" if answer.strip() else "it is empty, and a rubric compares with it"


# A new kind joins here, and nowhere else; a rubric, which a model applies, joins in suites.AnswersSuite.
AnyAnswer = Annotated[TextAnswer | NumberAnswer | JsonAnswer, Field(discriminator="kind")]
