"""The closed set of suite kinds, and a loaded suite of any of them.

labels        the task's own items: which label? by log-likelihood and by the freely generated answer
answers       questions answered in writing: a short text, a number or JSON
facts         questions whose answers stand only in the tuning documents: right, abstained or wrong
unanswerable  questions nobody can answer: abstained or made up
choice        questions with choices, by log-likelihood of each choice
benchmark     a public benchmark, as lm-evaluation-harness defines it, scored by our log-likelihood
open_ended    instructions answered in free text: repetition, length, stopping, collapse into labels
python        questions answered in writing: items and scores by functions in a file of the project
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from harness.core import yaml_file
from harness.core.record import FORMAT, digest, digested
from harness.data.examples import Shape
from harness.errors import UsageError, nearest
from harness.records import Item
from harness.suites.answers import AnswersSuite
from harness.suites.base import SuiteFile
from harness.suites.benchmark import BenchmarkSuite
from harness.suites.choice import ChoiceSuite
from harness.suites.facts import FactsSuite
from harness.suites.labels import LabelsSuite
from harness.suites.open_ended import OpenEndedSuite
from harness.suites.python import PythonSuite
from harness.suites.rubric import Rubric
from harness.suites.unanswerable import UnanswerableSuite

# A new kind joins here, and nowhere else.
AnySuite = (
    LabelsSuite
    | AnswersSuite
    | FactsSuite
    | UnanswerableSuite
    | ChoiceSuite
    | BenchmarkSuite
    | OpenEndedSuite
    | PythonSuite
)

KINDS: dict[str, type[AnySuite]] = {
    get_args(model.model_fields["kind"].annotation)[0]: model for model in get_args(AnySuite)
}
# where items come from and what is allowed decide no score; an item's id holds what is asked and what is right
_NO_RULES = {"limits", "changes", "items", "fields", "tags", "documents", "primary", "file", "items_function"}


@dataclass(frozen=True)
class Suite:
    """A loaded suite. A benchmark's items are read when it is scored, so `items` is empty for it."""

    name: str
    spec: AnySuite
    items: tuple[Item, ...]

    @property
    def digest(self) -> str:
        """16 hex digits over what decides a score: the rules and the items; limits and notes do not."""
        rules = digested(self.spec, _NO_RULES)
        worded = [[list(item.variants) for item in self.items]] if any(item.variants for item in self.items) else []
        return digest("suite", FORMAT, rules, [item.id for item in self.items], *worded)[:16]

    @property
    def of_task(self) -> bool:
        """Whether it asks what the student is tuned for, with the task's own prompt."""
        return self.spec.asked == "task"

    @property
    def choices(self) -> tuple[str, ...]:
        """The task's labels, where an answer names one; else none."""
        return self.items[0].choices if self.of_task and self.items else ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that occur as gold, where an answer names one; else none."""
        return tuple(sorted({item.choices[item.gold] for item in self.items if item.gold is not None and self.choices}))

    @property
    def primary(self) -> str:
        """The metric that sums it up: the one the suite file states, else one by its kind."""
        return self.spec.primary or self.spec.default_primary(self.items)

    @property
    def rubric(self) -> Rubric | None:
        """By what a model judges its answers; None where rules do."""
        answer = self.spec.answer if isinstance(self.spec, AnswersSuite) else None
        return answer if isinstance(answer, Rubric) else None


def load_suite(
    path: Path, root: Path, labels: tuple[str, ...] | None, limit: int | None = None, shape: Shape | None = None
) -> Suite:
    """Load one suite and its items. `labels` and `shape` are the task's; `limit` caps the items of a benchmark.

    Without a task (None) the labels are those that the items have: enough to prove a suite, not to score with it.
    Raises UsageError naming file, line, value.
    """
    document = yaml_file.load(path)
    spec, items = _parse(document).load(SuiteFile(root, document.place, labels, limit, shape))
    return Suite(path.stem, spec, items)


def _parse(document: yaml_file.Document) -> AnySuite:
    kind = document.data.get("kind") if isinstance(document.data, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        place, hint = document.place(("kind",)), nearest(str(kind), KINDS)
        raise UsageError(f"{place}: kind: {kind!r} is no kind of suite{hint}; allowed: {', '.join(KINDS)}")
    return yaml_file.parse(KINDS[kind], document, "a suite file")
