"""What augment says at its end: samples, the funnel, why rows are missing, and whether too few are an error."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from math import ceil

from harness.augment.funnel import Funnel, Short, facet, facets_of_lost, facets_of_row, shortfall
from harness.augment.rows import Judged, Lost
from harness.config.arms import SEEDS_ONLY
from harness.config.run import Train
from harness.core.terminal import Terminal
from harness.core.text import normalise, one_line
from harness.errors import HarnessError, MachineError, UsageError
from harness.records import Row

SAMPLES_SHOWN = 10
LOST_SHOWN = 3
REASON_SHOWN = 400  # characters; a filter of the user's may say more
TEXT_SHOWN = 200  # characters of what gave no row
ANSWER = "answer"
MANY_ROWS = 8  # from so many rows on it is no chance that something is the same in all of them
ROW_SHOWN = 400  # characters of a row's input, and of its answer


def tell(
    funnel: Funnel,
    rows: Sequence[Row],
    rejected: Sequence[Judged],
    lost: Sequence[Lost],
    to: Terminal,
    draw: random.Random,
    most: float | None,
) -> None:
    """Print some kept and dropped rows, some completions that gave none, the funnel and what would give more rows.

    `draw` picks the rows that are shown. `most` is `max_requests_per_row`, or None where no teacher writes.
    """
    free = funnel.kept_by_label.keys() == {""}
    _heading(to, SAMPLES_SHOWN, len(rows), "kept rows")
    for row in draw.sample(rows, min(SAMPLES_SHOWN, len(rows))):
        to.say(f"  {_shown(row, free)}")
    _heading(to, SAMPLES_SHOWN, len(rejected), "dropped rows")
    for reject in draw.sample(rejected, min(SAMPLES_SHOWN, len(rejected))):
        verdict = next(v for v in reject.verdicts if not v.keep)
        against = f" <- {verdict.against}" if verdict.against else ""
        reason = verdict.reason[:REASON_SHOWN] + ("..." if len(verdict.reason) > REASON_SHOWN else "")
        to.say(f"  {_shown(reject.row, free)}\n      {verdict.filter}: {reason}{against}")
    _heading(to, LOST_SHOWN, len(lost), "requests that gave no row")
    for line in draw.sample(lost, min(LOST_SHOWN, len(lost))):
        text = " ".join(line.text.split())[:TEXT_SHOWN]
        to.say(f"  [{line.label}] {text or '(nothing)'}\n      {line.lost}: {line.reason}")
    to.say("\nfunnel:\n" + funnel.table())
    for remark in always_the_same(rows, rejected, lost, free):
        to.say(f"  {remark}")
    if most is not None and funnel.kept < funnel.wanted and not funnel.pending:
        advice = _advice(most, funnel, rejected, lost)
        to.say(f"  {funnel.wanted} rows were wanted and {funnel.kept} are kept: {advice}")
    for short in funnel.short:
        to.say(f"  {_short(short, None if funnel.pending else most, rejected, lost)}")


def always_the_same(rows: Sequence[Row], rejected: Sequence[Judged], lost: Sequence[Lost], free: bool) -> list[str]:
    """What every kept row has in common that rows should differ in: its answer, or what a step wrote for it.

    A step that wrote something else, too, in rows that a filter dropped is left out: it is there to be told apart, as
    a verdict is. Rows that no step wrote have answers only.
    """
    remarks: dict[str, str] = {}  # by the text: an answer is what a step wrote, and is told once
    others = _written([reject.row for reject in rejected], free)
    for line in lost:
        if line.filter:
            others.setdefault(f"text of the step {line.step}", []).append(line.text)
    for name, of_rows in _written(rows, free).items():
        if len(of_rows) < MANY_ROWS or len(set(map(normalise, of_rows))) > 1:
            continue
        varied = any(normalise(text) != normalise(of_rows[0]) for text in others.get(name, ()))
        if varied and name != ANSWER:
            continue
        which = " that have one" if len(of_rows) < len(rows) else ""
        advice = "filters dropped every other" if varied else "look at the examples in its template"
        text = one_line(of_rows[0])[:TEXT_SHOWN]
        remark = f"the {name} of all {len(of_rows)} kept rows{which} is the same: {text!r}: {advice}"
        remarks.setdefault(text, remark)
    return list(remarks.values())


def _written(rows: Sequence[Row], free: bool) -> dict[str, list[str]]:
    """What of rows -> its texts: answers that are free, and what each step wrote."""
    texts = {ANSWER: [row.answer for row in rows]} if free else {}
    for row in rows:
        for step in row.provenance.steps:
            texts.setdefault(f"text of the step {step.name}", []).append(step.text)
    return texts


def _heading(to: Terminal, shown: int, count: int, what: str) -> None:
    """Print what stands above some of many lines, or nothing where there are none."""
    if count:
        to.say(f"\n{min(shown, count)} of the {count} {what}:")


def _shown(row: Row, free: bool) -> str:
    """A row on a line: an answer after its question, a label before its text."""
    text, answer = (one_line(part) for part in (row.text or "(empty)", row.answer))
    text, answer = (part[:ROW_SHOWN] + ("..." if len(part) > ROW_SHOWN else "") for part in (text, answer))
    return f"{text} -> {answer}" if free else f"[{answer}] {text}"


def _advice(most: float, funnel: Funnel, rejected: Sequence[Judged], lost: Sequence[Lost]) -> str:
    why = cause(funnel.requested, funnel.kept, rejected, lost)
    if not funnel.kept:
        return why
    share = max(funnel.kept / max(funnel.requested, 1), 0.01)
    return (
        f"at this keep rate augment.max_requests_per_row would have to be {ceil(10 / share) / 10:g}"
        f" (now {most:g}); {why}"
    )


def _short(short: Short, most: float | None, rejected: Sequence[Judged], lost: Sequence[Lost]) -> str:
    """A quota that is not met: how far it came, what took most of its rows, and what would fill it."""
    (wanted, begun, kept), name = short.ordered, facet(short.name)
    line = f"augment.quotas.{short.name}.{short.value}: {kept} of {wanted} rows are kept"
    if not begun:
        return f"{line}: none was begun"
    line += f", {kept / begun:.0%} of the {begun} begun"
    dropped = [reject for reject in rejected if facets_of_row(reject.row).get(name) == short.value]
    ended = [line for line in lost if facets_of_lost(line).get(name) == short.value]
    why = f": {cause(begun, kept, dropped, ended)}" if dropped or ended else ""
    advice = f"; raise augment.max_requests_per_row (now {most:g}), or lower the quota" if most and kept else ""
    return f"{line}{why}{advice}"


def ended_by_cap(cap: str, funnel: Funnel, rejected: Sequence[Judged], lost: Sequence[Lost]) -> str:
    """What there is where a cap ended the work, and what to change."""
    why = cause(funnel.requested, funnel.kept, rejected, lost)
    kept = f"{funnel.kept} of {funnel.wanted} rows are kept{shortfall(funnel.short)}"
    return f"augment.{cap}: {kept}: raise the cap, or ask for fewer rows; {why}"


def cause(requested: int, kept: int, rejected: Sequence[Judged], lost: Sequence[Lost]) -> str:
    """Where most of the rows requested ended that are not kept, with the commonest reason.

    It is a step of the funnel, or one filter. `requested` and `kept` count rows, those in `rejected` and `lost` are
    the others.
    """
    steps: Counter[str] = Counter(line.lost for line in lost)
    filters = Counter(verdict.filter for reject in rejected for verdict in reject.verdicts if not verdict.keep)
    if not steps and not filters:
        return "nothing was asked"
    if sum(steps.values()) >= len(rejected):
        step, count = steps.most_common(1)[0]
        names = {
            "failed": "calls failed",
            "no answer": "calls gave no answer",
            "unparsed": "completions gave no row",
            "not picked": "rows ended where no completion was picked",
            "filtered": "rows were dropped by filters of steps",
        }
        share = f"{count} of {requested} {names[step]}"
        reasons = [line.reason for line in lost if line.lost == step]
    else:
        kind, count = filters.most_common(1)[0]
        share = f"the filter {kind} drops {count} of {kept + len(rejected)} rows"
        reasons = [v.reason for reject in rejected for v in reject.verdicts if v.filter == kind and not v.keep]
    alike = [re.sub(r"\d+(\.\d+)?|'.*'", "#", reason) for reason in reasons]
    commonest = Counter(alike).most_common(1)[0][0]
    return f"{share}, most of them so: {reasons[alike.index(commonest)]}"


def too_few(
    place: str, train: Train, funnel: Funnel, rejected: Sequence[Judged], lost: Sequence[Lost], teacher_writes: bool
) -> HarnessError | None:
    """The error that ends augment when no training could use its rows: none, or fewer than the smallest size.

    A MachineError where the teacher gave no rows, a UsageError where rows came and the settings do not keep them.
    """
    drawn = any(name != SEEDS_ONLY for name in train.data_names)
    smallest = min((size for size in train.sizes if size and drawn), default=1)
    if funnel.kept >= smallest:
        return None
    needed = (
        f"fewer than the smallest of train.sizes ({smallest})" if funnel.kept else "so there is nothing to train on"
    )
    message = f"{funnel.kept} rows are kept, {needed}: {cause(funnel.requested, funnel.kept, rejected, lost)}"
    dropped = len(rejected) + sum(bool(line.filter) for line in lost)
    teacher_failed = teacher_writes and len(lost) + len(rejected) >= 2 * dropped
    if any(line.lost != "failed" for line in lost) and teacher_failed:
        message = message.rstrip(".")
        message += "; these answers are stored: another template, sampling or teacher.revision asks anew"
    return MachineError(message) if teacher_failed else UsageError(f"{place}: {message}")
