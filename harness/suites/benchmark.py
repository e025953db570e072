"""A public benchmark, as lm-evaluation-harness defines it, scored by our log-likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from harness.core.record import digest
from harness.engines.protocols import StudentEngine
from harness.records import Item
from harness.suites.base import SuiteBase
from harness.suites.benchmark_rows import benchmark_tasks, fingerprint, questions
from harness.suites.benchmarks import score_benchmark
from harness.suites.generate import Ending, Prompt
from harness.suites.outcome import Outcome
from harness.suites.suite import AskedAs, Extras, Requests, Resources, SuiteFile


class BenchmarkSuite(SuiteBase):
    """A public benchmark by its lm-evaluation-harness task name."""

    asked: ClassVar[AskedAs] = "raw"
    max_tokens: ClassVar[None] = None
    item_metrics: ClassVar[tuple[str, ...]] = ("accuracy", "gold_probability", "gold_nll")
    kind: Literal["benchmark"]
    benchmark: str
    num_fewshot: Annotated[int, Field(ge=0)] = 0
    num_fewshot_without_rows: Annotated[int, Field(ge=0)] | None = None  # where the rows shots come from are absent
    form: Literal["raw", "chat"] = "raw"  # the task's own prompt, or that prompt in the model's chat template
    limit: Annotated[int, Field(ge=1)] | None = None  # a fixed subset by content digest; None is all

    @property
    def extras(self) -> Extras:
        """As SuiteKind: which rows are at hand decides which are scored, and shown as examples."""
        return Extras(
            prepare=self.tasks,
            card_inputs=lambda inputs: [inputs.benchmark_rows],
            texts=lambda items: questions(benchmark_tasks(self)),
            texts_digest=lambda items: digest("benchmark", self.benchmark, rows) if (rows := fingerprint()) else "",
        )

    def tasks(self, resources: Resources) -> list[Any]:
        """Its tasks with their rows. Raises UsageError and NotReachable."""
        return (resources.benchmark_tasks or benchmark_tasks)(self)

    def load(self, file: SuiteFile) -> tuple[BenchmarkSuite, tuple[Item, ...]]:
        """As SuiteKind: its rows are read when it is scored, so it has no items now."""
        caps = [limit for limit in (self.limit, file.limit) if limit is not None]
        return self.model_copy(update={"limit": min(caps, default=None)}), ()

    def gold(self, item: Item) -> tuple[str, ...]:
        """As SuiteKind: what is right stands in the library's own rows."""
        return ()

    def requests(self, items: Sequence[Item]) -> Requests:
        """As SuiteKind."""
        return Requests(f"at most {self.limit}" if self.limit else "all", counted=False)

    def score(
        self,
        items: Sequence[Item],
        prompt: Prompt,
        ending: Ending,
        engine: StudentEngine,
        model: str,
        resources: Resources,
    ) -> Outcome:
        """As SuiteKind: one score per document."""
        return score_benchmark(self, self.tasks(resources), engine, model)
