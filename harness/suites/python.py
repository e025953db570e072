"""The one way in for suites of one's own: a Python file of the project gives the items and scores the answers."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from harness.core.json_file import read_bytes
from harness.core.python_file import TIMEOUT_S, PythonFunction
from harness.data.lines import ItemLine
from harness.engines.protocols import StudentEngine
from harness.errors import UsageError, nearest
from harness.metrics.answers import Unjudged
from harness.metrics.table import metric_of
from harness.records import Item, Score
from harness.suites.base import AskedForm, SuiteBase, about, checked_items, require_files
from harness.suites.free_text import score_written, written_metrics, written_requests
from harness.suites.generate import Ending, Prompt
from harness.suites.outcome import Outcome
from harness.suites.suite import Extras, Requests, Resources, SuiteFile

MetricName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
COMPUTED = written_metrics(Unjudged())  # for every written answer, without the user's function
FORM = "a number, a dict of {metric: number}, or None for an answer that cannot be read"


class PythonItem(ItemLine):
    """One item as the user's function gives it."""

    text: Annotated[str, Field(min_length=1)]
    answers: tuple[Annotated[str, Field(min_length=1)], ...] = ()  # every answer that is right, the reference first


class PythonSuite(SuiteBase):
    """Questions answered in writing: a file's `items()` gives them, its `score(item, answer)` rates an answer.

    It is the project's own code and has all the rights of the harness. It runs in a process of its own, where it can
    be stopped: `items` whenever the suite is loaded, `score` when answers are scored.
    """

    kind: Literal["python"]
    file: Annotated[str, Field(min_length=1)]  # relative to the project
    items_function: Annotated[str, Field(min_length=1)] = "items"
    score_function: Annotated[str, Field(min_length=1)] = "score"
    metrics: Annotated[tuple[MetricName, ...], Field(min_length=1)] = ("accuracy",)  # the first sums the suite up
    asked: AskedForm = "task"
    max_tokens: Annotated[int, Field(ge=1)] = 64  # tokens of an answer
    source_digest: str = ""  # of the file's content, whatever is written here: other code, other scores
    # for loading the file and for each answer; it decides no number, so no digest has it
    timeout_s: Annotated[float, Field(gt=0, le=3600, exclude=True)] = TIMEOUT_S

    @model_validator(mode="after")
    def _has_metrics_of_its_own(self) -> Self:
        twice = [name for name in self.metrics if name in COMPUTED or self.metrics.count(name) > 1]
        if twice:
            raise ValueError(f"metrics: {twice[0]} is computed already; give it another name")
        return self

    @property
    def item_metrics(self) -> tuple[str, ...]:
        """As SuiteKind."""
        return (*self.metrics, *COMPUTED)

    @property
    def extras(self) -> Extras:
        """As SuiteKind."""
        return Extras(prepare=self._load_function)

    def load(self, file: SuiteFile) -> tuple[PythonSuite, tuple[Item, ...]]:
        """As SuiteKind: the items are what the function gives now, and the file counts by its content."""
        require_files(file, {"file": self.file})
        function = self._function(file.root, self.items_function)
        place = f"{function.path}: {self.items_function}()"
        (returned,) = function.answers(["[]"], [])
        if not isinstance(returned, list):
            raise UsageError(f"{place} returned {returned!r}; it must return a list of dicts")
        located = [(f"{place}: item {number}", value) for number, value in enumerate(returned, start=1)]
        suite = self.model_copy(update={"source_digest": hashlib.sha256(function.source).hexdigest()[:16]})
        return suite, checked_items(place, [(where, _item(where, value)) for where, value in located], self.asked)

    def gold(self, item: Item) -> tuple[str, ...]:
        """As SuiteKind: the accepted answers, where the function counts what is right."""
        return tuple(dict.fromkeys(item.answers)) if "accuracy" in self.metrics else ()

    def requests(self, items: Sequence[Item]) -> Requests:
        """As SuiteKind."""
        return written_requests(items)

    def _load_function(self, resources: Resources) -> None:
        self._function(resources.root, self.score_function).answers([], [])

    def score(
        self,
        items: Sequence[Item],
        prompt: Prompt,
        ending: Ending,
        engine: StudentEngine,
        model: str,
        resources: Resources,
    ) -> Outcome:
        """As SuiteKind. Raises UsageError naming file and line of whatever the function did instead of scoring."""
        scores = score_written(items, prompt, engine, model, self.max_tokens, Unjudged(), ending)
        answered = [(item, score) for item, score in zip(items, scores, strict=True) if score.status == "scored"]
        function = self._function(resources.root, self.score_function)
        arguments = [json.dumps([_plain(item), score.output]) for item, score in answered]
        results = function.answers(arguments, [item.text for item, _ in answered])
        valued = {
            item.id: self._valued(score, result, function.path)
            for (item, score), result in zip(answered, results, strict=True)
        }
        return Outcome(tuple(valued.get(score.item, score) for score in scores))

    def _function(self, root: Path, name: str) -> PythonFunction:
        path = root / self.file
        return PythonFunction(path, read_bytes(path, "suite"), name, self.timeout_s, spread=True)

    def _valued(self, score: Score, result: Any, path: Path) -> Score:
        """A score with what the function said of its answer."""
        if result is None:
            metrics = [metric_of(name) for name in self.metrics]
            unread = {m.name: 0.0 for m in metrics if m.bounded and m.better == "higher"}
            return Score(**(dict(score) | {"status": "unparsed", "values": unread | score.values}))
        values = result if isinstance(result, dict) else {self.metrics[0]: result}
        returned = f"{path}: {self.score_function} returned {result!r}"
        for name, value in values.items():
            if name not in self.metrics:
                near = nearest(name, self.metrics)
                raise UsageError(
                    f"{returned}: {name!r} is none of its metrics{near}; allowed: {', '.join(self.metrics)}"
                )
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise UsageError(f"{returned}; it must be {FORM}")
            if metric_of(name).bounded and not 0 <= value <= 1:
                raise UsageError(f"{returned}: {name} is a number from 0 to 1")
        return score.with_values({name: float(value) for name, value in values.items()})


def _item(place: str, value: Any) -> Item:
    """An item as the function gave it. Raises UsageError naming the key that is wrong."""
    try:
        line = PythonItem.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        where = f"{place}: {key}" if key else place
        if first["type"] == "extra_forbidden":
            allowed = PythonItem.model_fields
            raise UsageError(f"{where}: unknown key{nearest(key, allowed)}; allowed: {', '.join(allowed)}") from error
        raise UsageError(f"{where}: {first['input']!r:.80}: {first['msg']}") from error
    return Item(text=line.text, answers=line.answers, **about(line))


def _plain(item: Item) -> dict[str, Any]:
    """What the scoring function is told of an item."""
    return item.model_dump(mode="json", include=set(PythonItem.model_fields))
