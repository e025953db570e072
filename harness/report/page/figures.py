"""The figures of a page: learning curves with what they are held against, and what tuning broke."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.report import wording
from harness.report.headline import Line
from harness.report.page.chart import Level, Mark, Series, curve_chart, legend
from harness.report.page.written import text
from harness.report.regressions import Panel
from harness.report.student_view import StudentCurve
from harness.report.students import StudentCost

COLOURS = ("blue", "orange", "green", "purple", "brown", "grey")
PANEL = (300, 210)  # width, height
PROMPTINGS = {"zero_shot": "grey", "few_shot": "orange"}


def curves(drawn: Sequence[StudentCurve]) -> str:
    """A figure for each learning curve."""
    return "".join(_curve(curve, number) for number, curve in enumerate(drawn))


def students(by_suite: Mapping[str, Sequence[StudentCost]], metrics: Mapping[str, str]) -> str:
    """For each suite a figure of how good each student is over what an answer of it takes. `metrics`: by suite."""
    parts = []
    for number, (suite, costs) in enumerate(by_suite.items()):
        timed = [cost for cost in costs if cost.seconds > 0]
        if len(timed) < 2:
            continue
        metric = metrics[suite]
        series = [
            Series(
                f"{cost.arm.title}: {wording.value(metric, cost.value)}, {1000 * cost.seconds:.3g} ms an answer",
                f"{COLOURS[place % len(COLOURS)]} dots",
                [Mark(float(f"{1000 * cost.seconds:.3g}"), cost.value, cost.arm.title)],
            )
            for place, cost in enumerate(timed)
        ]
        title, percent = f"{wording.title(metric)} on {suite} over the time of an answer", wording.in_percent(metric)
        value_title, over = f"{wording.title(metric)}, test items", "milliseconds an answer (log scale)"
        chart = curve_chart(
            f"students-{number}", title, value_title, series, [], percent, wording.bounded(metric), rows_title=over
        )
        parts.append(
            f'<figure><h3>Students on {text(suite)}</h3><div class="curve">{chart}{legend(series, [], percent)}</div>'
            "<figcaption>The largest size of each student. Up and to the left is better.</figcaption></figure>"
        )
    return "".join(parts)


def forgetting(by_student: Mapping[str, Sequence[Panel]]) -> str:
    """A small figure for each metric of each suite that is not the task's own, student by student."""
    parts = []
    for place, (student, panels) in enumerate(by_student.items()):
        if panels:
            small = "".join(_panel(panel, f"panel-{place}-{number}") for number, panel in enumerate(panels))
            parts.append(f'<h3>What tuning changed: {text(student)}</h3><div class="panels">{small}</div>')
    return "".join(parts)


def _curve(curve: StudentCurve, number: int) -> str:
    metric, percent = curve.metric, wording.in_percent(curve.metric)
    marks = [
        Mark(
            p.size,
            p.value,
            f"{p.size} rows: {wording.value(metric, p.value)}, 95% interval"
            f" {wording.ends(metric, p.low, p.high)}, {len(p.seeds)} random seed{'s' if len(p.seeds) > 1 else ''}",
            p.low,
            p.high,
        )
        for p in curve.points
    ]
    series = []
    if any(len(p.seeds) > 1 for p in curve.points):
        dots = [
            Mark(p.size, seed, f"{p.size} rows, one random seed: {wording.value(metric, seed)}")
            for p in curve.points
            for seed in p.seeds
        ]
        series.append(Series("one random seed", "blue dots faint", dots, joined=False))
    series.append(Series(f"tuned on {curve.data.replace('_', ' ')} rows", "blue", marks))
    for title, values in curve.references.items():
        name = f"{title}, same rows"
        of_rows = [Mark(rows, v, f"{name}, {rows} rows: {wording.value(metric, v)}") for rows, v in values]
        series.append(Series(name, "green", of_rows))
    levels = [Level(f"{line.reading.title}{_strongest(line)}", _style(line), line.value) for line in curve.across]
    if curve.chance is not None:
        levels.append(Level("chance", "chance", curve.chance))
    title = f"{wording.title(metric)} of {curve.student} on {curve.suite} over rows"
    axis, whole = f"{wording.title(metric)}, test items", wording.bounded(metric)
    chart = curve_chart(f"curve-{number}", title, axis, series, levels, percent, whole)
    return (
        f'<figure><h3>{text(curve.student)} on {text(curve.suite)}: {text(axis)}</h3><div class="curve">{chart}'
        f"{legend(series, levels, percent)}</div><figcaption>{text(curve.caption)}</figcaption></figure>"
    )


def _panel(panel: Panel, name: str) -> str:
    title, percent = wording.title(panel.metric), wording.in_percent(panel.metric)
    marks = [
        Mark(
            p.size,
            p.value,
            f"{p.size} rows: {wording.value(panel.metric, p.value)} {wording.ends(panel.metric, p.low, p.high)}",
            p.low,
            p.high,
        )
        for p in panel.points
    ]
    levels = [Level("untuned", "grey", panel.before)]
    if panel.chance is not None:
        levels.append(Level("chance", "chance", panel.chance))
    series = [Series("tuned", "blue", marks)]
    chart = curve_chart(name, f"{panel.suite}, {title}", "", series, levels, percent, False, *PANEL)
    return f"<figure><figcaption>{text(panel.suite)}: {text(title)}</figcaption>{chart}</figure>"


def _strongest(line: Line) -> str:
    return " (strongest alternative)" if line.strongest else ""


def _style(line: Line) -> str:
    """The colour of an alternative by its kind and prompting. Dashed: it has seen rows."""
    arm = line.reading.arm
    colour = {"reference": "green", "student": "purple"}.get(arm.kind) or PROMPTINGS.get(arm.prompting, "brown")
    return f"{colour}{' dashed' if arm.size else ''}{' strong' if line.strongest else ''}"
