"""Questions nobody can answer: abstained or made up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from harness.data.columns import title
from harness.data.lines import QuestionLine
from harness.engines.protocols import StudentEngine
from harness.metrics.answers import Abstention
from harness.records import Item, Score
from harness.suites.base import (
    Asked,
    CardInputs,
    ItemsSuite,
    Requests,
    Resources,
    SuiteFile,
    about,
    checked_items,
    item_texts,
    item_texts_digest,
    read_lines,
    require_metric,
)
from harness.suites.free_text import score_written, written_metrics, written_requests
from harness.suites.generate import Ending, Prompt
from harness.suites.outcome import Outcome

ABSTENTION = "I don't know."


class UnanswerableSuite(ItemsSuite):
    """Questions without an answer: {question}. Right is to say so."""

    reads_base: ClassVar[bool] = False
    kind: Literal["unanswerable"]
    asked: Asked = "task"
    max_tokens: Annotated[int, Field(ge=1)] = 32

    @property
    def scorer(self) -> Abstention:
        """What judges one answer."""
        return Abstention()

    @property
    def item_metrics(self) -> tuple[str, ...]:
        """As SuiteKind."""
        return written_metrics(self.scorer)

    def load(self, file: SuiteFile) -> tuple[UnanswerableSuite, tuple[Item, ...]]:
        """As SuiteKind."""
        require_metric(file, self.primary, self.item_metrics)
        located = [
            (place, Item(text=line.question, **about(line))) for place, line in read_lines(self, file, QuestionLine)
        ]
        return self, checked_items(title(self.items), located, self.asked)

    def default_primary(self, items: Sequence[Item]) -> str:
        """As SuiteKind."""
        return "accuracy"

    def gold(self, item: Item) -> tuple[str, ...]:
        """As SuiteKind: one of the ways to say that one does not know."""
        return (ABSTENTION,)

    def requests(self, items: Sequence[Item]) -> Requests:
        """As SuiteKind."""
        return written_requests(items)

    def prepare(self, resources: Resources) -> None:
        """As SuiteKind: it names nothing that is run."""

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
        return Outcome(tuple(score_written(items, prompt, engine, model, self.max_tokens, self.scorer, ending)))

    def summary(self, scores: Sequence[Score], items: Sequence[Item]) -> dict[str, float]:
        """As SuiteKind: the means say all."""
        return {}

    def problems(self, items: Sequence[Item], root: Path) -> list[str]:
        """As SuiteKind: it names no documents."""
        return []

    def card_inputs(self, inputs: CardInputs) -> list[Any]:
        """As SuiteKind."""
        return []

    def texts(self, items: Sequence[Item]) -> list[tuple[str, str]]:
        """As SuiteKind."""
        return item_texts(items)

    def texts_digest(self, items: Sequence[Item]) -> str:
        """As SuiteKind."""
        return item_texts_digest(items)
