"""One student on the task's own items: headline, learning curve with its slope and law, and the table of all arms."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

from harness.config.run import Train
from harness.core.markdown import escaped
from harness.core.record import digest
from harness.core.store import write_atomic
from harness.core.text import printable
from harness.eval.results import Results
from harness.report import figure, tables, wording
from harness.report.analysis import Arm, difference, has, matrix, name_of
from harness.report.growth import by_seed
from harness.report.headline import Headline
from harness.report.paired import change_words, verdict_words
from harness.report.student_view import StudentView, main_method, tuned_arms
from harness.stats import clusters, scaling


def student_section(results: Results, view: StudentView, train: Train, random_seed: int) -> str:
    """The section as Markdown. Writes the learning curve beside the report."""
    answer, suite, student = view.headline, view.suite, view.student
    sentence = answer.sentence() if isinstance(answer, Headline) else answer
    parts = [f"## {escaped(student)} on {escaped(suite.name)}\n", f"**{escaped(sentence)}**\n"]
    if isinstance(answer, Headline):
        parts += _alternatives(answer, run_name=results.folder.parent.name)
    if view.curve:
        name = f"learning_curve.{file_name(suite.name)}.{file_name(student)}.png"
        write_atomic(results.folder / name, figure.learning_curve(view.curve))
        parts += [f"![learning curve]({name})\n", f"{escaped(view.curve.caption)}\n"]
        parts.append(f"{escaped(view.growth.slope_sentence if view.growth else '')}\n")
        seeds_only = tuned_arms(view.arms, student, "seeds_only", main_method(train))
        parts.append(f"{escaped(_scaling_law(results, view.tuned, seeds_only, random_seed))}\n")

    parts += [f"{escaped(said)}\n" for said in _with_rows(results, view, random_seed)]
    strangers = [arm for arm in view.arms if arm.kind == "base" and arm.student not in train.students]
    compared = [arm for arm in view.arms if arm.student == student or arm.kind == "reference"]
    parts.append(
        tables.main(results, [*strangers, *compared], (view.metric, *suite.spec.item_metrics), answer, suite.choices)
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


def _with_rows(results: Results, view: StudentView, random_seed: int) -> Iterator[str]:
    """What it brings a tuned student to be shown the nearest rows: against itself, and the untuned model with them."""
    metric = view.metric
    untuned = next(
        (a for a in view.arms if (a.kind, a.student, a.prompting) == ("base", view.student, "retrieval")), None
    )
    for arm in (a for a in view.arms if a.kind == "student with rows" and a.student == view.student):
        place = (arm.data, arm.size, arm.method)
        alone = next((a for a in view.arms if a.kind == "student" and (a.data, a.size, a.method) == place), None)
        if not arm.complete or not has(results, arm, metric):
            continue
        said = f"{arm.title}: {wording.value(metric, matrix(results, arm, metric, 'test').mean)}"
        for other, what in ((alone, "without them"), (untuned, "the untuned model with the same rows in its prompt")):
            if other and other.complete and has(results, other, metric):
                shown, bare = (matrix(results, side, metric, "test") for side in (arm, other))
                against = difference(shown, bare, random_seed, b_varies=other is alone)
                said += f"; over {what} {change_words(metric, against)}, {verdict_words(metric, against)}"
        yield f"{said}."


def _scaling_law(results: Results, tuned: Sequence[Arm], seeds_only: Sequence[Arm], random_seed: int) -> str:
    """The law that the loss of the gold answers follows over sizes, or why none is fitted. Empty without losses."""
    if len(tuned) < 2 or any(arm.metric("gold_nll") is None for arm in tuned):
        return ""
    losses, design = by_seed(results, tuned, "gold_nll")
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
