"""What the kinds of suites share: the keys that every suite file has, and how items are read and checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from harness.core.project_file import project_file
from harness.core.record import Record
from harness.data.columns import Check, Source, read_items
from harness.data.lines import ItemLine
from harness.errors import Mistakes, UsageError
from harness.records import Item
from harness.suites.suite import AskedAs, Limit, SuiteFile

Line = TypeVar("Line", bound=Record)
Located = tuple[str, Item]  # where an item stands, and what it is
AskedForm = Literal["task", "plain"]  # what a suite file may choose between


class SuiteBase(Record):
    """What every suite file says."""

    version: Annotated[int, Field(ge=1)] = 1
    changes: dict[str, str] = {}  # version -> dated note
    limits: dict[str, Limit] = {}  # metric -> what `check` allows
    primary: str | None = None  # the metric that sums the suite up; None: the first of the kind's `item_metrics`


class ItemsSuite(SuiteBase):
    """What every suite with items of its own says."""

    items: Source  # a JSONL, CSV or Parquet file, or a hub dataset; the kind says what an item holds
    fields: dict[str, str] = {}  # our field -> column, dots lead into nested ones
    tags: tuple[str, ...] = ()  # columns whose values results are broken down by


def read_lines(
    suite: ItemsSuite, file: SuiteFile, line: type[Line], check: Check[Line] = lambda place, line: None
) -> list[tuple[str, Line]]:
    """(place, line) of every line of a suite's items. Raises UsageError naming file, line and value."""
    place = f"{file.place(('items',))}: items"
    return read_items(suite.items, file.root, line, suite.fields, suite.tags, place, check)


def checked_items(source: str, located: Sequence[Located], asked_as: AskedAs) -> tuple[Item, ...]:
    """The items. Raises UsageError where there are none, where two are the same, or where a split is empty.

    `source` is what messages call the place they come from.
    """
    if not located:
        raise UsageError(f"{source}: there are no items in it")
    first: dict[str, str] = {}
    mistakes = Mistakes()
    for place, item in located:
        if first.setdefault(item.id, place) != place:
            mistakes.note(f"{place}: the same item stands at {first[item.id]}")
    mistakes.check()
    if asked_as == "task" and {item.split for _, item in located} != {"dev", "test"}:
        raise UsageError(
            f"{source}: all {len(located)} items are {located[0][1].split} items. Choices are made on dev items and"
            " claims on test items: write more items (a quarter is dev, by digest), or `split: dev` or `test` on a line"
        )
    return tuple(item for _, item in located)


def require_files(file: SuiteFile, names: dict[str, str | None]) -> None:
    """Raises UsageError for a key of a suite file that names a file which is not there."""
    for key, name in names.items():
        if name:
            project_file(file.root, name, f"{file.place((key,))}: {key}")


def about(line: ItemLine) -> dict[str, Any]:
    """What a line says of its item beside question and answer, by the field names of an item."""
    return {"tags": line.tags, "group": line.group, "stratum": line.stratum, "stated_split": line.split}
