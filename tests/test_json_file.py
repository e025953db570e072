"""Text and JSON read strictly: what Python lets pass is refused with its place, everything else is as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from harness.core.json_file import MAX_DEPTH, NotJson, parse_json, read_json, read_jsonl, read_text
from harness.errors import UsageError, nearest_file

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


class Line(BaseModel):
    answer: float


@given(VALUES)
def test_any_value_is_read_as_it_was_written(value: object) -> None:
    assert parse_json(json.dumps(value), "f") == value


@given(st.text() | st.text('[]{}:,"\\ud8NaInfty-+e0123456789 \n'))
def test_any_text_is_read_or_refused_with_its_place(text: str) -> None:
    refused, value = "", None
    try:
        value = parse_json(text, "f.json")
    except UsageError as error:
        refused = str(error)
    assert refused.startswith("f.json:") if refused else value == json.loads(text)


BAD = [
    ('{"answer": NaN}', "f.jsonl:2: answer: NaN"),
    ('{"a": {"b": [1, Infinity]}}', "f.jsonl:2: a.b.1: Infinity"),
    ('{"a": -Infinity}', "f.jsonl:2: a: -Infinity"),
    ('{"a": 1e999}', "f.jsonl:2: a: Infinity"),
    ('{"a": ' + "1" * 400 + ".0}", "f.jsonl:2: a: Infinity"),
    ('{"a": ' + "1" * 5000 + "}", "f.jsonl:2: not valid JSON"),
    ('{"a": 1, "b": 2, "a": 1}', "f.jsonl:2: the name 'a' stands twice"),
    ('{"a": [{"b": 1, "b": 1}]}', "f.jsonl:2: the name 'b' stands twice"),
    ('{"a": "\\ud800"}', "f.jsonl:2: a: half of a surrogate pair"),
    ('{"\\ud800": 1}', "f.jsonl:2: half of a surrogate pair"),
    ('{"a": ' + "[" * 3000 + "]" * 3000 + "}", f"f.jsonl:2: lists and objects are nested deeper than {MAX_DEPTH}"),
    ('{"a":' * 70 + "1" + "}" * 70, f"f.jsonl:2: lists and objects are nested deeper than {MAX_DEPTH}"),
    ("[" * 100_000, "f.jsonl:2: lists and objects are nested deeper"),
    ("{", "f.jsonl:2: not valid JSON"),
    ("[1]", "f.jsonl:2: each line is a JSON object"),
]


@pytest.mark.parametrize(("line", "expected"), BAD, ids=[bad[1][9:40] for bad in BAD])
def test_a_bad_line_is_named(tmp_path: Path, line: str, expected: str) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text(f'{{"answer": 1}}\n{line}\n')
    with pytest.raises(UsageError) as caught:
        read_jsonl(path, Line)
    assert expected in str(caught.value)


def test_what_is_deep_within_reason_or_wide_is_read() -> None:
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH, "f")
    assert len(parse_json(json.dumps([{}] * 5000), "f")) == 5000


def test_a_byte_order_mark_is_taken_away_and_other_encodings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_bytes(b'\xef\xbb\xbf{"answer": 1}')
    assert read_json(path) == {"answer": 1}
    assert [line.answer for _, line in read_jsonl(path, Line)] == [1]
    for raw, byte in (("{'é'}".encode("latin-1"), 2), ("{}".encode("utf-16"), 0)):
        path.write_bytes(raw)
        for read in (read_text, read_json, lambda p: read_jsonl(p, Line)):
            with pytest.raises(UsageError, match=rf"f.json: not UTF-8 text \(byte {byte}\)"):
                read(path)
    with pytest.raises(UsageError, match=r"ff\.json: .*'f\.json'"):
        read_json(path.with_name("ff.json"))


def test_every_line_of_a_text_ends_alike(tmp_path: Path) -> None:
    path = tmp_path / "f.txt"
    path.write_bytes("\ufeffa\r\nb\rc\u2028d\n".encode())
    assert read_text(path) == "a\nb\nc\u2028d\n"


def test_the_line_of_a_mistake_in_a_file_is_named() -> None:
    with pytest.raises(NotJson, match=r"f.json:3: not valid JSON"):
        parse_json('{\n"a": 1,\n}', "f.json")


@pytest.mark.parametrize(
    ("missing", "hint"),
    [
        ("helpdsk.yaml", " (did you mean 'helpdesk.yaml'?)"),
        ("helpdesk.yml", " (did you mean 'helpdesk.yaml'?)"),  # of one stem the closest ending
        ("truthful.yaml", ""),  # an ending makes no two names close
        ("none/helpdesk.yaml", ""),
    ],
)
def test_the_nearest_file(tmp_path: Path, missing: str, hint: str) -> None:
    for name in ("null.yaml", "helpdesk.yaml", "helpdesk.learning_curve.png", "helpdesk.json"):
        (tmp_path / name).touch()
    assert nearest_file(tmp_path / missing) == hint
