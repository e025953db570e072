"""What eval stored for a run: the scorecards, and the per-item scores behind each.

A verdict rests on these files, so every reader takes them sealed: they must be as their stage left them, and a card's
counts and metrics must be those of its own score lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.core.json_file import read_json, read_jsonl
from harness.core.record import Record
from harness.core.store import Manifest, remade_by, require_same, require_sealed
from harness.errors import UsageError, nearest
from harness.records import Score, Scorecard, scores_digest
from harness.suites import reference
from harness.suites.suite import Suite
from harness.suites.summary import disagreement

CARDS = "scorecards.json"
PLANNED = "wanted.json"  # the keys of the cards that eval set out to make: until it ends nothing else names them


class StoredCards(Record):
    """What scorecards.json holds."""

    digest: str  # of what eval was asked for
    partial: bool = False  # stopped by hand: some students or suites are missing
    not_run: dict[str, str] = {}  # suite -> why it could not be run
    notes: tuple[str, ...] = ()  # who was not scored, and why
    benchmarks: tuple[tuple[str, int], ...] = ()  # the rows of public benchmarks that were scored
    cards: tuple[Scorecard, ...]


@dataclass(frozen=True)
class Results:
    """The stored results of one run."""

    folder: Path  # runs/NAME/eval
    manifest: Manifest  # what seals them
    digest: str  # of what eval was asked for
    cards: tuple[Scorecard, ...]
    not_run: dict[str, str]  # suite -> why it could not be run
    partial: bool  # stopped by hand: some students or suites are missing
    notes: tuple[str, ...] = ()  # who was not scored, and why
    suites: Mapping[str, Suite] = field(default_factory=dict)  # as they are now, to judge a card's metrics by
    sheets: dict[tuple[str, str], object] = field(default_factory=dict, compare=False, repr=False)  # read scores
    _read: dict[str, tuple[Score, ...]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def run(self) -> str:
        """The name of the run."""
        return self.folder.parent.name

    @property
    def command(self) -> str:
        """What makes these results again."""
        return f"make eval RUN={self.run}"

    @property
    def changed(self) -> tuple[str, ...]:
        """The suites that are others now than those that were scored."""
        other = (
            c.suite for c in self.cards if c.suite in self.suites and self.suites[c.suite].digest != c.suite_digest
        )
        return tuple(dict.fromkeys(other))

    def card(self, suite: str, student: str, prompting: str) -> Scorecard | None:
        """The scorecard of one student (Cell.name) on one suite, or None."""
        place = (suite, student, prompting)
        return next((c for c in self.cards if (c.suite, c.student, c.prompting) == place), None)

    def scores(self, card: Scorecard) -> tuple[Score, ...]:
        """The per-item scores of a card, in stored order.

        Raises UsageError for a file that was edited or damaged, and for a card whose numbers are not those of its
        scores.
        """
        if card.key not in self._read:
            self._read[card.key] = self._scores(card)
        return self._read[card.key]

    def _scores(self, card: Scorecard) -> tuple[Score, ...]:
        name = f"scores/{card.key}.jsonl"
        require_same(self.folder, name, self.manifest, self.command)
        path = self.folder / name
        with remade_by(self.command):
            scores = tuple(score for _, score in read_jsonl(path, Score))
        whose = f"the scorecard of {card.student} on {card.suite}"
        if len(scores) != card.items or len({score.item for score in scores}) != card.items:
            raise UsageError(
                f"{path}: {len(scores)} scores of {len({s.item for s in scores})} different items, where {whose}"
                f" counts {card.items}: one of them was edited or damaged; {self.command} makes both again"
            )
        if scores_digest(scores) != card.scores:
            raise UsageError(
                f"{path}: these are not the scores that {whose} was made from: one of them was edited or damaged;"
                f" {self.command} makes both again"
            )
        suite = self.suites.get(card.suite)
        wrong = disagreement(card, scores, suite if suite and suite.digest == card.suite_digest else None)
        if wrong:
            raise UsageError(
                f"{self.folder / CARDS}: {whose} says {wrong}: it was edited or damaged, or another version wrote it;"
                f" {self.command} makes it again"
            )
        return scores


def resolve_student(name: str, names: Iterable[str]) -> str:
    """The one of `names` that a person means by `name`: itself, or its beginning at any dot, without regard to case.

    `filtered.16` means `tiny.filtered.16.s0` where no other name has that part. A number is never cut (`1` is not
    `16`). Where one of the names that fit is the beginning of all the others (`tiny.filtered.16`, which stands for
    its random seeds), it is meant. Raises UsageError with the candidates for a name that fits none or several.
    """
    students = list(dict.fromkeys(names))
    if name in students:
        return name
    part = re.compile(rf"(?:^|[.:]){re.escape(name)}(?!(?<=\d)\d)", re.IGNORECASE)
    fitting = sorted((student for student in students if name and part.search(student)), key=len)
    # the cheap reference has cells of the same names: it is meant where it is named
    fitting = [student for student in fitting if not reference.is_reference(student)] or fitting
    if fitting and all(student.startswith(f"{fitting[0]}.") for student in fitting[1:]):
        return fitting[0]
    if fitting:
        raise UsageError(f"the student {name!r} may be any of {', '.join(sorted(fitting))}: write more of its name")
    listed = ", ".join(students) or "none"
    raise UsageError(f"there is no student {name!r}{nearest(name, students)}; there are: {listed}")


def load_results(run_folder: Path, suites: Mapping[str, Suite] | None = None) -> Results:
    """Read the scorecards under `runs/NAME`. The metrics of a card are checked against its suite in `suites`.

    Raises UsageError naming the file that is missing, edited or damaged, and the command that makes it again.
    """
    folder = run_folder / "eval"
    path = folder / CARDS
    if not path.is_file():
        raise UsageError(f"{path}: there are no stored scores; make eval RUN={run_folder.name}")
    manifest = require_sealed(folder, [CARDS], f"make eval RUN={run_folder.name}")
    try:
        stored = StoredCards.model_validate(_read_cards(run_folder))
    except ValidationError as error:
        what = " ".join(str(error).split())[:200]
        raise UsageError(
            f"{path}: not the scorecards of this version ({what}); make eval RUN={run_folder.name}"
        ) from error
    return Results(
        folder, manifest, stored.digest, stored.cards, stored.not_run, stored.partial, stored.notes, suites or {}
    )


def keys_in_use(run_folder: Path) -> tuple[set[str], set[str]]:
    """(cards, students): the keys of scores that a run refers to, and of the students that it has scores of.

    Cards are those that are stored, whoever wrote them last, and those that eval set out to make. Raises UsageError.
    """
    folder = run_folder / "eval"
    planned = read_json(folder / PLANNED) if (folder / PLANNED).is_file() else []
    cards = _read_cards(run_folder) if (folder / CARDS).is_file() else {"cards": []}
    try:
        return {*map(str, planned), *(str(c["key"]) for c in cards["cards"])}, {
            c["student_key"] for c in cards["cards"]
        }
    except (KeyError, TypeError) as error:
        raise UsageError(f"{folder / CARDS}: not what eval writes; make eval RUN={run_folder.name}") from error


def scored_benchmarks(run_folder: Path) -> list[tuple[str, int]]:
    """Which rows of public benchmarks eval last scored, as `benchmark_rows.fingerprint`. Empty before eval."""
    try:
        return [(str(name), int(size)) for name, size in _read_cards(run_folder).get("benchmarks", [])]
    except (UsageError, AttributeError, TypeError, ValueError):
        return []


def _read_cards(run_folder: Path) -> Any:
    with remade_by(f"make eval RUN={run_folder.name}"):
        return read_json(run_folder / "eval" / CARDS)
