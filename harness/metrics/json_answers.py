"""Answers in JSON, judged against a schema and a gold value, field by field."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal
from urllib.parse import unquote

from pydantic import field_validator

from harness.core.completions import NO_JSON, find_json
from harness.core.json_file import parse_json
from harness.core.record import Record
from harness.core.text import normalise
from harness.errors import UsageError
from harness.records import Item


class JsonAnswer(Record):
    """A JSON value against a schema. It is right when it is valid and every field is."""

    end: ClassVar[str] = "\n\n"  # an empty line: JSON may have many lines
    kind: Literal["json"] = "json"
    json_schema: dict[str, Any] | str  # a JSON Schema, here or in a file (relative to the project)

    @field_validator("json_schema")
    @classmethod
    def _sound(cls, value: dict[str, Any] | str) -> dict[str, Any] | str:
        problem = schema_problem(value) if isinstance(value, dict) else ""
        if problem:
            raise ValueError(problem)
        return value

    @property
    def fields(self) -> tuple[str, ...]:
        """The properties the schema names at its top."""
        named = self.json_schema.get("properties", {}) if isinstance(self.json_schema, dict) else {}
        return tuple(named)

    @property
    def unread(self) -> dict[str, float]:
        """As AnswerScorer: the whole, whether the schema allows it, and each field."""
        return dict.fromkeys(("accuracy", "valid", *(f"field_{name}" for name in self.fields)), 0.0)

    def problem(self, answer: str) -> str:
        """As AnswerScorer. Whether the schema allows it is not looked at where jsonschema is not installed."""
        try:
            value = parse_json(answer, "in it")
        except UsageError as error:
            return f"{answer[:80]!r} is not JSON: {error}"
        try:
            validator = _validator(json.dumps(self.json_schema, sort_keys=True))
        except UsageError:
            return ""
        first = next(iter(validator.iter_errors(value)), None)
        return f"{answer!r} is not what the schema allows: {first.message}" if first else ""

    def score(self, output: str, item: Item) -> dict[str, float] | None:
        """As AnswerScorer, or None where there is no JSON. Of several accepted answers the one with most right counts.

        Texts are equal without case and punctuation, numbers by value, and true is not 1. Raises UsageError when
        jsonschema is not installed.
        """
        value = find_json(output)
        if value is NO_JSON:
            return None
        try:
            valid = float(_validator(json.dumps(self.json_schema, sort_keys=True)).is_valid(value))
            rated = [self._compare(value, json.loads(gold)) for gold in item.answers]
        except RecursionError:  # nested too deeply to be compared
            return None
        best = max(rated, key=lambda values: (values["accuracy"], sum(values.values())))
        return {**best, "accuracy": best["accuracy"] * valid, "valid": valid}

    def _compare(self, answer: Any, gold: Any) -> dict[str, float]:
        values = {"accuracy": float(_equal(answer, gold))}
        for name in self.fields:
            ours, theirs = (x.get(name, NO_JSON) if isinstance(x, dict) else NO_JSON for x in (answer, gold))
            values[f"field_{name}"] = float(isinstance(answer, dict) and _equal(ours, theirs))
        return values


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, str) and isinstance(b, str):
        return normalise(a) == normalise(b)
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, int | float) and isinstance(b, int | float):
        return a == b or math.isclose(a, b, rel_tol=1e-9)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    return a is b  # null, or a field that neither has


def schema_problem(schema: dict[str, Any]) -> str:
    """What is wrong with a JSON Schema, or ''. Without jsonschema, in a base install, nothing is looked at."""
    if _refers_outside(schema):
        return "a $ref may point inside the schema only ('#/...')"
    if (nowhere := next(_dangling(schema, schema), None)) is not None:
        return f"$ref {nowhere!r} points to nothing in the schema"
    try:
        import jsonschema
    except ImportError:
        return ""  # reading scores needs no schema; scoring itself says that it is missing
    try:
        jsonschema.validators.validator_for(schema).check_schema(schema)
    except jsonschema.SchemaError as error:
        where = ".".join(map(str, error.absolute_path))
        return f"not a JSON Schema: {where + ': ' if where else ''}{error.message}"
    return ""


def schema_mismatch(schema: dict[str, Any], value: Any) -> str:
    """Why a JSON value is not what a schema allows, or ''. Raises UsageError when jsonschema is not installed."""
    error = next(iter(_validator(json.dumps(schema, sort_keys=True)).iter_errors(value)), None)
    if error is None:
        return ""
    where = ".".join(map(str, error.absolute_path))
    return f"{where + ': ' if where else ''}{error.message}"


def _refers_outside(schema: Any) -> bool:
    if isinstance(schema, dict):
        target = schema.get("$ref", "#")
        outside = isinstance(target, str) and not target.startswith("#")
        return outside or any(_refers_outside(value) for value in schema.values())
    return isinstance(schema, list) and any(map(_refers_outside, schema))


def _dangling(part: Any, schema: dict[str, Any]) -> Iterator[str]:
    """Every $ref below `part` that is a path into the schema and leads nowhere (RFC 6901)."""
    if isinstance(part, dict):
        target = part.get("$ref")
        if isinstance(target, str) and target.startswith("#/") and not _leads(target, schema):
            yield target
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from _dangling(inner, schema)


def _leads(path: str, schema: Any) -> bool:
    for name in path.removeprefix("#/").split("/"):
        key = unquote(name).replace("~1", "/").replace("~0", "~")
        if isinstance(schema, list) and key.isdecimal() and int(key) < len(schema):
            schema = schema[int(key)]
        elif isinstance(schema, dict) and key in schema:
            schema = schema[key]
        else:
            return False
    return True


@cache
def _validator(schema: str) -> Any:
    try:
        import jsonschema
    except ImportError as error:
        raise UsageError("JSON answers need jsonschema, which is not installed: make setup EXTRAS=train") from error
    read = json.loads(schema)
    return jsonschema.validators.validator_for(read)(read)
