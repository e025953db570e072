"""Text and JSON files as they stand: UTF-8 only, every name once, numbers that are numbers, nested within reason.

The one reader of JSON for what people and stages write. What Python's own would let pass (NaN, a name twice) is a
UsageError with file, line and name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from harness.core.text import has_lone_surrogate
from harness.errors import UsageError, nearest, nearest_file

M = TypeVar("M", bound=BaseModel)

MAX_DEPTH = 64  # lists and objects inside one another
# a text without any of these holds only finite numbers and whole characters
_MAY_BE_ODD = re.compile(r"NaN|Infinity|[eE]\+?\d{3}|\d{300}|\\u[dD][89a-fA-F]")
NUMBERS = "a number must be finite; leave out what is missing"


class NotJson(UsageError):
    """A text that is no JSON at all."""


def read_bytes(path: Path, what: str = "") -> bytes:
    """The content of a user's file. Raises UsageError naming it, `what` it is, and the nearest one there."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UsageError(f"{path}: {what + ': ' if what else ''}there is no such file{nearest_file(path)}") from error
    except OSError as error:
        place = f"{path}: {what}" if what else str(path)
        raise UsageError(f"{place}: cannot read it: {error.strerror}") from error


def read_text(path: Path) -> str:
    """A text file in UTF-8, without the byte order mark some editors begin it with. Every line ends with \\n.

    Raises UsageError as `read_bytes`, or naming the first byte that is not UTF-8.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
        return text.replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text (byte {error.start}): save it as UTF-8") from error


def parse_json(text: str, path: Path | str, line: int | None = None) -> Any:
    """The value of a JSON text that stands in `path`, at `line` where it is a part of it.

    Raises NotJson for a text that is none, and UsageError naming place and name for a name that stands twice in one
    object, NaN and infinity, half of a surrogate pair, and nesting beyond MAX_DEPTH.
    """
    place = f"{path}:{line}" if line else str(path)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for i, name in enumerate(names) if name in names[:i])
            raise UsageError(f"{place}: the name {twice!r} stands twice in one object")
        return members

    try:
        value = json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        where = f"{path}:{(line or 1) + error.lineno - 1}"
        raise NotJson(f"{where}: not valid JSON: {error.msg} (column {error.colno})") from error
    except RecursionError as error:
        raise UsageError(f"{place}: lists and objects are nested deeper than {MAX_DEPTH}") from error
    except ValueError as error:  # a number of thousands of digits
        raise NotJson(f"{place}: not valid JSON: {error}") from error
    if text.count("[") + text.count("{") > MAX_DEPTH or _MAY_BE_ODD.search(text):
        check_values(value, place)
    return value


def check_values(value: Any, place: str) -> None:
    """Raises UsageError for a number that is none, a text that no file can hold, and nesting beyond MAX_DEPTH."""
    waiting: list[tuple[str, int, Any]] = [("", 0, value)]
    while waiting:
        name, depth, part = waiting.pop()
        where = f"{place}: {name}" if name else place
        if depth > MAX_DEPTH:
            raise UsageError(f"{place}: lists and objects are nested deeper than {MAX_DEPTH}")
        if isinstance(part, float) and not math.isfinite(part):
            raise UsageError(f"{where}: {json.dumps(part)}: {NUMBERS}")
        if isinstance(part, str) and has_lone_surrogate(part):
            raise UsageError(f"{where}: half of a surrogate pair is no text")
        if isinstance(part, dict):
            waiting += [(name, depth, key) for key in part]
        inside = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
        waiting += [(f"{name}.{key}" if name else str(key), depth + 1, inner) for key, inner in inside]


def as_text(value: Any) -> Any:
    """A number as the text that writes it, a nested value as JSON, and any other value as it is."""
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return value


def read_json(path: Path) -> Any:
    """The value of a JSON file. Raises UsageError as `parse_json` and `read_text` do."""
    return parse_json(read_text(path), path)


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """(line number, line) of every line that is not blank."""
    return ((number, line) for number, line in enumerate(read_text(path).split("\n"), start=1) if line.strip())


def parse_object(line: str, path: Path, number: int) -> dict[str, Any]:
    """The JSON object on one line of JSON lines. Raises UsageError naming file and line."""
    row = parse_json(line, path, number)
    if not isinstance(row, dict):
        raise UsageError(f"{path}:{number}: each line is a JSON object, this one is {type(row).__name__}")
    return row


def read_jsonl(path: Path, model: type[M]) -> list[tuple[int, M]]:
    """(line number, record) of every line that is not blank. Raises UsageError naming file, line and field."""
    return [(number, record(parse_object(line, path, number), model, path, number)) for number, line in lines_of(path)]


def record(row: Mapping[str, Any], model: type[M], path: Path, number: int) -> M:
    """The record that a line of JSON lines holds. Raises UsageError naming file, line and field."""
    try:
        return model.model_validate(row)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        fields = ", ".join(model.model_fields)
        if first["type"] == "extra_forbidden":
            hint = nearest(name, model.model_fields)
            raise UsageError(f"{path}:{number}: {name}: unknown field{hint}; allowed: {fields}") from error
        what = f"{name}: {first['msg']}" if name else first["msg"]
        raise UsageError(f"{path}:{number}: {what}; each line is a JSON object with {fields}") from error
