"""The null run: nothing can be learned in it, and so nothing may be found."""

from __future__ import annotations

import random
from dataclasses import replace

from harness.records import Example
from harness.suites.suite import Suite


def shuffle_labels(
    seeds: tuple[Example, ...], suites: dict[str, Suite], random_seed: int
) -> tuple[tuple[Example, ...], dict[str, Suite]]:
    """The null run: labels dealt anew to seeds and to the task's items, so that nothing can be learned.

    Items are shuffled too, free answers as well as labels. Were only the seeds shuffled, tuning on noise would do
    real harm beside a base that reads the labels' meaning, and a true difference would be found where none should
    be.
    """
    draw = random.Random(random_seed)
    answers = [(seed.answer, seed.label) for seed in seeds]
    draw.shuffle(answers)
    dealt = tuple(
        seed.model_copy(update={"answer": answer, "label": label})
        for seed, (answer, label) in zip(seeds, answers, strict=True)
    )
    null: dict[str, Suite] = {}
    for name, suite in suites.items():
        rights = [{"gold": item.gold, "answers": item.answers} for item in suite.items]
        if suite.of_task:
            draw.shuffle(rights)
        items = zip(suite.items, rights, strict=True)
        null[name] = replace(suite, items=tuple(item.model_copy(update=right) for item, right in items))
    return dealt, null
