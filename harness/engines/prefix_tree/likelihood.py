"""What a model expects of continuations, read off prefix trees that are run block by block.

Memory, whatever the number of pairs: keys and values of one path (at most `max_length` columns) and of one pass
(`budget` nodes), so (max_length + budget) x layers x 2 x key heads x dim x bytes of a number. Besides those
LOGIT_FLOATS numbers of logits, SLICE of their rows in float32, and on this side of the device four bytes per
token of the pairs and the tree of one block (BLOCK_PASSES x budget nodes and one sequence).

The path to the last node, the trunk, stays between blocks and calls. What comes next starts with the sequences
that share most of it, so that examples shown before every question are computed once, however the questions
are cut into calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from harness.engines.prefix_tree.kv import NodeCache
from harness.engines.prefix_tree.passes import Passes
from harness.engines.prefix_tree.tree import Ints, common_prefix, grow
from harness.records import Loglikelihood, Pair

BLOCK_PASSES = 16  # passes of one block
SLICE = 16  # rows of logits turned to float32 at once: they stay in the processor's cache
PACKED = np.dtype(">i4")  # bytes of these compare as the numbers do

# (float32 logits [nodes, vocabulary], the row of each read, which reads) -> nothing
Take = Callable[[torch.Tensor, torch.Tensor, Ints], None]


@dataclass(frozen=True)
class Trunk:
    """A path whose keys and values are there already."""

    tokens: Ints
    cache: NodeCache


class Block(NamedTuple):
    """Sequences of one tree, depth first, the trunk's beginning before them."""

    cached: int  # tokens of the trunk that are used
    sequences: list[Ints]
    owners: list[int]  # which pair each sequence is


class TreeReader:
    """Reads what a model expects at chosen places of token sequences."""

    def __init__(self, passes: Passes, max_length: int, block_passes: int = BLOCK_PASSES) -> None:
        """`max_length`: tokens of the model's context."""
        self._passes, self._max_length, self._block_passes = passes, max_length, block_passes
        self._trunk = Trunk(np.empty(0, np.int64), NodeCache())

    # --- what is asked -------------------------------------------------------------------------------------

    def loglikelihood(self, pairs: Sequence[Pair]) -> list[Loglikelihood]:
        """Log-probabilities (nats) of continuations. Same order as `pairs`.

        Raises ValueError naming the index of a pair with an empty context or one longer than the model's.
        """
        counts = self._counts(pairs)
        targets = np.fromiter((token for pair in pairs for token in pair.continuation), np.int64, counts.sum())
        logprobs, best = np.zeros(len(targets)), np.zeros(len(targets), dtype=np.bool_)

        def take(logits: torch.Tensor, rows: torch.Tensor, reads: Ints) -> None:
            expected = self._passes.tensor(targets[reads])
            logprobs[reads] = torch.log_softmax(logits, dim=-1)[rows, expected].cpu().numpy()
            highest = logits[rows, expected] == logits.amax(dim=-1)[rows]
            if highest.any():  # of equal logits the first counts; finding it takes 10 times as long as their height
                highest[highest.clone()] = logits[rows[highest]].argmax(dim=-1) == expected[highest]
            best[reads] = highest.cpu().numpy()

        self._read(pairs, counts, take)
        owners = np.repeat(np.arange(len(pairs)), counts)
        sums = np.bincount(owners, weights=logprobs, minlength=len(pairs))
        misses = np.bincount(owners, weights=~best, minlength=len(pairs))
        return [
            Loglikelihood(logprob=float(s), tokens=int(n), greedy=bool(m == 0))
            for s, n, m in zip(sums, counts, misses, strict=True)
        ]

    def next_tokens(
        self, pairs: Sequence[Pair], k: int, at: Sequence[Ints] | None = None
    ) -> list[tuple[Ints, NDArray[np.float32]]]:
        """Per pair, at each position of its continuation, token ids and log-probabilities, [positions, k] each.

        The ids are the `k` likeliest ones, most likely first, or those of `at`, one array [positions, any k]
        per pair. Raises ValueError as `loglikelihood`, and for a `k` or an `at` of another form.
        """
        counts = self._counts(pairs)
        k = min(k, self._passes.vocabulary)
        if at is None and k < 1:
            raise ValueError(f"k is {k}: at least one token must be asked for")
        ids = [np.zeros((n, k), np.int64) for n in counts] if at is None else list(at)
        if len(ids) != len(pairs):
            raise ValueError(f"ids of {len(ids)} pairs for {len(pairs)} pairs")
        for i, (pair_ids, n) in enumerate(zip(ids, counts, strict=True)):
            if pair_ids.ndim != 2 or len(pair_ids) != n:
                raise ValueError(f"pair {i}: ids of the form {pair_ids.shape} for {n} positions")
            if pair_ids.size and not 0 <= pair_ids.min() <= pair_ids.max() < self._passes.vocabulary:
                raise ValueError(
                    f"pair {i}: ids from {pair_ids.min()} to {pair_ids.max()},"
                    f" not in 0 to {self._passes.vocabulary - 1}"
                )
        logprobs = [np.zeros(pair_ids.shape, np.float32) for pair_ids in ids]
        owners = np.repeat(np.arange(len(pairs)), counts)
        places = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)

        def take(logits: torch.Tensor, rows: torch.Tensor, reads: Ints) -> None:
            log_softmax = torch.log_softmax(logits, dim=-1)
            if at is None:
                most = log_softmax.topk(k, dim=-1)
                values, tokens = most.values.cpu().numpy(), most.indices.cpu().numpy()
            for row, read in zip(rows.tolist(), reads.tolist(), strict=True):
                owner, place = owners[read], places[read]
                if at is None:
                    ids[owner][place], logprobs[owner][place] = tokens[row], values[row]
                else:
                    logprobs[owner][place] = log_softmax[row][self._passes.tensor(ids[owner][place])].cpu().numpy()

        self._read(pairs, counts, take)
        return list(zip(ids, logprobs, strict=True))

    # --- how it is read ------------------------------------------------------------------------------------

    def _counts(self, pairs: Sequence[Pair]) -> Ints:
        """[pairs]: tokens of each continuation."""
        for i, pair in enumerate(pairs):
            if not pair.context:
                raise ValueError(f"pair {i}: the context is empty")
            length = len(pair.context) + len(pair.continuation)
            if length - 1 > self._max_length:
                raise ValueError(f"pair {i}: {length} tokens are more than the context of {self._max_length}")
        return np.array([len(pair.continuation) for pair in pairs], dtype=np.int64)

    def _read(self, pairs: Sequence[Pair], counts: Ints, take: Take) -> None:
        """Give `take` the logits before every token of every continuation. Reads count these tokens in order."""
        first_read = np.cumsum(counts) - counts
        for block in self._blocks(pairs):
            trunk, self._trunk = self._trunk, Trunk(np.empty(0, np.int64), NodeCache())  # gone if this fails
            cache = trunk.cache
            cache.keep_columns(self._passes.tensor(np.arange(block.cached)))
            starts = [block.cached, *(len(pairs[i].context) - 1 for i in block.owners)]
            sequences = [trunk.tokens[: block.cached], *block.sequences]
            tree = grow(sequences, starts, range(len(sequences)))
            nodes = np.concatenate(tree.paths[1:])
            reads = np.concatenate([first_read[i] + np.arange(counts[i]) for i in block.owners])
            order = np.argsort(nodes, kind="stable")
            nodes, reads = nodes[order], reads[order]
            for visit in self._passes.visits(tree, np.unique(nodes), cache, block.cached):
                for at in range(0, len(visit.nodes), SLICE):
                    slice_nodes = visit.nodes[at : at + SLICE]
                    first, last = np.searchsorted(nodes, [slice_nodes[0], slice_nodes[-1] + 1])
                    rows = self._passes.tensor(np.searchsorted(slice_nodes, nodes[first:last]))
                    take(visit.logits[at : at + SLICE].float(), rows, reads[first:last])
            above = np.flatnonzero(tree.end > len(tree) - 1)  # the last node and its ancestors
            self._trunk = Trunk(tree.tokens[above], cache)

    def _blocks(self, pairs: Sequence[Pair]) -> Iterator[Block]:
        """All pairs that ask for something, cut where the next sequence reads nothing that is read before."""
        packed = {i: _packed(pair) for i, pair in enumerate(pairs) if pair.continuation}
        trunk = self._trunk.tokens
        shared = {i: common_prefix(trunk, np.frombuffer(data, PACKED)) for i, data in packed.items()}
        # Depth first, and at every fork of the trunk first what goes on along it.
        order = sorted(packed, key=lambda i: (-shared[i], packed[i]))
        most = self._block_passes * self._passes.budget
        sequences: list[Ints] = []
        owners: list[int] = []
        before, new = trunk, 0
        for i in order:
            sequence = np.frombuffer(packed[i], PACKED).astype(np.int64)
            along = common_prefix(before, sequence)
            full = new >= most and (along < len(pairs[i].context) or new >= 2 * most)
            if full:
                yield self._block(pairs, sequences, owners)
                sequences, owners, new = [], [], 0
            sequences.append(sequence)
            owners.append(i)
            before, new = sequence, new + len(sequence) - along
        if sequences:
            yield self._block(pairs, sequences, owners)

    def _block(self, pairs: Sequence[Pair], sequences: list[Ints], owners: list[int]) -> Block:
        """Use the trunk up to where it is left for good, or to the first of its nodes whose logits are wanted."""
        trunk = self._trunk.tokens
        cached = 0
        usable = len(trunk)
        for sequence, owner in zip(sequences, owners, strict=True):
            along = common_prefix(trunk, sequence)
            cached = max(cached, along)
            if along >= len(pairs[owner].context):
                usable = min(usable, len(pairs[owner].context) - 1)
        return Block(min(cached, usable), sequences, owners)


def _packed(pair: Pair) -> bytes:
    """Every token of a pair but the last, which is only read for."""
    return np.array(pair.context + pair.continuation[:-1], dtype=PACKED).tobytes()
