"""The gate: `bless` stores the ship student's scores in one small file for git, `check` compares with it.

Items are paired by id, on the test split only; the rules are harness.gate's. `ship: {question: recipe}` asks about
the recipe: all random seeds of the cell are blessed and compared, and fewer than three a side cannot tell. Else
the question is about these weights. A card with failed items is a failure of the tool, never a verdict about the
student. Works on stored scores, without torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness import gate
from harness.analysis import arms, matrix
from harness.config import Run
from harness.environment import changed_files
from harness.errors import UsageError, nearest
from harness.gate import Decision, Evidence, Question, Rule, announce
from harness.gate.baseline import (
    Baseline,
    BaselineMetric,
    BaselineSuite,
    Column,
    baseline_path,
    cut,
    pack_ids,
    read_baseline,
)
from harness.gate.shipped import Shipped, better, fresh, ship_cells, shipped
from harness.noise import noise_floor
from harness.results import Results, load_results
from harness.scoring.suites import Suite
from harness.stats import Floats, power
from harness.stats.rates import first_true
from harness.store import read_manifest, write_atomic, write_json
from harness.terminal import Terminal

BOUNDS: tuple[gate.Bound, ...] = ("margin", "margin_share", "min", "max")


@dataclass(frozen=True)
class Options:
    """How `check` decides and where it writes."""

    common: bool = False  # compare on the shared items where a suite changed
    unsure: announce.Unsure = "fail"
    junit: Path | None = None
    json: Path | None = None
    summary: Path | None = None  # a Markdown file that is added to
    annotate: bool = False  # print workflow commands


# --- bless --------------------------------------------------------------------------------------------------


def bless(run: Run, terminal: Terminal) -> Path:
    """Write the ship student's scores as the baseline.

    Raises UsageError as `check`, for failed items, for uncommitted changes, and for a suite whose items are too
    few for its own margin.
    """
    path = baseline_path(run.root, run.name)
    results, found = _stored(run)
    own = path.relative_to(run.root).parts  # git names paths from the top of the checkout
    changed = [name for name in changed_files(run.root) if Path(name).parts[-len(own) :] != own]
    if changed:
        raise UsageError(
            f"{run.root}: {len(changed)} uncommitted change{'s' if len(changed) > 1 else ''}"
            f" ({', '.join(changed[:5])}): a baseline must name what it was made from; commit them first"
        )
    for name, one in found.items():
        if one.failed:
            raise UsageError(f"{name}: {one.failed} items failed; a baseline needs them all: make eval RUN={run.name}")
        for metric in run.suites[name].spec.limits:
            _has_values(one, metric)
    short = [line for name, one in found.items() for line in too_few(run, results, run.suites[name], one)]
    if short:
        raise UsageError("these limits could not be decided by their own items:\n  " + "\n  ".join(short))
    manifest = read_manifest(results.folder)
    first = next(iter(found.values()))
    baseline = Baseline(
        run=run.name,
        student=first.student,
        question=question_of(run),
        student_keys={str(card.cell.random_seed if card.cell else 0): card.student_key for card in first.cards},
        environment=manifest.environment if manifest else {},
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
        numbers = ", ".join(f"{m} {metrics[m].mean:.3f}" for m in run.suites[name].spec.limits)
        terminal.say(f"  {name}: {len(one.ids)} test items, {numbers}")
    terminal.say(f"wrote {path.relative_to(run.root)} ({path.stat().st_size / 1024:.0f} KiB): commit it")
    return path


def too_few(run: Run, results: Results, suite: Suite, one: Shipped) -> list[str]:
    """The limits on the change that this suite's items, or the recipe's seeds, could not decide, and what it takes.

    Items are judged by how far the ship student is from its nearest kin in the run (another random seed, else the
    next size; without kin, by the fewest changes there can be): a change of that kind that changes nothing on the
    whole must be found inside the margin with a power of 0.8. A recipe's seeds are judged by their own spread.
    """
    found = []
    for metric, limit in suite.spec.limits.items():
        values = one.matrix(metric)
        margins = [] if limit.margin is None else [limit.margin]
        if limit.margin_share is not None:
            margins.append(limit.margin_share * abs(float(np.nanmean(values))))
        margin = min(margins, default=0.0)
        if not margin:
            continue
        place = f"suites/{suite.name}.yaml: limits: {metric}: a margin of {margin:.3g} needs about"
        if question_of(run) == "this recipe":
            found += _too_few_seeds(place, values, margin)
        else:
            kin = _kin(run, results, suite.name, metric)
            alone = Evidence(values[:1], values[:1])
            evidence = alone if kin is None else Evidence(kin, values[:1], *one.ties())
            found += _too_few_items(place, evidence, margin)
    return found


def _too_few_seeds(place: str, values: Floats, margin: float) -> list[str]:
    """`values`: shape (random seeds, items)."""
    seeds = len(values)
    spread = float(np.nanmean(values, axis=1).std(ddof=1)) if seeds > 1 else 0.0
    needed = power.seeds_needed(spread, 0.0, margin, level=gate.LEVEL) or power.MOST_SEEDS
    if needed <= seeds:
        return []
    how = f"with scores that spread by {spread:.3g} over them" if seeds > 1 else "whatever their spread"
    return [f"{place} {needed} random seeds {how}; there are {seeds}: train more, or allow more"]


def _too_few_items(place: str, evidence: Evidence, margin: float) -> list[str]:
    """Independent 0/1 scores by how many change, all others by the width of their interval."""
    there = evidence.there
    items, before, now = int(there.sum()), evidence.before[:, there], evidence.now[:, there]
    binary = bool(np.isin((before, now), (0.0, 1.0)).all())
    if binary and evidence.groups is None and evidence.strata is None:
        changing = float((now != before).mean())

        def wanted(margin: float) -> int:
            flips = min(1.0, max(changing, margin))
            return power.items_needed(flips, 0.0, level=gate.LEVEL, shift=-min(margin, 0.999))

        needed = wanted(margin)
        decided = first_true(lambda wider: wanted(wider) <= items, margin, 0.999)
        how = f"with {100 * max(changing, margin):.0f}% of them changing"
    else:
        found = evidence.difference("these weights")
        if found is None:
            return [f"{place} more items, or more passages that they stand in; there are {items} items"]
        interval = found.interval(gate.LEVEL)
        needed = math.ceil(power.items_needed_from(interval, margin) * items / interval.n)  # n counts passages
        decided = margin * math.sqrt(needed / items)
        how = "with changes as large as between its kin"
    if needed <= items:
        return []
    return [
        f"{place} {needed} test items {how}; there are {items}: write more, or allow more (they decide {decided:.2g})"
    ]


def _kin(run: Run, results: Results, suite: str, metric: str) -> Floats | None:
    """Values (1, items) of the student nearest to the ship one: another random seed, the next size, the base."""
    cell = ship_cells(run)[0]
    own = [a for a in arms(results, suite) if a.student == cell.student and a.prompting == "zero_shot"]
    same = [a for a in own if (a.data, a.size) == (cell.data, cell.size)]
    for arm in same:
        values = matrix(results, arm, metric, "test")
        others = [i for i, card in enumerate(arm.cards) if card.cell and card.cell.random_seed != cell.random_seed]
        if others:
            return values[others[:1]]
    rest = [a for a in own if a not in same and a.data in (cell.data, "")]
    if not rest:
        return None
    nearest_size = min(rest, key=lambda a: (abs(np.log2(max(a.size, 1) / max(cell.size, 1))), -a.size))
    return matrix(results, nearest_size, metric, "test")[:1]


def _blessed(suite: Suite, one: Shipped) -> BaselineSuite:
    """Every metric whose values are 0 or 1, and every metric with a limit: what a later check may ask for."""
    metrics: dict[str, BaselineMetric] = {}
    for metric in one.metrics:
        values = one.matrix(metric)
        binary = bool(np.isin(values, (0.0, 1.0)).all())
        if binary or metric in suite.spec.limits:
            mean = float(f"{np.nanmean(values):.6g}")
            metrics[metric] = BaselineMetric(mean=mean, columns=tuple(Column.pack(row) for row in values))
    return BaselineSuite(
        version=suite.spec.version,
        suite_digest=one.cards[0].suite_digest,
        asked=one.cards[0].notes,
        items=len(one.ids),
        ids=pack_ids(one.ids),
        metrics=metrics,
    )


# --- check --------------------------------------------------------------------------------------------------


def check(run: Run, terminal: Terminal, options: Options | None = None) -> int:
    """Print every rule's verdict and return the exit code: 0 pass, 1 regressed, 3 failed, 4 not enough data.

    Raises UsageError (2): no ship section, no limits, no baseline or a damaged one, no stored scores, another
    suite or other items than were blessed.
    """
    options = options or Options()
    baseline, student, decisions = decisions_of(run, options.common, terminal)
    same = ", the same weights" if any(d.shade == "the same weights" for d in decisions) else ""
    terminal.say(f"check {run.name}: {student} against the baseline, {baseline.student}{same}")
    terminal.say(
        f"question: {decisions[0].question} ({_what_varies(decisions[0].question)}); difference: now minus baseline,"
        " [one-sided 95% bounds]"
    )
    terminal.say(announce.table(announce.HEADS, [announce.row(d) for d in decisions]))
    for d in decisions:
        if d.note:
            terminal.say(f"{d.rule.suite} {d.rule.metric} {d.limit}: {d.note}")
    _write(run, student, decisions, options, terminal)
    code = announce.exit_code(decisions, options.unsure)
    terminal.say(f"check: {gate.overall(decisions)} (exit {code})")
    return code


def decisions_of(run: Run, common: bool, terminal: Terminal) -> tuple[Baseline, str, list[Decision]]:
    """The baseline, the student's name and a decision per rule, in the order of the suite files."""
    baseline = read_baseline(run.root, run.name)
    _, found = _stored(run)
    question = question_of(run)
    if question != baseline.question:
        terminal.say(f"the baseline was blessed to ask about {baseline.question}; ship now asks about {question}")
    rules: list[tuple[Rule, Evidence]] = []
    failed: list[Decision] = []
    for name, one in found.items():
        then = baseline.suites.get(name)
        if then is None:
            raise UsageError(
                f"runs/{run.name}.baseline.json: it does not hold the suite {name} (it has"
                f" {', '.join(baseline.suites)}): harness bless {run.name}"
            )
        shared = _shared(run, run.suites[name], one, then, common, terminal)
        if one.failed:
            note = f"{one.failed} items failed: make eval RUN={run.name}"
            failed += [
                Decision(rule, "failed", question, 0, len(one.ids), note=note) for rule in rules_of(run.suites[name])
            ]
            continue
        rules += [(rule, _evidence(run, baseline, then, one, rule, shared)) for rule in rules_of(run.suites[name])]
    decided = gate.decide(rules, question) + failed
    order = list(found)
    decided.sort(key=lambda d: order.index(d.rule.suite))
    return baseline, next(iter(found.values())).student, decided


def rules_of(suite: Suite) -> list[Rule]:
    """Every bound of every limit of a suite file. Raises UsageError for a limit that sets none."""
    rules = []
    for metric, limit in suite.spec.limits.items():
        set_ = [(bound, getattr(limit, bound)) for bound in BOUNDS if getattr(limit, bound) is not None]
        if not set_:
            raise UsageError(f"suites/{suite.name}.yaml: limits: {metric}: it sets none of {', '.join(BOUNDS)}")
        rules += [Rule(suite.name, metric, bound, float(value), better(metric, limit)) for bound, value in set_]
    return rules


def question_of(run: Run) -> Question:
    """What `ship:` asks about; a base is not trained, so that only its weights can be asked about."""
    ship = run.file.ship
    return "this recipe" if ship and ship.size and ship.question == "recipe" else "these weights"


def _what_varies(question: Question) -> str:
    return "test items vary" if question == "these weights" else "test items and random seeds vary"


def _stored(run: Run) -> tuple[Results, dict[str, Shipped]]:
    """The ship student's stored scores on every suite that has limits."""
    cells = ship_cells(run)
    gated = {name: suite for name, suite in run.suites.items() if suite.spec.limits}
    if not gated:
        raise UsageError(
            f"runs/{run.name}.yaml: none of its suites ({', '.join(run.suites)}) has limits: nothing to"
            " check; write in a suite file, e.g.: limits: {accuracy: {margin: 0.05}}"
        )
    for suite in gated.values():
        rules_of(suite)
    results = load_results(run.folder)
    return results, {name: fresh(shipped(results, cells, name, run), suite, run) for name, suite in gated.items()}


def _has_values(one: Shipped, metric: str) -> None:
    if metric not in one.metrics:
        why = "is a number of the whole suite" if metric in one.cards[0].metrics else "is no metric of this suite"
        raise UsageError(
            f"suites/{one.suite}.yaml: limits: {metric!r} {why}; a limit needs a value per item"
            f"{nearest(metric, one.metrics)}; allowed: {', '.join(one.metrics)}"
        )


def _shared(
    run: Run, suite: Suite, one: Shipped, then: BaselineSuite, common: bool, terminal: Terminal
) -> list[str] | None:
    """None where suite and items are those that were blessed; the shared items' ids with `common`; else refused."""
    changed = _what_changed(suite, one, then)
    if not changed:
        return None
    place = f"suites/{suite.name}.yaml"
    if not common:
        raise UsageError(
            f"{place}: {changed}; scores of different suites do not compare. Accept the new one with: harness bless"
            f" {run.name}; or compare on the shared items only: harness check {run.name} --common"
        )
    mine, theirs = {cut(item) for item in one.ids}, set(then.item_ids())
    if not mine & theirs:
        raise UsageError(f"{place}: {changed}, and no test item is left that both have: harness bless {run.name}")
    terminal.say(
        f"{place}: {changed}. Compared on the {len(mine & theirs)} items that both have:"
        f" {len(theirs - mine)} blessed ones are gone, {len(mine - theirs)} are new"
    )
    return sorted(mine & theirs)


def _what_changed(suite: Suite, one: Shipped, then: BaselineSuite) -> str:
    """In words; empty when nothing did."""
    spec, card = suite.spec, one.cards[0]
    mine, theirs = {cut(item) for item in one.ids}, set(then.item_ids())
    gone, new = sorted(theirs - mine), sorted(mine - theirs)
    words = [f"{len(gone)} blessed items have no test score now ({_some(gone)})"] if gone else []
    words += [f"{len(new)} items are new ({_some(new)})"] if new else []
    items = "".join(f"; {word}" for word in words)
    if then.version != spec.version:
        note = spec.changes.get(str(spec.version))
        said = f" ({note})" if note else ""
        return f"version {then.version} was blessed, this is version {spec.version}{said}{items}"
    if then.suite_digest != card.suite_digest:
        return (
            f"its rules or items changed under the same version {spec.version} (digest {then.suite_digest} blessed,"
            f" {card.suite_digest} now){items}"
        )
    if then.asked != card.notes:
        return f"it was asked differently: {_asked(then.asked)} when it was blessed, {_asked(card.notes)} now{items}"
    return f"{then.items} test items were blessed, {len(mine)} are scored now{items}" if items else ""


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")


def _asked(notes: Sequence[str]) -> str:
    return "; ".join(notes) or "as its file says"


def _evidence(
    run: Run, baseline: Baseline, then: BaselineSuite, one: Shipped, rule: Rule, shared: list[str] | None
) -> Evidence:
    if rule.metric not in then.metrics:
        _has_values(one, rule.metric)
        raise UsageError(
            f"runs/{run.name}.baseline.json: {one.suite} was blessed without {rule.metric}: harness bless {run.name}"
        )
    before = then.metrics[rule.metric].matrix(then.items)
    if shared is not None:
        wanted = set(shared)
        before = before[:, [item in wanted for item in then.item_ids()]]
    groups, strata = one.ties(shared)
    keys = {card.student_key for card in one.cards}
    return Evidence(
        before,
        one.matrix(rule.metric, shared),
        groups,
        strata,
        _noise(run, one, rule.metric),
        same=keys == set(baseline.student_keys.values()),
        random_seed=run.file.random_seed,
    )


def _noise(run: Run, one: Shipped, metric: str) -> float:
    """Standard deviation of a difference of two scorings, where `harness noise` has measured one of them."""
    floors = [(noise_floor(run.folder, card.key) or {}).get(metric, 0.0) for card in one.cards]
    return math.sqrt(2) * math.hypot(*floors) / len(floors)


def _write(run: Run, student: str, decisions: Sequence[Decision], options: Options, terminal: Terminal) -> None:
    """The forms that CI reads, where they were asked for."""
    if options.junit:
        write_atomic(options.junit, announce.junit(run.name, student, decisions, options.unsure))
    if options.json:
        write_atomic(options.json, announce.as_json(run.name, student, decisions, options.unsure))
    if options.summary:
        there = options.summary.read_text(encoding="utf-8") if options.summary.is_file() else ""
        room = announce.SUMMARY_BYTES - len(there.encode())
        text = announce.markdown(run.name, student, decisions, options.unsure, room)
        with options.summary.open("a", encoding="utf-8") as file:  # the system's own file: others add to it too
            file.write(text)
    if options.annotate:
        path = str(baseline_path(run.root, run.name).relative_to(run.root))
        for line in announce.workflow_commands(path, decisions, options.unsure):
            terminal.say(line)
