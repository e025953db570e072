"""Suite files: how to score, and the items beside them. A closed set of kinds.

labels      the task's own items: which label? by log-likelihood and by the freely generated answer
choice      questions with choices, by log-likelihood of each choice
benchmark   a public benchmark, as lm-evaluation-harness defines it, scored by our log-likelihood
open_ended  instructions answered in free text: repetition, length, stopping, collapse into labels
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from harness import yaml_file
from harness.errors import UsageError, nearest
from harness.records import FORMAT, Item, Record, digest
from harness.store import read_jsonl


class Limit(Record):
    """What `check` allows for one metric. Absolute limits on the value, and on the change since the baseline."""

    min: float | None = None  # the value itself
    max: float | None = None
    max_drop: Annotated[float, Field(ge=0)] | None = None  # in the metric's unit; higher is better
    max_rise: Annotated[float, Field(ge=0)] | None = None  # in the metric's unit; lower is better
    max_drop_share: Annotated[float, Field(ge=0, le=1)] | None = None  # of the baseline's value


class SuiteBase(Record):
    """What every suite file says."""

    version: Annotated[int, Field(ge=1)] = 1
    changes: dict[str, str] = {}  # version -> dated note
    limits: dict[str, Limit] = {}  # metric -> what `check` allows


class LabelsSuite(SuiteBase):
    """The task's own items. Metrics: accuracy (generated answer), choice_accuracy, macro_f1, ..."""

    kind: Literal["labels"]
    items: str  # JSONL of {text, label, tags}
    max_tokens: Annotated[int, Field(ge=1)] = 16  # tokens of a generated answer


class ChoiceSuite(SuiteBase):
    """Questions with choices, scored raw (no chat form): the sum per byte of a choice decides."""

    kind: Literal["choice"]
    items: str  # JSONL of {question, choices, answer: index}
    context: str = "Question: {question}\nAnswer:"  # what stands before each choice
    normalise: Literal["none", "bytes"] = "bytes"  # divide a choice's log-likelihood by its length

    @model_validator(mode="after")
    def _has_no_other_holes(self) -> Self:
        try:
            self.context.format(question="x")
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(f"context {self.context!r}: only {{question}} may stand in braces") from error
        return self


class BenchmarkSuite(SuiteBase):
    """A public benchmark by its lm-evaluation-harness task name."""

    kind: Literal["benchmark"]
    benchmark: str
    num_fewshot: Annotated[int, Field(ge=0)] = 0
    num_fewshot_without_rows: Annotated[int, Field(ge=0)] | None = None  # where the rows shots come from are absent
    form: Literal["raw", "chat"] = "raw"  # the task's own prompt, or that prompt in the model's chat template
    limit: Annotated[int, Field(ge=1)] | None = None  # a fixed subset by content digest; None is all


class OpenEndedSuite(SuiteBase):
    """Instructions answered in free text."""

    kind: Literal["open_ended"]
    items: str  # JSONL of {prompt}
    max_tokens: Annotated[int, Field(ge=1)] = 96


AnySuite = LabelsSuite | ChoiceSuite | BenchmarkSuite | OpenEndedSuite


class LabelLine(Record):
    """One line of a labels suite's items."""

    text: Annotated[str, Field(min_length=1)]
    label: str
    tags: tuple[str, ...] = ()


class ChoiceLine(Record):
    """One line of a choice suite's items."""

    question: Annotated[str, Field(min_length=1)]
    choices: Annotated[tuple[str, ...], Field(min_length=2)]
    answer: Annotated[int, Field(ge=0)]  # index into choices
    tags: tuple[str, ...] = ()


class OpenLine(Record):
    """One line of an open-ended suite's items."""

    prompt: Annotated[str, Field(min_length=1)]
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Suite:
    """A loaded suite. A benchmark's items are read when it is scored, so `items` is empty for it."""

    name: str
    spec: AnySuite
    items: tuple[Item, ...]

    @property
    def digest(self) -> str:
        """16 hex digits over what decides a score: the rules and the items; limits and notes do not."""
        rules = self.spec.model_dump(mode="json", exclude={"limits", "changes", "items"})
        return digest("suite", FORMAT, rules, [item.id for item in self.items])[:16]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that occur as gold, for a labels suite; else none."""
        if not isinstance(self.spec, LabelsSuite):
            return ()
        return tuple(sorted({item.choices[item.gold] for item in self.items if item.gold is not None}))


def load_suite(path: Path, root: Path, labels: tuple[str, ...], limit: int | None = None) -> Suite:
    """Load one suite and its items. `labels` are the task's; `limit` caps the items of a benchmark.

    Raises UsageError naming file, line, value.
    """
    document = yaml_file.load(path)
    spec = _parse(document)
    if isinstance(spec, BenchmarkSuite):
        caps = [n for n in (spec.limit, limit) if n is not None]
        return Suite(path.stem, spec.model_copy(update={"limit": min(caps, default=None)}), ())
    items_path = root / spec.items
    if not items_path.is_file():
        names = [os.path.relpath(p, root) for p in items_path.parent.glob("*")] if items_path.parent.is_dir() else []
        place = document.place(("items",))
        raise UsageError(f"{place}: items: there is no file {spec.items}{nearest(spec.items, names)}")
    items = _ITEMS[spec.kind](items_path, labels)
    if not items:
        raise UsageError(f"{items_path}: there are no items in it")
    first: dict[str, int] = {}
    for line, item in items:
        if item.id in first:
            raise UsageError(f"{items_path}:{line}: the same item stands on line {first[item.id]}")
        first[item.id] = line
    if isinstance(spec, LabelsSuite) and {item.split for _, item in items} != {"dev", "test"}:
        raise UsageError(
            f"{items_path}: {len(items)} items are too few: a quarter of them, by digest, is for choosing (dev), and"
            " either part is empty"
        )
    return Suite(path.stem, spec, tuple(item for _, item in items))


def _parse(document: yaml_file.Document) -> AnySuite:
    kind = document.data.get("kind") if isinstance(document.data, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        place, hint = document.place(("kind",)), nearest(str(kind), _KINDS)
        raise UsageError(f"{place}: kind: {kind!r} is no kind of suite{hint}; allowed: {', '.join(_KINDS)}")
    return yaml_file.parse(_KINDS[kind], document, "a suite file")


def _label_items(path: Path, labels: tuple[str, ...]) -> list[tuple[int, Item]]:
    items = []
    for line, read in read_jsonl(path, LabelLine):
        if read.label not in labels:
            raise UsageError(
                f"{path}:{line}: label: {read.label!r} is not a label of the task{nearest(read.label, labels)};"
                f" allowed: {', '.join(labels)}"
            )
        item = Item(text=read.text, choices=labels, gold=labels.index(read.label), tags=read.tags)
        items.append((line, item))
    return items


def _choice_items(path: Path, labels: tuple[str, ...]) -> list[tuple[int, Item]]:
    items = []
    for line, read in read_jsonl(path, ChoiceLine):
        if read.answer >= len(read.choices):
            raise UsageError(
                f"{path}:{line}: answer: {read.answer} is outside the choices 0 to {len(read.choices) - 1}"
            )
        if len(set(read.choices)) != len(read.choices):
            raise UsageError(f"{path}:{line}: choices: two of them are equal")
        items.append((line, Item(text=read.question, choices=read.choices, gold=read.answer, tags=read.tags)))
    return items


def _open_items(path: Path, labels: tuple[str, ...]) -> list[tuple[int, Item]]:
    return [(line, Item(text=read.prompt, tags=read.tags)) for line, read in read_jsonl(path, OpenLine)]


_KINDS: dict[str, type[AnySuite]] = {
    "labels": LabelsSuite,
    "choice": ChoiceSuite,
    "benchmark": BenchmarkSuite,
    "open_ended": OpenEndedSuite,
}
_ITEMS = {"labels": _label_items, "choice": _choice_items, "open_ended": _open_items}
