"""Time and memory of the filters that compare rows by words and by meaning; a script, numbers of rows as arguments.

Embedding itself is left out: vectors are random, of the length that the embeddings have.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from harness.filters import Diverse, Filter, Novelty, SemanticDuplicate
from tests.bench.bench_near_duplicate import planted
from tests.project import context, row, verdicts_of

SIZES = [1_000, 5_000]  # rows
DIMENSIONS = 384


class Random:
    """Gives every text a random unit vector."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of a fixed random seed."""
        vectors = np.random.default_rng(0).standard_normal((len(texts), DIMENSIONS)).astype(np.float32)
        unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


FILTERS: dict[str, Callable[[int], Filter]] = {
    "novelty": lambda size: Novelty(),
    "semantic_duplicate": lambda size: SemanticDuplicate(),
    "diverse k_center, half": lambda size: Diverse(rows=size // 2),
    "diverse facility_location, half": lambda size: Diverse(rows=size // 2, by="facility_location"),
}


def main() -> None:
    """Print one line per size and filter."""
    where = replace(context(), embedder=Random)
    for size in [int(argument) for argument in sys.argv[1:]] or SIZES:
        rows = [row(text) for text in planted(size)]
        for name, build in FILTERS.items():
            started = time.process_time()
            kept = sum(verdict.keep for verdict in verdicts_of(build(size), rows, where))
            seconds = time.process_time() - started
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"{size:>7} rows: {name:<32} {seconds:7.2f} s CPU, {kept} kept; peak {peak:.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
