"""Several students in one run: what a larger or another one gains, and what each of its answers costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.markdown import escaped, table
from harness.eval.results import Results
from harness.models.files import weight_shapes
from harness.report import tables, wording
from harness.report.analysis import Arm, Difference, difference, has, matrix, untuned
from harness.report.paired import change_words, verdict_words
from harness.report.student_view import StudentView
from harness.train.cells import TrainedCell

HEADS = (
    "student",
    "parameters",
    "untuned, zero-shot",
    "tuned",
    "minus {}",
    "verdict",
    "tokens an answer",
    "seconds an answer",
)


@dataclass(frozen=True)
class StudentCost:
    """The largest size of one student: how good it is, and what an answer of it takes."""

    arm: Arm
    parameters: int | None  # of its base; None where its weights are not at hand
    value: float
    before: Arm | None  # the untuned student, zero-shot
    against: Difference | None  # to the first student; None: it is the first one
    tokens: float  # read and written for an answer
    seconds: float  # of the model's work for an answer, on the machine that scored it


def compare_students(
    results: Results, views: Sequence[StudentView], trained: Sequence[TrainedCell], root: Path, random_seed: int
) -> list[StudentCost]:
    """The students of one suite, the fewest parameters first. Empty for a single one.

    `views`: of the suite. Those whose largest size has no complete scores are left out.
    """
    scored = [view for view in views if view.tuned and view.tuned[-1].complete]
    scored = [view for view in scored if has(results, view.tuned[-1], view.metric)]
    if len(scored) < 2:
        return []
    sizes = {view.student: _parameters(view.tuned[-1], trained, root) for view in scored}
    scored.sort(key=lambda view: (sizes[view.student] or math.inf, view.student))
    first = matrix(results, scored[0].tuned[-1], scored[0].metric, "test")
    costs = []
    for view in scored:
        arm = view.tuned[-1]
        values = matrix(results, arm, view.metric, "test")
        items = sum(card.items for card in arm.cards)
        costs.append(
            StudentCost(
                arm=arm,
                parameters=sizes[view.student],
                value=values.mean,
                before=untuned(view.arms, view.student),
                against=None if view is scored[0] else difference(values, first, random_seed, b_varies=True),
                tokens=sum(card.prompt_tokens + card.answer_tokens for card in arm.cards) / items,
                seconds=arm.seconds_an_answer,
            )
        )
    return costs


def _parameters(arm: Arm, trained: Sequence[TrainedCell], root: Path) -> int | None:
    cell = next((cell for cell in trained if cell.cell == arm.cards[0].cell), None)
    if cell is None or not (root / cell.base).is_dir():
        return None
    shapes = weight_shapes(root / cell.base)
    return sum(math.prod(shape) for shape in shapes.values()) or None


def students_section(
    suite: str, metric: str, costs: Sequence[StudentCost], results: Results, price_per_hour: float | None = None
) -> str:
    """The comparison as Markdown. Empty for a single student."""
    if not costs:
        return ""
    heads = [head.format(costs[0].arm.student) for head in HEADS]
    rows = [[*_row(results, metric, cost)] for cost in costs]
    if price_per_hour is not None:
        heads.append(tables.MONEY)
        for row, cost in zip(rows, costs, strict=True):
            row.append(tables.thousand_answers(cost.seconds, price_per_hour))
    return "\n".join(
        [
            f"## Students on {escaped(suite)}\n",
            table(heads, rows) + "\n",
            escaped(
                "The largest size of each, tuned on the same kind of data. Seconds are the model's own, on the machine"
                " that scored them, many answers at a time. A larger student is worth its cost where the difference"
                f" ({wording.title(metric)}) is larger than what it costs you."
            )
            + "\n",
        ]
    )


def _row(results: Results, metric: str, cost: StudentCost) -> Sequence[str]:
    before = cost.before
    known = before is not None and before.complete and has(results, before, metric)
    return (
        cost.arm.student,
        "" if cost.parameters is None else f"{cost.parameters / 1e6:.0f}M",
        tables.share(tables.value_interval(results, before, metric)) if before and known else "",
        tables.share(tables.value_interval(results, cost.arm, metric)),
        change_words(metric, cost.against) if cost.against else "",
        verdict_words(metric, cost.against) if cost.against else "",
        f"{cost.tokens:.0f}",
        f"{cost.seconds:.3f}",
    )
