"""Values that are drawn or computed for each row, for templates to write about: topics, tones, numbers, their sum."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from harness.core.record import Record
from harness.core.templates import Template, compile_template
from harness.core.text import printable

Number = Annotated[int, Field(gt=-(10**12), lt=10**12)]


class Attribute(Record):
    """One value of a row: drawn from `values` by weight, a whole number of `range`, or what `compute` renders to.

    It is empty where `when` does not hold. Conditions and `compute` see the attributes above this one.
    """

    values: dict[str, Annotated[float, Field(ge=0)]] = {}  # value -> weight
    range: tuple[Number, Number] | None = None  # the smallest and the largest
    step: Annotated[int, Field(ge=1)] = 1  # between two numbers of `range`
    compute: str = ""  # a template, such as "{{ price * count }}"
    when: dict[str, tuple[str, ...]] = {}  # attribute -> values: only where it has one of these

    @model_validator(mode="before")
    @classmethod
    def _texts(cls, written: Any) -> Any:
        if isinstance(written, list):  # short for values that are drawn evenly
            written = {"values": written}
        if not isinstance(written, dict):
            return written
        read = dict(written)
        if isinstance(values := read.get("values"), list):
            if len(set(map(_text, values))) < len(values):
                raise ValueError(f"values {values} repeats one")
            read["values"] = {_text(value): 1 for value in values}
        elif isinstance(values, dict):
            read["values"] = {_text(value): weight for value, weight in values.items()}
        if isinstance(when := read.get("when"), dict):
            read["when"] = {
                name: [_text(value) for value in (values if isinstance(values, list) else [values])]
                for name, values in when.items()
            }
        return read

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if "values" in self.model_fields_set and not self.values:
            raise ValueError("values: it names no value")
        if (bool(self.values), self.range is not None, bool(self.compute)).count(True) != 1:
            raise ValueError("give one of values, range and compute")
        if self.values and not sum(self.values.values()):
            raise ValueError(f"values {list(self.values)}: all weights are 0, so that none could be drawn")
        if self.range and self.range[0] > self.range[1]:
            raise ValueError(f"range {list(self.range)}: the smallest number comes first")
        return self


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


Attributes = dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], Attribute]


def conditions_problem(attributes: Mapping[str, Attribute]) -> str:
    """What is wrong with the conditions of attributes, or ''."""
    above: list[str] = []
    for name, attribute in attributes.items():
        for other, values in attribute.when.items():
            if other not in above:
                return (
                    f"attributes.{name}.when: {other!r} is no attribute above this one: {', '.join(above) or 'none is'}"
                )
            possible = attributes[other].values
            wrong = next((value for value in values if possible and value not in possible), None)
            if wrong is not None:
                return f"attributes.{name}.when.{other}: {wrong!r} is none of its values: {', '.join(possible)}"
        above.append(name)
    return ""


def computed(attributes: Mapping[str, Attribute], place: str) -> dict[str, Template]:
    """The compiled templates of computed attributes. Raises UsageError naming the attribute."""
    return {
        name: compile_template(Path(f"{place}.attributes.{name}.compute"), attribute.compute)
        for name, attribute in attributes.items()
        if attribute.compute
    }


def can_hold(name: str, attributes: Mapping[str, Attribute]) -> bool:
    """Whether an attribute can have a value at all, as far as its conditions on listed values tell, one by one."""
    return all(
        can_hold(other, attributes)
        and (not attributes[other].values or any(attributes[other].values[value] for value in allowed))
        for other, allowed in attributes[name].when.items()
    )


def draw_attributes(
    attributes: Mapping[str, Attribute],
    templates: Mapping[str, Template],
    draw: random.Random,
    weights: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, str | int]:
    """One value of each attribute, in their order. A number stays a number, so that templates can count with it.

    What is drawn for one attribute does not depend on whether another's condition holds. `weights` take the place of
    an attribute's own, value for value.
    """
    drawn: dict[str, str | int] = {}
    for name, attribute in attributes.items():
        holds = all(str(drawn[other]) in values for other, values in attribute.when.items())
        if attribute.compute:
            drawn[name] = printable(templates[name].render(**drawn)).strip() if holds else ""
            continue
        if attribute.range:
            low, high = attribute.range
            value: str | int = low + attribute.step * draw.randrange((high - low) // attribute.step + 1)
        else:
            of_values = weights[name] if weights and name in weights else attribute.values
            (value,) = draw.choices(list(of_values), list(of_values.values()))
        drawn[name] = value if holds else ""
    return drawn
