"""One card of the plan: the right scorer with what it needs, one student in memory at a time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.augment.rows import writers
from harness.core.json_file import read_jsonl
from harness.core.terminal import Stop, Terminal
from harness.engines.call_cache import cached
from harness.engines.call_place import calls_of
from harness.engines.leaving import closed_at_end
from harness.engines.protocols import Embedder, Generator, StudentEngine
from harness.errors import Interrupted
from harness.eval.candidates import Candidate
from harness.eval.plan import EvalPlan, PlannedCard, base_of
from harness.eval.prompt_search import choose
from harness.eval.prompting import ANSWER_ROOM, asker_for, tuned_prompt
from harness.metrics.spelling import english
from harness.records import Completion, Item, Request, Score, Way
from harness.suites import forgetting
from harness.suites.benchmark import BenchmarkSuite
from harness.suites.benchmark_rows import benchmark_tasks
from harness.suites.free_text import plain_prompt
from harness.suites.generate import Ending, Prompt
from harness.suites.outcome import Outcome
from harness.suites.resume import Remembered
from harness.suites.suite import Resources, Suite

Opener = Callable[[Path, Path | None], StudentEngine]  # base folder, adapter folder -> a loaded student


@dataclass(frozen=True)
class Judge:
    """A model that judges free text."""

    identity: str  # name@revision
    open: Callable[[], Generator]


@dataclass(frozen=True)
class Openers:
    """Builders of the models that eval needs. Each is called when its model is needed."""

    student: Opener
    embedder: Callable[[], Embedder]
    judge: Callable[[str], Judge]  # by the name a rubric gives; the empty name is the rows' teacher


class Scorer:
    """Scores the cards of a plan. One student is in memory at a time, loaded when its first answer is missing."""

    def __init__(
        self, plan: EvalPlan, root: Path, cache: Path, openers: Openers, terminal: Terminal, stop: Stop
    ) -> None:
        """`root`: the project. `cache`: what runs share."""
        self.plan, self.cache, self.openers, self.terminal, self.stop = plan, cache, openers, terminal, stop
        self.embedder = functools.cache(openers.embedder)
        self.resources = Resources(
            root=root,
            labels=tuple(plan.prompts.task.labels),
            embedder=self.embedder,
            dictionary=functools.cache(english),
            benchmark_tasks=self.benchmark_tasks,
        )
        self._tasks: dict[str, list[Any]] = {}  # benchmark suite -> its tasks with rows
        self._loaded: tuple[tuple[Path, Path | None], StudentEngine] | None = None
        self._said: set[str] = set()

    def engine(self, candidate: Candidate) -> StudentEngine:
        """The candidate's model, loaded."""
        place = (candidate.base, candidate.adapter)
        if self._loaded is None or self._loaded[0] != place:
            self._loaded = None  # let go of the last one before the next is loaded
            self._loaded = (place, self.openers.student(*place))
            for note in self._loaded[1].notes:
                if note not in self._said:  # what holds for every student of a base is said once
                    self.terminal.say(f"eval: {candidate.cell.name}: {note}")
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
    scorer: Scorer, card: PlannedCard, engine: StudentEngine, step: Callable[[str], None] = _no_step
) -> Outcome:
    """Per-item scores of one card. `step` is told what is done now."""
    candidate, suite, plan = card.candidate, card.suite, scorer.plan
    resources = replace(scorer.resources, training_texts=lambda: _training_texts(plan, candidate))

    def score(items: Sequence[Item], prompt: Prompt, ending: Ending) -> Outcome:
        return suite.spec.score(items, prompt, ending, engine, candidate.key, resources)

    if not suite.of_task:
        outcome = score(suite.items, plain_prompt, Ending())
    elif candidate.tuned:
        room = suite.spec.max_tokens or ANSWER_ROOM
        ask = tuned_prompt(plan.prompts, plan.shots, candidate.prompting, suite.items, engine, scorer.embedder, room)
        outcome = score(suite.items, ask, Ending(guided=plan.prompts.ending.guided))
    else:
        outcome = _score_untuned(scorer, card, engine, score, step)
    if suite.spec.extras.reads_base:
        outcome = _with_forgetting(scorer, card, engine, outcome)
    return _judged(scorer, suite, outcome, engine)


def _score_untuned(
    scorer: Scorer,
    card: PlannedCard,
    engine: StudentEngine,
    score: Callable[[Sequence[Item], Prompt, Ending], Outcome],
    step: Callable[[str], None],
) -> Outcome:
    """The task's items, asked as the dev items choose among the ways to ask a model that was not tuned."""
    suite, prompts, shots = card.suite, scorer.plan.prompts, scorer.plan.shots
    prompting, room = card.candidate.prompting, suite.spec.max_tokens or ANSWER_ROOM
    asker = asker_for(prompts, shots, prompting, suite.items, engine, scorer.embedder, max_tokens=room)

    def score_way(way: Way, items: Sequence[Item]) -> Sequence[Score]:
        step(f"choosing how to ask: {way.words}")
        return score(items, asker.prompt(way), prompts.ending).scores

    choice = choose(suite, *scorer.plan.ways(prompting), asker.way, score_way)
    step(f"as {choice.way.words}")
    return replace(score(suite.items, asker.prompt(choice.way), prompts.ending), choice=choice)


def _judged(scorer: Scorer, suite: Suite, outcome: Outcome, student: StudentEngine) -> Outcome:
    """Adds a judge's verdicts, where one judges. What it answered before, for whichever student, is not asked again."""
    rubric, scores = suite.rubric, outcome.scores
    if rubric is None:
        return outcome
    if isinstance(student, Remembered):
        student.release()  # the judge may need the memory
    item_by_id = {item.id: item for item in suite.items}
    answered = [score for score in scores if score.status != "failed"]
    items, outputs = [item_by_id[score.item] for score in answered], [score.output for score in answered]
    judge = scorer.openers.judge(rubric.judge)
    calls = calls_of(scorer.cache, scorer.terminal.say)
    with calls as cache, closed_at_end(lambda: scorer.alone(judge.open)) as engine:

        def answers(requests: Sequence[Request]) -> list[Completion]:
            return [completion for completion, _ in cached(requests, cache, engine, scorer.stop)]

        verdicts = rubric.answers(items, outputs, judge.identity, answers)
    if scorer.stop():
        raise Interrupted("stopped while the judge was asked; every answer is kept")
    wrote = {name for row in scorer.plan.shots.rows for name in writers(row)}
    notes = rubric.judge_notes(items, outputs, verdicts, judge.identity, wrote)
    values = dict(zip((s.item for s in answered), rubric.values(items, outputs, verdicts, judge.identity), strict=True))
    silent = {"status": "failed", "error": "the judge did not answer both orders"}

    def judged(score: Score) -> Score:
        if score.item not in values:
            return score
        return score.with_values(values[score.item]) if values[score.item] else Score(**(dict(score) | silent))

    merged = tuple(map(judged, scores))
    return replace(outcome, scores=merged, chance=0.5, notes=notes)


def _training_texts(plan: EvalPlan, candidate: Candidate) -> tuple[str, ...]:
    """What the student was tuned on.

    For a base it is that of the largest student: what the base copies without having seen it is chance.
    """
    return tuple(f"{row.text} {row.answer}" for row in candidate.rows or plan.shots.rows)


def _with_forgetting(scorer: Scorer, card: PlannedCard, engine: StudentEngine, outcome: Outcome) -> Outcome:
    """Adds to a student's scores its KL divergence from its base. Of a base, stores what it expects."""
    candidate, suite, folder = card.candidate, card.suite, scorer.cache / "scores"
    base = base_of(scorer.plan.candidates, candidate)
    if base is None:
        return outcome
    base_key = scorer.plan.card(base, suite.name).key
    expected = folder / f"{base_key}.expected.npz"
    if not candidate.tuned and not card.key:
        return outcome
    if not candidate.tuned:
        pairs = forgetting.reading_pairs(suite.items, outcome.scores, engine)
        forgetting.store_expected(expected, suite.items, pairs, engine)
        return outcome
    if not expected.is_file():
        return outcome
    answers = [score for _, score in read_jsonl(folder / f"{base_key}.jsonl", Score)]
    pairs = forgetting.reading_pairs(suite.items, answers, engine)
    kl = forgetting.moved(expected, suite.items, pairs, engine)
    scores = tuple(
        score.with_values({"kl_from_base": kl[score.item]}) if score.item in kl else score for score in outcome.scores
    )
    return replace(outcome, scores=scores)


def rescorer(candidate: Candidate, scorer_for: Callable[[int], Scorer]) -> Callable[[Suite, int], Sequence[Score]]:
    """Scores a candidate on a suite once more, with another number of tokens in a batch. Nothing is stored."""
    scorers: dict[int, Scorer] = {}

    def rescore(suite: Suite, batch_tokens: int) -> Sequence[Score]:
        if batch_tokens not in scorers:
            scorers.clear()  # one student in memory at a time
            scorers[batch_tokens] = scorer_for(batch_tokens)
        scorer = scorers[batch_tokens]
        return score_suite(scorer, PlannedCard(candidate, suite, key=""), scorer.engine(candidate)).scores

    return rescore
