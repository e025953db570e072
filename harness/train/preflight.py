"""Checks before any cell is trained. Each finds a fault that would make a worse student without an error."""

from __future__ import annotations

from collections.abc import Sequence

from harness.config.run import Train
from harness.errors import UsageError
from harness.models.chat_template import Chat, TokenizedRow, tokenize_row
from harness.records import Row


def preflight(chat: Chat, rows: Sequence[Row], settings: Train) -> dict[str, TokenizedRow]:
    """Tokenize every row with the student's own template. Returns the examples by row id.

    Raises UsageError naming the row when the template drops the stop token or changes the prompt (see
    `tokenize_row`), when a row is longer than train.max_length, or when two labels have the same tokens.
    """
    examples: dict[str, TokenizedRow] = {}
    answers: dict[tuple[int, ...], tuple[str, str]] = {}  # tokens -> (label, row)
    for row in rows:
        if row.id in examples:
            continue
        example = tokenize_row(chat, row)
        if len(example.ids) > settings.max_length:
            raise UsageError(
                f"{chat.name}: row {row.id} has {len(example.ids)} tokens, train.max_length allows"
                f" {settings.max_length}; raise it, or drop long rows by a `length` filter: {row.text[:50]!r}"
            )
        answer = example.ids[example.answer_start :]
        label, first = answers.setdefault(answer, (row.answer, row.id))
        if label != row.answer:
            raise UsageError(
                f"{chat.name}: the labels {label!r} (row {first}) and {row.answer!r} (row {row.id}) are"
                f" the same tokens to this student; rename one"
            )
        examples[row.id] = example
    return examples
