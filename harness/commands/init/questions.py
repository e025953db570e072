"""What init asks at a terminal where no file was named."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from harness.errors import UsageError


def ask_for_source(task: str | None) -> tuple[Path, str | None]:
    """(file or folder, what the student is to do) as a person types them.

    Raises UsageError where nobody can be asked, and for a path that is not there.
    """
    if not sys.stdin.isatty():
        raise UsageError("--from FILE is missing, and here is no terminal to ask at: name a table or a folder")
    typer.echo("What do you have? A table of examples (CSV, JSON lines, Parquet), or a folder of documents.")
    path = Path(typer.prompt("its path").strip()).expanduser()
    if task is None:
        task = typer.prompt("What is the student to do, in a sentence? (empty: from the file)", "", show_default=False)
    return path, task.strip() or None
