"""Rows to order: so many kept ones of a label, or of a value of an attribute, and what of that cannot be had."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated

from pydantic import Field

from harness.config.attributes import Attribute, can_hold
from harness.errors import nearest
from harness.filters import AnyFilter, Balance, Diverse

LABEL = "label"  # the name of a quota of labels; attributes cannot be called so

Quota = dict[Annotated[str, Field(min_length=1)], Annotated[int, Field(ge=1)]]  # value -> kept rows, at least
Quotas = dict[str, Annotated[Quota, Field(min_length=1)]]  # label, or an attribute -> its quota
Problem = tuple[tuple[str, ...], str]  # the key below `quotas`, and what is wrong there


def quota_problems(
    quotas: Quotas,
    attributes: Mapping[str, Attribute],
    labels: Collection[str],
    rows: int,
    filters: Sequence[AnyFilter],
) -> Iterator[Problem]:
    """Everything that is wrong with the quotas of a run that keeps `rows` rows, whose task has these labels."""
    for name, quota in quotas.items():
        if name == LABEL:
            problem = "" if labels else "the task has no labels"
            possible: Collection[str] = labels
        else:
            problem = _attribute_problem(name, attributes, labels)
            possible = [] if problem else attributes[name].values
        if problem:
            yield (name,), problem
            continue
        for value in quota:
            if value not in possible:
                yield (name, value), f"{value!r} is none of its values{nearest(value, possible)}: {', '.join(possible)}"
            elif name != LABEL and not attributes[name].values[value]:
                yield (name, value), f"its weight in augment.attributes.{name} is 0, so that it is never drawn"
        if (total := sum(quota.values())) > rows:
            yield (name,), f"its values are {total} rows together, and augment.rows is {rows}"
        yield from _capped(name, quota, filters)


def most_kept(filter_: AnyFilter, attributes: Mapping[str, Attribute], labels: Collection[str]) -> int | None:
    """Rows that a filter which chooses among rows keeps at most, however many there are. None where it has no limit."""
    if isinstance(filter_, Diverse):
        return filter_.rows
    if not isinstance(filter_, Balance) or filter_.most is None:
        return None
    if not filter_.attribute:
        return filter_.most * len(labels) or None
    attribute = attributes[filter_.attribute]
    values = sum(map(bool, attribute.values.values()))
    return filter_.most * (values + bool(attribute.when)) if values else None  # where no condition holds it is empty


def _attribute_problem(name: str, attributes: Mapping[str, Attribute], labels: Collection[str]) -> str:
    """Why no value of this name can be ordered, or ''."""
    if name not in attributes:
        names = [*([LABEL] if labels else []), *(other for other in attributes if attributes[other].values)]
        there = f": {', '.join(names)}" if names else ", and the run has neither"
        return f"{name!r} is neither {LABEL!r} nor an attribute with values{nearest(name, names)}{there}"
    if not attributes[name].values:
        how = "drawn from a range" if attributes[name].range else "computed"
        return f"the attribute is {how}: only one with `values` can be ordered"
    if not can_hold(name, attributes):
        return f"its condition (augment.attributes.{name}.when) never holds, so that it has no value"
    return ""


def _capped(name: str, quota: Quota, filters: Sequence[AnyFilter]) -> Iterator[Problem]:
    """Values of which a filter keeps fewer than are ordered."""
    for filter_ in filters:
        if isinstance(filter_, Balance) and filter_.most is not None and (filter_.attribute or LABEL) == name:
            for value, wanted in quota.items():
                if wanted > filter_.most:
                    yield (name, value), f"{wanted} are ordered, and the filter balance keeps {filter_.most} at most"
