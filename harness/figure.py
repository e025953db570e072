"""The learning curve as a picture: accuracy against rows, with what one would do otherwise as lines."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

from harness.analysis import Arm, Panel, Point

BLUE, ORANGE, GREEN, GREY, PURPLE, BROWN = "#0b5fa5", "#c8590a", "#2c7a34", "#666666", "#7a3b9a", "#8a6d1a"


def learning_curve(
    student: str, points: Sequence[Point], arms: Sequence[Arm], chance: float | None, caption: str,
    data: str = "filtered", metric: str = "accuracy",
) -> bytes:  # fmt: skip
    """A PNG: rows of one kind of data as points with intervals and seeds as dots; alternatives as lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5.2), dpi=130)
    sizes = [p.size for p in points]
    axes.errorbar(
        sizes,
        [p.accuracy for p in points],
        yerr=[[max(0.0, p.accuracy - p.low) for p in points], [max(0.0, p.high - p.accuracy) for p in points]],
        color=BLUE, marker="o", markersize=5, linewidth=1.8, capsize=4, zorder=3,
        label=f"{data.replace('_', ' ')} rows",
    )  # fmt: skip
    if any(len(p.seeds) > 1 for p in points):
        dots = [(p.size, seed) for p in points for seed in p.seeds]
        rows, levels = zip(*dots, strict=True)
        axes.scatter(rows, levels, s=16, color=BLUE, alpha=0.45, zorder=4, label="one random seed")
    reference = [a for a in arms if a.kind == "reference" and a.data == data]
    if reference:
        axes.plot(
            [a.size for a in reference], [a.metric(metric) or 0.0 for a in reference],
            color=GREEN, marker="s", markersize=4, linewidth=1.2, label="TF-IDF + logistic regression, same rows",
        )  # fmt: skip
    for arm in (a for a in arms if a.kind == "base" and a.student == student):
        for reading, style in ((metric, "-"), ("choice_accuracy", ":")):
            value = arm.metric(reading)
            if value is not None:
                colour = {"zero_shot": GREY, "few_shot": ORANGE}.get(arm.prompting, BROWN)
                how = "log-likelihood" if reading == "choice_accuracy" else "written"
                axes.axhline(
                    value, color=colour, linestyle=style, linewidth=1.2,
                    label=f"untuned, {arm.prompting.replace('_', '-')} ({how})",
                )  # fmt: skip
    for arm in (a for a in arms if a.data == "seeds_only" and (a.kind == "reference" or a.student == student)):
        colour, who = (GREEN, "TF-IDF") if arm.kind == "reference" else (PURPLE, "tuned")
        value = arm.metric(metric)
        if value is not None:
            label = f"{who} on the {arm.size} seeds alone"
            axes.axhline(value, color=colour, linestyle="--", linewidth=1.3, label=label)
    if chance is not None:
        axes.axhline(chance, color="#bbbbbb", linewidth=1, label="chance")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("rows the student was tuned on (log scale)")
    axes.set_ylabel(f"{metric.replace('_', ' ')} of the written answer, test items")
    axes.set_ylim(-0.02, 1)  # a line at 0 must not lie under the axis
    axes.set_title(" on ".join([student, *{arm.cards[0].suite for arm in arms}]), fontsize=11)
    axes.grid(axis="y", color="#eeeeee")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7.5, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.text(0.01, 0.005, caption, fontsize=7, color="#444444", va="bottom", wrap=True)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    return _png(figure)


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
        sizes = [point.size for point in panel.points]
        values = [point.value for point in panel.points]
        spread = [[p.value - p.low for p in panel.points], [p.high - p.value for p in panel.points]]
        axes.errorbar(sizes, values, yerr=spread, color=BLUE, marker="o", markersize=4, linewidth=1.5, capsize=3)
        axes.axhline(panel.before, color=GREY, linewidth=1.2, label="untuned")
        if panel.chance is not None:
            axes.axhline(panel.chance, color="#bbbbbb", linewidth=1, linestyle=":", label="chance")
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes], fontsize=7)
        axes.minorticks_off()
        axes.tick_params(axis="y", labelsize=7)
        axes.set_title(f"{panel.suite}\n{panel.metric.replace('_', ' ')}", fontsize=8)
        axes.grid(axis="y", color="#eeeeee")
        axes.spines[["top", "right"]].set_visible(False)
    first = {panel.chance is not None: i for i, panel in reversed(list(enumerate(panels)))}
    for place in first.values():  # one legend without chance, one with it
        grid.flat[place].legend(fontsize=7, frameon=False)
    figure.supxlabel("rows the student was tuned on (log scale); bars: 95% of the paired difference", fontsize=7)
    figure.suptitle(student, fontsize=9)
    figure.tight_layout(rect=(0, 0, 1, 0.99))
    return _png(figure)


def _png(figure: Any) -> bytes:
    """The picture as a file's content; without date or version, so that the same scores give the same file."""
    from matplotlib import pyplot

    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    pyplot.close(figure)
    return buffer.getvalue()
