"""The one table of metrics: which way each is good, what it measures, how a report calls it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Literal

SHORT, PHRASE = 3, 10  # words of a typical reference answer; the reason is in `by_length`


@dataclass(frozen=True)
class Metric:
    """One number about an answer.

    A rate is the share of items that something holds for, and an item without a value counts as 0. A share is a number
    from 0 to 1 of an item that has one. An amount has no upper end, or a unit of its own.
    """

    name: str
    title: str  # for a heading
    kind: Literal["rate", "share", "amount"] = "share"
    better: Literal["higher", "lower", "neither"] = "higher"


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "right", "rate"),
        Metric("choice_accuracy", "right by log-likelihood", "rate"),
        Metric("acc", "likeliest choice right", "rate"),
        Metric("acc_norm", "likeliest choice per byte right", "rate"),
        Metric("gold_probability", "p(gold)"),
        Metric("gold_nll", "loss of the gold answer", "amount", "lower"),
        Metric("exact", "exact match"),
        Metric("normalised", "normalised match"),
        Metric("contains", "contains the answer"),
        Metric("token_f1", "token F1"),
        Metric("rouge_l", "ROUGE-L"),
        Metric("valid", "valid by the schema"),
        Metric("preferred", "preferred to the reference"),
        Metric("preference", "judge's preference"),
        Metric("agreement", "judge agrees with itself"),
        Metric("abstained", "abstained", better="neither"),
        Metric("wrong", "wrong", better="lower"),
        Metric("made_up", "made up", better="lower"),
        Metric("empty", "empty", better="lower"),
        Metric("stop_rate", "stopped"),
        Metric("words", "words", "amount", "neither"),
        Metric("length_ratio", "words per word of the reference", "amount", "neither"),
        Metric("rep_2", "repeated word pairs", better="lower"),
        Metric("rep_3", "repeated runs of 3 words", better="lower"),
        Metric("rep_4", "repeated runs of 4 words", better="lower"),
        Metric("repeat_words", "longest repeated run", "amount", "lower"),
        Metric("repeat_share", "longest repeated run, share", better="lower"),
        Metric("loop", "ends in a loop", better="lower"),
        Metric("loop_length", "words of the loop", "amount", "lower"),
        Metric("compression_ratio", "compression ratio", "amount", "lower"),
        Metric("label_collapse", "nothing but a label", better="lower"),
        Metric("misspelling_rate", "misspelt words", better="lower"),
        Metric("refusal", "declined", better="lower"),
        Metric("copied_words", "longest run copied from the rows", "amount", "lower"),
        Metric("copied_share", "copied from the rows", better="lower"),
        Metric("flagged", "flagged", better="lower"),
        Metric("off_topic", "off topic", better="lower"),
        Metric("prompt_similarity", "likeness to the prompt", "amount"),
        Metric("reference_similarity", "likeness to the reference", "amount"),
        Metric("consistency", "likeness over wordings", "amount"),
        Metric("repeat_consistency", "likeness over repeats", "amount"),
        Metric("kl_from_base", "divergence from the base", "amount", "neither"),
        Metric("canary", "secret told", better="lower"),
    )
}


def metric_of(name: str) -> Metric:
    """What is known of a metric. A field of JSON answers is a share; one in no table an amount, and more is better."""
    kind: Literal["share", "amount"] = "share" if name.startswith("field_") else "amount"
    return METRICS.get(name) or Metric(name, name.replace("_", " "), kind)


def by_length(references: Iterable[str]) -> str:
    """The metric that sums up written answers, by the median length of the references in words.

    Up to 3 words `accuracy`: one wrong word makes another answer of it. Up to 10 `token_f1`: of a phrase most words
    may be right. Longer ones `rouge_l`: nobody writes a sentence twice, so exact matches are none (one word of 48
    replaced: exact 0, token F1 0.98, ROUGE-L 0.98), and token F1 sees no order (both halves of 24 words swapped: token
    F1 0.99, ROUGE-L 0.55).
    """
    lengths = [len(reference.split()) for reference in references]
    typical = median(lengths) if lengths else 0
    return "accuracy" if typical <= SHORT else "token_f1" if typical <= PHRASE else "rouge_l"
