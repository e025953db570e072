"""Tables of plain text: for a terminal, for a log, and for a code block."""

from __future__ import annotations

from collections.abc import Collection, Sequence

GAP = "  "  # between two columns


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
