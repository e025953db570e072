"""What the page knows of items: each one's question and gold answer, and what every candidate answered.

Columns, not records: a value stands once for all candidates, so that 500 items of 12 candidates take some 60 kB.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.eval.results import Results
from harness.records import Item, Score
from harness.report.analysis import Arm, arms
from harness.report.causes import causes, given_label, is_wrong
from harness.report.page.written import conversation, cut
from harness.suites.suite import Suite
from harness.suites.summary import LOWER_IS_BETTER, RATES, value_of


def suite_items(results: Results, suite: Suite, compared: Sequence[Arm] = ()) -> dict[str, Any] | None:
    """The items of one suite with all candidates' answers, as the page's script takes them. None without scores.

    `compared`: the two arms that are shown first. Without them the first candidate and the last student.
    """
    suite_arms = arms(results, suite.name)
    cards = [(arm, card) for arm in suite_arms for card in arm.cards]
    if not cards:
        return None
    known = {item.id: item for item in suite.items}
    scores = {card.key: {score.item: score for score in results.scores(card)} for _, card in cards}
    ids = list(dict.fromkeys(item for _, card in cards for item in scores[card.key]))
    first = {item: next(by_item[item] for by_item in scores.values() if item in by_item) for item in ids}
    students = [place for place, (arm, _) in enumerate(cards) if arm.kind == "student"]
    first_shown = [0, students[-1] if students else len(cards) - 1]
    if compared:
        first_shown = [next(place for place, (arm, _) in enumerate(cards) if arm == one) for one in compared]
    return {
        "suite": suite.name,
        "compared": first_shown,
        "rate": suite.primary in RATES,
        "lower": suite.primary in LOWER_IS_BETTER,
        "items": {
            "id": ids,
            "split": [first[item].split for item in ids],
            "text": [_question(known.get(item)) for item in ids],
            "gold": [_gold(known.get(item), first[item]) for item in ids],
            "tags": [list(first[item].tags) for item in ids],
        },
        "candidates": [
            {
                "name": card.student + ("" if card.prompting in ("zero_shot", "trained") else f"@{card.prompting}"),
                "title": f"{arm.title}, random seed {card.cell.random_seed}"
                if len(arm.cards) > 1 and card.cell
                else arm.title,
                **_answers([(known.get(item), scores[card.key].get(item)) for item in ids], suite),
            }
            for arm, card in cards
        ],
    }


def _answers(answered: list[tuple[Item | None, Score | None]], suite: Suite) -> dict[str, Any]:
    """A candidate's columns: what it answered, its value of the metric, and what went wrong. None: it has no score."""
    scores = [score for _, score in answered]
    return {
        "output": [cut(score.output or score.top_choice) if score else "" for score in scores],
        "value": [_value(score, suite.primary) for score in scores],
        "cause": [_cause(score, item, suite) if score else "not asked" for item, score in answered],
    }


def _value(score: Score | None, metric: str) -> float | None:
    if score is None or score.status == "failed" or (metric not in score.values and metric not in RATES):
        return None
    return round(float(value_of(score, metric)), 4)


def _cause(score: Score, item: Item | None, suite: Suite) -> str:
    """Why an answer is wrong, the first of its causes, with what it was taken for. Empty for one that is right."""
    if score.status == "failed":
        return f"failed: {score.error}"
    if not is_wrong(score, item, suite):
        return ""
    cause = causes(score, item, suite)[0]
    labels = given_label(score, suite) if cause == "confused labels" else None
    return f"{cause}: {cut(labels[0])} taken for {cut(labels[1])}" if labels else cause


def _question(item: Item | None) -> str:
    """All that an item asks, with its choices where each item has its own. Empty where its text is not at hand."""
    if item is None:
        return ""
    return cut(conversation(item.turns, item.text))


def _gold(item: Item | None, score: Score) -> str:
    if item is not None and item.answers:
        return cut(" | ".join(item.answers))
    return score.gold
