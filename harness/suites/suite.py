"""What a suite is to a stage: a loaded file of one of the kinds, its items, and the protocol of all kinds.

A stage calls a method of `SuiteKind` and never asks which kind it holds. `harness.suites.kinds` lists the kinds, which
stand in modules of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Self, cast

from pydantic import BaseModel, Field, model_validator

from harness.core.record import FORMAT, Record, digest, digested
from harness.data.examples import Shape
from harness.engines.protocols import Embedder, StudentEngine
from harness.records import Item, Score
from harness.suites.generate import Ending, Prompt
from harness.suites.outcome import Outcome
from harness.suites.rubric import Rubric

Finite = Annotated[float, Field(allow_inf_nan=False)]
AskedAs = Literal["task", "plain", "raw"]  # with the task's prompt; as a user's only turn; as a text without chat form

# where items come from and what is allowed decide no score. An item's id holds what is asked and what is right
_NO_RULES = {"limits", "changes", "items", "fields", "tags", "documents", "primary", "file", "items_function"}


class Limit(Record):
    """What `check` allows for one metric: how much worse than the baseline, and which values at all."""

    margin: Annotated[Finite, Field(gt=0)] | None = None  # worse by at most this, in the metric's unit
    margin_share: Annotated[float, Field(gt=0, le=1)] | None = None  # worse by at most this share of the baseline
    min: Finite | None = None  # the value itself
    max: Finite | None = None
    better: Literal["higher", "lower"] | None = None  # None: as the harness knows the metric, else higher

    @model_validator(mode="after")
    def _can_be_met(self) -> Self:
        if self.min is not None and self.max is not None and self.min >= self.max:
            raise ValueError(f"min {self.min:g} is not below max {self.max:g}")
        return self


@dataclass(frozen=True)
class SuiteFile:
    """A suite file that is being loaded: where its keys stand, and what the run adds."""

    root: Path  # the project
    place: Callable[[tuple[str, ...]], str]  # file and line of a key, for messages
    shape: Shape | None  # what the examples of the task look like. None: no task is given
    limit: int | None  # items of a benchmark at most


@dataclass(frozen=True)
class Requests:
    """What scoring some items asks of a student."""

    items: str  # how many, in words
    loglikelihoods: int = 0
    answers: int = 0  # generated, at most
    counted: bool = True  # False: only the library that makes the requests knows how many there are


@dataclass(frozen=True)
class Resources:
    """What scoring may take beside the student. What is slow to load is loaded when it is called for."""

    root: Path = Path()  # the project
    labels: tuple[str, ...] = ()  # the task's
    training_texts: Callable[[], tuple[str, ...]] = tuple  # what the student was tuned on
    embedder: Callable[[], Embedder | None] = lambda: None
    dictionary: Callable[[], frozenset[str] | None] = lambda: None
    benchmark_tasks: Callable[[Any], list[Any]] | None = None  # lm-evaluation-harness tasks of a suite, with their rows


@dataclass(frozen=True)
class CardInputs:
    """What a card may depend on beside the student, how it was asked, and the suite's own digest."""

    root: Path  # the project
    labels: tuple[str, ...]  # the task's
    base_is_scored: bool  # the run also scores the untuned model that the student began as
    searched_rows: Sequence[str]  # ids of the rows whose texts an untuned model's answers are searched for
    benchmark_rows: Any  # which rows of public benchmarks are at hand


def item_texts(items: Sequence[Item]) -> list[tuple[str, str]]:
    """(item id, text) of every question, in all its wordings."""
    return [(item.id, text) for item in items for text in (item.text, *item.variants)]


def item_texts_digest(items: Sequence[Item]) -> str:
    """64 hex digits over the same."""
    return digest("texts", [[item.id, item.text, list(item.variants)] for item in items])


@dataclass(frozen=True)
class Extras:
    """What some kinds have beside items and scores. The defaults are those of a kind that has none of it."""

    rubric: Rubric | None = None  # by what a model judges the answers. None: rules do
    reads_base: bool = False  # tuned students also read what their base answered, to measure how far they moved
    # find a mistake in what the suite names before any student is asked: UsageError, and NotReachable for a benchmark
    prepare: Callable[[Resources], object] = lambda resources: None
    # metrics of all scores together, beside the means of `item_metrics`
    summary: Callable[[Sequence[Score], Sequence[Item]], dict[str, float]] = lambda scores, items: {}
    # what is wrong with the items in the light of the files that the suite names, in the project's folder
    problems: Callable[[Sequence[Item], Path], list[str]] = lambda items, root: []
    card_inputs: Callable[[CardInputs], list[Any]] = lambda inputs: []  # those that its scores depend on, as plain data
    # (item id, text) of every text that no training row may contain. Raises NotReachable as `prepare`
    texts: Callable[[Sequence[Item]], list[tuple[str, str]]] = item_texts
    # 64 hex digits over `texts`, or empty where a benchmark's rows are not at hand
    texts_digest: Callable[[Sequence[Item]], str] = item_texts_digest


class SuiteKind(Protocol):
    """A kind of suite: a frozen record whose fields are its YAML (`SuiteBase`) and whose methods do the work.

    A loaded suite hands its `items` in.
    """

    @property
    def kind(self) -> str:
        """Its name in a suite file."""
        ...

    @property
    def version(self) -> int:
        """The number of the last change that moves scores."""
        ...

    @property
    def changes(self) -> dict[str, str]:
        """Version -> dated note."""
        ...

    @property
    def limits(self) -> dict[str, Limit]:
        """Metric -> what `check` allows."""
        ...

    @property
    def primary(self) -> str | None:
        """The metric that sums the suite up. None: the first of `item_metrics`."""
        ...

    @property
    def asked(self) -> AskedAs:
        """How an item is put to a student."""
        ...

    @property
    def max_tokens(self) -> int | None:
        """Tokens of one written answer at most. None: nothing is written."""
        ...

    @property
    def item_metrics(self) -> tuple[str, ...]:
        """The metrics that are computed for every item, so that items can be paired and resampled."""
        ...

    @property
    def extras(self) -> Extras:
        """What it has beside items and scores."""
        ...

    def load(self, file: SuiteFile) -> tuple[Self, tuple[Item, ...]]:
        """The suite with the contents of the files that decide its scores, and its items.

        A benchmark's items are read when it is scored. Raises UsageError naming file, line and value.
        """
        ...

    def gold(self, item: Item) -> tuple[str, ...]:
        """Every answer that must score 1. Empty where no answer is right by itself."""
        ...

    def requests(self, items: Sequence[Item]) -> Requests:
        """What scoring `items` once asks of a student."""
        ...

    def score(
        self,
        items: Sequence[Item],
        prompt: Prompt,
        ending: Ending,
        engine: StudentEngine,
        model: str,
        resources: Resources,
    ) -> Outcome:
        """One score per item, same order. `model` names the weights in requests.

        `prompt` and `ending` say how an item is asked where `asked` is task or plain.
        """
        ...


@dataclass(frozen=True)
class Suite:
    """A loaded suite. A benchmark's items are read when it is scored, so `items` is empty for it."""

    name: str
    spec: SuiteKind
    items: tuple[Item, ...]

    @property
    def digest(self) -> str:
        """16 hex digits over what decides a score: the rules and the items. Limits and notes do not."""
        rules = digested(cast(BaseModel, self.spec), _NO_RULES)
        worded = [[list(item.variants) for item in self.items]] if any(item.variants for item in self.items) else []
        stated = [item.stated_split for item in self.items]  # a card's metrics are of its test items
        parts = [["split", stated]] if any(stated) else []
        return digest("suite", FORMAT, rules, [item.id for item in self.items], *worded, *parts)[:16]

    @property
    def of_task(self) -> bool:
        """Whether it asks what the student is tuned for, with the task's own prompt."""
        return self.spec.asked == "task"

    @property
    def answered_dev_items(self) -> tuple[tuple[Item, str], ...]:
        """The dev items of one of the task's own suites, each with its gold answer. Those that have none are not in."""
        dev = (item for item in self.items if self.of_task and item.split == "dev")
        return tuple((item, answer) for item in dev if (answer := _gold_answer(item)))

    @property
    def choices(self) -> tuple[str, ...]:
        """The task's labels, where an answer names one, else none."""
        return self.items[0].choices if self.of_task and self.items else ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that occur as gold, where an answer names one, else none."""
        return tuple(sorted({item.choices[item.gold] for item in self.items if item.gold is not None and self.choices}))

    @property
    def rubric(self) -> Rubric | None:
        """By what a model judges its answers. None: rules do."""
        return self.spec.extras.rubric

    @property
    def primary(self) -> str:
        """The metric that sums it up."""
        return self.spec.primary or self.spec.item_metrics[0]


def _gold_answer(item: Item) -> str | None:
    """The accepted choice, or the first accepted answer. None where no answer is right by itself."""
    if item.gold is not None:
        return item.choices[item.gold]
    return item.answers[0] if item.answers else None


def chance(items: Sequence[Item]) -> float | None:
    """What guessing gets, or None where the items are not choices."""
    counts = [len(item.choices) for item in items if item.choices]
    return sum(1 / n for n in counts) / len(counts) if counts else None
