"""The report stage: stored scores -> report.md and its figures. Needs no torch and no vLLM."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
from pydantic import ValidationError

from harness.augment.funnel import Funnel
from harness.config.run import Run
from harness.core.json_file import read_json
from harness.core.markdown import escaped, fenced
from harness.core.record import digest
from harness.core.store import Manifest, read_manifest, require_same, require_sealed, write_atomic, write_manifest
from harness.core.terminal import Terminal
from harness.core.text import printable
from harness.errors import UsageError
from harness.eval.results import Results, results_of
from harness.report import figure, regressions, tables, wording
from harness.report.analysis import Arm, Point, arms, curve, matrix, name_of, untuned
from harness.report.headline import Headline, headline, reading
from harness.report.headline import lines as alternative_lines
from harness.report.regressions import WATCHED, Change
from harness.stats import Floats, clusters, contrasts, scaling
from harness.stats.design import Design
from harness.stats.score_matrix import align_complete
from harness.suites.suite import Suite, chance
from harness.suites.summary import LOWER_IS_BETTER, RATES
from harness.train.cells import TrainedCells, load_cells

REPORT = "report.md"
SEAL = "report.manifest.json"


def report(run: Run, terminal: Terminal) -> None:
    """Write runs/NAME/eval/report.md and its figures, print the headline and the tables."""
    results = results_of(run)
    trained = load_cells(run.folder)
    folder = run.folder / "eval"
    parts = [f"# {escaped(run.name)}: how much data does the student need?\n"]
    for card in (card for card in results.cards if card.warning):
        said = escaped(f"Look here first: {card.student} ({card.prompting}) on {card.suite}: {card.warning}")
        parts.append(f"**{said}**\n")
    for suite in (s for s in run.suites.values() if s.of_task):
        found = arms(results, suite.name)
        for student in run.file.train.students:
            parts.append(_student_section(run, results, suite, found, student, trained))
        parts.append(_closer(run, results, suite, found))
    parts.append(_others(run, results))
    parts.append(_broke(run, results))
    parts.append(_cost(run, trained))
    parts.append(_notes(run, results, trained))
    text = "\n".join(parts)
    write_atomic(folder / REPORT, text)
    write_manifest(folder, Manifest(stage="report", inputs=results.manifest.seal), [folder / REPORT], name=SEAL)
    _say(text, terminal)
    terminal.say(f"report: {(folder / REPORT).relative_to(run.root)}")


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
    """A report without its pictures."""
    terminal.say("\n".join(line for line in text.splitlines() if not line.startswith("![")))


def _student_section(
    run: Run, results: Results, suite: Suite, found: Sequence[Arm], student: str, trained: TrainedCells
) -> str:
    """Headline, figure and table of one student on the task's own items."""
    data = main_data(run)
    answer = headline(results, found, student, run.file.random_seed, data, suite.primary)
    base = untuned(found, student)
    base_reading = reading(results, base, suite.primary) if base else None
    base_metric = base_reading.metric if base_reading else suite.primary
    points = curve(results, found, student, data, suite.primary, run.file.random_seed, base_metric)
    lines = [f"## {escaped(student)} on {escaped(suite.name)}\n"]
    lines += [f"**{escaped(_answered(answer))}**\n", *_beside(run, answer)]
    if points:
        name = f"learning_curve.{file_name(suite.name)}.{file_name(student)}.png"
        caption = _caption(run, trained, student, points)
        reference = [(a.size, matrix(results, a, suite.primary, "test").mean) for a in _reference(found, data)]
        across = alternative_lines(results, found, student, suite.primary, answer)
        guess = chance(suite.items) if suite.primary in RATES else None
        picture = figure.learning_curve(
            student, suite.name, points, reference, across, guess, caption, data, suite.primary
        )
        write_atomic(run.folder / "eval" / name, picture)
        lines += [f"![learning curve]({name})\n", escaped(caption) + "\n"]
        lines += [escaped(_slope(run, results, found, student, suite.primary)) + "\n"]
        lines.append(escaped(_scaling(run, results, found, student)) + "\n")
    others = [
        a for a in found if a.student != student and a.kind == "base" and a.student not in run.file.train.students
    ]
    shown = [*others, *(a for a in found if a.student == student or a.kind == "reference")]
    lines.append(tables.main(results, shown, suite.primary, answer, suite.choices))
    return "\n".join(lines)


def _answered(answer: Headline | str) -> str:
    return answer.sentence() if isinstance(answer, Headline) else answer


def _beside(run: Run, answer: Headline | str) -> list[str]:
    """Which alternatives there were, and how to see the headline's pair alone."""
    if not isinstance(answer, Headline):
        return []
    lines = []
    if len(answer.alternatives) > 1:
        said = "; ".join(f"{a.reading.title} {wording.value(a.reading.metric, a.value)}" for a in answer.alternatives)
        lines.append(
            "On the dev items these alternatives were as good as the best, within chance. On the test items: "
            + escaped(f"{said}.")
            + "\n"
        )
    i = answer.alone.interval
    if math.isfinite(i.low):
        change = wording.change(answer.reading.metric, i.estimate, i.low, i.high)
        rival, own = (f"'{run.name}:{name_of(r.arm)}'" for r in (answer.rival.reading, answer.reading))
        command = printable(f"harness compare {rival} {own}").replace("`", "")
        lines.append(f"{escaped(f'This pair alone: {change}, as')} `{command}` prints it.\n")
    return lines


def _reference(found: Sequence[Arm], data: str) -> list[Arm]:
    return [a for a in found if a.kind == "reference" and a.data == data]


def file_name(text: str) -> str:
    """A name that others chose, as a part of a file's name that needs no escaping in a link."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", text.strip("/").replace("/", "--"))
    same = text.strip("/").replace("/", "--") == plain
    return plain if same else f"{plain}.{digest(text)[:6]}"


def main_data(run: Run) -> str:
    """The kind of data that curves and headlines are about."""
    kinds = run.file.train.data
    return "filtered" if "filtered" in kinds else kinds[0]


def _caption(run: Run, trained: TrainedCells, student: str, points: Sequence[Point]) -> str:
    """What every size has in common and what differs: stated under the figure."""
    train, data = run.file.train, main_data(run)
    own = [c for c in trained.cells if c.tuned and (c.student, c.data) == (student, data)]
    listed = ", ".join(f"{size} rows {n}" for size, n in sorted({(c.size, c.steps) for c in own}))
    seeds = len(train.random_seeds)
    against = points[-1].against_base
    interval = against.interval
    varies = "items and random seeds vary" if against.question == "this recipe" else "items vary"
    base = "the untuned zero-shot model" if 0 in train.sizes else "0: the run has no untuned model"
    return (
        f"{trained.epochs} epochs but at least {trained.min_steps} steps of {train.batch_size} rows;"
        f" steps: {listed}."
        f" {seeds} random seed{'s' if seeds > 1 else ''}. Bars: 95% interval of the paired difference to {base};"
        f" {varies} ({interval.method})."
    )


def _own(run: Run, found: Sequence[Arm], student: str) -> list[Arm]:
    """The tuned arms of a student on the main kind of data, by growing size."""
    return [a for a in found if a.kind == "student" and (a.student, a.data) == (student, main_data(run))]


def _by_seed(results: Results, own: Sequence[Arm], metric: str) -> tuple[Floats, Design]:
    """Values of shape (seeds, sizes, items) of the items that all arms have a value of, and the items' design."""
    seeds = range(min(len(arm.cards) for arm in own))
    by_size = align_complete(*(matrix(results, arm, metric, "test").of_seeds(seeds) for arm in own))
    return np.stack([scores.values for scores in by_size], axis=1), by_size[0].design


def _slope(run: Run, results: Results, found: Sequence[Arm], student: str, metric: str) -> str:
    """Whether more rows help, in points per doubling."""
    own = _own(run, found, student)
    if len(own) < 2:
        return ""
    values, design = _by_seed(results, own, metric)
    sizes, enough = [a.size for a in own], values.shape[2] > 1
    slope = contrasts.slope_per_doubling(sizes, values, run.file.random_seed, design=design) if enough else None
    if slope is None:
        return "Per doubling of rows: not estimable, too few items or passages."
    i = slope.interval
    helps, hurts = ("falls", "rises") if metric in LOWER_IS_BETTER else ("rises", "falls")
    words = {
        helps: "more rows help",
        hurts: "more rows hurt",
        "inconclusive": f"inconclusive, only {slope.changed} of {slope.units} {slope.unit} changed",
    }
    return (
        f"Per doubling of rows, {own[0].size} to {own[-1].size}: {wording.change(metric, i.estimate, i.low, i.high)}"
        f" ({slope.question}): {words.get(slope.verdict, slope.verdict)}."
    )


def _scaling(run: Run, results: Results, found: Sequence[Arm], student: str) -> str:
    """What law the loss follows, from enough sizes and random seeds; else its slope, or that neither can be told."""
    own = _own(run, found, student)
    if len(own) < 2 or any(arm.metric("gold_nll") is None for arm in own):
        return ""
    raw, design = _by_seed(results, own, "gold_nll")
    values = clusters.units(raw, design) if raw.shape[2] > 1 else None
    if values is None:
        return ""
    fitted = scaling.fit_scaling([a.size for a in own], values, run.file.random_seed)
    said = [fitted.sentence]
    for arm in (a for a in found if a.student == student and a.data == "seeds_only" and fitted.law):
        alone = arm.metric("gold_nll")
        if alone is not None:
            said.append(f"as low as with the {arm.size} seeds alone: {fitted.rows_to_reach(alone).sentence}")
    return f"Loss of the gold answers over rows: {'; '.join(said)}."


def _closer(run: Run, results: Results, suite: Suite, found: Sequence[Arm]) -> str:
    """The largest students label by label and tag by tag, beside their bases; what an answer takes."""
    lines: list[str] = []
    for student in run.file.train.students:
        own = _own(run, found, student)
        if not own:
            continue
        largest = max(own, key=lambda a: a.size)
        if suite.choices:
            lines += [
                f"### {escaped(largest.title)}, label by label\n",
                tables.by_label(results, largest, suite.choices) + "\n",
            ]
        base = [a for a in found if a.kind == "base" and a.student == student]
        tagged = tables.by_tag(results, [*base, largest], suite.primary)
        if tagged:
            lines += [f"### {escaped(wording.title(suite.primary))}, tag by tag\n", tagged + "\n"]
    return "\n".join([*lines, "### What an answer takes\n", tables.costs(found) + "\n"])


def _others(run: Run, results: Results) -> str:
    """Every model on the suites that are not the task's own: what sums each up, chance, and what an answer takes."""
    lines: list[str] = []
    for suite in (s for s in run.suites.values() if not s.of_task):
        found = arms(results, suite.name)
        if found:
            lines += [f"### {escaped(suite.name)}\n", tables.other_suite(results, found, suite.primary) + "\n"]
            lines += [tables.distributions(results, found) + "\n"] if "repeat_share" in suite.spec.item_metrics else []
    return "\n".join(["## The other suites\n", *lines]) if lines else ""


def _broke(run: Run, results: Results) -> str:
    """Other suites, before and after tuning."""
    rows: list[Change] = []
    for suite in (s for s in run.suites.values() if not s.of_task):
        watched = [metric for metric in WATCHED if metric != "label_collapse" or run.task.labels]
        metrics = list(dict.fromkeys((suite.primary, *watched)))
        rows += regressions.changes(results, suite.name, run.file.random_seed, metrics)
    lines = ["## What tuning broke\n", escaped(regressions.summary(rows)) + "\n"]
    for student in run.file.train.students:
        drawn = regressions.panels(rows, student, main_data(run))
        if drawn:
            name = f"forgetting.{file_name(student)}.png"
            write_atomic(run.folder / "eval" / name, figure.forgetting(student, drawn))
            lines.append(f"![what tuning broke]({name})\n")
    if rows:
        lines.append(regressions.section(rows))
        lines.append(
            "The largest size of each kind of data; the figure shows the others. Every interval is a 95% one of its"
            f" own: of {len(rows)} comparisons about {len(rows) / 20:.0f} would seem to have changed by chance alone.\n"
        )
    return "\n".join(lines) + "\n"


def _cost(run: Run, trained: TrainedCells) -> str:
    """What the rows and the training took."""
    lines = ["## What it cost\n"]
    path = run.folder / "augment" / "funnel.json"
    if path.is_file():
        try:
            require_sealed(path.parent, [path.name], f"make augment RUN={run.name}")
            funnel = read_json(path)
            lines.append(fenced(Funnel.model_validate(funnel).table()) + "\n")
        except ValidationError as error:
            raise UsageError(f"{path}: not a funnel of this version; make augment RUN={run.name}") from error
    tuned = [cell for cell in trained.cells if cell.tuned]
    seconds, tokens = sum(c.seconds for c in tuned), sum(c.tokens for c in tuned)
    if tuned:
        lines.append(
            f"Training: {len(tuned)} cells, {tokens} tokens, {seconds:.0f} s"
            f" ({tokens / max(seconds, 1e-9):.0f} tokens/s), counted also where another run had trained them.\n"
        )
    return "\n".join(lines)


def _notes(run: Run, results: Results, trained: TrainedCells) -> str:
    """What a reader must know to trust the numbers."""
    notes = [f"The suite {name} was not run: {why}" for name, why in results.not_run.items()]
    if results.partial:
        notes.append("Eval was stopped: students or suites are missing, and the largest size may be one of them.")
    shared = dict.fromkeys(f"{card.suite}: {note}" for card in results.cards for note in card.notes)
    notes += [*trained.notes, *results.notes, *shared]
    for card in results.cards:
        if card.choice is not None:
            notes.append(f"{card.suite}: {card.student} ({card.prompting}) {card.choice.sentence}.")
    for card in (card for card in results.cards if not card.complete):
        why = next((score.error for score in results.scores(card) if score.status == "failed"), "")
        notes.append(
            f"{card.suite} for {card.student} ({card.prompting}) is incomplete: {card.failed} of {card.items} items"
            f" failed, the first because: {why}"
        )
    known = {name: suite.digest for name, suite in run.suites.items()}
    for name in dict.fromkeys(c.suite for c in results.cards if known.get(c.suite, c.suite_digest) != c.suite_digest):
        notes.append(f"suites/{name}.yaml or its items changed since it was scored: make eval RUN={run.name}")
    if run.file.shuffle_labels:
        notes.append("Null run: labels were dealt at random; any effect on the task's own items is a false alarm.")
    if run.file.ship is None:
        notes.append(_no_ship(run))
    notes.append(
        f"Scores: digest {results.digest}. Dev items (a quarter, by digest) chose the alternatives, how an untuned"
        " model is read, and the reference's settings; every number above is on the other items."
    )
    return "\n".join(["## Notes\n", *(f"- {escaped(note)}" for note in notes)]) + "\n"


def _no_ship(run: Run) -> str:
    """What a run without a ship section does not get, and how to get it."""
    sizes = [size for size in run.file.train.sizes if size]
    wanted = f"ship: {{student: {run.file.train.students[0]}, data: {main_data(run)}, size: {max(sizes, default=0)}}}"
    return (
        f"runs/{run.name}.yaml has no ship section, so that check, bless, rescore and compare with the run's bare"
        f" name do not know which student is judged; for a verdict add: {wanted}"
    )
