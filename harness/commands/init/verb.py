"""The verb `init` as the command line has it. Everything else is imported when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the new run, its task and its suite.")],
    source: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="CSV, JSON lines, Parquet, or a folder of documents.")
    ] = None,
    text: Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="The input; several may be given.")] = None,
    answer: Annotated[str | None, typer.Option(metavar="COLUMN", help="The answer, in free words.")] = None,
    label: Annotated[str | None, typer.Option(metavar="COLUMN", help="The answer, one of a few labels.")] = None,
    group: Annotated[str | None, typer.Option(metavar="COLUMN", help="Rows of one value stay on one side.")] = None,
    task: Annotated[str | None, typer.Option(metavar="TEXT", help="What the student is to do, in a sentence.")] = None,
    student: Annotated[str, typer.Option(metavar="MODEL")] = "smollm2-135m-instruct",
    teacher: Annotated[str | None, typer.Option(metavar="MODEL", help="Who writes more rows.")] = None,
    base_url: Annotated[str | None, typer.Option(metavar="URL", help="Where the teacher answers.")] = None,
    items: Annotated[int | None, typer.Option(min=1, help="Examples to hold out as the suite's items.")] = None,
    sizes: Annotated[
        list[str] | None, typer.Option(metavar="ROWS", help="Rows that students see, such as 16,64.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written; write nothing.")] = False,
) -> None:
    """From one file of examples to a task, a suite and a run that need no editing. Without --from it asks."""
    from harness.commands.init.command import Options, init, next_commands
    from harness.commands.init.plan import Wishes, sizes_in
    from harness.commands.init.questions import ask_for_columns, ask_for_source
    from harness.core.terminal import Terminal

    ask = ask_for_columns if source is None else None
    if source is None:
        source, task = ask_for_source(task)
    wishes = Wishes(name, task, student, teacher, base_url, items, sizes_in(sizes or ()))
    options = Options(source, tuple(text or ()), answer, label, group, dry_run, ask)
    root, terminal = Path.cwd(), Terminal()
    init(wishes, options, root, terminal)
    terminal.say(next_commands(name, root, dry_run))
