"""The gate on really trained students: how often does it raise an alarm between random seeds of one recipe?

    python -m tests.bench.bench_real_gate RUN [BEFORE,NOW ...]        # each RUN or RUN:STUDENT, as `harness compare`

RUN has one size trained with several random seeds (`--set 'train.random_seeds=[0,1,2,3,4,5,6,7]'` on a run of one
size). Every pair of its students is compared as weights, in both directions; a regression is an alarm. Random halves
of the seeds are compared as recipes, where nothing can be worse. Then every pair named: is a planted regression caught,
does a planted improvement pass? Stored scores only.
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from harness.check.compare import Side, side
from harness.check.limits import rules_of
from harness.check.rules import Evidence, decide, overall
from harness.config.load import load_run
from harness.config.run import Run
from harness.stats.contrasts import Question
from harness.stats.score_matrix import ScoreMatrix


def run_named(name: str) -> Run:
    """The run file of a name."""
    return load_run(Path("runs") / f"{name}.yaml")


def verdict(before: Sequence[Side], now: Sequence[Side], suite: str, question: Question) -> str:
    """What the suite's rules say of one student, or one recipe of several seeds, after another."""
    import numpy as np

    then, later = [one.on(suite) for one in before], [one.on(suite) for one in now]
    rules = rules_of(before[0].run.suites[suite])
    found = []
    for rule in rules:
        a = np.concatenate([one.matrix(rule.metric).values for one in then if one])
        b = np.concatenate([one.matrix(rule.metric).values for one in later if one])
        found.append((rule, Evidence(ScoreMatrix.numbered(a), ScoreMatrix.numbered(b))))
    return overall(decide(found, question))


def main() -> None:
    """Print the counts."""
    name, *others = sys.argv[1:]
    run = run_named(name)
    suite = next(n for n, s in run.suites.items() if s.of_task and s.spec.limits)
    whole = side(f"{name}:{next(iter({c.rsplit('.s', 1)[0] for c in names(name)}))}", run_named)
    seeds = [Side(whole.run, whole.results, (cell,)) for cell in whole.cells]
    limits = ", ".join(f"{rule.metric} {rule.bound} {rule.limit:g}" for rule in rules_of(run.suites[suite]))
    print(f"{name}: {len(seeds)} random seeds of one size on {suite} ({limits})")
    for one in seeds:
        card = one.results.card(suite, one.cells[0].name, "zero_shot")
        print(f"  {one.cells[0].name}: accuracy {card.metrics['accuracy']:.4f}" if card else "  no card")
    pairs = list(itertools.combinations(seeds, 2))
    both = Counter(verdict([a], [b], suite, "these weights") for a, b in [*pairs, *((b, a) for a, b in pairs)])
    print(f"  {len(pairs)} pairs, both directions, these weights: {dict(both)}")
    half = len(seeds) // 2
    recipes = Counter(
        verdict(chosen, [s for s in seeds if s not in chosen], suite, "this recipe")
        for chosen in itertools.combinations(seeds, half)
    )
    print(f"  {sum(recipes.values())} ways to cut the seeds in halves, this recipe: {dict(recipes)}")
    for other in others:
        before, now = (side(one, run_named) for one in other.split(","))
        print(f"  {other}: {verdict([before], [now], suite, 'these weights')}")


def names(run: str) -> list[str]:
    """The tuned students a run has stored scores of."""
    from harness.eval.results import load_results

    cards = load_results(run_named(run).folder).cards
    return [card.cell.name for card in cards if card.cell and card.cell.size]


if __name__ == "__main__":
    main()
