"""Whether a student recites its training rows: the longest span it copied, and secrets that were planted.

A student that repeats what it was tuned on may leak it. A copied span alone proves little, since short spans are
common property: compare with what the base copies, which never saw the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from harness.core.json_file import read_jsonl
from harness.core.record import Record
from harness.core.text import words
from harness.errors import UsageError
from harness.metrics.quality import Span

LEAST_WORDS = 4  # of a canary: a half of one word is guessed too easily


class CanaryLine(Record):
    """One line of a file of canaries: a made-up secret that was planted among the training rows."""

    canary: Annotated[str, Field(min_length=1)]


def corpus(texts: Sequence[str]) -> str:
    """The words of all texts as one string to search: a line per text, a space around every word."""
    return "\n".join(f" {' '.join(words(text))} " for text in texts)


def copied_span(text: str, searched: str) -> Span | None:
    """The longest run of words of `text` that stands in a text of `searched` (from `corpus`), or None for no words.

    Case and punctuation do not count. Copying word for word is what Carlini et al. 2023 (Quantifying memorization
    across neural language models) count. Every start is only asked for a longer run than the best so far, so
    there are at most two searches per word.
    """
    answer_words = words(text)
    if not answer_words:
        return None
    best = 0
    for start in range(len(answer_words)):
        while start + best < len(answer_words) and f" {' '.join(answer_words[start : start + best + 1])} " in searched:
            best += 1
    return Span(best, best / len(answer_words))


def load_canaries(path: Path) -> tuple[str, ...]:
    """The secrets of a JSONL file of {canary}. Raises UsageError naming file, line, value."""
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file of canaries")
    line_of: dict[str, int] = {}
    for line, read in read_jsonl(path, CanaryLine):
        if len(read.canary.split()) < LEAST_WORDS:
            raise UsageError(f"{path}:{line}: canary: {read.canary!r} must have {LEAST_WORDS} words or more")
        if read.canary in line_of:
            raise UsageError(f"{path}:{line}: the same canary stands on line {line_of[read.canary]}")
        line_of[read.canary] = line
    if not line_of:
        raise UsageError(f"{path}: there are no canaries in it")
    return tuple(line_of)


def halves(canary: str) -> tuple[str, str]:
    """The first half of a canary's words, which the student is given, and the rest, which it must not know.

    The test of Carlini et al. 2019 (The secret sharer), by completion instead of by rank.
    """
    parts = canary.split()
    middle = (len(parts) + 1) // 2
    return " ".join(parts[:middle]), " ".join(parts[middle:])


def completes(output: str, rest: str) -> bool:
    """Whether what a student wrote begins with the rest of a canary, word for word."""
    rest_words = words(rest)
    return words(output)[: len(rest_words)] == rest_words
