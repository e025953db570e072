"""Programs of a person's own that answer the task's items: rules by hand, a classifier on the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from harness.core.json_file import read_bytes
from harness.core.python_file import TIMEOUT_S, PythonFunction
from harness.core.record import Record


class Program(Record):
    """A function of a Python file: `answers(rows, questions)` gives an answer to each question.

    Rows are those of a cell, as TF-IDF has them: {text, answer, and each field}. Questions lack the answer. An answer
    is a text, or a list or dict that is written as JSON. The function is the project's own code and has all the rights
    of the harness. It runs in a process of its own, where it can be stopped.
    """

    file: Annotated[str, Field(min_length=1)]  # relative to the project
    function: Annotated[str, Field(min_length=1)] = "answers"
    # for loading the file, and for all answers on the rows of one cell
    timeout_s: Annotated[float, Field(gt=0, le=3600, exclude=True)] = TIMEOUT_S

    def load(self, root: Path) -> PythonFunction:
        """The function, ready to be called in a process of its own."""
        path = root / self.file
        return PythonFunction(path, read_bytes(path, "program"), self.function, self.timeout_s, spread=True)
