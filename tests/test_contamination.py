"""Contamination: what counts as giving an item away and what as a stock phrase, on pairs labelled by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.text import words
from harness.filters import Contamination, Protected
from harness.filters.contamination import surprise
from tests.project import context, labelled, row, verdicts_of

PAIRS = [json.loads(line) for line in (Path(__file__).parent / "contamination_pairs.jsonl").read_text().splitlines()]


def drops(text: str, *items: str, seeds: tuple[str, ...] = (), rule: Contamination | None = None) -> str:
    """Why a row is dropped, '' where it is kept."""
    protected = [Protected("s", str(i), item) for i, item in enumerate(items)]
    where = context(seeds=[labelled(seed, "repair") for seed in seeds], protected=protected)
    return verdicts_of(rule or Contamination(), [row(text)], where)[0].reason


@pytest.mark.parametrize(
    ("split", "right", "dropped", "contaminated"),
    # the constants were set on the first; the second was written after that. Without stock phrases the rule had
    # 31 right of 60 dropped on the first, and 14 of 27 on the second.
    [("tuned", 30, 30, 36), ("held_out", 14, 17, 17)],
)
def test_precision_and_recall_on_labelled_pairs(split: str, right: int, dropped: int, contaminated: int) -> None:
    pairs = [pair for pair in PAIRS if pair["split"] == split]
    found = [pair for pair in pairs if drops(pair["row"], pair["item"])]
    assert sum(pair["contaminated"] for pair in pairs) == contaminated
    assert sum(pair["contaminated"] for pair in found) >= right
    assert sum(not pair["contaminated"] for pair in found) <= dropped - right


def test_there_are_enough_pairs_of_both_kinds() -> None:
    assert len({(pair["row"], pair["item"]) for pair in PAIRS}) == len(PAIRS) >= 140
    assert min(sum(pair["contaminated"] == kind for pair in PAIRS) for kind in (True, False)) >= 50


@pytest.mark.parametrize(
    "phrase",
    [
        "in the middle of a", "on the side of the", "to know how long it", "what is the difference between a",
        "is there a way to", "how do i get the", "how long will it take", "i only want to know",
        "how do i get my money back for",
    ],
)  # fmt: skip
@pytest.mark.parametrize("ngram", [5, 8])
def test_phrases_that_a_teacher_and_an_item_shared_by_accident_pass(phrase: str, ngram: int) -> None:
    item = f"Before the ferry leaves {phrase} purple lighthouse keepers?"
    assert drops(f"{phrase} bicycle made of old spoons", item, rule=Contamination(ngram=ngram)) == ""


def test_a_lower_ngram_still_finds_rare_words_in_a_row() -> None:
    item = "Which word does not belong: trout, herring, sparrow, salmon?"
    text = "My list has trout, herring, sparrow, salmon and a very old umbrella stand on it"
    assert drops(text, item) == ""
    assert "trout herring sparrow salmon" in drops(text, item, rule=Contamination(ngram=4, part_bits=60))


FORM = "according to the hersey blanchard model a manager"


def test_what_several_items_go_on_from_in_different_ways_is_a_stock_phrase() -> None:
    items = [f"In quiz {n}, {FORM} {end}" for n, end in (("one", "listens"), ("two", "delegates"), ("three", "sells"))]
    text = f"Tell me: {FORM} sleeps a lot, is that so?"
    assert drops(text, items[0]) == f"shares 8 words in a row with an item of s: {FORM!r}"
    assert drops(text, *items[:2])
    assert drops(text, *items) == ""
    seeds = tuple(f"{start} {FORM} {end}?" for start, end in (("Why", "waits"), ("When", "asks")))
    assert drops(text, items[0], seeds=seeds) == ""


def test_a_passage_that_many_items_repeat_is_no_stock_phrase() -> None:
    passage = "Rowing boats must be back at the jetty an hour before sunset."
    questions = ["When must they be back?", "Where must they be?", "What must be back?", "Who pays otherwise?"]
    asked = [f"{passage} {question}" for question in questions]
    assert "an hour before sunset" in drops(f"Mind that {passage.lower()} Bring a lamp.", *asked)
    assert drops(f"Mind that {passage.lower()} Bring a lamp.", *[passage] * 5)


def test_a_whole_item_counts_where_it_is_rare_or_half_of_the_row() -> None:
    long = "it says in the big red folder on the left hand side of the upper shelf in the hall"
    assert drops(f"{long}: the tram smells of paint", "The tram smells of paint?") == (
        "holds the whole of an item of s: 'the tram smells of paint'"
    )
    assert drops(f"{long}: where is it now", "Where is it now?") == ""
    assert drops("hello, where is it now?", "Where is it now?").startswith("holds the whole of")
    assert drops(f"{long}: where is it now", "Where is it now?", rule=Contamination(item_bits=10))


def test_surprise_is_that_of_subtitles() -> None:
    assert 4 < surprise("the") < 5
    assert surprise("dont") < 10  # written with an apostrophe there
    assert surprise("money") < surprise("bike") < surprise("ottoline") == 20


@settings(deadline=None)
@given(st.sampled_from([pair["item"] for pair in PAIRS]), st.booleans(), st.sampled_from([5, 8]))
def test_an_item_itself_is_always_dropped(item: str, shouted: bool, ngram: int) -> None:
    if len(words(item)) >= 4:
        assert drops(
            item.upper() if shouted else f"  {item} ", "Some other item of it", item, rule=Contamination(ngram=ngram)
        )
