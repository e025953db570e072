"""What each metric is called, what it means, and how its values are said. Imports nothing of ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Words:
    """A metric in words."""

    title: str
    meaning: str  # one line
    kind: Literal["share", "fraction", "number"] = "share"  # of items, in percent; between 0 and 1; any number
    verb: str = ""  # what a share of the items is: "right"


WORDS = {
    "accuracy": Words("accuracy", "share of items answered right", verb="right"),
    "choice_accuracy": Words(
        "accuracy by log-likelihood", "share of items whose likeliest choice is right", verb="right (by log-likelihood)"
    ),
    "acc": Words("accuracy", "share of items whose likeliest choice is right", verb="right"),
    "acc_norm": Words("accuracy, per byte", "the same, log-likelihood divided by length", verb="right"),
    "preferred": Words(
        "preferred", "share of answers a judge prefers to the reference", verb="preferred to the reference"
    ),
    "preference": Words("preference", "mean preference of the judge over both orders"),
    "agreement": Words("agreement", "share of items on which the judge says the same in both orders"),
    "macro_f1": Words("macro-F1", "mean over labels of F1", kind="fraction"),
    "token_f1": Words("token F1", "words shared with the best right answer, as F1", kind="fraction"),
    "rouge_l": Words("ROUGE-L", "longest common run of words with the best right answer, as F1", kind="fraction"),
    "exact": Words("exact match", "share of answers equal to a right one", verb="exactly right"),
    "normalised": Words("normalised match", "share equal but for case, marks and articles", verb="right"),
    "contains": Words("contains", "share of answers in which a right one stands", verb="right"),
    "valid": Words("valid JSON", "share of answers that fit the schema", verb="valid"),
    "abstained": Words("abstained", "share of answers that say it does not know", verb="abstained"),
    "wrong": Words("wrong", "share of answers that are neither right nor abstain", verb="wrong"),
    "made_up": Words("made up", "share of unanswerable questions that got an answer", verb="made up"),
    "gold_probability": Words("p(gold)", "probability given to the right choice, of all choices", kind="fraction"),
    "gold_nll": Words("loss of the gold answer", "nats; lower is likelier", kind="number"),
    "kl_from_base": Words("distance from the base", "KL divergence per token on the base's own answers", kind="number"),
    "rep_3": Words("repeated three-word runs", "share of an answer's three-word runs that repeat earlier ones"),
    "repeat_share": Words("repetition", "share of an answer's words inside its longest repeated run"),
    "loop": Words("loops", "share of answers that end in a loop"),
    "stop_rate": Words("stopped", "share of answers that end by themselves before the limit of tokens"),
    "empty": Words("empty", "share of answers that hold nothing"),
    "words": Words("words", "words of an answer", kind="number"),
    "length_ratio": Words("length ratio", "words of an answer over those of its reference", kind="number"),
    "label_collapse": Words("answers with a label", "share of open questions answered with nothing but a label"),
    "off_topic": Words("off topic", "share of answers whose meaning is far from the question's"),
    "prompt_similarity": Words(
        "likeness to the question", "cosine of meaning between answer and question", kind="number"
    ),
    "reference_similarity": Words("likeness to the reference", "cosine of meaning to a good answer", kind="number"),
    "consistency": Words("consistency", "likeness of answers to one question in other words", kind="number"),
    "repeat_consistency": Words("consistency of repeats", "likeness of answers drawn again", kind="number"),
    "misspelling_rate": Words("misspelling", "share of an answer's words that are in no dictionary"),
    "refusal": Words("refusals", "share of answers that refuse"),
    "copied_share": Words("copied", "share of an answer's words in its longest run copied from the training rows"),
    "flagged": Words("flagged", "share of answers that moderation flags"),
    "compression_ratio": Words(
        "compression", "how well an answer compresses; higher is more repetitive", kind="number"
    ),
}


def words_of(metric: str) -> Words:
    """A metric's words; one that nobody described is called by its name."""
    return WORDS.get(metric, Words(metric.replace("_", " "), "", kind="number"))


def title(metric: str) -> str:
    """What tables and axes call it."""
    return words_of(metric).title


def value(metric: str, mean: float, items: int | None = None) -> str:
    """A mean in words: "64.0% of 342 test items right", "token F1 0.412 over 60 test items", "62.0%"."""
    words = words_of(metric)
    if words.kind != "share":
        return f"{words.title} {mean:.3f} over {items} test items" if items is not None else f"{mean:.3f}"
    if items is None:
        return f"{100 * mean:.1f}%"
    if words.verb:
        return f"{100 * mean:.1f}% of {items} test items {words.verb}"
    return f"{words.title} {100 * mean:.1f}% over {items} test items"


def change(metric: str, estimate: float, low: float, high: float) -> str:
    """A difference with its interval, in points for a share."""
    if words_of(metric).kind == "share":
        return f"{100 * estimate:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"{estimate:+.3f} [{low:+.3f}, {high:+.3f}]"


def amount(metric: str, size: float) -> str:
    """How large a change is."""
    return f"{100 * size:.1f} points" if words_of(metric).kind == "share" else f"{size:.3f}"


def bounded(metric: str) -> bool:
    """Whether values lie between 0 and 1."""
    return words_of(metric).kind != "number"
