"""The learning curve as a picture: a suite's primary metric against rows, with the alternatives as lines."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from io import BytesIO
from typing import Any

from harness.core.text import printable
from harness.report import wording
from harness.report.analysis import Point
from harness.report.headline import Line
from harness.report.regressions import Panel, PanelPoint
from harness.report.student_view import StudentCurve

BLUE, ORANGE, GREEN, GREY, PURPLE, BROWN = "#0b5fa5", "#c8590a", "#2c7a34", "#666666", "#7a3b9a", "#8a6d1a"


def learning_curve(curve: StudentCurve) -> bytes:
    """A PNG: rows of one kind of data as points with intervals, seeds as dots, alternatives as lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    points, metric = curve.points, curve.metric

    figure, axes = pyplot.subplots(figsize=(9.5, 5.2), dpi=130)
    label = (
        f"tuned on {curve.data.replace('_', ' ')} rows: {wording.value(metric, points[-1].value)} at {points[-1].size}"
    )
    _curve(
        axes,
        points,
        f"{curve.student} on {curve.suite}",
        11,
        markersize=5,
        linewidth=1.8,
        capsize=4,
        zorder=3,
        label=label,
    )
    if any(len(p.seeds) > 1 for p in points):
        dots = [(p.size, seed) for p in points for seed in p.seeds]
        rows, levels = zip(*dots, strict=True)
        axes.scatter(rows, levels, s=16, color=BLUE, alpha=0.45, zorder=4, label="one random seed")
    for place, (title, values) in enumerate(curve.references.items()):
        rows, levels = zip(*values, strict=True)
        marker, label = "sD^v"[place % 4], _plain(_wrapped(f"{title}, same rows"))
        axes.plot(rows, levels, color=GREEN, marker=marker, markersize=4, linewidth=1.2, label=label)
    for line in curve.across:
        style, width = ("--" if line.reading.arm.size else "-"), (2.2 if line.strongest else 1.1)
        axes.axhline(
            line.value, color=_colour(line), linestyle=style, linewidth=width, label=_plain(_wrapped(line.label))
        )
    if curve.chance is not None:
        _chance(axes, curve.chance, f"chance: {100 * curve.chance:.1f}%")
    axes.set_xlabel("rows the student was tuned on (log scale)")
    axes.set_ylabel(f"{wording.title(metric)}, test items")
    if wording.bounded(metric):
        axes.set_ylim(-0.02, 1.02)  # a line at 0 or 1 must not lie under the axis
    axes.legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.text(0.01, 0.005, _plain(curve.caption), fontsize=7, color="#444444", va="bottom", wrap=True)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    return _png(figure)


def _colour(line: Line) -> str:
    """The colour of an alternative, by its kind and prompting."""
    arm = line.reading.arm
    if arm.kind == "reference":
        return GREEN
    if arm.kind == "student":
        return PURPLE
    return {"zero_shot": GREY, "few_shot": ORANGE}.get(arm.prompting, BROWN)


def _plain(text: str) -> str:
    """Text that matplotlib draws as it is: a dollar would begin a formula, an underscore hides a line's label."""
    drawn = printable(text).replace("$", r"\$")
    return f" {drawn}" if drawn.startswith("_") else drawn


def _wrapped(text: str) -> str:
    """A legend's entry on lines of moderate length."""
    return "\n".join(textwrap.wrap(text, 44))


def forgetting(student: str, panels: Sequence[Panel]) -> bytes:
    """A PNG, one small picture per suite and metric: its value against rows, the untuned model and chance as lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, grid = pyplot.subplots(rows, columns, figsize=(3.3 * columns, 2.6 * rows + 0.5), dpi=130, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, panel in zip(grid.flat, panels, strict=False):
        title = f"{panel.suite}\n{wording.title(panel.metric)}"
        _curve(axes, panel.points, title, 8, markersize=4, linewidth=1.5, capsize=3)
        axes.axhline(panel.before, color=GREY, linewidth=1.2, label="untuned")
        if panel.chance is not None:
            _chance(axes, panel.chance, "chance")
        axes.tick_params(labelsize=7)
    first = {panel.chance is not None: i for i, panel in reversed(list(enumerate(panels)))}
    for place in first.values():  # one legend without chance, one with it
        grid.flat[place].legend(fontsize=7, frameon=False)
    below = "rows the student was tuned on (log scale); bars: 95% of the paired difference"
    figure.supxlabel(textwrap.fill(below, 55 * columns), fontsize=7)
    figure.suptitle(_plain(student), fontsize=9)
    figure.tight_layout(rect=(0, 0, 1, 0.99))
    return _png(figure)


def _curve(
    axes: Any, points: Sequence[Point] | Sequence[PanelPoint], title: str, title_size: float, **style: Any
) -> None:
    """Values with their intervals over rows on a log scale, under a title."""
    sizes = [p.size for p in points]
    ends = [[max(0.0, p.value - p.low) for p in points], [max(0.0, p.high - p.value) for p in points]]
    axes.errorbar(sizes, [p.value for p in points], yerr=ends, color=BLUE, marker="o", **style)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set_title(_plain(title), fontsize=title_size)
    axes.grid(axis="y", color="#eeeeee")
    axes.spines[["top", "right"]].set_visible(False)


def _chance(axes: Any, chance: float, label: str) -> None:
    """The value of guessing, as a line."""
    axes.axhline(chance, color="#bbbbbb", linewidth=1, linestyle=":", label=label)


def _png(figure: Any) -> bytes:
    """The picture as a file's content, without date or version, so that the same scores give the same file."""
    from matplotlib import pyplot

    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    pyplot.close(figure)
    return buffer.getvalue()
