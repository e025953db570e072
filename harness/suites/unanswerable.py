"""Questions nobody can answer: abstained or made up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from harness.data.columns import title
from harness.data.lines import QuestionLine
from harness.engines.protocols import StudentEngine
from harness.metrics.answers import Abstention
from harness.records import Item
from harness.suites.base import AskedForm, ItemsSuite, about, checked_items, read_lines
from harness.suites.free_text import score_written, written_metrics, written_requests
from harness.suites.generate import Ending, Prompt
from harness.suites.outcome import Outcome
from harness.suites.suite import Extras, Requests, Resources, SuiteFile

ABSTENTION = "I don't know."


class UnanswerableSuite(ItemsSuite):
    """Questions without an answer: {question}. Right is to say so."""

    extras: ClassVar[Extras] = Extras()
    kind: Literal["unanswerable"]
    asked: AskedForm = "task"
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
        located = [
            (place, Item(text=line.question, **about(line))) for place, line in read_lines(self, file, QuestionLine)
        ]
        return self, checked_items(title(self.items), located, self.asked)

    def gold(self, item: Item) -> tuple[str, ...]:
        """As SuiteKind: one of the ways to say that one does not know."""
        return (ABSTENTION,)

    def requests(self, items: Sequence[Item]) -> Requests:
        """As SuiteKind."""
        return written_requests(items)

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
