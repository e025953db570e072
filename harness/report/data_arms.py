"""Data arms at equal rows and updates: each against a random draw of the kept rows, and what their calls bought."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.augment.funnel import Funnel
from harness.config.arms import FILTERED, RANDOM, SEEDS_ONLY, Replay
from harness.config.run import Run, Train
from harness.core.markdown import escaped, table
from harness.eval.results import Results
from harness.report import wording
from harness.report.analysis import Arm, Difference, arms, matrix
from harness.report.paired import change_words, detectable_words, paired_difference, verdict_words
from harness.report.worth import worth_table
from harness.suites.suite import Suite
from harness.train.cells import TrainedCell

LEVEL = 0.95
HEADS = ("student", "rows", "arm")


@dataclass(frozen=True)
class Pair:
    """An arm and what it is compared with, at the same student, size and method."""

    suite: Suite
    arm: Arm
    control: Arm
    difference: Difference  # at 95% by itself
    holds: str = ""  # better or worse, where that also holds with all other comparisons allowed for


def data_arms_section(
    results: Results, run: Run, trained: Sequence[TrainedCell], funnel: Funnel | None, random_seed: int
) -> str:
    """The comparison as Markdown. Empty where no two arms have a size in common."""
    train, suites = run.file.train, list(run.suites.values())
    planned = list(compared_arms(results, suites, train))
    pairs = with_differences(results, planned, random_seed)
    if not pairs:
        return ""
    parts = ["## Data arms at equal rows\n"]
    for suite in suites:
        of_suite = [pair for pair in pairs if pair.suite.name == suite.name]
        if of_suite:
            parts += [f"### {escaped(suite.name)}\n", _table(results, suite, of_suite, train) + "\n"]
    parts.append(escaped(_about(pairs, train)) + "\n")
    for suite in (suite for suite in suites if suite.of_task):
        worth = worth_table(results, suite, run, trained, funnel, random_seed)
        if worth:
            parts += [f"### What calls bought, on {escaped(suite.name)}\n", worth + "\n"]
    return "\n".join(parts)


def compared_arms(results: Results, suites: Sequence[Suite], train: Train) -> Iterator[tuple[Suite, Arm, Arm]]:
    """(suite, arm, what it is compared with): `random`, or `filtered` where there is none, on the task's own suites.

    Where answers are labels, also `filtered`: it takes labels in turn, as all arms do but `random`. A replay is
    compared with the arm that it is of, on every suite.
    """
    replayed = {arm.name: arm.others.name for arm in train.data if isinstance(arm, Replay)}
    for suite in suites:
        tuned = [arm for arm in arms(results, suite.name) if arm.kind == "student" and arm.data != SEEDS_ONLY]
        at = {(arm.student, arm.size, arm.method, arm.data): arm for arm in tuned}
        balanced = suite.of_task and bool(suite.choices)
        for arm in tuned:
            wanted = [RANDOM if (*_place(arm), RANDOM) in at else FILTERED] if suite.of_task else []
            wanted += [FILTERED] if balanced and arm.data != RANDOM else []
            wanted += [replayed[arm.data]] if arm.data in replayed else []
            for data in dict.fromkeys(wanted):
                control = at.get((*_place(arm), data))
                if control is not None and control is not arm:
                    yield suite, arm, control


def with_differences(results: Results, planned: Sequence[tuple[Suite, Arm, Arm]], random_seed: int) -> list[Pair]:
    """The pairs that share a random seed, with their differences: each at 95%, and all together at 95% (Bonferroni)."""
    alone = [
        (suite, arm, control, paired_difference(results, arm, control, suite.primary, random_seed))
        for suite, arm, control in planned
    ]
    pairs = [Pair(suite, arm, control, found) for suite, arm, control, found in alone if found is not None]
    level = 1 - (1 - LEVEL) / max(len(pairs), 1)
    together: list[Pair] = []
    for pair in pairs:
        metric = pair.suite.primary
        strict = paired_difference(results, pair.arm, pair.control, metric, random_seed, level)
        words = verdict_words(metric, strict) if strict else ""
        together.append(
            Pair(pair.suite, pair.arm, pair.control, pair.difference, words if words in ("better", "worse") else "")
        )
    return together


def _place(arm: Arm) -> tuple[str, int, str]:
    return arm.student, arm.size, arm.method


def _table(results: Results, suite: Suite, pairs: Sequence[Pair], train: Train) -> str:
    metric, methods = suite.primary, len(train.by_method) > 1
    order = {name: place for place, name in enumerate(train.data_names)}
    rows = []
    for pair in sorted(pairs, key=lambda p: (_place(p.arm), order.get(p.arm.data, len(order)), p.control.data)):
        value = matrix(results, pair.arm, metric, "test").mean
        rows.append(
            [
                pair.arm.student,
                str(pair.arm.size),
                pair.arm.data,
                *([pair.arm.method] if methods else []),
                "" if math.isnan(value) else wording.value(metric, value),
                f"minus {pair.control.data}",
                change_words(metric, pair.difference),
                verdict_words(metric, pair.difference),
                detectable_words(metric, pair.difference),
            ]
        )
    heads = (*HEADS, *(["method"] if methods else []), wording.title(metric), "against", "difference (95%)", "verdict")
    return table((*heads, "min. detectable"), rows)


def _about(pairs: Sequence[Pair], train: Train) -> str:
    """What is the same on both sides, how many comparisons there are, and which hold when all are allowed for."""
    count, question = len(pairs), pairs[0].difference.question
    varies = "items and random seeds vary" if question == "this recipe" else "items vary"
    named = [
        f"{pair.arm.data} is {pair.holds} than {pair.control.data} at {pair.arm.size} rows on {pair.suite.name}"
        for pair in pairs
        if pair.holds
    ]
    return (
        f"Both sides have the same number of rows, the same updates ({train.budget}) and the same random seeds: only"
        f" which rows differs. The intervals are about {question} ({varies}). Each is a 95% one of its own: of {count}"
        f" comparisons about {count / 20:.2g} would seem to differ by chance alone. With all {count} allowed for"
        f" (Bonferroni), {'; '.join(named) if named else 'none of them differs'}."
    )
