"""Numbers about a text itself: repetition, whether it collapsed into a label, how far its model moved.

Words here are what spaces set apart, so that models with different tokenizers compare. A number that a text is
too short for is None, never 0.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.core.text import ngrams, normalise
from harness.engines.protocols import NextTokens
from harness.errors import MachineError

LOOP_TIMES = 3  # a cycle must come whole this often at the end of a text ...
LOOP_WORDS = 6  # ... over at least so many words: "no, no, no" and "very, very, very" are said by people
LEAST_REST = 1e-6  # below this the probability of all unlisted tokens is rounding error of float32


# --- repetition ---------------------------------------------------------------------------------------------


def rep_n(text: str, n: int) -> float | None:
    """Share of word n-grams that repeat an earlier one, 0 to 1, or None for a text shorter than n words.

    1 - distinct / all, the seq-rep-n of Welleck et al. 2020 (Neural text generation with unlikelihood
    training), over words instead of tokens.
    """
    grams = ngrams(text.split(), n)
    return 1 - len(set(grams)) / len(grams) if grams else None


def distinct_n(texts: Sequence[str], n: int) -> float | None:
    """Distinct word n-grams over all of them, across texts, 0 to 1 (Li et al. 2016), or None without any."""
    grams = [gram for text in texts for gram in ngrams(text.split(), n)]
    return len(set(grams)) / len(grams) if grams else None


@dataclass(frozen=True)
class Span:
    """The longest run of words with some property."""

    words: int  # its length
    share: float  # of the words of its text, 0 to 1


def longest_repeat(text: str) -> Span | None:
    """The longest run of words that stands in the text twice, or None for a text of no words.

    The two may overlap (the longest repeated substring of Gusfield 1997, "Algorithms on strings, trees and
    sequences", 7.11), so the share of a text that loops to its end tends to 1. A prefix of a repeated run is
    repeated too, so the length is found by bisection.
    """
    words = text.split()
    if not words:
        return None
    low, high = 0, len(words) - 1
    while low < high:
        middle = (low + high + 1) // 2
        grams = ngrams(words, middle)
        low, high = (middle, high) if len(set(grams)) < len(grams) else (low, middle - 1)
    return Span(low, low / len(words))


def loop_length(text: str) -> int | None:
    """Words of the cycle in which a text ends, the shortest such, or None when it ends in none.

    The cycle stands at the end three times or more, over at least six words. The last word may be broken off,
    as it is when the limit of tokens cuts a loop. Holtzman et al. 2020 (The curious case of neural text
    degeneration) describe such loops: once in one, greedy decoding rarely leaves it.
    """
    words = text.split()
    for length in range(1, len(words) // LOOP_TIMES + 1):
        if not words[-1 - length].startswith(words[-1]):
            continue
        run = length + 1  # words at the end that agree with the word one cycle before, and the first cycle
        while run < len(words) and words[-1 - run] == words[-1 - run + length]:
            run += 1
        if run >= max(LOOP_TIMES * length, LOOP_WORDS):
            return length
    return None


def compression_ratio(text: str) -> float | None:
    """Bytes of the text (UTF-8) over its bytes after zlib (level 9). Repetition makes it higher. None for no text.

    Shaib et al. 2024 (Standardizing the measurement of text diversity) find that it tells about what the slower
    n-gram overlaps do. Short texts lie below 1 and longer ones compress better: compare like lengths only.
    """
    data = text.encode()
    return len(data) / len(zlib.compress(data, 9)) if data else None


# --- labels ---------------------------------------------------------------------------------------------------


def collapsed(text: str, labels: Sequence[str]) -> bool:
    """Whether an answer to an open instruction is nothing but a label of the task."""
    return normalise(text) in {normalise(label) for label in labels}


# --- how far the model moved ----------------------------------------------------------------------------------


def token_kl(student: Sequence[NextTokens], base: Sequence[NextTokens]) -> list[float]:
    """Per item the mean over positions of KL(student || base) in nats, each a lower bound of 0 or more.

    Both models are compared over a partition of the vocabulary: the tokens that the base lists, one by one, and
    all others as one. Merging outcomes can only lower a divergence (the data-processing inequality, Cover and
    Thomas 2006, "Elements of information theory", 2.8), so this is a lower bound of the full one. Where the
    others together have less than 1e-6 they count as 1e-6: what is left there is rounding.

    Raises ValueError where the two do not name the same tokens or an item has no position, MachineError where a
    log-probability is not a number.
    """
    return [_mean_kl(after, theirs) for after, theirs in zip(student, base, strict=True)]


def _mean_kl(student: NextTokens, base: NextTokens) -> float:
    if not np.array_equal(student.ids, base.ids):
        raise ValueError("the student's tokens are not those that the base lists")
    if not len(base.ids):
        raise ValueError("an item without a position has no divergence")
    after, before = student.logprobs.astype(np.float64), base.logprobs.astype(np.float64)
    if np.isnan(after).any() or not np.isfinite(before).all():
        raise MachineError("a log-probability of the next token is not a number: the weights or the engine are broken")
    p = np.exp(after)
    listed = np.where(p > 0, p * (np.where(p > 0, after, 0.0) - before), 0.0).sum(axis=1)
    p_rest = np.maximum(1 - p.sum(axis=1), LEAST_REST)
    q_rest = np.maximum(1 - np.exp(before).sum(axis=1), LEAST_REST)
    return float(np.maximum(listed + p_rest * np.log(p_rest / q_rest), 0.0).mean())
