"""Items from files and from the hub: JSONL, CSV, Parquet or a hub dataset, with a mapping of their columns.

Without `fields` and `tags` a row holds our own names and nothing else. With them the columns that are named are
read, our own names are taken where they exist, and all other columns are left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import Discriminator, Field, Tag, ValidationError

from harness.core.json_file import NotJson, as_text, check_values, parse_json
from harness.core.project_file import project_file
from harness.core.record import Record
from harness.core.table_file import FORMATS, INSTALL, Located, read_rows
from harness.errors import MachineError, Mistakes, UsageError, first_line, nearest

M = TypeVar("M", bound=Record)
Check = Callable[[str, M], None]  # given where a record stands; raises UsageError


class HubItems(Record):
    """Rows of a dataset on the Hugging Face hub."""

    hub: Annotated[str, Field(pattern=r"^\w[\w.-]*(/\w[\w.-]*)?$")]  # owner/name
    config: str | None = None
    split: str = "test"
    revision: str | None = None  # commit or tag; without it the items may change from day to day

    @property
    def title(self) -> str:
        """What messages call it."""
        return "/".join(part for part in (self.hub, self.config, self.split) if part)


def written_as(value: object) -> str:
    """The tag of what a person wrote, of a union of the two: a file by its name, or a mapping of keys."""
    return "file" if isinstance(value, str) else "mapping"


Source = Annotated[  # a file, relative to the project, or a hub dataset
    Annotated[str, Tag("file")] | Annotated[HubItems, Tag("mapping")], Discriminator(written_as)
]


def title(source: str | HubItems) -> str:
    """What messages call a source."""
    return source if isinstance(source, str) else source.title


def read_items(
    source: str | HubItems,
    root: Path,
    model: type[M],
    fields: Mapping[str, str],
    tags: Sequence[str],
    place: str,
    check: Check[M] = lambda where, record: None,
    alike: Mapping[str, str] = MappingProxyType({}),
    mapping: str = "fields: {FIELD: COLUMN}",
) -> list[tuple[str, M]]:
    """(where it stands, record) of every row, in order.

    `fields` maps a field of `model` to a column, `tags` names columns whose values become tags. Dots lead into
    nested columns. `alike`: other name of a field -> the field. `place` is where `source` is named, and as what.
    `mapping` is how `fields` are written there.
    Raises UsageError naming file, line or row, field, value and the nearest column for every row that is wrong or
    that `check` refuses. For a library that is not installed it says how to get it.
    """
    fields = {alike.get(name, name): column for name, column in fields.items()}
    unknown = [name for name in fields if name not in model.model_fields]
    if unknown:
        required = {name: field.is_required() for name, field in model.model_fields.items() if name != "tags"}
        names = sorted(required, key=lambda name: not required[name])  # those that every line has come first
        raise UsageError(
            f"{place}: fields: {unknown[0]!r} is no field of an item{nearest(unknown[0], names)};"
            f" allowed: {', '.join(names)}"
        )
    mistakes = Mistakes()
    records = []
    for where, row in locate(source, root, place, mistakes, model, fields):
        with mistakes.noted():
            record = _record(row, where, model, fields, tags, alike, mapping)
            check(where, record)
            records.append((where, record))
    mistakes.check()
    return records


class Texts(Record):
    """A line of which every column may be a text."""


def locate(
    source: str | HubItems,
    root: Path,
    place: str,
    mistakes: Mistakes,
    model: type[Record] = Texts,
    fields: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Located]:
    """(where it stands, columns) of every row of a file or hub dataset. Lines that cannot be read are noted.

    `model` and `fields` say which columns of a hub dataset are wanted as numbers. Raises UsageError for a source that
    cannot be read at all.
    """
    if not isinstance(source, str):
        return _hub_rows(source, model, fields, place)
    path = project_file(root, source, place)
    if path.suffix not in FORMATS:
        raise UsageError(f"{place}: {source} is of no known format; allowed: {', '.join(FORMATS)}")
    return read_rows(path, mistakes)


# --- from a row's columns to a record --------------------------------------------------------------------------


def _record(
    row: Mapping[str, Any],
    where: str,
    model: type[M],
    fields: Mapping[str, str],
    tags: Sequence[str],
    alike: Mapping[str, str],
    mapping: str,
) -> M:
    if fields or tags:
        values_by_field = {
            name: row[name] for name in (*model.model_fields, *alike) if name in row and name not in fields
        }
        values_by_field |= {name: column_at(row, path, f"{where}: {name}") for name, path in fields.items()}
    else:
        values_by_field = dict(row)
    for alias, name in alike.items():
        if alias in values_by_field and (name not in values_by_field or name in fields):
            value = values_by_field.pop(alias)
            values_by_field.setdefault(name, value)
    for name, value in values_by_field.items():
        check_values(value, f"{where}: {name}{_column(name, fields)}")
    for name, info in model.model_fields.items():
        if name in values_by_field:
            values_by_field[name] = _cell(values_by_field[name], _kinds(info.annotation), where)
    # a column of nothing is a column that is not there
    values_by_field = {name: value for name, value in values_by_field.items() if value is not None}
    if tags:
        values = [(path, column_at(row, path, f"{where}: tags")) for path in tags]
        for path, value in values:
            check_values(value, f"{where}: {path}")
        values_by_field["tags"] = (
            *values_by_field.get("tags", ()),
            *(f"{path}={v}" for path, value in values for v in _listed(value)),
        )
    try:
        return model.model_validate(values_by_field)
    except ValidationError as error:
        raise UsageError(_message(error, where, model, row, fields, mapping)) from error


def _message(
    error: ValidationError,
    where: str,
    model: type[Record],
    row: Mapping[str, Any],
    fields: Mapping[str, str],
    mapping: str,
) -> str:
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        return (
            f"{where}: {name}: unknown column{nearest(name, model.model_fields)}; allowed: "
            f"{', '.join(model.model_fields)}; or say which columns to read with {mapping}"
        )
    if first["type"] == "missing":
        return (
            f"{where}: {name}: there is no value{nearest(name, row)}; the columns are: {', '.join(map(str, row))};"
            f" name one with {mapping.replace('FIELD', name)}"
        )
    written = repr(first["input"])
    written = written if len(written) <= 80 else f"{written[:77]}..."
    text = first["msg"].removeprefix("Value error, ")
    if not name:
        return f"{where}: {text}"  # a rule over several fields
    return f"{where}: {name}{_column(name, fields)}: {written}: {text[:1].lower()}{text[1:]}"


def _column(name: str, fields: Mapping[str, str]) -> str:
    return f" (column {fields[name]!r})" if name in fields else ""


def column_at(row: Mapping[str, Any], path: str, what: str) -> Any:
    """The value of a column. Dots lead inwards, through a list by its index. Raises UsageError."""
    if path in row:
        return row[path]
    current: Any = row
    for i, part in enumerate(path.split(".")):
        if isinstance(current, Mapping) and part in current:
            current = current[part]
        elif isinstance(current, list | tuple) and part.isdecimal() and int(part) < len(current):
            current = current[int(part)]
        else:
            inside = f" inside {'.'.join(path.split('.')[:i])!r}" if i else ""
            names = [str(name) for name in current] if isinstance(current, Mapping) else []
            listed = f"; the columns{inside} are: {', '.join(names)}" if names else ""
            raise UsageError(f"{what}: there is no column {part!r}{inside}{nearest(part, names)}{listed}")
    return current


def _kinds(annotation: Any) -> frozenset[type]:
    """The plain types an annotation allows at its top: str, int, tuple, ..."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType, Annotated):
        return frozenset().union(*(_kinds(part) for part in get_args(annotation)))
    kind = origin or annotation
    return frozenset([kind]) if isinstance(kind, type) else frozenset()


def _cell(value: Any, kinds: frozenset[type], where: str) -> Any:
    """A cell as the field takes it: numbers as text, one text as a list of one, a list written as JSON read."""
    if tuple in kinds and str not in kinds:
        return listed_texts(value, where)
    if str in kinds and int not in kinds:
        return as_text(value)
    return value


def listed_texts(value: Any, where: str) -> tuple[Any, ...]:
    """The texts of a cell that holds a list, one text, or a list written as JSON."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(NotJson):  # then it is a text that begins with a bracket
            value = parse_json(value, where)
    return tuple(as_text(v) for v in _listed(value))


def _listed(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


# --- the hub ---------------------------------------------------------------------------------------------------


def _hub_rows(source: HubItems, model: type[Record], fields: Mapping[str, str], place: str) -> Iterator[Located]:
    try:
        import datasets
    except ImportError as error:
        raise UsageError(f"{place}: rows from the hub need datasets, which is not installed: {INSTALL}") from error
    datasets.disable_progress_bars()
    try:
        rows = datasets.load_dataset(source.hub, source.config, split=source.split, revision=source.revision)
    except ConnectionError as error:
        raise MachineError(f"{place}: the hub dataset {source.title} cannot be reached: {first_line(error)}") from error
    except (OSError, ValueError, RuntimeError) as error:  # what the library raises: not there, no such split
        raise UsageError(f"{place}: the hub dataset {source.title} cannot be had: {first_line(error)}") from error
    yield from dataset_rows(rows, source.title, model, fields)


def dataset_rows(rows: Any, title: str, model: type[Record], fields: Mapping[str, str]) -> Iterator[Located]:
    """(where it stands, columns) of a `datasets.Dataset`. A class is given by its name where a field takes text."""
    names = {column: feature.names for column, feature in rows.features.items() if hasattr(feature, "int2str")}
    worded = {column for column in names if not _is_number(column, model, fields)}
    for number, row in enumerate(rows, start=1):
        worded_row = {c: names[c][v] if c in worded and isinstance(v, int) and v >= 0 else v for c, v in row.items()}
        yield f"{title}: row {number}", worded_row


def _is_number(column: str, model: type[Record], fields: Mapping[str, str]) -> bool:
    """Whether a field of ours that takes a column wants its index and not its name."""
    target_fields = [name for name in model.model_fields if fields.get(name, name) == column]
    return any(int in _kinds(model.model_fields[name].annotation) for name in target_fields)


def texts_in(value: Any) -> list[str]:
    """Every text inside a JSON value, in order."""
    if isinstance(value, str):
        return [value]
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [text for part in inside for text in texts_in(part)]
