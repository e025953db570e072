"""Questions with choices, by the log-likelihood of each choice after the question, raw (no chat form).

Nothing is ever chosen on these items, so all of them are test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.records import Item, Loglikelihood, Pair, Score
from harness.scoring.base import StudentEngine
from harness.scoring.suites import ChoiceSuite


def continuation_pair(engine: StudentEngine, context: str, continuation: str) -> Pair:
    """Token ids of a context and of what follows it.

    Spaces at the context's end go over to the continuation, and the split is taken from the tokens of the
    whole, since a tokenizer may merge across the border: the convention of lm-evaluation-harness.
    """
    bare = context.rstrip(" ")
    continuation = context[len(bare) :] + continuation
    whole, before = engine.text_ids(bare + continuation), engine.text_ids(bare)
    return Pair(context=whole[: len(before)], continuation=whole[len(before) :])


def score_choices(items: Sequence[Item], suite: ChoiceSuite, engine: StudentEngine) -> list[Score]:
    """One score per item, same order; an item longer than the context fails by name."""
    grouped = [
        [continuation_pair(engine, suite.context.format(question=item.text), f" {c}") for c in item.choices]
        for item in items
    ]
    fits = [all(len(p.context) + len(p.continuation) <= engine.max_length for p in pairs) for pairs in grouped]
    flat = [pair for pairs, fit in zip(grouped, fits, strict=True) if fit for pair in pairs]
    measured = iter(engine.loglikelihood(flat))
    return [
        _score(item, [next(measured) for _ in item.choices] if fit else [], suite.normalise)
        for item, fit in zip(items, fits, strict=True)
    ]


def _score(item: Item, rated: Sequence[Loglikelihood], normalise: str) -> Score:
    assert item.gold is not None
    gold = item.choices[item.gold]
    if not rated or any(not math.isfinite(m.logprob) for m in rated):
        why = "longer than the context" if not rated else "a log-likelihood is not a number"
        return Score(item=item.id, split="test", status="failed", gold=gold, error=why)
    lengths = [len(c.encode()) if normalise == "bytes" else 1 for c in item.choices]
    per = [m.logprob / n for m, n in zip(rated, lengths, strict=True)]
    best = max(range(len(per)), key=lambda k: per[k])
    top = max(m.logprob for m in rated)
    weights = [math.exp(m.logprob - top) for m in rated]
    return Score(
        item=item.id,
        split="test",
        status="scored",
        values={
            "accuracy": float(best == item.gold),
            "gold_probability": weights[item.gold] / sum(weights),
        },
        gold=gold,
        picked=item.choices[best],
    )
