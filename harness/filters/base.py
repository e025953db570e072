"""What a filter may look at besides the rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.records import Seed


@dataclass(frozen=True)
class Protected:
    """A text of a suite that no training row may contain."""

    suite: str
    item: str  # the item's id
    text: str


@dataclass(frozen=True)
class Context:
    """Everything a filter may need; filters read, never write."""

    root: Path  # the project; paths in filters are relative to it
    seeds: tuple[Seed, ...]
    labels: Mapping[str, str]  # label -> description
    protected: tuple[Protected, ...]
    teacher: str  # name@revision, for the requests of a judge
