"""Filters that look at one row alone."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from harness.core.record import Record
from harness.core.text import words
from harness.filters.base import Context, Needs, On, Rule, each_row, part_of
from harness.records import Row, Verdict


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
