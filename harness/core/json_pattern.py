"""A JSON Schema of a flat object as a regular expression for its text, by which an engine can guide what is written."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

CHARACTER = r'(?:[^"\\\x00-\x1f]|\\["\\/bfnrt])'  # of a JSON string
PLAIN = {
    "integer": r"-?(?:0|[1-9][0-9]{0,14})",
    "number": r"-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,15})?",
    "boolean": "(?:true|false)",
    "null": "null",
}
# what could match a quotation mark or a backslash, which end or change a JSON string
UNSAFE = re.compile(r'[."]|\[\^|\\(?!d)')


def json_pattern(schema: Mapping[str, Any]) -> str | None:
    """The pattern of every object that has all properties of a schema, in their order, written as json.dumps does.

    None for a schema that is more than a flat object of texts, numbers, true, false, null and enumerations. What a
    pattern cannot say (the largest number, say) is left open.
    """
    if schema.get("type", "object") != "object" or not schema.get("properties"):
        return None
    values: list[str] = []
    for name, part in schema["properties"].items():
        value = _value(part)
        if value is None:
            return None
        values.append(f"{re.escape(json.dumps(name, ensure_ascii=False))}: {value}")
    return rf"\{{{', '.join(values)}\}}"


def _value(part: Any) -> str | None:
    """The pattern of one property, or None."""
    if not isinstance(part, Mapping) or {"$ref", "anyOf", "oneOf", "allOf", "not"} & part.keys():
        return None
    if "const" in part or "enum" in part:
        listed = [part["const"]] if "const" in part else part["enum"]
        if any(isinstance(value, dict | list) for value in listed):
            return None
        return f"(?:{'|'.join(re.escape(json.dumps(value, ensure_ascii=False)) for value in listed)})"
    kinds = part.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    patterns = [_string(part) if kind == "string" else PLAIN.get(str(kind)) for kind in kinds]
    known = [pattern for pattern in patterns if pattern is not None]
    return f"(?:{'|'.join(known)})" if known and len(known) == len(kinds) else None


def _string(part: Mapping[str, Any]) -> str | None:
    """The pattern of a text, with its quotation marks, or None for one that is restricted in another way."""
    if "pattern" not in part:
        return f'"{CHARACTER}{{{part.get("minLength", 0)},{part.get("maxLength", "")}}}"'
    written = str(part["pattern"])
    anchored = written.startswith("^") and written.endswith("$")
    return f'"(?:{written[1:-1]})"' if anchored and not UNSAFE.search(written) else None
