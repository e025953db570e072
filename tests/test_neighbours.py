"""Nearest neighbours are those that every pair compared one by one would give."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.neighbours import Shingled
from harness.core.text import Twin, jaccard, shingles

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
