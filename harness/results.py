"""What eval stored for a run: its scorecards, and the per-item scores behind each."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.errors import UsageError, nearest
from harness.json_file import read_json, read_jsonl
from harness.records import Score, Scorecard, scores_digest
from harness.store import remade_by


@dataclass(frozen=True)
class Results:
    """The stored results of one run."""

    folder: Path  # runs/NAME/eval
    digest: str  # of what eval was asked for
    cards: tuple[Scorecard, ...]
    not_run: dict[str, str]  # suite -> why it could not be run
    partial: bool  # stopped by hand: some students or suites are missing
    notes: tuple[str, ...] = ()  # who was not scored, and why
    sheets: dict[tuple[str, str], object] = field(default_factory=dict, compare=False, repr=False)  # read scores

    def card(self, suite: str, student: str, prompting: str) -> Scorecard | None:
        """The scorecard of one student (Cell.name) on one suite, or None."""
        wanted = (suite, student, prompting)
        return next((c for c in self.cards if (c.suite, c.student, c.prompting) == wanted), None)

    def scores(self, card: Scorecard) -> tuple[Score, ...]:
        """The per-item scores of a card, in stored order. Raises UsageError for missing or doubled ones."""
        path = self.folder / "scores" / f"{card.key}.jsonl"
        with remade_by(f"make eval RUN={self.folder.parent.name}"):
            scores = tuple(score for _, score in read_jsonl(path, Score))
        if len(scores) != card.items or len({score.item for score in scores}) != card.items:
            raise UsageError(
                f"{path}: {len(scores)} scores of {len({s.item for s in scores})} different items, where the"
                f" scorecard of {card.student} on {card.suite} counts {card.items};"
                f" make eval RUN={self.folder.parent.name} fills it from what is cached"
            )
        if card.scores and scores_digest(scores) != card.scores:
            raise UsageError(
                f"{path}: these are not the scores that the scorecard of {card.student} on {card.suite} was made from:"
                f" the file was edited or damaged; make eval RUN={self.folder.parent.name} makes it again"
            )
        return scores


def resolve_student(name: str, names: Iterable[str]) -> str:
    """The one of `names` that a person means by `name`: itself, or its beginning at any dot, without regard to case.

    `filtered.16` means `tiny.filtered.16.s0` where no other name has that part; a number is never cut (`1` is not
    `16`). Where one of the names that fit is the beginning of all the others (`tiny.filtered.16`, which stands for
    its random seeds), it is meant. Raises UsageError with the candidates for a name that fits none or several.
    """
    known = list(dict.fromkeys(names))
    if name in known:
        return name
    part = re.compile(rf"(?:^|\.){re.escape(name)}(?!(?<=\d)\d)", re.IGNORECASE)
    fitting = sorted((other for other in known if name and part.search(other)), key=len)
    if fitting and all(other.startswith(f"{fitting[0]}.") for other in fitting[1:]):
        return fitting[0]
    if fitting:
        raise UsageError(f"the student {name!r} may be any of {', '.join(sorted(fitting))}: write more of its name")
    listed = ", ".join(known) or "none"
    raise UsageError(f"there is no student {name!r}{nearest(name, known)}; there are: {listed}")


def load_cells(run_folder: Path) -> dict[str, Any]:
    """What train wrote: {"cells": [...], "notes": ...}. Raises UsageError naming the file when it is not that."""
    path = run_folder / "train" / "cells.json"
    if not path.is_file():
        raise UsageError(f"{path} is not there: train first (make train RUN={run_folder.name})")
    with remade_by(f"make train RUN={run_folder.name}"):
        found = read_json(path)
    cells = found.get("cells") if isinstance(found, dict) else None
    if not isinstance(cells, list) or not all(isinstance(cell, dict) and "key" in cell for cell in cells):
        raise UsageError(f"{path}: not what train writes; make train RUN={run_folder.name}")
    return dict(found)


def load_results(run_folder: Path) -> Results:
    """Read the scorecards under `runs/NAME`. Raises UsageError naming the file when they cannot be."""
    folder = run_folder / "eval"
    path = folder / "scorecards.json"
    if not path.is_file():
        raise UsageError(f"{path}: there are no stored scores; make eval RUN={run_folder.name}")
    with remade_by(f"make eval RUN={run_folder.name}"):
        stored: Any = read_json(path)
    try:
        cards = tuple(Scorecard.model_validate(card) for card in stored["cards"])
        return Results(
            folder,
            str(stored["digest"]),
            cards,
            dict(stored.get("not_run", {})),
            bool(stored.get("partial")),
            tuple(stored.get("notes", ())),
        )
    except (KeyError, TypeError, ValidationError) as error:
        what = " ".join(str(error).split())[:200]
        raise UsageError(
            f"{path}: not the scorecards of this version ({what}); make eval RUN={run_folder.name}"
        ) from error
