"""From stored scores to the answers a report gives: arms, curves, the headline, what tuning broke.

An arm is one way to get an answer: a model, its data and size, and how it is asked; its random seeds are the
rows of a matrix whose columns are items. Everything claimed is on test items; what to compare with is chosen
on dev items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness import stats
from harness.records import Scorecard
from harness.results import Results
from harness.scoring.reference import NAME as REFERENCE
from harness.scoring.summary import RATES
from harness.stats import Floats, Interval

Split = Literal["dev", "test"]
Question = Literal["these weights", "this recipe"]


@dataclass(frozen=True)
class Arm:
    """Cards of one suite that differ in their random seed only."""

    student: str
    data: str
    size: int
    prompting: str
    cards: tuple[Scorecard, ...]

    @property
    def kind(self) -> Literal["base", "reference", "student"]:
        """What is asked: an untuned model, the cheap reference, or a tuned student."""
        if self.student == REFERENCE:
            return "reference"
        return "student" if self.size else "base"

    @property
    def title(self) -> str:
        """How tables and figures call it."""
        if self.kind == "base":
            return f"{self.student} untuned, {self.prompting.replace('_', '-')}"
        data = self.data.replace("_", " ")
        who = "TF-IDF + logistic regression" if self.kind == "reference" else self.student
        return f"{who}, {self.size} rows ({data})"

    def metric(self, name: str) -> float | None:
        """The mean of a card metric over random seeds; None when a card lacks it."""
        values = [card.metrics[name] for card in self.cards if name in card.metrics]
        return sum(values) / len(values) if len(values) == len(self.cards) else None


def arms(results: Results, suite: str) -> list[Arm]:
    """The arms of a suite, untuned first, then by student, data and size."""
    grouped: dict[tuple[str, str, int, str], list[Scorecard]] = {}
    for card in results.cards:
        if card.suite == suite and card.cell is not None:
            data = card.cell.data if card.cell.size else ""
            grouped.setdefault((card.cell.student, data, card.cell.size, card.prompting), []).append(card)
    found = [Arm(*key, cards=tuple(cards)) for key, cards in grouped.items()]
    rank = {"base": 0, "reference": 1, "student": 2}
    return sorted(found, key=lambda a: (rank[a.kind], a.student, a.data, a.size, a.prompting))


def matrix(results: Results, arm: Arm, metric: str, split: Split) -> Floats:
    """Values of shape (seeds, items), items in the order of their ids.

    A missing rate is 0, since an item that gave none is wrong; any other missing value is NaN.
    """
    absent = 0.0 if metric in RATES else float("nan")
    rows = []
    for card in arm.cards:
        scores = sorted((s for s in results.scores(card) if s.split == split), key=lambda s: s.item)
        rows.append([score.values.get(metric, absent) for score in scores])
    return np.asarray(rows, dtype=float)


@dataclass(frozen=True)
class Difference:
    """One arm minus another on the same items, with the question it answers."""

    interval: Interval
    question: Question
    smallest: float | None  # the smallest true difference these items would likely have found

    @property
    def verdict(self) -> str:
        """better, worse, or no difference found."""
        if self.interval.low > 0:
            return "better"
        return "worse" if self.interval.high < 0 else "no difference found"


def difference(a: Floats, b: Floats, random_seed: int, b_varies: bool) -> Difference:
    """`a` - `b`, each of shape (seeds, items). Three seeds or more ask about the recipe, fewer about the weights.

    With two seeds a side the seeds' mean is compared, item by item, and still speaks of these weights only.
    """
    recipe = stats.two_way_bootstrap(a, b, random_seed, b_varies=b_varies)
    if recipe is not None:
        return Difference(recipe, "this recipe", _seen(recipe))
    if a.shape[0] == b.shape[0] == 1 and _binary(a) and _binary(b):
        flips = float(np.mean(a[0] != b[0]))
        return Difference(
            stats.paired_binary(a[0], b[0]), "these weights", stats.smallest_difference(a.shape[1], flips)
        )
    found = stats.paired_bootstrap(a.mean(axis=0), b.mean(axis=0), random_seed)
    return Difference(found, "these weights", _seen(found))


def _seen(interval: Interval) -> float:
    """The smallest difference found with power 0.8, from the interval's width: (1.96 + 0.84) standard errors."""
    return (1.96 + 0.84) * (interval.high - interval.low) / (2 * 1.96)


def _binary(values: Floats) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


@dataclass(frozen=True)
class Point:
    """One size on a learning curve. The interval is that of the paired difference to the base, moved by it."""

    size: int
    accuracy: float
    low: float
    high: float
    seeds: tuple[float, ...]  # accuracy of each random seed
    against_base: Difference


def untuned(arms_: Sequence[Arm], student: str) -> Arm | None:
    """The zero-shot base of a student, which its tuned arms are paired with."""
    found = (a for a in arms_ if a.kind == "base" and a.student == student and a.prompting == "zero_shot")
    return next(found, None)


def curve(results: Results, arms_: Sequence[Arm], student: str, data: str, metric: str) -> list[Point]:
    """The points of one student on one kind of data, by growing size."""
    base = untuned(arms_, student)
    points = []
    for arm in (a for a in arms_ if a.kind == "student" and (a.student, a.data) == (student, data)):
        values = matrix(results, arm, metric, "test")
        under = matrix(results, base, metric, "test") if base else np.zeros_like(values[:1])
        against = difference(values, under, arm.size, b_varies=False)
        level, mean = float(under.mean()), float(values.mean())
        low, high = level + against.interval.low, level + against.interval.high
        points.append(Point(arm.size, mean, low, high, tuple(values.mean(axis=1)), against))
    return points


@dataclass(frozen=True)
class Headline:
    """The largest size against the best of what one would do without it."""

    arm: Arm
    metric: str
    value: float
    rival: Arm
    rival_metric: str
    rival_value: float
    difference: Difference

    def sentence(self) -> str:
        """The answer in words, whatever it says."""
        d, i = self.difference, self.difference.interval
        reading = " (by log-likelihood)" if self.rival_metric == "choice_accuracy" else ""
        seen = f"{100 * d.smallest:.1f} points" if d.smallest is not None else "none"
        return (
            f"{self.arm.title}: {100 * self.value:.1f}% of {i.n} test items right; best alternative,"
            f" {self.rival.title}{reading}: {100 * self.rival_value:.1f}%. Difference"
            f" {100 * i.estimate:+.1f} points [{100 * i.low:+.1f}, {100 * i.high:+.1f}], asking about"
            f" {d.question}: {d.verdict}. The smallest difference these items would likely have shown: {seen}."
        )


def headline(results: Results, arms_: Sequence[Arm], student: str, random_seed: int) -> Headline | None:
    """The largest filtered size minus the best alternative; the alternative is picked on dev, measured on test.

    Untuned models may be read either way, by their written answer or by log-likelihood: whichever does better.
    """
    own = [a for a in arms_ if a.kind == "student" and (a.student, a.data) == (student, "filtered")]
    if not own:
        return None
    arm = max(own, key=lambda a: a.size)
    rivals = [a for a in arms_ if _is_alternative(a, arm)]
    readings = [(a, m) for a in rivals for m in ("accuracy", "choice_accuracy") if a.metric(m) is not None]
    if not readings:
        return None
    rival, rival_metric = max(readings, key=lambda r: float(matrix(results, r[0], r[1], "dev").mean()))
    a = matrix(results, arm, "accuracy", "test")
    b = matrix(results, rival, rival_metric, "test")
    found = difference(a, b, random_seed, b_varies=rival.kind != "base" and b.shape[0] > 1)
    return Headline(arm, "accuracy", float(a.mean()), rival, rival_metric, float(b.mean()), found)


def _is_alternative(other: Arm, arm: Arm) -> bool:
    """What one would do instead: ask the untuned model, tune on the seeds alone, or not use a model at all."""
    if other.kind == "base":
        return other.student == arm.student
    if other.kind == "student":
        return other.student == arm.student and other.data == "seeds_only"
    return other.data == "seeds_only" or (other.data, other.size) == (arm.data, arm.size)


LOWER_IS_BETTER = ("rep_2", "rep_3", "rep_4", "label_collapse", "empty")
WATCHED = ("accuracy", "rep_3", "stop_rate", "label_collapse")


@dataclass(frozen=True)
class Change:
    """One metric of another suite, after tuning against before."""

    suite: str
    metric: str
    arm: Arm
    before: float
    after: float
    difference: Difference

    @property
    def broke(self) -> bool:
        """Whether tuning measurably made it worse."""
        bad = "better" if self.metric in LOWER_IS_BETTER else "worse"
        return self.difference.verdict == bad


def changes(results: Results, suite: str, random_seed: int) -> list[Change]:
    """Every tuned arm against its untuned base on a suite that is not the task's own."""
    found = []
    all_arms = arms(results, suite)
    for arm in (a for a in all_arms if a.kind == "student"):
        base = untuned(all_arms, arm.student)
        if base is None:
            continue
        for metric in WATCHED:
            if arm.metric(metric) is None or base.metric(metric) is None:
                continue
            a, b = matrix(results, arm, metric, "test"), matrix(results, base, metric, "test")
            there = ~(np.isnan(a).any(axis=0) | np.isnan(b).any(axis=0))
            if there.sum() < 2:  # e.g. repetition, when no answer is long enough to repeat anything
                continue
            a, b = a[:, there], b[:, there]
            d = difference(a, b, random_seed, b_varies=False)
            found.append(Change(suite, metric, arm, float(b.mean()), float(a.mean()), d))
    return found
