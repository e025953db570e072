"""Two arms on the same items and random seeds: their difference, in words that know which way a metric is good."""

from __future__ import annotations

import math
from dataclasses import replace

from harness.eval.results import Results
from harness.report import wording
from harness.report.analysis import Arm, Difference, difference, matrix
from harness.suites.summary import LOWER_IS_BETTER


def of_same_seeds(a: Arm, b: Arm) -> tuple[Arm, Arm] | None:
    """Both arms with the cards of the random seeds that both have, in the order of the seeds. None without any."""
    by_seed = [{card.cell.random_seed: card for card in arm.cards if card.cell} for arm in (a, b)]
    shared = sorted(set(by_seed[0]) & set(by_seed[1]))
    if not shared:
        return None
    first, second = (
        replace(arm, cards=tuple(cards[seed] for seed in shared)) for arm, cards in zip((a, b), by_seed, strict=True)
    )
    return first, second


def paired_difference(
    results: Results, a: Arm, b: Arm, metric: str, random_seed: int, level: float = 0.95
) -> Difference | None:
    """`a` minus `b` on test items, random seed by random seed.

    None where they share no random seed, or a card is incomplete.
    """
    pair = of_same_seeds(a, b)
    if pair is None or not all(side.complete for side in pair):
        return None
    first, second = (matrix(results, side, metric, "test") for side in pair)
    return difference(first, second, random_seed, b_varies=True, level=level, same_seeds=True)


def verdict_words(metric: str, against: Difference) -> str:
    """Better or worse, by which way the metric is good, or why neither can be said."""
    turned = {"better": "worse", "worse": "better"} if metric in LOWER_IS_BETTER else {}
    return turned.get(against.verdict, against.words)


def change_words(metric: str, against: Difference) -> str:
    """The difference with its interval."""
    interval = against.interval
    if not math.isfinite(interval.low):
        return "not estimable"
    return wording.change(metric, interval.estimate, interval.low, interval.high)


def detectable_words(metric: str, against: Difference) -> str:
    """The smallest true difference that would be found with a power of 0.8."""
    return "-" if against.minimum_detectable is None else wording.amount(metric, against.minimum_detectable)
