"""One text, answered side by side by the base, the few-shot base and every student of a run."""

from __future__ import annotations

from pathlib import Path

from harness.config import Run
from harness.examiner import Openers
from harness.prompting import Lookup, asked_with, nearest_rows
from harness.records import Item
from harness.scoring.asking import ask as ask_written
from harness.scoring.base import StudentEngine
from harness.scoring.labels import score_labels
from harness.subjects import Subject, largest_rows, read_cast
from harness.terminal import Terminal

ANSWER_TOKENS = 32  # at most


def ask(run: Run, text: str, openers: Openers, terminal: Terminal) -> None:
    """Print what each subject writes, and which label it finds likeliest with its probability."""
    cast = read_cast(run)
    width = max(len(subject.title) for subject in cast.subjects)
    lookup = nearest_rows(largest_rows(run, cast.cells), run.file.eval.retrieved, openers.embedder)
    terminal.say(text)
    loaded: dict[tuple[Path, Path | None], StudentEngine] = {}
    for subject in cast.subjects:
        place = (subject.base, subject.adapter)
        if place not in loaded:
            loaded.clear()  # one student in memory at a time
            loaded[place] = openers.student(*place)
        terminal.say(f"  {subject.title:<{width}}  {answer(run, subject, text, loaded[place], lookup)}")


def answer(run: Run, subject: Subject, text: str, engine: StudentEngine, lookup: Lookup) -> str:
    """What one subject writes, and its likeliest label."""
    labels = tuple(run.task.labels)
    if run.task.free:
        prompt = asked_with(run, subject, [Item(text=text)], engine, lookup)
        written = ask_written({0: prompt(text)}, engine, subject.key, ANSWER_TOKENS, ("\n",))[0]
        return f"failed: {written.error}" if written.error else repr(written.text.strip())
    # a stand-in gold at each position reads that label's probability from the same scorer the suites use
    items = [Item(text=text, choices=labels, gold=position) for position in range(len(labels))]
    prompt = asked_with(run, subject, items, engine, lookup)
    scores = score_labels(items, prompt, engine, subject.key, ANSWER_TOKENS)
    if scores[0].status == "failed":
        return f"failed: {scores[0].error}"
    likeliest = max(scores, key=lambda score: score.values["gold_probability"])
    share = likeliest.values["gold_probability"]
    return f"{scores[0].output.strip()!r}; likeliest {likeliest.gold} ({share:.0%})"
