"""The closed set of suite kinds, and the loading of a suite of any of them.

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

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

from pydantic import Field, RootModel

from harness.core import yaml_file
from harness.data.examples import Shape
from harness.errors import UsageError, nearest
from harness.metrics.table import METRICS
from harness.suites.answers import AnswersSuite
from harness.suites.benchmark import BenchmarkSuite
from harness.suites.choice import ChoiceSuite
from harness.suites.facts import FactsSuite
from harness.suites.labels import LabelsSuite
from harness.suites.open_ended import OpenEndedSuite
from harness.suites.python import PythonSuite
from harness.suites.suite import Suite, SuiteFile
from harness.suites.unanswerable import UnanswerableSuite

MISSPELT = 0.85  # likeness to a metric's name from which another name is taken for a slip

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


class AnySuiteFile(RootModel[Annotated[AnySuite, Field(discriminator="kind")]]):
    """A suite file of whatever kind it says."""


def load_suite(path: Path, root: Path, shape: Shape | None, limit: int | None = None) -> Suite:
    """Load one suite and its items. `shape` is that of the task's examples. `limit` caps the items of a benchmark.

    Without a task (None) the items are single texts, and the labels are those that the items have. That is enough to
    prove a suite, not to score with it. Raises UsageError naming file, line, value.
    """
    document = yaml_file.load(path)
    suite_file = yaml_file.parse(AnySuiteFile, document, "a suite file")
    spec, items = suite_file.root.load(SuiteFile(root, document.place, shape, limit))
    if spec.primary is not None and spec.primary not in spec.item_metrics:
        raise UsageError(
            f"{document.place(('primary',))}: primary: {spec.primary!r} is no metric of its items"
            f"{nearest(spec.primary, spec.item_metrics)}; allowed: {', '.join(spec.item_metrics)}"
        )
    names = {*spec.item_metrics, *METRICS}
    for metric in spec.limits:  # other names are told from a misspelt one only by what scoring finds
        close = [] if metric in names else get_close_matches(metric, sorted(names), n=1, cutoff=MISSPELT)
        if close:
            raise UsageError(
                f"{document.place(('limits', metric))}: limits: {metric!r} is no metric of this suite"
                f" (did you mean {close[0]!r}?); its items have: {', '.join(spec.item_metrics)}"
            )
    return Suite(path.stem, spec, items)
