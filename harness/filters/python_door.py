"""The one door for filters of one's own: a Python function in a file of the project."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from harness.errors import UsageError
from harness.filters.base import Context
from harness.python_file import line_of, load_function, read_file
from harness.records import Record, Row, Verdict

FORM = "keep(row: dict) -> bool, or -> (bool, reason)"


class PythonFilter(Record):
    """Runs `function` of `file` on each row: a dict of messages, text, label and provenance.

    The function returns whether to keep the row, or that and a reason. It is the project's own code and runs
    with all the rights of the harness.
    """

    kind: Literal["python"] = "python"
    file: Annotated[str, Field(min_length=1)]  # relative to the project
    function: Annotated[str, Field(min_length=1)] = "keep"

    def file_digest(self, root: Path) -> str:
        """16 hex digits over the file: other code is another filter. Raises UsageError if missing."""
        return hashlib.sha256(read_file(root / self.file, "filter")).hexdigest()[:16]

    def verdicts(self, rows: Sequence[Row], context: Context) -> list[Verdict]:
        """One verdict per row, same order. Raises UsageError naming file and line of whatever went wrong."""
        path = context.root / self.file
        function = load_function(path, read_file(path, "filter"), self.function)
        return [self._verdict(function, path, row) for row in rows]

    def _verdict(self, function: Callable[[dict[str, Any]], Any], path: Path, row: Row) -> Verdict:
        try:
            answer = function(row.model_dump(mode="json"))
        except (Exception, SystemExit) as error:
            what = f"{self.function} failed on the text {row.text!r}: {type(error).__name__}: {error}"
            raise UsageError(f"{line_of(error, path)}: {what}") from error
        keep, reason = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, "")
        if not isinstance(keep, bool) or not isinstance(reason, str):
            raise UsageError(f"{path}: {self.function} returned {answer!r}; it must be {FORM}")
        reason = reason or ("" if keep else f"{self.function} in {self.file} said no")
        return Verdict(row=row.id, filter=self.kind, keep=keep, reason=reason)
