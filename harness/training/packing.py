"""Many rows in one forward pass, as if each were alone.

Rows are laid end to end in one sequence whose position ids start again at every row; from that restart
transformers builds the block-diagonal causal mask itself, sliding windows included. The LM head runs
only where a token of an answer is predicted. Both together ran 2.2 times as fast as TRL's trainer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Module

from harness.training.chat import Example


@dataclass(frozen=True)
class Packed:
    """Rows end to end. T tokens, N of them predicted."""

    input_ids: Tensor  # (1, T) int64
    position_ids: Tensor  # (1, T) int64, from 0 in every row
    predicting: Tensor  # (N,) int64: places in T whose next token is part of an answer
    targets: Tensor  # (N,) int64: those next tokens
    owner: Tensor  # (N,) int64: which row each belongs to


def pack(examples: Sequence[Example], device: torch.device) -> Packed:
    """Lay rows end to end. A row's last token is only ever predicted, so it is left out of the input."""
    ids: list[int] = []
    positions: list[int] = []
    predicting: list[int] = []
    targets: list[int] = []
    owner: list[int] = []
    for number, example in enumerate(examples):
        start, length = len(ids), len(example.ids) - 1
        ids += example.ids[:-1]
        positions += range(length)
        predicting += range(start + example.answer_start - 1, start + length)
        targets += example.ids[example.answer_start :]
        owner += [number] * (len(example.ids) - example.answer_start)

    def tensor(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    return Packed(
        tensor(ids)[None], tensor(positions)[None], tensor(predicting), tensor(targets), tensor(owner)
    )


def micro_batches(examples: Sequence[Example], tokens: int) -> Iterator[tuple[Example, ...]]:
    """Cut one update's rows, in order, into pieces of at most `tokens` tokens, or of one longer row."""
    piece: list[Example] = []
    held = 0
    for example in examples:
        if piece and held + len(example.ids) > tokens:
            yield tuple(piece)
            piece, held = [], 0
        piece.append(example)
        held += len(example.ids)
    if piece:
        yield tuple(piece)


def answer_tokens(examples: Sequence[Example]) -> int:
    """Tokens that carry loss: the answers and their stop tokens."""
    return sum(len(example.ids) - example.answer_start for example in examples)


def token_losses(model: Module, packed: Packed) -> Tensor:
    """(N,) float32: negative log-likelihood in nats of each answer token."""
    output = model(
        input_ids=packed.input_ids,
        position_ids=packed.position_ids,
        logits_to_keep=packed.predicting,
        use_cache=False,
    )
    return torch.nn.functional.cross_entropy(output.logits[0].float(), packed.targets, reduction="none")


@torch.no_grad()
def keeps_rows_apart(model: Module, examples: Sequence[Example], device: torch.device) -> bool:
    """Whether a row's losses stay what they are when the row packed before it changes.

    Some architectures carry a state from token to token (convolutions, recurrences) past the mask;
    their rows must be run one by one.
    """
    first, second = examples[0], examples[-1]
    other = Example(first.row, first.ids[::-1], first.answer_start)
    losses = [token_losses(model, pack([row, second], device)) for row in (first, other)]
    mine = losses[0].shape[0] - answer_tokens([second])
    return bool(torch.allclose(losses[0][mine:], losses[1][mine:], rtol=1e-3, atol=1e-3))
