"""What a reader must know of the rows that cells see: of sizes near all there are, and of each kind of arm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from harness.config.arms import SEEDS_ONLY, SELECTIONS, Without, plain_arms
from harness.config.run import Train
from harness.filters import Balance, Diverse, filter_called
from harness.records import Cell
from harness.train.arms import MOST_IFD, Scores, has_labels, rows_of
from harness.train.pool import Pool
from harness.train.row_scores import IFD


def size_notes(cells: Sequence[tuple[Cell, int]]) -> list[str]:
    """A sentence for each arm whose largest size holds more than half of the rows that it is drawn from.

    `cells`: tuned cells, each with the number of those rows.
    """
    notes = []
    by_data = sorted((one for one in cells if one[0].data != SEEDS_ONLY), key=lambda one: one[0].data)
    for data, of_data in groupby(by_data, key=lambda one: one[0].data):
        cell, available = max(of_data, key=lambda one: one[0].size)
        if available >= 2 * cell.size:
            continue
        drawn = f"the largest size of data {data!r}, {cell.size}, is drawn from {available} rows"
        if data in SELECTIONS:
            what = "all of them: it selects nothing" if available == cell.size else "more than half: it selects little"
            notes.append(f"{drawn}, and takes {what}")
            continue
        notes.append(
            f"{drawn}, fewer than twice as many: random seeds draw much the same rows there, so that size has no"
            " sampling variance to speak of"
        )
    return notes


def arm_notes(settings: Train, pool: Pool, scores: Mapping[str, Scores]) -> Iterator[str]:
    """What is particular to the arms of a run. `scores`: by student, where an arm goes by measured ones."""
    drawn = plain_arms(settings.data)
    selections = [name for name in SELECTIONS if any(arm.name == name for arm in drawn)]
    if selections and len(settings.random_seeds) > 1:
        yield (
            f"data {', '.join(selections)}: a selection takes the same rows at every random seed, but for equals: its"
            " seeds differ in training alone, and its intervals say nothing of other draws of rows"
        )
    if "length" in selections and has_labels(pool.kept):
        yield "data length: answers are labels, and so the longest inputs of each label come first"
    for student, of_student in scores.items() if IFD in selections else ():
        ratios = of_student[IFD].values()
        above = sum(ratio > MOST_IFD for ratio in ratios)
        if above:
            yield (
                f"data {IFD}: of {len(ratios)} rows, {above} are left out, since their prompt makes the answer less"
                f" likely to {student} than no prompt does: the two do not belong together"
            )
    for arm in drawn:
        if isinstance(arm, Without):
            yield from _without_notes(arm, pool)


def _without_notes(arm: Without, pool: Pool) -> Iterator[str]:
    name, left_out = filter_called(arm.without, pool.filters)
    more = len(rows_of(arm, pool)) - len(pool.kept)
    if not more:
        yield f"data {arm.name}: the filter {name} alone dropped no row, so that this is the same as filtered"
    choosing = [filter_.kind for filter_ in pool.filters if isinstance(filter_, Balance | Diverse)]
    if more and choosing and left_out.kind not in choosing:
        yield (
            f"data {arm.name}: the {more} rows that {name} alone dropped were never among those that"
            f" {' and '.join(choosing)} chose from"
        )
