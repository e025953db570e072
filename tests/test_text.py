"""Text similarity: hand-computed values, and what must hold for any texts."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import text
from harness.text import (
    bands,
    jaccard,
    near_duplicates,
    nearest_of,
    ngrams,
    normalise,
    shingles,
    similar_pairs,
    words,
)

# few words, so that random texts are often alike
sentences = st.lists(
    st.sampled_from(["my", "bike", "is", "late", "red", "rad", "the", "brake", "brakes", "squeaks", "today"]),
    min_size=1,
    max_size=6,
).map(" ".join)
texts_of = st.lists(sentences, max_size=12)
thresholds = st.sampled_from([0.3, 0.5, 0.8, 1.0])


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  Where's MY bike?! ", "wheres my bike"),
        ("ＢＩＫＥ №5", "bike no5"),
        ("Straße", "strasse"),
        ("e\u0301te\u0301", "\u00e9t\u00e9"),
        ("zero\u200bwidth", "zerowidth"),
        ("one-two_three", "one two three"),
        ("🚲!", "🚲!"),
        (" \n", ""),
    ],
)
def test_normalise(raw: str, clean: str) -> None:
    assert normalise(raw) == clean


@given(st.text(alphabet=st.characters(codec="ascii")))
def test_normalising_twice_changes_nothing(raw: str) -> None:
    assert normalise(normalise(raw)) == normalise(raw)


def test_words_and_ngrams() -> None:
    assert words("Don't stop, now!") == ["dont", "stop", "now"]
    assert words("自転車 late") == ["自", "転", "車", "late"]
    assert ngrams([1, 2, 3], 2) == [(1, 2), (2, 3)]
    assert ngrams([1], 2) == []


def places(texts: list[str], threshold: float) -> list[int | None]:
    """For each text the place of its twin."""
    return [twin.index if twin else None for twin in near_duplicates(texts, threshold)]


def test_shingles_and_jaccard_by_hand() -> None:
    assert shingles("Bike!") == {" bik", "bike", "ike "}
    assert shingles("a") == {" a "}
    assert shingles(" ") == frozenset()
    assert jaccard(shingles("bike"), shingles("bikes")) == 2 / 5  # 3 and 4 shingles, 2 shared
    assert jaccard(frozenset(), frozenset()) == 1.0


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
    straight = nearest_of(texts, references, 0.5)
    assert nearest_of([texts[i] for i in places], references, 0.5) == [straight[i] for i in places]


@settings(deadline=None)
@given(texts_of, thresholds)
def test_minhash_pairs_are_true_pairs(texts: list[str], threshold: float) -> None:
    sets = [shingles(t) for t in texts]
    assert set(text._minhash_pairs(sets, sets, threshold)) <= set(text._all_pairs(sets, sets, threshold))


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_minhash_misses_next_to_nothing(threshold: float) -> None:
    draw = random.Random(0)
    vocabulary = [f"{draw.randrange(10**5)}" for _ in range(300)]
    texts = [" ".join(draw.choices(vocabulary, k=10)) for _ in range(400)]
    texts += [t[:-1] for t in texts]
    sets = [shingles(t) for t in texts]
    every = set(text._all_pairs(sets, sets, threshold))
    assert len(every) >= 1600  # each with itself, and with its twin in both directions
    assert len(set(text._minhash_pairs(sets, sets, threshold))) >= 0.995 * len(every)


def test_large_sets_go_by_minhash_and_small_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["my bike is late again today", "the app cannot find my bike", "my bike is late again today!"]
    exact = near_duplicates(texts, 0.8)
    monkeypatch.setattr(text, "EXACT_CELLS", 0)
    assert near_duplicates(texts, 0.8) == exact


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.7, 0.8, 0.95, 1.0])
def test_bands_promise_the_recall(threshold: float) -> None:
    count = bands(threshold)
    assert text.PERMUTATIONS % count == 0
    assert 1 - (1 - threshold ** (text.PERMUTATIONS // count)) ** count >= text.RECALL


def test_many_equal_texts_cost_little() -> None:
    assert places(["the same again and again"] * 20_000, 0.8) == [None] + [0] * 19_999


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.1])
def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        near_duplicates(["a"], threshold)
