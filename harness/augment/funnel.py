"""How many rows passed each step of augment. The counts always add up, or the funnel refuses to exist."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate, chain
from typing import NamedTuple, Self

from pydantic import model_validator

from harness.augment.rows import Judged, Lost
from harness.config.quotas import LABEL, Quotas
from harness.config.teacher import beside_money
from harness.core.aligned import aligned
from harness.core.record import FORMAT, Record
from harness.records import Provenance, Row
from harness.stats.rates import quantile, wilson_ends

MOST_VALUES = 8  # of a template, an attribute, ... that a line of the funnel shows

Counts = Mapping[str, Mapping[str, tuple[int, int]]]  # facet -> value -> (rows begun, rows kept)


class Ordered(NamedTuple):
    """What became of the rows of a value that a quota orders."""

    wanted: int
    begun: int
    kept: int


class Short(NamedTuple):
    """A quota that is not met."""

    name: str  # label, or an attribute
    value: str
    ordered: Ordered


class Calls(Record):
    """The calls of one template to one model."""

    purpose: str  # generate, judge or calibrate
    template: str
    teacher: str  # name@revision
    calls: int  # stored ones too
    money: float | None = None


class Funnel(Record):
    """Counts of rows, with tokens, seconds and money beside them."""

    format: int = FORMAT
    wanted: int  # kept rows asked for
    requested: int  # rows asked of the teacher, or own rows read
    pending: int = 0  # not returned because the work was stopped
    failed: int = 0  # the engine reported an error
    no_answer: int = 0  # answered without a text: refused, empty, only thinking
    unparsed: int = 0  # returned, but not in the form asked for
    not_picked: int = 0  # a step's way to pick took none of its completions
    # "step: filter" -> rows that a filter of a step dropped, so that no later step was asked
    filtered: dict[str, int] = {}
    ended_at: dict[str, int] = {}  # step -> rows in the making that failed, or gave nothing that could be used, there
    calls_saved: int = 0  # that rows dropped by filters of steps would have cost at least
    dropped: dict[str, int] = {}  # filter -> rows it was the first to drop
    would_drop: dict[str, int] = {}  # filter -> rows it drops whatever the others say
    kept: int
    kept_by_label: dict[str, int] = {}
    by: dict[str, dict[str, tuple[int, int]]] = {}  # template, attribute, ... -> value -> (rows begun, rows kept)
    quotas: dict[str, dict[str, Ordered]] = {}  # label or an attribute -> value -> what became of its quota
    notes: tuple[str, ...] = ()  # what a filter said of itself, e.g. the judge's calibration
    prompt_tokens: int = 0
    completion_tokens: int = 0
    calls_paid: int = 0  # asked of the engine by this command
    calls_cached: int = 0  # answered by earlier ones
    calls: tuple[Calls, ...] = ()  # by what they were for; empty in files of earlier versions
    seconds: float = 0.0  # of this command's engine work
    cost: float | None = None  # in the currency of the run file's prices; None when it names none
    unpriced: tuple[str, ...] = ()  # teachers whose calls it leaves out, since only others have a price

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        lost = self.failed + self.no_answer + self.unparsed + self.not_picked + sum(self.filtered.values())
        out = self.pending + lost + sum(self.dropped.values()) + self.kept
        if out != self.requested:
            raise ValueError(f"the funnel does not add up: {self.requested} requested, {out} accounted for")
        if sum(self.kept_by_label.values()) != self.kept:
            raise ValueError("the kept rows by label do not add up")
        return self

    @property
    def short(self) -> list[Short]:
        """The quotas that are not met."""
        return short_of(self.quotas)

    @property
    def complete(self) -> bool:
        """Whether as many rows are kept as were wanted, of every ordered value too."""
        return self.kept >= self.wanted and not self.short

    def steps(self) -> list[tuple[str, int, int]]:
        """(what it is, rows left after it, rows lost at it) of every filter, and of every other step that lost any."""
        steps = [
            ("not returned (stopped)", self.pending),
            ("failed", self.failed),
            ("no answer", self.no_answer),
            ("unparsed", self.unparsed),
            ("not picked", self.not_picked),
            *self.filtered.items(),
        ]
        lost = [step for step in steps if step[1]] + list(self.dropped.items())
        left = accumulate((out for _, out in lost), operator.sub, initial=self.requested)
        return [(name, remaining, out) for (name, out), remaining in zip(lost, list(left)[1:], strict=True)]

    def table(self) -> str:
        """The funnel as lines for people: what is left after each step."""
        rows: list[tuple[str, ...]] = [("requested", str(self.requested))]
        for name, remaining, out in self.steps():
            overlap = self.would_drop.get(name, out)
            also = f"   ({overlap} if it were the only filter)" if overlap != out else ""
            rows.append((name, str(remaining), f"-{out}{also}"))
        share = f"{self.kept / self.requested:.0%}" if self.requested else "none"
        rows.append(("kept", str(self.kept), f"{share} of what was asked; {self.wanted} wanted"))
        lines = [aligned(rows, right=(1,), indent="  ")]
        if self.kept_by_label.keys() != {""}:  # answers are free
            lines.append("  by label: " + ", ".join(f"{k} {n}" for k, n in self.kept_by_label.items()))
        lines += [f"  ordered by {name}: {_ordered_line(values)}" for name, values in self.quotas.items()]
        lines += [line for name, values in self.by.items() if (line := _by_line(name, values))]
        if self.ended_at:
            lines.append("  without a row, by step: " + ", ".join(f"{name} {n}" for name, n in self.ended_at.items()))
        if self.calls_saved:
            lines.append(f"  filters of steps saved {self.calls_saved} calls that later steps would have made")
        lines += [f"  {note}" for note in self.notes]
        tokens = self.prompt_tokens + self.completion_tokens
        if self.kept and tokens:
            per_row = f", {self.cost / self.kept:.6f} per kept row in money" if self.cost is not None else ""
            price = per_row + beside_money(self.unpriced)
            lines.append(
                f"  {tokens} tokens, {tokens / self.kept:.0f} per kept row; {self.calls_paid} calls made in this"
                f" augment, {self.calls_cached} from the cache; {self.seconds:.0f} s of teacher{price}"
            )
        return "\n".join(lines)


def facet(name: str) -> str:
    """What rows are counted by for a quota: its name is `label` or that of an attribute."""
    return LABEL if name == LABEL else f"attribute {name}"


def breakdown(counts: Counts) -> dict[str, dict[str, tuple[int, int]]]:
    """Those of these counts that say something: a name with one value only is left out."""
    return {name: dict(values) for name, values in counts.items() if len(values) > 1}


def ordered_rows(quotas: Quotas, counts: Counts) -> dict[str, dict[str, Ordered]]:
    """What became of every quota."""
    return {
        name: {value: Ordered(n, *counts.get(facet(name), {}).get(value, (0, 0))) for value, n in quota.items()}
        for name, quota in quotas.items()
    }


def short_of(quotas: Mapping[str, Mapping[str, Ordered]]) -> list[Short]:
    """Those of these quotas that are not met."""
    pairs = [(name, value, ordered) for name, values in quotas.items() for value, ordered in values.items()]
    return [Short(*pair) for pair in pairs if pair[2].kept < pair[2].wanted]


def shortfall(quotas: Sequence[Short]) -> str:
    """What quotas lack, as the end of a sentence, or ''."""
    parts = [f"{short.name} {short.value} {short.ordered.kept} of {short.ordered.wanted}" for short in quotas]
    return f", short of {', '.join(parts)}" if parts else ""


def count_facets(judged: Sequence[Judged], lost: Sequence[Lost]) -> dict[str, dict[str, tuple[int, int]]]:
    """(Rows begun, rows kept) by template, label, teacher, document and attribute. Rows that are stopped are out.

    Of the teachers of a step, the rows begun are those that came to it.
    """
    counts: dict[str, dict[str, list[int]]] = {}
    of_rows = ((facets_of_row(line.row), line.kept) for line in judged)
    for names, kept in chain(of_rows, ((facets_of_lost(line), False) for line in lost)):
        for name, value in names.items():
            if value:
                count = counts.setdefault(name, {}).setdefault(value, [0, 0])
                count[0] += 1
                count[1] += kept
    return {name: {value: (begun, kept) for value, (begun, kept) in values.items()} for name, values in counts.items()}


def facets_of_row(row: Row) -> dict[str, str]:
    """What rows are counted by: template, label, teacher, document and every attribute. Empty where there is none."""
    return _facets(row.provenance, row.example.label or "", {step.name: step.teacher for step in row.provenance.steps})


def facets_of_lost(lost: Lost) -> dict[str, str]:
    """The same of what gave no row."""
    return _facets(lost, lost.label, lost.teachers)


def _facets(made: Provenance | Lost, label: str, writers: Mapping[str, str]) -> dict[str, str]:
    """`writers`: step of a chain -> who wrote it. Each step counts for itself. They have no alternative templates."""
    teachers = {f"teacher of {step}": teacher for step, teacher in writers.items()} or {"teacher": made.teacher}
    attributes = {f"attribute {name}": value for name, value in made.attributes.items()}
    template = "" if writers else made.template
    return {"template": template, "label": label, **teachers, "document": made.document, **attributes}


def _ordered_line(values: Mapping[str, Ordered]) -> str:
    return ", ".join(f"{value} {ordered.kept} of {ordered.wanted}" for value, ordered in values.items())


def _by_line(name: str, values: Mapping[str, tuple[int, int]]) -> str:
    """Keep rates with 95% intervals (Wilson), lowest first.

    Empty for labels, which have a line, for numbers, and for many values.
    """
    if name == "label" or len(values) > MOST_VALUES or all(value.lstrip("-").isdigit() for value in values):
        return ""
    parts: list[str] = []
    for value, (begun, kept) in sorted(values.items(), key=lambda item: item[1][1] / item[1][0]):
        low, high = wilson_ends(kept / begun, begun, quantile(0.95))
        parts.append(f"{value} {kept} of {begun} ({kept / begun:.0%} [{low:.0%}, {high:.0%}])")
    return f"  kept by {name}: " + ", ".join(parts)


def count_drops(rejected: Sequence[Judged], names: Sequence[str]) -> tuple[dict[str, int], dict[str, int]]:
    """(rows each filter was the first to drop, rows each would drop alone), in the order of the filters."""
    first: Counter[str] = Counter()
    separately: Counter[str] = Counter()
    for reject in rejected:
        out = [v.filter for v in reject.verdicts if not v.keep]
        first[out[0]] += 1
        separately.update(out)
    return {name: first[name] for name in names}, {name: separately[name] for name in names}
