"""What the cards of exported rows and of exported students have in common."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

STAMP = "<!-- written by harness export -->"  # tells a card that may be written over from one of somebody else


def is_ours(folder: Path) -> bool:
    """Whether the card in a folder was written by an export."""
    card = folder / "README.md"
    return card.is_file() and STAMP in card.read_text(encoding="utf-8", errors="replace")


def unstated(licence: str, languages: Sequence[str]) -> list[str]:
    """What the hub asks of a card and nobody said."""
    said = [] if licence else ["the card's licence is 'unknown': --license says which"]
    return said if languages else [*said, "the card names no language; --language en, for example, adds it"]
