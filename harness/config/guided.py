"""Whether a run's suites have JSON answers that a schema can guide."""

from __future__ import annotations

from collections.abc import Iterable

from harness.core.json_pattern import json_pattern
from harness.errors import UsageError
from harness.metrics.json_answers import JsonAnswer
from harness.suites.answers import AnswersSuite
from harness.suites.suite import Suite


def require_guide(suites: Iterable[Suite], place: str) -> None:
    """Raises UsageError where no suite of the task's own has such answers. `place`: where the run says `guided`."""
    answers = [suite.spec.answer for suite in suites if isinstance(suite.spec, AnswersSuite) and suite.of_task]
    schemas = [answer.json_schema for answer in answers if isinstance(answer, JsonAnswer)]
    if not any(isinstance(schema, dict) and json_pattern(schema) for schema in schemas):
        raise UsageError(
            f"{place}: true: no suite of the task's own has JSON answers by a schema that can guide: an object of texts"
            " (free, or with a pattern from ^ to $), numbers, true, false, null and enumerations"
        )
