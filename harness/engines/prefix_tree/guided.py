"""Guided decoding: an answer that is written as JSON of a form, token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from harness.core.json_pattern import json_pattern

if TYPE_CHECKING:
    import torch

TRIED = 256  # of the likeliest tokens that are looked at before the whole vocabulary is
KEPT = 1024  # texts whose possible next tokens are remembered

Decode = Callable[[Sequence[int], bool], str]  # (ids, whether to leave out special tokens)


class Guide:
    """What a text in the making may become. Shared by all answers of one schema."""

    def __init__(self, pattern: str) -> None:
        """`pattern`: a regular expression for the whole text. A space or a line end may stand before it."""
        import regex  # it can match the beginning of a text, as Python's own re cannot

        self._matches = regex.compile(rf"[ \n]?(?:{pattern})")
        self._next: dict[str, list[int]] = {}  # text so far -> tokens of the vocabulary that can follow

    def open(self, text: str) -> bool:
        """Whether a text is the beginning of one that matches, or matches."""
        return self._matches.fullmatch(text, partial=True) is not None

    def complete(self, text: str) -> bool:
        """Whether a text matches."""
        return self._matches.fullmatch(text) is not None

    def allowed(self, written: Sequence[int], logits: torch.Tensor, decode: Decode, *, first: bool) -> list[int]:
        """Tokens that may follow what is written. With `first` only the likeliest of them need be among these.

        `logits`: [vocabulary]. Those among the TRIED likeliest tokens, and of the whole vocabulary where none is.
        """
        text = decode(written, True)

        def fits(token: int) -> bool:
            longer: str = decode([*written, token], True)
            return len(longer) > len(text) and "\ufffd" not in longer[len(text) :] and self.open(longer)

        known = self._next.get(text)
        if known and first:  # the likeliest of all is the same one, whoever asked before
            return known
        tried: list[int] = logits.topk(min(TRIED, len(logits))).indices.tolist()
        if first:
            likeliest = next(filter(fits, tried), None)
            if likeliest is not None:
                return [likeliest]
        elif fitting := list(filter(fits, tried)):
            return fitting
        if known is None:
            if len(self._next) >= KEPT:
                self._next.clear()
            known = self._next[text] = list(filter(fits, range(len(logits))))
        return known


def guide_of(schema: dict[str, Any] | None) -> Guide | None:
    """The guide of a JSON Schema, or None where there is none, or none that is a flat object's."""
    pattern = json_pattern(schema) if schema else None
    return None if pattern is None else Guide(pattern)
