"""The dev items that a validation loss is measured on, asked as a tuned student is asked. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.augment.rows import student_prompt
from harness.config.run import Run
from harness.core.record import digest
from harness.errors import UsageError
from harness.models.chat_template import Chat, TokenizedRow, tokenize_chat
from harness.records import Message


@dataclass(frozen=True)
class DevItem:
    """A dev item of the task's own suites with its gold answer."""

    item: str  # its id
    messages: tuple[Message, ...]  # what a tuned student is asked, and the gold answer as the last turn


def dev_items(run: Run) -> tuple[DevItem, ...]:
    """Those of a run, in the order of its suites. Empty where it has no validation."""
    if not run.file.train.validation:
        return ()
    return tuple(
        DevItem(
            item.id,
            (*student_prompt(run.task, run.prompts.student, item.question), Message(role="assistant", content=answer)),
        )
        for suite in run.suites.values()
        for item, answer in suite.answered_dev_items
    )


def items_digest(items: Sequence[DevItem]) -> str:
    """64 hex digits over what is asked and what is right."""
    return digest("dev items", [[[m.role, m.content] for m in item.messages] for item in items])


def tokenized_items(chat: Chat, items: Sequence[DevItem], context: int | None) -> tuple[TokenizedRow, ...]:
    """The items as token ids, in which the gold answer carries loss. `context`: tokens that the student can read.

    Raises UsageError naming the item that is longer, or whose prompt the chat template changes.
    """
    tokenized = []
    for item in items:
        ids, start = tokenize_chat(chat, item.messages, f"dev item {item.item}")
        if context is not None and len(ids) > context:
            raise UsageError(
                f"{chat.name}: train.validation: dev item {item.item} has {len(ids)} tokens, and the student reads"
                f" {context}: shorten it, or train without validation"
            )
        tokenized.append(TokenizedRow(item.item, ids, ((start, len(ids)),)))
    return tuple(tokenized)
