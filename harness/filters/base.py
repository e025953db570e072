"""What a filter may look at besides the rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from harness.records import Example

On = Annotated[str, Field(min_length=1)]  # input, answer, both, or the name of a field of the task
PARTS = ("input", "answer", "both")


def part_of(example: Example, on: str) -> str:
    """The part of an example that a filter looks at: all of its input, its answer, both, or one field."""
    if on == "answer":
        return example.answer
    if on == "both":
        return f"{example.text}\n\n{example.answer}"
    return example.text if on == "input" else example.fields[on]


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
    seeds: tuple[Example, ...]
    labels: Mapping[str, str]  # label -> description
    protected: tuple[Protected, ...]
    teacher: str  # name@revision, for the requests of a judge
