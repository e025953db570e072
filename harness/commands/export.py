"""`harness export`: the rows that augment stored, in the formats of other tools, with a card, and to the hub."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, cast, get_args

from harness.augment.current import FUNNEL, dropped_rows, kept_rows, stored_funnel
from harness.commands.card import CARD, unstated, written
from harness.commands.dataset_card import Card, dataset_card
from harness.commands.push import Hub, check_name, push, require_named
from harness.config.run import Run
from harness.core.store import write_atomic
from harness.core.table_file import INSTALL
from harness.core.terminal import Terminal
from harness.data.examples import Shape
from harness.data.writing import TARGETS, Line, Target, example_lines, prompt_lines
from harness.errors import UsageError, nearest
from harness.records import Row

Which = Literal["kept", "dropped"]
WHICH: tuple[Which, ...] = get_args(Which)
FORMATS = ("jsonl", "parquet")


@dataclass(frozen=True)
class Options:
    """What is exported, as what, and to where."""

    target: Target = "messages"
    file_format: str = "jsonl"
    output: Path | None = None  # a folder; without it runs/NAME/export/TARGET
    which: Which = "kept"
    prompts: bool = False  # the prompts that students see, system message included, in place of the examples alone
    licence: str = ""
    languages: tuple[str, ...] = ()
    dataset: str = ""  # owner/name on the hub
    public: bool = False

    @classmethod
    def checked(cls, to: str, file_format: str, which: str, **others: Any) -> Self:
        """Options as a person writes them. Raises UsageError for a value that is none of those allowed."""
        for name, value, allowed in (("to", to, TARGETS), ("format", file_format, FORMATS), ("which", which, WHICH)):
            if value not in allowed:
                raise UsageError(f"--{name} {value}{nearest(value, allowed)}; allowed: {', '.join(allowed)}")
        options = cls(cast(Target, to), file_format, which=cast(Which, which), **others)
        require_named(options.public, options.dataset)
        return options


def export(run: Run, options: Options, hub: Callable[[], Hub], terminal: Terminal) -> Path:
    """Write the rows and their card, and upload them where a dataset is named. Returns the folder.

    `hub` opens the hub, and is called before anything is written, and only if a dataset is named. Raises UsageError
    where augment has not finished, for rows that the format cannot hold, and for a folder with files of others.
    """
    if options.dataset:
        check_name(options.dataset)
    opened = hub() if options.dataset else None
    rows = _rows(run, options.which)
    lines = _lines(rows, options, run.task.shape)
    name = f"{'train' if options.which == 'kept' else 'dropped'}.{options.file_format}"
    data = _as_bytes(lines, options.file_format)
    folder = options.output or run.folder / "export" / f"{options.target}{'-dropped' * (options.which == 'dropped')}"
    _refuse_others(folder, name)
    where = Card(name, options.which, options.prompts, options.licence, options.languages, options.target)
    funnel = stored_funnel(run)
    if funnel is None:
        raise UsageError(f"{run.folder / 'augment' / FUNNEL} is missing; {run.command('augment')} makes it again")
    text = dataset_card(run, rows, lines, funnel, where)
    write_atomic(folder / name, data)
    write_atomic(folder / "README.md", text)
    shown = os.path.relpath(folder, run.root) if folder.is_relative_to(run.root) else str(folder)
    terminal.say(f"export: {len(rows)} rows in {shown}/{name}, their card in {shown}/README.md")
    for line in _said(rows, options):
        terminal.say(f"  {line}")
    if opened is not None:
        terminal.say(f"export: {push(opened, 'dataset', options.dataset, folder, (name, 'README.md'), options.public)}")
    return folder


def _rows(run: Run, which: Which) -> tuple[Row, ...]:
    rows = kept_rows(run) if which == "kept" else tuple(line.row for line in dropped_rows(run))
    if not rows:
        raise UsageError(f"runs/{run.name}/augment: there are no {which} rows in it")
    return rows


def _lines(rows: Sequence[Row], options: Options, shape: Shape) -> list[Line]:
    if options.prompts:
        return prompt_lines([row.messages for row in rows], options.target)
    return example_lines([row.example for row in rows], options.target, shape)


def _as_bytes(lines: Sequence[Line], file_format: str) -> bytes:
    """The content of a file of JSON lines or of Parquet."""
    if file_format == "jsonl":
        return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError(f"--format parquet needs pyarrow, which is not installed: {INSTALL}") from error
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(list(lines)), buffer)
    return buffer.getvalue()


def _refuse_others(folder: Path, name: str) -> None:
    """Raises UsageError where a file that no export wrote would be written over."""
    ours = written(folder, "export") or ()
    other = next((folder / file for file in (CARD, name) if (folder / file).exists() and file not in ours), None)
    if other is not None or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"--output {folder}: {other or folder} is there, and no export wrote it: name another folder")


def _said(rows: Sequence[Row], options: Options) -> list[str]:
    """What a reader of the files would not expect."""
    said: list[str] = []
    if not options.prompts:
        said.append("no row holds the task's system message or its prompt (--prompts writes both): the card has it")
    if any(row.loss == "all" for row in rows):
        said.append("a student learns every turn of the assistant in them: no column says so")
    return said + unstated(options.licence, options.languages)
