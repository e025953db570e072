"""Text that models and users wrote, on its way into a page: as itself in HTML, and no longer than anybody reads."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from harness.core.text import printable
from harness.records import Message

FIRST_CHARACTERS = 4000


def text(written: str) -> str:
    """One line of it in HTML, in an element or an attribute."""
    return escape(printable(written), quote=True)


def lines(written: str) -> str:
    """The same, with its line breaks."""
    return "\n".join(map(text, written.split("\n")))


def conversation(turns: Sequence[Message], *texts: str) -> str:
    """Earlier turns with who spoke, then the texts that follow them."""
    return "\n\n".join([*(f"{turn.role}: {turn.content}" for turn in turns), *filter(None, texts)])


def cut(written: str) -> str:
    """Its first characters. What is longer says so."""
    if len(written) <= FIRST_CHARACTERS:
        return written
    return f"{written[:FIRST_CHARACTERS]}\n[cut here: {len(written)} characters in all]"
