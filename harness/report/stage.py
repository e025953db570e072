"""The report stage: stored scores -> report.md and its figures. Needs no torch and no vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from harness.augment.funnel import Funnel
from harness.config.run import Run, Train
from harness.core.json_file import read_json
from harness.core.markdown import escaped, fenced
from harness.core.store import Manifest, read_manifest, require_same, require_sealed, write_atomic, write_manifest
from harness.core.terminal import Terminal
from harness.errors import UsageError
from harness.eval.current import results_of
from harness.eval.results import Results
from harness.report import figure, regressions, tables, wording
from harness.report.analysis import arms
from harness.report.data_arms import data_arms_section
from harness.report.methods import methods_section
from harness.report.student_section import file_name, main_data, main_method, student_section, tuned_arms
from harness.suites.suite import Suite
from harness.train.cells import TrainedCell, load_cells

REPORT = "report.md"
SEAL = "report.manifest.json"


def report(run: Run, terminal: Terminal) -> None:
    """Write runs/NAME/eval/report.md and its figures, print the headline and the tables."""
    results, trained = results_of(run), load_cells(run.folder)
    train, random_seed = run.file.train, run.file.random_seed
    data, method = main_data(train.data_names), main_method(train)
    task_suites = [suite for suite in run.suites.values() if suite.of_task]
    public_suites = [suite for suite in run.suites.values() if not suite.of_task]

    parts = [f"# {escaped(run.name)}: how much data does the student need?\n"]
    for card in (card for card in results.cards if card.warning):
        warning = escaped(f"Look here first: {card.student} ({card.prompting}) on {card.suite}: {card.warning}")
        parts.append(f"**{warning}**\n")
    for suite in task_suites:
        parts += [student_section(results, suite, name, train, trained, random_seed) for name in train.students]
        parts.append(_breakdown(results, suite, train.students, data, method))
    parts += filter(None, [methods_section(results, task_suites, train, trained.cells, random_seed)])
    funnel = _funnel(run.folder / "augment" / "funnel.json")
    parts += filter(None, [data_arms_section(results, run, trained.cells, funnel, random_seed)])
    if public_suites:
        parts.append(_public_suites(results, public_suites))
    metrics = [name for name in regressions.WATCHED if name != "label_collapse" or run.task.labels]
    parts.append(_regressions(results, public_suites, metrics, train.students, (data, method), random_seed))
    parts.append(_cost(funnel, [cell for cell in trained.cells if cell.tuned]))
    notes = [*trained.notes, *_notes(results)]
    if run.file.shuffle_labels:
        notes.append("Null run: labels were dealt at random; any effect on the task's own items is a false alarm.")
    if run.file.ship is None:
        notes.append(_how_to_ship(run.name, train))
    notes.append(
        f"Scores: digest {results.digest}. Dev items (a quarter, by digest) chose the alternatives, how an untuned"
        " model is read, and the reference's settings; every number above is on the other items."
    )
    parts.append("\n".join(["## Notes\n", *(f"- {escaped(note)}" for note in notes)]) + "\n")

    path, text = results.folder / REPORT, "\n".join(parts)
    write_atomic(path, text)
    write_manifest(results.folder, Manifest(stage="report", inputs=results.manifest.seal), [path], name=SEAL)
    _say(text, terminal)
    terminal.say(f"report: {path.relative_to(run.root)}")


def show(run: Run, terminal: Terminal) -> None:
    """Print the stored report again.

    Raises UsageError where there is none, where it was edited, and where it is of other scores than are stored now.
    """
    folder, command = run.folder / "eval", f"make report RUN={run.name}"
    path = folder / REPORT
    if not path.is_file():
        raise UsageError(f"{run.name} has no report yet: make eval RUN={run.name}")
    results = results_of(run)
    manifest = read_manifest(folder, SEAL)
    if manifest is None or manifest.inputs != results.manifest.seal:
        raise UsageError(f"{path}: it is of other scores than are stored now, or its seal is gone; {command}")
    require_same(folder, REPORT, manifest, command)
    _say(path.read_text(encoding="utf-8"), terminal)


def _say(text: str, terminal: Terminal) -> None:
    """Print a report without its pictures."""
    terminal.say("\n".join(line for line in text.splitlines() if not line.startswith("![")))


def _breakdown(results: Results, suite: Suite, students: Sequence[str], data: str, method: str) -> str:
    """The largest tuned arm of each student by label and by tag, then the cost of an answer of every arm."""
    suite_arms = arms(results, suite.name)
    parts: list[str] = []
    for student in students:
        tuned = tuned_arms(suite_arms, student, data, method)
        if not tuned:
            continue
        largest = tuned[-1]
        if suite.choices:
            parts.append(f"### {escaped(largest.title)}, label by label\n")
            parts.append(tables.by_label(results, largest, suite.choices) + "\n")
        bases = [arm for arm in suite_arms if arm.kind == "base" and arm.student == student]
        tagged = tables.by_tag(results, [*bases, largest], suite.primary)
        if tagged:
            parts += [f"### {escaped(wording.title(suite.primary))}, tag by tag\n", tagged + "\n"]
    return "\n".join([*parts, "### What an answer takes\n", tables.costs(suite_arms) + "\n"])


def _public_suites(results: Results, suites: Sequence[Suite]) -> str:
    """Every model on the suites that are not the task's own: its primary metric, chance, and the cost of an answer."""
    parts = ["## The other suites\n"]
    for suite in suites:
        suite_arms = arms(results, suite.name)
        if suite_arms:
            metrics = (suite.primary, *suite.spec.item_metrics)
            parts += [f"### {escaped(suite.name)}\n", tables.other_suite(results, suite_arms, metrics) + "\n"]
            if "repeat_share" in suite.spec.item_metrics:
                parts.append(tables.distributions(results, suite_arms) + "\n")
    return "\n".join(parts)


def _regressions(
    results: Results, suites: Sequence[Suite], metrics: Sequence[str], students: Sequence[str],
    drawn: tuple[str, str], random_seed: int,
) -> str:  # fmt: skip
    """The suites that are not the task's own, before and after tuning. Writes a figure per student.

    `drawn`: the kind of data and the method that it draws.
    """
    changes = [
        change
        for suite in suites
        for change in regressions.changes(
            results, suite.name, random_seed, list(dict.fromkeys((suite.primary, *metrics)))
        )
    ]
    parts = ["## What tuning broke\n", escaped(regressions.summary(changes)) + "\n"]
    for student in students:
        panels = regressions.panels(changes, student, *drawn)
        if panels:
            name = f"forgetting.{file_name(student)}.png"
            write_atomic(results.folder / name, figure.forgetting(student, panels))
            parts.append(f"![what tuning broke]({name})\n")
    if changes:
        count = len(changes)
        parts.append(regressions.section(changes))
        parts.append(
            "The largest size of each kind of data and method; the figure shows the others. Every interval is a 95% one"
            f" of its own: of {count} comparisons about {count / 20:.2g} would seem to have changed by chance alone.\n"
        )
    return "\n".join(parts) + "\n"


def _funnel(path: Path) -> Funnel | None:
    """What became of the rows, or None where augment has not run. Raises UsageError for a damaged file."""
    if not path.is_file():
        return None
    command = f"make augment RUN={path.parent.parent.name}"
    require_sealed(path.parent, [path.name], command)
    try:
        return Funnel.model_validate(read_json(path))
    except ValidationError as error:
        raise UsageError(f"{path}: not a funnel of this version; {command}") from error


def _cost(funnel: Funnel | None, tuned: Sequence[TrainedCell]) -> str:
    """What the rows and the training took."""
    parts = ["## What it cost\n"]
    if funnel:
        parts.append(fenced(funnel.table()) + "\n")
    if tuned:
        seconds, tokens = sum(cell.seconds for cell in tuned), sum(cell.tokens for cell in tuned)
        parts.append(
            f"Training: {len(tuned)} cells, {tokens} tokens, {seconds:.0f} s"
            f" ({tokens / max(seconds, 1e-9):.0f} tokens/s), counted also where another run had trained them.\n"
        )
    return "\n".join(parts)


def _notes(results: Results) -> list[str]:
    """What is missing from the scores, how items were asked, and what changed since."""
    notes = [f"The suite {name} was not run: {why}" for name, why in results.not_run.items()]
    if results.partial:
        notes.append("Eval was stopped: students or suites are missing, and the largest size may be one of them.")
    notes += [*results.notes, *dict.fromkeys(f"{card.suite}: {note}" for card in results.cards for note in card.notes)]
    for card in results.cards:
        if card.choice is not None:
            notes.append(f"{card.suite}: {card.student} ({card.prompting}) {card.choice.sentence}.")
    for card in (card for card in results.cards if not card.complete):
        why = next((score.error for score in results.scores(card) if score.status == "failed"), "")
        notes.append(
            f"{card.suite} for {card.student} ({card.prompting}) is incomplete: {card.failed} of {card.items} items"
            f" failed, the first because: {why}"
        )
    changed = [
        card.suite
        for card in results.cards
        if card.suite in results.suites and results.suites[card.suite].digest != card.suite_digest
    ]
    for name in dict.fromkeys(changed):
        notes.append(f"suites/{name}.yaml or its items changed since it was scored: {results.command}")
    return notes


def _how_to_ship(run_name: str, train: Train) -> str:
    """What a run without a ship section lacks, and how to add one."""
    largest = max((size for size in train.sizes if size), default=0)
    method = f", method: {main_method(train)}" if main_method(train) else ""
    data = main_data(train.data_names)
    ship = f"ship: {{student: {train.students[0]}, data: {data}, size: {largest}{method}}}"
    return (
        f"runs/{run_name}.yaml has no ship section, so that check, bless, rescore and compare with the run's bare"
        f" name do not know which student is judged; for a verdict add: {ship}"
    )
