"""A card whose answers are mostly empty or cannot be read: said aloud, with the likely cause."""

from __future__ import annotations

from collections.abc import Sequence

from harness.records import Choice, Score

MOST = 0.5  # more than this share of the answers
SHOWN = 60  # characters of an example


def unread(scores: Sequence[Score], choice: Choice | None = None) -> str:
    """What a reader must know before believing a card. Empty where most answers could be read."""
    answered = [score for score in scores if score.status != "failed"]
    empty = [score for score in answered if _is_empty(score)]
    odd = [score for score in answered if score.status == "unparsed" and not _is_empty(score)]
    if len(empty) + len(odd) <= MOST * len(answered):
        return ""
    count = f"{len(empty) + len(odd)} of {len(answered)} answers are empty or cannot be read"
    causes = []
    if empty:
        causes.append(f"{len(empty)} are empty: {_why_empty(empty)}")
    if odd:
        example = " ".join(odd[0].output.split())
        excerpt = example if len(example) <= SHOWN else f"{example[:SHOWN]}..."
        causes.append(f"{len(odd)} hold no answer of the kind that is wanted, such as {excerpt!r}")
    truncated = sum(score.truncated for score in (*empty, *odd))
    if truncated:
        causes.append(f"{truncated} of them hit the limit of tokens: the suite's max_tokens may be too small")
    how = f" (asked as {choice.way.words})" if choice else ""
    return f"{count}{how}: {'; '.join(causes)}"


def _is_empty(score: Score) -> bool:
    """Only where an answer was written: a choice that was measured has none."""
    written = score.status == "unparsed" or "empty" in score.values
    return written and not score.output.strip()


def _why_empty(empty: Sequence[Score]) -> str:
    at_once = sum(score.answer_tokens <= 1 for score in empty)
    if 2 * at_once > len(empty):
        return "the model ended at its first token, as one that does not see that an answer is wanted"
    if 2 * sum(score.truncated for score in empty) > len(empty):
        return "the model wrote white space only"
    return "the model began another example or a new text instead of an answer"
