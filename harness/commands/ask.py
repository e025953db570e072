"""One text, answered side by side by the base, the few-shot base and every student of a run."""

from __future__ import annotations

from pathlib import Path

from harness.config.run import Run
from harness.core.terminal import Terminal
from harness.engines.protocols import StudentEngine
from harness.eval.candidates import read_cast
from harness.eval.prompt_search import ways_tried
from harness.eval.prompting import asker_for, tuned_prompt
from harness.eval.results import load_results, resolve_student
from harness.eval.runner import Openers
from harness.records import Item, Way
from harness.suites.generate import Ending, Prompt
from harness.suites.generate import ask as ask_written
from harness.suites.labels import score_labels

ANSWER_TOKENS = 32  # at most


def ask(run: Run, text: str, openers: Openers, terminal: Terminal, student: str | None = None) -> None:
    """Print what each subject writes, and which label it finds likeliest with its probability.

    An untuned model is asked in the way that eval chose for it, before eval in the first one of those it would try.
    `student`: ask this one alone, by any part of its name that resolve_student takes. Raises UsageError.
    """
    cast = read_cast(run)
    ways = chosen_ways(run)
    wanted = resolve_student(student, (subject.cell.name for subject in cast.subjects)) if student else None
    subjects = [subject for subject in cast.subjects if wanted in (None, subject.cell.name)]
    width = max(len(subject.title) for subject in subjects)
    terminal.say(text)
    loaded: dict[tuple[Path, Path | None], StudentEngine] = {}
    for subject in subjects:
        place = (subject.base, subject.adapter)
        if place not in loaded:
            loaded.clear()  # one student in memory at a time
            loaded[place] = openers.student(*place)
        engine, how = loaded[place], ""
        prompt, ending = tuned_prompt(run), Ending()
        if not subject.tuned:
            asker = asker_for(run, cast, subject, [Item(text=text)], engine, openers.embedder)
            forms, numbers = ways_tried(run, subject.prompting)
            way = ways.get((subject.cell.name, subject.prompting), asker.way(forms[0], numbers[0]))
            prompt, ending, how = asker.prompt(way), asker.prompts.ending, f"  (asked as {way.words})"
        said = answer(tuple(run.task.labels), subject.key, text, engine, prompt, ending)
        terminal.say(f"  {subject.title:<{width}}  {said}{how}")


def chosen_ways(run: Run) -> dict[tuple[str, str], Way]:
    """(student, prompting) -> how eval asked it on the run's first suite of the task; empty before eval."""
    if not (run.folder / "eval" / "scorecards.json").is_file():
        return {}
    cards = reversed(load_results(run.folder).cards)
    return {(card.student, card.prompting): card.choice.way for card in cards if card.choice is not None}


def answer(
    labels: tuple[str, ...], model: str, text: str, engine: StudentEngine, prompt: Prompt, ending: Ending
) -> str:
    """What one subject writes, and its likeliest label."""
    if not labels:
        asked = prompt(Item(text=text))
        written = ask_written({0: asked}, engine, model, ANSWER_TOKENS, ending.stop)[0]
        return f"failed: {written.error}" if written.error else repr(ending.read(asked, written)[0].strip())
    # a stand-in gold at each position reads that label's probability from the same scorer the suites use
    items = [Item(text=text, choices=labels, gold=position) for position in range(len(labels))]
    scores = score_labels(items, prompt, engine, model, ANSWER_TOKENS, ending)
    if scores[0].status == "failed":
        return f"failed: {scores[0].error}"
    likeliest = max(scores, key=lambda score: score.values["gold_probability"])
    share = likeliest.values["gold_probability"]
    return f"{scores[0].output.strip()!r}; likeliest {likeliest.gold} ({share:.0%})"
