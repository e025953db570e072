"""From stored scores to the answers a report gives: arms, curves, the headline, what tuning broke.

An arm is one way to get an answer: a model, its data and size, and how it is asked; its random seeds are the
rows of a matrix whose columns are items. Everything claimed is on test items; what to compare with is chosen
on dev items.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness import stats
from harness.records import Score, Scorecard
from harness.results import Results
from harness.scoring.reference import NAME as REFERENCE
from harness.scoring.summary import LOWER_IS_BETTER, RATES, ties_of, value_of
from harness.stats import Floats, Interval, clusters
from harness.stats.ties import ALONE, Ties, could_have_seen, finite

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

    @property
    def complete(self) -> bool:
        """Whether every item of every card was asked and answered."""
        return all(card.complete for card in self.cards)

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


def ordered(results: Results, card: Scorecard, split: Split) -> list[Score]:
    """A card's scores of one split, in the order of item ids: the order of every matrix here."""
    return sorted((s for s in results.scores(card) if s.split == split), key=lambda s: s.item)


def matrix(results: Results, arm: Arm, metric: str, split: Split) -> Floats:
    """Values of shape (seeds, items), items in the order of their ids; what is missing as `value_of` says."""
    rows = [[value_of(score, metric) for score in ordered(results, card, split)] for card in arm.cards]
    return np.array(rows, dtype=float)


def ties(results: Results, arm: Arm) -> Ties:
    """The groups and strata of an arm's test items, in the order of their ids."""
    return ties_of(ordered(results, arm.cards[0], "test"))


@dataclass(frozen=True)
class Difference:
    """One arm minus another on the same items, with the question it answers."""

    interval: Interval
    question: Question
    smallest: float | None  # the smallest true difference these items would likely have found
    p: float | None = None  # two-sided, that it is none: mid-p McNemar, for independent 0/1 scores

    @property
    def verdict(self) -> str:
        """better, worse, no difference found, or not estimable."""
        if math.isinf(self.interval.low):
            return "not estimable"
        if self.interval.low > 0:
            return "better"
        return "worse" if self.interval.high < 0 else "no difference found"


def difference(a: Floats, b: Floats, random_seed: int, b_varies: bool, tied: Ties = ALONE) -> Difference:
    """`a` - `b`, each of shape (seeds, items). Three seeds or more ask about the recipe, fewer about the weights.

    With two seeds a side the seeds' mean is compared, item by item, and still speaks of these weights only. Items
    that are NaN anywhere are left out.
    """
    there = finite(a) & finite(b)
    a, b, tied = a[:, there], b[:, there], tied.of(there)
    if there.sum() < 2:
        return Difference(unknown(0.0, int(there.sum())), "these weights", None)
    recipe = clusters.two_way(a, b, random_seed=random_seed, b_varies=b_varies, **tied.named)
    if recipe is not None:
        return Difference(recipe, "this recipe", could_have_seen(recipe, a, b))
    one, other = a.mean(axis=0), b.mean(axis=0)
    found = clusters.paired_difference(one, other, random_seed=random_seed, **tied.named)
    if found is None:
        return Difference(unknown(float((one - other).mean()), one.size), "these weights", None)
    p = stats.mcnemar_mid_p(one, other) if found.method == "Tango" else None
    return Difference(found, "these weights", could_have_seen(found, one, other), p)


def mean(values: Floats) -> float:
    """Over all seeds and the items that every seed has a value of; NaN without any."""
    there = finite(values)
    return float(values[:, there].mean()) if there.any() else math.nan


def unknown(estimate: float, items: int) -> Interval:
    """The interval of what cannot be estimated: too few passages, or fewer than two values."""
    return Interval(estimate=estimate, low=-math.inf, high=math.inf, method="not estimable", n=items)


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
        if not finite(values).any():
            continue
        under = matrix(results, base, metric, "test") if base else np.zeros_like(values[:1])
        against = difference(values, under, arm.size, b_varies=False, tied=ties(results, arm))
        level, seeds = mean(under), values[:, finite(values)].mean(axis=1)
        low, high = level + against.interval.low, level + against.interval.high
        points.append(Point(arm.size, mean(values), low, high, tuple(seeds), against))
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
    items: int  # test items that both have a value of
    difference: Difference

    def sentence(self) -> str:
        """The answer in words, whatever it says."""
        d, i = self.difference, self.difference.interval
        reading = " (by log-likelihood)" if self.rival_metric == "choice_accuracy" else ""
        right = "preferred to the reference" if self.metric == "preferred" else "right"
        values = (
            f"{self.arm.title}: {100 * self.value:.1f}% of {self.items} test items {right}; best alternative,"
            f" {self.rival.title}{reading}: {100 * self.rival_value:.1f}%."
        )
        if not (self.arm.complete and self.rival.complete):
            failed = sum(card.failed for card in (*self.arm.cards, *self.rival.cards))
            return f"No verdict: {failed} items failed, and the cards are incomplete. On the others, {values}"
        if d.verdict == "not estimable":
            return f"{values} The difference is not estimable: too few items, or too few passages."
        seen = f"{100 * d.smallest:.1f} points" if d.smallest is not None else "none"
        p = f" (mid-p McNemar {d.p:.2g})" if d.p is not None else ""
        return (
            f"{values} Difference {100 * i.estimate:+.1f} points [{100 * i.low:+.1f}, {100 * i.high:+.1f}]{p}, asking"
            f" about {d.question}: {d.verdict}. The smallest difference these items would likely have shown: {seen}."
        )


def headline(
    results: Results, arms_: Sequence[Arm], student: str, random_seed: int, data: str = "filtered",
    metric: str = "accuracy",
) -> Headline | None:  # fmt: skip
    """The largest size minus the best alternative; the alternative is picked on dev, measured on test.

    Untuned models may be read either way, by their written answer or by log-likelihood: whichever does better.
    """
    own = [a for a in arms_ if a.kind == "student" and (a.student, a.data) == (student, data)]
    if not own:
        return None
    arm = max(own, key=lambda a: a.size)
    rivals = [a for a in arms_ if _is_alternative(a, arm)]
    ways = ("accuracy", "choice_accuracy") if metric == "accuracy" else (metric,)
    scored = [(a, m, mean(matrix(results, a, m, "dev"))) for a in rivals for m in ways if a.metric(m) is not None]
    known = [(a, m, on_dev) for a, m, on_dev in scored if not math.isnan(on_dev)]
    if not known:
        return None
    rival, rival_metric, _ = max(known, key=lambda reading: reading[2])
    a = matrix(results, arm, metric, "test")
    b = matrix(results, rival, rival_metric, "test")
    varies = rival.kind != "base" and b.shape[0] > 1
    found = difference(a, b, random_seed, b_varies=varies, tied=ties(results, arm))
    both = int((finite(a) & finite(b)).sum())
    return Headline(arm, metric, mean(a), rival, rival_metric, mean(b), both, found)


def _is_alternative(other: Arm, arm: Arm) -> bool:
    """What one would do instead: ask the untuned model, tune on the seeds alone, or not use a model at all."""
    if other.kind == "base":
        return other.student == arm.student
    if other.kind == "student":
        return other.student == arm.student and other.data == "seeds_only"
    return other.data == "seeds_only" or (other.data, other.size) == (arm.data, arm.size)


# --- what tuning broke ----------------------------------------------------------------------------------------

WATCHED = (
    "accuracy", "gold_probability", "kl_from_base", "rep_3", "repeat_share", "loop", "stop_rate", "words",
    "label_collapse", "off_topic", "reference_similarity", "consistency", "misspelling_rate", "refusal", "copied_share",
    "flagged", "preferred", "abstained", "wrong", "made_up",
)  # fmt: skip
NEUTRAL = ("words", "kl_from_base", "abstained")  # more is neither better nor worse, or never less


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
        if self.metric in NEUTRAL:
            return False
        bad = "better" if self.metric in LOWER_IS_BETTER else "worse"
        return self.difference.verdict == bad


def changes(results: Results, suite: str, random_seed: int, metrics: Sequence[str] = WATCHED) -> list[Change]:
    """Every tuned arm against its untuned base, each metric on the items where both have a value."""
    found = []
    all_arms = arms(results, suite)
    for arm in (a for a in all_arms if a.kind == "student"):
        base = untuned(all_arms, arm.student)
        if base is None:
            continue
        for metric in metrics:
            a = matrix(results, arm, metric, "test")
            # a model has not moved from itself
            b = np.zeros_like(a[:1]) if metric == "kl_from_base" else matrix(results, base, metric, "test")
            there = finite(a) & finite(b)
            known = metric not in RATES or any(metric in score.values for score in results.scores(arm.cards[0]))
            if not known or there.sum() < 2:  # e.g. repetition, when no answer is long enough to repeat anything
                continue
            d = difference(a, b, random_seed, b_varies=False, tied=ties(results, arm))
            found.append(Change(suite, metric, arm, float(b[:, there].mean()), float(a[:, there].mean()), d))
    return found


@dataclass(frozen=True)
class PanelPoint:
    """A size on a forgetting curve: the value, and the base's value moved by the paired interval."""

    size: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Panel:
    """One metric of one suite over sizes, for the figure of what tuning broke."""

    suite: str
    metric: str
    before: float
    chance: float | None
    points: tuple[PanelPoint, ...]


def panels(found: Sequence[Change], student: str, data: str) -> list[Panel]:
    """Forgetting curves of one student on one kind of data, by suite and metric."""
    grouped: dict[tuple[str, str], list[Change]] = {}
    for change in found:
        if (change.arm.student, change.arm.data) == (student, data):
            grouped.setdefault((change.suite, change.metric), []).append(change)
    made = []
    for (suite, metric), own in grouped.items():
        own.sort(key=lambda change: change.arm.size)
        most = math.inf if metric in ("words", "kl_from_base") else 1.0
        points = tuple(
            PanelPoint(
                c.arm.size,
                c.after,
                min(c.after, max(0.0, c.before + c.difference.interval.low)),
                max(c.after, min(most, c.before + c.difference.interval.high)),
            )
            for c in own
        )
        guess = own[0].arm.cards[0].chance if metric in ("accuracy", "gold_probability") else None
        made.append(Panel(suite, metric, own[0].before, guess, points))
    return made
