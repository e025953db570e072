"""Rows from files: JSON lines, a JSON list, CSV (also with ; or tabs), Parquet. Each row comes with where it stands.

The one reader of tables, for items, seeds and rows alike. What is wrong with a line is noted, and the reading goes
on, so that a file's mistakes can be said together.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.json_file import NotJson, lines_of, parse_object, read_json, read_text
from harness.errors import Mistakes, UsageError, first_line

if TYPE_CHECKING:
    from pyarrow import Schema

Located = tuple[str, dict[str, Any]]  # where a row stands, and its columns

DELIMITERS = (",", ";", "\t")  # of CSV: spreadsheets write ; where the comma is a decimal mark
_QUOTED = re.compile(r'"[^"]*"')
MAX_CELL = 10_000_000  # characters of one CSV cell
INSTALL = "make setup EXTRAS=train, or pip install 'harness[train]'"
NO_NUMBERS = {f"{sign}{word}" for sign in ("", "-", "+") for word in ("nan", "NaN", "inf", "Inf", "Infinity")}


def read_rows(path: Path, mistakes: Mistakes) -> Iterator[Located]:
    """(where it stands, columns) of every row of a file in one of FORMATS. Lines that cannot be read are noted.

    Raises UsageError for a file that cannot be read at all, and for two columns of one name.
    """
    return READERS[path.suffix](path, mistakes)


def jsonl_rows(path: Path) -> list[Located]:
    """(file and line, object) of every line that is not blank. Raises UsageError naming every line at fault."""
    mistakes = Mistakes()
    rows = list(_jsonl_rows(path, mistakes))
    mistakes.check()
    return rows


def _jsonl_rows(path: Path, mistakes: Mistakes) -> Iterator[Located]:
    for number, line in lines_of(path):
        with mistakes.noted():
            yield f"{path}:{number}", parse_object(line, path, number)


def _json_rows(path: Path, mistakes: Mistakes) -> Iterator[Located]:
    """The objects of one JSON list, as Alpaca and ShareGPT are shared."""
    try:
        rows = read_json(path)
    except NotJson as error:
        raise UsageError(f"{path}: not JSON: {error}") from error
    if not isinstance(rows, list):
        raise UsageError(
            f"{path}: expected a list of objects, got {type(rows).__name__} (.jsonl has one object a line)"
        )
    for number, row in enumerate(rows, start=1):
        with mistakes.noted():
            if not isinstance(row, dict):
                raise UsageError(f"{path}: element {number}: each is a JSON object, this one is {type(row).__name__}")
            yield f"{path}: element {number}", row


def _csv_rows(path: Path, mistakes: Mistakes) -> Iterator[Located]:
    """Rows under a header. An empty cell is no value."""
    csv.field_size_limit(MAX_CELL)
    text = read_text(path)
    # lines end where files say so, not at each of the characters that str.splitlines takes for an end
    reader = csv.reader(io.StringIO(text), delimiter=_delimiter(path, text), strict=True)
    line = 0
    try:
        header = next(reader, [])
        _each_once([name for name in header if name], f"{path}:1")  # spreadsheets end lines with empty cells
        if not header:
            raise UsageError(f"{path}:1: there is no header")
        line = reader.line_num
        for cells in reader:
            start, line = line + 1, reader.line_num
            if not cells:
                continue
            if len(cells) != len(header):
                mistakes.note(f"{path}:{start}: {len(cells)} cells; the header has {len(header)}")
                continue
            yield f"{path}:{start}", {n: _cell(cell) for n, cell in zip(header, cells, strict=True) if cell != ""}
    except csv.Error as error:
        raise UsageError(f"{path}:{line + 1}: not valid CSV: {error}") from error


def _delimiter(path: Path, text: str) -> str:
    """What stands between the cells of a table: a tab in .tsv, else the first of , ; and tab that the header has.

    Marks inside quotes are of a column's name.
    """
    if path.suffix == ".tsv":
        return "\t"
    header = _QUOTED.sub("", text.partition("\n")[0])
    return next((mark for mark in DELIMITERS if mark in header), ",")


def _cell(text: str) -> str | float:
    """The text of a cell. 'nan' and 'inf' become floats, so that they are refused as not finite."""
    return float(text) if text in NO_NUMBERS else text


def _parquet_rows(path: Path, mistakes: Mistakes) -> Iterator[Located]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError(f"{path}: reading Parquet needs pyarrow, which is not installed: {INSTALL}") from error
    try:
        file = parquet.ParquetFile(path)
        _each_once(_column_names(file.schema_arrow), str(path))
        number = 0
        for batch in file.iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}: row {number}", row
    except (OSError, ValueError, LookupError, ArithmeticError, pyarrow.ArrowException) as error:
        # also times that Python cannot hold, each kind of them with an error of its own
        raise UsageError(f"{path}: not a Parquet file that can be read: {first_line(error)}") from error


def _column_names(schema: Schema) -> list[str]:
    """The names of all columns, nested ones with dots."""
    names, waiting = [], [("", schema.field(i)) for i in range(len(schema.names))]
    while waiting:
        above, field = waiting.pop()
        names.append(f"{above}{field.name}")
        inside = range(field.type.num_fields) if hasattr(field.type, "num_fields") else ()
        waiting += [(f"{above}{field.name}.", field.type.field(i)) for i in inside]
    return names


def _each_once(names: list[str], place: str) -> None:
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise UsageError(f"{place}: the column {twice[0]!r} stands twice")


READERS: dict[str, Callable[[Path, Mistakes], Iterator[Located]]] = {  # by the ending of a file's name
    ".jsonl": _jsonl_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".parquet": _parquet_rows,
}
FORMATS = tuple(READERS)
