"""The null run: nothing can be learned in it, and so nothing may be found."""

from __future__ import annotations

import random
from dataclasses import replace

from harness.records import Seed
from harness.suites.suite import Suite


def shuffle_labels(
    seeds: tuple[Seed, ...], suites: dict[str, Suite], random_seed: int
) -> tuple[tuple[Seed, ...], dict[str, Suite]]:
    """The null run: labels dealt anew to seeds and to the task's items, so that nothing can be learned.

    Items are shuffled too, free answers as well as labels. Were only the seeds shuffled, tuning on noise would do
    real harm beside a base that reads the labels' meaning, and a true difference would be found where none should
    be.
    """
    draw = random.Random(random_seed)
    labels = [seed.label for seed in seeds]
    draw.shuffle(labels)
    dealt = tuple(Seed(text=seed.text, label=label) for seed, label in zip(seeds, labels, strict=True))
    null: dict[str, Suite] = {}
    for name, suite in suites.items():
        rights = [{"gold": item.gold, "answers": item.answers} for item in suite.items]
        if suite.of_task:
            draw.shuffle(rights)
        items = zip(suite.items, rights, strict=True)
        null[name] = replace(suite, items=tuple(item.model_copy(update=right) for item, right in items))
    return dealt, null
