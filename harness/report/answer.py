"""The answer of a report, before all its tables: does tuning pay, do more rows pay, what broke, may it ship, what next.

Every sentence is made of numbers that stand in the report, each with its interval and what was asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.augment.funnel import Funnel
from harness.config.arms import FILTERED, SEEDS_ONLY
from harness.config.run import Train
from harness.core.markdown import escaped
from harness.eval.results import Results
from harness.report import regressions, wording
from harness.report.advice import Situation, Step, next_steps
from harness.report.headline import Headline
from harness.report.paired import change_words, verdict_words
from harness.report.regressions import Change
from harness.report.student_view import AgainstSeeds, StudentView, main_data, main_method

OPENINGS = {"better": "Tuning pays", "worse": "Tuning does not pay"}
UNDECIDED = "These items cannot tell whether tuning pays"
QUESTIONS = (
    ("pays", "Does tuning pay?"),
    ("rows", "Do more rows pay?"),
    ("broke", "What did tuning break?"),
    ("ship", "May it ship?"),
)


@dataclass(frozen=True)
class Answer:
    """What a report says of one student on one suite of the task's own."""

    student: str
    suite: str
    pays: str
    rows: str
    broke: str
    ship: str
    steps: tuple[Step, ...]

    @property
    def answered(self) -> list[tuple[str, str]]:
        """Each question with its answer."""
        return [(question, getattr(self, field)) for field, question in QUESTIONS]


def answers(
    results: Results, views: Sequence[StudentView], train: Train, changes: Sequence[Change], funnel: Funnel | None,
    ship: str,
) -> list[Answer]:  # fmt: skip
    """An answer for each student on each of the task's own suites.

    `changes`: tuned against untuned on all other suites. `ship`: what the gate says of the student that is to ship.
    """
    drawn = main_data(train.data_names), main_method(train)
    return [
        _answer(results, view, train, [c for c in changes if _place(c) == (view.student, *drawn)], funnel, ship)
        for view in views
    ]


def _place(change: Change) -> tuple[str, str, str]:
    return change.arm.student, change.arm.data, change.arm.method


def _answer(
    results: Results, view: StudentView, train: Train, changes: Sequence[Change], funnel: Funnel | None, ship: str
) -> Answer:
    """`changes`: of this student, tuned as the view's curve is."""
    broke = tuple(
        dict.fromkeys(f"{c.suite}: {wording.title(c.metric)}" for c in regressions.largest(changes) if c.broke)
    )
    known = view.headline if isinstance(view.headline, Headline) else None
    unfinished = "eval was stopped, and scores are missing" if results.partial else ""
    if view.suite.name in results.changed:
        unfinished = f"suites/{view.suite.name}.yaml or its items changed since they were scored"
    for arm in (*view.tuned, *(known.compared if known else ())):
        for card in arm.cards:
            if not card.complete and not unfinished:
                unfinished = f"{card.failed} of {card.items} items of {arm.title} failed"
    one_pool = set(train.data_names) <= {FILTERED, SEEDS_ONLY}
    situation = Situation(known, view.growth, broke, unfinished, funnel, view.against_seeds, one_pool)
    return Answer(
        student=view.student,
        suite=view.suite.name,
        pays=_pays(view.headline),
        rows=_rows(view),
        broke=regressions.summary(changes),
        ship=ship,
        steps=tuple(next_steps(situation)),
    )


def _pays(found: Headline | str) -> str:
    """Whether tuning pays against the strongest alternative."""
    if isinstance(found, str):
        return found
    rival, metric = found.rival, found.reading.metric
    difference = rival.difference
    opening = "No verdict, since items failed" if not found.complete else OPENINGS.get(found.verdict, UNDECIDED)
    values = (
        f"{found.reading.arm.title}: {wording.value(metric, found.value, found.items)}; the strongest alternative,"
        f" {rival.reading.title}: {wording.value(rival.reading.metric, rival.value)}"
    )
    if not math.isfinite(difference.interval.low):
        return f"{opening}. {values}."
    interval = difference.interval
    change = wording.change(metric, interval.estimate, interval.low, interval.high)
    said = f"{opening}. {values}; difference {change} (95%), asking about {difference.question}."
    return f"{said} {found.left_out_sentence}".rstrip()


def _rows(view: StudentView) -> str:
    grown = view.growth
    if grown is None:
        said = ["Not known: the run has one size. Name several in train.sizes."]
    else:
        said = [grown.slope_sentence, grown.forecast_sentence]
    if view.against_seeds is not None:
        said.append(_beyond_seeds(view.against_seeds, view.metric))
    return " ".join(filter(None, said))


def _beyond_seeds(against: AgainstSeeds, metric: str) -> str:
    """What the rows bring beyond the seeds, in the same student."""
    return (
        f"Tuned on the {against.seeds.size} seeds alone it has {wording.value(metric, against.seeds_value)}:"
        f" {against.rows.size} rows differ from that by {change_words(metric, against.difference)}"
        f" ({against.difference.question}, this pair alone), {verdict_words(metric, against.difference)}."
    )


def answer_section(found: Sequence[Answer]) -> str:
    """The answers as Markdown."""
    parts = ["## The answer\n"]
    for answer in found:
        if len(found) > 1:
            parts.append(f"### {escaped(answer.student)} on {escaped(answer.suite)}\n")
        parts += [f"- **{question}** {escaped(said)}" for question, said in answer.answered]
        parts.append("\nWhat to do next:\n")
        parts += [f"{place}. {escaped(step.sentence)}" for place, step in enumerate(answer.steps, start=1)]
        parts.append("")
    return "\n".join(parts)
