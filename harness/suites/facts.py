"""Questions whose answers stand only in the tuning documents: right, abstained or wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from harness.core.table_file import jsonl_rows
from harness.data.columns import texts_in, title
from harness.engines.protocols import StudentEngine
from harness.metrics.answers import Fact, Match, searched, sought
from harness.records import Item
from harness.suites.base import AskedForm, ItemsSuite, checked_items, require_files
from harness.suites.free_text import read_answered, score_written, written_metrics, written_requests
from harness.suites.generate import Ending, Prompt
from harness.suites.outcome import Outcome
from harness.suites.suite import Extras, Requests, Resources, SuiteFile


class FactsSuite(ItemsSuite):
    """Questions, as in an answers suite, that only a reader of the tuning documents can answer."""

    kind: Literal["facts"]
    documents: str  # JSONL of the rows (or texts) in which every answer stands
    match: Match = "contains"  # when an answer is right
    asked: AskedForm = "task"
    max_tokens: Annotated[int, Field(ge=1)] = 32

    @property
    def scorer(self) -> Fact:
        """What judges one answer."""
        return Fact(match=self.match)

    @property
    def item_metrics(self) -> tuple[str, ...]:
        """As SuiteKind."""
        return written_metrics(self.scorer)

    @property
    def extras(self) -> Extras:
        """As SuiteKind."""
        return Extras(problems=self.missing_facts)

    def load(self, file: SuiteFile) -> tuple[FactsSuite, tuple[Item, ...]]:
        """As SuiteKind."""
        require_files(file, {"documents": self.documents})
        return self, checked_items(title(self.items), read_answered(self, file, self.scorer, self.asked), self.asked)

    def gold(self, item: Item) -> tuple[str, ...]:
        """As SuiteKind: every accepted answer."""
        return tuple(dict.fromkeys(item.answers))

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

    def missing_facts(self, items: Sequence[Item], root: Path) -> list[str]:
        """The items whose answer stands in no document, each in words.

        A document is a line of the JSONL file that `documents` names: every text in it, however nested, counts.
        Raises UsageError for a file that cannot be read.
        """
        lines = [texts_in(row) for _, row in jsonl_rows(root / self.documents)]
        documents = [searched(text) for texts in lines for text in texts]
        return [
            f"{item.text!r}: {' or '.join(map(repr, item.answers))} stands in no line of {self.documents}"
            for item in items
            if not any(
                f" {' '.join(words)} " in searched_text
                for gold in item.answers
                for text in documents
                for words, searched_text in zip(sought(gold), text, strict=True)
            )
        ]
