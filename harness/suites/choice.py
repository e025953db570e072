"""Questions with choices, by the log-likelihood of each choice after the question, raw (no chat form).

Nothing is ever chosen on these items, so all of them are test.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from harness.core import templates
from harness.core.templates import fill
from harness.data.columns import title
from harness.data.lines import ChoiceLine
from harness.engines.protocols import StudentEngine
from harness.errors import MachineError, UsageError
from harness.records import Item, Loglikelihood, Pair, Score
from harness.suites.base import ItemsSuite, about, checked_items, read_lines
from harness.suites.generate import Ending, Prompt, continuation_pair, fits, shares
from harness.suites.outcome import Outcome
from harness.suites.suite import AskedAs, Extras, Requests, Resources, SuiteFile, chance


class ChoiceSuite(ItemsSuite):
    """Questions with choices, {question, choices, answer: index or letter}, scored raw (no chat form).

    The log-likelihood of a choice decides: as it is (none), per byte (bytes), or by how much the question raises it
    above that of the choice alone after the premise (pmi: Holtzman et al. 2021, Surface form competition). Only the
    last is blind to how likely a model finds short or common words.
    """

    extras: ClassVar[Extras] = Extras()
    asked: ClassVar[AskedAs] = "raw"
    max_tokens: ClassVar[None] = None
    item_metrics: ClassVar[tuple[str, ...]] = ("accuracy", "gold_probability", "gold_nll")
    kind: Literal["choice"]
    context: str = "Question: {question}\nAnswer:"  # what stands before each choice
    normalise: Literal["none", "bytes", "pmi"] = "bytes"

    @model_validator(mode="after")
    def _has_no_other_holes(self) -> Self:
        try:
            templates.check_pattern(self.context, "question")
        except ValueError as error:
            raise ValueError(f"context {self.context!r}: {error}") from error
        if self.normalise == "pmi" and not self.premise:
            raise ValueError(f"context {self.context!r}: normalise pmi needs words after {{question}}")
        return self

    @property
    def premise(self) -> str:
        """What stands before a choice without the question: the end of the context, such as "Answer:"."""
        return self.context.rpartition("{question}")[2].strip()

    def prompt(self, text: str) -> str:
        """What stands before each choice of a question."""
        return fill(self.context, question=text)

    def load(self, file: SuiteFile) -> tuple[ChoiceSuite, tuple[Item, ...]]:
        """As SuiteKind."""
        located = [
            (place, Item(text=line.question, choices=line.choices, gold=line.answer, **about(line)))
            for place, line in read_lines(self, file, ChoiceLine, _check_line)
        ]
        return self, checked_items(title(self.items), located, self.asked)

    def gold(self, item: Item) -> tuple[str, ...]:
        """As SuiteKind: the right choice."""
        return (item.choices[item.gold],) if item.gold is not None else ()

    def requests(self, items: Sequence[Item]) -> Requests:
        """As SuiteKind: each choice of each question, and for pmi each choice without a question too."""
        bare_choices = {choice for item in items for choice in item.choices} if self.normalise == "pmi" else set()
        return Requests(str(len(items)), sum(len(item.choices) for item in items) + len(bare_choices))

    def score(
        self,
        items: Sequence[Item],
        prompt: Prompt,
        ending: Ending,
        engine: StudentEngine,
        model: str,
        resources: Resources,
    ) -> Outcome:
        """As SuiteKind."""
        return Outcome(tuple(score_choices(items, self, engine)), chance(items))


def _check_line(place: str, line: ChoiceLine) -> None:
    if line.answer >= len(line.choices):
        raise UsageError(f"{place}: answer: {line.answer} is outside the choices 0 to {len(line.choices) - 1}")
    if len(set(line.choices)) != len(line.choices):
        raise UsageError(f"{place}: choices: two of them are equal")


def score_choices(items: Sequence[Item], suite: ChoiceSuite, engine: StudentEngine) -> list[Score]:
    """One score per item, same order. What cannot be asked or measured fails by name, never counts as wrong."""
    grouped = [[continuation_pair(engine, suite.prompt(item.text), f" {c}") for c in item.choices] for item in items]
    problems = [_problem(item, pairs, engine) for item, pairs in zip(items, grouped, strict=True)]
    flat = [pair for pairs, problem in zip(grouped, problems, strict=True) if not problem for pair in pairs]
    askable = [item for item, problem in zip(items, problems, strict=True) if not problem]
    choices = list(dict.fromkeys(c for item in askable for c in item.choices)) if suite.normalise == "pmi" else []
    bare_pairs = [continuation_pair(engine, suite.premise, f" {choice}") for choice in choices]
    try:
        measured = iter(engine.loglikelihood([*flat, *bare_pairs]))
    except MachineError as error:  # the card becomes incomplete; the items are still counted
        problems = [problem or str(error) for problem in problems]
        measured, choices = iter(()), []
    rated = [[next(measured) for _ in ([] if problem else p)] for p, problem in zip(grouped, problems, strict=True)]
    prior = {choice: next(measured).logprob for choice in choices}
    return [
        _score(item, pairs, item_values, problem, suite.normalise, prior)
        for item, pairs, item_values, problem in zip(items, grouped, rated, problems, strict=True)
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
    about = item.facts | {"split": "test", "gold": item.choices[item.gold]}
    if problem:
        return Score.failed(problem, **about)
    logprobs = [m.logprob for m in rated]
    raised = [logprob - prior.get(choice, 0.0) for logprob, choice in zip(logprobs, item.choices, strict=True)]
    if not all(map(math.isfinite, raised)):
        return Score.failed("a log-likelihood is not a number", **about)
    lengths = [len(choice.encode()) if normalise == "bytes" else 1 for choice in item.choices]
    best = max(range(len(raised)), key=lambda k: raised[k] / lengths[k])
    values = {
        "accuracy": float(best == item.gold),
        "gold_probability": shares(raised)[item.gold],
        "gold_nll": -logprobs[item.gold],
    }
    return Score.scored(
        values,
        **about,
        top_choice=item.choices[best],
        prompt_tokens=max(len(pair.context) for pair in pairs),
        answer_tokens=sum(len(pair.continuation) for pair in pairs),
    )
