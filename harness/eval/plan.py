"""Every card that eval will make: a plan that the dry run prints and the stage executes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.augment.current import kept_rows
from harness.config.programs import Program
from harness.config.run import Eval, Run
from harness.config.teacher import Teacher
from harness.core.json_file import read_json, read_jsonl
from harness.core.record import digest
from harness.core.store import content_digest
from harness.errors import UsageError
from harness.eval.candidates import (
    Candidate,
    applies,
    compared_candidates,
    largest_rows,
    named_candidates,
    task_rows,
    untuned_names,
)
from harness.eval.prompt_search import FIRST_ITEMS, MOST_ITEMS, ways_tried
from harness.eval.prompting import PromptForms, Shots, one_line, prompt_forms, shots_from
from harness.eval.results import scored_benchmarks
from harness.records import Cell, Form, Row, Score, Scorecard, scores_digest
from harness.suites import forgetting, reference
from harness.suites.benchmark_rows import fingerprint
from harness.suites.suite import CardInputs, Suite
from harness.suites.summary import disagreement
from harness.train.cells import CELLS, TrainedCell, load_cells
from harness.train.grid import GridCell, grid_cells, plan_training

STAGE_VERSION = 6


@dataclass(frozen=True)
class PlannedCard:
    """One candidate on one suite."""

    candidate: Candidate
    suite: Suite
    key: str  # 32 hex digits that name the stored scores; empty before train, and where scores are not stored

    @property
    def title(self) -> str:
        """What people read."""
        return f"{self.candidate.title}: {self.suite.name}"


@dataclass(frozen=True)
class EvalPlan:
    """Every card of eval once, in the order they are made. The dry run prints this value and the stage executes it."""

    candidates: tuple[Candidate, ...]  # untuned models first: a student is compared with what its base expects
    cards: tuple[PlannedCard, ...]
    references: tuple[PlannedCard, ...]  # of the cheap classifier and of programs, on the rows of every cell
    prompts: PromptForms
    shots: Shots
    inputs: str = ""  # 64 hex digits over all that could change what eval writes; empty before train
    notes: tuple[str, ...] = ()  # who is not scored, and why
    benchmarks: tuple[tuple[str, int], ...] = ()  # the rows of public benchmarks: at hand, else those last scored

    @property
    def by_suite(self) -> dict[str, list[PlannedCard]]:
        """Suite -> its cards."""
        cards: dict[str, list[PlannedCard]] = {}
        for card in self.cards:
            cards.setdefault(card.suite.name, []).append(card)
        return cards

    def without(self, keys: Collection[str]) -> EvalPlan:
        """The same plan without these cards."""
        return replace(self, cards=tuple(card for card in self.cards if card.key not in keys))

    def ways(self, prompting: str) -> tuple[tuple[Form, ...], tuple[int, ...]]:
        """The forms and the numbers of examples to try on an untuned model under one prompting."""
        return ways_tried(self.prompts.task.untuned_form, self.shots.most, self.shots.retrieved, prompting)

    def card(self, candidate: Candidate, suite: str) -> PlannedCard:
        """The card of one candidate on one suite."""
        return next(card for card in self.cards if card.candidate is candidate and card.suite.name == suite)

    def student(self, cell: Cell, run: str) -> Candidate:
        """The candidate of one cell. Raises UsageError where train has not made it."""
        student = next((c for c in self.candidates if c.cell.name == cell.name and c.prompting == "zero_shot"), None)
        if student is None:
            raise UsageError(f"runs/{run}.yaml: ship names {cell.name}, which is not trained: make train RUN={run}")
        return student


def plan_scoring(run: Run) -> EvalPlan:
    """The plan of a trained run.

    Raises UsageError where train has not made the run's own cells, and for an adapter that was edited or damaged.
    """
    trained = load_cells(run.folder).cells
    grid = {planned.key: planned for planned in plan_training(run).cells}
    if {cell.key for cell in trained} != set(grid):
        path = (run.folder / "train" / CELLS).relative_to(run.root)
        raise UsageError(
            f"{path} is of other rows, students or settings than {run.name} has now, or was stopped: train first"
            f" ({run.command('train')})"
        )
    students = _students(trained, grid, run.file.eval, run.root, run.name)
    compared, notes = compared_candidates(
        run.file.eval, run.file.teacher, run.cache, run.root, {candidate.key for candidate in students}
    )
    candidates = tuple(sorted((*students, *compared), key=lambda candidate: candidate.tuned))
    pool_rows = () if run.seeds or "few_shot" not in run.file.eval.prompting else kept_rows(run)
    shots = shots_from(run.seeds, pool_rows, run.file.random_seed, largest_rows(candidates), run.file.eval.retrieved)
    answers = (*(seed.answer for seed in run.seeds), *(row.answer for row in shots.rows))
    prompts = prompt_forms(run.task, run.prompts, one_line(answers), guided=run.file.eval.guided)
    benchmarks = tuple(fingerprint() or scored_benchmarks(run.folder))
    searched_rows = [row.id for row in shots.rows]

    def key(candidate: Candidate, suite: Suite) -> str:
        inputs = CardInputs(
            root=run.root,
            labels=tuple(run.task.labels),
            base_is_scored=base_of(candidates, candidate) is not None,
            searched_rows=() if candidate.tuned else searched_rows,
            benchmark_rows=benchmarks,
        )
        return card_key(candidate, suite, prompts, shots, inputs, run.file.teacher)

    cards = _cards(candidates, run.suites.values(), key)
    settings = run.file.eval
    references = _references(candidates, run.suites.values()) if settings.reference else ()
    references += _programs(candidates, run.suites.values(), settings.programs, run.root, prompts)
    item_tags = [[[i.tags, i.group, i.stratum] for i in suite.items] for suite in run.suites.values()]
    keys = ([card.key for card in cards], [cell.key for cell in trained])
    programs = [[card.key for card in references if reference.is_program(card.candidate.cell.student)]]
    programs = programs if settings.programs else []
    inputs = digest("eval", STAGE_VERSION, *keys, settings.reference, item_tags, *programs)
    return EvalPlan(candidates, cards, references, prompts, shots, inputs, notes, benchmarks)


def _students(
    cells: Sequence[TrainedCell], grid: Mapping[str, GridCell], settings: Eval, root: Path, run: str
) -> list[Candidate]:
    """The students of a run, and its bases, in their promptings. Raises UsageError for an adapter that is not whole."""
    candidates: list[Candidate] = []
    for cell in cells:
        planned, adapter = grid[cell.key], root / cell.folder if cell.folder else None
        if not planned.can_be_loaded:
            lost = planned.pretraining if planned.trained and planned.pretraining else planned
            what = "the adapter" if lost.adapter else "the weights" if lost is planned else "the base"
            raise UsageError(
                f"{lost.folder}: {what} of {cell.name} is missing, or was edited or damaged since it was trained:"
                f" train first (make train RUN={run} makes it again)"
            )
        candidates += [  # a hub model lies elsewhere on another machine than where it was trained: as planned here
            Candidate(
                cell.cell, cell.key, planned.base, adapter, prompting, cell.tuned, planned.rows, planned.model.folder
            )
            for prompting in (settings.tuned_prompting if cell.tuned else settings.prompting)
        ]
    return candidates


def outline_scoring(run: Run) -> EvalPlan:
    """The same plan before train: the same candidates and cards, without keys and without the cheap reference."""
    train, settings = run.file.train, run.file.eval
    names = untuned_names(train, settings.compare, run.file.teacher)
    cells = grid_cells(train, len(run.seeds))
    candidates = tuple(named_candidates(cells, names, settings, run.cache, run.root))
    shots = shots_from(run.seeds, (), run.file.random_seed, (), settings.retrieved)
    cards = _cards(candidates, run.suites.values(), lambda candidate, suite: "")
    return EvalPlan(candidates, cards, (), prompt_forms(run.task, run.prompts), shots)


def card_key(
    candidate: Candidate,
    suite: Suite,
    prompts: PromptForms,
    shots: Shots,
    inputs: CardInputs,
    teacher: Teacher | None,
) -> str:
    """32 hex digits over what a card's numbers depend on."""
    parts: list[Any] = ["card", STAGE_VERSION, candidate.key, candidate.prompting, suite.name, suite.digest]
    if suite.of_task:
        parts += [prompts.task.system, prompts.task.labels, prompts.student.digest]
        if not candidate.tuned:
            ending = prompts.ending
            parts += [prompts.template.digest, ending.after, ending.next_example, prompts.preface]
            parts += ways_tried(prompts.task.untuned_form, shots.most, shots.retrieved, candidate.prompting)
            parts += [MOST_ITEMS, FIRST_ITEMS, ending.one_line]
        if prompts.ending.guided:
            parts.append("guided")
        if candidate.prompting == "few_shot":
            parts.append([shot.id for shot in shots.pool])
        if candidate.prompting == "retrieval":
            parts += [shots.retrieved, [row.id for row in shots.rows]]
    parts += suite.spec.extras.card_inputs(inputs)
    if suite.rubric and not suite.rubric.judge and teacher:  # the rows' teacher judges
        parts += [teacher.model, teacher.revision, teacher.engine]
    return digest(*parts)[:32]


def base_of(candidates: Iterable[Candidate], candidate: Candidate) -> Candidate | None:
    """The untuned model that a student began as, where it is scored."""
    untuned = (possible for possible in candidates if not possible.tuned and possible.prompting == "zero_shot")
    began_as = candidate.began_as or candidate.base
    return next((possible for possible in untuned if (possible.began_as or possible.base) == began_as), None)


def _cards(
    candidates: Sequence[Candidate], suites: Iterable[Suite], key: Callable[[Candidate, Suite], str]
) -> tuple[PlannedCard, ...]:
    suites = list(suites)
    return tuple(
        PlannedCard(candidate, suite, key(candidate, suite))
        for candidate in candidates
        for suite in suites
        if applies(suite, candidate)
    )


def _references(candidates: Sequence[Candidate], suites: Iterable[Suite]) -> tuple[PlannedCard, ...]:
    """The cheap classifier on the rows of every cell, each kind of data, size and random seed once."""

    def key(suite: Suite, rows: Sequence[Row]) -> str:
        return digest("reference", STAGE_VERSION, suite.digest, [[r.text, r.answer] for r in rows])[:32]

    return _on_rows(reference.NAME, candidates, [suite for suite in suites if suite.choices], key)


def _programs(
    candidates: Sequence[Candidate],
    suites: Iterable[Suite],
    programs: Mapping[str, Program],
    root: Path,
    prompts: PromptForms,
) -> tuple[PlannedCard, ...]:
    """Every program of a person's own on the rows of every cell. Where a model judges the answers there are none."""
    judged_by_rules = [suite for suite in suites if suite.of_task and suite.rubric is None]
    cards: tuple[PlannedCard, ...] = ()
    for name, program in programs.items():
        asked = [content_digest(root / program.file), program.function, prompts.task.system, prompts.student.digest]

        def key(suite: Suite, rows: Sequence[Row], asked: Sequence[str] = asked) -> str:
            learned = [[row.text, row.answer] for row in rows]
            return digest("program", STAGE_VERSION, suite.digest, asked, learned)[:32]

        cards += _on_rows(reference.program_name(name), candidates, judged_by_rules, key)
    return cards


def _on_rows(
    name: str, candidates: Sequence[Candidate], suites: Iterable[Suite], key: Callable[[Suite, Sequence[Row]], str]
) -> tuple[PlannedCard, ...]:
    """What is no model, on the rows of every cell: each kind of data, size and random seed once."""
    cards: dict[tuple[str, str], PlannedCard] = {}
    for suite in suites:
        for tuned in (candidate for candidate in candidates if candidate.tuned):
            cell, rows = tuned.cell.model_copy(update={"student": name, "method": ""}), task_rows(tuned.rows)
            of_card = key(suite, rows)
            answering = Candidate(cell, of_card, tuned.base, None, reference.TRAINED, tuned=True, rows=rows)
            cards.setdefault((suite.name, cell.name), PlannedCard(answering, suite, of_card))
    return tuple(cards.values())


def stored_card(planned: PlannedCard, folder: Path) -> Scorecard | None:
    """A complete card that an earlier command stored. None for one that was edited, damaged or has failed items."""
    path, suite = folder / f"{planned.key}.json", planned.suite
    try:
        card = Scorecard.model_validate(read_json(path))
        scores = [score for _, score in read_jsonl(path.with_suffix(".jsonl"), Score)]
    except (UsageError, ValidationError):
        return None
    same = (card.key, card.suite_digest, card.scores) == (planned.key, suite.digest, scores_digest(scores))
    if not same or not card.complete or disagreement(card, scores, suite):
        return None
    # students are measured by what their untuned base expects, which is stored beside its card
    base = suite.spec.extras.reads_base and not planned.candidate.tuned
    return None if base and not forgetting.is_whole(path.with_suffix(".expected.npz")) else card
