"""One student on the task's own items: headline, learning curve with its slope and law, and the table of all arms."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from harness.config.run import Train
from harness.core.markdown import escaped
from harness.core.record import digest
from harness.core.store import write_atomic
from harness.core.text import printable
from harness.eval.results import Results
from harness.report import figure, tables, wording
from harness.report.analysis import Arm, Point, arms, curve, matrix, name_of, untuned
from harness.report.headline import Headline, headline, reading
from harness.report.headline import lines as alternative_lines
from harness.stats import Floats, clusters, contrasts, scaling
from harness.stats.design import Design
from harness.stats.score_matrix import align_complete
from harness.suites.suite import Suite, chance
from harness.suites.summary import LOWER_IS_BETTER, RATES
from harness.train.cells import TrainedCells


def main_data(kinds: Sequence[str]) -> str:
    """The kind of data that curves and headlines are about."""
    return "filtered" if "filtered" in kinds else kinds[0]


def main_method(train: Train) -> str:
    """The method that curves and headlines are about: the first one."""
    return next(iter(train.by_method))


def tuned_arms(suite_arms: Sequence[Arm], student: str, data: str, method: str) -> list[Arm]:
    """The arms of a student tuned on one kind of data by one method, by growing size."""
    place = (student, data, method)
    return [arm for arm in suite_arms if arm.kind == "student" and (arm.student, arm.data, arm.method) == place]


def student_section(
    results: Results, suite: Suite, student: str, train: Train, trained: TrainedCells, random_seed: int
) -> str:
    """The section as Markdown. Writes the learning curve beside the report."""
    suite_arms, data, metric = arms(results, suite.name), main_data(train.data_names), suite.primary
    method = main_method(train)
    tuned = tuned_arms(suite_arms, student, data, method)
    answer = headline(results, suite_arms, student, random_seed, data, metric, method)
    sentence = answer.sentence() if isinstance(answer, Headline) else answer
    parts = [f"## {escaped(student)} on {escaped(suite.name)}\n", f"**{escaped(sentence)}**\n"]
    if isinstance(answer, Headline):
        parts += _alternatives(answer, run_name=results.folder.parent.name)

    base = untuned(suite_arms, student)
    base_metric = reading(results, base, metric).metric if base else metric
    points = curve(results, suite_arms, student, data, metric, random_seed, base_metric, method)
    if points:
        name = f"learning_curve.{file_name(suite.name)}.{file_name(student)}.png"
        caption = _caption(train, trained, student, points)
        classifier = [arm for arm in suite_arms if arm.kind == "reference" and arm.data == data]
        reference = [(arm.size, matrix(results, arm, metric, "test").mean) for arm in classifier]
        alternatives = alternative_lines(results, suite_arms, student, metric, answer, method)
        guess = chance(suite.items) if metric in RATES else None
        picture = figure.learning_curve(
            student, suite.name, points, reference, alternatives, guess, caption, data, metric
        )
        write_atomic(results.folder / name, picture)
        parts += [f"![learning curve]({name})\n", f"{escaped(caption)}\n"]
        parts.append(f"{escaped(_slope(results, tuned, metric, random_seed))}\n")
        seeds_only = tuned_arms(suite_arms, student, "seeds_only", method)
        parts.append(f"{escaped(_scaling_law(results, tuned, seeds_only, random_seed))}\n")

    strangers = [arm for arm in suite_arms if arm.kind == "base" and arm.student not in train.students]
    compared = [arm for arm in suite_arms if arm.student == student or arm.kind == "reference"]
    parts.append(
        tables.main(results, [*strangers, *compared], (metric, *suite.spec.item_metrics), answer, suite.choices)
    )
    return "\n".join(parts)


def _alternatives(answer: Headline, run_name: str) -> list[str]:
    """Which alternatives the headline allows for, and the command that compares its pair alone."""
    parts = []
    if len(answer.alternatives) > 1:
        values = [f"{a.reading.title} {wording.value(a.reading.metric, a.value)}" for a in answer.alternatives]
        parts.append(
            "On the dev items these alternatives were as good as the best, within chance. On the test items: "
            + escaped(f"{'; '.join(values)}.")
            + "\n"
        )
    interval = answer.unadjusted.interval
    if math.isfinite(interval.low):
        change = wording.change(answer.reading.metric, interval.estimate, interval.low, interval.high)
        pair = [f"'{run_name}:{name_of(reading.arm)}'" for reading in (answer.rival.reading, answer.reading)]
        command = printable(f"harness compare {' '.join(pair)}").replace("`", "")
        parts.append(f"{escaped(f'This pair alone: {change}, as')} `{command}` prints it.\n")
    return parts


def _caption(train: Train, trained: TrainedCells, student: str, points: Sequence[Point]) -> str:
    """What all sizes have in common and how they differ, for the line under the figure."""
    place = (student, main_data(train.data_names), main_method(train))
    cells = [cell for cell in trained.cells if cell.tuned and (cell.student, cell.data, cell.method) == place]
    steps = ", ".join(f"{size} rows {n}" for size, n in sorted({(cell.size, cell.updates) for cell in cells}))
    seeds = len(train.random_seeds)
    against = points[-1].against_base
    varies = "items and random seeds vary" if against.question == "this recipe" else "items vary"
    base = "the untuned zero-shot model" if 0 in train.sizes else "0: the run has no untuned model"
    rates = sorted({cell.learning_rate for cell in cells if cell.learning_rate is not None})
    rate = f", learning rate {', '.join(f'{rate:g}' for rate in rates)}" if rates else ""
    by = f"Tuned by {main_method(train)}: " if main_method(train) else ""
    return (
        f"{by}{train.budget}; steps: {steps}{rate}."
        f" {seeds} random seed{'s' if seeds > 1 else ''}. Bars: 95% interval of the paired difference to {base};"
        f" {varies} ({against.interval.method})."
    )


def _by_seed(results: Results, tuned: Sequence[Arm], metric: str) -> tuple[Floats, Design]:
    """Values of shape (seeds, sizes, items) of the items that all arms have a value of, and the items' design."""
    seeds = range(min(len(arm.cards) for arm in tuned))
    by_size = align_complete(*(matrix(results, arm, metric, "test").of_seeds(seeds) for arm in tuned))
    return np.stack([scores.values for scores in by_size], axis=1), by_size[0].design


def _slope(results: Results, tuned: Sequence[Arm], metric: str, random_seed: int) -> str:
    """The change per doubling of rows, and whether more rows help. Empty for a single size."""
    if len(tuned) < 2:
        return ""
    values, design = _by_seed(results, tuned, metric)
    sizes = [arm.size for arm in tuned]
    enough = values.shape[2] > 1
    slope = contrasts.slope_per_doubling(sizes, values, random_seed, design=design) if enough else None
    if slope is None:
        return "Per doubling of rows: not estimable, too few items or passages."
    helps, hurts = ("falls", "rises") if metric in LOWER_IS_BETTER else ("rises", "falls")
    words = {
        helps: "more rows help",
        hurts: "more rows hurt",
        "inconclusive": f"inconclusive, only {slope.changed} of {slope.units} {slope.unit} changed",
    }
    interval = slope.interval
    change = wording.change(metric, interval.estimate, interval.low, interval.high)
    return (
        f"Per doubling of rows, {sizes[0]} to {sizes[-1]}: {change} ({slope.question}):"
        f" {words.get(slope.verdict, slope.verdict)}."
    )


def _scaling_law(results: Results, tuned: Sequence[Arm], seeds_only: Sequence[Arm], random_seed: int) -> str:
    """The law that the loss of the gold answers follows over sizes, or why none is fitted. Empty without losses."""
    if len(tuned) < 2 or any(arm.metric("gold_nll") is None for arm in tuned):
        return ""
    losses, design = _by_seed(results, tuned, "gold_nll")
    units = clusters.units(losses, design) if losses.shape[2] > 1 else None
    if units is None:
        return ""
    fitted = scaling.fit_scaling([arm.size for arm in tuned], units, random_seed)
    sentences = [fitted.sentence]
    for arm in seeds_only if fitted.law else ():
        loss = arm.metric("gold_nll")
        if loss is not None:
            sentences.append(f"as low as with the {arm.size} seeds alone: {fitted.rows_to_reach(loss).sentence}")
    return f"Loss of the gold answers over rows: {'; '.join(sentences)}."


def file_name(text: str) -> str:
    """A name as a part of a file's name that needs no escaping in a link."""
    flat = text.strip("/").replace("/", "--")
    safe = re.sub(r"[^A-Za-z0-9._-]", "-", flat)
    return safe if safe == flat else f"{safe}.{digest(text)[:6]}"
