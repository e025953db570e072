"""What every kind of suite is: a frozen record whose fields are its YAML and whose methods do the work.

The kinds stand in modules of their own, and `harness.suites.suite` lists them. A stage calls a method of `SuiteKind`
and never asks which kind it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self, TypeVar

from pydantic import Field, model_validator

from harness.core.project_file import project_file
from harness.core.record import Record, digest
from harness.data.columns import Check, Source, read_items
from harness.data.examples import Shape
from harness.data.lines import AnswerLine, ChoiceLine, LabelLine, QuestionLine
from harness.engines.protocols import Embedder, StudentEngine
from harness.errors import Mistakes, UsageError, nearest
from harness.records import Item, Score
from harness.suites.generate import Ending, Prompt
from harness.suites.outcome import Outcome

Line = TypeVar("Line", bound=Record)
Located = tuple[str, Item]  # where an item stands, and what it is
Finite = Annotated[float, Field(allow_inf_nan=False)]
AskedAs = Literal["task", "plain", "raw"]  # with the task's prompt; as a user's only turn; as a text without chat form
Asked = Literal["task", "plain"]  # what a suite file may choose between


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


class SuiteBase(Record):
    """What every suite file says."""

    version: Annotated[int, Field(ge=1)] = 1
    changes: dict[str, str] = {}  # version -> dated note
    limits: dict[str, Limit] = {}  # metric -> what `check` allows
    primary: str | None = None  # the metric that sums the suite up; None: the kind's `default_primary`


class ItemsSuite(SuiteBase):
    """What every suite with items of its own says."""

    items: Source  # a JSONL, CSV or Parquet file, or a hub dataset; the kind says what an item holds
    fields: dict[str, str] = {}  # our field -> column, dots lead into nested ones
    tags: tuple[str, ...] = ()  # columns whose values results are broken down by


@dataclass(frozen=True)
class SuiteFile:
    """A suite file that is being loaded: where its keys stand, and what the run adds."""

    root: Path  # the project
    place: Callable[[tuple[str, ...]], str]  # file and line of a key, for messages
    labels: tuple[str, ...] | None  # the task's; None: those that the items have
    limit: int | None  # items of a benchmark at most
    shape: Shape | None = None  # what the task's examples look like; None: as the items show


@dataclass(frozen=True)
class Requests:
    """What scoring some items asks of a student."""

    items: str  # how many, in words
    loglikelihoods: int = 0
    answers: int = 0  # generated, at most
    counted: bool = True  # False: only the library that makes the requests knows how many there are


@dataclass(frozen=True)
class Resources:
    """What scoring may take beside the student; what is slow to load is loaded when it is called for."""

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


class SuiteKind(Protocol):
    """What a stage may ask of a suite, whatever its kind. A loaded suite hands its `items` in."""

    reads_base: ClassVar[bool]  # tuned students also read what their base answered: how far did they move?

    @property
    def asked(self) -> AskedAs:
        """How an item is put to a student."""
        ...

    @property
    def max_tokens(self) -> int | None:
        """Tokens of one written answer at most; None where nothing is written."""
        ...

    @property
    def item_metrics(self) -> tuple[str, ...]:
        """The metrics that are computed for every item, so that items can be paired and resampled."""
        ...

    def load(self, file: SuiteFile) -> tuple[Self, tuple[Item, ...]]:
        """The suite with the contents of the files that decide its scores, and its items.

        A benchmark's items are read when it is scored. Raises UsageError naming file, line and value.
        """
        ...

    def default_primary(self, items: Sequence[Item]) -> str:
        """The metric that sums the suite up where its file names none."""
        ...

    def gold(self, item: Item) -> tuple[str, ...]:
        """Every answer that must score 1; none where no answer is right by itself."""
        ...

    def requests(self, items: Sequence[Item]) -> Requests:
        """What scoring `items` once asks of a student."""
        ...

    def prepare(self, resources: Resources) -> None:
        """Find a mistake in what the suite names before any student is asked.

        Raises UsageError, and NotReachable for a benchmark whose rows are not to be had.
        """
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

    def summary(self, scores: Sequence[Score], items: Sequence[Item]) -> dict[str, float]:
        """Metrics of all scores together, beside the means of `item_metrics`."""
        ...

    def problems(self, items: Sequence[Item], root: Path) -> list[str]:
        """What is wrong with the items in the light of the files that the suite names, each in words."""
        ...

    def card_inputs(self, inputs: CardInputs) -> list[Any]:
        """Which of `inputs` its scores depend on, as plain data for a digest."""
        ...

    def texts(self, items: Sequence[Item]) -> list[tuple[str, str]]:
        """(item id, text) of every text that no training row may contain. Raises NotReachable as `prepare`."""
        ...

    def texts_digest(self, items: Sequence[Item]) -> str:
        """64 hex digits over `texts`; empty where a benchmark's rows are not at hand."""
        ...


# --- what the methods share --------------------------------------------------------------------------------------


def read_lines(
    suite: ItemsSuite, file: SuiteFile, line: type[Line], check: Check[Line] = lambda place, line: None
) -> list[tuple[str, Line]]:
    """(place, line) of every line of a suite's items. Raises UsageError naming file, line and value."""
    place = f"{file.place(('items',))}: items"
    return read_items(suite.items, file.root, line, suite.fields, suite.tags, place, check)


def checked_items(source: str, located: Sequence[Located], asked: AskedAs) -> tuple[Item, ...]:
    """The items. Raises UsageError where there are none, where two are the same, or where a split is empty.

    `source` is what messages call the place they come from.
    """
    if not located:
        raise UsageError(f"{source}: there are no items in it")
    first: dict[str, str] = {}
    mistakes = Mistakes()
    for place, item in located:
        if first.setdefault(item.id, place) != place:
            mistakes.note(f"{place}: the same item stands at {first[item.id]}")
    mistakes.check()
    if asked == "task" and {item.split for _, item in located} != {"dev", "test"}:
        raise UsageError(
            f"{source}: {len(located)} items are too few: a quarter of them, by digest, is for choosing"
            " (dev), and either part is empty"
        )
    return tuple(item for _, item in located)


def require_metric(file: SuiteFile, primary: str | None, metrics: Sequence[str]) -> None:
    """Raises UsageError for a primary metric that is none of those computed for every item."""
    if primary is not None and primary not in metrics:
        raise UsageError(
            f"{file.place(('primary',))}: primary: {primary!r} is no metric of its items{nearest(primary, metrics)};"
            f" allowed: {', '.join(metrics)}"
        )


def require_files(file: SuiteFile, names: dict[str, str | None]) -> None:
    """Raises UsageError for a key of a suite file that names a file which is not there."""
    for key, name in names.items():
        if name:
            project_file(file.root, name, f"{file.place((key,))}: {key}")


def about(line: LabelLine | AnswerLine | QuestionLine | ChoiceLine) -> dict[str, Any]:
    """What a line says of its item beside question and answer."""
    return {"tags": line.tags, "group": line.group, "stratum": line.stratum}


def item_texts(items: Sequence[Item]) -> list[tuple[str, str]]:
    """(item id, text) of every question, in all its wordings."""
    return [(item.id, text) for item in items for text in (item.text, *item.variants)]


def item_texts_digest(items: Sequence[Item]) -> str:
    """64 hex digits over the same."""
    return digest("texts", [[item.id, item.text, list(item.variants)] for item in items])


def chance(items: Sequence[Item]) -> float | None:
    """What guessing gets, or None where the items are not choices."""
    counts = [len(item.choices) for item in items if item.choices]
    return sum(1 / n for n in counts) / len(counts) if counts else None
