"""Two judges who must say the same of a row: where they differ, its label or its answer is in doubt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from harness.core.record import Record
from harness.filters.base import Answers, Context, Needs, Rule, each_row, no_requests
from harness.filters.judge import SILENT, UNUSED, Judge
from harness.records import Request, Row, Verdict

Name = Annotated[str, Field(min_length=1)]


class Agreement(Record):
    """Drops a row of which two judges make different choices, whatever the choice is.

    Each judge is measured on the seeds, as the filter `judge` is. Where one of them is no better than chance, nothing
    is dropped. Requiring that annotators agree is how label noise is found where no gold is at hand (Snow et al. 2008).
    """

    needs: ClassVar = Needs(files=("template",), teachers=("teachers",))

    kind: Literal["agreement"] = "agreement"
    template: Name  # path of a Jinja file, relative to the project, given what a judge's is
    teachers: tuple[Name, Name]  # who judge: two names of `teachers`, or "teacher" for the run's own
    choices: Literal["labels"] | tuple[str, ...] = "labels"  # what the judges pick from
    accept: str = "label"  # the choice that the seeds' own answers should get
    form: Literal["completion", "chat"] = "completion"
    shots: Annotated[int, Field(ge=0, le=64)] = 1  # seeds per label shown in the prompt

    @model_validator(mode="after")
    def _two(self) -> Self:
        if self.teachers[0] == self.teachers[1]:
            raise ValueError(f"teachers {list(self.teachers)}: a judge always agrees with itself: name two")
        _ = self.judges  # refuses choices that no judge could make
        return self

    @cached_property
    def judges(self) -> tuple[Judge, Judge]:
        """The two as filters of their own."""
        first, second = (
            Judge(
                template=self.template,
                teacher=teacher,
                choices=self.choices,
                accept=self.accept,
                form=self.form,
                shots=self.shots,
            )
            for teacher in self.teachers
        )
        return first, second

    def prepare(self, context: Context) -> Rule:
        """Measures both judges on the seeds, the first one first. Unless both are used, neither is asked about rows."""
        first, second = (judge.prepare(context) for judge in self.judges)
        note = f"agreement: {self.teachers[0]} as {first.note}; {self.teachers[1]} as {second.note}"
        if no_requests in (first.requests, second.requests):
            return replace(each_row(self._unused), note=note)

        def requests(row: Row) -> tuple[Request, ...]:
            return (*first.requests(row), *second.requests(row))

        def verdicts(rows: Sequence[Row], answers: Answers) -> list[Verdict]:
            of_first = first.verdicts(rows, [pair[:1] for pair in answers])
            of_second = second.verdicts(rows, [pair[1:] for pair in answers])
            return [self._verdict(*pair) for pair in zip(of_first, of_second, strict=True)]

        return Rule(verdicts, requests, note=note)

    def _unused(self, row: Row) -> Verdict:
        return Verdict(row=row.id, filter=self.kind, keep=True, reason=UNUSED)

    def _verdict(self, first: Verdict, second: Verdict) -> Verdict:
        if SILENT in (first.reason, second.reason):
            return Verdict(row=first.row, filter=self.kind, keep=False, reason=SILENT)
        keep = first.against == second.against
        names = " and ".join(f"{n} {v.against!r}" for n, v in zip(self.teachers, (first, second), strict=True))
        return Verdict(row=first.row, filter=self.kind, keep=keep, reason="" if keep else f"the judges differ: {names}")
