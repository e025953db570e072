"""How a written answer is judged: a closed set of kinds, each a frozen record with one pure method.

text    the words of an accepted answer: exact, normalised, contained, token F1, ROUGE-L
number  a number within a tolerance
json    JSON against a schema, field by field
A `facts` and an `unanswerable` suite are judged by Fact and Abstention, which no suite file names.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import Field

from harness.core.record import Record
from harness.core.text import is_one_character, is_unspaced, normalise, plain, spaced, with_spaces
from harness.errors import UsageError
from harness.metrics.abstention import abstains
from harness.metrics.json_answers import JsonAnswer
from harness.records import Item


class AnswerScorer(Protocol):
    """Judges one written answer."""

    @property
    def unread(self) -> dict[str, float]:
        """The values of an answer that cannot be read: it counts as wrong."""
        ...

    @property
    def end(self) -> str:
        """What closes an answer when a plain text is continued, '' for nothing. A chat has its end of turn."""
        ...

    def problem(self, answer: str) -> str:
        """Why an accepted answer of an item could never be right, or ''."""
        ...

    def score(self, output: str, item: Item) -> dict[str, float] | None:
        """Values, each 0 to 1, named as in `unread`, or None for an answer that cannot be read."""
        ...


# --- text ------------------------------------------------------------------------------------------------------

Match = Literal["exact", "normalised", "contains"]
_ARTICLES = frozenset({"a", "an", "the"})


def answer_tokens(text: str, hyphen: str = " ") -> list[str]:
    """The words of `text` as `spaced` gives them, without English articles (SQuAD, Rajpurkar 2016).

    An article stands before a word, so the last word is none: "vitamin A" is not "vitamin". A hyphen inside a word
    becomes `hyphen`. A text in a script without spaces has no articles: the A of A型 is a name.
    """
    words = spaced(text, hyphen).split()
    if is_unspaced(text):
        return words
    return [word for i, word in enumerate(words) if word not in _ARTICLES or i == len(words) - 1]


def readings(text: str) -> tuple[list[str], list[str]]:
    """The answer tokens of `text` with hyphenated words as two and as one: e-mail is email, a face-mask a face mask."""
    return answer_tokens(text), answer_tokens(text, "")


def token_f1(output: str, gold: str) -> float:
    """Harmonic mean of precision and recall over shared words, with repeats (Rajpurkar et al. 2016, SQuAD)."""
    return max(_overlap(ours, theirs) for ours, theirs in zip(readings(output), readings(gold), strict=True))


def _overlap(ours: Sequence[str], theirs: Sequence[str]) -> float:
    shared = (Counter(ours) & Counter(theirs)).total()
    return 2 * shared / (len(ours) + len(theirs)) if shared else 0.0


def same(output: str, gold: str) -> bool:
    """Whether two answers differ in nothing but articles, case, typography and the punctuation of sentences."""
    return any(ours == theirs for ours, theirs in zip(readings(output), readings(gold), strict=True))


def contains(output: str, gold: str) -> bool:
    """Whether the words of `gold` stand in `output`, in a row: how often a chatty model is right (Mallen 2023)."""
    return any(f" {' '.join(needle)} " in spoken for needle, spoken in zip(sought(gold), searched(output), strict=True))


def sought(gold: str) -> list[list[str]]:
    """The ways to read an answer that is looked for in a text, in the order of `searched`. An empty one is nowhere."""
    whole = normalise(gold).split()
    if is_one_character(gold):  # it would be found in many words
        return [[], [], [], [], whole]
    spellings = [spaced(gold, hyphen).split() for hyphen in (" ", "")]  # "vitamin A" in "Vitamin A helps"
    if not is_unspaced(gold):
        spellings = [words[len(words) > 1 and words[0] in _ARTICLES :] for words in spellings]
    return [*readings(gold), *spellings, whole]


def searched(text: str) -> list[str]:
    """The ways to read a text in which an answer is looked for: without articles, with them, and as it is spaced."""
    tokens = [" ".join(words) for words in readings(text)]
    return [f" {words} " for words in (*tokens, spaced(text), spaced(text, ""), normalise(text))]


def rouge_l(output: str, gold: str) -> float:
    """F-measure of the longest common subsequence of words (Lin 2004), by the package rouge_score, no stemming.

    The words are those of `harness.core.text.spaced`: the package's own are runs of Latin letters and digits, so that
    -3 is 3 to it, and a text in another script has none. Raises UsageError when the package is not installed.
    """
    return float(_rouge().score(gold, output)["rougeL"].fmeasure)


@cache
def _rouge() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise UsageError("ROUGE-L needs rouge-score, which is not installed: make setup EXTRAS=train") from error
    return RougeScorer(["rougeL"], tokenizer=_Words())


class _Words:
    """The tokenizer that rouge_score asks for."""

    def tokenize(self, text: str) -> list[str]:
        """As `harness.core.text.spaced`."""
        return spaced(text).split()


def _matches(match: Match, output: str, gold: str) -> bool:
    if match == "exact":
        return output.strip() == gold.strip()
    return same(output, gold) if match == "normalised" else contains(output, gold)


class TextAnswer(Record):
    """A short text. The best over the accepted answers counts, measure by measure."""

    end: ClassVar[str] = "\n"
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

    A sign counts where no letter or digit stands before it: "3-4" is 3 and 4. A character of a script without spaces is
    no letter here. A unit may follow at once. 1/2 and ½ are 0.5, 2 1/2 is 2.5, 10^3 and 10³ are 1000, 1.5 × 10^3 is
    1500, 1 234 is 1234. A time of day has none.
    """
    group, point = (",", ".") if decimal == "point" else (".", ",")
    values = (_value(match, group, point) for match in _pattern(group, point).finditer(plain(with_spaces(text))))
    return [value for value in values if value is not None and math.isfinite(value)]


def _value(match: re.Match[str], group: str, point: str) -> float | None:
    """What one match of `_pattern` is worth, or None for what no float holds."""
    part = match.groupdict()
    sign = -1.0 if part["sign"] == "-" else 1.0
    try:
        if part["below"]:
            return sign * (int(part["whole"] or 0) + int(part["above"]) / int(part["below"]))
        size = float(part["size"].replace(group, "").replace(" ", "").replace(point, ".") + (part["e"] or ""))
        return sign * math.pow(size, float(part["power"] or 1)) * math.pow(10.0, float(part["ten"] or 0))
    except (ArithmeticError, ValueError):  # 9^99999, 0^-1, an integer of more digits than Python reads
        return None


@cache
def _pattern(group: str, point: str) -> re.Pattern[str]:
    grouped = rf"[1-9]\d{{0,2}}(?:(?:{re.escape(group)}\d{{3}})+|(?:\x20\d{{3}})+)(?!\d)"
    fraction = rf"{re.escape(point)}\d++"
    return re.compile(
        rf"""(?<![\w.^])(?<!\d:)(?P<sign>[+-]?)
        (?: (?:(?P<whole>\d++)\x20)?(?<!\d/)(?P<above>\d++)/(?P<below>0*[1-9]\d*+)(?![/.,:]?\d|[/^])
          | (?P<size>(?:{grouped}|\d++)(?:{fraction})?|(?<!\d){fraction})(?P<e>[eE][+-]?\d++)?(?!:\d)
            (?:\^(?P<power>[+-]?\d++))?(?:\x20?[×x*·]\x20?10\^(?P<ten>[+-]?\d++))?
        )""",
        re.VERBOSE,
    )


class NumberAnswer(Record):
    """A number: the last one written, since a model that works something out ends with its result."""

    end: ClassVar[str] = ""  # what it is worked out from may have many lines
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
        """As AnswerScorer, or None without a number."""
        number = self._read(output)
        if number is None:
            return None
        golds = [gold for answer in item.answers if (gold := self._read(answer)) is not None]
        return {"accuracy": float(any(self._near(number, gold) for gold in golds))}

    def _read(self, text: str) -> float | None:
        values = numbers(text, self.decimal)
        if not values or (self.take == "only" and len(set(values)) > 1):
            return None
        return values[-1]

    def _near(self, number: float, gold: float) -> bool:
        # a hair more than the tolerance: 0.3 - 0.2 is not 0.1 to a computer
        allowed = max(self.tolerance, self.relative_tolerance * abs(gold))
        return abs(number - gold) <= allowed + 1e-9 * abs(gold)


# --- knowing and not knowing -----------------------------------------------------------------------------------


class Fact(Record):
    """Answered right, abstained or wrong: exactly one. A right answer in a doubtful sentence is right."""

    end: ClassVar[str] = "\n"
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

    end: ClassVar[str] = "\n"

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
    """Takes any answer as it is: a model judges it afterwards, by a rubric (harness.suites.rubric)."""

    end: ClassVar[str] = ""  # an answer may have many lines

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
