"""Coverage and false alarms of the intervals in harness/stats/intervals.py and clusters.py, by simulation.

    python tests/bench/bench_intervals.py [simulations]

Nominal is 95% two-sided; one less the coverage is the share of false alarms where the truth is no difference.
"misses" are the two ends apart: each should be 2.5%. The gate's lines say how often
its one-sided 95% bounds call a drop of exactly the margin regressed, or let it pass: each should be 5%.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from harness import stats
from harness.stats import clusters
from harness.stats.design import INDEPENDENT, Design
from harness.stats.intervals import crossed_estimate

Floats = NDArray[np.float64]
Found = tuple[stats.Interval | None, float]  # an interval and the truth


def cluster_t(values: Floats, groups: Sequence[str], level: float = 0.95) -> stats.Interval:
    """The plain cluster t interval of a mean as the papers write it, whatever the scores: to compare with."""
    from scipy.special import stdtrit

    mean, (_, cluster) = float(values.mean()), np.unique(groups, return_inverse=True)
    sums = np.bincount(cluster, weights=values - mean)
    count = len(sums)
    half = float(stdtrit(count - 1, (1 + level) / 2) * np.sqrt(count / (count - 1) * (sums**2).sum()) / values.size)
    return stats.Interval(estimate=mean, low=mean - half, high=mean + half, method="plain t", n=count, level=level)


def rate(values: Floats, design: Design) -> stats.Interval | None:
    """The interval of a mean of scores with clusters or strata."""
    found = clusters.mean_estimate(values, design, random_seed=0)
    return found.interval() if found else None


def difference(sides: Sequence[Floats] | Floats, design: Design, level: float = 0.95) -> stats.Interval | None:
    """The interval of a paired difference of scores with clusters or strata."""
    found = clusters.difference_estimate(sides[0], sides[1], design, random_seed=0)
    return found.interval(level) if found else None


def line(name: str, found: Iterable[Found]) -> None:
    """Coverage, misses below and above, and mean width of one setting."""
    pairs = [(interval, truth) for interval, truth in found if interval is not None]
    covered = np.mean([interval.low <= truth <= interval.high for interval, truth in pairs])
    above = np.mean([truth > interval.high for interval, truth in pairs])
    below = np.mean([truth < interval.low for interval, truth in pairs])
    width = np.mean([interval.high - interval.low for interval, _ in pairs])
    print(f"{name:68}  {covered:6.1%}  {below:5.1%} {above:5.1%}  {width:.4f}")


def paired_rates(n: int, p: float, q: float, correlation: float, count: int) -> NDArray[np.int64]:
    """Counts (both, only a, only b, neither) of two students with rates p and q, one row per simulation."""
    both = min(p * q + correlation * np.sqrt(p * (1 - p) * q * (1 - q)), p, q)
    cells = [both, p - both, q - both, max(0.0, 1 - p - q + both)]
    return np.asarray(np.random.default_rng(n).multinomial(n, np.array(cells) / sum(cells), count))


def scores(counts: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """The 0/1 scores behind a row of counts."""
    return np.repeat([1.0, 1.0, 0.0, 0.0], counts), np.repeat([1.0, 0.0, 1.0, 0.0], counts)


def binary(count: int) -> None:
    """Tango's interval, and the gate's alarms, over sizes, rates and correlations."""
    for n in (100, 200, 400, 1000):
        for p, q, correlation in ((0.7, 0.7, 0.6), (0.8, 0.75, 0.6), (0.6, 0.55, 0.9), (0.95, 0.93, 0.8)):
            draws = paired_rates(n, p, q, correlation, count)
            name = f"paired 0/1, n={n}, rates {p} and {q}, correlation {correlation}"
            line(name, ((stats.paired_binary(*scores(d)), p - q) for d in draws))


def alarms(count: int) -> None:
    """How often `check` would call a drop of exactly the margin regressed, or let it pass: 5% each."""
    for n in (100, 240, 400, 1000):
        for margin in (0.0, 0.03, 0.05):
            draws = paired_rates(n, 0.8, 0.8 - margin, 0.6, count)
            found = [stats.paired_binary(now, before, level=0.90) for before, now in map(scores, draws)]
            regressed = np.mean([f.high < -margin for f in found])
            passed = np.mean([f.low > -margin for f in found])
            name = f"gate, n={n}, true drop = margin = {margin}"
            print(f"{name:68}  regressed {regressed:5.1%}  pass {passed:5.1%}")


def real(count: int) -> None:
    """The BCa bootstrap of means: symmetric, skewed, and mostly zero differences."""
    kinds: dict[str, tuple[Callable[[np.random.Generator, int], Floats], float]] = {
        "normal": (lambda rng, n: rng.normal(size=n), 0.0),
        "skewed (gamma 0.5)": (lambda rng, n: rng.gamma(0.5, size=n), 0.5),
        "nine in ten are zero": (lambda rng, n: rng.exponential(size=n) * (rng.random(n) < 0.1), 0.1),
    }
    for n in (50, 100, 400):
        for kind, (draw, truth) in kinds.items():
            rng = np.random.default_rng(n)
            values = [draw(rng, n) for _ in range(count)]
            found = ((stats.mean_estimate(x, i).interval(), truth) for i, x in enumerate(values))
            line(f"mean of real values, n={n}, {kind}", found)


def groups(count: int) -> None:
    """The AUC of a judge that knows nothing (0.5) or something (0.76): a right, three wrong labels a seed."""
    for seeds in (16, 64):
        for shift, truth in ((0.0, 0.5), (1.0, 0.7602)):
            rng = np.random.default_rng(seeds)
            names = [f"seed {i}" for i in range(seeds)]
            found: list[Found] = []
            for i in range(count):
                own = rng.normal(size=(seeds, 1))  # what all scores of one seed share
                right = shift + 0.5 * own[:, 0] + np.sqrt(0.75) * rng.normal(size=seeds)
                wrong = 0.5 * own + np.sqrt(0.75) * rng.normal(size=(seeds, 3))
                repeated = [name for name in names for _ in range(3)]
                found.append((stats.auc_interval(right, wrong.ravel(), names, repeated, i), truth))
            line(f"AUC, {seeds} seeds as groups, truth {truth}", found)


def side(rng: np.random.Generator, item: Floats, seeds: int, spread: float) -> Floats:
    """0/1 scores of one recipe, shape (seeds, items); `spread`: of the seeds' true accuracies."""
    shape = (seeds, item.size)
    ability = 0.8 + item + rng.normal(0, 0.5, item.size)
    shaken = ability + rng.normal(0, spread / 0.18, (seeds, 1)) + rng.normal(0, 0.8, shape)  # 1 here is 0.18 there
    return (shaken > rng.logistic(0, 0.2, shape)).astype(np.float64)


def recipes(count: int) -> None:
    """Two equal recipes: items and random seeds vary, with a true spread of seeds of 0, 1 and 2 points."""
    for n in (240, 1000):
        for seeds in (3, 5):
            for spread in (0.0, 0.01, 0.02):
                rng = np.random.default_rng([n, seeds])
                found: list[Found] = []
                for i in range(count):
                    item = rng.normal(0, 1.5, n)
                    a, b = side(rng, item, seeds, spread), side(rng, item, seeds, spread)
                    found.append((crossed_estimate([a, -b], i).interval(), 0.0))
                line(f"two recipes, n={n}, {seeds} seeds a side, seed spread {spread}", found)


def passages(rng: np.random.Generator, count: int, sizes: Iterable[int], shared: float) -> tuple[Floats, list[str]]:
    """0/1 scores of two equally good students, shape (2, items), and each item's passage.

    `shared`: standard deviation of what a student gains or loses on all questions of one passage.
    """
    groups = [f"passage {i}" for i, size in zip(range(count), sizes, strict=False) for _ in range(size)]
    codes = np.unique(groups, return_inverse=True)[1]
    item = rng.normal(0, 1, len(groups))
    sides = [rng.normal(0, shared, count)[codes] + item + rng.normal(0, 0.6, len(groups)) for _ in range(2)]
    return (np.array(sides) > -0.8).astype(np.float64), groups


def clustered(count: int) -> None:
    """Items that share a passage: counted as clusters (with the score method, with a plain t), and ignored."""
    settings: dict[str, tuple[int, list[int]]] = {
        "30 passages of 8": (30, [8] * 30),
        "12 passages of 20": (12, [20] * 12),
        "8 passages of 30": (8, [30] * 8),
        "40 passages of 1 to 20": (40, [1 + i // 2 for i in range(40)]),
    }
    for words, (number, sizes) in settings.items():
        for shared in (0.0, 0.7):
            rng = np.random.default_rng([number, int(10 * shared)])
            draws = [passages(rng, number, sizes, shared) for _ in range(count)]
            name = f"{words}, spread {shared}"
            rows: list[tuple[str, list[stats.Interval | None]]] = [
                ("score, t", [difference(x, Design(g)) for x, g in draws]),
                ("plain t", [cluster_t(x[0] - x[1], g) for x, g in draws]),
                ("ignored", [stats.paired_binary(x[0], x[1]) for x, g in draws]),
            ]
            for method, found in rows:
                line(f"difference, {name}: {method}", ((interval, 0.0) for interval in found))
            truth = float(np.mean([x[0].mean() for x, _ in draws]))  # the same rate everywhere, so of any size
            line(f"rate, {name}: score, t", ((rate(x[0], Design(g)), truth) for x, g in draws))
            line(f"rate, {name}: ignored", ((stats.wilson(int(x[0].sum()), x[0].size), truth) for x, _ in draws))


def stratified(count: int) -> None:
    """57 subjects of very different difficulty, n items each, as in a short tier of MMLU."""
    for each in (2, 5, 20):
        rng = np.random.default_rng(each)
        strata = [f"subject {i}" for i in range(57) for _ in range(each)]
        rates = np.repeat(np.linspace(0.2, 0.9, 57), each)
        draws = [(rng.random((2, rates.size)) < rates).astype(np.float64) for _ in range(count)]
        truth, name = float(rates.mean()), f"57 subjects of {each}"
        line(f"rate, {name}: strata", ((rate(x[0], Design(strata=strata)), truth) for x in draws))
        line(f"rate, {name}: ignored", ((stats.wilson(int(x[0].sum()), x[0].size), truth) for x in draws))
        line(f"difference, {name}: strata", ((difference(x, Design(strata=strata)), 0.0) for x in draws))


def few_flips(count: int) -> None:
    """How often a true drop of exactly the margin, by flips one way only, passes: at most 5% is wanted."""
    for number, each in ((30, 8), (60, 4)):
        groups = [f"passage {i}" for i in range(number) for _ in range(each)]
        for margin in (0.02, 0.05):
            rng = np.random.default_rng([number, int(100 * margin)])
            drops = [-(rng.random(len(groups)) < margin).astype(np.float64) for _ in range(count)]
            score, plain = [], []
            for drop in drops:
                ours = difference([1 + drop, np.ones(drop.size)], Design(groups), level=0.9)
                theirs = cluster_t(drop, groups, level=0.9)
                score.append(ours is not None and ours.low > -margin)
                plain.append(theirs.low > -margin)
            name = f"gate, {number} passages of {each}, true drop = margin = {margin}"
            print(f"{name:68}  passes: score, t {np.mean(score):5.1%}  plain t {np.mean(plain):5.1%}")


def recipes_clustered(count: int) -> None:
    """Two equal recipes whose students gain or lose whole passages; seeds spread by a point."""
    for number, each in ((30, 8), (12, 20)):
        groups = [f"passage {i}" for i in range(number) for _ in range(each)]
        rng = np.random.default_rng([number, each])
        pairs = []
        for _ in range(count):
            item = rng.normal(0, 1.5, len(groups))
            own = [np.repeat(rng.normal(0, 0.6, number), each) for _ in range(2)]  # a recipe's, in every seed
            pairs.append([side(rng, item + gain, 3, 0.01) for gain in own])
        name = f"two recipes, {number} passages of {each}, 3 seeds a side"
        for words, design in (("clusters", Design(groups)), ("ignored", INDEPENDENT)):
            apart = [[clusters.units(side, design) for side in (a, -b)] for a, b in pairs]
            known = [[side for side in sides if side is not None] for sides in apart]
            line(f"{name}: {words}", ((crossed_estimate(sides, 0).interval(), 0.0) for sides in known))


def main() -> None:
    """Print the tables; a number on the command line is how many simulations of each setting."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    print(f"{'setting':68}  {'covers':>6}  {'misses':>11}  width")
    binary(count)
    real(count // 2)
    groups(count // 2)
    clustered(count // 2)
    stratified(count // 2)
    recipes(count // 4)
    recipes_clustered(count // 4)
    print("")
    alarms(count)
    few_flips(count // 2)


if __name__ == "__main__":
    main()
