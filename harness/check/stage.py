"""The gate: `check` compares the ship student's stored scores with the blessed ones (harness.check.bless).

Items are paired by id, on the test split only. The rules are in harness.check.rules. `ship: {question: recipe}` asks
about the recipe: all random seeds of the cell are blessed and compared, and fewer than three a side cannot tell. Else
the question is about these weights. A card with failed items is a failure of the tool, never a verdict about the
student. Works on stored scores, without torch.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.check import formats, rules
from harness.check.baseline import Baseline, BaselineSuite, baseline_path, read_baseline, shortened
from harness.check.candidate import CandidateScores
from harness.check.limits import of_all_answers, rules_of, ship_scores
from harness.check.rescore import noise_of_mean
from harness.check.rules import Decision, Evidence, Rule
from harness.config.run import Run, Ship
from harness.core.aligned import fitted
from harness.core.store import write_atomic
from harness.core.terminal import Terminal
from harness.errors import MachineError, UsageError
from harness.stats.contrasts import Question
from harness.stats.score_matrix import ScoreMatrix, align
from harness.suites.suite import Suite


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
    _require_writable(options)
    baseline, student, decisions = decisions_of(run, options.common, terminal)
    same = ", the same weights" if any(d.shade == "the same weights" for d in decisions) else ""
    question = decisions[0].question
    varies = "test items vary" if question == "these weights" else "test items and random seeds vary"
    terminal.say(f"check {run.name}: {student} against the baseline, {baseline.student}{same}")
    terminal.say(f"question: {question} ({varies}); difference: now minus baseline, [one-sided 95% bounds]")
    terminal.say(fitted(formats.HEADS, [formats.row(d) for d in decisions], terminal.width))
    for d in decisions:
        if d.note:
            terminal.say(f"{d.rule.suite} {d.rule.metric} {d.limit}: {d.note}")
    if options.annotate:
        path = str(baseline_path(run.root, run.name).relative_to(run.root))
        for line in formats.workflow_commands(path, decisions, options.unsure):
            terminal.say(line)
    unwritten = _write(run.name, student, decisions, options)
    if unwritten:  # a verdict stands whether or not it could be written down everywhere
        terminal.warn(f"the verdict could not be written everywhere: {'; '.join(unwritten)}")
    code = formats.exit_code(decisions, options.unsure)
    terminal.say(f"check: {rules.overall(decisions)} (exit {code})")
    return code


def decisions_of(run: Run, common: bool, terminal: Terminal) -> tuple[Baseline, str, list[Decision]]:
    """The baseline, the student's name and a decision per rule, in the order of the suite files."""
    baseline = read_baseline(run.root, run.name)
    ship = ship_scores(run)
    question = ship.question
    if baseline.run != run.name:
        raise UsageError(f"runs/{run.name}.baseline.json: it is the baseline of the run {baseline.run}")
    for name, why in ship.not_run.items():
        if name in baseline.suites:
            raise UsageError(f"the baseline holds the suite {name}, and eval could not run it: {why}")
        terminal.warn(f"not checked: the suite {name} was not run: {why}")
    if question != baseline.question:
        terminal.warn(f"the baseline was blessed to ask about {baseline.question}; ship now asks about {question}")
    weights = run.file.ship if question == "these weights" else None
    paired: list[tuple[Rule, Evidence]] = []
    unpaired: list[Decision] = []
    for name, scores in ship.by_suite.items():
        suite, blessed = run.suites[name], baseline.suites.get(name)
        if blessed is None:
            raise UsageError(
                f"runs/{run.name}.baseline.json: it does not hold the suite {name} (it has"
                f" {', '.join(baseline.suites)}): harness bless {run.name}"
            )
        changes = _changes(suite, scores, blessed)
        if changes:
            terminal.say(_shared_items(run.name, suite.name, changes, scores, blessed, common))
        for rule in rules_of(suite):
            if scores.failed:
                note = f"{scores.failed} items failed: {run.command('eval')}"
                unpaired.append(Decision(rule, "failed", question, 0, len(scores.ids), note=note))
            elif of_all_answers(scores, rule.metric):
                unpaired.append(_without_interval(rule, scores, question))
            else:
                before = _blessed_scores(baseline, blessed, rule, weights)
                before, now = align(before, scores.matrix(rule.metric).renamed(shortened(scores.ids)))
                noise = math.sqrt(2) * noise_of_mean(run.folder, scores.cards, rule.metric)  # of two scorings
                same = {card.student_key for card in scores.cards} <= set(baseline.student_keys.values())
                paired.append((rule, Evidence(before, now, noise, same, run.file.random_seed)))
    decisions = rules.decide(paired, question) + unpaired
    order = list(ship.by_suite)
    decisions.sort(key=lambda decision: order.index(decision.rule.suite))
    return baseline, ship.student, decisions


def _without_interval(rule: Rule, scores: CandidateScores, question: Question) -> Decision:
    """A number of all answers together against min or max: as it is, since one number has no interval."""
    now = sum(card.metrics[rule.metric] for card in scores.cards) / len(scores.cards)
    good = now >= rule.limit if rule.bound == "min" else now <= rule.limit
    note = "a number of all answers together: compared as it is, without an interval"
    items = len(scores.ids)
    return Decision(rule, "pass" if good else "regressed", question, items, items, now=now, note=note)


def _shared_items(
    run_name: str, suite: str, changes: str, scores: CandidateScores, blessed: BaselineSuite, common: bool
) -> str:
    """What a comparison of the shared items leaves out. Raises UsageError unless `common`, and where none is shared."""
    place = f"suites/{suite}.yaml: {changes}"
    if not common:
        raise UsageError(
            f"{place}; scores of different suites do not compare. Accept the new one with: harness bless"
            f" {run_name}; or compare on the shared items only: harness check {run_name} --common"
        )
    now, before = set(shortened(scores.ids)), set(blessed.item_ids())
    if not now & before:
        raise UsageError(f"{place}, and no test item is left that both have: harness bless {run_name}")
    counts = ((len(before - now), "blessed ones are gone"), (len(now - before), "are new"))
    left_out = ", ".join(f"{count} {what}" for count, what in counts if count)
    return f"{place}. Compared on the {len(now & before)} items that both have{left_out and f': {left_out}'}"


def _changes(suite: Suite, scores: CandidateScores, blessed: BaselineSuite) -> str:
    """What changed in a suite since it was blessed, in words. Empty when nothing did."""
    spec, card = suite.spec, scores.cards[0]
    now, before = set(shortened(scores.ids)), set(blessed.item_ids())
    gone, new = sorted(before - now), sorted(now - before)
    items = f"; {len(gone)} blessed items have no test score now ({_first(gone)})" if gone else ""
    items += f"; {len(new)} items are new ({_first(new)})" if new else ""
    if blessed.version != spec.version:
        note = spec.changes.get(str(spec.version))
        reason = f" ({note})" if note else ""
        return f"version {blessed.version} was blessed, this is version {spec.version}{reason}{items}"
    if blessed.suite_digest != card.suite_digest:
        return (
            f"its rules or items changed under the same version {spec.version} (digest {blessed.suite_digest} blessed,"
            f" {card.suite_digest} now){items}"
        )
    if blessed.asked != card.asked:
        then, today = ("; ".join(notes) or "as its file says" for notes in (blessed.asked, card.asked))
        return f"it was asked differently: {then} when it was blessed, {today} now{items}"
    return f"{blessed.items} test items were blessed, {len(now)} are scored now{items}" if items else ""


def _first(ids: Sequence[str]) -> str:
    """The first five of some ids."""
    return ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")


def _blessed_scores(baseline: Baseline, blessed: BaselineSuite, rule: Rule, weights: Ship | None) -> ScoreMatrix:
    """The blessed scores of a rule's metric: all random seeds, or of several the one that `weights` names.

    Raises UsageError for a metric or a random seed that was not blessed.
    """
    file = f"runs/{baseline.run}.baseline.json"
    if rule.metric not in blessed.metrics:
        raise UsageError(f"{file}: {rule.suite} was blessed without {rule.metric}: harness bless {baseline.run}")
    before, seeds = blessed.matrix(rule.metric), list(baseline.student_keys)
    if weights is None or len(seeds) == 1:
        return before
    if str(weights.random_seed) not in seeds:
        raise UsageError(
            f"{file}: it holds the random seeds {', '.join(seeds)}, ship asks about the weights of"
            f" {weights.random_seed}; ship: {{question: recipe}} asks about them all"
        )
    return before.of_seeds([seeds.index(str(weights.random_seed))])


def _require_writable(options: Options) -> None:
    """Raises UsageError, before anything is decided, for a path that can be no file. Missing folders are made."""
    for name, path in (("junit", options.junit), ("json", options.json)):
        if path is None:
            continue
        above = next(folder for folder in path.absolute().parents if folder.exists())
        if path.is_dir() or not above.is_dir():
            raise UsageError(f"--{name} {path}: {path if path.is_dir() else above} is no place for a file of that name")
        if not os.access(above, os.W_OK):
            raise UsageError(f"--{name} {path}: {above} cannot be written to")


def _write(run_name: str, student: str, decisions: Sequence[Decision], options: Options) -> list[str]:
    """Write the forms that CI reads, where options name a file. Returns what could not be written, and why."""
    verdict = (run_name, student, decisions, options.unsure)
    forms: list[tuple[Path | None, Callable[[Path], None]]] = [
        (options.junit, lambda path: _put(path, formats.junit(*verdict))),
        (options.json, lambda path: _put(path, formats.as_json(*verdict))),
        (options.summary, lambda path: _add(path, lambda room: formats.markdown(*verdict, room))),
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
    """Replace a file atomically. What is no plain file (a pipe, /dev/stdout) is written into."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        path.write_text(text, encoding="utf-8")
    else:
        write_atomic(path, text)


def _add(path: Path, text: Callable[[int], str]) -> None:
    """Append to the CI system's file. `text` is given the bytes that are left in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(text(formats.SUMMARY_BYTES - (path.stat().st_size if path.is_file() else 0)))
