"""Text that others wrote, as itself in Markdown: labels, tags, names, answers.

`table` escapes every cell, `escaped` every sentence: one line, no markup, no HTML, no link, no control character.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.core.text import one_line

ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}  # for readers that look for HTML first
PLAIN = " .,;:'\"?/%-()+="  # no markup inside a line, and unreadable when escaped
INTERVAL = re.compile(r"(\[[-+]?[\d.]+, [-+]?[\d.]+\](?![(\[:]))")  # these brackets stay: they make no link
STARTS = re.compile(r"^([-+=#]|\d+[.)])(?=\s|$|=|-)")  # what begins a list, a heading or a rule


class Strong(str):
    """A cell that is set in bold."""

    __slots__ = ()


def escaped(text: str) -> str:
    """Text as itself on one line of Markdown.

    CommonMark takes a backslash before any ASCII punctuation as that character.
    """
    flat = one_line(text)
    parts = INTERVAL.split(flat)  # every second one is an interval
    line = "".join(part if place % 2 else _outside(part) for place, part in enumerate(parts))
    line = line.replace("www.", "www\\.").replace("://", "\\://")
    return STARTS.sub(lambda match: match[0][:-1] + "\\" + match[0][-1], line)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: every cell escaped, the same number of them in every row. Raises ValueError otherwise."""
    return "\n".join(table_lines(heads, rows))


def table_lines(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of `table`: heads, rule, a line per row."""
    if any(len(row) != len(heads) for row in rows):
        raise ValueError(f"{len(heads)} heads over rows of {sorted({len(row) for row in rows})} cells")
    return [_row(heads), "|---" * len(heads) + "|", *map(_row, rows)]


def fenced(text: str) -> str:
    """Plain text as a code block. Lines that could be read as HTML, or could end the block, follow it escaped."""
    lines = text.splitlines()
    odd = [line for line in lines if set(line) & set("<>&`~") or not line.isprintable()]
    block = "\n".join(line for line in lines if line not in odd)
    return "\n".join([f"```\n{block}\n```", *(f"\n{escaped(line)}" for line in odd)])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(text: str) -> str:
    line = escaped(text)
    return f"**{line}**" if isinstance(text, Strong) and line else line


def _outside(text: str) -> str:
    return "".join(_character(text, place) for place in range(len(text)))


def _character(text: str, place: int) -> str:
    """One character of a line, escaped where it could be markup."""
    c = text[place]
    if c.isalnum() or not c.isascii() or c in PLAIN:
        return c
    if c == "_" and 0 < place < len(text) - 1 and text[place - 1].isalnum() and text[place + 1].isalnum():
        return c  # inside a word it is no emphasis
    return ENTITIES.get(c, "\\" + c)
