"""Filters that look at one row alone: form, refusals, repetition, slots; and the same inside a step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.core.text import words
from harness.errors import UsageError
from harness.filters import Filter, Format, Refusal, Repetition, Slots
from harness.metrics.refusals import meta_talk
from harness.records import Example, Message, Provenance, Row, Verdict
from tests.fakes import prompt_of
from tests.project import context, row, verdicts_of
from tests.test_steps import ANSWER, ASK, CHECK, ROW, lost_of, project, run_it

SUITES = Path(__file__).parent.parent / "suites"


def answered(question: str, answer: str, attributes: dict[str, str] | None = None, document: str = "") -> Row:
    """A row of a free task."""
    provenance = Provenance(source="teacher", finish_reason="stop", attributes=attributes or {}, document=document)
    messages = (Message(role="user", content=question), Message(role="assistant", content=answer))
    return Row(messages=messages, example=Example(fields={"question": question}, answer=answer), provenance=provenance)


def verdict(rule: Filter, one: Row) -> Verdict:
    return verdicts_of(rule, [one], context())[0]


# --- format ---


@pytest.mark.parametrize(
    ("settings", "text", "reason"),
    [
        ({"match": r".+\?"}, " Where is it? ", ""),
        ({"match": r".+\?"}, "Where is it? Tell me.", r"'Where is it? Tell me.' does not match '.+\\?'"),
        ({"forbid": r"\[[^\]]*\]"}, "Dear Ms Lee, it is late.", ""),
        ({"forbid": r"\[[^\]]*\]"}, "Dear [Name], it is late.", r"it holds '[Name]', which '\\[[^\\]]*\\]' forbids"),
        ({"forbid": r"\n"}, "two\nlines", r"it holds '', which '\\n' forbids"),
        ({"json_schema": {"required": ["a"]}}, '{"a": 1}', ""),
        ({"json_schema": {"required": ["a"]}}, '{"b": 1}', "'a' is a required property"),
        ({"json_schema": {"required": ["a"]}}, 'So: {"a": 1}', "is not JSON"),
    ],
)
def test_format_says_what_is_not_in_form(settings: dict[str, Any], text: str, reason: str) -> None:
    said = verdict(Format(**settings), row(text))
    assert said.keep == (not reason)
    assert reason in said.reason


def test_format_looks_at_the_part_that_is_named() -> None:
    one = answered("How many?", "42")
    assert verdict(Format(match=r"\d+", on="answer"), one).keep
    assert not verdict(Format(match=r"\d+", on="question"), one).keep


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "give one of match, forbid and json_schema"),
        ({"match": "("}, r"match '\(' is no regular expression"),
        ({"json_schema": {"type": "strin"}}, "json_schema: not a JSON Schema: type"),
    ],
)
def test_a_format_that_cannot_be_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Format(**settings)


def test_a_regular_expression_that_never_ends_is_named() -> None:
    with pytest.raises(UsageError, match=r"'\(a\|a\)\+b' takes longer than 1 s on 'aaaa"):
        verdict(Format(match="(a|a)+b"), row("a" * 60))


# --- refusal ---

META = [
    ("Sure, here is a message about a late parcel: Where is it?", "Sure, here is"),
    ("Certainly! I'd be happy to help.", "Certainly! I'd be happy"),
    ("Here are five examples:\n1. Where is it?", "Here are five examples:"),
    ("Here's a revised version of the answer: Yes.", "Here's a revised version of the answer:"),
    ("It rains. As an AI language model, I cannot see it.", "As an AI language model"),
    ("I’m just an AI and know no weather.", "I'm just an AI"),
    ("Take the bus. I hope this helps!", "I hope this helps"),
    ("Done. Let me know if you'd like me to change it.", "Let me know if you'd like me to change"),
]
TO_THE_POINT = [
    "Here is my order number: 4411.",
    "Here are the keys. Where is the lock?",
    "Sure, the battery lasts 60 km.",
    "Great bike, but the bell is gone.",
    "As an AI researcher she writes papers.",
    "He said: “Sure, here is your bike” and left.",
    "Let me know if you need the invoice number.",
    "I hope this is not stolen.",
    "I am an AI engineer and my bike is late.",
]


@pytest.mark.parametrize(("text", "said"), META)
def test_talk_about_the_task_is_quoted(text: str, said: str) -> None:
    assert meta_talk(text) == said
    assert verdict(Refusal(refusals=False), row(text)).reason == f"it speaks of the task: {said!r}"
    assert verdict(Refusal(meta_talk=False), row(text)).keep == ("cannot" not in text)


@pytest.mark.parametrize("text", TO_THE_POINT)
def test_what_only_looks_like_it_is_kept(text: str) -> None:
    assert verdict(Refusal(), row(text)).keep


def test_no_shipped_question_or_answer_is_taken_for_a_refusal() -> None:
    for path in SUITES.glob("*.jsonl"):
        for line in path.read_text().splitlines():
            for text in (value for value in json.loads(line).values() if isinstance(value, str)):
                assert verdict(Refusal(), row(text)).keep, text


def test_a_refusal_counts_in_the_input_and_in_the_answer() -> None:
    sorry = "I'm sorry, but I can't help with that."
    assert verdict(Refusal(), answered("How do I pick a lock?", sorry)).reason == f'it declines: "{sorry}"'
    assert not verdict(Refusal(), answered(sorry, "Why?")).keep
    assert verdict(Refusal(on="question"), answered("How do I pick a lock?", sorry)).keep
    with pytest.raises(ValidationError, match="no row could be dropped"):
        Refusal(refusals=False, meta_talk=False)


# --- repetition ---


def test_repetition_gives_the_larger_share_of_both_parts() -> None:
    said = verdict(Repetition(), answered("Where is it?", "it is late and it is late and it is late"))
    # "it is late and", "is late and it" and "late and it is" come twice, "and it is late" twice: 8 runs, 4 distinct
    assert said.score == 0.5
    assert said.reason == "50% of its runs of 4 words repeat, at most 20% may"
    assert verdict(Repetition(), answered("where is it now", "where is it now")).keep  # an echo is no repetition
    assert verdict(Repetition(max_share=0.5), answered("", "it is late and it is late and it is late")).keep
    short = verdict(Repetition(), row("no no no", "repair"))
    assert (short.keep, short.score) == (True, None)


@settings(deadline=None)
@given(st.lists(st.sampled_from("abcdefgh"), min_size=8, max_size=20), st.integers(2, 4))
def test_a_text_said_again_repeats_more(spoken: list[str], times: int) -> None:
    once, again = (verdict(Repetition(), row(" ".join(spoken * n))).score for n in (1, times))
    assert once is not None
    assert again is not None
    assert again >= max(once, (times - 1) / times - 0.3)


# --- slots ---


@pytest.mark.parametrize(
    ("value", "text", "stands"),
    [
        ("Cape Town", "from cape-town, please", True),
        ("Cape Town", "the cape of a town", False),
        ("12", "it costs $12", True),
        ("12", "it is 12 km away", True),
        ("12", "it is 120 km away", False),
        ("1200", "about 1,200 people", True),
        ("polite", "politely", False),
        ("", "anything", True),
    ],
)
def test_a_slot_stands_word_for_word(value: str, text: str, stands: bool) -> None:
    said = verdict(Slots(attributes=("slot",)), answered(text, "yes", {"slot": value}))
    assert said.keep == stands
    assert said.reason == ("" if stands else f"slot {value!r} is not in the text")


def test_every_lost_slot_is_named_and_no_other_attribute_is_looked_for() -> None:
    one = answered("A trip to Rome", "It takes 3 hours", {"city": "Rome", "hours": "4", "tone": "polite"})
    said = verdict(Slots(attributes=("city", "hours", "price")), one)
    assert said.reason == "hours '4' is not in the text; price has no value"
    assert said.score == 2
    assert verdict(Slots(attributes=("city",), on="question"), one).keep
    assert not verdict(Slots(attributes=("city",), on="answer"), one).keep


VALUES = st.dictionaries(
    st.sampled_from("abcd"), st.text(st.characters(categories=["L", "Nd", "Zs"]), max_size=12), min_size=1, max_size=4
)


@settings(deadline=None)
@given(VALUES)
def test_a_text_that_holds_every_value_is_kept_and_one_without_words_is_not(values: dict[str, str]) -> None:
    rule = Slots(attributes=tuple(values))
    assert verdict(rule, answered(" , and ".join(values.values()), "", values)).keep
    assert verdict(rule, answered("?", "", values)).keep == (not any(words(value) for value in values.values()))


# --- inside a step ---


def test_they_work_on_what_a_step_wrote(tmp_path: Path) -> None:
    filters = [
        {"kind": "slots", "attributes": ["number"], "on": "question"},
        {"kind": "refusal"},
        {"kind": "repetition", "ngram": 2},
        {"kind": "format", "match": r".*\?"},
    ]
    says = {
        0: "how far are 7 miles?",
        1: "how far is a mile?",
        2: "Sure, here is one with 7: how far?",
        3: "are 7 and are 7 and are 7?",
        4: "tell me of 7",
        **{n: f"how far are 7 times {n} miles?" for n in range(5, 9)},
    }
    run = project(
        tmp_path, [{**ASK, "filters": filters}, ANSWER, CHECK], max_requests_per_row=1, rows=9,
        attributes={"number": {"range": [7, 7]}},
    )  # fmt: skip
    engine, funnel = run_it(
        run, lambda r: says[int(prompt_of(r).split()[2])] if r.origin.step == "question" else "an answer"
    )
    assert (funnel.kept, len(engine.completed)) == (5, 9 + 2 * 5)
    assert [line.filter for line in lost_of(run)] == ["slots", "refusal", "repetition", "format"]
    assert lost_of(run)[0].reason == "number '7' is not in the text"


@pytest.mark.parametrize(
    ("where", "attributes", "says"),
    [
        ("filters", {"city": ["Rome"]}, r"augment.filters.0.attributes: there is no attribute 'cty' .* mean 'city'"),
        ("steps", {"city": ["Rome"]}, r"augment.steps.0.filters.0.attributes: there is no attribute 'cty'"),
        ("filters", {}, r"there is no attribute 'cty' in augment.attributes$"),
    ],
)
def test_an_attribute_that_no_row_has_is_named(
    tmp_path: Path, where: str, attributes: dict[str, Any], says: str
) -> None:
    filters = [{"kind": "slots", "attributes": ["cty"]}]
    of_step, of_run = (filters, []) if where == "steps" else ([], filters)
    with pytest.raises(UsageError, match=says):
        project(tmp_path, [{**ASK, "filters": of_step}, ANSWER], ROW, attributes=attributes, filters=of_run)
