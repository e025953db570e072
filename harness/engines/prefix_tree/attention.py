"""Attention over prefix-tree nodes in chunks, each over the columns it can see: what transformers calls on CPU.

The library's fused attention computes every node against every column and masks most of it away. Over the
nodes of several questions that took as long as all the rest of the model together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from transformers import AttentionInterface

NAME = "harness_tree"  # by which transformers is told to use it


class Chunk(NamedTuple):
    """Nodes start..stop of one pass, and the cache columns that any of them attends to."""

    start: int
    stop: int
    columns: torch.Tensor | slice
    width: int  # columns

    def of(self, states: torch.Tensor) -> torch.Tensor:
        """[heads, width, dim] of keys or values [1, heads, columns, dim]."""
        if isinstance(self.columns, slice):
            return states[0, :, self.columns]
        return states[0].index_select(1, self.columns)


def make_known() -> None:
    """Tell transformers the name of this attention."""
    AttentionInterface.register(NAME, attend)


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
    chunks: Sequence[Chunk] = (),
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """[1, n, heads, dim] from queries [1, heads, n, dim] and keys and values [1, key heads, columns, dim].

    `attention_mask`: the additive masks of all chunks, each row by row, end to end. Heads that share their keys
    are computed as one. Scores have the model's type, as in the library's plain attention.
    """
    heads, nodes, dim = query.shape[1:]
    shared = heads // key.shape[1]
    scale = dim**-0.5 if scaling is None else scaling
    out = query.new_empty(nodes, heads, value.shape[-1])
    packed, at = attention_mask.reshape(-1), 0
    for chunk in chunks:
        rows = chunk.stop - chunk.start
        mask = packed[at : at + rows * chunk.width].view(rows, chunk.width).repeat(shared, 1)[None]
        at += rows * chunk.width
        queries = query[0, :, chunk.start : chunk.stop].reshape(-1, shared * rows, dim)
        keys = chunk.of(key).transpose(1, 2)
        if softcap is None:
            scores = torch.baddbmm(mask.expand(len(queries), -1, -1), queries, keys, alpha=scale)
        else:
            scores = torch.tanh(torch.bmm(queries, keys) * (scale / softcap)) * softcap + mask
        attended = torch.bmm(torch.softmax(scores, dim=-1), chunk.of(value))
        out[chunk.start : chunk.stop] = attended.view(heads, rows, -1).transpose(0, 1)
    return out[None], None
