"""Text similarity: hand-computed values, and what must hold for any texts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core import text
from harness.core.text import about_words, jaccard, ngrams, normalise, shingles, spaced, words


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  Where's MY bike?! ", "wheres my bike"),
        ("ＢＩＫＥ №5", "bike no5"),
        ("Straße", "strasse"),
        ("e\u0301te\u0301", "\u00e9t\u00e9"),
        ("zero\u200bwidth", "zerowidth"),
        ("one-two_three", "one two three"),
        ("🚲!", "🚲"),
        ("?!", "?!"),
        (" \n", ""),
        ("I said: “no”, *twice*.", "i said no twice"),
        ("The U.S. Mail of Mr. O'Neill", "the us mail of mr oneill"),
        ("10³ m/s at 5 °C, 3 + 4 = 7", "10^3 m/s at 5°c 3+4 = 7"),
    ],
)
def test_normalise(raw: str, clean: str) -> None:
    assert normalise(raw) == clean


written = st.lists(
    st.sampled_from(["Bike", "the", "U.S.", "e-mail", "don't", "(late)", "-3", "1,000", "0.5", "10:30", "C++", "5%",
                     "A-", "½", "10³", "km/h", "“no”", "'yes'", "**so**", "x = 5", "3 - 4", "< 5", "...", "!", "—"]),
    max_size=6,
).map(" ".join)  # fmt: skip


@given(written)
def test_normalising_twice_changes_nothing(raw: str) -> None:
    assert normalise(normalise(raw)) == normalise(raw)


@given(st.text(alphabet="ab Z.,;:!?()'’-12\n"))
def test_simple_texts_are_read_as_all_others_are(raw: str) -> None:
    hidden = f"a{raw}\u200b"  # a hidden character makes any text one of the others
    assert normalise(f"a{raw}") == normalise(hidden)


decimals = st.decimals(-10_000_000, 10_000_000, allow_nan=False, places=2) | st.integers(-10_000_000, 10_000_000)


def in_groups(number: object, separator: str) -> str:
    """A number with its thousands set apart."""
    return f"{number:,}".replace(",", separator)


def in_other_typography(number: object) -> list[str]:
    """The same number as other people, programs and keyboards write it."""
    groups = [in_groups(number, separator) for separator in (",", "\u2009", "\u202f", "\u00a0", "'", "’")]
    signs = [str(number).replace("-", minus) for minus in ("\u2212", "\u2013", "\uff0d", "\u2012")]
    scripts = [str(number).translate({48 + d: zero + d for d in range(10)}) for zero in (0xFF10, 0x0660)]
    return [*groups, *signs, *scripts, f"“{number}”", f"({number})", f" {number}. ", f"**{number}**", f"\u200b{number}"]


@given(decimals)
def test_a_number_in_other_typography_is_the_same(number: object) -> None:
    assert {normalise(shown) for shown in in_other_typography(number)} == {normalise(str(number))} == {str(number)}


@given(decimals, decimals)
def test_distinct_numbers_are_never_the_same(one: Any, other: Any) -> None:
    if one != other:
        assert not set(map(normalise, in_other_typography(one))) & set(map(normalise, in_other_typography(other)))


@given(st.integers(0, 999), st.sampled_from("+-*/^:.,<>=%×÷'"), st.integers(0, 99))
def test_a_mark_between_numbers_is_never_lost(left: int, mark: str, right: int) -> None:
    shown = normalise(f"{left}{mark}{right}")
    assert shown not in {normalise(f"{left}{right}"), normalise(f"{left} {right}")}
    assert shown == normalise(f"“{left}{mark}{right}.”")


UNEQUAL = [
    *[("1.5", "15"), ("C", "C++"), ("C", "C#"), ("10:30", "1030"), ("3", "-3"), ("< 5", "> 5"), ("1/2", "12")],
    *[("10^3", "103"), ("10³", "103"), ("2½", "21/2"), ("5%", "5"), ("$5", "€5"), ("A-", "A"), ("A+", "A*")],
    *[("5'", '5"'), ("m/s", "ms"), ("NET", ".NET"), ("log₂8", "log28"), ("R&D", "RD"), ("-x", "x"), ("🟥", "🟩")],
    *[("1,2", "12"), ("0,500", "500"), ("1.000", "1000"), ("1:1", "11"), ("2*3", "23"), ("①1", "11"), ("~5", "5")],
]  # fmt: skip
EQUAL = [
    *[("½", "1/2"), ("2½", "2 1/2"), ("10³", "10^3"), ("N'Djamena", "N’Djamena"), ("5 %", "5%"), ("3–4", "3-4")],
    *[("− 5", "-5"), ("H₂O", "H2O"), (".5", "0.5"), ("1,00,000", "100,000"), ("3+4", "3 + 4"), ("us-mail", "US mail")],
    *[("ﬁne", "fine"), ("e\u0301", "é"), ("“Paris”.", "paris"), ("5 °C", "5℃"), ("don`t", "don't"), ("<5", "< 5")],
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), UNEQUAL)
def test_marks_that_carry_value_stay(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_other_typography_is_the_same(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


@given(st.text(st.characters(exclude_categories=()) | st.sampled_from("\ud800\udfff")))
def test_what_is_made_writable_is_utf8_and_keeps_everything_else(raw: str) -> None:
    kept = text.writable(raw)
    assert kept.encode().decode() == kept == raw.encode("utf-8", "replace").decode()
    assert text.has_lone_surrogate(raw) == (kept != raw)


def test_words_and_ngrams() -> None:
    assert words("Don't stop, now!") == ["dont", "stop", "now"]
    assert words("自転車 late") == ["自", "転", "車", "late"]


@pytest.mark.parametrize(
    ("text", "split", "count"),
    [
        ("Don't stop, now!", ["dont", "stop", "now"], 3),
        ("自転車、late 3月", ["自", "転", "車", "late", "3", "月"], 4),
        ("สวัสดี", list("สวัสดี"), 1.5),
        ("二十三日 at 北京，上海。", ["二十三", "日", "at", "北", "京", "上", "海"], 5),
        ("气温是-5度", ["气", "温", "是", "-5", "度"], 3),
        ("привет, мир", ["привет", "мир"], 2),
        ("안녕 세계", ["안녕", "세계"], 2),  # Korean has spaces
        ("", [], 0),
    ],
)
def test_scripts_without_spaces_are_compared_by_characters(text: str, split: list[str], count: float) -> None:
    assert spaced(text).split() == split
    assert about_words(text) == count
    assert ngrams([1, 2, 3], 2) == [(1, 2), (2, 3)]
    assert ngrams([1], 2) == []


def test_shingles_and_jaccard_by_hand() -> None:
    assert shingles("Bike!") == {" bik", "bike", "ike "}
    assert shingles("a") == {" a "}
    assert shingles(" ") == frozenset()
    assert jaccard(shingles("bike"), shingles("bikes")) == 2 / 5  # 3 and 4 shingles, 2 shared
    assert jaccard(frozenset(), frozenset()) == 1.0
