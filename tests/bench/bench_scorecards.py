"""Scorecards with intervals for 100,000 items, from two students' scores: seconds of each step.

    python tests/bench/bench_scorecards.py [items]

The target is 10 s for `summarise` and all intervals; reading and writing of the scores is timed beside it.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from harness import stats
from harness.config.load import load_run
from harness.core.json_file import read_jsonl
from harness.core.store import write_jsonl
from harness.records import Score
from harness.stats import clusters, contrasts, power
from harness.stats.classification import per_label
from harness.stats.design import INDEPENDENT, Design
from harness.stats.score_matrix import ScoreMatrix
from harness.suites.suite import Suite
from harness.suites.summary import summarise

ROOT = Path(__file__).parents[2]
RATES = ("accuracy", "choice_accuracy")
REAL = ("gold_probability", "rep_3", "answer_words")
TARGET = 10.0
T = TypeVar("T")


class Clock:
    """Seconds of each step, in the order of the steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time(self, name: str, work: Callable[[], T]) -> T:
        """The result of `work`; its seconds are added to those of `name`."""
        start = time.perf_counter()
        found = work()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        return found


def synthetic(n: int, labels: tuple[str, ...], right: float, random_seed: int) -> list[Score]:
    """Scores of a student that names the gold label with chance `right`: passages of 5, 57 subjects."""
    rng = np.random.default_rng(random_seed)
    gold = np.random.default_rng(0).integers(0, len(labels), n)  # the items are the same for every student
    said = np.where(rng.random(n) < right, gold, rng.integers(0, len(labels), n))
    picked = np.where(rng.random(n) < right, gold, rng.integers(0, len(labels), n))
    real = rng.random((n, len(REAL)))
    return [
        Score(
            item=f"{i:016x}",
            split="test",
            status="scored",
            values={
                "accuracy": float(said[i] == gold[i]),
                "choice_accuracy": float(picked[i] == gold[i]),
                **dict(zip(REAL, real[i].tolist(), strict=True)),
            },
            gold=labels[gold[i]],
            top_choice=labels[picked[i]],
            output=labels[said[i]],
            group=f"passage {i // 5}",
            stratum=f"subject {i // 5 % 57}",
        )
        for i in range(n)
    ]


def column(scores: list[Score], metric: str) -> stats.Floats:
    """One metric over items."""
    return np.fromiter((score.values[metric] for score in scores), np.float64, len(scores))


def columns(a: list[Score], b: list[Score], metric: str) -> tuple[stats.Floats, stats.Floats]:
    """One metric of both students."""
    return column(a, metric), column(b, metric)


def three(x: stats.Floats, y: stats.Floats, design: Design) -> int:
    """Both students' intervals, that of the difference, its minimum detectable difference, and its p values."""
    for side in (x, y):
        mean = clusters.mean_estimate(side, design, random_seed=0)
        if mean is None:
            raise RuntimeError("too few clusters")
        mean.interval()
    difference = clusters.difference_estimate(x, y, design, random_seed=0)
    if difference is None:
        raise RuntimeError("too few clusters")
    power.minimum_detectable_by_width(difference.interval())
    difference.p(-0.01)
    return 3


def intervals(a: list[Score], b: list[Score], clock: Clock) -> int:
    """Every metric's intervals: each student's and the difference, for items of three kinds. How many there are."""
    groups, strata = [s.group for s in a], [s.stratum for s in a]
    designs = {
        "independent items": INDEPENDENT,
        "passages": Design(groups),
        "subjects": Design(strata=strata),
    }
    found = 0
    for metric in (*RATES, *REAL):
        x, y = clock.time("columns", partial(columns, a, b, metric))
        for words, design in designs.items():
            work = partial(three, x, y, design)
            found += clock.time(f"intervals and p values, {words}", work)
        if metric in RATES:
            clock.time("mid-p McNemar", partial(stats.mcnemar_mid_p, x, y))
    seeds = [np.stack([column(side, "accuracy")] * 3) for side in (a, b)]
    for shift, side in enumerate(seeds):
        side[1:] = np.roll(side[1:], 5 * shift + 5, axis=1)
    for words, design in (("", INDEPENDENT), (", passages", Design(groups))):
        sides = [ScoreMatrix.numbered(side, design) for side in seeds]
        recipes = partial(contrasts.difference, *sides, random_seed=0)
        clock.time(f"interval of 3 seeds a side{words}", recipes)
    return found + 2


def stored(scores: list[Score], clock: Clock) -> None:
    """Write the scores and read them back."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scores.jsonl"
        clock.time("write JSONL", lambda: write_jsonl(path, scores))
        again = clock.time("read JSONL", lambda: read_jsonl(path, Score))
        print(f"one student's scores: {path.stat().st_size / 1e6:.0f} MB, {len(again)} read back")


def main() -> None:
    """Print the table; a number on the command line is how many items."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    suites: dict[str, Suite] = load_run(ROOT / "runs" / "helpdesk.yaml").suites
    suite = suites["helpdesk"]
    labels = suite.items[0].choices
    a, b = synthetic(n, labels, 0.80, 1), synthetic(n, labels, 0.79, 2)
    clock, disk = Clock(), Clock()
    for side in (a, b):
        clock.time("summarise, 2 students", partial(summarise, side, suite))
        clock.time(
            "per-label scores, 2 students",
            partial(per_label, [s.gold for s in side], [s.output for s in side], labels),
        )
    count = intervals(a, b, clock)
    stored(a, disk)
    print(f"{n} items, 2 students, {len(RATES)} rates and {len(REAL)} real metrics, {count} intervals, one core")
    for name, seconds in clock.seconds.items():
        print(f"{name:46}  {seconds:7.2f} s")
    total = sum(clock.seconds.values())
    met = "met" if total < TARGET else "missed"
    print(f"{'scorecards with intervals':46}  {total:7.2f} s  (target {TARGET:.0f} s: {met})")
    for name, seconds in disk.seconds.items():
        print(f"{name + ', 1 student':46}  {seconds:7.2f} s")


if __name__ == "__main__":
    main()
