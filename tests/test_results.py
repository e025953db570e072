"""Stored results: the student that a person names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.eval.results import resolve_student
from harness.records import Score, Scorecard

CELLS = ("tiny.base", "tiny.filtered.4.s0", "tiny.filtered.16.s0", "tiny.filtered.16.s1", "tiny.unfiltered.16.s0")
SEEDLESS = ("tiny.filtered.4", "tiny.filtered.16", "tiny.unfiltered.16")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("tiny.base", "tiny.base"),
        ("base", "tiny.base"),
        ("filtered.4", "tiny.filtered.4.s0"),
        ("filtered.16.s1", "tiny.filtered.16.s1"),
        ("UNF", "tiny.unfiltered.16.s0"),
        ("s1", "tiny.filtered.16.s1"),
        ("16.s1", "tiny.filtered.16.s1"),
    ],
)
def test_a_part_of_a_name_is_enough_where_it_fits_one(name: str, meant: str) -> None:
    assert resolve_student(name, CELLS) == meant


def test_a_name_that_stands_for_its_random_seeds_is_meant_before_each_of_them() -> None:
    assert resolve_student("filtered.16", (*CELLS, *SEEDLESS)) == "tiny.filtered.16"
    assert resolve_student("filtered.4", (*CELLS, *SEEDLESS)) == "tiny.filtered.4"
    cheap = ["tfidf_logistic_regression.filtered.16", "tfidf_logistic_regression.filtered.16.s0"]
    assert resolve_student("filtered.16", (*CELLS, *SEEDLESS, *cheap)) == "tiny.filtered.16"
    assert resolve_student("tfidf_logistic_regression.filtered.16", (*CELLS, *cheap)) == cheap[0]


@pytest.mark.parametrize("name", ["filtered.16", "tiny", "16", "filtered"])
def test_several_that_fit_are_all_named(name: str) -> None:
    with pytest.raises(UsageError, match=r"tiny\.filtered\.16\.s0, tiny\.filtered\.16\.s1"):
        resolve_student(name, CELLS)


@pytest.mark.parametrize("name", ["", "filtered.1", "iny", "tiny.filtered.17", "."])
def test_a_name_that_nobody_has(name: str) -> None:
    with pytest.raises(UsageError, match=r"there are: tiny\.base, "):
        resolve_student(name, CELLS)


@given(st.lists(st.text(alphabet="ab1.2S", min_size=1, max_size=9), unique=True), st.text("ab1.2S", max_size=9))
def test_a_full_name_means_itself_and_any_other_means_one_that_has_it(names: list[str], name: str) -> None:
    assert all(resolve_student(full, names) == full for full in names)
    try:
        meant = resolve_student(name, names)
    except UsageError:
        return
    assert meant in names
    assert name.casefold() in meant.casefold()


def test_scores_stored_under_the_first_field_names_are_read() -> None:
    score = Score.model_validate({"item": "a", "split": "test", "status": "scored", "picked": "parcel", "cut": True})
    assert (score.top_choice, score.truncated) == ("parcel", True)
    assert score == Score.model_validate(score.model_dump())
    assert {"picked", "cut"}.isdisjoint(score.model_dump())
    counts = {"items": 1, "scored": 1, "unparsed": 0, "failed": 0, "cut": 1}
    names = {
        "key": "k",
        "suite": "s",
        "suite_digest": "d",
        "student": "x",
        "student_key": "y",
        "prompting": "zero_shot",
    }
    card = Scorecard.model_validate({**names, **counts, "metrics": {}})
    assert (card.truncated, Scorecard.model_validate(card.model_dump())) == (1, card)
