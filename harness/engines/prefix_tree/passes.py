"""A model's forward passes over the nodes of prefix trees, on CPU or CUDA."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from harness.engines.prefix_tree import attention
from harness.engines.prefix_tree.attention import Chunk
from harness.engines.prefix_tree.kv import NodeCache
from harness.engines.prefix_tree.tree import Bools, Ints, Tree, ancestors, chunks, ranges, visible
from harness.errors import UsageError

LOGIT_FLOATS = {"cpu": 2**26, "cuda": 2**29}  # logits of one pass
CHUNK = 128  # nodes whose attention is computed together on CPU; measured
WIDTHS = 64  # its columns are a multiple of this: every other shape is compiled anew, in time and memory


class Visit(NamedTuple):
    """What one pass over a range of nodes gave."""

    nodes: Ints  # the nodes whose logits were asked for
    logits: torch.Tensor  # [nodes, vocabulary]
    cache: NodeCache  # the range's keys and values stand at its end
    before: int  # columns of the cache that stood there before


class Passes:
    """Runs a model. `nodes` counts the tree nodes it has run."""

    def __init__(self, model: Any, device: Literal["cpu", "cuda"], budget: int) -> None:
        """`budget`: nodes of one pass at most. Raises UsageError for a model with other than attention layers."""
        self.device, self.budget, self.nodes = device, budget, 0
        self._model = model
        config = model.config.get_text_config()
        self.vocabulary = int(config.vocab_size)
        # The fused attention leaves Gemma 2's cap on attention scores out.
        self._fused = not getattr(config, "attn_logit_softcapping", None)
        self._attention = ""
        self.windows = attention_windows(config)
        attention.make_known()

    def visits(self, tree: Tree, wanted: Ints, cache: NodeCache, known: int = 0) -> Iterator[Visit]:
        """Run the nodes of `tree` once, in order, reading logits at the sorted nodes `wanted`.

        Its first `known` nodes are one path whose keys and values `cache` holds already. At the end `cache`
        holds those of the path to the last node.
        """
        cached_nodes = np.arange(known)
        most = max(64, LOGIT_FLOATS[self.device] // self.vocabulary)
        for start, stop in ranges(tree, self.budget, wanted, most, known):
            rows = np.arange(start, stop)
            columns = np.concatenate([cached_nodes, rows])
            first, last = np.searchsorted(wanted, [start, stop])
            nodes = wanted[first:last]
            ids, positions = tree.tokens[rows][None], tree.depth[rows][None]
            if self.device == "cpu":
                logits = self._in_chunks(tree, rows, columns, ids, positions, cache, nodes - start)
            else:
                masks = {kind: self.additive(visible(tree, rows, columns, w)) for kind, w in self.windows.items()}
                masks = {kind: mask[None, None] for kind, mask in masks.items()}
                logits = self.forward(ids, positions, masks, cache, nodes - start)
            self.nodes += stop - start
            yield Visit(nodes, logits[0], cache, len(cached_nodes))
            cached_nodes = ancestors(tree, stop) if stop < len(tree) else np.append(ancestors(tree, stop - 1), stop - 1)
            cache.keep_columns(self.tensor(np.searchsorted(columns, cached_nodes)))

    def _in_chunks(
        self, tree: Tree, rows: Ints, columns: Ints, ids: Ints, positions: Ints, cache: NodeCache, keep: Ints
    ) -> torch.Tensor:
        places: list[Chunk] = []
        packed: dict[str, list[torch.Tensor]] = {kind: [] for kind in self.windows}
        for start, stop, seen in chunks(tree, columns, len(rows), CHUNK, WIDTHS):
            contiguous = len(seen) == seen[-1] - seen[0] + 1
            where = slice(int(seen[0]), int(seen[-1]) + 1) if contiguous else self.tensor(seen)
            places.append(Chunk(start, stop, where, len(seen)))
            for kind, window in self.windows.items():
                mask = visible(tree, rows[start:stop], columns[seen], window)
                packed[kind].append(self.additive(mask).reshape(-1))
        masks = {kind: torch.cat(parts)[None, None, None] for kind, parts in packed.items()}
        before = self._attention or ("sdpa" if self._fused else "eager")
        self._attend(attention.NAME)
        try:
            return self._run(ids, positions, masks, cache, keep, chunks=places)
        finally:
            self._attend(before)  # this one can do nothing but chunks

    def forward(
        self,
        tokens: Ints,
        positions: Ints,
        masks: Mapping[str, torch.Tensor],
        cache: NodeCache,
        keep: Ints,
    ) -> torch.Tensor:
        """Logits [rows, kept, vocabulary] of tokens [rows, n]. Masks are additive [rows, 1, n, columns]."""
        fused = self._fused and (self.device == "cuda" or tokens.shape[1] > 1)
        self._attend("sdpa" if fused else "eager")
        return self._run(tokens, positions, masks, cache, keep)

    def _run(
        self,
        tokens: Ints,
        positions: Ints,
        masks: Mapping[str, torch.Tensor],
        cache: NodeCache,
        keep: Ints,
        **settings: object,
    ) -> torch.Tensor:
        full_only = len(masks) == 1 and "sliding_attention" not in masks
        with torch.no_grad():
            output = self._model(
                input_ids=self.tensor(tokens),
                position_ids=self.tensor(positions),
                attention_mask=masks["full_attention"] if full_only else dict(masks),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=self.tensor(keep),
                **settings,
            )
        logits: torch.Tensor = output.logits
        return logits

    def _attend(self, implementation: str) -> None:
        """Switch attention. For single tokens on CPU the fused one takes 5 times as long as the plain one."""
        if implementation != self._attention:
            self._model.set_attn_implementation(implementation)
            self._attention = implementation

    def additive(self, seen: Bools) -> torch.Tensor:
        """0 where attention may look, the lowest number elsewhere."""
        dtype = self._model.dtype
        mask = torch.zeros(seen.shape, dtype=dtype, device=self.device)
        return mask.masked_fill_(~torch.from_numpy(seen).to(self.device), torch.finfo(dtype).min)

    def tensor(self, values: Ints) -> torch.Tensor:
        """The same numbers on the model's device."""
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)


def attention_windows(config: Any) -> dict[str, int | None]:
    """Kind of attention layer -> its reach in tokens, None for all. Raises UsageError for other layers."""
    kinds = sorted(set(getattr(config, "layer_types", None) or ["full_attention"]))
    unsupported = [kind for kind in kinds if kind not in ("full_attention", "sliding_attention")]
    if unsupported:
        raise UsageError(
            f"the transformers engine scores by prefix tree, which needs attention layers; this model"
            f" ({config.model_type}) has {unsupported[0]} layers: use engine vllm"
        )
    if kinds == ["full_attention"] and not getattr(config, "layer_types", None):
        return {"full_attention": getattr(config, "sliding_window", None)}
    return {kind: config.sliding_window if kind == "sliding_attention" else None for kind in kinds}
