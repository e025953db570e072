"""Many rows in one forward pass, as if each were alone, with little spent on anything but rows and answers.

Rows are laid end to end, without padding. Rows that begin with the same tokens, as most prompts of a task do, share
them: they are computed once, and every row sees them. The LM head runs only where a token of an answer is predicted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from harness.models.chat_template import TokenizedRow
from harness.train.attention import Block, additive_masks, block

PAD = 0  # any token does: what stands after a row is seen by no token of it
ALIKE = 16  # rows whose first tokens are these may share a beginning
WORTH_SHARING = 8  # tokens; a shorter beginning costs more than it saves


@dataclass(frozen=True)
class Packed:
    """B sequences of W tokens, N of which predict a token of an answer."""

    input_ids: Tensor  # (B, W) int64
    position_ids: Tensor  # (B, W) int64, from 0 in every row
    predicting: Tensor  # (N,) int64: places in B * W whose next token is part of an answer
    targets: Tensor  # (N,) int64: those next tokens
    owner: Tensor  # (N,) int64: which of the given examples each belongs to
    blocks: tuple[Block, ...] = ()  # how the only sequence is attended to; none where every row has its own
    ends: tuple[int, ...] = ()  # of each given part of the examples, in places of the only sequence


@dataclass
class _Group:
    """Rows (by number) that begin with the same tokens."""

    numbers: list[int]
    beginning: tuple[int, ...]
    tokens: int = 0  # of all its rows, each by itself

    @property
    def shared(self) -> int:
        alone = len(self.numbers) < 2 or len(self.beginning) < WORTH_SHARING
        return 0 if alone else len(self.beginning)

    @property
    def together(self) -> int:
        return self.tokens - self.shared * (len(self.numbers) - 1)


class _Groups:
    """Rows by what they begin with."""

    def __init__(self) -> None:
        self.by_beginning: dict[tuple[int, ...], _Group] = {}
        self.tokens = 0  # of a pass, each shared beginning counted once

    def add(self, number: int, example: TokenizedRow) -> None:
        beginning = example.ids[: example.learned[0][0] - 1]  # what predicts the first answer is the row's own
        group = self.by_beginning.setdefault(beginning[:ALIKE], _Group([], beginning))
        before = group.together
        group.numbers.append(number)
        group.beginning = _common(group.beginning, beginning)
        group.tokens += len(example.ids) - 1
        self.tokens += group.together - before

    @classmethod
    def of(cls, examples: Sequence[TokenizedRow]) -> _Groups:
        groups = cls()
        for number, example in enumerate(examples):
            groups.add(number, example)
        return groups


def tokens_together(examples: Sequence[TokenizedRow]) -> int:
    """Input tokens of these rows in one pass, each shared beginning counted once."""
    return _Groups.of(examples).tokens


def pack(parts: Sequence[Sequence[TokenizedRow]], device: torch.device) -> Packed:
    """Lay rows end to end in one sequence, part after part. Only rows of one part share a beginning.

    A row's last token is only ever predicted, so it is left out of the input.
    """
    ids: list[int] = []
    positions: list[int] = []
    predicting: list[int] = []
    targets: list[int] = []
    owner: list[int] = []
    blocks: list[Block] = []
    ends: list[int] = []
    before = 0  # examples of earlier parts
    for examples in parts:
        for group in _Groups.of(examples).by_beginning.values():
            start, shared = len(ids), group.shared
            nothing = slice(start, start)
            if shared:
                ids += group.beginning
                positions += range(shared)
                blocks.append(block([shared], start, nothing, device))
            lengths = [len(examples[n].ids) - 1 - shared for n in group.numbers]
            blocks.append(block(lengths, start + shared, slice(start, start + shared), device))
            for number, length in zip(group.numbers, lengths, strict=True):
                example, first = examples[number], len(ids) - shared
                for begin, end in example.learned:
                    predicting += range(first + begin - 1, first + end - 1)
                    targets += example.ids[begin:end]
                    owner += [before + number] * (end - begin)
                ids += example.ids[shared:-1]
                positions += range(shared, shared + length)
        before += len(examples)
        ends.append(len(ids))
    tokens, places = (torch.tensor([values], device=device) for values in (ids, positions))
    where, what, whose = (torch.tensor(values, device=device) for values in (predicting, targets, owner))
    return Packed(tokens, places, where, what, whose, tuple(blocks), tuple(ends))


def pad(examples: Sequence[TokenizedRow], device: torch.device) -> Packed:
    """A sequence for each row, for architectures that carry a state from token to token past any mask."""
    width = max(len(example.ids) for example in examples) - 1
    ids: list[list[int]] = []
    predicting: list[int] = []
    targets: list[int] = []
    owner: list[int] = []
    for number, example in enumerate(examples):
        ids.append([*example.ids[:-1], *[PAD] * (width - len(example.ids) + 1)])
        for first, end in example.learned:
            predicting += range(number * width + first - 1, number * width + end - 1)
            targets += example.ids[first:end]
            owner += [number] * (end - first)
    where, what, whose = (torch.tensor(values, device=device) for values in (predicting, targets, owner))
    positions = torch.arange(width, device=device).expand(len(examples), -1)
    return Packed(torch.tensor(ids, device=device), positions, where, what, whose)


def micro_batches(
    parts: Sequence[Sequence[TokenizedRow]], tokens: int, alone: bool = False
) -> Iterator[list[list[TokenizedRow]]]:
    """Cut the parts' rows, in order, into pieces of at most `tokens` tokens, or one longer row.

    Each piece has as many parts, some of them empty. With `alone`, every row is as long as the piece's longest.
    """
    piece: list[list[TokenizedRow]] = [[] for _ in parts]
    before = rows = longest = 0  # tokens of earlier parts, rows of the piece
    for part, examples in enumerate(parts):
        groups = _Groups()
        for example in examples:
            groups.add(0, example)
            longest = max(longest, len(example.ids) - 1)
            if rows and ((rows + 1) * longest if alone else before + groups.tokens) > tokens:
                yield piece
                piece, before, rows, longest = [[] for _ in parts], 0, 0, len(example.ids) - 1
                groups = _Groups.of([example])
            piece[part].append(example)
            rows += 1
        before += groups.tokens
    if rows:
        yield piece


def answer_tokens(examples: Sequence[TokenizedRow]) -> int:
    """Tokens that carry loss: answers and their stop tokens."""
    return sum(end - first for example in examples for first, end in example.learned)


def token_losses(network: Module, packed: Packed, windows: Mapping[str, int | None]) -> Tensor:
    """(N,) float32: negative log-likelihood in nats of each answer token.

    `windows`: how far each kind of attention layer sees, for rows packed into one sequence.
    """
    settings: dict[str, Any] = {}
    if packed.blocks:
        dtype, device = next(network.parameters()).dtype, packed.input_ids.device
        masks = {kind: additive_masks(packed.blocks, window, dtype, device) for kind, window in windows.items()}
        only = masks.get("full_attention") if len(masks) == 1 else None
        settings = {"attention_mask": masks if only is None else only, "blocks": packed.blocks}
    with _head_reads(network, packed.predicting):
        output = network(input_ids=packed.input_ids, position_ids=packed.position_ids, use_cache=False, **settings)
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


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    """The longest beginning of both."""
    differing = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return one[: next(differing, min(len(one), len(other)))]
