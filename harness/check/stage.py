"""The gate: `check` compares the ship student's stored scores with the blessed ones (harness.check.bless).

Items are paired by id, on the test split only; the rules are harness.check.rules'. `ship: {question: recipe}` asks
about the recipe: all random seeds of the cell are blessed and compared, and fewer than three a side cannot tell. Else
the question is about these weights. A card with failed items is a failure of the tool, never a verdict about the
student. Works on stored scores, without torch.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.check import formats, rules
from harness.check.baseline import Baseline, BaselineSuite, baseline_path, read_baseline, shortened
from harness.check.candidate import Shipped
from harness.check.limits import has_values, of_all_together, question_of, rules_of, stored
from harness.check.rescore import noise_of_mean
from harness.check.rules import Decision, Evidence, Rule
from harness.config.run import Run
from harness.core.aligned import aligned
from harness.core.store import write_atomic
from harness.core.terminal import Terminal
from harness.errors import MachineError, UsageError
from harness.stats.contrasts import Question
from harness.stats.score_matrix import align
from harness.suites.suite import Limit, Suite


@dataclass(frozen=True)
class Options:
    """How `check` decides and where it writes."""

    common: bool = False  # compare on the shared items where a suite changed
    unsure: formats.Unsure = "fail"
    junit: Path | None = None
    json: Path | None = None
    summary: Path | None = None  # a Markdown file that is added to
    annotate: bool = False  # print workflow commands


def check(run: Run, terminal: Terminal, options: Options | None = None) -> int:
    """Print every rule's verdict and return the exit code: 0 pass, 1 regressed, 3 failed, 4 inconclusive.

    Raises UsageError (2): no ship section, no limits, no baseline or a damaged one, no stored scores, another
    suite or other items than were blessed.
    """
    options = options or Options()
    _writable(options)
    baseline, student, decisions = decisions_of(run, options.common, terminal)
    same = ", the same weights" if any(d.shade == "the same weights" for d in decisions) else ""
    terminal.say(f"check {run.name}: {student} against the baseline, {baseline.student}{same}")
    terminal.say(
        f"question: {decisions[0].question} ({_what_varies(decisions[0].question)}); difference: now minus baseline,"
        " [one-sided 95% bounds]"
    )
    terminal.say(aligned([formats.HEADS, *map(formats.row, decisions)]))
    for d in decisions:
        if d.note:
            terminal.say(f"{d.rule.suite} {d.rule.metric} {d.limit}: {d.note}")
    if options.annotate:
        path = str(baseline_path(run.root, run.name).relative_to(run.root))
        for line in formats.workflow_commands(path, decisions, options.unsure):
            terminal.say(line)
    unwritten = _write(run, student, decisions, options)
    if unwritten:  # a verdict stands whether or not it could be written down everywhere
        terminal.warn(f"the verdict could not be written everywhere: {'; '.join(unwritten)}")
    code = formats.exit_code(decisions, options.unsure)
    terminal.say(f"check: {rules.overall(decisions)} (exit {code})")
    return code


def decisions_of(run: Run, common: bool, terminal: Terminal) -> tuple[Baseline, str, list[Decision]]:
    """The baseline, the student's name and a decision per rule, in the order of the suite files."""
    baseline = read_baseline(run.root, run.name)
    there = stored(run)
    found = there.scored
    if baseline.run != run.name:
        raise UsageError(f"runs/{run.name}.baseline.json: it is the baseline of the run {baseline.run}")
    for name, why in there.not_run.items():
        if name in baseline.suites:
            raise UsageError(f"the baseline holds the suite {name}, and eval could not run it: {why}")
        terminal.say(f"not checked: the suite {name} was not run: {why}")
    question = question_of(run)
    if question != baseline.question:
        terminal.say(f"the baseline was blessed to ask about {baseline.question}; ship now asks about {question}")
    paired: list[tuple[Rule, Evidence]] = []
    failed: list[Decision] = []
    plain: list[Decision] = []
    for name, one in found.items():
        then = baseline.suites.get(name)
        if then is None:
            raise UsageError(
                f"runs/{run.name}.baseline.json: it does not hold the suite {name} (it has"
                f" {', '.join(baseline.suites)}): harness bless {run.name}"
            )
        _require_comparable(run, run.suites[name], one, then, common, terminal)
        if one.failed:
            note = f"{one.failed} items failed: make eval RUN={run.name}"
            failed += [
                Decision(rule, "failed", question, 0, len(one.ids), note=note) for rule in rules_of(run.suites[name])
            ]
            continue
        for rule in rules_of(run.suites[name]):
            if of_all_together(one, rule.metric):
                plain.append(_compared(rule, one, question))
            else:
                paired.append((rule, _evidence(run, baseline, then, one, rule)))
    decided = rules.decide(paired, question) + plain + failed
    order = list(found)
    decided.sort(key=lambda d: order.index(d.rule.suite))
    return baseline, next(iter(found.values())).student, decided


def _what_varies(question: Question) -> str:
    return "test items vary" if question == "these weights" else "test items and random seeds vary"


def _compared(rule: Rule, one: Shipped, question: Question) -> Decision:
    """A number of all answers together against min or max: as it is, since one number has no interval."""
    has_values(one, rule.metric, Limit.model_validate({rule.bound: rule.limit}))
    now = sum(card.metrics[rule.metric] for card in one.cards) / len(one.cards)
    good = now >= rule.limit if rule.bound == "min" else now <= rule.limit
    note = "a number of all answers together: compared as it is, without an interval"
    items = len(one.ids)
    return Decision(rule, "pass" if good else "regressed", question, items, items, now=now, note=note)


def _require_comparable(
    run: Run, suite: Suite, one: Shipped, then: BaselineSuite, common: bool, terminal: Terminal
) -> None:
    """Raises UsageError where suite or items are not those that were blessed, unless `common` and some are shared."""
    changed = _what_changed(suite, one, then)
    if not changed:
        return
    place = f"suites/{suite.name}.yaml"
    if not common:
        raise UsageError(
            f"{place}: {changed}; scores of different suites do not compare. Accept the new one with: harness bless"
            f" {run.name}; or compare on the shared items only: harness check {run.name} --common"
        )
    mine, theirs = set(shortened(one.ids)), set(then.item_ids())
    if not mine & theirs:
        raise UsageError(f"{place}: {changed}, and no test item is left that both have: harness bless {run.name}")
    terminal.say(
        f"{place}: {changed}. Compared on the {len(mine & theirs)} items that both have:"
        f" {len(theirs - mine)} blessed ones are gone, {len(mine - theirs)} are new"
    )


def _what_changed(suite: Suite, one: Shipped, then: BaselineSuite) -> str:
    """In words; empty when nothing did."""
    spec, card = suite.spec, one.cards[0]
    mine, theirs = set(shortened(one.ids)), set(then.item_ids())
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
    if then.asked != card.asked:
        return f"it was asked differently: {_asked(then.asked)} when it was blessed, {_asked(card.asked)} now{items}"
    return f"{then.items} test items were blessed, {len(mine)} are scored now{items}" if items else ""


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")


def _asked(notes: Sequence[str]) -> str:
    return "; ".join(notes) or "as its file says"


def _evidence(run: Run, baseline: Baseline, then: BaselineSuite, one: Shipped, rule: Rule) -> Evidence:
    if rule.metric not in then.metrics:
        has_values(one, rule.metric)
        raise UsageError(
            f"runs/{run.name}.baseline.json: {one.suite} was blessed without {rule.metric}: harness bless {run.name}"
        )
    before, now = then.scores(rule.metric), one.scores(rule.metric)
    if question_of(run) == "these weights" and before.seeds > 1:
        before = before.of_seeds([_blessed_seed(run, baseline)])
    before, now = align(before, replace(now, items=shortened(now.items)))
    keys = {card.student_key for card in one.cards}
    return Evidence(
        before,
        now,
        math.sqrt(2) * noise_of_mean(run.folder, one.cards, rule.metric),  # of a difference of two scorings
        same=keys <= set(baseline.student_keys.values()),
        random_seed=run.file.random_seed,
    )


def _blessed_seed(run: Run, baseline: Baseline) -> int:
    """Of several blessed random seeds the one that ship names. Raises UsageError when it was not blessed."""
    ship, seeds = run.file.ship, list(baseline.student_keys)
    wanted = str(ship.random_seed) if ship else ""
    if wanted not in seeds:
        raise UsageError(
            f"runs/{run.name}.baseline.json: it holds the random seeds {', '.join(seeds)}, ship asks about the weights"
            f" of {wanted or 'none'}; ship: {{question: recipe}} asks about them all"
        )
    return seeds.index(wanted)


def _writable(options: Options) -> None:
    """Raises UsageError, before anything is decided, for a path that can be no file. Missing folders are made."""
    for name, path in (("junit", options.junit), ("json", options.json)):
        if path is None:
            continue
        above = next(folder for folder in path.absolute().parents if folder.exists())
        if path.is_dir() or not above.is_dir():
            raise UsageError(f"--{name} {path}: {path if path.is_dir() else above} is no place for a file of that name")
        if not os.access(above, os.W_OK):
            raise UsageError(f"--{name} {path}: {above} cannot be written to")


def _write(run: Run, student: str, decisions: Sequence[Decision], options: Options) -> list[str]:
    """Write the forms that CI reads, where they were asked for; returns what could not be written, and why."""
    told = (run.name, student, decisions, options.unsure)
    forms: list[tuple[Path | None, Callable[[Path], None]]] = [
        (options.junit, lambda path: _put(path, formats.junit(*told))),
        (options.json, lambda path: _put(path, formats.as_json(*told))),
        (options.summary, lambda path: _add(path, lambda room: formats.markdown(*told, room))),
    ]
    unwritten = []
    for path, write in forms:
        try:
            if path is not None:
                write(path)
        except OSError as error:
            unwritten.append(f"{path}: {error.strerror or error}")
        except MachineError as error:
            unwritten.append(str(error))
    return unwritten


def _put(path: Path, text: str) -> None:
    """Write a whole file; into what is no plain file (a pipe, /dev/stdout), without taking its place."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        path.write_text(text, encoding="utf-8")
    else:
        write_atomic(path, text)


def _add(path: Path, text: Callable[[int], str]) -> None:
    """Add to the system's own file, which others add to as well; `text` is given the bytes that are left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(text(formats.SUMMARY_BYTES - (path.stat().st_size if path.is_file() else 0)))
