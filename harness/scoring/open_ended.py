"""Instructions answered in free text: does it repeat itself, stop, run long, or answer with a label?

Nothing is ever chosen on these items, so all of them are test.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.records import Completion, Item, Message, Origin, Request, Sampling, Score
from harness.scoring.base import StudentEngine
from harness.scoring.quality import collapsed, rep_n


def score_open_ended(
    items: Sequence[Item], engine: StudentEngine, model: str, max_tokens: int, labels: Sequence[str]
) -> list[Score]:
    """One score per item, same order. Greedy; the instruction is the only turn."""
    sampling = Sampling(temperature=0.0, max_tokens=max_tokens)
    requests = [
        Request(
            model=model,
            messages=(Message(role="user", content=item.text),),
            sampling=sampling,
            origin=Origin(purpose="answer", row=item.id),
        )
        for item in items
    ]
    answers = {completion.request: completion for completion in engine.generate(requests)}
    return [_score(item, answers[r.key], labels) for item, r in zip(items, requests, strict=True)]


def _score(item: Item, completion: Completion, labels: Sequence[str]) -> Score:
    if completion.finish_reason == "error":
        return Score(item=item.id, split="test", status="failed", error=completion.error)
    text, cut = completion.text, completion.finish_reason == "length"
    values = {
        "words": float(len(text.split())),
        "stop_rate": float(not cut),
        "label_collapse": float(collapsed(text, labels)),
        "empty": float(not text.strip()),
    }
    for n in (2, 3, 4):
        share = rep_n(text, n)
        if share is not None:  # a text too short for one n-gram has no share; it is left out, not 0
            values[f"rep_{n}"] = share
    return Score(item=item.id, split="test", status="scored", values=values, output=text, cut=cut)
