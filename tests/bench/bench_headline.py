"""Does the headline's interval hold, whichever alternative is named? Coverage and false alarms, by simulation.

    python tests/bench/bench_headline.py [simulations]

A student and 1, 3 or 6 alternatives are equally good in truth. Dev items (a quarter) say which alternatives are within
chance of the best, test items name the strongest: as harness/report/headline.py does. "plain" gives the named pair a
95% interval as if nobody had looked at the others. Wanted: 95%, and no more than 5% of false alarms in both directions.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from harness.report.headline import LEVEL, within_chance
from harness.stats import Floats, contrasts
from harness.stats.design import Design
from harness.stats.score_matrix import ScoreMatrix


@dataclass(frozen=True)
class World:
    """How many test items, alternatives, items a passage, and random seeds of everything that is tuned."""

    items: int
    alternatives: int
    each: int = 1
    seeds: int = 1
    strata: int = 1
    rate: float = 0.7

    def draw(self, rng: np.random.Generator) -> list[Floats]:
        """0/1 scores (seeds, dev and test items) of the student and of each alternative."""
        count = self.items + self.dev
        codes = np.arange(count) // self.each
        passages = int(codes.max()) + 1
        share = 0.5 if self.each > 1 else 0.0
        hard = rng.normal(0, 1, count) + rng.normal(0, 1, self.strata)[np.arange(count) % self.strata] * (
            self.strata > 1
        )
        total = np.sqrt(1 + (self.strata > 1) + 0.7**2 + (0.1**2 if self.seeds > 1 else 0))
        level = NormalDist().inv_cdf(self.rate) * total
        sides = []
        for _ in range(1 + self.alternatives):
            own = np.sqrt(1 - share) * rng.normal(size=count) + np.sqrt(share) * rng.normal(size=passages)[codes]
            noise = rng.normal(size=(self.seeds, count))
            mixed = own if self.seeds == 1 else np.sqrt(0.7) * own + np.sqrt(0.3) * noise
            seeds = 0.1 * rng.normal(size=(self.seeds, 1)) * (self.seeds > 1)
            sides.append((hard + 0.7 * mixed + seeds + level > 0).astype(np.float64) * np.ones((self.seeds, 1)))
        return sides

    @property
    def dev(self) -> int:
        """Dev items: a quarter of all."""
        return self.items // 3 // self.each * self.each

    def design(self, start: int, end: int) -> Design:
        """Passages and strata of some of the items."""
        groups = [f"p{i // self.each}" for i in range(start, end)]
        return Design.from_names(groups, [f"s{i % self.strata}" for i in range(start, end)])


@dataclass(frozen=True)
class Found:
    """Shares of simulations."""

    coverage: float
    better: float  # the student called better than an equal alternative
    worse: float
    kept: float  # alternatives within chance, on average


def covered(world: World, count: int, allow: bool = True) -> Found:
    """How often the interval of the named pair holds the truth, 0."""
    rng = np.random.default_rng([world.items, world.alternatives, world.each, world.seeds, world.strata])
    hits, better, worse, kept_of, estimable = 0, 0, 0, 0, 0
    for _ in range(count):
        own, *others = world.draw(rng)
        dev = world.design(0, world.dev)
        kept = within_chance([ScoreMatrix.numbered(other[:, : world.dev], dev) for other in others], 0)
        strongest = max(kept, key=lambda place: float(others[place][:, world.dev :].mean()))
        level = 1 - (1 - LEVEL) / len(kept) if allow else LEVEL
        test = world.design(world.dev, world.dev + world.items)
        a, b = (ScoreMatrix.numbered(side[:, world.dev :], test) for side in (own, others[strongest]))
        found = contrasts.difference(a, b, random_seed=0).estimate
        if found is None:
            continue
        interval = found.interval(level)
        estimable += 1
        kept_of += len(kept)
        hits += interval.low <= 0.0 <= interval.high
        better += interval.low > 0
        worse += interval.high < 0
    return Found(hits / estimable, better / estimable, worse / estimable, kept_of / estimable)


def main() -> None:
    """Print the table; a number on the command line is how many simulations of each setting."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    for items, each, seeds, strata in (
        (60, 1, 1, 1), (150, 1, 1, 1), (342, 1, 1, 1), (120, 6, 1, 1), (342, 6, 1, 1), (342, 1, 1, 6), (120, 1, 3, 1),
        (342, 1, 3, 1), (342, 6, 3, 1),
    ):  # fmt: skip
        for alternatives in (1, 3, 6):
            world = World(items, alternatives, each, seeds, strata)
            for name, allow in (("plain", False), ("ours", True)):
                found = covered(world, count, allow)
                print(
                    f"{items} items, passages of {each}, {strata} strata, {seeds} seeds, {alternatives} alternatives"
                    f" ({found.kept:.1f} within chance) {name:6} covers {found.coverage:6.1%}"
                    f"  better {found.better:5.1%}  worse {found.worse:5.1%}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
