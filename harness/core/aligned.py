"""Tables of plain text: for a terminal, for a log, and for a code block."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence

GAP = "  "  # between two columns
NO_BREAK = "\u00a0"


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = (), indent: str = "") -> str:
    """One line per row, with every column as wide as its longest cell. The columns in `right` are flush right.

    `indent` stands before each line. A row may have fewer cells than the others.
    """
    columns = range(max(map(len, rows), default=0))
    widths = [max(len(row[k]) for row in rows if k < len(row)) for k in columns]
    placed = [
        [cell.rjust(widths[k]) if k in right else cell.ljust(widths[k]) for k, cell in enumerate(row)] for row in rows
    ]
    return "\n".join((indent + GAP.join(cells)).rstrip() for cells in placed)


def fitted(heads: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> str:
    """Aligned columns under `heads`, or, where they are wider than `width`, a paragraph per row. None: any width.

    A paragraph names every cell by its head. No line ends within a cell unless the cell is longer than `width`.
    """
    table = aligned([heads, *rows])
    if width is None or max(map(len, table.splitlines())) <= width:
        return table
    paragraphs = []
    for row in rows:
        cells = [f"{head} {cell}".replace(" ", NO_BREAK) for head, cell in zip(heads, row, strict=True)]
        lines = textwrap.wrap(", ".join(cells), width, subsequent_indent=GAP, break_on_hyphens=False)
        paragraphs.append("\n".join(lines).replace(NO_BREAK, " "))
    return "\n".join(paragraphs)
