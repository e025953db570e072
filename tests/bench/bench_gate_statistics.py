"""What the gate's rules do, by simulation: false alarms, false passes, and power at the smallest effect it states.

    python tests/bench/bench_gate_statistics.py [simulations]

Every simulation asks `gate.decide` itself, with one rule: a margin of 3 points. True drop = margin: "regressed" and
"pass" are both wrong there and should be at most 5% each. The smallest effect is
`power.minimum_detectable_by_width` of the interval shown, the mean over all simulations: a drop that much beyond the
margin should be called regressed, and
one that much inside it should pass, with chance 0.8 or more. Seed spread: the true standard deviation of a recipe's
accuracy over random seeds. Recipes are simulated half as often. 500 simulations take about four minutes of one core.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from harness.check.rules import Decision, Evidence, Rule, decide
from harness.stats import Floats, power
from harness.stats.contrasts import Question
from harness.stats.design import Design
from harness.stats.score_matrix import ScoreMatrix

MARGIN = 0.03
RULE = Rule("suite", "accuracy", "margin", MARGIN)
FLIPS = 0.10  # share of items on which a retrained student differs, in either direction; more where it drops by more
PASSAGE = 8  # items of one passage where they are clustered
RIGHT = 0.8  # accuracy of the baseline
ALIKE = (0.1, 0.3)  # how much the flips of one passage go together (the correlation within it); 0: independent

Draw = Callable[[np.random.Generator, float], Evidence]  # (generator, true difference) -> what was scored


def groups_of(n: int) -> tuple[str, ...]:
    """Each item's passage."""
    return tuple(f"passage {i // PASSAGE}" for i in range(n))


def chances(rng: np.random.Generator, n: int, mean: float, alike: float) -> Floats:
    """Each item's chance, `mean` on average; one for a whole passage where its flips go together."""
    if not alike:
        return np.full(n, mean)
    total = (1 - alike) / alike
    return np.repeat(rng.beta(mean * total, (1 - mean) * total, n // PASSAGE), PASSAGE)


def student(rng: np.random.Generator, right: Floats, difference: float, alike: float) -> Floats:
    """0/1 scores of a student that is better than `right` by `difference` on average."""
    flips = max(FLIPS, 1.05 * abs(difference))
    gains, losses = (flips + difference) / 2 / (1 - RIGHT), (flips - difference) / 2 / RIGHT
    lost = rng.random(right.size) < chances(rng, right.size, losses, alike)
    gained = rng.random(right.size) < chances(rng, right.size, gains, alike)
    return np.where(right > 0, 1.0 - lost, gained.astype(np.float64))


def weights(n: int, alike: float, ignore: bool = False) -> Draw:
    """These weights: one student against the baseline on the same items."""
    groups = groups_of(n) if alike and not ignore else None

    def draw(rng: np.random.Generator, truth: float) -> Evidence:
        right = (rng.random(n) < RIGHT).astype(np.float64)
        now = student(rng, right, truth, alike)
        return Evidence(ScoreMatrix.numbered(right), ScoreMatrix.numbered(now, Design(groups)))

    return draw


def recipes(n: int, alike: float, spread: float, seeds: int) -> Draw:
    """This recipe: `seeds` random seeds a side."""
    groups = groups_of(n) if alike else None

    def draw(rng: np.random.Generator, truth: float) -> Evidence:
        right = (rng.random(n) < RIGHT).astype(np.float64)
        sides = [
            np.stack([student(rng, right, rng.normal(mean, spread), alike) for _ in range(seeds)])
            for mean in (truth, 0.0)
        ]
        now, before = (ScoreMatrix.numbered(side, Design(groups)) for side in sides)
        return Evidence(before, now, random_seed=int(rng.integers(2**31)))

    return draw


def row(name: str, draw: Draw, question: Question, count: int) -> None:
    """Simulate at the margin, then as far from it as the intervals there say they can see."""

    def simulated(truth: float, stream: int) -> list[Decision]:
        rng = np.random.default_rng(stream)
        return [decide([(RULE, draw(rng, truth))], question)[0] for _ in range(count)]

    def share(decisions: list[Decision], verdict: str) -> float:
        return sum(decision.verdict == verdict for decision in decisions) / count

    edge = simulated(-MARGIN, 0)
    smallest = float(np.mean([power.minimum_detectable_by_width(d.difference) for d in edge if d.difference]))
    worse, better = simulated(-MARGIN - smallest, 1), simulated(-MARGIN + smallest, 2)
    print(
        f"{name:62}  {share(edge, 'regressed'):6.1%} {share(edge, 'pass'):6.1%}    {100 * smallest:5.2f}   "
        f" {share(worse, 'regressed'):6.1%} {share(better, 'pass'):6.1%}"
    )


def main() -> None:
    """Print the table; a number on the command line is how many simulations of each setting."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    print(f"{'':62}  {'drop = margin':>13}    small-    {'beyond by that':>14}")
    print(f"{'setting':62}  {'alarm':>6} {'pass':>6}    est       {'alarm':>6} {'pass':>6}")
    for n in (240, 1000):
        row(f"weights, {n} independent items", weights(n, 0.0), "these weights", count)
        for alike in ALIKE:
            name = f"weights, {n} items, passages of {PASSAGE}, alike {alike}"
            row(name, weights(n, alike), "these weights", count)
            if alike == max(ALIKE):
                row(f"{name}, ignored", weights(n, alike, ignore=True), "these weights", count)
        for alike in (0.0, ALIKE[0]):
            for spread in (0.01, 0.02):
                for seeds in (3, 5):
                    words = f"passages, alike {alike}" if alike else "independent"
                    name = f"recipe, {n} items, {words}, {seeds} seeds, spread {spread}"
                    row(name, recipes(n, alike, spread, seeds), "this recipe", max(1, count // 2))


if __name__ == "__main__":
    main()
