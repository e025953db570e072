"""Methods at equal rows: every way to tune against the first one, on the same rows and with the same random seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.config.run import Train
from harness.core.markdown import escaped, table
from harness.eval.results import Results
from harness.report import wording
from harness.report.analysis import Arm, Difference, arms, matrix
from harness.report.paired import change_words, detectable_words, paired_difference, verdict_words
from harness.suites.suite import Suite
from harness.train.cells import TrainedCell

PLACE = ("student", "data", "rows", "method")
DETAILS = ("min. detectable", "learning rate", "seconds a cell", "validation loss")


@dataclass(frozen=True)
class Compared:
    """An arm, and how it differs from the first method at the same student, data and size."""

    arm: Arm
    value: float
    against: Difference | None  # None: it is the first method itself, or that was not scored with its random seeds


def compare_methods(results: Results, suite: str, metric: str, first: str, random_seed: int) -> list[Compared]:
    """Every tuned arm of a suite, those of one student, data and size together, the first method before the others."""
    tuned = [arm for arm in arms(results, suite) if arm.kind == "student"]
    at = {(arm.student, arm.data, arm.size, arm.method): arm for arm in tuned}
    tuned.sort(key=lambda arm: (arm.student, arm.data, arm.size, arm.method != first))
    compared = []
    for arm in tuned:
        value = matrix(results, arm, metric, "test").mean
        of_first = at.get((arm.student, arm.data, arm.size, first))
        other = of_first if of_first is not arm else None
        against = paired_difference(results, arm, other, metric, random_seed) if other else None
        compared.append(Compared(arm, value, against))
    return compared


def methods_section(
    results: Results, suites: Sequence[Suite], train: Train, trained: Sequence[TrainedCell], random_seed: int
) -> str:
    """The comparison as Markdown. Empty where the run has one method."""
    if len(train.by_method) < 2:
        return ""
    first = next(iter(train.by_method))
    parts = ["## Methods at equal rows\n"]
    parts += [f"- {escaped(f'{name}: {method.words}')}" for name, method in train.by_method.items()]
    parts.append("")
    count = 0
    for suite in suites:
        compared = compare_methods(results, suite.name, suite.primary, first, random_seed)
        count += sum(c.against is not None for c in compared)
        if compared:
            heads = (*PLACE, wording.title(suite.primary), f"minus {first} (95%)", "verdict", *DETAILS)
            rows = [[*_row(c, suite.primary), *_training(c.arm, trained)] for c in compared]
            parts += [f"### {escaped(suite.name)}\n", table(heads, rows) + "\n"]
    parts.append(
        escaped(
            f"A difference is between students of the same rows, steps ({train.budget}) and random seeds. Every"
            f" interval is a 95% one of its own: of {count} comparisons about {count / 20:.2g} would seem to differ by"
            " chance alone. A method does its best at a learning rate of its own: one that was not chosen for it may be"
            " why it is worse. Test items favour what they chose: choose by the validation loss, which is of dev items"
            " (train.validation)."
        )
        + "\n"
    )
    return "\n".join(parts)


def _row(compared: Compared, metric: str) -> list[str]:
    arm, against = compared.arm, compared.against
    value = "" if math.isnan(compared.value) else wording.value(metric, compared.value)
    place = [arm.student, arm.data, str(arm.size), arm.method, value if arm.complete else "incomplete"]
    if against is None:
        return [*place, "", "", ""]
    return [*place, change_words(metric, against), verdict_words(metric, against), detectable_words(metric, against)]


def _training(arm: Arm, trained: Sequence[TrainedCell]) -> Iterator[str]:
    """The learning rate of an arm's cells, the mean seconds that one took, and their mean loss on the dev items."""
    place = (arm.student, arm.data, arm.size, arm.method)
    cells = [c for c in trained if (c.student, c.data, c.size, c.method) == place]
    yield ", ".join(f"{rate:g}" for rate in sorted({c.learning_rate for c in cells if c.learning_rate is not None}))
    yield f"{sum(c.seconds for c in cells) / len(cells):.1f}" if cells else ""
    losses = [c.validation_loss for c in cells if c.validation_loss is not None]
    yield f"{sum(losses) / len(losses):.3f}" if losses else ""
