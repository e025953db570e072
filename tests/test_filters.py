"""Filters: what each drops, what it says, and what holds for all of them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from harness.config.inputs import identity
from harness.errors import UsageError
from harness.filters import (
    AnyFilter,
    Contamination,
    Duplicate,
    Finished,
    Length,
    NearDuplicate,
    Protected,
    PythonFilter,
)
from tests.project import context, labelled, row, verdicts_of

# --- one row alone ---


def test_finished_keeps_only_what_the_teacher_ended() -> None:
    rows = [row("a"), row("b", finish="length"), row("c", finish="length", source="own"), row("d", finish="")]
    verdicts = verdicts_of(Finished(), rows, context())
    assert [v.keep for v in verdicts] == [True, False, True, False]
    assert verdicts[1].reason == "not finished: cut at the limit of tokens"


def test_length_counts_words_not_signs() -> None:
    rows = [row("no!"), row("my bike - is late"), row("one two three four five six")]
    verdicts = verdicts_of(Length(min_words=2, max_words=5), rows, context())
    assert [v.keep for v in verdicts] == [False, True, False]
    assert [v.score for v in verdicts] == [1, 4, 6]
    assert verdicts[0].reason == "too short: words 1, at least 2 wanted"


def test_length_that_nothing_can_pass_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"min_words \(9\) is above max_words \(3\)"):
        Length(min_words=9, max_words=3)


# --- sets of rows ---


def test_duplicate_names_its_twin_and_prefers_the_seed() -> None:
    rows = [row("My bike is late"), row("my bike is late!!"), row("STOLEN"), row("Stolen.", "billing")]
    given_seeds = [labelled("Stolen", "repair")]
    verdicts = verdicts_of(Duplicate(), rows, context(seeds=given_seeds))
    assert [v.keep for v in verdicts] == [True, False, False, False]
    assert (verdicts[1].reason, verdicts[1].against) == (
        "the same words as an earlier row",
        "My bike is late",
    )
    assert verdicts[2].reason == "the same words as a seed"
    assert verdicts[3].reason == "the same words as a seed, labelled 'repair'"


def test_near_duplicate_gives_twin_and_score() -> None:
    text = "when will the driver bring my new bike to the office"
    rows = [row("the brake squeaks in the rain"), row(text), row(text.replace("will", "wil"))]
    verdict = verdicts_of(NearDuplicate(), rows, context())[2]
    assert not verdict.keep
    assert verdict.against == text
    # of its 49 different shingles "will", "ill " and "ll t" are lost, "wil " and "il t" are new
    assert verdict.score == 46 / 51
    assert verdict.reason == f"nearly an earlier row (Jaccard {verdict.score:.2f})"


def test_a_row_too_like_a_seed_takes_no_other_with_it() -> None:
    seed = "aaaa bbbb cccc dddd eeee ffff"
    near_seed, near_row = "aaaa bbbb cccc dddd eeee ffgg", "aaaa bbbb cccc dddd eehh ffgg"
    verdicts = verdicts_of(
        NearDuplicate(threshold=0.7), [row(near_seed), row(near_row)], context(seeds=[labelled(seed, "repair")])
    )
    assert [v.keep for v in verdicts] == [False, True]
    assert verdicts[0].against == seed


ITEMS = [
    Protected("helpdesk", "i1", "The display stays black although the battery was full this morning"),
    Protected("helpdesk", "i2", "Please cancel it now"),
    Protected("helpdesk", "i3", "Refund me"),
    Protected("helpdesk", "i4", "the chain makes a grinding noise when I pedal"),
]


@pytest.mark.parametrize(
    ("text", "item", "quoted"),
    [
        (
            "hi, the display stays black although the battery was full yesterday",
            "i1",
            "the display stays black although the battery was full",
        ),
        ("I said: please cancel it now!!!", "i2", "please cancel it now"),
        ("the chain makes a griding noise when I pedal", "i4", "nearly an item of helpdesk"),
    ],
)
def test_contamination_names_its_item_and_quotes_the_words(text: str, item: str, quoted: str) -> None:
    verdict = verdicts_of(Contamination(ngram=8), [row(text)], context(protected=ITEMS))[0]
    assert not verdict.keep
    assert verdict.against == f"helpdesk/{item}"
    assert quoted in verdict.reason


@pytest.mark.parametrize(
    "text", ["the display stays black although the battery is new", "refund me my money please", "", "noise"]
)
def test_contamination_lets_common_phrases_pass(text: str) -> None:
    assert verdicts_of(Contamination(ngram=8), [row(text)], context(protected=ITEMS))[0].keep


def test_contamination_names_the_item_with_the_longest_run() -> None:
    items = [Protected("s", "short", "a b c d e"), Protected("s", "long", "x a b c d e f g h")]
    verdict = verdicts_of(Contamination(ngram=4), [row("a b c d e f g h")], context(protected=items))[0]
    assert verdict.against == "s/long"
    assert verdict.reason == "shares 8 words in a row with an item of s: 'a b c d e f g h'"


# --- what holds for all ---

TEXTS = st.lists(
    st.lists(
        st.sampled_from(["my", "bike", "is", "late", "red", "rad", "the", "brake", "squeaks", "now"]),
        max_size=6,
    ).map(" ".join),
    max_size=10,
)
RULES: list[Finished | Length | Duplicate | NearDuplicate | Contamination] = [
    Finished(),
    Length(min_words=2, max_words=4),
    Duplicate(),
    NearDuplicate(threshold=0.6),
    Contamination(ngram=4),
]
PROTECTED = [Protected("s", "1", "my red bike is late"), Protected("s", "2", "the brake squeaks now")]


@settings(deadline=None)
@given(TEXTS, st.sampled_from(RULES))
def test_one_verdict_per_row_in_order_and_every_drop_says_why(
    texts: list[str], rule: Finished | Length | Duplicate | NearDuplicate | Contamination
) -> None:
    rows = [row(text, finish="length" if "now" in text else "stop") for text in texts]
    where = context(seeds=[labelled("my bike", "repair")], protected=PROTECTED)
    verdicts = verdicts_of(rule, rows, where)
    assert [v.row for v in verdicts] == [r.id for r in rows]
    assert all(v.filter == rule.kind and v.keep == (not v.reason) for v in verdicts)
    assert verdicts_of(rule, rows, where) == verdicts


@settings(deadline=None)
@given(TEXTS, st.sampled_from([Finished(), Length(max_words=3), Contamination(ngram=4)]), st.randoms())
def test_rules_about_one_row_do_not_depend_on_the_others(
    texts: list[str], rule: Finished | Length | Contamination, order: random.Random
) -> None:
    rows = [row(text) for text in texts]
    verdicts = verdicts_of(rule, rows, context(protected=PROTECTED))
    shuffled = rows[:]
    order.shuffle(shuffled)
    again = {v.row: v for v in verdicts_of(rule, shuffled, context(protected=PROTECTED))}
    assert [again[r.id] for r in rows] == verdicts


@settings(deadline=None)
@given(TEXTS, st.randoms())
def test_the_number_of_different_texts_does_not_depend_on_order(texts: list[str], order: random.Random) -> None:
    rows = [row(text) for text in texts]
    shuffled = rows[:]
    order.shuffle(shuffled)
    count = sum(v.keep for v in verdicts_of(Duplicate(), rows, context()))
    assert count == len(set(texts)) == sum(v.keep for v in verdicts_of(Duplicate(), shuffled, context()))


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_more_rows_later_change_no_earlier_verdict(texts: list[str], more: list[str]) -> None:
    rows = [row(text) for text in texts + more]
    for rule in RULES:
        assert verdicts_of(rule, rows, context())[: len(texts)] == verdicts_of(rule, rows[: len(texts)], context())


def test_the_fields_of_a_filter_are_its_yaml() -> None:
    filters = TypeAdapter(tuple[AnyFilter, ...]).validate_python(
        [
            {"kind": "finished"},
            {"kind": "judge", "template": "j.j2"},
            {"kind": "near_duplicate", "threshold": 0.7},
        ]
    )
    assert [f.kind for f in filters] == ["finished", "judge", "near_duplicate"]
    with pytest.raises(ValidationError):
        TypeAdapter(AnyFilter).validate_python({"kind": "near_duplicate", "treshold": 0.7})


# --- the door ---


def door(folder: Path, source: str, function: str = "keep") -> PythonFilter:
    (folder / "mine.py").write_text(source, encoding="utf-8")
    return PythonFilter(file="mine.py", function=function)


def test_a_python_filter_keeps_drops_and_explains(tmp_path: Path) -> None:
    rule = door(
        tmp_path,
        "def keep(row):\n"
        "    row['text'] = row['text'].lower()\n"
        "    return ('bike' in row['text'], 'no bike in it') if row['label'] == 'repair' else False\n",
    )
    rows = [row("My BIKE"), row("my car"), row("bike", "billing")]
    verdicts = verdicts_of(rule, rows, context(tmp_path))
    assert [v.keep for v in verdicts] == [True, False, False]
    assert [v.reason for v in verdicts] == ["no bike in it", "no bike in it", "keep in mine.py said no"]
    assert rows[0].text == "My BIKE"
    assert not (tmp_path / "__pycache__").exists()


def test_other_code_is_another_filter(tmp_path: Path) -> None:
    before = identity(door(tmp_path, "def keep(row): return True\n"), tmp_path)
    assert identity(door(tmp_path, "def keep(row): return False\n"), tmp_path) != before


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def kepe(row): return True\n", r"no function 'keep' \(did you mean 'kepe'\?\)"),
        ("x = 1\ndef keep(row)\n", r"mine\.py:2: not valid Python"),
        ("import nothing_like_it\n", r"mine\.py:1: ModuleNotFoundError"),
        (
            "def keep(row):\n    return row['txt'] > 1\n",
            r"mine\.py:2: keep failed on the text 'hello': KeyError",
        ),
        ("def keep(row):\n    return 1\n", r"keep returned 1; it must be keep\(row: dict\) -> bool"),
        ("def keep(row):\n    exit()\n", r"mine\.py:2: keep failed"),
    ],
)
def test_mistakes_in_a_python_filter_are_named(tmp_path: Path, source: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        verdicts_of(door(tmp_path, source), [row("hello")], context(tmp_path))


def test_a_missing_python_filter_is_named_with_its_neighbour(tmp_path: Path) -> None:
    door(tmp_path, "")
    with pytest.raises(UsageError, match=r"did you mean 'mine.py'"):
        verdicts_of(PythonFilter(file="mime.py"), [row("hello")], context(tmp_path))


def test_what_a_python_filter_remembers_lasts_over_all_rows(tmp_path: Path) -> None:
    source = (
        "seen = set()\ndef keep(row):\n    new = row['text'] not in seen\n    seen.add(row['text'])\n    return new\n"
    )
    rule = door(tmp_path, source).prepare(context(tmp_path))
    assert rule.compares_rows, "it is given all rows of a round in request order"
    rows = [row(text) for text in ("a", "b", "a")]
    assert [verdict.keep for verdict in rule.verdicts(rows, [()] * 3)] == [True, True, False]
