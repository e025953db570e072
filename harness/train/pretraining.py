"""Continued pre-training: a base that has read a person's own texts before it is tuned. No torch.

It is a cell like others, of all weights and raw text, and stored as one. Cells of one student whose methods ask for
the same one share it. Gururangan et al. 2020 (arXiv 2004.10964) call it domain-adaptive pre-training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from harness.config.methods import Method, Pretrain
from harness.config.run import Train
from harness.data.documents import read_documents
from harness.errors import UsageError
from harness.models.chat_template import Chat, TokenizedRow
from harness.records import Example, Message, Provenance, Row

RAW_TEXT = "raw_text"  # what stands for the kind of data


def method_of(pretrain: Pretrain) -> Method:
    """How the weights are changed: all of them."""
    return Method(kind="full", learning_rate=pretrain.learning_rate, lora=None)


def settings_of(train: Train) -> Train:
    """The settings of the run that apply: no dev item is looked at, so that tuning alone stops early."""
    return train.model_copy(update={"validation": None, "early_stopping": None})


def raw_text(pretrain: Pretrain, root: Path, place: str, say: Callable[[str], None]) -> tuple[Row, ...]:
    """Every piece of the documents once, as a row without a prompt. `say` and errors as `read_documents`."""
    pieces = read_documents(pretrain.documents, root, f"{place}.documents", say)
    rows = (
        Row(
            messages=(Message(role="assistant", content=piece.text),),
            example=Example(fields={"text": piece.text}, answer=piece.text),
            provenance=Provenance(source="document", document=piece.id),
        )
        for piece in pieces
    )
    return tuple({row.id: row for row in rows}.values())


def tokenized_texts(chat: Chat, rows: Sequence[Row], max_length: int, context: int | None) -> dict[str, TokenizedRow]:
    """Rows of raw text as token ids, by row id: no chat template, the end of the text as last token, loss on all.

    `context`: tokens that the student can read. Raises UsageError naming a piece that is longer than that or than
    `max_length`.
    """
    end = chat.tokenizer.eos_token_id
    tokenized: dict[str, TokenizedRow] = {}
    for row in rows:
        ids = (*chat.tokenizer(row.text)["input_ids"], *([end] if end is not None else []))
        if len(ids) > min(max_length, context or max_length):
            of_context = context is not None and context < max_length
            limit = f"the model's context ({context})" if of_context else f"train.max_length ({max_length})"
            raise UsageError(
                f"{chat.name}: a piece of the documents has {len(ids)} tokens ({row.text[:50]!r}), more than {limit}:"
                " cut them into fewer words (pretrain.documents.words)"
            )
        tokenized[row.id] = TokenizedRow(row.id, tuple(ids), ((1, len(ids)),))
    return tokenized
