"""Filters that look at one row alone."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from harness.core.record import Record
from harness.core.text import ngrams, one_line, words
from harness.errors import UsageError
from harness.filters.base import Context, Needs, On, Rule, each_part, each_row, part_of
from harness.metrics.answers import numbers
from harness.metrics.json_answers import JsonAnswer, schema_problem
from harness.metrics.quality import rep_n
from harness.metrics.refusals import meta_talk, refuses
from harness.records import Row, Verdict

PATTERN_S = 1.0  # seconds that a regular expression may take on one text
QUOTED = 80  # characters of a text that a reason quotes


class Finished(Record):
    """Drops what the teacher did not end itself: text cut at the token limit trains students not to stop."""

    needs: ClassVar = Needs()

    kind: Literal["finished"] = "finished"

    def prepare(self, context: Context) -> Rule:
        """Looks at the finish reason. Rows that no teacher wrote are kept."""
        return each_row(self._verdict)

    def _verdict(self, row: Row) -> Verdict:
        how = row.provenance.finish_reason
        if row.provenance.source != "teacher" or how == "stop":
            return Verdict(row=row.id, filter=self.kind, keep=True)
        why = "cut at the limit of tokens" if how == "length" else f"ended by {how or 'an unknown cause'!r}"
        return Verdict(row=row.id, filter=self.kind, keep=False, reason=f"not finished: {why}")


class Length(Record):
    """Drops texts with too few or too many words."""

    needs: ClassVar = Needs()

    kind: Literal["length"] = "length"
    min_words: Annotated[int, Field(ge=0)] = 1  # words of the part that `on` names
    max_words: Annotated[int, Field(ge=1)] = 1000
    on: On = "input"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_words > self.max_words:
            raise ValueError(f"min_words ({self.min_words}) is above max_words ({self.max_words}): no row could pass")
        return self

    def prepare(self, context: Context) -> Rule:
        """Counts the words of one part. The score is their number."""
        return each_row(self._verdict)

    def _verdict(self, row: Row) -> Verdict:
        count = len(words(part_of(row.example, self.on)))
        reason = ""
        if count < self.min_words:
            reason = f"too short: words {count}, at least {self.min_words} wanted"
        elif count > self.max_words:
            reason = f"too long: words {count}, at most {self.max_words} wanted"
        return Verdict(row=row.id, filter=self.kind, keep=not reason, reason=reason, score=count)


class Score(Record):
    """Drops a row to which a step gave a number below `min` or above `max`: a rating that a teacher was asked for.

    Under augment.filters `of` names a step, or STEP.KEY of one that writes an object. Under the filters of a step it
    names the step itself, or a key of the object that it writes. In a text the first number counts.
    """

    needs: ClassVar = Needs()

    kind: Literal["score"] = "score"
    of: Annotated[str, Field(min_length=1)]
    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("give min or max, or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min ({self.min:g}) is above max ({self.max:g}): no row could pass")
        return self

    def prepare(self, context: Context) -> Rule:
        """Reads the number that the step wrote for each row. It is the score. Rows that no teacher wrote are kept."""
        return each_row(self._verdict)

    def _verdict(self, row: Row) -> Verdict:
        if row.provenance.source != "teacher":
            return Verdict(row=row.id, filter=self.kind, keep=True)
        text = self._written(row)
        found = numbers(text)
        if not found:
            reason = f"no number in {self.of}: {one_line(text)[:QUOTED]!r}" if text else f"nothing in {self.of}"
            return Verdict(row=row.id, filter=self.kind, keep=False, reason=reason)
        reason = ""
        if self.min is not None and found[0] < self.min:
            reason = f"{self.of} is {found[0]:g}, at least {self.min:g} wanted"
        elif self.max is not None and found[0] > self.max:
            reason = f"{self.of} is {found[0]:g}, at most {self.max:g} wanted"
        return Verdict(row=row.id, filter=self.kind, keep=not reason, reason=reason, score=found[0])

    def _written(self, row: Row) -> str:
        """The text in which the number stands, or ''."""
        if self.of in row.example.fields and not row.provenance.steps:
            return row.example.fields[self.of]  # while the step is at work
        name, _, key = self.of.partition(".")
        text = next((step.text for step in row.provenance.steps if step.name == name), "")
        if not key:
            return text
        value = json.loads(text).get(key, "") if text else ""
        return value if isinstance(value, str) else json.dumps(value)


class Format(Record):
    """Drops what is not in a form: a regular expression for the whole text, one that may not occur, a JSON Schema."""

    needs: ClassVar = Needs()

    kind: Literal["format"] = "format"
    match: str = ""  # a regular expression for the whole text, without the white space around it
    forbid: str = ""  # a regular expression that may not occur in it
    json_schema: dict[str, Any] | None = None  # the whole text is JSON of this form
    on: On = "input"

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if not (self.match or self.forbid or self.json_schema is not None):
            raise ValueError("give one of match, forbid and json_schema")
        for name, pattern in (("match", self.match), ("forbid", self.forbid)):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{name} {pattern!r} is no regular expression: {error}") from error
        if self.json_schema is not None and (problem := schema_problem(self.json_schema)):
            raise ValueError(f"json_schema: {problem}")
        return self

    def prepare(self, context: Context) -> Rule:
        """Looks at one part. The rule raises UsageError where a regular expression takes longer than a second."""
        return each_row(self._verdict)

    def _verdict(self, row: Row) -> Verdict:
        reason = self._problem(part_of(row.example, self.on).strip())
        return Verdict(row=row.id, filter=self.kind, keep=not reason, reason=reason)

    def _problem(self, text: str) -> str:
        if self.match and not _found(self.match, text, whole=True):
            return f"{one_line(text)[:QUOTED]!r} does not match {self.match!r}"
        if self.forbid and (found := _found(self.forbid, text)) is not None:
            return f"it holds {one_line(found)[:QUOTED]!r}, which {self.forbid!r} forbids"
        if self.json_schema is not None:
            return JsonAnswer(kind="json", json_schema=self.json_schema).problem(text)
        return ""


def _found(pattern: str, text: str, *, whole: bool = False) -> str | None:
    """What a regular expression matches in `text`, or None. A pattern that never ends is a user's mistake."""
    import regex  # it can stop, as Python's own re cannot; not in a base install

    try:
        match = (regex.fullmatch if whole else regex.search)(pattern, text, timeout=PATTERN_S)
    except TimeoutError as error:
        raise UsageError(
            f"format: the regular expression {pattern!r} takes longer than {PATTERN_S:g} s on {text[:QUOTED]!r}"
        ) from error
    return str(match[0]) if match else None


class Refusal(Record):
    """Drops refusals, and texts that speak of the task instead of doing it: "As an AI", "Sure, here is"."""

    needs: ClassVar = Needs()

    kind: Literal["refusal"] = "refusal"
    refusals: bool = True  # drop what declines in its first 240 characters
    meta_talk: bool = True  # drop "Sure, here is", "As an AI", "I hope this helps"; off where courtesy is learned
    on: On = "both"  # input and answer, each by itself

    @model_validator(mode="after")
    def _looks(self) -> Self:
        if not (self.refusals or self.meta_talk):
            raise ValueError("refusals and meta_talk are both false: no row could be dropped")
        return self

    def prepare(self, context: Context) -> Rule:
        """Goes by lists of English phrases: `metrics.refusals` says which, and what they miss."""
        return each_row(self._verdict)

    def _verdict(self, row: Row) -> Verdict:
        for text in each_part(row.example, self.on):
            reason = ""
            if self.refusals and refuses(text):
                reason = f"it declines: {one_line(text)[:QUOTED]!r}"
            elif self.meta_talk and (said := meta_talk(text)):
                reason = f"it speaks of the task: {said[:QUOTED]!r}"
            if reason:
                return Verdict(row=row.id, filter=self.kind, keep=False, reason=reason)
        return Verdict(row=row.id, filter=self.kind, keep=True)


class Repetition(Record):
    """Drops a text that repeats itself: too many of its runs of `ngram` words stood in it before."""

    needs: ClassVar = Needs()

    kind: Literal["repetition"] = "repetition"
    ngram: Annotated[int, Field(ge=1, le=50)] = 4  # words of a run
    max_share: Annotated[float, Field(ge=0, lt=1)] = 0.2  # of the runs that may repeat an earlier one
    on: On = "both"  # input and answer, each by itself

    def prepare(self, context: Context) -> Rule:
        """Counts runs of words (`metrics.quality.rep_n`). The score is the larger share. Shorter texts are kept."""
        return each_row(self._verdict)

    def _verdict(self, row: Row) -> Verdict:
        shares = [rep_n(text, self.ngram) for text in each_part(row.example, self.on)]
        share = max((share for share in shares if share is not None), default=None)
        keep = share is None or share <= self.max_share
        reason = (
            "" if keep else f"{share:.0%} of its runs of {self.ngram} words repeat, at most {self.max_share:.0%} may"
        )
        return Verdict(row=row.id, filter=self.kind, keep=keep, reason=reason, score=share)


class Slots(Record):
    """Drops a row whose wording lost a value that was drawn or computed for it: every one must stand in the text."""

    needs: ClassVar = Needs(attributes=("attributes",))

    kind: Literal["slots"] = "slots"
    attributes: Annotated[tuple[str, ...], Field(min_length=1)]  # names of attributes of the run
    on: On = "both"

    def prepare(self, context: Context) -> Rule:
        """Looks for each value word for word, case and punctuation aside, and for a number by its value.

        A value that is empty, since its condition does not hold, is not looked for. The score is the number lost.
        """
        return each_row(self._verdict)

    def _verdict(self, row: Row) -> Verdict:
        drawn, text = row.provenance.attributes, part_of(row.example, self.on)
        values = {name: drawn.get(name) for name in self.attributes}
        lost = [name for name, value in values.items() if value is None or not _stands(value, text)]
        reason = "; ".join(
            f"{name} has no value" if (value := values[name]) is None else f"{name} {value!r} is not in the text"
            for name in lost
        )
        return Verdict(row=row.id, filter=self.kind, keep=not lost, reason=reason, score=len(lost))


def _stands(value: str, text: str) -> bool:
    """Whether the words of a value stand in a text in a row. 12 stands in "$12" and "12 km", not in "120"."""
    sought = words(value)
    if not sought or tuple(sought) in ngrams(words(text), len(sought)):
        return True
    number = numbers(value) if len(sought) == 1 else []
    return len(number) == 1 and number[0] in numbers(text)
