"""One subject on one suite: the right scorer with what it needs, one student in memory at a time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.config.run import Run
from harness.core.json_file import read_jsonl
from harness.core.record import digest
from harness.core.terminal import Stop, Terminal
from harness.engines.call_cache import CallCache, cached
from harness.engines.protocols import Embedder, Generator, StudentEngine
from harness.errors import Interrupted
from harness.eval.candidates import Cast, Subject, ship_subject, shot_pool
from harness.eval.prompt_search import MOST_ITEMS, choose, ways_tried
from harness.eval.prompting import ANSWER_ROOM, asker_for, one_line, tuned_prompt, untuned
from harness.metrics.spelling import english
from harness.records import Completion, Item, Request, Score, Way
from harness.suites import forgetting
from harness.suites.benchmark import BenchmarkSuite
from harness.suites.benchmark_rows import benchmark_tasks
from harness.suites.free_text import plain_prompt
from harness.suites.generate import Ending, Prompt
from harness.suites.outcome import Outcome
from harness.suites.resume import Remembered
from harness.suites.suite import CardInputs, Resources, Suite

STAGE_VERSION = 5

Opener = Callable[[Path, Path | None], StudentEngine]  # base folder, adapter folder -> a loaded student


@dataclass(frozen=True)
class Judge:
    """A model that judges free text."""

    identity: str  # name@revision
    open: Callable[[], Generator]


@dataclass(frozen=True)
class Openers:
    """What builds the models that eval needs; nothing is built before it is needed."""

    student: Opener
    embedder: Callable[[], Embedder]
    judge: Callable[[str], Judge]  # by the name a rubric gives; the empty name is the rows' teacher


def card_key(run: Run, cast: Cast, subject: Subject, suite: Suite) -> str:
    """32 hex digits over what a card's numbers depend on."""
    parts: list[Any] = ["card", STAGE_VERSION, subject.key, subject.prompting, suite.name, suite.digest]
    if suite.of_task:
        parts += [run.task.system, run.task.labels, run.prompts.student.digest]
        if not subject.tuned:
            shown = untuned(run.task, run.prompts)
            parts += [shown.template.digest, shown.ending.after, shown.ending.next_example, shown.preface]
            parts += [*ways_tried(run, subject.prompting), MOST_ITEMS, one_line(run, cast.largest)]
        if subject.prompting == "few_shot":
            parts.append([shot.id for shot in shot_pool(run)])
        if subject.prompting == "retrieval":
            parts += [run.file.eval.retrieved, [row.id for row in cast.largest]]
    parts += suite.spec.extras.card_inputs(
        CardInputs(
            root=run.root,
            labels=tuple(run.task.labels),
            base_is_scored=_base_of(cast, subject) is not None,
            searched_rows=() if subject.tuned else [row.id for row in cast.largest],
            benchmark_rows=cast.benchmarks,
        )
    )
    if suite.rubric and not suite.rubric.judge:  # the rows' teacher judges
        parts += [run.teacher.model, run.teacher.revision, run.teacher.engine]
    return digest(*parts)[:32]


class Examiner:
    """Where students are scored: one in memory at a time, loaded when its first answer is missing."""

    def __init__(self, run: Run, cast: Cast, openers: Openers, terminal: Terminal, stop: Stop) -> None:
        self.run, self.cast, self.openers, self.terminal, self.stop = run, cast, openers, terminal, stop
        self.embedder = functools.cache(openers.embedder)
        self.resources = Resources(
            root=run.root,
            labels=tuple(run.task.labels),
            embedder=self.embedder,
            dictionary=functools.cache(english),
            benchmark_tasks=self.benchmark_tasks,
        )
        self._tasks: dict[str, list[Any]] = {}  # benchmark suite -> its tasks with rows
        self._loaded: tuple[tuple[Path, Path | None], StudentEngine] | None = None
        self._said: set[str] = set()

    def engine(self, subject: Subject) -> StudentEngine:
        """The subject's student, loaded."""
        place = (subject.base, subject.adapter)
        if self._loaded is None or self._loaded[0] != place:
            self._loaded = None  # let go of the last one before the next is loaded
            self._loaded = (place, self.openers.student(*place))
            for note in self._loaded[1].notes:
                if note not in self._said:  # what holds for every student of a base is said once
                    self.terminal.say(f"eval: {subject.cell.name}: {note}")
                self._said.add(note)
        return self._loaded[1]

    def benchmark_tasks(self, suite: BenchmarkSuite) -> list[Any]:
        """A benchmark's tasks with their rows, loaded once. Raises UsageError and NotReachable."""
        name = suite.model_dump_json()
        if name not in self._tasks:
            self._tasks[name] = benchmark_tasks(suite)
        return self._tasks[name]

    def alone(self, build: Callable[[], Generator]) -> Generator:
        """Another engine, built when the student in memory has been let go."""
        self._loaded = None
        return build()


def _no_step(what: str) -> None:
    """Nobody watches."""


def score_suite(
    examiner: Examiner, subject: Subject, suite: Suite, engine: StudentEngine, step: Callable[[str], None] = _no_step
) -> Outcome:
    """Per-item scores of one subject on one suite. `step` is told what is done now."""
    resources = replace(examiner.resources, training_texts=lambda: _training_texts(examiner.cast, subject))

    def score(items: Sequence[Item], prompt: Prompt, ending: Ending) -> Outcome:
        return suite.spec.score(items, prompt, ending, engine, subject.key, resources)

    if not suite.of_task:
        outcome = score(suite.items, plain_prompt, Ending())
    elif subject.tuned:
        outcome = score(suite.items, tuned_prompt(examiner.run), Ending())
    else:
        outcome = _score_untuned(examiner, subject, suite, engine, score, step)
    if suite.spec.extras.reads_base:
        outcome = _with_forgetting(examiner, subject, suite, engine, outcome)
    return _judged(examiner, suite, outcome, engine)


def _score_untuned(
    examiner: Examiner,
    subject: Subject,
    suite: Suite,
    engine: StudentEngine,
    score: Callable[[Sequence[Item], Prompt, Ending], Outcome],
    step: Callable[[str], None],
) -> Outcome:
    """The task's items, asked as the dev items choose among the ways to ask a model that was not tuned."""
    run, room = examiner.run, suite.spec.max_tokens or ANSWER_ROOM
    asker = asker_for(run, examiner.cast, subject, suite.items, engine, examiner.embedder, max_tokens=room)
    ending = asker.prompts.ending

    def score_way(way: Way, items: Sequence[Item]) -> Sequence[Score]:
        step(f"choosing how to ask: {way.words}")
        return score(items, asker.prompt(way), ending).scores

    choice = choose(suite, *ways_tried(run, subject.prompting), asker.way, score_way)
    step(f"as {choice.way.words}")
    return replace(score(suite.items, asker.prompt(choice.way), ending), choice=choice)


def _judged(examiner: Examiner, suite: Suite, outcome: Outcome, student: StudentEngine) -> Outcome:
    """Adds a judge's verdicts, where one judges. What it answered before, for whichever student, is not asked again."""
    rubric, run, scores = suite.rubric, examiner.run, outcome.scores
    if rubric is None:
        return outcome
    if isinstance(student, Remembered):
        student.release()  # the judge may need the memory
    known = {item.id: item for item in suite.items}
    answered = [score for score in scores if score.status != "failed"]
    items, outputs = [known[score.item] for score in answered], [score.output for score in answered]
    judge = examiner.openers.judge(rubric.judge)
    cache = CallCache(run.cache / "calls.sqlite", examiner.terminal.say)
    try:
        engine = functools.cache(lambda: examiner.alone(judge.open))

        def answers(requests: Sequence[Request]) -> list[Completion]:
            return [completion for completion, _ in cached(requests, cache, engine, examiner.stop)]

        found = rubric.answers(items, outputs, judge.identity, answers)
    finally:
        cache.close()
    if examiner.stop():
        raise Interrupted("stopped while the judge was asked; every answer is kept")
    teacher = next((row.provenance.teacher for row in examiner.cast.largest if row.provenance.teacher), "")
    notes = rubric.judge_notes(items, outputs, found, judge.identity, teacher)
    values = dict(zip((s.item for s in answered), rubric.values(items, outputs, found, judge.identity), strict=True))
    silent = {"status": "failed", "error": "the judge did not answer both orders"}

    def judged(score: Score) -> Score:
        if score.item not in values:
            return score
        return score.with_values(values[score.item]) if values[score.item] else Score(**(dict(score) | silent))

    merged = tuple(map(judged, scores))
    return replace(outcome, scores=merged, chance=0.5, notes=notes)


def _training_texts(cast: Cast, subject: Subject) -> tuple[str, ...]:
    """What the student was tuned on.

    For a base it is that of the largest student: what the base copies without having seen it is chance.
    """
    return tuple(f"{row.text} {row.answer}" for row in cast.rows_of(subject.cell) or cast.largest)


def _base_of(cast: Cast, subject: Subject) -> Subject | None:
    """The untuned model a student began as, where the grid has it."""
    untuned = (s for s in cast.subjects if not s.tuned and s.prompting == "zero_shot")
    return next((s for s in untuned if s.base == subject.base), None)


def _with_forgetting(
    examiner: Examiner, subject: Subject, suite: Suite, engine: StudentEngine, outcome: Outcome
) -> Outcome:
    """Adds how far a student moved from its base, reading the base's own answers; stores them for the base."""
    base, run = _base_of(examiner.cast, subject), examiner.run
    if base is None:
        return outcome
    stored = run.suites[suite.name]  # `suite` may have its items in another order
    base_key = card_key(run, examiner.cast, base, stored)
    expected = run.cache / "scores" / f"{base_key}.expected.npz"
    if not subject.tuned and suite is not stored:
        return outcome
    if not subject.tuned:
        pairs = forgetting.reading_pairs(suite.items, outcome.scores, engine)
        forgetting.store_expected(expected, suite.items, pairs, engine)
        return outcome
    if not expected.is_file():
        return outcome
    answers = [score for _, score in read_jsonl(run.cache / "scores" / f"{base_key}.jsonl", Score)]
    pairs = forgetting.reading_pairs(suite.items, answers, engine)
    kl = forgetting.moved(expected, suite.items, pairs, engine)
    scores = tuple(
        score.with_values({"kl_from_base": kl[score.item]}) if score.item in kl else score for score in outcome.scores
    )
    return replace(outcome, scores=scores)


def rescorer(
    run: Run, openers_for: Callable[[int], Openers], terminal: Terminal
) -> Callable[[Suite, int], Sequence[Score]]:
    """Scores the ship student on a suite once more, with another number of tokens in a batch; nothing is stored."""
    subject, cast = ship_subject(run)
    examiners: dict[int, Examiner] = {}

    def rescore(suite: Suite, batch_tokens: int) -> Sequence[Score]:
        if batch_tokens not in examiners:
            examiners.clear()  # one student in memory at a time
            examiners[batch_tokens] = Examiner(run, cast, openers_for(batch_tokens), terminal, Stop())
        examiner = examiners[batch_tokens]
        return score_suite(examiner, subject, suite, examiner.engine(subject)).scores

    return rescore
