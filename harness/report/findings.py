"""What a report is made of, worked out once from the files of the stages before it."""

from __future__ import annotations

from dataclasses import dataclass

from harness.augment.current import stored_funnel
from harness.augment.funnel import Funnel
from harness.config.run import Run
from harness.eval.current import results_of
from harness.eval.results import Results
from harness.report import sections
from harness.report.answer import Answer, answers
from harness.report.headline import Headline
from harness.report.regressions import Change
from harness.report.student_view import StudentView, view_student
from harness.report.students import StudentCost, compare_students
from harness.suites.suite import Suite
from harness.train.cells import TrainedCells, load_cells


@dataclass(frozen=True)
class Findings:
    """What a report is made of: the stored scores, and what was worked out from them once."""

    results: Results
    trained: TrainedCells
    task_suites: tuple[Suite, ...]
    other_suites: tuple[Suite, ...]
    views: tuple[StudentView, ...]  # of each student on each of the task's own suites
    students: dict[str, list[StudentCost]]  # by suite, where the run has several students
    changes: tuple[Change, ...]  # tuned against untuned on the other suites
    funnel: Funnel | None
    answers: tuple[Answer, ...]

    @property
    def warnings(self) -> list[str]:
        """What a reader must look at before anything else: it is about what the answer compares."""
        return [f"Look here first: {said}" for key, said in self._unread.items() if key in self._compared]

    @property
    def remarks(self) -> list[str]:
        """The same of other candidates, which no answer rests on."""
        return [said for key, said in self._unread.items() if key not in self._compared]

    @property
    def _unread(self) -> dict[str, str]:
        """Key of a card whose answers are mostly empty or cannot be read -> what was found."""
        cards = [card for card in self.results.cards if card.warning]
        return {card.key: f"{card.student} ({card.prompting}) on {card.suite}: {card.warning}" for card in cards}

    @property
    def _compared(self) -> set[str]:
        """Keys of the cards that a headline compares, and of all tuned students."""
        arms = [arm for view in self.views if isinstance(view.headline, Headline) for arm in view.headline.compared]
        tuned = {card.key for card in self.results.cards if card.cell and card.cell.size}
        return tuned | {card.key for arm in arms for card in arm.cards}


def findings(run: Run, ship: str) -> Findings:
    """All of it. Raises UsageError for files that are missing, edited, or of another version.

    `ship`: what the gate says of the student that is to ship.
    """
    results, trained = results_of(run), load_cells(run.folder)
    train, random_seed = run.file.train, run.file.random_seed
    task_suites = tuple(suite for suite in run.suites.values() if suite.of_task)
    other_suites = tuple(suite for suite in run.suites.values() if not suite.of_task)
    views = tuple(
        view_student(results, suite, student, train, trained, random_seed)
        for suite in task_suites
        for student in train.students
    )
    changes = tuple(sections.changes(results, other_suites, run.task.labels, random_seed))
    students = {
        suite.name: compare_students(
            results, [view for view in views if view.suite is suite], trained.cells, run.root, random_seed
        )
        for suite in task_suites
    }
    funnel = stored_funnel(run)
    said = tuple(answers(results, views, train, changes, funnel, ship))
    return Findings(results, trained, task_suites, other_suites, views, students, changes, funnel, said)
