"""The gate: `bless` stores the ship student's scores in one small file for git, `check` compares with it.

Items are paired by id, on the test split only. A difference is now minus baseline; each end of its interval
is a one-sided 95% bound: Tango (1998) for 0/1 scores, paired BCa bootstrap for real ones. Per limit:

    max_drop m        pass: the lower bound is above -m     regressed: the upper bound is below -m
    max_drop_share s  as max_drop, m = s x the baseline's value, which is taken as it was blessed
    max_rise m        pass: the upper bound is below m      regressed: the lower bound is above m
    min v, max v      likewise on the value itself (Wilson, or BCa), not on the difference

Neither is "not enough data". A drop that is sure but inside the margin passes. Where no item changed, the
limits on the change pass, however few the items. An answer without a value counts as wrong in a rate; other
values that the baseline has and these scores lack cannot be paired, and more than 5% of them leave a pass
undecided. A card with failed items is a failure of the tool, never a verdict about the student.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness import stats
from harness.baseline import Baseline, BaselineMetric, BaselineSuite, baseline_path, read_baseline
from harness.config import Run
from harness.errors import MachineError, NotEnoughData, Regression, UsageError, nearest
from harness.records import Cell, Score, Scorecard, digest
from harness.results import Results, load_results
from harness.scoring.suites import Limit, Suite
from harness.scoring.summary import RATES
from harness.store import read_manifest, write_json
from harness.terminal import Terminal

LEVEL = 0.90  # two-sided, so that each end alone is a 95% bound
LOST_SHARE = 0.05  # of the baseline's values may be missing now before a pass is doubted

Verdict = Literal["pass", "regressed", "not enough data", "failed"]
Bound = Literal["min", "max", "max_drop", "max_rise", "max_drop_share"]
BOUNDS: tuple[Bound, ...] = ("min", "max", "max_drop", "max_drop_share", "max_rise")


@dataclass(frozen=True)
class Decision:
    """One limit's verdict."""

    suite: str
    metric: str
    limit: str  # as the suite file writes it
    verdict: Verdict
    items: str  # paired items, "of" all test items where some could not be paired
    baseline: float | None = None
    now: float | None = None
    difference: stats.Interval | None = None
    note: str = ""


@dataclass(frozen=True)
class Scored:
    """The ship student's stored scores on one gated suite: the card, and its test items by id."""

    name: str
    suite: Suite
    card: Scorecard
    test: dict[str, Score]

    @property
    def ids(self) -> str:
        """sha256 over the sorted ids of the test items."""
        return digest("items", sorted(self.test))

    def column(self, metric: str) -> stats.Floats:
        """The metric over test items in id order, six digits; NaN where there is none, 0 for a rate."""
        absent = 0.0 if metric in RATES else float("nan")
        found = [self.test[item].values.get(metric, absent) for item in sorted(self.test)]
        column = np.array([float(f"{value:.6g}") for value in found])
        return np.where(np.isfinite(column), column, np.nan)  # an infinite log-likelihood is no value


def bless(run: Run, terminal: Terminal) -> Path:
    """Write the ship student's scores as the baseline. Raises UsageError as `check`, and for failed items."""
    path = baseline_path(run.root, run.name)
    results, scored = _stored(run)
    for suite in scored:
        if not suite.card.complete:
            raise UsageError(
                f"{suite.name}: {suite.card.failed} of {suite.card.items} items failed; a baseline needs them"
                f" all: make eval RUN={run.name}"
            )
        for metric in suite.suite.spec.limits:
            _has_values(suite, metric)
    manifest = read_manifest(results.folder)
    baseline = Baseline(
        run=run.name,
        student=scored[0].card.student,
        student_key=scored[0].card.student_key,
        environment=manifest.environment if manifest else {},
        suites={suite.name: _blessed(suite) for suite in scored},
    )
    baseline = baseline.model_copy(update={"digest": baseline.sealed()})
    replaced = " (replaces the one there was)" if path.is_file() else ""
    write_json(path, baseline.model_dump(mode="json"))
    terminal.say(f"blessed {baseline.student} as the baseline of {run.name}{replaced}:")
    for suite in scored:
        numbers = ", ".join(f"{m} {baseline.suites[suite.name].metrics[m].mean:.3f}" for m in suite.suite.spec.limits)
        terminal.say(f"  {suite.name}: {len(suite.test)} test items, {numbers}")
    terminal.say(f"wrote {path.relative_to(run.root)} ({path.stat().st_size / 1024:.0f} KiB): commit it")
    return path


def check(run: Run, terminal: Terminal) -> int:
    """Print every limit's verdict and return the exit code: 0 pass, 1 regressed, 3 failed, 4 not enough data.

    Raises UsageError (2): no ship section, no limits, no baseline or a damaged one, no stored scores, another
    suite or other items than were blessed.
    """
    baseline = read_baseline(run.root, run.name)
    _, scored = _stored(run)
    decisions = [d for suite in scored for d in _decide_suite(run, suite, baseline)]
    student = scored[0].card.student
    same = ", the same weights" if scored[0].card.student_key == baseline.student_key else ""
    terminal.say(f"check {run.name}: {student} against the baseline, {baseline.student}{same}")
    terminal.say("question: these weights (test items vary); difference: now minus baseline, [one-sided 95% bounds]")
    terminal.say(table(decisions))
    code = exit_code(decisions)
    for decision in decisions:
        if decision.note:
            terminal.say(f"{decision.suite} {decision.metric} {decision.limit}: {decision.note}")
    worst = {d.verdict for d in decisions}
    words: tuple[Verdict, ...] = ("failed", "regressed", "not enough data", "pass")
    terminal.say(f"check: {next(word for word in words if word in worst)} (exit {code})")
    return code


def exit_code(decisions: list[Decision]) -> int:
    """A failure of the tool before a regression, a regression before a doubt."""
    verdicts = {decision.verdict for decision in decisions}
    if "failed" in verdicts:
        return MachineError.exit_code
    if "regressed" in verdicts:
        return Regression.exit_code
    return NotEnoughData.exit_code if "not enough data" in verdicts else 0


def table(decisions: list[Decision]) -> str:
    """The verdicts in aligned columns."""

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.4g}"

    def interval(found: stats.Interval | None) -> str:
        return f"{found.estimate:+.4f} [{found.low:+.4f}, {found.high:+.4f}]" if found else "-"

    rows = [("suite", "metric", "baseline", "now", "difference [95% bounds]", "limit", "items", "verdict")]
    for d in decisions:
        numbers = (number(d.baseline), number(d.now), interval(d.difference))
        rows.append((d.suite, d.metric, *numbers, d.limit, d.items, d.verdict))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _stored(run: Run) -> tuple[Results, list[Scored]]:
    """The ship student's stored scores on every suite that has limits."""
    if run.file.ship is None:
        raise UsageError(
            f"runs/{run.name}.yaml: it has no ship section, which says which student is judged:"
            " ship: {student: ..., data: filtered, size: ..., random_seed: 0}"
        )
    gated = {name: suite for name, suite in run.suites.items() if suite.spec.limits}
    if not gated:
        raise UsageError(
            f"runs/{run.name}.yaml: none of its suites ({', '.join(run.suites)}) has limits: nothing to"
            " check; write in a suite file, e.g.: limits: {accuracy: {max_drop: 0.03}}"
        )
    ship = run.file.ship
    size = len(run.seeds) if ship.data == "seeds_only" and ship.size else ship.size
    cell = Cell(student=ship.student, data=ship.data, size=size, random_seed=ship.random_seed)
    results = load_results(run.folder)
    return results, [_scored(run, results, cell.name, name, suite) for name, suite in gated.items()]


def _scored(run: Run, results: Results, student: str, name: str, suite: Suite) -> Scored:
    again = f"make eval RUN={run.name}"
    for metric, limit in suite.spec.limits.items():
        if all(getattr(limit, bound) is None for bound in BOUNDS):
            raise UsageError(f"suites/{name}.yaml: limits: {metric}: it sets none of {', '.join(BOUNDS)}")
    card = results.card(name, student, "zero_shot")
    if card is None:
        known = sorted({c.student for c in results.cards if c.suite == name})
        stored = f"it has {', '.join(known)}" if known else "the suite was not run"
        raise UsageError(f"{results.folder}: no stored scores of {student} on {name} ({stored}); {again}")
    if card.suite_digest != suite.digest:
        raise UsageError(
            f"suites/{name}.yaml: the suite changed since it was scored (digest {card.suite_digest} then,"
            f" {suite.digest} now); {again}"
        )
    test = {score.item: score for score in results.scores(card) if score.split == "test"}
    if not test:
        raise UsageError(f"suites/{name}.yaml: none of its {card.items} items is in the test split")
    return Scored(name, suite, card, test)


def _blessed(scored: Scored) -> BaselineSuite:
    """Every 0/1 metric, and every metric with a limit: what a later check may ask for."""
    metrics: dict[str, BaselineMetric] = {}
    for metric in sorted({name for score in scored.test.values() for name in score.values}):
        packed = BaselineMetric.pack(scored.column(metric))
        if packed.bits or metric in scored.suite.spec.limits:
            metrics[metric] = packed
    return BaselineSuite(
        version=scored.suite.spec.version,
        suite_digest=scored.card.suite_digest,
        card=scored.card.key,
        items=len(scored.test),
        ids=scored.ids,
        metrics=metrics,
    )


def _has_values(scored: Scored, metric: str) -> None:
    known = sorted({name for score in scored.test.values() for name in score.values})
    if metric not in known:
        why = "is a number of the whole suite" if metric in scored.card.metrics else "is no metric of this suite"
        raise UsageError(
            f"suites/{scored.name}.yaml: limits: {metric!r} {why}; a limit needs a value per item"
            f"{nearest(metric, known)}; allowed: {', '.join(known)}"
        )


def _comparable(run: Run, scored: Scored, then: BaselineSuite) -> None:
    """Refuse another version, other rules or other items, saying what changed."""
    place, spec = f"suites/{scored.name}.yaml", scored.suite.spec
    again = f"scores of different suites do not compare; accept the new one with: harness bless {run.name}"
    if then.version != spec.version:
        note = spec.changes.get(str(spec.version))
        said = f" ({note})" if note else ""
        raise UsageError(f"{place}: version {then.version} was blessed, this is version {spec.version}{said}; {again}")
    if then.suite_digest != scored.card.suite_digest:
        raise UsageError(
            f"{place}: its rules or items changed under the same version {spec.version} (digest"
            f" {then.suite_digest} blessed, {scored.card.suite_digest} now); {again}"
        )
    if then.ids != scored.ids:
        gone = sorted({item.id for item in scored.suite.items} - set(scored.test))[:5]
        named = f"; among those without a test score: {', '.join(gone)}" if gone else ""
        raise UsageError(
            f"{place}: {then.items} test items were blessed, {len(scored.test)} are scored now, and they are"
            f" not the same{named}; {again}"
        )


def _decide_suite(run: Run, scored: Scored, baseline: Baseline) -> list[Decision]:
    then, place = baseline.suites.get(scored.name), f"runs/{run.name}.baseline.json"
    if then is None:
        raise UsageError(
            f"{place}: it does not hold the suite {scored.name} (it has {', '.join(baseline.suites)}):"
            f" harness bless {run.name}"
        )
    _comparable(run, scored, then)
    decisions: list[Decision] = []
    for metric, limit in scored.suite.spec.limits.items():
        bounds = [(bound, getattr(limit, bound)) for bound in BOUNDS if getattr(limit, bound) is not None]
        if not scored.card.complete:
            note = f"{scored.card.failed} of {scored.card.items} items failed: make eval RUN={run.name}"
            items = f"{len(scored.test)}"
            decisions += [
                Decision(scored.name, metric, f"{bound} {value:g}", "failed", items, note=note)
                for bound, value in bounds
            ]
            continue
        if metric not in then.metrics:
            _has_values(scored, metric)
            raise UsageError(f"{place}: {scored.name} was blessed without {metric}: harness bless {run.name}")
        before = then.metrics[metric].unpack(then.items)
        decisions += _decide(scored.name, metric, limit, Paired(before, scored.column(metric), run.file.random_seed))
    return decisions


@dataclass(frozen=True)
class Paired:
    """One metric before and now: shape (items,), same order, NaN where an item has no value."""

    before: stats.Floats
    now: stats.Floats
    random_seed: int

    @property
    def both(self) -> NDArray[np.bool_]:
        """Which items have a value on both sides."""
        return np.isfinite(self.before + self.now)

    @property
    def lost(self) -> int:
        """Items that had a value when they were blessed and have none now."""
        return int((~np.isnan(self.before) & np.isnan(self.now)).sum())

    @property
    def binary(self) -> bool:
        """Whether every value is 0 or 1."""
        found = np.concatenate([self.before, self.now])
        return bool(np.isin(found[~np.isnan(found)], (0.0, 1.0)).all())

    @property
    def unchanged(self) -> bool:
        """Whether every item has the value it had."""
        return bool(np.array_equal(self.before, self.now, equal_nan=True)) and bool(self.both.any())

    def difference(self) -> stats.Interval | None:
        """Now minus before over paired items; None where there are too few for an interval."""
        now, before = self.now[self.both], self.before[self.both]
        if self.binary and now.size:
            return stats.paired_binary(now, before, LEVEL)
        return stats.paired_bootstrap(now, before, self.random_seed, LEVEL) if now.size > 1 else None

    def value(self) -> stats.Interval | None:
        """The value now over items that have one; None where there are too few for an interval."""
        now = self.now[~np.isnan(self.now)]
        if self.binary and now.size:
            return stats.wilson(int(now.sum()), now.size, LEVEL)
        return stats.mean_interval(now, self.random_seed, LEVEL) if now.size > 1 else None


def _decide(suite: str, metric: str, limit: Limit, paired: Paired) -> list[Decision]:
    """One decision per bound of a limit."""
    count, total = int(paired.both.sum()), len(paired.now)
    items = f"{count}" if count == total else f"{count} of {total}"
    difference, value = paired.difference(), paired.value()
    had = paired.before[~np.isnan(paired.before)]
    was = float(had.mean()) if had.size else None
    decisions: list[Decision] = []
    for bound in BOUNDS:
        allowed = getattr(limit, bound)
        if allowed is None:
            continue
        about_value = bound in ("min", "max")
        found = value if about_value else difference
        line = {"max_drop": -allowed, "max_drop_share": -allowed * abs(was or 0.0)}.get(bound, allowed)
        above = bound not in ("max", "max_rise")
        verdict, note = judged(found, line, above), ""
        if paired.unchanged and not about_value:
            verdict, note = "pass", "no item changed"
        elif verdict == "pass" and paired.lost > LOST_SHARE * had.size:
            verdict, note = (
                "not enough data",
                f"{paired.lost} items that were blessed with a value have none now",
            )
        elif verdict == "not enough data":
            note = _why_undecided(paired, found, line, about_value)
        elif verdict == "pass" and found and not about_value and (found.high < 0 if above else found.low > 0):
            note = "worse than the baseline, yet surely inside the limit"
        now = value.estimate if value else None
        decisions.append(Decision(suite, metric, f"{bound} {allowed:g}", verdict, items, was, now, difference, note))
    return decisions


def judged(found: stats.Interval | None, line: float, above: bool) -> Verdict:
    """Where an interval lies: wholly on the good side of `line`, wholly on the bad one, or neither."""
    if found is None:
        return "not enough data"
    inside, outside = (found.low > line, found.high < line) if above else (found.high < line, found.low > line)
    return "pass" if inside else "regressed" if outside else "not enough data"


def _why_undecided(paired: Paired, found: stats.Interval | None, line: float, about_value: bool) -> str:
    """What keeps a limit from a verdict, and what these items could have shown."""
    if found is None:
        return "fewer than two items have values on both sides"
    text = f"[{found.low:+.4f}, {found.high:+.4f}] reaches across the limit at {line:+.4g}"
    if about_value or not paired.binary:
        return text
    flips = float((paired.now != paired.before)[paired.both].mean())
    smallest = stats.smallest_difference(found.n, flips, level=LEVEL)
    if smallest is None:
        return f"{text}; {found.n} items with so few changes show no difference of any size"
    return f"{text}; {found.n} items with so many changes show a difference from {smallest:.3f} (power 0.8)"
