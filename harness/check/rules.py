"""The rules of the gate: what two sets of scores on the same items allow one to claim. Pure, without files.

A difference is now minus before. Its interval has 95% at each end alone. Noise of the scoring itself, where it was
measured, is added to its width (a recipe's seeds, each scored by itself, hold it already). Below, the difference
is turned so that more is better.

    margin m   pass        the lower end is above -m
               regressed   the upper end is below -m, Holm-adjusted over all rules of the check
    min, max   likewise, on the value itself against the limit
    otherwise  inconclusive

A pass by margin says more where it can: `improved` where the two-sided 95% interval is above zero, `equivalent` where
it lies inside plus and minus the margin, `worse, within the margin` where it is below zero, and surely not by more than
the margin. Two that are one student and score alike on every item pass any margin, however few the items. Every
rule must pass for a check to pass, so passing needs no adjustment (intersection-union test,
Berger 1982). One regression fails it, so regressions are adjusted (Holm 1979).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from harness import stats
from harness.stats import Estimate, Interval, clusters, contrasts, power
from harness.stats.contrasts import Question
from harness.stats.rates import quantile
from harness.stats.score_matrix import ScoreMatrix, align_complete

LEVEL = 0.90  # two-sided, so that each end alone is a 95% bound
ALPHA = 0.05
MOST_ITEMS = 1_000_000  # a suite that needs more needs another margin instead
LOST_SHARE = 0.05  # of the values there were may be missing now before a pass is doubted

Better = Literal["higher", "lower"]
Bound = Literal["margin", "margin_share", "min", "max"]
Verdict = Literal["pass", "regressed", "inconclusive", "failed"]


@dataclass(frozen=True)
class Rule:
    """One limit on one metric of one suite."""

    suite: str
    metric: str
    bound: Bound
    limit: float  # as the suite file writes it
    better: Better = "higher"


@dataclass(frozen=True)
class Evidence:
    """One metric before and now on the same items, in the same order."""

    before: ScoreMatrix
    now: ScoreMatrix
    noise: float = 0.0  # standard deviation of the difference when the same weights are scored twice
    same: bool = False  # whether both are one student: trained from the same base, rows and settings
    random_seed: int = 0

    @property
    def paired(self) -> tuple[ScoreMatrix, ScoreMatrix]:
        """Now and before, on the items that have a value on both sides, from every seed."""
        now, before = align_complete(self.now, self.before)
        return now, before

    @property
    def lost(self) -> int:
        """Items that had a value and have none now."""
        return int((self.before.complete & ~self.now.complete).sum())

    @property
    def unchanged(self) -> bool:
        """Whether it is one student with the same score on every item."""
        return self.same and bool(np.array_equal(self.before.values, self.now.values, equal_nan=True))

    def difference(self, question: Question) -> Estimate | None:
        """Now minus before. None when it cannot be estimated: too few seeds, items or passages."""
        now, before = self.paired
        if not now.items:
            return None
        if question == "this recipe":
            if min(now.seeds, before.seeds) < stats.MIN_SEEDS:
                return None
            return contrasts.difference(now, before, random_seed=self.random_seed).estimate
        estimate = clusters.difference_estimate(
            now.item_means, before.item_means, now.design, random_seed=self.random_seed
        )
        return widened(estimate, self.noise) if estimate else None

    def value(self, question: Question) -> Estimate | None:
        """The value now. None as `difference`."""
        now = self.now.select(self.now.complete)
        if not now.items:
            return None
        if question == "this recipe":
            return contrasts.level(now, random_seed=self.random_seed) if now.seeds >= stats.MIN_SEEDS else None
        estimate = clusters.mean_estimate(now.item_means, now.design, random_seed=self.random_seed)
        return widened(estimate, self.noise / math.sqrt(2)) if estimate else None  # of one scoring, not of two


@dataclass(frozen=True)
class Decision:
    """The verdict of a rule, with its numbers."""

    rule: Rule
    verdict: Verdict
    question: Question
    items: int  # that could be paired
    total: int  # of the suite's test split
    before: float | None = None
    now: float | None = None
    difference: Interval | None = None  # now minus before, each end a one-sided 95% bound
    p: float | None = None  # that it is a regression, adjusted
    shade: str = ""  # what more a pass says
    note: str = ""

    @property
    def limit(self) -> str:
        """The rule in words."""
        words = {"margin": "margin", "margin_share": "margin, share", "min": "min", "max": "max"}
        return f"{words[self.rule.bound]} {self.rule.limit:g}"


def decide(rules: Sequence[tuple[Rule, Evidence]], question: Question) -> list[Decision]:
    """A decision per rule, in the same order. Regressions are adjusted over all of them."""
    drafts = [_draft(rule, evidence, question) for rule, evidence in rules]
    adjusted = power.holm([1.0 if draft.p is None else draft.p for draft in drafts])
    return [_settled(draft, p) for draft, p in zip(drafts, adjusted, strict=True)]


def overall(decisions: Sequence[Decision]) -> Verdict:
    """The verdict of a whole check: failed before regressed before inconclusive."""
    verdicts = {decision.verdict for decision in decisions}
    order: tuple[Verdict, ...] = ("failed", "regressed", "inconclusive")
    return next((verdict for verdict in order if verdict in verdicts), "pass")


def widened(estimate: Estimate, noise: float) -> Estimate:
    """An estimate whose ends take in the noise of scoring, as an independent normal error."""
    if not noise:
        return estimate

    def ends(level: float) -> tuple[float, float]:
        low, high = estimate.ends(level)
        value, more = estimate.value, quantile(level) * noise
        return value - math.hypot(value - low, more), value + math.hypot(high - value, more)

    return replace(estimate, method=f"{estimate.method}, with the noise of scoring", ends=ends)


def _draft(rule: Rule, evidence: Evidence, question: Question) -> Decision:
    """A decision before adjustment: a regression that may still be taken back."""
    before, now = (side.mean if side.complete.any() else None for side in (evidence.before, evidence.now))
    change = evidence.difference(question)
    estimate = evidence.value(question) if rule.bound in ("min", "max") else change
    items = len(evidence.paired[0].items)
    interval = change.interval(LEVEL) if change else None
    draft = Decision(rule, "inconclusive", question, items, len(evidence.now.items), before, now, interval)
    enough = question == "these weights" or evidence.now.seeds >= stats.MIN_SEEDS
    if evidence.unchanged and enough and rule.bound in ("margin", "margin_share"):
        return replace(draft, verdict="pass", shade="the same weights")
    if estimate is None:
        return replace(draft, note=_why_unknown(evidence, question))
    line, good_above = _line(rule, before or 0.0)
    interval, tails = estimate.interval(LEVEL), estimate.p(line)
    inside = interval.low > line if good_above else interval.high < line
    if not inside:
        note = _why_undecided(estimate, interval, line, question)
        return replace(draft, p=tails.below if good_above else tails.above, note=note)
    if evidence.lost > LOST_SHARE * evidence.before.complete.sum():
        return replace(draft, note=f"{evidence.lost} items that had a value have none now")
    shade = _shade(estimate.interval(0.95), line, good_above) if rule.bound in ("margin", "margin_share") else ""
    return replace(draft, verdict="pass", shade=shade)


def _settled(draft: Decision, p: float) -> Decision:
    if draft.p is None:
        return draft
    if p < ALPHA:
        return replace(draft, verdict="regressed", p=p, note=f"p {p:.2g}, adjusted for all rules of this check")
    if draft.p < ALPHA:
        return replace(draft, p=p, note=f"p {draft.p:.2g} alone, but {p:.2g} adjusted for all rules of this check")
    return replace(draft, p=p)


def _line(rule: Rule, before: float) -> tuple[float, bool]:
    """What an interval must lie beyond, and on which side is good: in the metric's own direction."""
    if rule.bound in ("min", "max"):
        return rule.limit, rule.bound == "min"
    margin = rule.limit * abs(before) if rule.bound == "margin_share" else rule.limit
    return (-margin, True) if rule.better == "higher" else (margin, False)


def _shade(interval: Interval, line: float, good_above: bool) -> str:
    """What a pass says beyond "not worse by more than the margin", from the two-sided 95% interval."""
    low, high = (interval.low, interval.high) if good_above else (-interval.high, -interval.low)
    if low > 0:
        return "improved"
    if high < 0:
        return "worse, within the margin"
    return "equivalent" if high < abs(line) and low > -abs(line) else ""


def _why_unknown(evidence: Evidence, question: Question) -> str:
    seeds = min(evidence.now.seeds, evidence.before.seeds)
    if question == "this recipe" and seeds < stats.MIN_SEEDS:
        return f"a recipe needs {stats.MIN_SEEDS} random seeds a side; there are {seeds}"
    return "too few items, or too few passages, have values on both sides"


def _why_undecided(estimate: Estimate, interval: Interval, line: float, question: Question) -> str:
    """Why a rule is undecided, and how many items would decide it if the estimate is true."""
    text = f"[{interval.low:+.4f}, {interval.high:+.4f}] reaches across {line:+.4g}"
    distance = abs(estimate.value - line)
    if question == "this recipe":
        return f"{text}; more random seeds or items would tell"
    if distance < 1e-9 or interval.low == interval.high:
        return text
    needed = power.items_needed_from(interval, distance)
    units = "clusters of items" if " clusters" in estimate.method else "items"
    return f"{text}; about {needed} {units} would tell, were they all like these" if needed < MOST_ITEMS else text
