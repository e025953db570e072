"""One text, answered side by side by the base, the few-shot base and every student of a run."""

from __future__ import annotations

from pathlib import Path

from harness.config.run import Run
from harness.core.terminal import Terminal
from harness.engines.protocols import StudentEngine
from harness.eval.plan import plan_scoring
from harness.eval.prompting import asker_for, tuned_prompt
from harness.eval.results import load_results, resolve_student
from harness.eval.runner import Openers
from harness.records import Item, Way
from harness.suites.generate import Ending, Prompt
from harness.suites.generate import ask as ask_written
from harness.suites.labels import score_labels

ANSWER_TOKENS = 32  # at most


def ask(run: Run, text: str, openers: Openers, terminal: Terminal, student: str | None = None) -> None:
    """Print what each candidate writes, and which label it finds likeliest with its probability.

    An untuned model is asked in the way that eval chose for it, before eval in the first one of those it would try.
    `student`: ask this one alone, by any part of its name that resolve_student takes. Raises UsageError.
    """
    plan, ways = plan_scoring(run), chosen_ways(run.folder)
    name = resolve_student(student, (candidate.cell.name for candidate in plan.candidates)) if student else None
    candidates = [candidate for candidate in plan.candidates if name in (None, candidate.cell.name)]
    width = max(len(candidate.title) for candidate in candidates)
    terminal.say(text)
    loaded: dict[tuple[Path, Path | None], StudentEngine] = {}
    for candidate in candidates:
        place = (candidate.base, candidate.adapter)
        if place not in loaded:
            loaded.clear()  # one student in memory at a time
            loaded[place] = openers.student(*place)
        engine, how = loaded[place], ""
        prompting, items, ending = candidate.prompting, [Item(text=text)], Ending()
        if candidate.tuned:
            prompt = tuned_prompt(plan.prompts, plan.shots, prompting, items, engine, openers.embedder)
        else:
            asker = asker_for(plan.prompts, plan.shots, prompting, items, engine, openers.embedder)
            forms, numbers = plan.ways(prompting)
            way = ways.get((candidate.cell.name, prompting), asker.way(forms[0], numbers[0]))
            prompt, ending, how = asker.prompt(way), plan.prompts.ending, f"  (asked as {way.words})"
        written = answer(tuple(run.task.labels), candidate.key, text, engine, prompt, ending)
        terminal.say(f"  {candidate.title:<{width}}  {written}{how}")


def chosen_ways(run_folder: Path) -> dict[tuple[str, str], Way]:
    """(student, prompting) -> how eval asked it on the run's first suite of the task. Empty before eval."""
    if not (run_folder / "eval" / "scorecards.json").is_file():
        return {}
    cards = reversed(load_results(run_folder).cards)
    return {(card.student, card.prompting): card.choice.way for card in cards if card.choice is not None}


def answer(
    labels: tuple[str, ...], model: str, text: str, engine: StudentEngine, prompt: Prompt, ending: Ending
) -> str:
    """What one candidate writes, and its likeliest label."""
    if not labels:
        question = prompt(Item(text=text))
        written = ask_written({0: question}, engine, model, ANSWER_TOKENS, ending.stop)[0]
        return f"failed: {written.error}" if written.error else repr(ending.read(question, written)[0].strip())
    # a stand-in gold at each position reads that label's probability from the same scorer the suites use
    items = [Item(text=text, choices=labels, gold=position) for position in range(len(labels))]
    scores = score_labels(items, prompt, engine, model, ANSWER_TOKENS, ending)
    if scores[0].status == "failed":
        return f"failed: {scores[0].error}"
    likeliest = max(scores, key=lambda score: score.values["gold_probability"])
    share = likeliest.values["gold_probability"]
    return f"{scores[0].output.strip()!r}; likeliest {likeliest.gold} ({share:.0%})"
