"""Any two students side by side, of one run or of two: the gate's table without a verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from harness import announce, power, stats
from harness.analysis import WATCHED
from harness.baseline import cut
from harness.config import Run
from harness.errors import UsageError, nearest
from harness.gate import Evidence, Question
from harness.records import Cell
from harness.results import Results, load_results
from harness.shipped import Shipped, ship_cells, shipped
from harness.stats import Interval
from harness.terminal import Terminal

HEADS = ("suite", "metric", "A", "B", "B minus A [95%]", "items", "could have seen")


@dataclass(frozen=True)
class Side:
    """One student, or all random seeds of one cell, with its stored results."""

    run: Run
    results: Results
    cells: tuple[Cell, ...]

    def on(self, suite: str) -> Shipped | None:
        """Its scores on a suite; None where it has none."""
        if any(self.results.card(suite, cell.name, "zero_shot") is None for cell in self.cells):
            return None
        return shipped(self.results, self.cells, suite, self.run)


def compare(a: str, b: str, load: Callable[[str], Run], common: bool, terminal: Terminal) -> None:
    """Print how B differs from A on every suite that both were scored on.

    `a`, `b`: RUN (its ship student), RUN:STUDENT (a cell's name), or RUN:STUDENT without the random seed at its
    end (all its seeds). Raises UsageError for a student nobody has, and where no suite can be compared.
    """
    left, right = side(a, load), side(b, load)
    seeds = min(len(left.cells), len(right.cells))
    question: Question = "this recipe" if seeds >= stats.MIN_SEEDS else "these weights"
    rows: list[tuple[str, ...]] = []
    for suite in dict.fromkeys(card.suite for card in left.results.cards):
        one, other = left.on(suite), right.on(suite)
        if one is None or other is None:
            continue
        shared = shared_items(one, other, common, terminal)
        if shared:
            rows += _rows(suite, one, other, shared, question)
    if not rows:
        raise UsageError(f"{a} and {b}: there is no suite that both were scored on with the same items")
    terminal.say(f"A: {a} ({_names(left)})\nB: {b} ({_names(right)})\nquestion: {question}")
    terminal.say(announce.table(HEADS, rows))


def side(name: str, load: Callable[[str], Run]) -> Side:
    """The student that a name means. Raises UsageError with the names there are."""
    run_name, _, student = name.partition(":")
    run = load(run_name)
    results = load_results(run.folder)
    if not student:
        return Side(run, results, ship_cells(run))
    cells = {card.cell.name: card.cell for card in results.cards if card.cell is not None}
    own = [cell for found, cell in cells.items() if student in (found, found.rsplit(".s", 1)[0])]
    if not own:
        raise UsageError(f"{name}: {run_name} has no student {student!r}{nearest(student, cells)}: {', '.join(cells)}")
    return Side(run, results, tuple(sorted(own, key=lambda cell: cell.random_seed)))


def shared_items(one: Shipped, other: Shipped, common: bool, terminal: Terminal) -> list[str]:
    """The test items that both have; none, and said so, where the suite differs and `common` is not asked for."""
    mine, theirs = {cut(item) for item in one.ids}, {cut(item) for item in other.ids}
    alike = one.cards[0].suite_digest == other.cards[0].suite_digest and one.cards[0].notes == other.cards[0].notes
    if alike and mine == theirs:
        return sorted(mine)
    if not common:
        terminal.say(
            f"{one.suite}: not compared: it was scored in two versions ({one.cards[0].suite_digest} and"
            f" {other.cards[0].suite_digest}); --common compares the {len(mine & theirs)} items that both have"
        )
        return []
    terminal.say(f"{one.suite}: two versions; compared on the {len(mine & theirs)} items that both have")
    return sorted(mine & theirs)


def _rows(suite: str, one: Shipped, other: Shipped, shared: Sequence[str], question: Question) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    groups, strata = one.ties(shared)
    for metric in (name for name in WATCHED if name in one.metrics and name in other.metrics):
        evidence = Evidence(one.matrix(metric, shared), other.matrix(metric, shared), groups, strata)
        found = evidence.difference(question)
        kept = evidence.there
        before, now = evidence.before[:, kept], evidence.now[:, kept]
        rows.append(
            (
                suite,
                metric,
                announce.number(float(before.mean()) if kept.any() else None),
                announce.number(float(now.mean()) if kept.any() else None),
                announce.interval(found.interval(0.95) if found else None),
                str(int(kept.sum())),
                _seen(found.interval(0.95), before, now) if found else "-",
            )
        )
    return rows


def _seen(found: Interval, before: stats.Floats, now: stats.Floats) -> str:
    """The smallest difference these items would likely have shown."""
    if found.method == "Tango":
        smallest = stats.smallest_difference(found.n, float(np.mean(before != now)))
        return "none" if smallest is None else f"{smallest:.3f}"
    return f"{power.smallest_from(found):.3f}"


def _names(one: Side) -> str:
    return ", ".join(cell.name for cell in one.cells)
