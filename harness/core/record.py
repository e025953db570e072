"""What every record of ours is: frozen, strict, and named by a digest over an explicit list of its fields."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

FORMAT = 1
COUNTS: Any = object()  # in the place of a default: the field counts whatever it says
CANONICAL = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"))


class Record(BaseModel):
    """A frozen value that forbids unknown fields."""

    __slots__ = ("_name", "_written")  # beside the fields: pydantic neither compares nor copies them

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    def _named_once(self, name: Callable[[], str]) -> str:
        """The digest that names the record, worked out when it is first asked for. A copy has one of its own."""
        found: str = getattr(self, "_name", "")
        if not found:
            found = name()
            object.__setattr__(self, "_name", found)
        return found


R = TypeVar("R", bound=Record)


def compact(record: R) -> R:
    """The record itself, for those that are kept by the hundred thousand: with one set of its fields' names for all.

    Pydantic keeps a set of the fields that were given for each, of 216 to 728 bytes. Nobody asks it of these.
    """
    object.__setattr__(record, "__pydantic_fields_set__", _field_names(type(record)))
    return record


@cache
def _field_names(model: type[BaseModel]) -> set[str]:
    return set(model.model_fields)


def digest(*parts: Any) -> str:
    """64 hex digits of SHA-256 over the canonical JSON of `parts`."""
    return digest_of_json(CANONICAL.encode(parts))


def digest_of_json(text: str) -> str:
    """The `digest` of parts whose canonical JSON, a list, is `text`."""
    return hashlib.sha256(text.encode()).hexdigest()


# The fields that a digest holds whatever they say; one that was added since counts where it is not at its default.
FIRST_FIELDS = {
    "Request": "model prompt messages sampling template_digest sample_index",
    "Message": "role content",
    "Sampling": "temperature top_p max_tokens stop choices json_schema logprobs",
    "Lora": "r lora_alpha lora_dropout target_modules",
    "LabelsSuite": "version kind max_tokens",
    "AnswersSuite": "version kind answer asked max_tokens",
    "FactsSuite": "version kind match asked max_tokens",
    "UnanswerableSuite": "version kind asked max_tokens",
    "ChoiceSuite": "version kind context normalise",
    "BenchmarkSuite": "version kind benchmark num_fewshot num_fewshot_without_rows form limit",
    "OpenEndedSuite": "version kind max_tokens repeats temperature moderation canaries",
    "TextAnswer": "kind match",
    "NumberAnswer": "kind tolerance relative_tolerance decimal take",
    "JsonAnswer": "kind json_schema",
    "Rubric": "kind rubric judge form prompt planted",
    "PythonModeration": "file function",
}

# Fields that a file spells otherwise than before: model -> name -> the first one, by which digests know it for good.
FIRST_NAMES = {
    "VLLMTeacher": {"gpu_memory_utilization": "memory", "tensor_parallel_size": "tensor_parallel"},
    "Augment": {"rows_file": "own_rows", "requests_per_row": "oversample", "max_requests_per_row": "max_requests"},
    "Train": {
        "batch_size": "batch_rows",
        "warmup_ratio": "warmup",
        "max_length": "max_tokens",
        "min_steps": "min_updates",
    },
}


def first_name(model: type[BaseModel], field: str) -> str:
    """The name by which a digest knows a field."""
    return FIRST_NAMES.get(model.__name__, {}).get(field, field)


def new_name(model: type[BaseModel], field: str) -> str | None:
    """What a field of another name is called now, or None for one that never was."""
    return {old: new for new, old in FIRST_NAMES.get(model.__name__, {}).items()}.get(field)


def digested(value: BaseModel, without: Collection[str] = ()) -> dict[str, Any]:
    """A record as the plain data that its digest is taken over. `without` names fields of it that do not count."""
    plain: dict[str, Any] = value.model_dump(mode="json", exclude=set(without))
    _forget_defaults(plain, value)
    return plain


def canonical(value: Record, without: tuple[str, ...] = ()) -> str:
    """The canonical JSON of `digested(value, without)`, for a record of plain data that is digested by the thousand.

    It is put together from the fields, and a record among them is written once, however many share it.
    """
    pairs: list[str] = []
    for name, default in _sorted_fields(type(value), without):
        part = getattr(value, name)
        if default is COUNTS or part != default:
            pairs.append(f'"{name}":{_written(part)}')
    return f"{{{','.join(pairs)}}}"


def _written(part: Any) -> str:
    if type(part) is str:
        return CANONICAL.encode(part)
    if type(part) is int:
        return str(part)
    if isinstance(part, Record):
        written: str = getattr(part, "_written", "")
        if not written:
            written = canonical(part)
            object.__setattr__(part, "_written", written)
        return written
    if isinstance(part, tuple):
        return f"[{','.join(map(_written, part))}]"
    return CANONICAL.encode(part)


@cache
def _sorted_fields(model: type[BaseModel], without: tuple[str, ...]) -> tuple[tuple[str, Any], ...]:
    """(name, the default at which it does not count, or COUNTS), by name."""
    later = dict(_later_fields(model))
    return tuple((name, later.get(name, COUNTS)) for name in sorted(model.model_fields) if name not in without)


def _forget_defaults(plain: Any, value: Any) -> None:
    """Take fields that are not of FIRST_FIELDS, and at their default, out of a dumped record and those in it."""
    if type(plain) is list:
        for part, field_value in zip(plain, value, strict=True):
            _forget_defaults(part, field_value)
    elif type(plain) is dict and isinstance(value, BaseModel):
        for name, default in _later_fields(type(value)):
            if name in plain and getattr(value, name) == default:
                del plain[name]
        for name, part in plain.items():
            if type(part) in (dict, list):  # most are neither
                _forget_defaults(part, getattr(value, name))


@cache
def _later_fields(model: type[BaseModel]) -> tuple[tuple[str, Any], ...]:
    """(name, default) of the fields that were added since the first format."""
    first = FIRST_FIELDS.get(model.__name__, "kind").split()
    return tuple(
        (name, info.get_default(call_default_factory=True))
        for name, info in model.model_fields.items()
        if name not in first
    )
