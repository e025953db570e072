"""The headline of a run: what the report says first, and a line for each candidate with its number on every suite."""

from __future__ import annotations

from harness.api.tables import Table
from harness.config.run import Run
from harness.eval.results import Results
from harness.report import tables, wording
from harness.report.analysis import Arm, arms, has
from harness.report.findings import Findings, findings
from harness.report.headline import reading
from harness.suites.suite import Suite

Place = tuple[str, str, int, str, str]  # what tells candidates apart, over all suites


def headline_table(run: Run) -> Table:
    """The report's answer over the numbers of every candidate. A suite without a single number has no column.

    Raises UsageError as `findings`.
    """
    found = findings(run, "")
    results = found.results
    by_suite = {name: arms(results, name) for name in run.suites}
    suites = [run.suites[name] for name, suite_arms in by_suite.items() if suite_arms]
    candidates = {_place(arm): arm.title for suite_arms in by_suite.values() for arm in suite_arms}
    cells = {(suite.name, _place(arm)): _cell(results, arm, suite) for suite in suites for arm in by_suite[suite.name]}
    heads = ("candidate", *(f"{suite.name}: {wording.title(suite.primary)}" for suite in suites))
    rows = tuple(
        (title, *(cells.get((suite.name, place), "") for suite in suites)) for place, title in candidates.items()
    )
    below = ("in brackets: 95% intervals over test items",)
    return Table(heads, rows, (*found.warnings, *_said(found)), below)


def _said(found: Findings) -> list[str]:
    """What the report answers. Who may ship is asked of `check`, since it depends on more than the scores."""
    said: list[str] = []
    for answer in found.answers:
        if len(found.answers) > 1:
            said.append(f"{answer.student} on {answer.suite}")
        said += [f"{question} {words}" for question, words in answer.answered if words != answer.ship]
    return said


def _place(arm: Arm) -> Place:
    return arm.student, arm.data, arm.size, arm.prompting, arm.method


def _cell(results: Results, arm: Arm, suite: Suite) -> str:
    """The primary metric with its interval, read as the report reads it."""
    if not arm.complete:
        return "incomplete"
    metric = reading(results, arm, suite.primary).metric if suite.of_task else suite.primary
    if not has(results, arm, metric):
        return ""
    likely = " by log-likelihood" if metric != suite.primary else ""
    return f"{tables.share(tables.value_interval(results, arm, metric))}{likely}"
