"""Numbers about a text itself: repetition, length, whether it collapsed into a label."""

from __future__ import annotations

from collections.abc import Sequence

from harness.text import normalise


def rep_n(text: str, n: int) -> float | None:
    """Share of word n-grams that repeat an earlier one, 0 to 1; None for a text shorter than n words.

    1 - distinct / all, the seq-rep-n of Welleck et al. 2020 (Neural text generation with unlikelihood
    training), over words instead of tokens so that models with different tokenizers compare.
    """
    words = text.split()
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else None


def distinct_n(texts: Sequence[str], n: int) -> float | None:
    """Distinct word n-grams over all of them, across texts, 0 to 1 (Li et al. 2016); None without any."""
    grams = [tuple(words[i : i + n]) for words in map(str.split, texts) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def named_label(text: str, labels: Sequence[str]) -> str | None:
    """The label an answer gives: it is the label, or the only label among its words; else None.

    Generous on purpose: an untuned model that writes "Topic: billing." has answered.
    """
    exact = [label for label in labels if normalise(label) == normalise(text)]
    if exact:
        return exact[0]
    words = normalise(text).split()
    joined = f" {' '.join(words)} "
    named = [label for label in labels if f" {normalise(label)} " in joined]
    return named[0] if len(named) == 1 else None


def collapsed(text: str, labels: Sequence[str]) -> bool:
    """Whether an answer to an open instruction is nothing but a label of the task."""
    return normalise(text) in {normalise(label) for label in labels}
