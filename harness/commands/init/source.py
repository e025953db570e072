"""What a person has: a table of examples, or documents. It is read as it stands, and nothing is decided here."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from harness.core.store import content_digest
from harness.core.table_file import FORMATS, Located, read_rows
from harness.data.documents import ENDINGS
from harness.errors import Mistakes, UsageError, nearest_file

LARGE = 20_000_000  # bytes, from which on reading takes so long that it is said
MOST_ROWS = 20_000  # rows of a larger file that are taken, by digest: many more than a small student is tuned on
SOME_ROWS = 200  # that show whether JSON lines are documents
DOCUMENT_COLUMNS = {"text", "title"}  # JSON lines of nothing else are documents


@dataclass(frozen=True)
class Table:
    """Rows of a file, in an order that does not depend on the file's."""

    name: str  # the file's own name
    digest: str  # 16 hex digits over its content
    total: int  # rows of the file
    rows: tuple[Located, ...]  # all of them, or MOST_ROWS

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that any row has."""
        return tuple(dict.fromkeys(name for _, row in self.rows for name in row))


def existing(path: Path) -> Path:
    """The file or folder that a person named. Raises UsageError with the nearest name where there is none."""
    try:
        if path.exists():
            return path
    except OSError as error:  # longer than any path, a folder that may not be read
        raise UsageError(f"--from {path}: cannot read it: {error.strerror}") from error
    raise UsageError(
        f"--from {path}: there is no such file or folder{nearest_file(path, str(path).removesuffix(path.name))}"
    )


def holds_documents(path: Path) -> bool:
    """Whether a path leads to documents and not to a table: a folder, a text, or JSON lines of texts alone.

    Raises UsageError for an ending that is neither.
    """
    if path.is_dir():
        return True
    ending = path.suffix.lower()
    if ending not in (*FORMATS, *ENDINGS):
        allowed = f"tables end in {', '.join(FORMATS)}, documents in {', '.join(ENDINGS)} or are a folder of them"
        raise UsageError(f"--from {path}: {ending or 'a file without an ending'}: {allowed}")
    if ending == ".jsonl":
        first = [row for _, row in islice(read_rows(path, Mistakes()), SOME_ROWS)]
        return any("text" in row for row in first) and all(row.keys() <= DOCUMENT_COLUMNS for row in first)
    return ending not in FORMATS


def read_table(path: Path) -> Table:
    """The rows of a table. Raises UsageError naming every line that cannot be read, and for a file without rows."""
    if path.suffix not in FORMATS:
        raise UsageError(f"--from {path}: write the ending in small letters: {path.suffix.lower()}")
    if not path.stat().st_size:
        raise UsageError(f"--from {path}: the file is empty")
    mistakes = Mistakes()
    counted = _Counted(read_rows(path, mistakes))
    # the order of a file must decide nothing: rows are taken, and stand, by the digest of what they hold
    taken = heapq.nsmallest(MOST_ROWS, ((_digest(row), where, row) for where, row in counted), key=lambda row: row[:2])
    mistakes.check()
    if not taken:
        raise UsageError(f"--from {path}: there are no rows in it")
    rows = tuple((where, row) for _, where, row in taken)
    return Table(path.name, content_digest(path)[:16], counted.number, rows)


def _digest(row: dict[str, Any]) -> bytes:
    """By what a row is put in order. It is taken of every row of a file, so that it must be quick."""
    return hashlib.blake2b(
        repr(sorted(row.items(), key=lambda column: str(column[0]))).encode(), digest_size=16
    ).digest()


class _Counted:
    """An iterator that knows how many rows it gave."""

    def __init__(self, rows: Iterator[Located]) -> None:
        self._rows = rows
        self.number = 0

    def __iter__(self) -> Iterator[Located]:
        for row in self._rows:
            self.number += 1
            yield row
