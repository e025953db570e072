"""Markdown tables of a report: who answers what at which cost, label by label, tag by tag."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis import Arm, matrix, ordered, units
from harness.results import Results
from harness.scoring.quality import named_label
from harness.stats import Interval, classification, clusters

MOST_CONFUSED = 8  # pairs of labels listed
MIN_TAGGED = 8  # items of a tag below which no interval is given


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def share(found: Interval) -> str:
    """A rate with its interval."""
    return f"{found.estimate:.3f} [{found.low:.3f}, {found.high:.3f}]"


def costs(found: Sequence[Arm]) -> str:
    """What an answer takes, for each arm: prompt tokens, tokens written, seconds, tokens a second."""
    rows = []
    for arm in found:
        items = sum(card.items for card in arm.cards)
        seconds = sum(card.seconds for card in arm.cards)
        read, written = sum(card.prompt_tokens for card in arm.cards), sum(card.answer_tokens for card in arm.cards)
        speed = f"{(read + written) / seconds:.0f}" if seconds and read else ""
        counts = [f"{read / items:.0f}" if read else "", f"{written / items:.1f}" if read else ""]
        rows.append([arm.title, *counts, f"{seconds / items:.3f}", speed])
    return markdown(("asked", "prompt tokens", "tokens written", "seconds an answer", "tokens/s"), rows)


def by_label(results: Results, arm: Arm, labels: Sequence[str]) -> str:
    """Precision, recall and F1 of every label on test items, over all random seeds, and the commonest confusions."""
    scores = [score for card in arm.cards for score in ordered(results, card, "test")]
    said = [named_label(score.output, labels) or "" for score in scores]
    found = classification.per_label([score.gold for score in scores], said, labels)
    rows = [
        [label.label, str(label.gold), f"{label.precision:.3f}", f"{label.recall:.3f}", f"{label.f1:.3f}"]
        for label in found.labels
    ]
    text = markdown(("label", "items", "precision", "recall", "F1"), rows)
    confused = [f"{gold} as {taken or 'no label'} {n}" for gold, taken, n in found.confused()[:MOST_CONFUSED]]
    if not confused:
        return text
    names = [label.label for label in found.labels]
    matrix_rows = [[name, *map(str, row)] for name, row in zip(names, found.confusion.tolist(), strict=True)]
    table = markdown(("is \\ taken for", *names, "no label"), matrix_rows)
    return f"{text}\n\nMost often confused: {', '.join(confused)}.\n\n{table}"


def by_tag(results: Results, shown: Sequence[Arm], metric: str) -> str:
    """A metric for each tag of the test items, one column an arm; empty where no item has a tag."""
    if not shown:
        return ""
    scores = ordered(results, shown[0].cards[0], "test")
    tags = sorted({tag for score in scores for tag in score.tags})
    rows = []
    for tag in tags:
        kept = [tag in score.tags for score in scores]
        row = [tag, str(sum(kept))]
        for arm in shown:
            values = matrix(results, arm, metric, "test")[:, kept].mean(axis=0)
            tied = units(results, arm).of(kept)
            found = clusters.mean_of(values, groups=tied.groups, strata=tied.strata, random_seed=0)
            row.append(share(found) if found and len(values) >= MIN_TAGGED else f"{values.mean():.3f}")
        rows.append(row)
    return markdown(("tag", "items", *(arm.title for arm in shown)), rows) if rows else ""
