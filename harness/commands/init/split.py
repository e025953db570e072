"""Which examples are held out as a suite's items: by digest, whole groups at a time, whatever order they come in.

Examples that are nearly alike, and those of one group, are a unit: it lies on one side as a whole, so that no item
has a twin among the training rows.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from harness.core.neighbours import similar_pairs

THRESHOLDS = (0.8, 0.9, 0.95)  # Jaccard indices of near duplicates, the next where units grow too large
LARGEST = 0.2  # share of the examples that one unit of near duplicates may have
MOST_PAIRS = 2_000_000  # alike pairs, beyond which nearly all texts are alike
SAMPLE = 1_000  # texts of which every pair is compared in a second
PROPOSED_BELOW = 0.3  # how much less alike pairs are that comparing looks at
LARGEST_SUITE = 1.5  # times as many items as wanted, which a last unit may lead to


@dataclass(frozen=True)
class Units:
    """Examples in units, by their places, and from which likeness on two are near duplicates: None if too many are."""

    members: tuple[tuple[int, ...], ...]
    threshold: float | None


def units_of(texts: Sequence[str], groups: Sequence[str]) -> Units:
    """Examples that lie on one side together: those of one group (where it is not empty), and near duplicates.

    No two texts are equal.
    """
    for threshold in THRESHOLDS:
        if not _comparable(texts, threshold):
            continue
        joined = _by_group(groups)
        before = max(map(len, _members(joined)), default=0)
        pairs = list(islice(similar_pairs(texts, texts, threshold), MOST_PAIRS + 1))
        for a, b, _ in pairs:
            _join(joined, a, b)
        members = _members(joined)
        if len(pairs) <= MOST_PAIRS and max(map(len, members), default=0) <= max(before, 2, LARGEST * len(texts)):
            return Units(members, threshold)
    return Units(_members(_by_group(groups)), None)


def hold_out(
    units: Sequence[Sequence[int]], digests: Sequence[str], strata: Sequence[str], wanted: int
) -> list[tuple[int, ...]]:
    """The units that are held out, about `wanted` examples, of each stratum its share but never all of any.

    Units are taken by the smallest digest of theirs, and belong to the stratum of that example. A unit that would make
    far more than its share is passed over.
    """
    by_stratum: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    for unit in units:
        first = min(unit, key=lambda place: digests[place])
        by_stratum.setdefault(strata[first], []).append((digests[first], tuple(unit)))
    taken: list[tuple[str, tuple[int, ...]]] = []
    left = Counter(strata)
    for stratum in by_stratum.values():
        size = sum(len(unit) for _, unit in stratum)
        share = round(wanted * size / len(digests)) if len(stratum) > 1 else 0
        share = max(share, 1) if len(stratum) > 2 else share
        held = 0
        for first_digest, unit in sorted(stratum):
            if held >= share:
                break
            lost = Counter(strata[place] for place in unit)
            if held + len(unit) <= max(LARGEST_SUITE * share, 1) and all(left[name] > lost[name] for name in lost):
                taken.append((first_digest, unit))
                held += len(unit)
                left -= lost
    return [unit for _, unit in sorted(taken)]


def _comparable(texts: Sequence[str], threshold: float) -> bool:
    """Whether comparing all texts ends soon: not where many begin or end alike, as a sample of them shows.

    Bands of a MinHash propose pairs that are somewhat less alike than the threshold, and each is looked at.
    """
    if len(texts) <= SAMPLE:
        return True
    sample = sorted(texts, key=lambda text: hashlib.sha256(text.encode("utf-8", "replace")).digest())[:SAMPLE]
    most = int(MOST_PAIRS * (SAMPLE / len(texts)) ** 2)  # of the sample, with each text as its own
    pairs = islice(similar_pairs(sample, sample, threshold - PROPOSED_BELOW), most + SAMPLE + 1)
    return sum(1 for _ in pairs) <= most + SAMPLE


def _by_group(groups: Sequence[str]) -> list[int]:
    """For each place the first one of its group."""
    first: dict[str, int] = {}
    return [first.setdefault(group, place) if group else place for place, group in enumerate(groups)]


def _root(joined: list[int], place: int) -> int:
    while joined[place] != place:
        joined[place] = joined[joined[place]]
        place = joined[place]
    return place


def _join(joined: list[int], a: int, b: int) -> None:
    a, b = _root(joined, a), _root(joined, b)
    joined[max(a, b)] = min(a, b)


def _members(joined: list[int]) -> tuple[tuple[int, ...], ...]:
    members: dict[int, list[int]] = {}
    for place in range(len(joined)):
        members.setdefault(_root(joined, place), []).append(place)
    return tuple(tuple(places) for places in members.values())
