"""One text, answered side by side by the base, the few-shot base and every student of a run."""

from __future__ import annotations

from pathlib import Path

from harness.config import Run
from harness.evaluate import Opener, Subject, asked_with, read_subjects
from harness.records import Item
from harness.scoring.base import StudentEngine
from harness.scoring.labels import score_labels
from harness.terminal import Terminal

ANSWER_TOKENS = 32


def ask(run: Run, text: str, open_student: Opener, terminal: Terminal) -> None:
    """Print what each subject writes, and which label it finds likeliest with its probability."""
    subjects, _ = read_subjects(run)
    width = max(len(subject.title) for subject in subjects)
    terminal.say(text)
    loaded: dict[tuple[Path, Path | None], StudentEngine] = {}
    for subject in subjects:
        place = (subject.base, subject.adapter)
        if place not in loaded:
            loaded.clear()  # one student in memory at a time
            loaded[place] = open_student(*place)
        terminal.say(f"  {subject.title:<{width}}  {answer(run, subject, text, loaded[place])}")


def answer(run: Run, subject: Subject, text: str, engine: StudentEngine) -> str:
    """What one subject writes, and its likeliest label."""
    labels = tuple(run.task.labels)
    # a stand-in gold at each position reads that label's probability from the same scorer the suites use
    items = [Item(text=text, choices=labels, gold=position) for position in range(len(labels))]
    prompt = asked_with(run, subject, items, engine)
    scores = score_labels(items, prompt, engine, subject.key, ANSWER_TOKENS)
    if scores[0].status == "failed":
        return f"failed: {scores[0].error}"
    likeliest = max(scores, key=lambda score: score.values["gold_probability"])
    share = likeliest.values["gold_probability"]
    return f"{scores[0].output.strip()!r}; likeliest {likeliest.gold} ({share:.0%})"
