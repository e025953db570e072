"""From stored scores to what a report compares: arms, their values, differences, curves.

An arm is one way to get an answer: a model, its data and size, and how it is asked. Its random seeds are the rows of a
matrix whose columns are items. Every claim is about test items. What to compare with is chosen on dev items.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness import stats
from harness.eval.results import Results
from harness.records import Score, Scorecard, Split
from harness.report import wording
from harness.stats import Floats, Interval, contrasts
from harness.stats.design import Bools, Design
from harness.stats.power import minimum_detectable
from harness.stats.score_matrix import ScoreMatrix, align_complete
from harness.suites.reference import is_reference, reference_title
from harness.suites.summary import absent, design_of, value_of

Verdict = Literal["better", "worse", "no difference found", "inconclusive", "not estimable"]


@dataclass(frozen=True)
class Arm:
    """Cards of one suite that differ in their random seed only."""

    student: str
    data: str
    size: int
    prompting: str
    cards: tuple[Scorecard, ...]
    method: str = ""  # how it was tuned, where the run has several methods

    @property
    def kind(self) -> Literal["base", "reference", "student", "student with rows"]:
        """What answers: an untuned model, a cheap reference, a tuned student, or one with rows in its prompt."""
        if is_reference(self.student):
            return "reference"
        if self.size and self.prompting == "retrieval":
            return "student with rows"
        return "student" if self.size else "base"

    @property
    def title(self) -> str:
        """How tables and figures call it."""
        if self.kind == "base":
            return f"{self.student} untuned, {self.prompting.replace('_', '-')}"
        data = self.data.replace("_", " ")
        model = reference_title(self.student) if self.kind == "reference" else self.student
        shown = ", with the nearest rows in its prompt" if self.kind == "student with rows" else ""
        return f"{model}, {self.size} rows ({data}{f', {self.method}' if self.method else ''}){shown}"

    @property
    def complete(self) -> bool:
        """Whether every item of every card was asked and answered."""
        return all(card.complete for card in self.cards)

    @property
    def seconds_an_answer(self) -> float:
        """What an item took on the machine that scored it, on average. 0 where there is none."""
        return sum(card.seconds for card in self.cards) / max(1, sum(card.items for card in self.cards))

    def metric(self, name: str) -> float | None:
        """The mean of a card metric over random seeds. None when a card lacks it."""
        values = [card.metrics[name] for card in self.cards if name in card.metrics]
        return sum(values) / len(values) if len(values) == len(self.cards) else None


def name_of(arm: Arm) -> str:
    """How `harness compare` calls an arm: STUDENT, without the random seed at its end where it has several."""
    cell = arm.cards[0].cell
    assert cell is not None
    name = cell.seedless_name if len(arm.cards) > 1 else cell.name
    return name if arm.prompting in ("zero_shot", "trained") else f"{name}@{arm.prompting}"


def arms(results: Results, suite: str) -> list[Arm]:
    """The arms of a suite, untuned first, then by student, data, size and method."""
    grouped: dict[tuple[str, str, int, str, str], list[Scorecard]] = {}
    for card in results.cards:
        if card.suite == suite and card.cell is not None:
            cell = card.cell
            data = cell.data if cell.size else ""
            grouped.setdefault((cell.student, data, cell.size, card.prompting, cell.method), []).append(card)
    suite_arms = [
        Arm(student, data, size, prompting, tuple(cards), method)
        for (student, data, size, prompting, method), cards in grouped.items()
    ]
    rank = {"base": 0, "reference": 1, "student": 2, "student with rows": 3}
    return sorted(suite_arms, key=lambda a: (rank[a.kind], a.student, a.data, a.size, a.method, a.prompting))


@dataclass(frozen=True)
class Sheet:
    """A card's scores of one split as columns, in the order of item ids. Read once, however many tables ask."""

    failed: Bools
    values: dict[str, Floats]  # metric -> one per item, as `value_of` says
    design: Design
    items: tuple[str, ...]  # ids
    tags: tuple[tuple[str, ...], ...]
    gold: tuple[str, ...]
    outputs: tuple[str, ...]

    def column(self, metric: str) -> Floats:
        """A metric's values as `value_of` says, also of a metric that no item has."""
        values = self.values.get(metric)
        return np.where(self.failed, math.nan, absent(metric)) if values is None else values


def sheet(results: Results, card: Scorecard, split: Split) -> Sheet:
    """The columns of a card, kept with the results once they were read."""
    columns = results.sheets.get((card.key, split))
    if columns is None:
        scores = sorted(results.scores(card), key=lambda score: score.item)
        for part in ("dev", "test"):
            results.sheets[card.key, part] = columns_of([score for score in scores if score.split == part])
        columns = results.sheets[card.key, split]
    assert isinstance(columns, Sheet)
    return columns


def columns_of(scores: Sequence[Score]) -> Sheet:
    """The columns of scores, which come in the order of item ids."""
    names = sorted({name for score in scores for name in score.values})
    return Sheet(
        np.array([score.status == "failed" for score in scores], dtype=bool),
        {name: np.array([value_of(score, name) for score in scores], dtype=float) for name in names},
        design_of(scores),
        tuple(score.item for score in scores),
        tuple(score.tags for score in scores),
        tuple(score.gold for score in scores),
        tuple(score.output for score in scores),
    )


def matrix(results: Results, arm: Arm, metric: str, split: Split) -> ScoreMatrix:
    """An arm's values of a metric, items in the order of their ids. A missing value is as `value_of` says."""
    sheets = [sheet(results, card, split) for card in arm.cards]
    values = np.array([columns.column(metric) for columns in sheets], dtype=float)
    return ScoreMatrix(values, sheets[0].items, sheets[0].design)


def has(results: Results, arm: Arm, metric: str, split: Split = "test") -> bool:
    """Whether any item of an arm has a value of a metric: a rate that nobody measured is not 0."""
    return any(metric in sheet(results, card, split).values for card in arm.cards)


@dataclass(frozen=True)
class Difference:
    """One arm minus another on the same items, with the question it answers."""

    interval: Interval
    question: contrasts.Question
    minimum_detectable: float | None  # the smallest true difference found with a power of 0.8
    p: float | None = None  # two-sided, that it is none: mid-p McNemar, for independent 0/1 scores
    changed: int = 0  # units with another value
    units: int = 0  # items, or passages where items share them
    unit: contrasts.Unit = "items"

    @property
    def verdict(self) -> Verdict:
        """What the interval says. Inconclusive where too few units changed for an exact test to tell a direction."""
        if math.isinf(self.interval.low):
            return "not estimable"
        if self.changed < contrasts.fewest_changed(self.interval.level):
            return "inconclusive"
        if self.interval.low > 0:
            return "better"
        return "worse" if self.interval.high < 0 else "no difference found"

    @property
    def words(self) -> str:
        """The verdict, with the number of changed units where they are too few."""
        few = f"inconclusive, only {self.changed} of {self.units} {self.unit} changed"
        return few if self.verdict == "inconclusive" else self.verdict


def difference(
    a: ScoreMatrix, b: ScoreMatrix, random_seed: int, b_varies: bool, level: float = 0.95, same_seeds: bool = False
) -> Difference:
    """`a` - `b` on the items that both have a value of.

    Three seeds or more ask about the recipe, fewer about the weights.
    With two seeds a side the seeds' mean is compared, item by item, and still speaks of these weights only.
    `same_seeds`: row by row both have one random seed.
    """
    a, b = align_complete(a, b)
    if len(a.items) < 2:
        return Difference(unknown(0.0, len(a.items)), "these weights", None)
    contrast = contrasts.difference(a, b, random_seed=random_seed, b_varies=b_varies, same_seeds=same_seeds)
    if contrast.estimate is None:
        return Difference(unknown(a.mean - b.mean, len(a.items)), "these weights", None)
    interval = contrast.estimate.interval(level)
    p = stats.mcnemar_mid_p(a.item_means, b.item_means) if interval.method == "Tango" else None
    detectable = minimum_detectable(interval, a, b)
    return Difference(interval, contrast.question, detectable, p, contrast.changed, contrast.units, contrast.unit)


def unknown(estimate: float, items: int) -> Interval:
    """The interval of what cannot be estimated: too few passages, or fewer than two values."""
    return Interval(estimate=estimate, low=-math.inf, high=math.inf, method="not estimable", n=items)


@dataclass(frozen=True)
class Point:
    """One size on a learning curve. The interval is that of the paired difference to the base, moved by it."""

    size: int
    value: float
    low: float
    high: float
    seeds: tuple[float, ...]  # the value of each random seed
    against_base: Difference


def untuned(arms_: Sequence[Arm], student: str) -> Arm | None:
    """The zero-shot base of a student, which its tuned arms are paired with."""
    bases = (a for a in arms_ if a.kind == "base" and a.student == student and a.prompting == "zero_shot")
    return next(bases, None)


def curve(
    results: Results, arms_: Sequence[Arm], student: str, data: str, metric: str, random_seed: int, base_metric: str,
    method: str = "",
) -> list[Point]:  # fmt: skip
    """The points of one student on one kind of data, tuned by one method, by growing size.

    `base_metric` is what the untuned model is read by, so that the bars are about the line that the figure draws.
    """
    base = untuned(arms_, student)
    points = []
    place = (student, data, method)
    for arm in (a for a in arms_ if a.kind == "student" and (a.student, a.data, a.method) == place):
        values = matrix(results, arm, metric, "test")
        if not values.complete.any():
            continue
        under = matrix(results, base, base_metric, "test") if base else values.zeros()
        against = difference(values, under, random_seed, b_varies=False)
        level, seeds = under.mean, values.select(values.complete).values.mean(axis=1)
        low, high = level + against.interval.low, level + against.interval.high
        if wording.bounded(metric) and math.isfinite(low):  # the base's value and a paired interval may leave 0 to 1
            low, high = min(values.mean, max(0.0, low)), max(values.mean, min(1.0, high))
        points.append(Point(arm.size, values.mean, low, high, tuple(seeds), against))
    return points
