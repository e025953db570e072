"""Questions answered in writing: a short text, a number or JSON by a rule, or free text by a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from harness.core.json_file import read_json
from harness.core.project_file import project_file
from harness.data.columns import title
from harness.engines.protocols import StudentEngine
from harness.errors import UsageError
from harness.metrics.answers import AnswerScorer, AnyAnswer, NumberAnswer, TextAnswer, Unjudged
from harness.metrics.json_answers import JsonAnswer, schema_problem
from harness.metrics.table import by_length
from harness.records import Item
from harness.suites.base import AskedForm, ItemsSuite, checked_items
from harness.suites.free_text import read_answered, score_written, written_metrics, written_requests
from harness.suites.generate import Ending, Prompt
from harness.suites.outcome import Outcome
from harness.suites.rubric import Rubric
from harness.suites.suite import Extras, Requests, Resources, SuiteFile


class AnswersSuite(ItemsSuite):
    """Questions answered in writing: {question, answer} or {question, answers}, the first one the reference."""

    kind: Literal["answers"]
    # how an answer is judged: by a rule, or by a model
    answer: Annotated[TextAnswer | NumberAnswer | JsonAnswer | Rubric, Field(discriminator="kind")] = TextAnswer()
    asked: AskedForm = "task"
    max_tokens: Annotated[int, Field(ge=1)] = 64  # tokens of an answer

    @property
    def scorer(self) -> AnswerScorer:
        """What judges one answer."""
        return Unjudged() if isinstance(self.answer, Rubric) else self.answer

    @property
    def item_metrics(self) -> tuple[str, ...]:
        """As SuiteKind."""
        judged = ("preferred", "preference") if isinstance(self.answer, Rubric) else ()
        return (*judged, *written_metrics(self.scorer))

    @property
    def extras(self) -> Extras:
        """As SuiteKind."""
        return Extras(rubric=self.answer if isinstance(self.answer, Rubric) else None)

    def load(self, file: SuiteFile) -> tuple[AnswersSuite, tuple[Item, ...]]:
        """As SuiteKind: with the schema that JSON answers must keep to, and a primary metric.

        Texts go by the length of their references, unless the file states a `match`.
        """
        answer, primary = self.answer, self.primary
        if not isinstance(answer, Rubric):
            answer = with_schema(answer, file.root, file.place(("answer", "json_schema")))
        suite = self.model_copy(update={"answer": answer})
        items = checked_items(title(self.items), read_answered(suite, file, suite.scorer, self.asked), self.asked)
        if isinstance(answer, TextAnswer) and "match" not in answer.model_fields_set:
            primary = primary or by_length(item.answers[0] for item in items)
        return suite.model_copy(update={"primary": primary}), items

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


def with_schema(answer: AnyAnswer, root: Path, place: str) -> AnyAnswer:
    """A JSON answer with the schema its file holds. Raises UsageError naming both."""
    if not isinstance(answer, JsonAnswer) or not isinstance(answer.json_schema, str):
        return answer
    read = read_json(project_file(root, answer.json_schema, f"{place}: json_schema"))
    if not isinstance(read, dict):
        raise UsageError(f"{place}: json_schema: {answer.json_schema} holds no JSON object")
    problem = schema_problem(read)
    if problem:
        raise UsageError(f"{place}: json_schema: {answer.json_schema}: {problem}")
    return answer.model_copy(update={"json_schema": read})
