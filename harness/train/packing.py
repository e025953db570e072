"""Many rows in one forward pass, as if each were alone, with little spent on anything but rows and answers.

Rows are laid end to end in sequences as wide as the longest of them. Position ids start again at every row,
and from that restart transformers builds the block-diagonal causal mask itself, sliding windows included.
Rows much alike in length so get a sequence each, and attention costs what it would cost alone. The LM head
runs only where a token of an answer is predicted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from harness.models.chat_template import TokenizedRow

PAD = 0  # any token does: what stands after a sequence's rows is seen by none of them


@dataclass(frozen=True)
class Packed:
    """B sequences of W tokens, N of which predict a token of an answer."""

    input_ids: Tensor  # (B, W) int64
    position_ids: Tensor  # (B, W) int64, from 0 in every row
    predicting: Tensor  # (N,) int64: places in B * W whose next token is part of an answer
    targets: Tensor  # (N,) int64: those next tokens
    owner: Tensor  # (N,) int64: which of the given examples each belongs to


def fold(lengths: Sequence[int], width: int, alone: bool = False) -> list[list[int]]:
    """Rows (by number) of each sequence: longest first, each into the first sequence with room for it.

    With `alone`, every row has a sequence to itself.
    """
    sequences: list[list[int]] = []
    room: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        place = next((i for i, free in enumerate(room) if free >= lengths[number] and not alone), None)
        if place is None:
            place = len(sequences)
            sequences.append([])
            room.append(width)
        sequences[place].append(number)
        room[place] -= lengths[number]
    return sequences


def pack(examples: Sequence[TokenizedRow], device: torch.device, alone: bool = False, width: int = 0) -> Packed:
    """Lay rows into sequences of `width` tokens, or of the longest row's if that is more.

    A row's last token is only ever predicted, so it is left out of the input.
    """
    lengths = [len(example.ids) - 1 for example in examples]
    width = max(width, *lengths)
    ids: list[list[int]] = []
    positions: list[list[int]] = []
    predicting: list[int] = []
    targets: list[int] = []
    owner: list[int] = []
    for numbers in fold(lengths, width, alone):
        start = len(ids) * width
        tokens: list[int] = []
        places: list[int] = []
        for number in numbers:
            example, length = examples[number], lengths[number]
            for first, end in example.learned:
                predicting += range(start + len(tokens) + first - 1, start + len(tokens) + end - 1)
                targets += example.ids[first:end]
                owner += [number] * (end - first)
            tokens += example.ids[:-1]
            places += range(length)
        spare = width - len(tokens)
        ids.append(tokens + [PAD] * spare)
        positions.append(places + list(range(places[-1] + 1, places[-1] + 1 + spare)))

    def tensor(values: Sequence[object]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    return Packed(tensor(ids), tensor(positions), tensor(predicting), tensor(targets), tensor(owner))


def micro_batches(
    examples: Sequence[TokenizedRow], tokens: int, alone: bool = False
) -> Iterator[tuple[TokenizedRow, ...]]:
    """Cut one step's rows, in order, into pieces of at most `tokens` tokens packed, or one longer row."""
    piece: list[TokenizedRow] = []
    for example in examples:
        lengths = [len(e.ids) - 1 for e in (*piece, example)]
        if piece and len(fold(lengths, max(lengths), alone)) * max(lengths) > tokens:
            yield tuple(piece)
            piece = []
        piece.append(example)
    if piece:
        yield tuple(piece)


def answer_tokens(examples: Sequence[TokenizedRow]) -> int:
    """Tokens that carry loss: the answers and their stop tokens."""
    return sum(len(example.ids) - example.answer_start for example in examples)


def token_losses(network: Module, packed: Packed) -> Tensor:
    """(N,) float32: negative log-likelihood in nats of each answer token."""
    with _head_reads(network, packed.predicting):
        output = network(input_ids=packed.input_ids, position_ids=packed.position_ids, use_cache=False)
    return torch.nn.functional.cross_entropy(output.logits[0].float(), packed.targets, reduction="none")


@contextmanager
def _head_reads(network: Any, places: Tensor) -> Iterator[None]:
    """Inside the block the LM head sees the hidden states at `places` only: (1, N, hidden).

    transformers' own `logits_to_keep` takes the same places in every sequence, and these differ.
    """

    def choose(head: Module, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (states[0].flatten(0, 1)[places][None], *states[1:])

    hook = network.get_output_embeddings().register_forward_pre_hook(choose)
    try:
        yield
    finally:
        hook.remove()


@torch.no_grad()
def keeps_rows_apart(network: Module, examples: Sequence[TokenizedRow], device: torch.device) -> bool:
    """Whether a row's losses stay what they are when the row before it in its sequence changes.

    Some architectures carry a state from token to token (convolutions, recurrences) past the mask. Their
    rows need a sequence each.
    """
    first, second = sorted((examples[0], examples[-1]), key=lambda e: -len(e.ids))
    changed = TokenizedRow(first.row, first.ids[::-1], first.learned)
    losses = []
    for row in (first, changed):
        packed = pack([row, second], device, width=len(first.ids) + len(second.ids))
        losses.append(token_losses(network, packed)[packed.owner == 1])
    return bool(torch.allclose(losses[0], losses[1], rtol=1e-3, atol=1e-3))
