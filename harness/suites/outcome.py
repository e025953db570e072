"""What scoring a suite gives back."""

from __future__ import annotations

from dataclasses import dataclass

from harness.records import Choice, Score


@dataclass(frozen=True)
class Outcome:
    """What a suite gave for one student: a score per item, and what only the scorer knows about the suite."""

    scores: tuple[Score, ...]
    chance: float | None = None  # what guessing gets
    notes: tuple[str, ...] = ()  # what a reader must know of how it was asked
    choice: Choice | None = None  # of the ways to ask an untuned model
