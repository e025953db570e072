"""Questions with choices, by the log-likelihood of each choice after the question, raw (no chat form).

Nothing is ever chosen on these items, so all of them are test.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from harness.core.templates import fill
from harness.engines.protocols import StudentEngine
from harness.errors import MachineError
from harness.records import Item, Loglikelihood, Pair, Score
from harness.suites.files import ChoiceSuite


def continuation_pair(engine: StudentEngine, context: str, continuation: str) -> Pair:
    """Token ids of a context and of what follows it, see `split_pair`."""
    return split_pair(engine.text_ids, context, continuation)


def split_pair(text_ids: Callable[[str], tuple[int, ...]], context: str, continuation: str) -> Pair:
    """The same by a function from text to token ids.

    White space at the context's end goes over to the continuation, and the split is taken from the tokens of the
    whole, since a tokenizer may merge across the border: the convention of lm-evaluation-harness.
    """
    bare = context.rstrip()
    continuation = context[len(bare) :] + continuation
    whole, before = text_ids(bare + continuation), text_ids(bare)
    return Pair(context=whole[: len(before)], continuation=whole[len(before) :])


def fits(pair: Pair, engine: StudentEngine) -> bool:
    """Whether a pair can be measured whole: its last token is predicted, never read."""
    return len(pair.context) + len(pair.continuation) - 1 <= engine.max_length


def shares(logprobs: Sequence[float]) -> list[float]:
    """Probabilities of choices among themselves (they sum to 1), from their log-likelihoods (nats)."""
    top = max(logprobs)
    weights = [math.exp(value - top) for value in logprobs]
    return [weight / sum(weights) for weight in weights]


def score_choices(items: Sequence[Item], suite: ChoiceSuite, engine: StudentEngine) -> list[Score]:
    """One score per item, same order. What cannot be asked or measured fails by name, never counts as wrong."""
    grouped = [
        [continuation_pair(engine, fill(suite.context, question=item.text), f" {c}") for c in item.choices]
        for item in items
    ]
    problems = [_problem(item, pairs, engine) for item, pairs in zip(items, grouped, strict=True)]
    flat = [pair for pairs, problem in zip(grouped, problems, strict=True) if not problem for pair in pairs]
    asked = [item for item, problem in zip(items, problems, strict=True) if not problem]
    choices = list(dict.fromkeys(c for item in asked for c in item.choices)) if suite.normalise == "pmi" else []
    alone = [continuation_pair(engine, suite.premise, f" {choice}") for choice in choices]
    try:
        measured = iter(engine.loglikelihood([*flat, *alone]))
    except MachineError as error:  # the card becomes incomplete; the items are still counted
        problems = [problem or str(error) for problem in problems]
        measured, choices = iter(()), []
    rated = [[next(measured) for _ in ([] if problem else p)] for p, problem in zip(grouped, problems, strict=True)]
    prior = {choice: next(measured).logprob for choice in choices}
    return [
        _score(item, pairs, own, problem, suite.normalise, prior)
        for item, pairs, own, problem in zip(items, grouped, rated, problems, strict=True)
    ]


def _problem(item: Item, pairs: Sequence[Pair], engine: StudentEngine) -> str:
    """Why an item cannot be put to this model, or ''."""
    for choice, pair in zip(item.choices, pairs, strict=True):
        if not choice.strip() or not pair.continuation:
            return f"the choice {choice!r} is empty"
        if not pair.context:
            return "the question has no tokens"
        if not fits(pair, engine):
            length = len(pair.context) + len(pair.continuation)
            return f"longer than the context: {length} tokens, the context holds {engine.max_length}"
    first: dict[tuple[int, ...], str] = {}
    for choice, pair in zip(item.choices, pairs, strict=True):
        twin = first.setdefault(pair.continuation, choice)
        if twin is not choice:
            return f"the choices {twin!r} and {choice!r} are the same tokens to this model"
    return ""


def _score(
    item: Item,
    pairs: Sequence[Pair],
    rated: Sequence[Loglikelihood],
    problem: str,
    normalise: str,
    prior: Mapping[str, float],  # of a choice without the question, where that counts
) -> Score:
    assert item.gold is not None
    blank = Score(
        item=item.id,
        split="test",
        status="failed",
        gold=item.choices[item.gold],
        error=problem,
        tags=item.tags,
        group=item.group,
        stratum=item.stratum,
    )
    if problem:
        return blank
    logprobs = [m.logprob for m in rated]
    raised = [logprob - prior.get(choice, 0.0) for logprob, choice in zip(logprobs, item.choices, strict=True)]
    if not all(map(math.isfinite, raised)):
        return blank.model_copy(update={"error": "a log-likelihood is not a number"})
    lengths = [len(choice.encode()) if normalise == "bytes" else 1 for choice in item.choices]
    best = max(range(len(raised)), key=lambda k: raised[k] / lengths[k])
    return blank.model_copy(
        update={
            "status": "scored",
            "values": {
                "accuracy": float(best == item.gold),
                "gold_probability": shares(raised)[item.gold],
                "gold_nll": -logprobs[item.gold],
            },
            "picked": item.choices[best],
            "prompt_tokens": max(len(pair.context) for pair in pairs),
            "answer_tokens": sum(len(pair.continuation) for pair in pairs),
        }
    )
