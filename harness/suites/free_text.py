"""Questions answered in writing: asked greedily, judged by a record of harness.metrics.answers.

Beside what the answer is worth, every item with an accepted answer gets `gold_nll`, how unlikely the model finds
that answer: it moves with every weight, where an accuracy moves in steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from harness.data.lines import AnswerLine
from harness.engines.protocols import StudentEngine
from harness.errors import UsageError
from harness.metrics.answers import AnswerScorer
from harness.metrics.json_answers import JsonAnswer
from harness.records import Completion, Example, Item, Message, Pair, Score
from harness.suites.base import ItemsSuite, Located, about, read_lines
from harness.suites.generate import Ending, Prompt, answer_ids, ask, context_ids
from harness.suites.shaped import located, shape_of_items, shaped_examples
from harness.suites.suite import AskedAs, Requests, SuiteFile

ENDING = Ending()  # of a line, which is what a single question's answer is


def plain_prompt(item: Item) -> tuple[Message, ...]:
    """A question as the only turn of a chat, without any task around it."""
    return (Message(role="user", content=item.text),)


def read_answered(suite: ItemsSuite, file: SuiteFile, scorer: AnswerScorer, asked_as: AskedAs) -> list[Located]:
    """Questions with their accepted answers. Raises UsageError for an answer that `scorer` could never call right."""

    def check(place: str, line: AnswerLine) -> None:
        problem = next((problem for answer in line.right if (problem := scorer.problem(answer))), "")
        if problem:
            raise UsageError(f"{place}: answer: {problem}")

    shape = shape_of_items(suite, file, asked_as)
    if shape is not None:
        return [_shaped(where, example, about, scorer) for where, example, about in shaped_examples(suite, file, shape)]
    lines = read_lines(suite, file, AnswerLine, check)
    return [(place, Item(text=line.question, answers=line.right, **about(line))) for place, line in lines]


def _shaped(where: str, example: Example, about: dict[str, Any], scorer: AnswerScorer) -> Located:
    answers = about["answers"] or (example.answer,)
    problem = next((problem for answer in answers if (problem := scorer.problem(answer))), "")
    if problem:
        raise UsageError(f"{where}: answer: {problem}")
    return located(where, example, **(about | {"answers": answers}))


def written_metrics(scorer: AnswerScorer) -> tuple[str, ...]:
    """What `score_written` computes for every item."""
    return (*scorer.unread, "gold_nll", "empty", "stop_rate", "words")


def written_requests(items: Sequence[Item]) -> Requests:
    """What `score_written` asks: an answer to each item, and how likely its first accepted answer is."""
    return Requests(str(len(items)), sum(bool(item.answers) for item in items), len(items))


def score_written(
    items: Sequence[Item],
    prompt: Prompt,
    engine: StudentEngine,
    model: str,
    max_tokens: int,
    scorer: AnswerScorer,
    ending: Ending = ENDING,
) -> list[Score]:
    """One score per item, same order. `prompt` gives a chat to answer, or a plain text to continue to its `ending`.

    Values are the scorer's, and `gold_nll` (nats: minus the log-likelihood of the first accepted answer and its
    stop), `empty`, `stop_rate`, `words`. An answer that cannot be read is wrong. An item longer than the context
    and a call that failed are failed, not wrong.
    """
    prompts = [prompt(item) for item in items]
    contexts = [context_ids(engine, item_prompt) for item_prompt in prompts]
    golds = [
        answer_ids(engine, item_prompt, item.answers[0], ending) if item.answers else ()
        for item, item_prompt in zip(items, prompts, strict=True)
    ]
    # the answer's first token must fit even where no accepted answer says how long it is
    with_room = [
        i
        for i, (context, gold) in enumerate(zip(contexts, golds, strict=True))
        if len(context) + max(len(gold), 1) <= engine.max_length
    ]
    with_gold = [i for i in with_room if golds[i]]
    measured = engine.loglikelihood([Pair(context=contexts[i], continuation=golds[i]) for i in with_gold])
    nll = {i: -measure.logprob for i, measure in zip(with_gold, measured, strict=True)}
    schema = scorer.json_schema if ending.guided and isinstance(scorer, JsonAnswer) else None
    guide = schema if isinstance(schema, dict) else None
    answers = ask({i: prompts[i] for i in with_room}, engine, model, max_tokens, ending.stop, guide)
    written = {i: (answer, *ending.read(prompts[i], answer, scorer.end)) for i, answer in answers.items()}
    unanswered = dict.fromkeys(with_room, "the engine gave no answer")
    return [
        _score(item, written.get(i), nll.get(i), len(context), scorer, unanswered.get(i, ""))
        for i, (item, context) in enumerate(zip(items, contexts, strict=True))
    ]


def _score(
    item: Item,
    written: tuple[Completion, str, bool] | None,
    nll: float | None,
    length: int,
    scorer: AnswerScorer,
    unanswered: str,
) -> Score:
    about = item.facts | {"gold": item.answers[0] if item.answers else "", "prompt_tokens": length}
    if written is None:
        return Score.failed(unanswered or f"the prompt is {length} tokens, longer than the context", **about)
    answer, text, truncated = written
    if answer.finish_reason == "error":
        return Score.failed(answer.error or "the engine failed", **about)
    if nll is not None and not math.isfinite(nll):
        return Score.failed("the log-likelihood of the accepted answer is not a number", **about)
    judged = scorer.score(text, item)
    values = {
        **(scorer.unread if judged is None else judged),
        "empty": float(not text.strip()),
        "stop_rate": float(not truncated),
        "words": float(len(text.split())),
    }
    if nll is not None:
        values["gold_nll"] = nll
    return Score.scored(
        values,
        read=judged is not None,
        **about,
        output=text,
        truncated=truncated,
        answer_tokens=answer.completion_tokens,
    )
