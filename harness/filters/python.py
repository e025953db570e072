"""The one door for filters of one's own: a Python function in a file of the project."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from harness.core.json_file import read_bytes
from harness.core.python_file import TIMEOUT_S, PythonFunction
from harness.core.record import Record
from harness.core.text import has_lone_surrogate
from harness.errors import UsageError
from harness.filters.base import Answers, Context, Needs, Rule
from harness.records import Row, Verdict

FORM = "keep(row: dict) -> bool, or -> (bool, reason)"


class PythonFilter(Record):
    """Runs `function` of `file` on each row: a dict of messages, example, provenance, text, answer and label.

    The function returns whether to keep the row, or that and a reason. It is the project's own code and has all the
    rights of the harness. It runs in a process of its own, where it can be stopped.
    """

    needs: ClassVar = Needs(files=("file",))

    kind: Literal["python"] = "python"
    file: Annotated[str, Field(min_length=1)]  # relative to the project
    function: Annotated[str, Field(min_length=1)] = "keep"
    # for loading the file and for each row; it decides no row, so no digest has it
    timeout_s: Annotated[float, Field(gt=0, le=3600, exclude=True)] = TIMEOUT_S

    def prepare(self, context: Context) -> Rule:
        """Loads the file and looks the function up, before anything is spent.

        It and the rule raise UsageError naming file and line of whatever went wrong.
        """
        path = context.root / self.file
        function = PythonFunction(path, read_bytes(path, "filter"), self.function, self.timeout_s)
        function.answers([], [])

        def verdicts(rows: Sequence[Row], answers: Answers) -> list[Verdict]:
            results = function.answers([_dumped(row) for row in rows], [row.text for row in rows])
            return [self._verdict(result, path, row) for result, row in zip(results, rows, strict=True)]

        return Rule(verdicts, compares_rows=True)  # it may: what it remembers lasts from the first row to the last

    def _verdict(self, result: Any, path: Path, row: Row) -> Verdict:
        keep, reason = result if isinstance(result, tuple) else (result, "")
        if not isinstance(keep, bool) or not isinstance(reason, str) or has_lone_surrogate(reason):
            raise UsageError(f"{path}: {self.function} returned {result!r}; it must be {FORM}")
        reason = reason or ("" if keep else f"{self.function} in {self.file} said no")
        return Verdict(row=row.id, filter=self.kind, keep=keep, reason=reason)


def _dumped(row: Row) -> str:
    """A row as JSON, its whole input as `text` and its answer, also as `label`, beside it."""
    return json.dumps({**row.model_dump(mode="json"), "text": row.text, "answer": row.answer, "label": row.answer})
