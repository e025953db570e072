"""One student on one suite, worked out once: headline, growth, curve. Sections, answers and the page draw on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.config.arms import SEEDS_ONLY
from harness.config.run import Train
from harness.eval.results import Results
from harness.report.analysis import Arm, Difference, Point, arms, curve, matrix, untuned
from harness.report.growth import Growth, growth
from harness.report.headline import Headline, Line, headline, reading
from harness.report.headline import lines as alternative_lines
from harness.report.paired import paired_difference
from harness.suites.reference import reference_title
from harness.suites.suite import Suite, chance
from harness.suites.summary import RATES
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


@dataclass(frozen=True)
class StudentCurve:
    """Values over rows, and what they are held against."""

    student: str
    suite: str
    metric: str
    data: str
    points: tuple[Point, ...]
    references: dict[str, list[tuple[int, float]]]  # title of a cheap reference -> (rows, value) on the same rows
    across: tuple[Line, ...]  # what does not change with rows
    chance: float | None
    caption: str


@dataclass(frozen=True)
class AgainstSeeds:
    """What the rows bring beyond the seeds that they were made from: the largest size against the seeds alone."""

    rows: Arm
    seeds: Arm
    seeds_value: float
    difference: Difference


@dataclass(frozen=True)
class StudentView:
    """One student on one suite of the task's own: what sections, answers and pages are made of."""

    student: str
    suite: Suite
    arms: tuple[Arm, ...]  # all candidates of the suite
    tuned: tuple[Arm, ...]  # those of the main kind of data and method, by growing size
    headline: Headline | str  # the latter: why there is none
    growth: Growth | None  # None for a single size
    curve: StudentCurve | None  # None where no size was scored
    against_seeds: AgainstSeeds | None  # None where nothing was tuned on the seeds alone

    @property
    def metric(self) -> str:
        """The suite's primary metric."""
        return self.suite.primary


def view_student(
    results: Results, suite: Suite, student: str, train: Train, trained: TrainedCells, random_seed: int
) -> StudentView:
    """All of it, worked out once."""
    data, method, metric = main_data(train.data_names), main_method(train), suite.primary
    suite_arms = arms(results, suite.name)
    tuned = tuned_arms(suite_arms, student, data, method)
    answer = headline(results, suite_arms, student, random_seed, data, metric, method)
    return StudentView(
        student=student,
        suite=suite,
        arms=tuple(suite_arms),
        tuned=tuple(tuned),
        headline=answer,
        growth=growth(results, tuned, metric, random_seed),
        curve=_curve(results, suite, suite_arms, student, train, trained, answer, random_seed),
        against_seeds=_against_seeds(
            results, tuned, tuned_arms(suite_arms, student, SEEDS_ONLY, method), metric, random_seed
        ),
    )


def _against_seeds(
    results: Results, tuned: Sequence[Arm], on_seeds: Sequence[Arm], metric: str, random_seed: int
) -> AgainstSeeds | None:
    if not tuned or not on_seeds or tuned[-1].data == SEEDS_ONLY:
        return None
    difference = paired_difference(results, tuned[-1], on_seeds[-1], metric, random_seed)
    if difference is None:
        return None
    value = matrix(results, on_seeds[-1], metric, "test").mean
    return AgainstSeeds(tuned[-1], on_seeds[-1], value, difference)


def _curve(
    results: Results, suite: Suite, suite_arms: Sequence[Arm], student: str, train: Train, trained: TrainedCells,
    answer: Headline | str, random_seed: int,
) -> StudentCurve | None:  # fmt: skip
    data, method, metric = main_data(train.data_names), main_method(train), suite.primary
    base = untuned(suite_arms, student)
    base_metric = reading(results, base, metric).metric if base else metric
    points = curve(results, suite_arms, student, data, metric, random_seed, base_metric, method)
    if not points:
        return None
    references: dict[str, list[tuple[int, float]]] = {}
    for arm in suite_arms:
        if arm.kind == "reference" and arm.data == data:
            value = matrix(results, arm, metric, "test").mean
            references.setdefault(reference_title(arm.student), []).append((arm.size, value))
    return StudentCurve(
        student=student,
        suite=suite.name,
        metric=metric,
        data=data,
        points=tuple(points),
        references=references,
        across=tuple(alternative_lines(results, suite_arms, student, metric, answer, method)),
        chance=chance(suite.items) if metric in RATES else None,
        caption=_caption(train, trained, student, points),
    )


def _caption(train: Train, trained: TrainedCells, student: str, points: Sequence[Point]) -> str:
    """What all sizes have in common and how they differ, for the line under the figure."""
    place = (student, main_data(train.data_names), main_method(train))
    cells = [cell for cell in trained.cells if cell.tuned and (cell.student, cell.data, cell.method) == place]
    steps = ", ".join(f"{size} rows {n}" for size, n in sorted({(cell.size, cell.updates) for cell in cells}))
    seeds = len(train.random_seeds)
    against = points[-1].against_base
    varies = "items and random seeds vary" if against.question == "this recipe" else "items vary"
    bars = "the 95% interval of the value itself, since the run has no untuned model"
    if 0 in train.sizes:
        bars = "what the untuned zero-shot model has, plus the 95% interval of the paired difference to it"
    rates = sorted({cell.learning_rate for cell in cells if cell.learning_rate is not None})
    rate = f", learning rate {', '.join(f'{rate:g}' for rate in rates)}" if rates else ""
    by = f"Tuned by {main_method(train)}: " if main_method(train) else ""
    return (
        f"{by}{train.budget}; steps: {steps}{rate}."
        f" {seeds} random seed{'s' if seeds > 1 else ''}. Bars: {bars}; {varies} ({against.interval.method})."
    )
