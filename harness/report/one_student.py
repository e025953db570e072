"""The scores of one student for a card: every suite's main numbers with their intervals, beside the untuned base."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from harness.config.arms import SEEDS_ONLY
from harness.eval.results import Results
from harness.records import Cell
from harness.report import regressions, tables, wording
from harness.report.analysis import Arm, arms, difference, has, matrix, sheet, untuned
from harness.report.headline import Headline, headline
from harness.report.paired import change_words, verdict_words
from harness.suites.suite import Suite
from harness.suites.summary import LOWER_IS_BETTER

BESIDE = ("accuracy", "choice_accuracy", "gold_probability")  # shown beside a suite's primary metric


@dataclass(frozen=True)
class Scored:
    """One metric of one suite, over test items."""

    suite: str
    metric: str
    items: int
    value: str  # with its 95% interval
    base: str  # the same of the untuned model; empty where that was not scored
    change: str  # the paired difference with its interval, and what it says

    @property
    def cells(self) -> tuple[str, ...]:
        """A line of a table."""
        return (self.suite, wording.title(self.metric), str(self.items), self.value, self.base, self.change)


def scores_of(results: Results, suites: Iterable[Suite], cell: Cell, random_seed: int) -> list[Scored]:
    """A tuned student's scores by suite: this student alone, not the other random seeds of its recipe."""
    scored = []
    for suite in suites:
        suite_arms = arms(results, suite.name)
        own = _alone(suite_arms, cell)
        if own is None or not own.complete:
            continue
        base = untuned(suite_arms, cell.student)
        for metric in dict.fromkeys((suite.primary, *BESIDE)):
            if has(results, own, metric):
                scored.append(_scored(results, own, base, suite.name, metric, random_seed))
    return scored


def _scored(results: Results, own: Arm, base: Arm | None, suite: str, metric: str, random_seed: int) -> Scored:
    items = len(sheet(results, own.cards[0], "test").failed)
    value = tables.share(tables.value_interval(results, own, metric))
    if base is None or not base.complete or not has(results, base, metric):
        return Scored(suite, metric, items, value, "", "")
    after, untuned_values = (matrix(results, arm, metric, "test") for arm in (own, base))
    against = difference(after, untuned_values, random_seed, b_varies=False)
    before = tables.share(tables.value_interval(results, base, metric))
    change = f"{change_words(metric, against)}, {verdict_words(metric, against)}"
    return Scored(suite, metric, items, value, before, change)


def against_alternatives(
    results: Results, suites: Iterable[Suite], cell: Cell, random_seed: int
) -> Iterator[tuple[str, str]]:
    """(Suite, how this student stands to the strongest alternative to it) for each of the task's own suites."""
    for suite in suites:
        suite_arms = arms(results, suite.name)
        own = _alone(suite_arms, cell)
        if own is None or not suite.of_task:
            continue
        others = [arm for arm in suite_arms if arm.kind != "student" or (arm.data == SEEDS_ONLY != own.data)]
        found = headline(results, [*others, own], own.student, random_seed, own.data, suite.primary, own.method)
        yield suite.name, found.sentence() if isinstance(found, Headline) else found


def score_limits(results: Results, suites: Iterable[Suite], cell: Cell, random_seed: int) -> Iterator[str]:
    """A sentence for what tuning measurably broke, and for each suite whose scores are missing or incomplete."""
    for suite in suites:
        own = _alone(arms(results, suite.name), cell)
        if own is None:
            why = results.not_run.get(suite.name, "eval was stopped before it")
            yield f"It was not scored on {suite.name}: {why}."
        elif not own.complete:
            yield f"On {suite.name} {own.cards[0].failed} of {own.cards[0].items} items failed: it has no score there."
        elif not suite.of_task:
            for change in regressions.changes(results, suite.name, random_seed):
                if change.broke and own.cards[0] in change.arm.cards:
                    yield (
                        f"Tuning made it worse on {suite.name}: {wording.title(change.metric)} was"
                        f" {change.before:.3g} before and is {change.after:.3g}."
                    )


def best_on_dev(results: Results, suite: Suite, names: Collection[str]) -> tuple[str, float] | None:
    """(Name, value) of the student with the best primary metric on dev items; of equals the one of fewest rows.

    None where no student of these was scored there. Test items are not looked at.
    """
    lower = suite.primary in LOWER_IS_BETTER
    best: tuple[float, int, str] | None = None
    for name, alone in _each(arms(results, suite.name)):
        if name in names and alone.complete and has(results, alone, suite.primary, "dev"):
            value = matrix(results, alone, suite.primary, "dev").mean
            rank = (value if lower else -value, alone.size, name)
            best = rank if best is None else min(best, rank)
    return None if best is None else (best[2], best[0] if lower else -best[0])


def _alone(suite_arms: Iterable[Arm], cell: Cell) -> Arm | None:
    """The arm of one cell, without the other random seeds."""
    return dict(_each(suite_arms)).get(cell.name)


def _each(suite_arms: Iterable[Arm]) -> Iterator[tuple[str, Arm]]:
    """(Name, arm of it alone) of every tuned student."""
    for arm in suite_arms:
        if arm.kind == "student":
            yield from ((card.student, replace(arm, cards=(card,))) for card in arm.cards)
