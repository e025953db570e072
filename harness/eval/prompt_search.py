"""How an untuned model is asked: the forms and numbers of examples are tried on dev items, and the best is taken.

A model that was not tuned is asked in the way it is best at, so that no gain of tuning is flattered. First the
forms are compared, then for few_shot the numbers of examples in the best form. More than two ways are tried on a few
items, and the better half of them on all. The choice is a pure function of scores on items that no claim is made on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from harness.core.record import digest
from harness.records import FORMS, Choice, Form, Item, Score, Trial, Way
from harness.suites.suite import Suite
from harness.suites.summary import LOWER_IS_BETTER, value_of

NUMBERS = (16, 4, 64)  # examples of few_shot, and all seeds that fit; the forms are compared at the first number
MOST_ITEMS = 64  # dev items that a choice looks at, the first by digest: more cost more than they tell
FIRST_ITEMS = 24  # so many of them decide which half of the ways is tried on all

ScoreWay = Callable[[Way, Sequence[Item]], Sequence[Score]]


def ways_tried(
    untuned_form: Literal["auto"] | Form, most_shots: int, retrieved: int, prompting: str
) -> tuple[tuple[Form, ...], tuple[int, ...]]:
    """The forms and the numbers of examples to try under one prompting: all forms, or the one a task file names."""
    forms = tuple(form for form in FORMS if untuned_form in ("auto", form))
    if prompting == "few_shot":
        return forms, tuple(dict.fromkeys((*(n for n in NUMBERS if n <= most_shots), most_shots)))
    return forms, (retrieved if prompting == "retrieval" else 0,)


def most_tries(forms: Sequence[Form], numbers: Sequence[int]) -> tuple[int, int]:
    """How many ways `choose` tries at most beside the one it takes: on the first items only, on all dev items."""
    ways = len(forms) + len(numbers) - 1
    # the form that is taken was tried with the first number before
    on_all = _better_half(len(forms)) + min(_better_half(len(numbers)), len(numbers) - 1)
    return ways - on_all, on_all - 1


def _better_half(ways: int) -> int:
    """How many of some ways are tried on all dev items: two are always."""
    return ways if ways <= 2 else math.ceil(ways / 2)


def dev_items(suite: Suite) -> tuple[Item, ...]:
    """The dev items that a choice looks at, in the order of their ids."""
    dev = (item for item in suite.items if item.split == "dev")
    return tuple(sorted(dev, key=lambda item: digest("choosing", item.id))[:MOST_ITEMS])


def metrics_of(suite: Suite) -> tuple[str, ...]:
    """The metrics that ways are compared by. Where there are two, the better one of each way counts."""
    if suite.rubric is not None:  # a judge is not asked about answers that nobody will read
        return ("gold_nll",)
    both = suite.primary == "accuracy" and "choice_accuracy" in suite.spec.item_metrics
    return ("accuracy", "choice_accuracy") if both else (suite.primary,)


def choose(
    suite: Suite, forms: Sequence[Form], numbers: Sequence[int], way: Callable[[Form, int], Way], score: ScoreWay
) -> Choice:
    """The best way to ask: forms at the first number, then the other numbers in the best form.

    `way` says how many examples really fit. Where there is one way only, nothing is scored.
    """
    metrics, items = metrics_of(suite), dev_items(suite)
    first = [way(form, numbers[0]) for form in forms]
    if len(first) == 1 and len({way(forms[0], number) for number in numbers}) == 1:
        return Choice(way=first[0])
    scores: dict[Way, list[Score]] = {}

    def rank(candidate: Way, count: int) -> tuple[int, float, float]:
        known = scores.setdefault(candidate, [])
        if missing := items[len(known) : count]:
            known += score(candidate, missing)
        return _rank(trial(candidate, known[:count], metrics), metrics)

    def best(ways: Iterable[Way]) -> Way:
        rivals = list(dict.fromkeys(ways))
        if len(rivals) > 2:
            rivals = sorted(rivals, key=lambda rival: rank(rival, FIRST_ITEMS))[: _better_half(len(rivals))]
        return min(rivals, key=lambda rival: rank(rival, len(items)))

    chosen = best(first)
    if len(numbers) > 1:
        chosen = best(way(chosen.form, number) for number in numbers)
    tried = tuple(trial(candidate, known, metrics) for candidate, known in scores.items())
    return Choice(way=chosen, metrics=metrics, items=len(items), tried=tried)


def trial(way: Way, scores: Sequence[Score], metrics: Sequence[str]) -> Trial:
    """What a way was worth on some items: its best metric. All metrics are better in one direction."""
    values = [value for metric in metrics if (value := _mean(scores, metric)) is not None]
    better = min if metrics[0] in LOWER_IS_BETTER else max
    value = better(values) if values else None
    failed = sum(score.status == "failed" for score in scores)
    return Trial(way=way, items=len(scores), value=value, gold_nll=_mean(scores, "gold_nll"), failed=failed)


def _mean(scores: Sequence[Score], metric: str) -> float | None:
    values = [value for score in scores if not math.isnan(value := value_of(score, metric))]
    return sum(values) / len(values) if values else None


def _rank(tried: Trial, metrics: Sequence[str]) -> tuple[int, float, float]:
    """A sort key: the smallest is the best way. Of equal ways the one that was tried first is taken."""
    sign = 1 if metrics[0] in LOWER_IS_BETTER else -1
    value = math.inf if tried.value is None else sign * tried.value
    return tried.failed, value, math.inf if tried.gold_nll is None else tried.gold_nll
