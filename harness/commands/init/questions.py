"""What init asks at a terminal where no file was named."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer

from harness.core.text import printable
from harness.errors import Interrupted, UsageError


def ask_for_source(task: str | None) -> tuple[Path, str | None]:
    """(file or folder, what the student is to do) as a person types them.

    Raises UsageError where nobody can be asked, and Interrupted on Ctrl-C or at the end of the input.
    """
    if not sys.stdin.isatty():
        raise UsageError("--from FILE is missing, and here is no terminal to ask at: name a table or a folder")
    with _left():
        typer.echo("What do you have? A table of examples (CSV, JSON lines, Parquet), or a folder of documents.")
        path = Path(typer.prompt("its path").strip()).expanduser()
        if task is None:
            task = typer.prompt("what the student is to do, in a sentence (or nothing)", "", show_default=False)
    return path, task.strip() or None


def ask_for_columns(columns: Sequence[str]) -> tuple[str, str, bool]:
    """(column of the input, column of the answer, whether answers are labels). Raises Interrupted as above.

    Raises UsageError where there is no column for the answer.
    """
    if len(columns) < 2:
        raise UsageError(f"{', '.join(map(repr, columns))} is the only column: input and answer need one each")
    with _left():
        typer.echo(f"The columns are: {', '.join(map(printable, columns))}.")
        text = _one_of(columns, "the input's column")
        answer = _one_of([name for name in columns if name != text], "the answer's column")
        return text, answer, typer.confirm("is an answer one of a few labels?")


def _one_of(columns: Sequence[str], what: str) -> str:
    while True:
        name = typer.prompt(what).strip()
        if name in columns:
            return str(name)
        typer.echo(f"  one of: {', '.join(map(printable, columns))}")


@contextmanager
def _left() -> Iterator[None]:
    try:
        yield
    except typer.Abort as error:
        raise Interrupted("nothing was written") from error
