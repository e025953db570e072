"""Which rows a data arm gives, as one sequence: a size is the first of it, so that it contains every smaller one.

Everything here is a function of row ids, the random seed and the scores of rows: the order of a file changes nothing.
No torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import PurePath

from harness.augment.rows import Judged, writers
from harness.config.arms import (
    RANDOM,
    SELECTIONS,
    DataArm,
    Mix,
    Named,
    OfTeacher,
    OfTemplate,
    Replay,
    Without,
    template_called,
)
from harness.config.teacher import Teacher
from harness.core.text import words
from harness.errors import UsageError
from harness.filters import filter_called
from harness.records import Row
from harness.train.pool import Pool
from harness.train.sizes import balanced, in_turns, shuffled

Scores = Mapping[str, Mapping[str, float]]  # a selection that is measured -> row id -> its score, the highest first
MOST_IFD = 1.0


def rows_of(arm: DataArm, pool: Pool) -> tuple[Row, ...]:
    """The rows that an arm draws from, all of them. Raises UsageError as `filter_called` and `template_called`."""
    match arm:
        case Without():
            name, _ = filter_called(arm.without, pool.filters)
            return pool.kept + tuple(line.row for line in pool.dropped if _dropped_by(line) == [name])
        case OfTeacher():
            return tuple(row for row in pool.kept if arm.teacher in _who_wrote(row, pool.teachers))
        case OfTemplate():
            path = template_called(arm.template, pool.templates)
            return tuple(row for row in pool.kept if row.provenance.template == path)
        case Mix():
            return tuple(row for part, _ in arm.shares for row in rows_of(part, pool))
        case Replay():
            return rows_of(arm.others, pool) + pool.general[arm.name]
        case Named(name="seeds_only"):
            return pool.seeds
        case Named(name="unfiltered"):
            return pool.kept + tuple(line.row for line in pool.dropped)
        case Named(name="human" | "synthetic" as name):
            source = "own" if name == "human" else "teacher"
            return tuple(row for row in pool.kept if row.provenance.source == source)
        case Named():
            return pool.kept


def in_order(arm: DataArm, pool: Pool, random_seed: int, scores: Scores) -> tuple[Row, ...]:
    """All rows of an arm in the order in which sizes take them.

    Rows of one label take turns (of one answer, where answers are free), but for `random`. A selection ranks the rows
    of each label, and all of them where there are no labels. `scores` has what `diverse`, `student_fit`, `ifd` go by.
    A mix ends where a part of it that is due has no row left. Raises UsageError as `rows_of`.
    """
    match arm:
        case Mix():
            parts = [(share, in_order(part, pool, random_seed, scores)) for part, share in arm.shares]
            return tuple(mixed(parts))
        case Replay():
            general = tuple(shuffled(pool.general[arm.name], random_seed))
            others = in_order(arm.others, pool, random_seed, scores)
            return tuple(mixed([(1 - arm.share, others), (arm.share, general)]))
    rows = rows_of(arm, pool)
    if arm.name == RANDOM:
        return tuple(shuffled(rows, random_seed))
    if arm.name in SELECTIONS:
        return tuple(_ranked(rows, _score_by(arm.name, rows, scores), random_seed))
    return tuple(balanced(rows, random_seed))


def choose(arm: DataArm, pool: Pool, size: int, random_seed: int, scores: Scores) -> tuple[Row, ...]:
    """The rows of one cell. Raises UsageError for fewer than `size`, and as `rows_of`."""
    rows = in_order(arm, pool, random_seed, scores)
    if size > len(rows):
        raise UsageError(f"size {size} is larger than the {len(rows)} rows there are for data {arm.name!r}")
    return rows[:size]


# --- selections


def by_label(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each label. Where answers are free, all are one group."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.example.label or "", []).append(row)
    return groups


def has_labels(rows: Sequence[Row]) -> bool:
    """Whether the answers of some rows are labels, so that those of one label have one length."""
    return any(row.example.label for row in rows)


def _score_by(selection: str, rows: Sequence[Row], scores: Scores) -> dict[str, tuple[float, ...]]:
    """Row id -> what a selection ranks it by, the highest first. Rows that it leaves out are not there."""
    if selection == "length":
        return {row.id: (len(words(row.answer)), len(words(row.text))) for row in rows}
    measured = scores[selection]
    if selection == "ifd":
        return {row.id: (measured[row.id],) for row in rows if measured[row.id] <= MOST_IFD}
    # a greedy choice of the most diverse rows ends where no size needs more: the others come last
    return {row.id: (measured.get(row.id, float("-inf")),) for row in rows}


def _ranked(rows: Sequence[Row], score: Mapping[str, tuple[float, ...]], random_seed: int) -> Iterator[Row]:
    """The rows that have a score, label by label in turn, the highest first. Of equals the random seed decides."""
    scored = [row for row in shuffled(rows, random_seed) if row.id in score]
    best = sorted(scored, key=lambda row: score[row.id], reverse=True)  # stable: equals stay shuffled
    return in_turns(by_label(best), random_seed)


# --- shares


def mixed(parts: Sequence[tuple[Fraction, Sequence[Row]]]) -> Iterator[Row]:
    """Rows of several parts in stated shares, each row once, until the part that is due has none left.

    Of n rows, a part with the share s has n s, rounded up or down: the quota method of Balinski and Young (1975, "The
    quota method of apportionment"). The largest remainder would do that too, but may take a row back as n grows (the
    Alabama paradox), and a size would not contain the smaller one.
    """
    sources = [iter(rows) for _, rows in parts]
    counts = [0] * len(parts)
    taken: set[str] = set()
    total = 0
    while True:
        total += 1
        due = [place for place, (share, _) in enumerate(parts) if counts[place] < share * total]
        place = max(due, key=lambda place: (parts[place][0] / (counts[place] + 1), -place))
        row = next((row for row in sources[place] if row.id not in taken), None)
        if row is None:
            return
        counts[place] += 1
        taken.add(row.id)
        yield row


# --- where rows come from


def _dropped_by(line: Judged) -> list[str]:
    return [verdict.filter for verdict in line.verdicts if not verdict.keep]


def teachers_called(identity: str, teachers: Mapping[str, Teacher]) -> list[str]:
    """The names that a run file has for a model, name@revision: one, or none, or several of one name."""
    name, _, revision = identity.rpartition("@")
    called = [own for own, teacher in teachers.items() if name in (teacher.model, PurePath(teacher.model).name)]
    if len(called) > 1:  # endpoints and hub ids of one name have revisions, folders of one name have not
        called = [own for own in called if (teachers[own].revision or "endpoint") == revision] or called
    return called


def _who_wrote(row: Row, teachers: Mapping[str, Teacher]) -> set[str]:
    """The names that the run file has for the teachers that wrote some of a row.

    Raises UsageError where a row does not tell two of them apart.
    """
    wrote: set[str] = set()
    for writer in writers(row):
        called = teachers_called(writer, teachers)
        if len(called) > 1:
            raise UsageError(f"rows do not tell the teachers {' and '.join(called)} apart: both are called {writer}")
        wrote.update(called)
    return wrote
