"""`bless`: the ship student's scores become the baseline, one small file for git. It never moves by itself."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from harness import stats
from harness.check import rules
from harness.check.baseline import Baseline, BaselineMetric, BaselineSuite, Column, baseline_path, pack_ids
from harness.check.candidate import CandidateScores
from harness.check.limits import ShipScores, ship_scores
from harness.check.rules import Evidence
from harness.config.run import Run
from harness.config.ship import ship_cells
from harness.core.environment import changed_files
from harness.core.store import write_json
from harness.core.terminal import Terminal
from harness.errors import UsageError
from harness.eval.results import Results
from harness.records import Cell
from harness.report.analysis import arms, matrix
from harness.stats import binary, clusters, power
from harness.stats.design import INDEPENDENT
from harness.stats.rates import first_true
from harness.stats.score_matrix import ScoreMatrix
from harness.suites.suite import Suite


def bless(run: Run, terminal: Terminal) -> Path:
    """Write the ship student's scores as the baseline.

    Raises UsageError as `check`, for failed items, for uncommitted changes, and for a suite whose items are too
    few for its own margin.
    """
    path = baseline_path(run.root, run.name)
    ship = ship_scores(run)
    for name, why in ship.not_run.items():
        terminal.say(f"left out: the suite {name} was not run: {why}")
    status = changed_files(run.root)
    if status is None:
        terminal.say(f"{run.root} is no git checkout: the baseline names no commit")
    # baselines of other runs wait to be committed too
    changed = [name for name in status or () if not name.endswith(".baseline.json")]
    if changed:
        raise UsageError(
            f"{run.root}: {len(changed)} uncommitted change{'s' if len(changed) > 1 else ''}"
            f" ({', '.join(changed[:5])}): a baseline must name what it was made from; commit them first"
        )
    undecidable = []
    for name, scores in ship.by_suite.items():
        if scores.failed:
            raise UsageError(f"{name}: {scores.failed} items failed; a baseline needs them all: {run.command('eval')}")
        undecidable += _undecidable_limits(ship, run.suites[name], scores, ship_cells(run)[0])
    if undecidable:
        raise UsageError("these limits could not be decided by their own items:\n  " + "\n  ".join(undecidable))
    cards = next(iter(ship.by_suite.values())).cards
    baseline = Baseline(
        run=run.name,
        student=ship.student,
        question=ship.question,
        student_keys={str(card.cell.random_seed if card.cell else 0): card.student_key for card in cards},
        environment=ship.results.manifest.environment,
        suites={name: _blessed(run.suites[name], scores) for name, scores in ship.by_suite.items()},
    )
    baseline = baseline.model_copy(update={"digest": baseline.sealed()})
    replaced = " (replaces the one there was)" if path.is_file() else ""
    write_json(path, baseline.model_dump(mode="json"))
    terminal.say(
        f"blessed {baseline.student} as the baseline of {run.name}{replaced}, asking about {baseline.question}:"
    )
    for name, scores in ship.by_suite.items():
        means = scores.cards[0].metrics | {m: blessed.mean for m, blessed in baseline.suites[name].metrics.items()}
        numbers = ", ".join(f"{metric} {means[metric]:.3f}" for metric in run.suites[name].spec.limits)
        terminal.say(f"  {name}: {len(scores.ids)} test items, {numbers}")
    terminal.say(f"wrote {path.relative_to(run.root)} ({path.stat().st_size / 1024:.0f} KiB): commit it")
    return path


def _undecidable_limits(ship: ShipScores, suite: Suite, scores: CandidateScores, cell: Cell) -> list[str]:
    """The margins that this suite's items, or the recipe's seeds, could not decide, and what would decide them.

    Items are judged by how far the ship student is from the most similar student in the run (another random seed,
    else the next size), or without one by the fewest changes there can be. A change of that kind that changes nothing
    on the whole must be found inside the margin with a power of 0.8. A recipe's seeds are judged by their own
    spread and by what their items leave unsure of a difference between two of them.
    """
    lines = []
    for metric, limit in suite.spec.limits.items():
        matrix = scores.matrix(metric)
        if not np.isfinite(matrix.values).any():  # a number of all answers together, which has no margin
            continue
        margins = [] if limit.margin is None else [limit.margin]
        if limit.margin_share is not None:
            margins.append(limit.margin_share * abs(float(np.nanmean(matrix.values))))
        margin = min(margins, default=0.0)
        if not margin:
            continue
        place = f"suites/{suite.name}.yaml: limits: {metric}: a margin of {margin:.3g} needs"
        if ship.question == "this recipe":
            lines += _too_few_seeds(place, matrix, margin)
        else:
            now = matrix.of_seeds([0])
            similar = _most_similar(ship.results, suite.name, metric, cell)
            unchanged = replace(now, design=INDEPENDENT)  # the fewest changes there can be
            evidence = Evidence(unchanged, unchanged) if similar is None else Evidence(similar, now)
            lines += _too_few_items(place, evidence, margin)
    return lines


def _too_few_seeds(place: str, scores: ScoreMatrix, margin: float) -> list[str]:
    scores = scores.select(scores.complete)
    items, seeds = len(scores.items), scores.seeds
    if seeds < stats.MIN_SEEDS:
        return [f"{place} {stats.MIN_SEEDS} random seeds whatever their spread; there are {seeds}: train more"]
    spread, error = float(scores.values.mean(axis=1).std(ddof=1)), _items_error(scores)
    if error is None:
        return [f"{place} more items, or more passages that they stand in; there are {items} items"]
    needed = power.seeds_needed(spread, error, margin, rules.LEVEL)
    if needed is not None and needed <= seeds:
        return []
    how = f"scores spread by {spread:.3g} over them, and the items leave a standard error of {error:.3g}"
    if needed is None:
        most = power.MOST_SEEDS
        return [f"{place} more than {items} test items: with up to {most} random seeds they do not decide it ({how})"]
    return [f"{place} about {needed} random seeds; there are {seeds}: train more, or allow more ({how})"]


def _items_error(scores: ScoreMatrix) -> float | None:
    """The standard error that the items leave of a difference between two trainings of one recipe.

    Over all pairs of random seeds. None for too few passages or items.
    """
    units = clusters.units(scores.values, scores.design)
    if units is None or units.shape[1] < 2:
        return None
    variances = [float((first - second).var(ddof=1)) for first, second in combinations(units, 2)]
    return math.sqrt(sum(variances) / len(variances) / units.shape[1])


def _too_few_items(place: str, evidence: Evidence, margin: float) -> list[str]:
    """Independent 0/1 scores by how many change, all others by the width of their interval."""
    now, before = evidence.paired
    items = len(now.items)
    if binary(before.values) and binary(now.values) and now.design == INDEPENDENT:
        changing = float((now.values != before.values).mean())

        def items_for(margin: float) -> int:
            flips = min(1.0, max(changing, margin))
            return power.items_needed(flips, min(margin, 0.999), rules.LEVEL)

        needed = items_for(margin)
        decided = first_true(lambda wider: items_for(wider) <= items, margin, 0.999)
        how = f"with {100 * max(changing, margin):.0f}% of them changing"
    else:
        change = evidence.difference("these weights")
        if change is None:
            return [f"{place} more items, or more passages that they stand in; there are {items} items"]
        interval = change.interval(rules.LEVEL)
        needed = math.ceil(power.items_needed_from(interval, margin) * items / interval.n)  # n counts passages
        decided = margin * math.sqrt(needed / items)
        how = "with changes as large as to the most similar student"
    if needed <= items:
        return []
    return [
        f"{place} about {needed} test items {how}; there are {items}: write more, or allow more"
        f" (they decide {decided:.2g})"
    ]


def _most_similar(results: Results, suite: str, metric: str, cell: Cell) -> ScoreMatrix | None:
    """The scores of the student most similar to a cell: another random seed, else the next size, else the base."""
    zero_shot = (a for a in arms(results, suite) if a.student == cell.student and a.prompting == "zero_shot")
    student = [arm for arm in zero_shot if arm.method == cell.method or arm.kind == "base"]
    same_size = [arm for arm in student if (arm.data, arm.size) == (cell.data, cell.size)]
    for arm in same_size:
        seeds = [i for i, card in enumerate(arm.cards) if card.cell and card.cell.random_seed != cell.random_seed]
        if seeds:
            return matrix(results, arm, metric, "test").of_seeds(seeds[:1])
    sizes = [arm for arm in student if arm not in same_size and arm.data in (cell.data, "")]
    if not sizes:
        return None
    nearest_size = min(sizes, key=lambda a: (abs(np.log2(max(a.size, 1) / max(cell.size, 1))), -a.size))
    return matrix(results, nearest_size, metric, "test").of_seeds([0])


def _blessed(suite: Suite, scores: CandidateScores) -> BaselineSuite:
    """Every metric whose values are 0 or 1, and every metric with a limit: what a later check may ask for."""
    metrics: dict[str, BaselineMetric] = {}
    for metric in scores.metrics:
        values = scores.matrix(metric).values
        if binary(values) or metric in suite.spec.limits:
            mean = float(f"{np.nanmean(values):.6g}")
            metrics[metric] = BaselineMetric(mean=mean, columns=tuple(Column.pack(row) for row in values))
    return BaselineSuite(
        version=suite.spec.version,
        suite_digest=scores.cards[0].suite_digest,
        asked=scores.cards[0].asked,
        items=len(scores.ids),
        ids=pack_ids(scores.ids),
        metrics=metrics,
    )
