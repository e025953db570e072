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
from harness.check.candidate import Shipped
from harness.check.limits import has_values, question_of, stored
from harness.check.rules import Evidence
from harness.config.run import Run
from harness.config.ship import ship_cells
from harness.core.environment import changed_files
from harness.core.store import write_json
from harness.core.terminal import Terminal
from harness.errors import UsageError
from harness.eval.results import Results
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
    there = stored(run)
    results, found = there.results, there.scored
    for name, why in there.not_run.items():
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
    for name, one in found.items():
        if one.failed:
            raise UsageError(f"{name}: {one.failed} items failed; a baseline needs them all: make eval RUN={run.name}")
        for metric, limit in run.suites[name].spec.limits.items():
            has_values(one, metric, limit)
    short = [line for name, one in found.items() for line in too_few(run, results, run.suites[name], one)]
    if short:
        raise UsageError("these limits could not be decided by their own items:\n  " + "\n  ".join(short))
    first = next(iter(found.values()))
    baseline = Baseline(
        run=run.name,
        student=first.student,
        question=question_of(run),
        student_keys={str(card.cell.random_seed if card.cell else 0): card.student_key for card in first.cards},
        environment=results.manifest.environment,
        suites={name: _blessed(run.suites[name], one) for name, one in found.items()},
    )
    baseline = baseline.model_copy(update={"digest": baseline.sealed()})
    replaced = " (replaces the one there was)" if path.is_file() else ""
    write_json(path, baseline.model_dump(mode="json"))
    terminal.say(
        f"blessed {baseline.student} as the baseline of {run.name}{replaced}, asking about {baseline.question}:"
    )
    for name, one in found.items():
        metrics = baseline.suites[name].metrics
        limits = run.suites[name].spec.limits
        numbers = ", ".join(f"{m} {metrics[m].mean if m in metrics else one.cards[0].metrics[m]:.3f}" for m in limits)
        terminal.say(f"  {name}: {len(one.ids)} test items, {numbers}")
    terminal.say(f"wrote {path.relative_to(run.root)} ({path.stat().st_size / 1024:.0f} KiB): commit it")
    return path


def too_few(run: Run, results: Results, suite: Suite, one: Shipped) -> list[str]:
    """The limits on the change that this suite's items, or the recipe's seeds, could not decide, and what it takes.

    Items are judged by how far the ship student is from its nearest kin in the run (another random seed, else the
    next size; without kin, by the fewest changes there can be): a change of that kind that changes nothing on the
    whole must be found inside the margin with a power of 0.8. A recipe's seeds are judged by their own spread and by
    what their items leave unsure of a difference between two of them.
    """
    found = []
    for metric, limit in suite.spec.limits.items():
        scores = one.scores(metric)
        if not np.isfinite(scores.values).any():  # a number of all answers together, which has no margin
            continue
        margins = [] if limit.margin is None else [limit.margin]
        if limit.margin_share is not None:
            margins.append(limit.margin_share * abs(float(np.nanmean(scores.values))))
        margin = min(margins, default=0.0)
        if not margin:
            continue
        place = f"suites/{suite.name}.yaml: limits: {metric}: a margin of {margin:.3g} needs"
        if question_of(run) == "this recipe":
            found += _too_few_seeds(place, scores, margin)
        else:
            now = scores.of_seeds([0])
            kin = _kin(run, results, suite.name, metric)
            unchanged = replace(now, design=INDEPENDENT)  # the fewest changes there can be
            evidence = Evidence(unchanged, unchanged) if kin is None else Evidence(kin, now)
            found += _too_few_items(place, evidence, margin)
    return found


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
    variances = [float((one - other).var(ddof=1)) for one, other in combinations(units, 2)]
    return math.sqrt(sum(variances) / len(variances) / units.shape[1])


def _too_few_items(place: str, evidence: Evidence, margin: float) -> list[str]:
    """Independent 0/1 scores by how many change, all others by the width of their interval."""
    now, before = evidence.paired
    items = len(now.items)
    if binary(before.values) and binary(now.values) and now.design == INDEPENDENT:
        changing = float((now.values != before.values).mean())

        def wanted(margin: float) -> int:
            flips = min(1.0, max(changing, margin))
            return power.items_needed(flips, min(margin, 0.999), rules.LEVEL)

        needed = wanted(margin)
        decided = first_true(lambda wider: wanted(wider) <= items, margin, 0.999)
        how = f"with {100 * max(changing, margin):.0f}% of them changing"
    else:
        found = evidence.difference("these weights")
        if found is None:
            return [f"{place} more items, or more passages that they stand in; there are {items} items"]
        interval = found.interval(rules.LEVEL)
        needed = math.ceil(power.items_needed_from(interval, margin) * items / interval.n)  # n counts passages
        decided = margin * math.sqrt(needed / items)
        how = "with changes as large as between its kin"
    if needed <= items:
        return []
    return [
        f"{place} about {needed} test items {how}; there are {items}: write more, or allow more"
        f" (they decide {decided:.2g})"
    ]


def _kin(run: Run, results: Results, suite: str, metric: str) -> ScoreMatrix | None:
    """The scores of the student nearest to the ship one: another random seed, the next size, the base."""
    cell = ship_cells(run)[0]
    own = [a for a in arms(results, suite) if a.student == cell.student and a.prompting == "zero_shot"]
    same = [a for a in own if (a.data, a.size) == (cell.data, cell.size)]
    for arm in same:
        values = matrix(results, arm, metric, "test")
        others = [i for i, card in enumerate(arm.cards) if card.cell and card.cell.random_seed != cell.random_seed]
        if others:
            return values.of_seeds(others[:1])
    rest = [a for a in own if a not in same and a.data in (cell.data, "")]
    if not rest:
        return None
    nearest_size = min(rest, key=lambda a: (abs(np.log2(max(a.size, 1) / max(cell.size, 1))), -a.size))
    return matrix(results, nearest_size, metric, "test").of_seeds([0])


def _blessed(suite: Suite, one: Shipped) -> BaselineSuite:
    """Every metric whose values are 0 or 1, and every metric with a limit: what a later check may ask for."""
    metrics: dict[str, BaselineMetric] = {}
    for metric in one.metrics:
        values = one.scores(metric).values
        if binary(values) or metric in suite.spec.limits:
            mean = float(f"{np.nanmean(values):.6g}")
            metrics[metric] = BaselineMetric(mean=mean, columns=tuple(Column.pack(row) for row in values))
    return BaselineSuite(
        version=suite.spec.version,
        suite_digest=one.cards[0].suite_digest,
        asked=one.cards[0].asked,
        items=len(one.ids),
        ids=pack_ids(one.ids),
        metrics=metrics,
    )
