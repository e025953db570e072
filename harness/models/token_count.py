"""Counting of tokens for estimates, without loading transformers or a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from harness.records import Message

Count = Callable[[str], int]

TURN_TOKENS = 5  # what chat templates put around one message: marks, role, line break
CHARACTERS = 4  # of a token, where the tokenizer is not at hand


def by_characters(text: str) -> int:
    """Tokens of a text, from its length alone."""
    return len(text) // CHARACTERS + 1


def fast_tokenizer(folder: Path) -> Count | None:
    """Counts a text's tokens by the tokenizer.json of a model's folder. None without that file or its library."""
    file = folder / "tokenizer.json"
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return None
    if not file.is_file():
        return None
    tokenizer = Tokenizer.from_file(str(file))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def chat_tokens(messages: Sequence[Message], count: Count) -> int:
    """Tokens of a conversation, its chat template by a rule of thumb."""
    return sum(count(message.content) + TURN_TOKENS for message in messages)
