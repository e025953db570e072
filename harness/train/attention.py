"""Attention over packed rows, each alone or after a beginning that several rows share, forward and backward.

Rows stand end to end in one sequence. transformers' own attention would compute every token of it against
every other and mask most of it away, and on a CPU in bfloat16 the backward pass of PyTorch's fused attention takes
five times as long as plain products of matrices. Here a block of rows is padded for the scores alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

NAME = "harness_packed_rows"  # by which transformers is told to use it
LONG = 1024  # tokens that a token of a row sees; more make the kept scores larger than all else that a pass keeps


@dataclass(frozen=True)
class Block:
    """R rows of at most L tokens in a sequence of T, which see themselves and the same P tokens before them."""

    rows: int  # R
    length: int  # L
    shared: slice  # of the sequence: the P tokens that every row sees, none where rows begin by themselves
    tokens: slice  # of the sequence: the rows, end to end
    gather: Tensor | None  # (R * L,) int64: places in the sequence. None where no row is shorter than L
    real: Tensor | None  # places in R * L that are no padding, in the sequence's order

    @property
    def columns(self) -> int:
        """Tokens that a row's last token sees."""
        return int(self.shared.stop) - int(self.shared.start) + self.length

    def padded(self, states: Tensor) -> Tensor:
        """(heads, R * L, D) of (heads, T, D): what padding holds is never seen by a token."""
        return states[:, self.tokens] if self.gather is None else states.index_select(1, self.gather)

    def unpadded(self, states: Tensor) -> Tensor:
        """(heads, the rows' tokens, D) of (heads, R * L, D)."""
        return states if self.real is None else states.index_select(1, self.real)

    def spread(self, states: Tensor) -> Tensor:
        """(heads, R * L, D), 0 in padding, of (heads, T, D)."""
        own = states[:, self.tokens]
        if self.real is None:
            return own
        return own.new_zeros(len(own), self.rows * self.length, own.shape[2]).index_copy_(1, self.real, own)


def block(lengths: Sequence[int], start: int, shared: slice, device: torch.device) -> Block:
    """Rows of `lengths` tokens that stand end to end from `start` on."""
    longest, end = max(lengths), start + sum(lengths)
    if min(lengths) == longest:
        return Block(len(lengths), longest, shared, slice(start, end), None, None)
    counts = torch.tensor(lengths)[:, None]
    starts = start + torch.cumsum(counts, 0) - counts
    steps = torch.arange(longest)[None]
    gather = (starts + torch.minimum(steps, counts - 1)).flatten()
    real = (steps < counts).flatten().nonzero().flatten()
    return Block(len(lengths), longest, shared, slice(start, end), gather.to(device), real.to(device))


def additive_masks(blocks: Sequence[Block], window: int | None, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(1, 1, 1, N): each block's (L, P + L) mask end to end, 0 where a token is seen and the lowest number elsewhere.

    `window`: how many tokens back a token sees, itself included. None for all.
    """
    masks = []
    for each in blocks:
        behind = torch.arange(each.columns - each.length, each.columns)[:, None] - torch.arange(each.columns)[None]
        hidden = behind < 0 if window is None else (behind < 0) | (behind >= window)
        masks.append(torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, torch.finfo(dtype).min).flatten())
    return torch.cat(masks)[None, None, None].to(device)


def make_known() -> None:
    """Tell transformers the name of this attention."""
    AttentionInterface.register(NAME, attend)


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
    blocks: Sequence[Block] = (),
    **kwargs: object,
) -> tuple[Tensor, None]:
    """[1, T, heads, D] from queries [1, heads, T, D] and keys and values [1, key heads, T, D].

    `attention_mask` is that of `additive_masks`. Heads that share their keys are computed as one. Scores
    have the model's type, as in transformers' plain attention. On a GPU, and for rows whose scores would fill the
    memory, PyTorch's fused attention computes the padded blocks, unless scores are capped, which it cannot.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key = query.to(value.dtype), key.to(value.dtype)  # rotary positions are float32 in mixed precision
    if not softcap and (query.is_cuda or max(each.columns for each in blocks) > LONG):
        return fused(query[0], key[0], value[0], attention_mask, scale, blocks)[None], None
    out: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
        query[0], key[0], value[0], attention_mask, scale, softcap, tuple(blocks)
    )
    return out[None], None


def fused(query: Tensor, key: Tensor, value: Tensor, masks: Tensor, scale: float, blocks: Sequence[Block]) -> Tensor:
    """(T, heads, D) from queries (heads, T, D) and keys and values (key heads, T, D), by PyTorch's own attention."""
    heads, at, out = len(query), 0, []
    key, value = (states.repeat_interleave(heads // len(states), 0) for states in (key, value))
    for each in blocks:
        mask = masks.flatten()[at : at + each.length * each.columns].view(each.length, each.columns)
        at += mask.numel()
        rows, keys, values = (
            each.padded(states).reshape(heads, each.rows, each.length, -1).transpose(0, 1)
            for states in (query, key, value)
        )
        if each.columns > each.length:
            before = (states[:, each.shared].expand(each.rows, -1, -1, -1) for states in (key, value))
            keys, values = (torch.cat(pair, 2) for pair in zip(before, (keys, values), strict=True))
        attended = torch.nn.functional.scaled_dot_product_attention(rows, keys, values, attn_mask=mask, scale=scale)
        out.append(each.unpadded(attended.transpose(0, 1).flatten(1, 2)))
    return torch.cat(out, 1).transpose(0, 1)


class _Attention(torch.autograd.Function):
    """Its saved tensors are, for each block: padded queries, keys and values, probabilities, capped scores or none."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        masks: Tensor,
        scale: float,
        softcap: float | None,
        blocks: tuple[Block, ...],
    ) -> Tensor:
        heads, tokens, _ = query.shape
        key_heads = len(key)
        out = query.new_empty(tokens, heads, value.shape[-1])
        saved: list[Tensor] = []
        packed, at = masks.flatten(), 0
        for each in blocks:
            mask = packed[at : at + each.length * each.columns].view(each.length, each.columns)
            at += mask.numel()
            rows = _by_key_head(each.padded(query), key_heads, each)
            keys, values = (each.padded(s).reshape(key_heads * each.rows, each.length, -1) for s in (key, value))
            scores = _against(rows, keys.mT, key[:, each.shared].mT, each)
            capped = torch.tanh_(scores.mul_(scale / softcap)) if softcap else scores.new_empty(0)
            scores = capped * softcap if softcap else scores.mul_(scale)
            scores = scores.view(len(scores), -1, *mask.shape).add_(mask).view_as(scores)
            seen = torch.softmax(scores, -1)
            attended = _over(seen, values, value[:, each.shared], each)
            out[each.tokens] = each.unpadded(_by_head(attended, heads, each)).transpose(0, 1)
            saved += [rows, keys, values, seen, capped]
        ctx.save_for_backward(key, value, *saved)
        ctx.settings = heads, scale, softcap, blocks
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        key, value, *saved = ctx.saved_tensors
        heads, scale, softcap, blocks = ctx.settings
        by_head = gradients[0].transpose(0, 1)  # (heads, T, D)
        to_query = by_head.new_empty(heads, by_head.shape[1], key.shape[-1])
        to_key, to_value = torch.zeros_like(key), torch.zeros_like(value)
        for number, each in enumerate(blocks):
            rows, keys, values, seen, capped = saved[5 * number : 5 * number + 5]
            incoming = _by_key_head(each.spread(by_head), len(key), each)
            to_seen = _against(incoming, values.mT, value[:, each.shared].mT, each)
            to_scores = torch._softmax_backward_data(to_seen, seen, -1, seen.dtype)
            to_scores = to_scores.mul_((1 - capped * capped) * scale) if softcap else to_scores.mul_(scale)
            to_rows = _over(to_scores, keys, key[:, each.shared], each)
            to_query[:, each.tokens] = each.unpadded(_by_head(to_rows, heads, each))
            for into, weights, states in ((to_key, to_scores, rows), (to_value, seen, incoming)):
                shared = each.columns - each.length
                own = torch.bmm(weights[..., shared:].mT, states).reshape(len(key), each.rows * each.length, -1)
                into[:, each.tokens] += each.unpadded(own)
                if shared:
                    of_shared = weights[..., :shared].reshape(len(key), -1, shared)
                    into[:, each.shared] += torch.bmm(of_shared.mT, states.reshape(len(key), of_shared.shape[1], -1))
        return to_query, to_key, to_value, None, None, None, None


def _by_key_head(states: Tensor, key_heads: int, each: Block) -> Tensor:
    """(key heads * R, G * L, D) of (heads, R * L, D), where G heads share their keys."""
    split = states.reshape(key_heads, -1, each.rows, each.length, states.shape[-1]).transpose(1, 2)
    return split.reshape(key_heads * each.rows, -1, states.shape[-1])


def _by_head(states: Tensor, heads: int, each: Block) -> Tensor:
    """(heads, R * L, D) of (key heads * R, G * L, D)."""
    key_heads = len(states) // each.rows
    split = states.view(key_heads, each.rows, -1, each.length, states.shape[-1]).transpose(1, 2)
    return split.reshape(heads, each.rows * each.length, -1)


def _against(rows: Tensor, own: Tensor, shared: Tensor, each: Block) -> Tensor:
    """(key heads * R, G * L, P + L): each row's products with the shared columns, then with its own."""
    within = torch.bmm(rows, own)
    if each.columns == each.length:
        return within
    before = torch.bmm(rows.view(len(shared), -1, rows.shape[-1]), shared)
    return torch.cat([before.view(len(rows), rows.shape[1], -1), within], -1)


def _over(weights: Tensor, own: Tensor, shared: Tensor, each: Block) -> Tensor:
    """(key heads * R, G * L, D): weighted sums of the shared columns' states and the row's own."""
    before = each.columns - each.length
    within = torch.bmm(weights[..., before:], own)
    if not before:
        return within
    of_shared = torch.bmm(weights[..., :before].reshape(len(shared), -1, before), shared)
    return within.add_(of_shared.view_as(within))
