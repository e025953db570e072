"""A flat JSON Schema as a pattern: what it takes and what it leaves out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.json_pattern import json_pattern

ROOT = Path(__file__).parent.parent
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]))


def of(**properties: Any) -> str:
    pattern = json_pattern({"type": "object", "properties": properties})
    assert pattern is not None
    return pattern


@given(TEXTS, st.integers(-(10**14), 10**14), st.booleans(), st.sampled_from(["a b", 'c"d', "e\\f", None, 3]))
def test_every_object_of_the_schema_matches_as_it_is_dumped(text: str, number: int, yes: bool, listed: object) -> None:
    kinds = {"type": ["string", "null"]}
    pattern = of(
        text=kinds, n={"type": "integer"}, yes={"type": "boolean"}, one={"enum": ["a b", 'c"d', "e\\f", None, 3]}
    )
    value = {"text": text, "n": number, "yes": yes, "one": listed}
    assert re.fullmatch(pattern, json.dumps(value, ensure_ascii=False))
    assert not re.fullmatch(pattern, json.dumps({**value, "yes": "no"}, ensure_ascii=False))
    assert not re.fullmatch(pattern, json.dumps({**value, "more": 1}, ensure_ascii=False))


@given(st.from_regex(of(a={"type": "string"}, b={"type": "number"}, c={"const": "x"}), fullmatch=True))
def test_whatever_matches_is_json_of_that_form(text: str) -> None:
    value = json.loads(text)
    assert list(value) == ["a", "b", "c"]
    assert isinstance(value["a"], str)
    assert isinstance(value["b"], int | float)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array"},
        {"type": "object"},
        {"properties": {"a": {"type": "object", "properties": {"b": {"type": "string"}}}}},
        {"properties": {"a": {"type": ["string", "array"]}}},
        {"properties": {"a": {"anyOf": [{"type": "string"}]}}},
        {"properties": {"a": {"type": "string", "pattern": "[0-9]+"}}},
        {"properties": {"a": {"type": "string", "pattern": "^.+$"}}},
        {"properties": {"a": {"type": "string", "pattern": '^[^a]"$'}}},
        {"properties": {"a": {"enum": [["b"]]}}},
        {"properties": {"a": {}}},
    ],
)
def test_what_is_no_flat_object_has_no_pattern(schema: dict[str, Any]) -> None:
    assert json_pattern(schema) is None


def test_the_shipped_schema_can_guide() -> None:
    pattern = json_pattern(json.loads((ROOT / "suites/orders.schema.json").read_text()))
    assert pattern is not None
    answer = '{"topic": "damage", "urgency": "low", "order": "123456", "date": null}'
    assert re.fullmatch(pattern, answer)
    assert not re.fullmatch(pattern, answer.replace("123456", "12345"))
