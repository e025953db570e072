"""The report stage: stored scores -> report.md and its figures. Needs no torch and no vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import ValidationError

from harness import figure, stats, tables
from harness.analysis import (
    NEUTRAL,
    WATCHED,
    Arm,
    Change,
    Point,
    arms,
    changes,
    curve,
    headline,
    matrix,
    ordered,
    panels,
    ties,
)
from harness.config import Run
from harness.errors import UsageError
from harness.funnel import Funnel
from harness.json_file import read_json
from harness.results import Results, load_cells, load_results
from harness.scoring.suites import LabelsSuite, OpenEndedSuite, Suite
from harness.scoring.summary import chance
from harness.stats import Floats, clusters, scaling
from harness.store import remade_by, write_atomic
from harness.tables import value_interval
from harness.terminal import Terminal


def report(run: Run, terminal: Terminal) -> None:
    """Write runs/NAME/eval/report.md and its figures, print the headline and the tables."""
    results = load_results(run.folder)
    cells = load_cells(run.folder)
    folder = run.folder / "eval"
    parts = [f"# {run.name}: how much data does the student need?\n"]
    for suite in (s for s in run.suites.values() if s.of_task):
        found = arms(results, suite.name)
        for student in run.file.train.students:
            parts.append(_student_section(run, results, suite, found, student, cells))
        parts.append(_closer(run, results, suite, found))
    parts.append(_others(run, results))
    parts.append(_broke(run, results))
    parts.append(_cost(run, cells))
    parts.append(_notes(run, results, cells))
    text = "\n".join(parts)
    write_atomic(folder / "report.md", text)
    terminal.say("\n".join(line for line in text.splitlines() if not line.startswith("![")))
    terminal.say(f"report: {(folder / 'report.md').relative_to(run.root)}")


def _student_section(
    run: Run, results: Results, suite: Suite, found: Sequence[Arm], student: str, cells: dict[str, Any]
) -> str:
    """Headline, figure and table of one student on the task's own items."""
    data = main_data(run)
    answer = headline(results, found, student, run.file.random_seed, data, suite.primary)
    points = curve(results, found, student, data, suite.primary)
    lines = [f"## {student} on {suite.name}\n"]
    lines.append(f"**{answer.sentence()}**\n" if answer else "No tuned student to speak of.\n")
    if points:
        name = f"learning_curve.{suite.name}.{student.strip('/').replace('/', '--')}.png"
        caption = _caption(run, cells, student, points)
        picture = figure.learning_curve(student, points, found, chance(suite), caption, data, suite.primary)
        write_atomic(run.folder / "eval" / name, picture)
        lines += [f"![learning curve]({name})\n", caption + "\n", _slope(run, results, found, student, suite.primary)]
        lines.append(_scaling(run, results, found, student))
    others = [
        a for a in found if a.student != student and a.kind == "base" and a.student not in run.file.train.students
    ]
    shown = [*others, *(a for a in found if a.student == student or a.kind == "reference")]
    lines.append(_table(results, shown, suite.primary))
    return "\n".join(lines)


def main_data(run: Run) -> str:
    """The kind of data that curves and headlines are about."""
    kinds = run.file.train.data
    return "filtered" if "filtered" in kinds else kinds[0]


def _caption(run: Run, cells: dict[str, Any], student: str, points: Sequence[Point]) -> str:
    """What every size has in common and what differs: stated under the figure."""
    train, data = run.file.train, main_data(run)
    own = [c for c in cells["cells"] if c["student"] == student and c["size"] and c["data"] == data]
    listed = ", ".join(f"{size} rows {n}" for size, n in sorted({(c["size"], c["updates"]) for c in own}))
    seeds = len(train.random_seeds)
    interval = points[-1].against_base.interval
    varies = "items and random seeds vary" if seeds >= stats.MIN_SEEDS else "items vary"
    base = "the untuned zero-shot model" if 0 in train.sizes else "0: the run has no untuned model"
    return (
        f"{cells['epochs']} epochs but at least {cells['min_updates']} updates of {train.batch_rows} rows;"
        f" updates: {listed}."
        f" {seeds} random seed{'s' if seeds > 1 else ''}. Bars: 95% interval of the paired difference to {base};"
        f" {varies} ({interval.method})."
    )


def _own(run: Run, found: Sequence[Arm], student: str) -> list[Arm]:
    """The tuned arms of a student on the main kind of data, by growing size."""
    return [a for a in found if a.kind == "student" and (a.student, a.data) == (student, main_data(run))]


def _by_seed(results: Results, own: Sequence[Arm], metric: str) -> Floats | None:
    """Values of shape (seeds, sizes, units): items as good as independent, that all arms have; None for too few."""
    by_size = [matrix(results, arm, metric, "test") for arm in own]
    seeds = min(map(len, by_size))
    values = np.array([[size[seed] for size in by_size] for seed in range(seeds)])
    there = np.isfinite(values).all(axis=(0, 1))
    if there.sum() < 2:
        return None
    return clusters.units(values[:, :, there], **ties(results, own[0]).of(there).named)


def _slope(run: Run, results: Results, found: Sequence[Arm], student: str, metric: str) -> str:
    """Whether more rows help, in points per doubling."""
    own = _own(run, found, student)
    if len(own) < 2:
        return ""
    values = _by_seed(results, own, metric)
    if values is None:
        return "Per doubling of rows: not estimable, too few items or passages.\n"
    slope = stats.slope_per_doubling([a.size for a in own], values, run.file.random_seed)
    i = slope.interval
    words = {"rises": "more rows help", "falls": "more rows hurt"}.get(slope.verdict, slope.verdict)
    return (
        f"Per doubling of rows, {own[0].size} to {own[-1].size}: {100 * i.estimate:+.1f} points"
        f" [{100 * i.low:+.1f}, {100 * i.high:+.1f}] ({slope.question}): {words}.\n"
    )


def _scaling(run: Run, results: Results, found: Sequence[Arm], student: str) -> str:
    """What law the loss follows, from enough sizes and random seeds; else its slope, or that neither can be told."""
    own = _own(run, found, student)
    if len(own) < 2 or any(arm.metric("gold_nll") is None for arm in own):
        return ""
    values = _by_seed(results, own, "gold_nll")
    if values is None:
        return ""
    fitted = scaling.fit_scaling([a.size for a in own], values, run.file.random_seed)
    said = [fitted.sentence]
    for arm in (a for a in found if a.student == student and a.data == "seeds_only" and fitted.law):
        alone = arm.metric("gold_nll")
        if alone is not None:
            said.append(f"as low as with the {arm.size} seeds alone: {fitted.rows_to_reach(alone).sentence}")
    return f"Loss of the gold answers over rows: {'; '.join(said)}.\n"


COLUMNS = (
    ("preferred", "preferred"),
    ("accuracy", "written answer"),
    ("choice_accuracy", "by log-likelihood"),
    ("macro_f1", "macro-F1"),
    ("token_f1", "token F1"),
    ("abstained", "abstained"),
    ("wrong", "wrong"),
    ("made_up", "made up"),
    ("gold_probability", "p(gold)"),
    ("stop_rate", "stopped"),
    ("words", "words"),
)


def _table(results: Results, found: Sequence[Arm], primary: str) -> str:
    """One line per arm; what sums the suite up comes first, with its interval."""
    if not found:
        return ""
    columns = [(name, head) for name, head in COLUMNS if any(arm.metric(name) is not None for arm in found)]
    columns.sort(key=lambda column: column[0] != primary)
    rows = []
    for arm in found:
        row = [arm.title]
        for name, _ in columns:
            value = arm.metric(name)
            row.append("" if value is None else f"{value:.1f}" if name == "words" else f"{value:.3f}")
        if columns and columns[0][0] == primary:
            row[1] = tables.share(value_interval(results, arm, primary)) if arm.complete else "incomplete"
        row.append(str(round(sum(card.unparsed for card in arm.cards) / len(arm.cards))))
        rows.append(row)
    count = len(ordered(results, found[0].cards[0], "test"))
    text = tables.markdown(["asked", *(head for _, head in columns), "unparsed"], rows)
    return f"{text}\n\n{count} test items; rates divide by all of them. Unparsed counts all items, dev too.\n"


def _closer(run: Run, results: Results, suite: Suite, found: Sequence[Arm]) -> str:
    """The largest students label by label and tag by tag, beside their bases; what an answer takes."""
    lines: list[str] = []
    for student in run.file.train.students:
        own = _own(run, found, student)
        if not own:
            continue
        largest = max(own, key=lambda a: a.size)
        if isinstance(suite.spec, LabelsSuite):
            lines += [f"### {largest.title}, label by label\n", tables.by_label(results, largest, suite.labels) + "\n"]
        base = [a for a in found if a.kind == "base" and a.student == student]
        tagged = tables.by_tag(results, [*base, largest], suite.primary)
        if tagged:
            lines += [f"### {suite.primary.replace('_', ' ')}, tag by tag\n", tagged + "\n"]
    return "\n".join([*lines, "### What an answer takes\n", tables.costs(found) + "\n"])


def _others(run: Run, results: Results) -> str:
    """Every model on the suites that are not the task's own: what sums each up, chance, and what an answer takes."""
    lines: list[str] = []
    for suite in (s for s in run.suites.values() if not s.of_task):
        found = arms(results, suite.name)
        if found:
            lines += [f"### {suite.name}\n", tables.other_suite(results, found, suite.primary) + "\n"]
            lines += [tables.distributions(results, found) + "\n"] if isinstance(suite.spec, OpenEndedSuite) else []
    return "\n".join(["## The other suites\n", *lines]) if lines else ""


def _broke(run: Run, results: Results) -> str:
    """Other suites, before and after tuning."""
    rows: list[Change] = []
    for suite in (s for s in run.suites.values() if not s.of_task):
        watched = [metric for metric in WATCHED if metric != "label_collapse" or run.task.labels]
        rows += changes(results, suite.name, run.file.random_seed, watched)
    lines = ["## What tuning broke\n"]
    broken = [c for c in rows if c.broke]
    if not rows:
        lines.append("No other suite was run on both a tuned student and its untuned base.\n")
    elif not broken:
        lines.append("Nothing measurable; each line says how small a change its items would have shown.\n")
    else:
        named = dict.fromkeys(f"{c.suite} {c.metric}" for c in broken)
        lines.append(f"Measurably worse: {', '.join(named)}.\n")
    for student in run.file.train.students:
        drawn = panels(rows, student, main_data(run))
        if drawn:
            name = f"forgetting.{student.strip('/').replace('/', '--')}.png"
            write_atomic(run.folder / "eval" / name, figure.forgetting(student, drawn))
            lines.append(f"![what tuning broke]({name})\n")
    shown = [c for c in rows if c.arm.size == max(o.arm.size for o in rows if _alike(o, c))]
    if shown:
        heads = ("suite", "metric", "student", "before", "after", "difference", "verdict", "could have seen")
        lines.append(tables.markdown(heads, [_change_row(c) for c in shown]) + "\n")
        lines.append("The largest size of each kind of data; the figure shows the others.\n")
    return "\n".join(lines) + "\n"


def _alike(a: Change, b: Change) -> bool:
    """Whether two changes are of one student and one kind of data."""
    return (a.arm.student, a.arm.data) == (b.arm.student, b.arm.data)


def _change_row(c: Change) -> list[str]:
    i, seen = c.difference.interval, c.difference.smallest
    better = "changed" if c.metric in NEUTRAL else "changed for the better"
    verdict = "broke" if c.broke else c.difference.verdict if i.covers(0.0) else better
    return [
        c.suite,
        c.metric,
        c.arm.title,
        f"{c.before:.3f}",
        f"{c.after:.3f}",
        f"{i.estimate:+.3f} [{i.low:+.3f}, {i.high:+.3f}]",
        verdict,
        f"{seen:.3f}" if seen else "",
    ]


def _cost(run: Run, cells: dict[str, Any]) -> str:
    """What the rows and the training took."""
    lines = ["## What it cost\n"]
    path = run.folder / "augment" / "funnel.json"
    if path.is_file():
        try:
            with remade_by(f"make augment RUN={run.name}"):
                funnel = read_json(path)
            lines += ["```", Funnel.model_validate(funnel).table(), "```\n"]
        except ValidationError as error:
            raise UsageError(f"{path}: not a funnel of this version; make augment RUN={run.name}") from error
    tuned = [cell for cell in cells["cells"] if cell["size"]]
    seconds, tokens = sum(c["seconds"] for c in tuned), sum(c["tokens"] for c in tuned)
    if tuned:
        lines.append(
            f"Training: {len(tuned)} cells, {tokens} tokens, {seconds:.0f} s"
            f" ({tokens / max(seconds, 1e-9):.0f} tokens/s), counted also where another run had trained them.\n"
        )
    return "\n".join(lines)


def _notes(run: Run, results: Results, cells: dict[str, Any]) -> str:
    """What a reader must know to trust the numbers."""
    lines = ["## Notes\n"]
    for name, why in results.not_run.items():
        lines.append(f"- The suite {name} was not run: {why}")
    if results.partial:
        lines.append("- Eval was stopped: students or suites are missing, and the largest size may be one of them.")
    shared = dict.fromkeys(f"{card.suite}: {note}" for card in results.cards for note in card.notes)
    for note in (*cells.get("notes", ()), *results.notes, *shared):
        lines.append(f"- {note}")
    incomplete = [card for card in results.cards if not card.complete]
    for card in incomplete:
        why = next((score.error for score in results.scores(card) if score.status == "failed"), "")
        lines.append(
            f"- {card.suite} for {card.student} ({card.prompting}) is incomplete: {card.failed} of {card.items} items"
            f" failed, the first because: {why}"
        )
    known = {name: suite.digest for name, suite in run.suites.items()}
    for name in dict.fromkeys(c.suite for c in results.cards if known.get(c.suite, c.suite_digest) != c.suite_digest):
        lines.append(f"- suites/{name}.yaml or its items changed since it was scored: make eval RUN={run.name}")
    if run.file.shuffle_labels:
        lines.append("- Null run: labels were dealt at random; any effect on the task's own items is a false alarm.")
    lines.append(f"- Scores: digest {results.digest}. Dev items (a quarter, by digest) chose the alternative and the")
    lines.append("  reference's settings; every number above is on the other items.")
    return "\n".join(lines) + "\n"
