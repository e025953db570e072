"""Thinking taken out of what a model wrote, and JSON found in it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.completions import NO_JSON, find_json, without_thinking
from harness.records import Completion

MARKS = ("<think>", "</think>", "<thinking>", "</Thought>", "[THINK]", "[/THINK]", "<seed:think>", "<b>", "a", " b\n")


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ("<think>so so</think>\n\nhello", "hello"),
        ("so so\n</think>\n\nhello", "hello"),
        ("<think>so so", ""),
        ("<think>\n", ""),
        ("<think></think>", ""),
        ("hello <think>so so", "hello"),
        ("<THINK>a <think> b</think> c</Think> hello", "hello"),
        ("[THINK]so[/THINK]one <thought>two</thought>three", "one three"),
        ("<|START_THINKING|>so<|END_THINKING|>hello", "hello"),
        ("<seed:think>so</seed:think>hello", "hello"),
        (" hello\n", " hello\n"),
        ("I think < so >", "I think < so >"),
        ('{"text": "<think>so</think> hi"}', '{"text": " hi"}'),
    ],
)
def test_only_the_answer_is_left(written: str, answer: str) -> None:
    assert without_thinking(written) == answer


@given(st.lists(st.sampled_from(MARKS), max_size=12).map("".join))
def test_no_mark_is_left_and_a_second_pass_changes_nothing(written: str) -> None:
    answer = without_thinking(written)
    assert not any(mark in answer.lower() for mark in ("think>", "thought>", "thinking>", "think]"))
    assert without_thinking(answer) == answer


def test_a_completion_holds_the_answer_alone_wherever_it_comes_from() -> None:
    for text, answer in (("<think>so</think> a", "a"), ("<think>so", ""), ("a", "a")):
        made = Completion(request="r", finish_reason="stop", text=text)
        stored = json.dumps({"request": "r", "finish_reason": "stop", "text": text})
        assert made == Completion.model_validate_json(stored)
        assert made.text == answer
        assert bool(made.thinking) == (text != answer)
        assert Completion.model_validate_json(made.model_dump_json()) == made


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ('```json\n{"a": 1}\n```', {"a": 1}),
        ('```JSON {"a": 1}```', {"a": 1}),
        ('Sure, here it is:\n```\n{"a": 1}\n```\nAnything else?', {"a": 1}),
        ('```json\n{"a": 1}', {"a": 1}),
        ('Here {as asked}: {"a": {"b": [1]}} done.', {"a": {"b": [1]}}),
        ('As in [1], {"a": 1}', {"a": 1}),
        ('The rows: [{"a": 1}, 2].', [{"a": 1}, 2]),
        ("The numbers: [1, 2].", [1, 2]),
        ("null", None),
    ],
)
def test_json_is_found_in_fences_and_among_words(written: str, value: Any) -> None:
    assert find_json(written) == value


@pytest.mark.parametrize("written", ["", "no", "{", '{"a": NaN}', "[" * 3000, "9" * 5000, '{"a": 1', "``` ```"])
def test_what_is_no_json_is_nothing(written: str) -> None:
    assert find_json(written) is NO_JSON


@given(st.recursive(st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner)).map(lambda v: {"v": v}))
def test_an_object_is_read_alone_fenced_and_among_words(value: dict[str, Any]) -> None:
    text = json.dumps(value, ensure_ascii=False)
    assert find_json(text) == find_json(f"Sure!\n{text}\nBye.") == value
    if "`" not in text:
        assert find_json(f"```json\n{text}\n```") == value


def test_hostile_texts_are_read_in_time() -> None:
    started = time.monotonic()
    without_thinking("<think>" * 30_000 + "</think>x" * 10_000)
    for text in ("[{" * 20_000, '{"a":' * 20_000, "```" * 20_000, "[1," * 20_000):
        find_json(text)
    assert time.monotonic() - started < 3
