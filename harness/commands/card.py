"""What the cards of exported rows and of exported students have in common."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

Verb = Literal["export", "export-student"]
CARD = "README.md"


def stamp(verb: Verb, files: Iterable[str] = ()) -> str:
    """What a card says to the next export: who wrote it, and which files beside it. They may be written over."""
    return f"<!-- written by harness {verb}: {json.dumps(sorted(files))} -->"


def written(folder: Path, verb: Verb) -> frozenset[str] | None:
    """The files of a folder that a verb wrote, by its card. None where it wrote no card there."""
    card = folder / CARD
    if not card.is_file():
        return None
    text = card.read_text(encoding="utf-8", errors="replace")
    found = re.search(rf"<!-- written by harness {verb}: (\[.*?\]) -->", text)
    try:
        return frozenset([CARD, *json.loads(found[1])]) if found else None
    except ValueError:  # somebody edited it
        return None


def unstated(licence: str, languages: Sequence[str]) -> list[str]:
    """What the hub asks of a card and nobody said."""
    said = [] if licence else ["the card's licence is 'unknown': --license says which"]
    return said if languages else [*said, "the card names no language; --language en, for example, adds it"]
