"""Coverage of slopes, differences and rates where few items change, before and after, by simulation.

    python tests/bench/bench_contrasts.py [simulations]

Nominal is 95%; the two numbers behind are the misses of the lower and the upper end. "verdicts" is how often a
direction was claimed: a false alarm where the truth is 0. "bootstrap" is what it was before.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from harness import stats
from harness.stats import Floats, clusters, contrasts
from harness.stats.design import INDEPENDENT, Design
from harness.stats.intervals import crossed_estimate
from harness.stats.score_matrix import ScoreMatrix

JITTER = 0.4  # of an item's answer from student to student, where 1 is the spread of items


@dataclass(frozen=True)
class World:
    """Students over growing sizes on the same items: abilities, and what a size adds."""

    items: int
    sizes: int
    rate: float
    trend: float  # what each step of size adds to ability
    seeds: int = 1
    spread: float = 0.0  # of ability over random seeds
    base: bool = False  # the first size is an untuned model
    each: int = 1  # items of a passage, which share much of their difficulty and of what a student gains

    @property
    def doublings(self) -> list[int]:
        """The sizes as rows: each four times the one before."""
        return [16 * 4**k for k in range(self.sizes)]

    @property
    def total(self) -> float:
        """The spread of all that decides an answer."""
        return float(np.sqrt(1 + JITTER**2 + self.spread**2))

    @property
    def truth(self) -> Floats:
        """The true rate at every size."""
        steps = self.trend * (np.arange(self.sizes) - (self.sizes - 1) / 2)
        normal = NormalDist()
        return np.array([normal.cdf((normal.inv_cdf(self.rate) * self.total + step) / self.total) for step in steps])

    def draw(self, rng: np.random.Generator) -> Floats:
        """0/1 scores of shape (seeds, sizes, items)."""
        shape = (self.seeds, self.sizes, self.items)
        passages = -(-self.items // self.each)

        def shared(count: tuple[int, ...]) -> Floats:
            """Normal noise of which half the variance is a passage's, where there are passages."""
            own: Floats = rng.normal(size=(*count, self.items))
            if self.each == 1:
                return own
            whole = np.repeat(rng.normal(size=(*count, passages)), self.each, axis=-1)[..., : self.items]
            return np.asarray(np.sqrt(0.5) * (own + whole))

        steps = self.trend * (np.arange(self.sizes) - (self.sizes - 1) / 2)
        ability = NormalDist().inv_cdf(self.rate) * self.total + steps[None, :, None]
        seeds = rng.normal(0, 1, shape[:2])[..., None] * self.spread
        if self.base:
            seeds[:, 0] = 0.0  # no random seed touches it
        return ((shared(()) + JITTER * shared(shape[:2]) + seeds + ability) > 0).astype(np.float64)

    @property
    def design(self) -> Design:
        """The passages."""
        return Design([f"passage {i // self.each}" for i in range(self.items)]) if self.each > 1 else INDEPENDENT


def line(name: str, method: str, found: Iterable[tuple[stats.Interval | None, float]]) -> None:
    """Coverage, misses and verdicts of one setting."""
    pairs = [(interval, truth) for interval, truth in found if interval is not None]
    below = np.mean([truth < interval.low - 1e-12 for interval, truth in pairs])
    above = np.mean([truth > interval.high + 1e-12 for interval, truth in pairs])
    claims = np.mean([not interval.low <= 0.0 <= interval.high for interval, _ in pairs])
    print(
        f"{name:72}  {method:9}  {1 - below - above:6.1%}  {below:5.1%} {above:5.1%}  verdicts {claims:6.1%}",
        flush=True,
    )


def bootstrap_slope(sizes: Sequence[int], scores: Floats, design: Design) -> stats.Interval | None:
    """The slope as it was: BCa over items, or the two-way bootstrap."""
    x = np.log2(sizes) - np.log2(sizes).mean()
    apart = clusters.units(np.einsum("k,ski->si", x / (x**2).sum(), scores), design)
    if apart is None:
        return None
    return (stats.recipe_estimate(apart, 0) or stats.mean_estimate(apart.mean(axis=0), 0)).interval()


def slopes(count: int) -> None:
    """Slopes at 20 to 100 items and rates near 0 and 1."""
    for seeds, spread in ((1, 0.0), (3, 0.1)):
        for sizes in (2, 3, 5):
            for items, each in ((20, 1), (46, 1), (100, 1), (96, 6)):
                for rate in (0.03, 0.1, 0.5, 0.95):
                    for trend in (0.0, 0.15):
                        world = World(items, sizes, rate, trend, seeds, spread, each=each)
                        slope_line(world, count)


def slope_line(world: World, count: int) -> None:
    """Both methods in one setting."""
    rng = np.random.default_rng([world.items, world.sizes, int(1000 * world.rate), world.seeds])
    x = np.log2(world.doublings) - np.log2(world.doublings).mean()
    truth = float(x / (x**2).sum() @ world.truth)
    draws = [world.draw(rng) for _ in range(count)]
    changed = np.mean([(np.ptp(d.mean(axis=0), axis=0) > 0).sum() for d in draws])
    name = (
        f"slope, {world.seeds} seeds, {world.sizes} sizes, {world.items} items of {world.each}, rate {world.rate},"
        f" trend {world.trend}, {changed:.1f} change"
    )
    line(name, "bootstrap", ((bootstrap_slope(world.doublings, d, world.design), truth) for d in draws))
    ours = [contrasts.slope_per_doubling(world.doublings, d, 0, design=world.design) for d in draws]
    line(name, "ours", ((slope.interval if slope else None, truth) for slope in ours))


def differences(count: int) -> None:
    """Two students, or two recipes of three seeds, or a recipe against an untuned model."""
    for seeds, one_base in ((1, False), (2, False), (3, False), (3, True)):
        for items, each in ((20, 1), (46, 1), (100, 1), (342, 1), (96, 6)):
            for rate in (0.03, 0.5, 0.95):
                for trend in (0.0, 0.15):
                    spread = 0.1 if seeds > 2 else 0.0
                    difference_line(World(items, 2, rate, trend, seeds, spread, one_base, each), count)


def difference_line(world: World, count: int) -> None:
    """Both methods in one setting; the larger size minus the smaller, or minus its first seed as a base."""
    rng = np.random.default_rng([world.items, int(1000 * world.rate), world.seeds, world.base])
    truth, design = float(world.truth[1] - world.truth[0]), world.design
    before, after = [], []
    for _ in range(count):
        drawn = world.draw(rng)
        a, b = drawn[:, 1], drawn[:1, 0] if world.base else drawn[:, 0]
        apart = [clusters.units(side, design) for side in (a, -b)]
        old = clusters.difference_estimate(a.mean(axis=0), b.mean(axis=0), design, random_seed=0)
        if world.seeds >= stats.MIN_SEEDS:
            old = crossed_estimate([side for side in apart if side is not None], 0)
        one, other = (ScoreMatrix.numbered(side, design) for side in (a, b))
        new = contrasts.difference(one, other, random_seed=0, b_varies=not world.base).estimate
        before.append((old.interval() if old else None, truth))
        after.append((new.interval() if new else None, truth))
    base = " against a base" if world.base else ""
    name = (
        f"difference, {world.seeds} seeds{base}, {world.items} items of {world.each}, rate {world.rate},"
        f" trend {world.trend}"
    )
    line(name, "before", before)
    line(name, "ours", after)


def rates(count: int) -> None:
    """The rate of a recipe of three seeds."""
    for items, each in ((20, 1), (46, 1), (342, 1), (96, 6)):
        for rate in (0.03, 0.5, 0.95, 0.99):
            world = World(items, 1, rate, 0.0, 3, 0.1, each=each)
            rng = np.random.default_rng([items, int(1000 * rate)])
            before, after = [], []
            for _ in range(count):
                values = world.draw(rng)[:, 0]
                apart = clusters.units(values, world.design)
                new = contrasts.level(ScoreMatrix.numbered(values, world.design), random_seed=0)
                old = stats.recipe_estimate(apart, 0) if apart is not None else None
                before.append((old.interval() if old else None, rate))
                after.append((new.interval() if new else None, rate))
            name = f"rate of 3 seeds, {items} items of {each}, rate {rate}"
            line(name, "bootstrap", before)
            line(name, "ours", after)


def main() -> None:
    """Print the tables; a number on the command line is how many simulations of each setting."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    parts = {"slopes": slopes, "differences": differences, "rates": rates}
    for name, part in parts.items():
        if len(sys.argv) < 3 or name in sys.argv[2:]:
            part(count)


if __name__ == "__main__":
    main()
