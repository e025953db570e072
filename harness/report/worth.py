"""What a filter, a teacher and a template are worth by the calls that were spent on them.

A filter's worth is what its rows gain over those without it, at equal rows. It costs the calls that it asks, and those
for the rows that it drops: so many calls a kept row with it, so many without. A teacher's and a template's worth is
what a student tuned on its rows gains over the untuned one, and costs the calls that wrote those rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.augment.funnel import Calls, Funnel
from harness.config.arms import FILTERED, OfTeacher, OfTemplate, Without, template_called
from harness.config.run import Run
from harness.core.markdown import escaped, table
from harness.eval.results import Results
from harness.filters import AnyFilter, filter_called, judges_of
from harness.metrics.table import metric_of
from harness.report import wording
from harness.report.analysis import Arm, Difference, arms, curve, untuned
from harness.report.headline import reading
from harness.report.paired import change_words, paired_difference
from harness.stats import Interval
from harness.suites.suite import Suite
from harness.train.arms import teachers_called
from harness.train.cells import TrainedCell

THOUSAND = 1000.0


@dataclass(frozen=True)
class Price:
    """What one kept row takes."""

    calls: float
    money: float | None  # None where the run file names no prices

    def minus(self, other: Price) -> Price:
        """What it takes more than another."""
        both = self.money is not None and other.money is not None
        return Price(self.calls - other.calls, (self.money or 0.0) - (other.money or 0.0) if both else None)


@dataclass(frozen=True)
class Worth:
    """A line of the table: what was gained at a size, and what its rows took."""

    what: str
    arm: Arm
    gain: Difference
    price: Price  # of one kept row; of a filter what it adds


def worth_table(
    results: Results, suite: Suite, run: Run, trained: Sequence[TrainedCell], funnel: Funnel | None, random_seed: int
) -> str:
    """The table as Markdown, at the largest size of each arm. Empty where none is of a filter, teacher or template."""
    named = [arm for arm in run.file.train.data if isinstance(arm, Without | OfTeacher | OfTemplate)]
    if not named or funnel is None:
        return ""
    if not funnel.calls:
        return escaped(f"Not known: augment/funnel.json does not say which calls were whose{_why(funnel)}.")
    lines = list(_worths(results, suite, run, trained, funnel, random_seed))
    if not lines:
        return ""
    money = any(line.price.money is not None for line in lines)
    unit = "points" if metric_of(suite.primary).verb else wording.title(suite.primary)
    heads = ["what", "student", "rows", "difference (95%)", "calls a kept row", "calls in all"]
    heads += [f"{unit} for 1,000 calls", *([f"{unit} for 1 of money"] if money else [])]
    rows = [_row(line, suite.primary, money) for line in lines]
    about = (
        "A filter's difference is to the rows without it, and its calls are those it asks and those for the rows that"
        " it drops. A teacher's and a template's difference is to the untuned model, and its calls are those that wrote"
        " its rows, without what judges asked. Calls answered from the cache count. These are ratios"
        " at this size, not what more calls would bring."
    )
    return f"{table(heads, rows)}\n\n{escaped(about)}"


def _why(funnel: Funnel) -> str:
    return " (an older version wrote it)" if funnel.calls_paid + funnel.calls_cached else ": there were none"


def _worths(
    results: Results, suite: Suite, run: Run, trained: Sequence[TrainedCell], funnel: Funnel, random_seed: int
) -> Iterator[Worth]:
    tuned = [arm for arm in arms(results, suite.name) if arm.kind == "student"]
    available = {cell.data: cell.available for cell in trained if cell.tuned}
    for named in run.file.train.data:
        if not isinstance(named, Without | OfTeacher | OfTemplate) or not available.get(named.name):
            continue
        for arm in _largest([arm for arm in tuned if arm.data == named.name]):
            if isinstance(named, Without):
                place = (arm.student, FILTERED, arm.size, arm.method)
                kept = next((a for a in tuned if (a.student, a.data, a.size, a.method) == place), None)
                gain = paired_difference(results, kept, arm, suite.primary, random_seed) if kept else None
                _, filter_ = filter_called(named.without, run.file.augment.filters)
                price = filter_price(filter_, funnel, available[named.name])
                what = f"filter {named.without}"
            else:
                gain = _over_untuned(results, suite, arm, random_seed)
                price = _per_row(_written_by(named, run, funnel.calls), available[named.name])
                what = f"teacher {named.teacher}" if isinstance(named, OfTeacher) else f"template {named.template}"
            if gain is not None:
                yield Worth(what, arm, gain, price)


def _largest(tuned: Sequence[Arm]) -> list[Arm]:
    """The arms of the largest size, for each student and method."""
    return [a for a in tuned if a.size == max(b.size for b in tuned if (b.student, b.method) == (a.student, a.method))]


def _over_untuned(results: Results, suite: Suite, arm: Arm, random_seed: int) -> Difference | None:
    """What tuning on an arm gained. None where the untuned model was not scored."""
    suite_arms = arms(results, suite.name)
    base = untuned(suite_arms, arm.student)
    if base is None:
        return None
    base_metric = reading(results, base, suite.primary).metric
    points = curve(
        results, suite_arms, arm.student, arm.data, suite.primary, random_seed, base_metric, method=arm.method
    )
    return next((point.against_base for point in points if point.size == arm.size), None)


def filter_price(filter_: AnyFilter, funnel: Funnel, kept_without: int) -> Price:
    """What a filter adds to the price of a kept row: its own calls, and those for the rows that it drops.

    `kept_without`: the rows that would be kept without it.
    """
    templates = {judge.template for judge in judges_of([filter_])}
    others = [line for line in funnel.calls if line.purpose == "generate" or line.template not in templates]
    return _per_row(funnel.calls, funnel.kept).minus(_per_row(others, kept_without))


def _written_by(named: OfTeacher | OfTemplate, run: Run, calls: Sequence[Calls]) -> list[Calls]:
    """The calls that wrote the rows of a teacher or a template."""
    writing = [line for line in calls if line.purpose == "generate"]
    if isinstance(named, OfTeacher):
        return [line for line in writing if named.teacher in teachers_called(line.teacher, run.file.all_teachers)]
    path = template_called(named.template, [step.path for _, step in run.file.augment.row_makers()])
    return [line for line in writing if line.template == path]


def _per_row(calls: Sequence[Calls], rows: int) -> Price:
    money = [line.money for line in calls if line.money is not None]
    return Price(sum(line.calls for line in calls) / max(rows, 1), sum(money) / max(rows, 1) if money else None)


def _row(line: Worth, metric: str, with_money: bool) -> list[str]:
    calls = line.price.calls * line.arm.size
    cells = [line.what, line.arm.student, str(line.arm.size), change_words(metric, line.gain)]
    cells += [f"{line.price.calls:.2f}", f"{calls:.0f}", _for_each(metric, line.gain.interval, calls / THOUSAND)]
    if with_money:
        money = None if line.price.money is None else line.price.money * line.arm.size
        cells.append("" if money is None else _for_each(metric, line.gain.interval, money))
    return cells


def _for_each(metric: str, gain: Interval, spent: float) -> str:
    """The gain for one of what was spent, with its interval."""
    if not math.isfinite(gain.low):
        return "not estimable"
    if spent <= 0:
        return "it costs none"
    return wording.change(metric, gain.estimate / spent, gain.low / spent, gain.high / spent).replace(" points", "")
