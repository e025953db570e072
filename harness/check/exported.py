"""An exported student scored again, and held against the scores of the student that it was made from.

Eval scored base and adapter apart. What is handed out is another file: merged and rounded, or packed in fewer bits. It
is asked the run's own suites as the student was, and the limits of the suite files judge the paired differences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.check import rules
from harness.check.candidate import CandidateScores, candidate_scores
from harness.check.limits import of_all_answers, rules_of
from harness.check.rules import Decision, Evidence, Rule
from harness.config.run import Run
from harness.core.terminal import Terminal
from harness.errors import UsageError
from harness.eval.results import Results
from harness.records import Cell, Score
from harness.report.analysis import columns_of
from harness.suites.suite import Suite

ALIKE = "alike on every item"
Rescore = Callable[[Suite], Sequence[Score]]


@dataclass(frozen=True)
class Changed:
    """The primary metric of a suite, before and now, over its test items."""

    suite: str
    metric: str
    items: int
    changed: int  # items with another value
    before: float
    now: float

    @property
    def words(self) -> str:
        """What people read."""
        numbers = f"{self.metric} {self.before:.4g} before, {self.now:.4g} now"
        return f"{self.suite}: {self.changed} of {self.items} test items have another {self.metric} ({numbers})"


@dataclass(frozen=True)
class ScoredAgain:
    """What another form of a student changed."""

    changes: tuple[Changed, ...]
    decisions: tuple[Decision, ...]  # by the limits of the suites
    left_out: tuple[str, ...]  # suites that were not asked, each with the reason


def scored_again(run: Run, results: Results, cell: Cell, rescore: Rescore, terminal: Terminal) -> ScoredAgain:
    """Score a form of the student `cell` on the run's suites, and judge the differences.

    Suites that need public rows or a judge are left out, and so are those on which the student has no whole score.
    """
    asked, left_out = _asked(run, results, cell)
    changes: list[Changed] = []
    paired: list[tuple[Rule, Evidence]] = []
    failed: list[Decision] = []
    with terminal.progress("scoring the export", len(asked)) as advance:
        for done, (suite, before) in enumerate(asked):
            advance(done, suite.name)
            scores = sorted(rescore(suite), key=lambda score: score.item)
            now = replace(before, sheets=(columns_of([score for score in scores if score.split == "test"]),))
            lost = sum(score.status == "failed" for score in scores)
            changes.append(_changed(suite, before, now))
            for rule in rules_of(suite):
                if lost:
                    note = f"{lost} items failed"
                    failed.append(Decision(rule, "failed", "these weights", 0, len(now.ids), note=note))
                elif not of_all_answers(before, rule.metric):
                    matrices = before.matrix(rule.metric), now.matrix(rule.metric)
                    paired.append((rule, Evidence(*matrices, same=True, random_seed=run.file.random_seed)))
        advance(len(asked), "")
    decisions = [
        replace(decision, shade=ALIKE) if evidence.unchanged else decision
        for (_, evidence), decision in zip(paired, rules.decide(paired, "these weights"), strict=True)
    ]
    return ScoredAgain(tuple(changes), (*decisions, *failed), tuple(left_out))


def _asked(run: Run, results: Results, cell: Cell) -> tuple[list[tuple[Suite, CandidateScores]], list[str]]:
    """(The suites to ask with the student's stored scores, why the others are left out)."""
    asked, left_out = [], []
    for suite in run.suites.values():
        card = results.card(suite.name, cell.name, "zero_shot")
        why = ""
        if not suite.items:
            why = "its rows are public ones"
        elif suite.rubric is not None:
            why = "a judge scores it"
        elif card is None or not card.complete:
            why = "the student has no whole score of it"
        elif card.suite_digest != suite.digest:
            why = "it changed since the student was scored"
        if why:
            left_out.append(f"{suite.name}: {why}")
            continue
        try:
            asked.append((suite, candidate_scores(results, [cell], suite.name)))
        except UsageError as error:
            left_out.append(f"{suite.name}: {error}")
    return asked, left_out


def _changed(suite: Suite, before: CandidateScores, now: CandidateScores) -> Changed:
    then, after = (scores.matrix(suite.primary).values[0] for scores in (before, now))
    both = np.isfinite(then) & np.isfinite(after)
    same = np.isclose(then, after, rtol=0, atol=1e-6, equal_nan=True)
    means = (float(values[both].mean()) if both.any() else float("nan") for values in (then, after))
    return Changed(suite.name, suite.primary, len(then), int((~same).sum()), *means)
