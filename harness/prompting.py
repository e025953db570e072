"""How a model is asked the task: a tuned one with its own prompt, an untuned one with labels and examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.config import Run
from harness.errors import UsageError
from harness.records import Item, Row
from harness.rows import student_prompt, untuned_prompt
from harness.scoring.asking import Asked, Prompt, context_ids
from harness.scoring.base import Embedder, StudentEngine
from harness.subjects import Shot, Subject, shot_pool

ANSWER_ROOM = 64  # tokens kept free for the answer, and for a longest item by tokens, not by characters

Fits = Callable[[Sequence[Shot]], bool]


def asked_with(
    run: Run, subject: Subject, items: Sequence[Item], engine: StudentEngine, lookup: Lookup | None = None
) -> Prompt:
    """The prompt of a subject as a function of an item's text. `lookup` is for retrieval alone."""
    if subject.adapter:
        own = run.task.student_template(run.root)
        return lambda text: student_prompt(run.task, own, text)
    template = run.task.untuned_template(run.root)

    def prompt(text: str, shots: Sequence[Shot]) -> Asked:
        return untuned_prompt(run.task, template, text, shots)

    def fits(text: str) -> Fits:
        room = engine.max_length - ANSWER_ROOM

        def within(shots: Sequence[Shot]) -> bool:
            if sum(len(shot.text) for shot in shots) > 20 * room:  # no tokenizer packs twenty characters a token
                return False
            return len(context_ids(engine, prompt(text, shots))) <= room

        return within

    if subject.prompting == "few_shot":
        longest = max((item.text for item in items), key=len)
        shots = most_shots(shot_pool(run), fits(longest), run.task.free)
        return lambda text: prompt(text, shots)
    if subject.prompting == "retrieval":
        if lookup is None:
            raise UsageError(f"{subject.title}: retrieval needs rows to look up and an embedder")
        found = lookup([item.text for item in items])
        return lambda text: prompt(text, nearest_that_fit(found[text], fits(text)))
    return lambda text: prompt(text, ())


def most_shots(seeds: Sequence[Shot], fits: Fits, free: bool = False) -> tuple[Shot, ...]:
    """As many seeds as fit: evenly over labels and with labels mixed; the first ones where answers are free."""
    by_label: dict[str, list[Shot]] = {}
    for seed in seeds:
        by_label.setdefault("" if free else seed.label, []).append(seed)
    deepest = max(map(len, by_label.values()))
    for each in range(deepest, 0, -1):
        shots = tuple(own[i] for i in range(each) for own in by_label.values() if i < len(own))
        if fits(shots):
            return shots
    return ()


Lookup = Callable[[Sequence[str]], dict[str, tuple[Row, ...]]]


def nearest_rows(rows: Sequence[Row], k: int, embedder: Callable[[], Embedder]) -> Lookup:
    """A lookup of the `k` rows nearest in meaning to a text, the nearest last: right before the question.

    Cosine similarity of sentence embeddings; the retrieval baseline of Liu et al. 2022 (What makes good
    in-context examples for GPT-3?). Rows are embedded at the first call.
    """

    def lookup(texts: Sequence[str]) -> dict[str, tuple[Row, ...]]:
        engine = embedder()
        places = engine.embed([row.text for row in rows])
        likeness = engine.embed(texts) @ places.T
        order = (-likeness).argsort(axis=1, kind="stable")[:, :k]
        return {text: tuple(rows[j] for j in reversed(near)) for text, near in zip(texts, order, strict=True)}

    return lookup


def nearest_that_fit(shots: Sequence[Row], fits: Fits) -> tuple[Row, ...]:
    """The shots without the farthest ones that leave no room."""
    kept = tuple(shots)
    while kept and not fits(kept):
        kept = kept[1:]
    return kept
