"""Near duplicates and nearest neighbours: what every pair compared one by one would give."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core import neighbours
from harness.core.neighbours import (
    Nearest,
    Shingled,
    Twin,
    all_pairs,
    bands,
    minhash_pairs,
    near_duplicates,
    similar_pairs,
)
from harness.core.text import jaccard, shingles

# few words, so that random texts are often alike
sentences = st.lists(
    st.sampled_from(["my", "bike", "is", "late", "red", "rad", "the", "brake", "brakes", "squeaks", "today"]),
    min_size=1,
    max_size=6,
).map(" ".join)
texts_of = st.lists(sentences, max_size=12)
thresholds = st.sampled_from([0.3, 0.5, 0.8, 1.0])
TEXTS = st.lists(st.text(alphabet="ab c.é中𝄞", max_size=12), min_size=1, max_size=9)


def one_by_one(texts: list[str], query: int, references: list[int]) -> Twin | None:
    others = [i for i in references if i != query]
    if not others:
        return None
    scores = [jaccard(shingles(texts[query]), shingles(texts[i])) for i in others]
    best = max(scores)
    return Twin(others[scores.index(best)], best)


@settings(deadline=None)
@given(TEXTS, st.data())
def test_the_nearest_is_the_first_of_the_most_alike(texts: list[str], data: st.DataObject) -> None:
    places = st.lists(st.integers(0, len(texts) - 1), unique=True).map(sorted)
    queries, references = data.draw(places), data.draw(places)
    nearest = Shingled.of(texts).nearest(queries, references)
    assert nearest == [one_by_one(texts, query, references) for query in queries]


def test_sets_are_those_of_the_filters() -> None:
    texts = ["", "a", "ab", "The cat sat on the mat.", "the cat sat on the mat", "aaaaaaaaaa"]
    assert Shingled.of(texts).sizes.tolist() == [len(shingles(text)) for text in texts]


def test_more_texts_than_are_compared_at_once() -> None:
    texts = [f"text number {i} of many" for i in range(600)] + ["text number 299 of many"]
    nearest = Shingled.of(texts).nearest(range(601), range(601))
    assert nearest[299] == Twin(600, 1.0)
    assert nearest[600] == Twin(299, 1.0)


# --- pairs --------------------------------------------------------------------------------------------------


def places(texts: list[str], threshold: float) -> list[int | None]:
    """For each text the place of its twin."""
    return [twin.index if twin else None for twin in near_duplicates(texts, threshold)]


def test_a_planted_twin_is_found_with_its_place_and_score() -> None:
    original = "when will the driver bring my new bike to the office"
    texts = ["the brake squeaks in the rain", original, "cancel my plan", original.replace("will", "wil")]
    twin = near_duplicates(texts, 0.8)[3]
    assert twin is not None
    assert twin.index == 1
    assert twin.score == jaccard(shingles(texts[1]), shingles(texts[3])) >= 0.8
    assert places(texts, 0.8) == [None, None, None, 1]


def test_a_chain_of_small_changes_does_not_eat_everything() -> None:
    chain = ["aaaa bbbb cccc dddd", "aaaa bbbb cccc eeee", "aaaa bbbb ffff eeee", "aaaa gggg ffff eeee"]
    steps = [jaccard(shingles(a), shingles(b)) for a, b in itertools.pairwise(chain)]
    threshold = min(steps)
    # the second goes with the first; the third is like the second alone, which is gone, so it stays
    assert places(chain, threshold) == [None, 0, None, 2]


@given(texts_of, thresholds)
def test_verified_first_stays_and_nothing_alike_is_kept(texts: list[str], threshold: float) -> None:
    found = near_duplicates(texts, threshold)
    kept = [i for i, twin in enumerate(found) if twin is None]
    for i, twin in enumerate(found):
        if twin is not None:
            assert twin.index in kept
            assert twin.index < i
            assert twin.score == pytest.approx(jaccard(shingles(texts[i]), shingles(texts[twin.index])))
            assert twin.score >= threshold - 1e-9
    for i in kept:
        assert all(jaccard(shingles(texts[i]), shingles(texts[j])) < threshold for j in kept if j < i)


@given(texts_of, thresholds)
def test_likeness_has_no_direction(texts: list[str], threshold: float) -> None:
    pairs = {(i, j): score for i, j, score in similar_pairs(texts, texts, threshold)}
    assert all(pairs[j, i] == score for (i, j), score in pairs.items())
    assert all((i, i) in pairs for i in range(len(texts)))


@given(texts_of, texts_of, st.randoms())
def test_the_order_of_the_texts_changes_no_nearest(
    texts: list[str], references: list[str], order: random.Random
) -> None:
    places = list(range(len(texts)))
    order.shuffle(places)
    nearest = Nearest(references, 0.5)
    straight = nearest(texts)
    assert nearest([texts[i] for i in places]) == [straight[i] for i in places]


@settings(deadline=None)
@given(texts_of, thresholds)
def test_minhash_pairs_are_true_pairs(texts: list[str], threshold: float) -> None:
    sets = Shingled.of(texts)
    assert set(minhash_pairs(sets, threshold)(sets)) <= set(all_pairs(sets, threshold)(sets))


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_minhash_misses_next_to_nothing(threshold: float) -> None:
    draw = random.Random(0)
    vocabulary = [f"{draw.randrange(10**5)}" for _ in range(300)]
    texts = [" ".join(draw.choices(vocabulary, k=10)) for _ in range(400)]
    texts += [t[:-1] for t in texts]
    sets = Shingled.of(texts)
    every = set(all_pairs(sets, threshold)(sets))
    assert len(every) >= 1600  # each with itself, and with its twin in both directions
    assert len(set(minhash_pairs(sets, threshold)(sets))) >= 0.995 * len(every)


def test_large_sets_go_by_minhash_and_small_ones_do_not() -> None:
    texts = ["my bike is late again today", "the app cannot find my bike", "my bike is late again today!"]
    assert near_duplicates(texts, 0.8, exact_cells=0) == near_duplicates(texts, 0.8)


def test_more_texts_than_are_looked_at_together() -> None:
    draw = random.Random(1)
    vocabulary = ["".join(draw.choices("abcdefghij", k=5)) for _ in range(2_000)]
    texts = [" ".join(draw.choices(vocabulary, k=8)) for _ in range(neighbours.TEXTS_AT_ONCE)]
    texts += [f"{text}s" if i % 3 else f"{draw.choice(vocabulary)} {text}" for i, text in enumerate(texts)]
    every = near_duplicates(texts, 0.8, exact_cells=len(texts) ** 2)
    assert sum(twin is not None for twin in every) >= neighbours.TEXTS_AT_ONCE
    assert near_duplicates(texts, 0.8, exact_cells=0) == every


@pytest.mark.parametrize("exact_cells", [0, neighbours.EXACT_CELLS])
def test_texts_that_are_odd_are_compared_too(exact_cells: int) -> None:
    texts = ["", "half \ud800 of a pair", "!!", " ", "half \ud800 of a pairs", "🚲🚲🚲", "自転車", "🚲🚲🚲🚲"]
    twins = near_duplicates(texts, 0.6, exact_cells)
    assert [twin and twin.index for twin in twins] == [None, None, None, 0, 1, None, None, 5]


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.7, 0.8, 0.95, 1.0])
def test_bands_promise_the_recall(threshold: float) -> None:
    count = bands(threshold)
    assert neighbours.PERMUTATIONS % count == 0
    assert 1 - (1 - threshold ** (neighbours.PERMUTATIONS // count)) ** count >= neighbours.RECALL


def test_many_equal_texts_cost_little() -> None:
    assert places(["the same again and again"] * 20_000, 0.8) == [None] + [0] * 19_999


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.1])
def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        near_duplicates(["a"], threshold)
