"""Token sequences laid out as one prefix tree, so that what they share is computed once.

Nodes are numbered depth-first, and a node's subtree is the range [node, end[node]). So node i may attend to
node j exactly when j <= i < end[j], and a forward pass over any range of nodes needs from before that range
only the ancestors of its first node: they are all that is kept between passes.
The layout follows tree attention (Miao et al. 2024, SpecInfer), used here to score instead of to guess.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Tree:
    """A prefix tree over `n` nodes in depth-first order."""

    tokens: Ints  # [n] token id of each node
    depth: Ints  # [n] position of each node in its sequence, from 0
    end: Ints  # [n] the first node after this node's subtree
    paths: tuple[Ints, ...]  # per sequence, in the order given: its nodes from `start` to its last token

    def __len__(self) -> int:
        return len(self.tokens)


def grow(sequences: Sequence[Sequence[int] | Ints], starts: Sequence[int], order: Sequence[int] | None = None) -> Tree:
    """The tree of `sequences`. Of each one's path only the nodes from position `starts[i]` on are kept.

    Equal sequences share all nodes. One that is the prefix of another adds none. `order` is a depth-first
    order of the sequences, by default the sorted one.
    """
    if order is None:
        order = sorted(range(len(sequences)), key=lambda i: tuple(sequences[i]))
    tokens: list[Ints] = []
    depths: list[Ints] = []
    ends = np.zeros(sum(len(s) for s in sequences), dtype=np.int64)
    paths: list[Ints] = [np.empty(0, np.int64)] * len(sequences)
    before = path = np.empty(0, np.int64)
    count = 0
    for i in order:
        sequence = np.asarray(sequences[i], dtype=np.int64)
        shared = common_prefix(before, sequence)
        ends[path[shared:]] = count  # what the last sequence had below the fork is complete
        new = np.arange(count, count + len(sequence) - shared)
        tokens.append(sequence[shared:])
        depths.append(np.arange(shared, len(sequence)))
        path = np.concatenate([path[:shared], new])
        paths[i] = path[starts[i] :]
        before, count = sequence, count + len(new)
    ends[path] = count
    empty = [np.empty(0, np.int64)]
    return Tree(np.concatenate(tokens + empty), np.concatenate(depths + empty), ends[:count], tuple(paths))


def common_prefix(a: Ints, b: Ints) -> int:
    """How many tokens two sequences share from the start."""
    shorter = min(len(a), len(b))
    different = a[:shorter] != b[:shorter]
    return int(different.argmax()) if different.any() else shorter


def ranges(tree: Tree, budget: int, read: Ints, most_read: int, start: int = 0) -> list[tuple[int, int]]:
    """Consecutive node ranges from `start` on, of at most `budget` nodes and `most_read` of the sorted `read`."""
    if start >= len(tree):
        return []
    passes = -(-(len(tree) - start) // budget)
    size = -(-(len(tree) - start) // passes)  # even ones: a short last pass costs as many steps as a long one
    spans = []
    while start < len(tree):
        stop = min(start + size, len(tree))
        first, last = np.searchsorted(read, [start, stop])
        if last - first > most_read:
            stop = int(read[first + most_read])
        spans.append((start, stop))
        start = stop
    return spans


def ancestors(tree: Tree, node: int) -> Ints:
    """The nodes above `node`, from the root down."""
    return np.flatnonzero(tree.end[:node] > node)


def chunks(tree: Tree, columns: Ints, rows: int, size: int, multiple: int = 1) -> Iterator[tuple[int, int, Ints]]:
    """The last `rows` nodes of `columns` in chunks of at most `size`: (first row, last row + 1, seen).

    `seen` are the places in `columns` that any of the chunk's rows attends to: the ancestors of its first node,
    and the chunk itself, and as many others, where there are, as make their number a multiple of `multiple`.
    """
    before = len(columns) - rows
    for start in range(0, rows, size):
        stop = min(start + size, rows)
        at = before + start
        seen = np.zeros(len(columns), dtype=np.bool_)
        seen[:at] = tree.end[columns[:at]] > columns[at]
        seen[at : before + stop] = True
        unseen = np.concatenate([np.flatnonzero(~seen[:at])[::-1], np.arange(before + stop, len(columns))])
        seen[unseen[: -int(seen.sum()) % multiple]] = True  # the nearest before: a range often stays one
        yield start, stop, np.flatnonzero(seen)


def visible(tree: Tree, rows: Ints, columns: Ints, window: int | None = None) -> Bools:
    """[rows, columns]: which nodes of `columns` each node of `rows` attends to.

    `window` is the reach of sliding-window attention in tokens.
    """
    below = (columns[None, :] <= rows[:, None]) & (rows[:, None] < tree.end[columns][None, :])
    if window is not None:
        below &= tree.depth[rows][:, None] - tree.depth[columns][None, :] < window
    return below
