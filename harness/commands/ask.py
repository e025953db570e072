"""One text, answered side by side by the base, the few-shot base and every student of a run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.config.run import Run
from harness.config.task import TaskFile
from harness.core.terminal import Terminal
from harness.engines.protocols import StudentEngine
from harness.errors import UsageError, nearest
from harness.eval.plan import EvalPlan, plan_scoring
from harness.eval.prompting import asker_for, tuned_prompt
from harness.eval.results import load_results, resolve_student
from harness.eval.runner import Openers
from harness.records import Example, Item, Way
from harness.suites.generate import Ending, Prompt
from harness.suites.generate import ask as ask_written
from harness.suites.labels import score_labels

ANSWER_TOKENS = 32  # of an answer, unless a suite of the task lets it be longer
Question = str | Mapping[str, str]  # a text, or several fields by their names


@dataclass(frozen=True)
class Answer:
    """What one candidate answered."""

    candidate: str  # what people call it
    student: str  # its name
    text: str  # what it wrote
    likeliest: str = ""  # of a task with labels: the one it finds likeliest
    probability: float | None = None  # of that label among all of them
    asked: str = ""  # how an untuned model was asked
    error: str = ""  # why there is no answer
    unread: bool = False  # of a task with labels: what it wrote is none of them, and counts as wrong

    @property
    def words(self) -> str:
        """What people read."""
        if self.error:
            return f"failed: {self.error}"
        label = f"; likeliest label {self.likeliest} ({self.probability:.0%})" if self.probability is not None else ""
        return f"{self.text!r}{' (no label)' if self.unread else ''}{label}"


def ask(run: Run, text: str, openers: Openers, terminal: Terminal, student: str | None = None) -> None:
    """Print what `answers` gives, each when it is there."""
    question = question_of(run.task, text)
    candidates = asked_candidates(run, student)
    width = max(len(candidate.title) for candidate in candidates.candidates)
    terminal.say(text)
    for answer in answers(run, candidates, question, openers):
        how = f"  (asked as {answer.asked})" if answer.asked else ""
        terminal.say(f"  {answer.candidate:<{width}}  {answer.words}{how}")


def question_of(task: TaskFile, asked: Question) -> Item:
    """What a person asks, as an item: a text, or of a task with several fields an object (also as JSON).

    Raises UsageError for a field that is missing, empty, or none of the task's.
    """
    fields = task.fields
    if isinstance(asked, str) and len(fields) > 1:
        asked = _as_object(asked, fields)
    given: dict[str, Any] = {fields[0]: asked} if isinstance(asked, str) else dict(asked)
    for name in given:
        if name not in fields:
            raise UsageError(f"{name!r} is no field of the task{nearest(name, fields)}; fields: {', '.join(fields)}")
    texts = {name: given.get(name, "") for name in fields}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise UsageError(f"{name}: expected a text, got {text!r}")
        if not text.strip() and name not in task.optional:
            raise UsageError(f"{name} is empty: give a text such as the task is about")
    whole = Example(fields=texts).text
    return Item(text=whole, fields={} if fields == ("text",) else texts)


def _as_object(asked: str, fields: Sequence[str]) -> dict[str, Any]:
    """The fields that a text gives as JSON. Raises UsageError for a text that does not."""
    try:
        given = json.loads(asked)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        form = json.dumps(dict.fromkeys(fields, "..."))
        raise UsageError(f"the task has the fields {', '.join(fields)}: give all of them, as {form}")
    return given


def asked_candidates(run: Run, student: str | None = None) -> EvalPlan:
    """The plan of a trained run with those candidates alone that are asked: all of them, or one student.

    `student`: any part of its name that resolve_student takes. Raises UsageError.
    """
    plan = plan_scoring(run)
    name = (
        resolve_student(student, (candidate.cell.name for candidate in plan.candidates))
        if student is not None
        else None
    )
    return replace(plan, candidates=tuple(c for c in plan.candidates if name in (None, c.cell.name)))


def answers(run: Run, plan: EvalPlan, question: Item, openers: Openers) -> Iterator[Answer]:
    """What each candidate of a plan writes, and which label it finds likeliest with its probability.

    An untuned model is asked in the way that eval chose for it, before eval in the first one of those it would try.
    """
    ways = chosen_ways(run.folder)
    most = max([ANSWER_TOKENS, *(suite.spec.max_tokens or 0 for suite in run.suites.values() if suite.of_task)])
    asked = _Asked(tuple(run.task.labels), question, most)
    loaded: dict[tuple[Path, Path | None], StudentEngine] = {}
    for candidate in plan.candidates:
        place = (candidate.base, candidate.adapter)
        if place not in loaded:
            loaded.clear()  # one student in memory at a time
            loaded[place] = openers.student(*place)
        engine, how = loaded[place], ""
        prompting, items, ending = candidate.prompting, [question], Ending()
        if candidate.tuned:
            prompt = tuned_prompt(plan.prompts, plan.shots, prompting, items, engine, openers.embedder)
        else:
            asker = asker_for(plan.prompts, plan.shots, prompting, items, engine, openers.embedder)
            forms, numbers = plan.ways(prompting)
            way = ways.get((candidate.cell.name, prompting), asker.way(forms[0], numbers[0]))
            prompt, ending, how = asker.prompt(way), plan.prompts.ending, way.words
        about = Answer(candidate.title, candidate.cell.name, "", asked=how)
        yield _answered(about, asked, candidate.key, engine, prompt, ending)


def chosen_ways(run_folder: Path) -> dict[tuple[str, str], Way]:
    """(student, prompting) -> how eval asked it on the run's first suite of the task. Empty before eval."""
    if not (run_folder / "eval" / "scorecards.json").is_file():
        return {}
    cards = reversed(load_results(run_folder).cards)
    return {(card.student, card.prompting): card.choice.way for card in cards if card.choice is not None}


@dataclass(frozen=True)
class _Asked:
    """A question, the labels to choose from where there are any, and the most tokens of an answer."""

    labels: tuple[str, ...]
    item: Item
    max_tokens: int


def _answered(
    about: Answer, asked: _Asked, model: str, engine: StudentEngine, prompt: Prompt, ending: Ending
) -> Answer:
    """The answer with what the candidate writes, and its likeliest label."""
    if not asked.labels:
        written = ask_written({0: prompt(asked.item)}, engine, model, asked.max_tokens, ending.stop)[0]
        if written.error:
            return replace(about, error=written.error)
        return replace(about, text=ending.read(prompt(asked.item), written)[0].strip())
    # a stand-in gold at each position reads that label's probability from the same scorer the suites use
    items = [
        asked.item.model_copy(update={"choices": asked.labels, "gold": place}) for place in range(len(asked.labels))
    ]
    scores = score_labels(items, prompt, engine, model, asked.max_tokens, ending)
    if scores[0].status == "failed":
        return replace(about, error=scores[0].error)
    likeliest = max(scores, key=lambda score: score.values["gold_probability"])
    share = likeliest.values["gold_probability"]
    read = replace(about, text=scores[0].output.strip(), unread=scores[0].status == "unparsed")
    return replace(read, likeliest=likeliest.gold, probability=share)
