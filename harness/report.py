"""The report stage: stored scores -> report.md and its figures. Needs no torch and no vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness import figure, stats, tables
from harness.analysis import (
    Arm,
    Change,
    arms,
    changes,
    curve,
    headline,
    matrix,
    panels,
    units,
    unknown,
)
from harness.config import Run
from harness.funnel import Funnel
from harness.results import Results, load_results
from harness.scoring.suites import LabelsSuite, Suite
from harness.scoring.summary import chance
from harness.stats import clusters, scaling
from harness.store import read_json, write_atomic
from harness.terminal import Terminal


def report(run: Run, terminal: Terminal) -> None:
    """Write runs/NAME/eval/report.md and its figures, print the headline and the tables."""
    results = load_results(run.folder)
    cells = read_json(run.folder / "train" / "cells.json")
    folder = run.folder / "eval"
    parts = [f"# {run.name}: how much data does the student need?\n"]
    for suite in (s for s in run.suites.values() if s.of_task):
        found = arms(results, suite.name)
        for student in run.file.train.students:
            parts.append(_student_section(run, results, suite, found, student, cells))
        parts.append(_closer(run, results, suite, found))
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
    answer = headline(results, found, student, run.file.random_seed)
    points = curve(results, found, student, "filtered", suite.primary)
    lines = [f"## {student} on {suite.name}\n"]
    lines.append(f"**{answer.sentence()}**\n" if answer else "No tuned student to speak of.\n")
    if points:
        name = f"learning_curve.{suite.name}.{student.strip('/').replace('/', '--')}.png"
        caption = _caption(run, cells, student)
        picture = figure.learning_curve(student, points, found, chance(suite), caption)
        write_atomic(run.folder / "eval" / name, picture)
        lines += [f"![learning curve]({name})\n", caption + "\n", _slope(run, results, found, student)]
        lines.append(_scaling(run, results, found, student))
    others = [
        a for a in found if a.student != student and a.kind == "base" and a.student not in run.file.train.students
    ]
    lines.append(_table(results, [*others, *(a for a in found if a.student == student or a.kind == "reference")]))
    return "\n".join(lines)


def _caption(run: Run, cells: dict[str, Any], student: str) -> str:
    """What every size has in common and what differs: stated under the figure."""
    train = run.file.train
    updates = sorted(
        {
            (c["size"], c["updates"])
            for c in cells["cells"]
            if c["student"] == student and c["size"] and c["data"] == "filtered"
        }
    )
    listed = ", ".join(f"{size} rows {n}" for size, n in updates)
    seeds = len(train.random_seeds)
    whose = "items and random seeds vary (two-way bootstrap)" if seeds >= stats.MIN_SEEDS else "items vary (Tango)"
    return (
        f"{cells['epochs']} epochs but at least {cells['min_updates']} updates of {train.batch_rows} rows;"
        f" updates: {listed}."
        f" {seeds} random seed{'s' if seeds > 1 else ''}. Bars: 95% interval of the paired difference to the"
        f" untuned zero-shot model; {whose}."
    )


def _slope(run: Run, results: Results, found: Sequence[Arm], student: str) -> str:
    """Whether more rows help, in points per doubling."""
    own = [a for a in found if a.kind == "student" and (a.student, a.data) == (student, "filtered")]
    if len(own) < 2:
        return ""
    by_seed = [matrix(results, arm, "accuracy", "test") for arm in own]
    values = [[m[seed] for m in by_seed] for seed in range(min(len(m) for m in by_seed))]
    slope = stats.slope_per_doubling([a.size for a in own], values, run.file.random_seed)
    i = slope.interval
    words = {"rises": "more rows help", "falls": "more rows hurt"}.get(slope.verdict, slope.verdict)
    return (
        f"Per doubling of rows, {own[0].size} to {own[-1].size}: {100 * i.estimate:+.1f} points"
        f" [{100 * i.low:+.1f}, {100 * i.high:+.1f}] ({slope.question}): {words}.\n"
    )


def _scaling(run: Run, results: Results, found: Sequence[Arm], student: str) -> str:
    """What law the loss follows, from enough sizes and random seeds; else that this cannot be told."""
    own = [a for a in found if a.kind == "student" and (a.student, a.data) == (student, "filtered")]
    if len(own) < 2 or any(arm.metric("gold_nll") is None for arm in own):
        return ""
    losses = [matrix(results, arm, "gold_nll", "test") for arm in own]
    by_seed = [[loss[seed] for loss in losses] for seed in range(min(map(len, losses)))]
    fitted = scaling.fit_scaling([a.size for a in own], by_seed, run.file.random_seed)
    return f"Loss of the gold answers over rows: {fitted.sentence}\n"


COLUMNS = (
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


def _table(results: Results, found: Sequence[Arm]) -> str:
    """One line per arm; the first column carries its interval."""
    if not found:
        return ""
    columns = [(name, head) for name, head in COLUMNS if any(arm.metric(name) is not None for arm in found)]
    rows = []
    for arm in found:
        row = [arm.title]
        for name, _ in columns:
            value = arm.metric(name)
            row.append("" if value is None else f"{value:.1f}" if name == "words" else f"{value:.3f}")
        i = _rate_interval(results, arm)
        row[1] += f" [{i.low:.3f}, {i.high:.3f}]"
        row.append(str(round(sum(card.unparsed for card in arm.cards) / len(arm.cards))))
        rows.append(row)
    count = matrix(results, found[0], columns[0][0], "test").shape[1]
    text = tables.markdown(["asked", *(head for _, head in columns), "unparsed"], rows)
    return f"{text}\n\n{count} test items; rates divide by all of them. Unparsed counts all items, dev too.\n"


def _rate_interval(results: Results, arm: Arm) -> stats.Interval:
    """Items and seeds vary where there are three seeds, else items."""
    values, tied = matrix(results, arm, "accuracy", "test"), units(results, arm)
    apart = clusters.units(values, groups=tied.groups, strata=tied.strata)
    recipe = stats.recipe_interval(apart, random_seed=0) if apart is not None else None
    if recipe is not None:
        return recipe
    mean = values.mean(axis=0)
    found = clusters.mean_of(mean, groups=tied.groups, strata=tied.strata, random_seed=0)
    return found or unknown(float(mean.mean()), mean.size)


def _closer(run: Run, results: Results, suite: Suite, found: Sequence[Arm]) -> str:
    """The largest students label by label and tag by tag, beside their bases; what an answer takes."""
    lines: list[str] = []
    for student in run.file.train.students:
        own = [a for a in found if a.kind == "student" and (a.student, a.data) == (student, "filtered")]
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


def _broke(run: Run, results: Results) -> str:
    """Other suites, before and after tuning."""
    rows: list[Change] = []
    for suite in (s for s in run.suites.values() if not s.of_task):
        rows += changes(results, suite.name, run.file.random_seed)
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
        drawn = panels(rows, student)
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
    better = "changed" if c.metric == "words" else "changed for the better"
    verdict = "broke" if c.broke else "no difference found" if i.covers(0.0) else better
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
        lines += ["```", Funnel.model_validate(read_json(path)).table(), "```\n"]
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
        lines.append(f"- {card.suite} for {card.student} ({card.prompting}) is incomplete: {card.failed} items failed")
    if run.file.shuffle_labels:
        lines.append("- Null run: labels were dealt at random; any effect on the task's own items is a false alarm.")
    lines.append(f"- Scores: digest {results.digest}. Dev items (a quarter, by digest) chose the alternative and the")
    lines.append("  reference's settings; every number above is on the other items.")
    return "\n".join(lines) + "\n"
