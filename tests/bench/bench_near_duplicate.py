"""Time, memory and recall of the near-duplicate search on planted twins; a script, sizes as arguments.

Each size runs twice where that is bearable: all pairs compared, and MinHash candidates verified.
"""

from __future__ import annotations

import random
import resource
import sys
import time

from harness.core import text

SIZES = [1_000, 4_000, 16_000, 64_000]  # texts, a twentieth of them planted twins
ALL_PAIRS_UP_TO = 16_000
WORDS = 11  # of a text, as in a help-desk message


def planted(count: int, random_seed: int = 0) -> list[str]:
    """`count` texts of words as frequent as in a language; every 20th is an earlier one less a letter."""
    draw = random.Random(random_seed)
    vocabulary = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 9))) for _ in range(3_000)]
    weights = [1 / (rank + 10) for rank in range(len(vocabulary))]
    texts: list[str] = []
    for i in range(count):
        if i % 20 == 19:
            original = texts[draw.randrange(i)]
            gone = draw.randrange(len(original))
            texts.append(original[:gone] + original[gone + 1 :])
        else:
            texts.append(" ".join(draw.choices(vocabulary, weights, k=WORDS)))
    return texts


def timed(texts: list[str], limit: int) -> tuple[float, set[int]]:
    """Seconds, and the places of the texts found to repeat an earlier one."""
    started = time.perf_counter()
    found = text.near_duplicates(texts, 0.8, exact_cells=limit)
    return time.perf_counter() - started, {i for i, twin in enumerate(found) if twin is not None}


def main() -> None:
    """Print one line per size."""
    for size in [int(argument) for argument in sys.argv[1:]] or SIZES:
        texts = planted(size)
        seconds, found = timed(texts, 0)
        line = f"{size:>7} texts: MinHash {seconds:6.1f} s, {len(found)} repeats"
        if size <= ALL_PAIRS_UP_TO:
            exact_seconds, every = timed(texts, size * size)
            recall = len(found & every) / len(every)
            line += f", recall {recall:.4f}; all pairs {exact_seconds:6.1f} s, {len(every)} repeats"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        sys.stdout.write(f"{line}; peak {peak:.0f} MiB\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
