"""The stored scores of one student on one suite, all its random seeds on the same test items, ready to compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.core.record import FORMAT
from harness.errors import UsageError, nearest
from harness.eval.results import Results
from harness.records import Cell, Scorecard
from harness.report.analysis import Sheet, sheet
from harness.stats.score_matrix import ScoreMatrix


@dataclass(frozen=True)
class CandidateScores:
    """One candidate on one suite: a card and its test scores per random seed, the same items in each."""

    suite: str
    cards: tuple[Scorecard, ...]
    sheets: tuple[Sheet, ...]

    @property
    def student(self) -> str:
        """The cell's name, or what the names of its random seeds have in common."""
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

    def matrix(self, metric: str) -> ScoreMatrix:
        """One row per random seed, six digits. NaN where an item has no value, 0 for a rate."""
        rows = [[float(f"{value:.6g}") for value in sheet.column(metric)] for sheet in self.sheets]
        values = np.array(rows, dtype=np.float64)
        values[~np.isfinite(values)] = np.nan  # an infinite log-likelihood is no value
        return ScoreMatrix(values, self.ids, self.sheets[0].design)


def candidate_scores(
    results: Results, cells: Sequence[Cell], suite: str, prompting: str = "zero_shot"
) -> CandidateScores:
    """A student's cards on a suite, one per cell. Raises UsageError when they are missing or differ."""
    cards = []
    for cell in cells:
        card = results.card(suite, cell.name, prompting)
        if card is None:
            students = sorted({card.student for card in results.cards if card.suite == suite})
            has = f"it has {', '.join(students)}{nearest(cell.name, students)}" if students else "the suite was not run"
            raise UsageError(f"{results.folder}: no stored scores of {cell.name} on {suite} ({has}); {results.command}")
        if card.format != FORMAT:
            raise UsageError(
                f"{results.folder}: the scores of {cell.name} on {suite} are of format {card.format}; this harness"
                f" reads format {FORMAT}; {results.command}"
            )
        cards.append(card)
    sheets = tuple(sheet(results, card, "test") for card in cards)
    if not sheets[0].items:
        raise UsageError(f"suites/{suite}.yaml: none of its {cards[0].items} items is in the test split")
    if len({sheet.items for sheet in sheets}) > 1 or len({card.suite_digest for card in cards}) > 1:
        raise UsageError(
            f"{results.folder}: the random seeds were scored on different items of {suite}; {results.command}"
        )
    return CandidateScores(suite, tuple(cards), sheets)
