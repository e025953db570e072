"""Why an answer is wrong, as far as stored scores tell. An answer may have several causes, in the order of CAUSES:

empty            it says nothing
repeated         a third of its three-word runs repeat earlier ones, or it loops
truncated        it ran into the limit of tokens
misspelt         a tenth of its words are in no dictionary, or it nearly spells a label
off-topic        its meaning is far from what was asked
confused labels  it gives another label, or another of the choices that all items share, counted by pair
unparsed         it gives no label, number or form that was asked for
other            none of these
"""

from __future__ import annotations

import difflib

from harness.core.text import named_label
from harness.metrics.quality import loop_length, rep_n
from harness.metrics.table import metric_of
from harness.records import Item, Score
from harness.suites.open_ended import CANARY
from harness.suites.suite import Suite

CAUSES = ("empty", "repeated", "truncated", "misspelt", "off-topic", "confused labels", "unparsed", "other")
REPEATED = 1 / 3  # share of repeated three-word runs
MISSPELT = 0.1  # share of words
HALF = 0.5  # of a share: from here on an answer is right
ALIKE = 0.8  # of difflib: "bateries" is "batteries"


def is_wrong(score: Score, item: Item | None, suite: Suite) -> bool:
    """Whether an answered item is not right: empty, unparsed, or below one half of the suite's primary metric.

    Where that is no share, or a lower one is better, accuracy counts. Without a right answer, an item is
    wrong if its text has a fault.
    """
    if score.status == "failed" or CANARY in score.tags:
        return False
    if score.status == "unparsed" or _says_nothing(score, suite):
        return True
    metric = metric_of(suite.primary)
    primary = (metric.name,) if metric.bounded and metric.better == "higher" else ()
    rated = next((name for name in (*primary, "accuracy", "preferred") if name in score.values), None)
    return score.values[rated] < HALF if rated else causes(score, item, suite) != ("other",)


def _says_nothing(score: Score, suite: Suite) -> bool:
    """Whether a written answer is empty. Choices are picked by log-likelihood, without a text."""
    return suite.spec.max_tokens is not None and score.status != "failed" and not score.output.strip()


def causes(score: Score, item: Item | None, suite: Suite) -> tuple[str, ...]:
    """Every cause that applies, in the order of CAUSES, or ("other",)."""
    values = score.values
    share = values["rep_3"] if "rep_3" in values else rep_n(score.output, 3) or 0.0
    applies = {
        "empty": _says_nothing(score, suite),
        "repeated": share >= REPEATED or loop_length(score.output) is not None,
        "truncated": score.truncated,
        "misspelt": values.get("misspelling_rate", 0.0) >= MISSPELT or _nearly_a_label(score, item, suite),
        "off-topic": _says(score, "off_topic"),
        "confused labels": given_label(score, suite) is not None,
        "unparsed": score.status == "unparsed" and not _says_nothing(score, suite),
    }
    return tuple(cause for cause in CAUSES if applies.get(cause)) or ("other",)


def given_label(score: Score, suite: Suite) -> tuple[str, str] | None:
    """(gold, answered) where the answer is another label, or another of the choices that all items share.

    An open instruction that is answered with nothing but a label counts as confused with that label.
    """
    if "label_collapse" in suite.spec.item_metrics:
        return ("(free text)", score.output.strip()) if _says(score, "label_collapse") else None
    answer = score.top_choice
    if suite.choices:
        answer = named_label(score.output, suite.choices) or ""
    elif any(item.choices != suite.items[0].choices for item in suite.items):
        return None  # every question has its own choices: there is no pair to count
    return (score.gold, answer) if answer and answer != score.gold else None


def _says(score: Score, name: str) -> bool:
    """Whether a yes-or-no value was stored and is yes."""
    return score.values.get(name, 0.0) >= HALF


def _nearly_a_label(score: Score, item: Item | None, suite: Suite) -> bool:
    if score.status != "unparsed" or not suite.choices or item is None:
        return False
    labels = [label.casefold() for label in item.choices]
    return any(difflib.get_close_matches(word, labels, n=1, cutoff=ALIKE) for word in score.output.casefold().split())
