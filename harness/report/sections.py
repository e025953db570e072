"""The sections of a report that are about no single student: other suites, what tuning broke, cost, notes."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from harness.augment.funnel import Funnel
from harness.config.run import Run, Train
from harness.core.markdown import escaped, fenced
from harness.core.markdown import table as markdown_table
from harness.core.store import write_atomic
from harness.eval.results import Results
from harness.metrics.table import metric_of
from harness.records import Scorecard
from harness.report import figure, regressions, tables, wording
from harness.report.analysis import Arm, arms, has
from harness.report.headline import Headline
from harness.report.student_section import file_name
from harness.report.student_view import StudentView, main_data, main_method, tuned_arms
from harness.suites.suite import Suite
from harness.train.cells import TrainedCell, TrainedCells

HONESTY = ("consistency", "repeat_consistency", "made_up", "wrong", "abstained")


def breakdown(results: Results, suite: Suite, views: Sequence[StudentView], price_per_hour: float | None) -> str:
    """The largest tuned arm of each student by label; by tag beside what it is compared with; the cost of every arm.

    `views`: of the suite. `price_per_hour`: of the machine that scored, where it is known.
    """
    suite_arms = arms(results, suite.name)
    parts: list[str] = []
    for view in views:
        if not view.tuned:
            continue
        largest = view.tuned[-1]
        if suite.choices:
            parts.append(f"### {escaped(largest.title)}, label by label\n")
            parts.append(tables.by_label(results, largest, suite.choices) + "\n")
        bases = [arm for arm in suite_arms if arm.kind == "base" and arm.student == view.student]
        rivals = view.headline.compared if isinstance(view.headline, Headline) else []
        shown = {arm.title: arm for arm in (*bases, *rivals, largest)}
        tagged = tables.by_tag(results, list(shown.values()), suite.primary)
        if tagged:
            parts += [f"### {escaped(wording.title(suite.primary))}, tag by tag\n", tagged + "\n"]
    batched = "Many items are asked at once, and what prompts share is read once: this is no latency of one request."
    costs = tables.costs(suite_arms, price_per_hour)
    return "\n".join([*parts, "### What an answer takes\n", f"{costs}\n\n{batched}\n"])


def other_suites(results: Results, suites: Sequence[Suite]) -> str:
    """Every model on the suites that are not the task's own: its primary metric, chance, and the cost of an answer."""
    if not suites:
        return ""
    parts = ["## The other suites\n"]
    for suite in suites:
        suite_arms = arms(results, suite.name)
        if suite_arms:
            metrics = (suite.primary, *suite.spec.item_metrics)
            parts += [f"### {escaped(suite.name)}\n", tables.other_suite(results, suite_arms, metrics) + "\n"]
            if "repeat_share" in suite.spec.item_metrics:
                parts.append(tables.distributions(results, suite_arms) + "\n")
    return "\n".join(parts)


def changes(
    results: Results, suites: Sequence[Suite], labels: Collection[str], random_seed: int
) -> list[regressions.Change]:
    """Every tuned student against its untuned base on these suites. Without labels no answer is nothing but one."""
    watched = [name for name in regressions.WATCHED if name != "label_collapse" or labels]
    return [
        change
        for suite in suites
        for change in regressions.changes(
            results, suite.name, random_seed, list(dict.fromkeys((suite.primary, *watched)))
        )
    ]


def forgetting(changes: Sequence[regressions.Change], train: Train) -> dict[str, list[regressions.Panel]]:
    """What each student's figure of what tuning broke shows."""
    drawn = main_data(train.data_names), main_method(train)
    return {student: regressions.panels(changes, student, *drawn) for student in train.students}


def broken(results: Results, changes: Sequence[regressions.Change], train: Train) -> str:
    """The suites that are not the task's own, before and after tuning. Writes a figure per student."""
    parts = ["## What tuning broke\n", escaped(regressions.summary(changes)) + "\n"]
    for student, panels in forgetting(changes, train).items():
        if panels:
            name = f"forgetting.{file_name(student)}.png"
            write_atomic(results.folder / name, figure.forgetting(student, panels))
            parts.append(f"![what tuning broke]({name})\n")
    if changes:
        count = len(regressions.largest(changes))
        parts.append(regressions.section(changes))
        parts.append(
            "The largest size of each kind of data and method; the figure shows the others. Every interval is a 95% one"
            f" of its own: of these {count} comparisons about {count / 20:.2g} would seem to have changed by chance"
            " alone. Numbers about one habit, such as answering with a label alone, change together.\n"
        )
    return "\n".join(parts) + "\n"


def honesty(results: Results, suites: Sequence[Suite], train: Train) -> str:
    """Whether answers agree with each other, and whether they are made up: prompting, tuning and both side by side.

    Of every suite that measures it. Empty where none does.
    """
    drawn = main_data(train.data_names), main_method(train)
    rows: list[list[str]] = []
    for suite in suites:
        suite_arms = arms(results, suite.name)
        for student in train.students:
            tuned = tuned_arms(suite_arms, student, *drawn)
            largest = tuned[-1].size if tuned else 0
            bases = [arm for arm in suite_arms if (arm.kind, arm.student) == ("base", student)]
            with_rows = [
                arm
                for arm in suite_arms
                if (arm.kind, arm.student, arm.data, arm.method, arm.size)
                == ("student with rows", student, *drawn, largest)
            ]
            for arm in (*bases, *tuned[-1:], *with_rows):
                values = [_measured(results, arm, metric) for metric in HONESTY]
                if any(values):
                    rows.append([suite.name, arm.title, *values])
    if not rows:
        return ""
    heads = ("suite", "candidate", *(wording.title(metric) for metric in HONESTY))
    kept = [place for place, _ in enumerate(heads) if any(row[place] for row in rows)]
    table = markdown_table([heads[place] for place in kept], [[row[place] for place in kept] for row in rows])
    said = [metric_of(metric) for place, metric in enumerate(HONESTY, start=2) if place in kept]
    meanings = "; ".join(f"{metric.title}: {metric.meaning}" for metric in said)
    return (
        f"## Consistent, or made up?\n\n{table}\n\n{escaped(f'{meanings}. 95% intervals, each of its own number.')}\n"
    )


def _measured(results: Results, arm: Arm, metric: str) -> str:
    if not arm.complete or not has(results, arm, metric):
        return ""
    return tables.share(tables.value_interval(results, arm, metric))


def cost(
    funnel: Funnel | None, nodes: Sequence[str], tuned: Sequence[TrainedCell], pretraining: Sequence[TrainedCell],
    cards: Sequence[Scorecard],
) -> str:  # fmt: skip
    """What the rows, the training with the pre-training that it began from, and the scores took.

    `nodes`: what those of a cluster did for the rows, a line for each of their kinds.
    """
    parts = ["## What it cost\n"]
    if funnel:
        parts.append(fenced(funnel.table()) + "\n")
    if nodes:
        parts.append("The teacher's replicas on a cluster, in all commands of this run:\n")
        parts.append(fenced("\n".join(nodes)) + "\n")
    if tuned:
        seconds, tokens = sum(cell.seconds for cell in tuned), sum(cell.tokens for cell in tuned)
        before = ""
        if pretraining:
            read, took = sum(cell.tokens for cell in pretraining), sum(cell.seconds for cell in pretraining)
            before = f" Continued pre-training before it: {read} tokens, {took:.0f} s."
        parts.append(
            f"Training: {len(tuned)} cells, {tokens} tokens, {seconds:.0f} s"
            f" ({tokens / max(seconds, 1e-9):.0f} tokens/s), counted also where another run had trained them.{before}\n"
        )
    if cards:
        read, written = sum(card.prompt_tokens for card in cards), sum(card.answer_tokens for card in cards)
        took = sum(card.seconds for card in cards)
        parts.append(
            f"Evaluation: {len(cards)} scorecards, {read} tokens read and {written} written, {took:.0f} s of models'"
            " work, counted also where another run had scored them.\n"
        )
    return "\n".join(parts)


def notes(run: Run, results: Results, trained: TrainedCells) -> str:
    """What a reader must know of rows, training and scores, as a list."""
    said = [*trained.notes, *_of_scores(results)]
    if run.file.shuffle_labels:
        said.append("Null run: labels were dealt at random; any effect on the task's own items is a false alarm.")
    if run.file.ship is None:
        said.append(_how_to_ship(run.name, run.file.train))
    said.append(
        f"Scores: digest {results.digest}. Dev items (a quarter, by digest, or as the suite says) chose the"
        " alternatives, how an untuned model is read, and the reference's settings. Every metric above is of the other"
        " items; seconds, and counts of what could not be read, are of all."
    )
    return "\n".join(["## Notes\n", *(f"- {escaped(note)}" for note in said)]) + "\n"


def _of_scores(results: Results) -> list[str]:
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
    for name in results.changed:
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
