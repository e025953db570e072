"""The one table of metrics: which way each is good, what it measures, how a report calls it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Literal

from harness.core.text import about_words

SHORT, PHRASE = 3, 10  # words of a typical reference answer; the reason is in `by_length`


@dataclass(frozen=True)
class Metric:
    """One number about an answer.

    A rate is the share of items that something holds for, and an item without a value counts as 0. A share is a number
    from 0 to 1 of an item that has one. A cosine lies between -1 and 1. An amount is 0 or more, in a unit of its own.
    """

    name: str
    title: str  # for a heading
    kind: Literal["rate", "share", "cosine", "amount"] = "share"
    better: Literal["higher", "lower", "neither"] = "higher"
    meaning: str = ""  # one line for who has never heard of it
    verb: str = ""  # what so many percent of the items are, where an item is or is not: "right"

    @property
    def bounded(self) -> bool:
        """Whether values lie between 0 and 1."""
        return self.kind in ("rate", "share")

    @property
    def span(self) -> tuple[float, float]:
        """The least and the greatest value that there can be."""
        return (-1.0 if self.kind == "cosine" else 0.0), (math.inf if self.kind == "amount" else 1.0)


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "accuracy", "rate", meaning="share of items answered right", verb="right"),
        Metric(
            "choice_accuracy",
            "accuracy by log-likelihood",
            "rate",
            meaning="share of items whose likeliest choice is right",
            verb="right",
        ),
        Metric("acc", "accuracy", "rate", meaning="share of items whose likeliest choice is right", verb="right"),
        Metric(
            "acc_norm", "accuracy per byte", "rate", meaning="the same, log-likelihood divided by length", verb="right"
        ),
        Metric("gold_probability", "p(gold)", meaning="probability given to the right choice, of all choices"),
        Metric("macro_f1", "macro-F1", meaning="mean over labels of F1"),
        Metric(
            "gold_nll", "loss of the gold answer", "amount", "lower", meaning="nats: how unlikely the right answer was"
        ),
        Metric("exact", "exact match", meaning="share of answers equal to a right one", verb="exactly right"),
        Metric("normalised", "normalised match", meaning="share equal but for case, marks and articles", verb="right"),
        Metric("contains", "contains the answer", meaning="share of answers in which a right one stands", verb="right"),
        Metric("token_f1", "token F1", meaning="words shared with the best right answer, as F1"),
        Metric("rouge_l", "ROUGE-L", meaning="longest common subsequence of words with the best right answer, as F1"),
        Metric("valid", "valid by the schema", meaning="share of answers that fit the schema", verb="valid"),
        Metric(
            "preferred",
            "preferred to the reference",
            meaning="share of answers a judge prefers to the reference",
            verb="preferred to the reference",
        ),
        Metric("preference", "judge's preference", meaning="mean preference of the judge over both orders"),
        Metric(
            "agreement",
            "judge agrees with itself",
            meaning="share of items on which the judge says the same in both orders",
        ),
        Metric(
            "abstained",
            "abstained",
            better="neither",
            meaning="share of answers that say it is not known",
            verb="abstained on",
        ),
        Metric(
            "wrong",
            "wrong",
            better="lower",
            meaning="share of answers that neither are right nor abstain",
            verb="wrong",
        ),
        Metric(
            "made_up",
            "made up",
            better="lower",
            meaning="share of unanswerable questions that got an answer",
            verb="made up",
        ),
        Metric("empty", "empty", better="lower", meaning="share of answers that hold nothing", verb="empty"),
        Metric("stop_rate", "stopped", meaning="share of answers that end by themselves, before the limit of tokens"),
        Metric("cut_share", "truncated", better="lower", meaning="share of answers that hit the limit of tokens"),
        Metric("words", "words", "amount", "neither", meaning="words of an answer"),
        Metric(
            "length_ratio",
            "words per word of the reference",
            "amount",
            "neither",
            meaning="words of an answer over those of its reference",
        ),
        Metric("rep_2", "repeated word pairs", better="lower"),
        Metric(
            "rep_3",
            "repeated runs of 3 words",
            better="lower",
            meaning="share of an answer's runs of three words that repeat earlier ones",
        ),
        Metric("rep_4", "repeated runs of 4 words", better="lower"),
        Metric("repeat_words", "longest repeated run", "amount", "lower"),
        Metric(
            "repeat_share",
            "repetition",
            better="lower",
            meaning="share of an answer's words in its longest repeated run",
        ),
        Metric(
            "loop",
            "ends in a loop",
            better="lower",
            meaning="share of answers that end saying the same again and again",
        ),
        Metric("loop_length", "words of the loop", "amount", "lower"),
        Metric(
            "compression_ratio",
            "compression ratio",
            "amount",
            "lower",
            meaning="how much an answer can be compressed: more is more repetitive",
        ),
        Metric(
            "label_collapse",
            "nothing but a label",
            better="lower",
            meaning="share of open questions answered with nothing but a label",
        ),
        Metric(
            "misspelling_rate",
            "misspelt words",
            better="lower",
            meaning="share of an answer's words that are in no dictionary",
        ),
        Metric("refusal", "declined", better="lower", meaning="share of answers that decline"),
        Metric("copied_words", "longest run copied from the rows", "amount", "lower"),
        Metric(
            "copied_share",
            "copied from the rows",
            better="lower",
            meaning="share of an answer's words in its longest run copied from the training rows",
        ),
        Metric("flagged", "flagged", better="lower", meaning="share of answers that moderation flags"),
        Metric(
            "off_topic",
            "off topic",
            better="lower",
            meaning="share of answers whose meaning is far from the question's",
        ),
        Metric(
            "prompt_similarity",
            "likeness to the prompt",
            "cosine",
            meaning="likeness of meaning between answer and question (cosine)",
        ),
        Metric(
            "reference_similarity",
            "likeness to the reference",
            "cosine",
            meaning="likeness of meaning to a good answer (cosine)",
        ),
        Metric(
            "consistency",
            "likeness over wordings",
            "cosine",
            meaning="likeness of answers to one question in other words (cosine)",
        ),
        Metric(
            "repeat_consistency",
            "likeness over repeats",
            "cosine",
            meaning="likeness of answers to one question drawn again (cosine)",
        ),
        Metric(
            "kl_from_base",
            "divergence from the base",
            "amount",
            "neither",
            meaning="how far the next token's chances moved on the base's own answers (KL, nats)",
        ),
        Metric("canary", "secret told", better="lower"),
    )
}


def metric_of(name: str) -> Metric:
    """What is known of a metric. A field of JSON answers is a share. One in no table is an amount, higher better."""
    kind: Literal["share", "amount"] = "share" if name.startswith("field_") else "amount"
    return METRICS.get(name) or Metric(name, name.replace("_", " "), kind)


def by_length(references: Iterable[str]) -> str:
    """The metric that sums up written answers, by the median length of the references in words.

    Up to 3 words `accuracy`: one wrong word makes another answer of it. Up to 10 `token_f1`: of a phrase most words
    may be right. Longer ones `rouge_l`: nobody writes a sentence twice, so exact matches are none (one word of 48
    replaced: exact 0, token F1 0.98, ROUGE-L 0.98), and token F1 sees no order (both halves of 24 words swapped: token
    F1 0.99, ROUGE-L 0.55).
    """
    lengths = [about_words(reference) for reference in references]
    typical = median(lengths) if lengths else 0
    return "accuracy" if typical <= SHORT else "token_f1" if typical <= PHRASE else "rouge_l"
