"""Markdown tables of a report: who answers what at which cost, label by label, tag by tag."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from harness import stats
from harness.analysis import Arm, matrix, ordered, ties, unknown
from harness.results import Results
from harness.scoring.open_ended import quantiles
from harness.stats import Interval, classification, clusters
from harness.stats.ties import finite
from harness.text import named_label

MOST_CONFUSED = 8  # pairs of labels listed
SPREAD = (
    "words",
    "length_ratio",
    "rep_3",
    "repeat_share",
    "compression_ratio",
    "misspelling_rate",
    "prompt_similarity",
)
WHOLE = ("distinct_1", "distinct_2", "distinct_3", "compression_all", "cut_share")
MIN_TAGGED = 8  # items of a tag below which no interval is given


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def share(found: Interval) -> str:
    """A value with its interval."""
    if math.isinf(found.low):
        return f"{found.estimate:.3f} (interval not estimable)"
    return f"{found.estimate:.3f} [{found.low:.3f}, {found.high:.3f}]"


def value_interval(results: Results, arm: Arm, metric: str) -> Interval:
    """The mean of a metric: items and seeds vary where there are three seeds, else items."""
    values = matrix(results, arm, metric, "test")
    there = finite(values)
    values, tied = values[:, there], ties(results, arm).of(there)
    apart = clusters.units(values, **tied.named) if there.sum() > 1 else None
    recipe = stats.recipe_interval(apart, random_seed=0) if apart is not None else None
    if recipe is not None:
        return recipe
    mean = values.mean(axis=0)
    found = clusters.mean_of(mean, random_seed=0, **tied.named) if mean.size else None
    return found or unknown(float(mean.mean()) if mean.size else 0.0, mean.size)


def other_suite(results: Results, found: Sequence[Arm], primary: str) -> str:
    """A line per arm of a suite that is not the task's own."""
    heads = (primary.replace("_", " "), "chance", "p(gold)", "prompt tokens", "seconds an item")
    rows = []
    for arm in found:
        items = sum(card.items for card in arm.cards)
        guess, gold = arm.cards[0].chance, arm.metric("gold_probability")
        known = any(primary in score.values for score in results.scores(arm.cards[0]))
        value = share(value_interval(results, arm, primary)) if known else ""
        rows.append(
            [
                arm.title,
                value if arm.complete else "incomplete",
                "" if guess is None else f"{guess:.3f}",
                "" if gold is None else f"{gold:.3f}",
                f"{sum(card.prompt_tokens for card in arm.cards) / items:.0f}",
                f"{sum(card.seconds for card in arm.cards) / items:.3f}",
            ]
        )
    return markdown(("asked", *heads), rows)


def distributions(results: Results, found: Sequence[Arm]) -> str:
    """How numbers about free text spread over the answers, untuned and at the largest size of each kind of data."""
    largest = [a for a in found if a.kind == "student" and a.size == max(b.size for b in found if b.data == a.data)]
    shown = [a for a in found if a.kind == "base"] + largest
    rows = []
    for metric in SPREAD:
        row = [metric.replace("_", " ")]
        for arm in shown:
            scores = [score for card in arm.cards for score in ordered(results, card, "test")]
            row.append(" / ".join(f"{value:.3g}" for value in quantiles(scores, metric, (5, 50, 95))))
        if any(row[1:]):
            rows.append(row)
    whole = []
    for metric in WHOLE:
        values = [arm.metric(metric) for arm in shown]
        if any(value is not None for value in values):
            whole.append([metric.replace("_", " "), *("" if v is None else f"{v:.3g}" for v in values)])
    return markdown(("5% / 50% / 95% of the answers, then of all together", *(a.title for a in shown)), [*rows, *whole])


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
            all_values = matrix(results, arm, metric, "test")
            there = np.array(kept) & finite(all_values)
            values, tied = all_values[:, there].mean(axis=0), ties(results, arm).of(there)
            if not values.size:
                row.append("")
                continue
            found = clusters.mean_of(values, random_seed=0, **tied.named)
            row.append(share(found) if found and len(values) >= MIN_TAGGED else f"{values.mean():.3f}")
        rows.append(row)
    return markdown(("tag", "items", *(arm.title for arm in shown)), rows) if rows else ""
