"""Time, memory, recall and precision of the near-duplicate search on planted twins.

    python -m tests.bench.bench_near_duplicate                    # 1,000 to 100,000 texts of 40 words; some minutes
    python -m tests.bench.bench_near_duplicate 1000000            # a million; about 5 GiB
    python -m tests.bench.bench_near_duplicate 64000 --words 11 --threshold 0.6

MinHash candidates verified stand beside all pairs compared, where that is bearable, and the ratio of their times. Every
size runs in a process of its own. Seconds are of CPU. Checked of what MinHash finds:
- recall: the share of what all pairs find, and, on a sample of texts, the share of the pairs whose exact Jaccard index
  of runs of 3 words reaches the threshold. Two texts may have one and not reach it by characters: of short texts.
- precision: the share of the pairs of the sample whose exact index of shingles, taken from sets of strings, reaches it.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence

from harness.core.neighbours import near_duplicates, similar_pairs
from harness.core.text import jaccard, ngrams, shingles, words

SIZES = [1_000, 4_000, 16_000, 100_000]  # texts, a twentieth of them planted twins
ALL_PAIRS_UP_TO = 16_000
WORDS = 40
SAMPLE = 2_000  # of the planted twins, at most, and as many other texts
RUN = 3  # words
AIM_SECONDS, AIM_MIB, AIM_RECALL = 12, 1024, 0.99  # of 100,000 texts of 40 words


def planted(count: int, random_seed: int = 0, length: int = 11, edits: int = 1) -> list[str]:
    """`count` texts of so many words, as frequent as in a language; every 20th is an earlier one changed a little.

    One to `edits` times a letter goes. Of two or more, every other time a word is another one.
    """
    draw = random.Random(random_seed)
    vocabulary = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 9))) for _ in range(3_000)]
    weights = [1 / (rank + 10) for rank in range(len(vocabulary))]
    texts: list[str] = []
    for i in range(count):
        if i % 20 != 19:
            texts.append(" ".join(draw.choices(vocabulary, weights, k=length)))
            continue
        text = texts[draw.randrange(i)]
        for edit in range(draw.randint(1, edits) if edits > 1 else 1):
            if edit % 2:
                parts = text.split()
                parts[draw.randrange(len(parts))] = draw.choice(vocabulary)
                text = " ".join(parts)
            else:
                gone = draw.randrange(len(text))
                text = text[:gone] + text[gone + 1 :]
        texts.append(text)
    return texts


def timed(texts: Sequence[str], threshold: float, exact_cells: int) -> tuple[float, set[int]]:
    """Seconds of CPU, and the places of the texts found to repeat an earlier one."""
    started = time.process_time()
    found = near_duplicates(texts, threshold, exact_cells)
    return time.process_time() - started, {i for i, twin in enumerate(found) if twin is not None}


def pairs_by_words(texts: Sequence[str], sample: Sequence[int], threshold: float) -> set[tuple[int, int]]:
    """(text of the sample, other text) of those whose runs of 3 words are alike, every pair compared."""
    runs = {i: frozenset(ngrams(words(texts[i]), RUN)) for i in sample}
    holders: dict[tuple[str, ...], list[int]] = {}
    for i, own in runs.items():
        for run in own:
            holders.setdefault(run, []).append(i)
    pairs: set[tuple[int, int]] = set()
    for j, text in enumerate(texts):
        theirs = frozenset(ngrams(words(text), RUN))
        shared = Counter(i for run in theirs for i in holders.get(run, ()))
        for i, count in shared.items():
            if i != j and count >= threshold * (len(runs[i]) + len(theirs) - count) - 1e-9:
                pairs.add((i, j))
    return pairs


def child(size: int, length: int, threshold: float) -> dict[str, float]:
    """All that is measured of one size."""
    texts = planted(size, length=length, edits=3)
    clock = time.monotonic()
    cpu, found = timed(texts, threshold, 0)
    clock = time.monotonic() - clock
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = {"cpu": cpu, "clock": clock, "peak": peak, "repeats": len(found)}
    if size <= ALL_PAIRS_UP_TO:
        line["all"], every = timed(texts, threshold, size * size)
        line["recall"] = len(found & every) / len(every)
    draw, twins = random.Random(1), range(19, size, 20)
    sample = [*draw.sample(twins, min(SAMPLE, len(twins))), *draw.sample(range(size), min(SAMPLE, size))]
    alike = {
        (sample[i], j) for i, j, _ in similar_pairs([texts[i] for i in sample], texts, threshold, 0) if sample[i] != j
    }
    by_words = pairs_by_words(texts, sample, threshold)
    line["by words"], line["pairs"] = len(alike & by_words) / len(by_words), len(by_words)
    right = [jaccard(shingles(texts[i]), shingles(texts[j])) >= threshold - 1e-9 for i, j in alike]
    line["precision"] = sum(right) / len(right)
    return line


def main() -> None:
    """Print one line per size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES)
    parser.add_argument("--words", type=int, default=WORDS, help="of a text")
    parser.add_argument("--threshold", type=float, default=0.8, help="Jaccard index")
    parser.add_argument("--child", action="store_true", help="measure here, in this process")
    given = parser.parse_args()
    if given.child:
        print(json.dumps(child(given.sizes[0], given.words, given.threshold)))
        return
    print(
        f"texts of {given.words} words, threshold {given.threshold:g}; word pairs: those alike by runs of {RUN} words"
    )
    heads = ("MinHash s", "clock s", "peak MiB", "repeats", "all pairs s", "ratio", "recall", "word pairs", "of these")
    print(f"{'texts':>9}" + "".join(f"{head:>12}" for head in (*heads, "precision")))
    for size in given.sizes:
        arguments = [str(size), "--words", str(given.words), "--threshold", str(given.threshold), "--child"]
        command = [sys.executable, "-m", "tests.bench.bench_near_duplicate", *arguments]
        line = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        exact = (
            f"{line['all']:>12.2f}{line['cpu'] / line['all']:>12.2f}{line['recall']:>12.4f}"
            if "all" in line
            else "".join(f"{'':>12}" for _ in range(3))
        )
        print(
            f"{size:>9}{line['cpu']:>12.2f}{line['clock']:>12.2f}{line['peak']:>12.0f}{line['repeats']:>12.0f}{exact}"
            f"{line['pairs']:>12.0f}{line['by words']:>12.4f}{line['precision']:>12.4f}",
            flush=True,
        )
    print(f"aim at 100,000: {AIM_SECONDS} s on one core, {AIM_MIB} MiB, of word pairs {AIM_RECALL:g}, precision 1")


if __name__ == "__main__":
    main()
