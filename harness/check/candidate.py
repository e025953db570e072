"""The stored scores of one student on one suite, all its random seeds on the same test items, ready to compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.check.rules import Better
from harness.config.run import Run
from harness.core.record import FORMAT
from harness.errors import UsageError, nearest
from harness.eval.results import Results
from harness.records import Cell, Scorecard
from harness.report.analysis import Sheet, sheet
from harness.stats.score_matrix import ScoreMatrix
from harness.suites.suite import Limit, Suite
from harness.suites.summary import LOWER_IS_BETTER


@dataclass(frozen=True)
class Shipped:
    """One student on one suite: a card and its test scores per random seed, the same items in each."""

    suite: str
    cards: tuple[Scorecard, ...]
    sheets: tuple[Sheet, ...]

    @property
    def student(self) -> str:
        """What people read: the cell's name, or what its seeds have in common."""
        names = [card.student for card in self.cards]
        return names[0] if len(names) == 1 else f"{names[0].rsplit('.s', 1)[0]} ({len(names)} random seeds)"

    @property
    def ids(self) -> tuple[str, ...]:
        """The test items' ids, sorted: the order of every column."""
        return self.sheets[0].items

    @property
    def failed(self) -> int:
        """Items that were not really asked and answered, over all cards."""
        return sum(card.failed for card in self.cards)

    @property
    def metrics(self) -> list[str]:
        """The metrics that items have values of."""
        return sorted({name for sheet in self.sheets for name in sheet.values})

    def scores(self, metric: str) -> ScoreMatrix:
        """One row per random seed, six digits; NaN where there is none, 0 for a rate."""
        rows = [[float(f"{value:.6g}") for value in sheet.column(metric)] for sheet in self.sheets]
        values = np.array(rows, dtype=np.float64)
        values[~np.isfinite(values)] = np.nan  # an infinite log-likelihood is no value
        return ScoreMatrix(values, self.ids, self.sheets[0].design)


def better(metric: str, limit: Limit | None = None) -> Better:
    """Which way a metric is good: what the suite file says, else what is known of it."""
    if limit is not None and limit.better is not None:
        return limit.better
    return "lower" if metric in LOWER_IS_BETTER else "higher"


def shipped(results: Results, cells: Sequence[Cell], name: str, run: Run, prompting: str = "zero_shot") -> Shipped:
    """A student's cards on the suite `name`, one per cell. Raises UsageError when they are missing or differ."""
    again = f"make eval RUN={run.name}"
    cards = []
    for cell in cells:
        card = results.card(name, cell.name, prompting)
        if card is None:
            known = sorted({c.student for c in results.cards if c.suite == name})
            stored = f"it has {', '.join(known)}{nearest(cell.name, known)}" if known else "the suite was not run"
            raise UsageError(f"{results.folder}: no stored scores of {cell.name} on {name} ({stored}); {again}")
        if card.format != FORMAT:
            raise UsageError(
                f"{results.folder}: the scores of {cell.name} on {name} are of format {card.format}; this harness"
                f" reads format {FORMAT}; {again}"
            )
        cards.append(card)
    sheets = tuple(sheet(results, card, "test") for card in cards)
    if not sheets[0].items:
        raise UsageError(f"suites/{name}.yaml: none of its {cards[0].items} items is in the test split")
    if len({one.items for one in sheets}) > 1 or len({card.suite_digest for card in cards}) > 1:
        raise UsageError(f"{results.folder}: the random seeds were scored on different items of {name}; {again}")
    return Shipped(name, tuple(cards), sheets)


def fresh(found: Shipped, suite: Suite, run: Run) -> Shipped:
    """The same, once it is sure that the suite is still the one that was scored. Raises UsageError."""
    scored = found.cards[0].suite_digest
    if scored != suite.digest:
        raise UsageError(
            f"suites/{suite.name}.yaml: the suite changed since it was scored (digest {scored} then,"
            f" {suite.digest} now); make augment train eval RUN={run.name}"
        )
    return found
