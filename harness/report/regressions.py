"""Regressions by tuning: every tuned arm against its untuned base on the other suites, in words and for the figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.core import markdown
from harness.eval.results import Results
from harness.metrics.table import METRICS, metric_of
from harness.report import wording
from harness.report.analysis import Arm, Difference, arms, difference, has, matrix, untuned
from harness.stats.score_matrix import align_complete
from harness.suites.summary import LOWER_IS_BETTER, RATES

WATCHED = (
    "accuracy", "gold_probability", "kl_from_base", "rep_3", "repeat_share", "loop", "stop_rate", "words",
    "label_collapse", "off_topic", "reference_similarity", "consistency", "misspelling_rate", "refusal", "copied_share",
    "flagged", "preferred", "abstained", "wrong", "made_up", "token_f1", "rouge_l",
)  # fmt: skip
NEUTRAL = tuple(name for name, metric in METRICS.items() if metric.better == "neither")


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
    def moved(self) -> bool:
        """Whether it measurably changed in either direction."""
        return self.difference.verdict in ("better", "worse")

    @property
    def broke(self) -> bool:
        """Whether tuning measurably made it worse."""
        bad = "better" if self.metric in LOWER_IS_BETTER else "worse"
        return self.metric not in NEUTRAL and self.difference.verdict == bad

    @property
    def verdict(self) -> str:
        """In words, for what moved."""
        if self.metric in NEUTRAL:
            return "changed"
        return "broke" if self.broke else "changed for the better"

    @property
    def order(self) -> tuple[bool, bool, float]:
        """Regressions first, then metrics with a good direction, the surest of a kind first."""
        i = self.difference.interval
        width = max(i.high - i.low, 1e-12)
        return (not self.broke, self.metric not in NEUTRAL, -abs(i.estimate) / width)


def changes(results: Results, suite: str, random_seed: int, metrics: Sequence[str] = WATCHED) -> list[Change]:
    """Every tuned arm against its untuned base, each metric on the items where both have a value."""
    rows = []
    all_arms = arms(results, suite)
    for arm in (a for a in all_arms if a.kind == "student"):
        base = untuned(all_arms, arm.student)
        if base is None:
            continue
        for metric in metrics:
            if metric in RATES and not has(results, arm, metric):
                continue
            after = matrix(results, arm, metric, "test")
            # the base has a divergence of 0 from itself
            before = after.zeros() if metric == "kl_from_base" else matrix(results, base, metric, "test")
            after, before = align_complete(after, before)
            if len(after.items) < 2:  # e.g. repetition, when no answer is long enough to repeat anything
                continue
            d = difference(after, before, random_seed, b_varies=False)
            if wording.bounded(metric):  # an interval of real values does not know that a share moves by 1 at most
                d = replace(d, interval=d.interval.within(-1.0, 1.0))
            rows.append(Change(suite, metric, arm, before.mean, after.mean, d))
    return rows


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


def panels(rows: Sequence[Change], student: str, data: str, method: str = "") -> list[Panel]:
    """Forgetting curves of one student tuned on one kind of data by one method, by suite and metric."""
    grouped: dict[tuple[str, str], list[Change]] = {}
    for change in rows:
        if (change.arm.student, change.arm.data, change.arm.method) == (student, data, method):
            grouped.setdefault((change.suite, change.metric), []).append(change)
    drawn = []
    for (suite, metric), by_size in grouped.items():
        by_size.sort(key=lambda change: change.arm.size)
        least, most = metric_of(metric).span
        points = tuple(
            PanelPoint(
                c.arm.size,
                c.after,
                min(c.after, max(least, c.before + c.difference.interval.low)),
                max(c.after, min(most, c.before + c.difference.interval.high)),
            )
            for c in by_size
        )
        guess = by_size[0].arm.cards[0].chance if metric in ("accuracy", "gold_probability") else None
        drawn.append(Panel(suite, metric, by_size[0].before, guess, points))
    return drawn


# --- in words -------------------------------------------------------------------------------------------------

HEADS = ("number", "what it is", "student", "before", "after", "difference (95%)", "verdict")


def section(rows: Sequence[Change]) -> str:
    """Suite by suite, those with a regression first: a table of what moved, then a line of what did not.

    The line gives the minimum detectable difference of each metric. Only the largest size of every student, kind of
    data and method is listed. The figure shows the smaller ones.
    """
    by_suite: dict[str, list[Change]] = {}
    for change in sorted(largest(rows), key=lambda c: c.order):
        by_suite.setdefault(change.suite, []).append(change)
    order = sorted(by_suite, key=lambda suite: not any(c.broke for c in by_suite[suite]))
    return "\n".join(_suite(suite, by_suite[suite]) for suite in order)


def summary(rows: Sequence[Change]) -> str:
    """The metrics that got worse at the largest sizes, by name."""
    if not rows:
        return "No other suite compares a student with its untuned base: none was run on both, or it has too few items."
    named = dict.fromkeys(f"{c.suite}: {wording.title(c.metric)}" for c in largest(rows) if c.broke)
    if not named:
        return "Nothing measurable; each suite names the minimum detectable difference of its metrics."
    return f"Measurably worse: {'; '.join(named)}."


def largest(rows: Sequence[Change]) -> list[Change]:
    """The changes at the largest size of each student, kind of data and method: those that the tables show."""
    return [c for c in rows if c.arm.size == max(o.arm.size for o in rows if _alike(o, c))]


def _suite(name: str, rows: Sequence[Change]) -> str:
    moved = [c for c in rows if c.moved]
    lines = [f"### {markdown.escaped(name)}\n"]
    if moved:
        lines.append(markdown.table(HEADS, [_row(c) for c in moved]) + "\n")
    by_arm: dict[str, list[str]] = {}
    for change in (c for c in rows if not c.moved):
        by_arm.setdefault(change.arm.title, []).append(_unmoved(change))
    for title, metrics in by_arm.items():
        opening = f"No change found, {title} (in brackets the minimum detectable difference):"
        lines.append(markdown.escaped(f"{opening} {', '.join(metrics)}.") + "\n")
    return "\n".join(lines)


def _unmoved(c: Change) -> str:
    """A metric that did not measurably change, with its minimum detectable difference."""
    if c.difference.verdict == "not estimable":
        return f"{wording.title(c.metric)} (not estimable)"
    if c.difference.verdict == "inconclusive":
        few = f"only {c.difference.changed} of {c.difference.units} {c.difference.unit} changed"
        return f"{wording.title(c.metric)} ({few})"
    detectable = c.difference.minimum_detectable
    return (
        f"{wording.title(c.metric)} ({f'{detectable:.3f}' if detectable else 'not estimable, too few items changed'})"
    )


def _row(c: Change) -> list[str]:
    i = c.difference.interval
    verdict = markdown.Strong(c.verdict) if c.broke else c.verdict
    change = f"{i.estimate:+.3f} [{i.low:+.3f}, {i.high:+.3f}]"
    metric = metric_of(c.metric)
    return [metric.title, metric.meaning, c.arm.title, f"{c.before:.3f}", f"{c.after:.3f}", change, verdict]


def _alike(a: Change, b: Change) -> bool:
    """Whether two changes are of one student, one kind of data and one method."""
    return (a.arm.student, a.arm.data, a.arm.method) == (b.arm.student, b.arm.data, b.arm.method)
