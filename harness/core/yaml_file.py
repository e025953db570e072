"""YAML files into typed models, with errors that name file, line, key, value and what is allowed.

Plain values only. Duplicate keys are errors. Files above 1 MB or of more than 50,000 nodes are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, RootModel, ValidationError
from pydantic_core import ErrorDetails

from harness.core.json_file import check_values, read_text
from harness.core.record import new_name
from harness.errors import UsageError, nearest

M = TypeVar("M", bound=BaseModel)
Key = tuple[str | int, ...]

MAX_CHARACTERS = 1_000_000
MAX_NODES = 50_000
CORE = "tag:yaml.org,2002:"
TEXTS = {f"{CORE}{kind}" for kind in ("timestamp", "value", "merge")}  # stay as written: 2026-11-21, =, <<
PLAIN = {f"{CORE}{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null")} | TEXTS
TUPLE, MAPPING = re.compile(r"(valid )?[tT]uple"), re.compile(r"a valid dictionary( or instance of \w+)?")


@dataclass
class Document:
    """Plain data and, for every key path in it, the place a person wrote it."""

    data: Any
    places: dict[Key, str] = field(default_factory=dict)

    def place(self, key: Key) -> str:
        """The place of `key`, or of its nearest parent that has one."""
        while key and key not in self.places:
            key = key[:-1]
        return self.places.get(key, "?")


def load(path: Path) -> Document:
    """Read one YAML file. Raises UsageError for a missing, oversized or malformed file, naming file and line."""
    text = read_text(path)
    if len(text) > MAX_CHARACTERS:
        raise UsageError(f"{path}: {len(text)} characters; at most {MAX_CHARACTERS} are allowed")
    return _read(text, lambda line: f"{path}:{line}")


def _read(text: str, place: Callable[[int], str]) -> Document:
    """The document of a YAML text. `place` says where a line of it stands."""
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        document = Document(data=None)
        if node is not None:
            document.data = _construct(loader, node, (), document.places, place)
        document.places.setdefault((), place(1))
        return document
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        before = text[: getattr(error, "position", None) or 0]  # where a character stands that YAML forbids
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        line = mark.line if mark else before.count("\n")
        raise UsageError(f"{place(line + 1)}: not valid YAML: {problem}") from error


def _construct(
    loader: yaml.SafeLoader, node: yaml.Node, key: Key, places: dict[Key, str], place: Callable[[int], str]
) -> Any:
    """Plain data of a node, noting the place of every key on the way."""
    here = place(node.start_mark.line + 1)
    places.setdefault(key, here)
    if len(places) > MAX_NODES:
        raise UsageError(f"{here}: more than {MAX_NODES} values in one file")
    if node.tag not in PLAIN:
        raise UsageError(f"{here}: the tag {_short(node.tag)} is not allowed: only plain values are")
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            name = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            where = place(key_node.start_mark.line + 1)
            if name is None:
                raise UsageError(f"{where}: a key must be a plain word")
            if name in result:
                raise UsageError(f"{where}: the key {name!r} is written twice")
            places[(*key, name)] = where
            result[name] = _construct(loader, value_node, (*key, name), places, place)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_construct(loader, child, (*key, i), places, place) for i, child in enumerate(node.value)]
    assert isinstance(node, yaml.ScalarNode)  # there is no fourth kind
    return _scalar(loader, node, f"{here}: {'.'.join(map(str, key))}" if key else here)


def _scalar(loader: yaml.SafeLoader, node: yaml.ScalarNode, place: str) -> Any:
    """A text, a finite number, true, false or nothing. Raises UsageError for a value that its tag does not take."""
    if node.tag in TEXTS:
        return node.value
    try:
        value = loader.construct_object(node)
        if isinstance(value, str) and node.style is None and value[:1].isdigit() and "e" in value.lower():
            with suppress(ValueError):  # 1e-3 is a float to people and to JSON, yet a string to YAML 1.1
                value = float(value)
        if value is None and node.value.lower() not in ("", "~", "null"):
            raise ValueError(node.value)
    except (ValueError, LookupError, AttributeError, TypeError) as error:  # PyYAML lets all of these out
        raise UsageError(f"{place}: {node.value[:60]!r} is no {_short(node.tag)}") from error
    check_values(value, place)
    return value


def _short(tag: str) -> str:
    return tag.replace(CORE, "!!")


def merge(under: Document, over: Document) -> Document:
    """`over` laid on `under`: mappings merge key by key, everything else is replaced."""

    def lay(a: Any, b: Any) -> Any:
        if isinstance(a, dict) and isinstance(b, dict):
            return {**a, **{k: lay(a[k], v) if k in a else v for k, v in b.items()}}
        return b

    return Document(lay(under.data, over.data), {**under.places, **over.places})


def override(document: Document, settings: list[str]) -> Document:
    """Apply `key.path=value` settings (values are YAML), as from --set."""
    for setting in settings:
        name, separator, text = setting.partition("=")
        if not separator or not name:
            raise UsageError(f"--set {setting}: write it as key.path=value")
        setting_name = f"{name}=..." if "://" in text or "@" in text else setting  # an address may hold a password
        value = _value_of(setting_name, text)
        parts = [int(p) if p.isdecimal() else p for p in name.split(".")]
        target = document.data
        for part in parts[:-1]:
            if isinstance(part, str) and isinstance(target, dict):
                target = target.setdefault(part, {})
            elif isinstance(part, int) and isinstance(target, list) and part < len(target):
                target = target[part]
            else:
                raise UsageError(f"--set {setting_name}: there is nothing at {part!r}")
        last = parts[-1]
        if isinstance(last, int) and isinstance(target, list) and last < len(target):
            target[last] = value
        elif isinstance(target, dict):
            target[str(last)] = value
        else:
            raise UsageError(f"--set {setting_name}: there is nothing at {last!r}")
        document.places[tuple(parts)] = f"--set {setting_name}"
    return document


def _value_of(setting: str, text: str) -> Any:
    return _read(text, lambda line: f"--set {setting}").data


def parse(model: type[M], document: Document, what: str) -> M:
    """The typed model of a document. Raises UsageError listing every mistake with its place."""
    if not isinstance(document.data, dict):
        raise UsageError(f"{document.place(())}: {what} must be a mapping of keys to values")
    try:
        parsed = model.model_validate(document.data)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        lines = [_message(model, document, e) for e in errors if not _read_further(e, errors)]
        raise UsageError("\n".join(dict.fromkeys(lines))) from error
    for key in _truths_as_numbers(document.data, getattr(parsed, "root", parsed)):
        name = ".".join(map(str, key))
        raise UsageError(f"{document.place(key)}: {name}: expected a number, not yes, no, true or false")
    return parsed


def _truths_as_numbers(data: Any, read: Any, key: Key = ()) -> Iterator[Key]:
    """Where a person wrote yes or no and pydantic read 1 or 0."""
    if isinstance(data, bool) and not isinstance(read, bool):
        yield key
    elif isinstance(data, dict):
        for name, value in data.items():
            read_value = read.get(name, value) if isinstance(read, dict) else getattr(read, str(name), value)
            yield from _truths_as_numbers(value, read_value, (*key, name))
    elif isinstance(data, list) and isinstance(read, list | tuple) and len(data) == len(read):
        for i, (value, read_value) in enumerate(zip(data, read, strict=True)):
            yield from _truths_as_numbers(value, read_value, (*key, i))


def _read_further(error: ErrorDetails, errors: list[ErrorDetails]) -> bool:
    """Whether a value that may be a text or something else is something else, in which a mistake is named as well."""
    place, kind = error["loc"][:-1], str(error["loc"][-1]) if error["loc"] else ""
    inside = (other["loc"] for other in errors if len(other["loc"]) > len(error["loc"]))
    a_text = kind in ("str", "constrained-str") or kind.startswith("literal[")
    return a_text and any(loc[: len(place)] == place for loc in inside)


def _message(model: type[BaseModel], document: Document, error: ErrorDetails) -> str:
    """One mistake as a sentence: place, key, value, what is allowed, nearest valid name."""
    location = _written(document.data, error["loc"], error["type"] == "missing")
    place, name = document.place(location), ".".join(str(part) for part in location) or "the file"
    named = f"{name}: " if location else ""
    value = error.get("input")
    written = repr(value) if isinstance(value, str | int | float | bool | None) else type(value).__name__
    if error["type"] == "extra_forbidden":
        owner = _model_at(model, error["loc"][:-1])
        if owner and (now := new_name(owner, str(location[-1]))):
            return f"{place}: {name} is now {'.'.join(map(str, (*location[:-1], now)))}"
        allowed = list(owner.model_fields) if owner else []
        hint = nearest(str(location[-1]), allowed)
        where = next((f"for {tag}" for tag in _tags(owner) if tag in error["loc"]), "here") if owner else "here"
        listed = f"; allowed {where}: {', '.join(allowed)}" if allowed else ""
        return f"{place}: {name}: unknown key{hint}{listed}"
    if error["type"] == "missing":
        return f"{place}: {name}: this key is missing"
    if error["type"] == "union_tag_invalid":
        tags = [t.strip().strip("'") for t in str(error["ctx"]["expected_tags"]).split(",")]
        tag, key = str(error["ctx"]["tag"]), str(error["ctx"]["discriminator"]).strip("'")
        place = document.place((*location, key))
        return f"{place}: {named}{key} {tag!r} is unknown{nearest(tag, tags)}; allowed: {', '.join(tags)}"
    if error["type"] == "union_tag_not_found":
        return f"{place}: {named}the key 'kind' is missing"
    if error["type"] == "string_type" and isinstance(value, bool):
        written = str(value).lower()
        return f"{place}: {named}expected a text, got {written}: in YAML yes, no, on and off need quotes to be words"
    text = TUPLE.sub("list", MAPPING.sub("a mapping of keys to values", error["msg"].removeprefix("Value error, ")))
    if error["type"] == "value_error":
        first_key = (*location, *text.split()[0].rstrip(":").split("."))  # a rule over several keys names its own first
        return f"{document.places.get(first_key, place)}: {named}{text}"
    if error["type"] == "literal_error" and isinstance(value, str):
        options = [o.strip(" '") for o in str(error["ctx"]["expected"]).replace(" or ", ", ").split(",")]
        text += nearest(value, options)
    return f"{place}: {name}: {written}: {text[0].lower()}{text[1:]}"


def _written(data: Any, location: tuple[str | int, ...], missing: bool) -> Key:
    """The part of pydantic's location that a person wrote, or should have (it adds union tags and names of its own)."""
    written: list[str | int] = []
    for i, part in enumerate(location):
        inside = part in data if isinstance(data, dict) else isinstance(data, list) and part in range(len(data))
        if inside:
            data = data[part]
        elif not (missing and i == len(location) - 1):
            continue
        written.append(part)
    return tuple(written)


def _model_at(model: type[BaseModel], location: tuple[str | int, ...]) -> type[BaseModel] | None:
    """The model class that a location lies in, to list its fields."""
    current = _models_in(model.model_fields["root"].annotation) if issubclass(model, RootModel) else [model]
    for part in location:
        following: list[type[BaseModel]] = []
        for candidate in current:
            if isinstance(part, str) and part in candidate.model_fields:
                following += _models_in(candidate.model_fields[part].annotation)
            else:
                following += [candidate] * (part in _tags(candidate))
        current = following or current
    return current[0] if len(current) == 1 else None


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    """The values of its discriminator that pick a model from a union, or () for one that stands alone."""
    discriminator = model.model_fields.get("kind") or model.model_fields.get("engine")
    return get_args(discriminator.annotation) if discriminator else ()


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Every model class mentioned in a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for part in get_args(annotation) for m in _models_in(part)]
