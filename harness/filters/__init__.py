"""The closed set of filters. A filter is a frozen record: its fields are its YAML, its method the rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import Field

from harness.errors import UsageError, nearest
from harness.filters.agreement import Agreement
from harness.filters.base import Context, Filter, Protected, Rule
from harness.filters.contamination import Contamination
from harness.filters.judge import Judge
from harness.filters.language import Language
from harness.filters.meaning import Diverse, SemanticDuplicate
from harness.filters.personal_data import PersonalData
from harness.filters.pick import AnyPick, Picker
from harness.filters.python import PythonFilter
from harness.filters.rows import Finished, Format, Length, Refusal, Repetition, Score, Slots
from harness.filters.sets import Balance, Duplicate, NearDuplicate, Novelty
from harness.filters.support import Support

AnyFilter = Annotated[
    Finished
    | Length
    | Format
    | Refusal
    | Repetition
    | Slots
    | Score
    | Language
    | PersonalData
    | Support
    | Duplicate
    | NearDuplicate
    | Novelty
    | SemanticDuplicate
    | Contamination
    | Judge
    | Agreement
    | PythonFilter
    | Balance
    | Diverse,
    Field(discriminator="kind"),
]

__all__ = [
    "Agreement",
    "AnyFilter",
    "AnyPick",
    "Balance",
    "Contamination",
    "Context",
    "Diverse",
    "Duplicate",
    "Filter",
    "Finished",
    "Format",
    "Judge",
    "Language",
    "Length",
    "NearDuplicate",
    "Novelty",
    "PersonalData",
    "Picker",
    "Protected",
    "PythonFilter",
    "Refusal",
    "Repetition",
    "Rule",
    "Score",
    "SemanticDuplicate",
    "Slots",
    "Support",
    "filter_called",
    "filter_names",
    "judges_of",
]


def judges_of(filters: Iterable[AnyFilter]) -> list[Judge]:
    """Every judge among some filters: those that are one, and the two of each agreement."""
    pairs = [(f,) if isinstance(f, Judge) else f.judges for f in filters if isinstance(f, Judge | Agreement)]
    return [judge for judges in pairs for judge in judges]


def filter_names(filters: Sequence[AnyFilter]) -> list[str]:
    """What verdicts and the funnel call each filter: its kind, and its settings where a run has several of a kind."""
    kinds = Counter(filter_.kind for filter_ in filters)
    names: list[str] = []
    for filter_ in filters:
        name = str(filter_.kind)
        if kinds[filter_.kind] > 1:
            settings = filter_.model_dump(exclude_defaults=True, exclude={"kind"})
            name += f"({', '.join(f'{key}={value}' for key, value in settings.items())})"
        names.append(name if name not in names else f"{name} no. {len(names) + 1}")
    return names


def filter_called(name: str, filters: Sequence[AnyFilter]) -> tuple[str, AnyFilter]:
    """(its name in verdicts, the filter) that a person calls by this name in the funnel, or by its kind if it is alone.

    Raises UsageError naming those that there are.
    """
    named = dict(zip(filter_names(filters), filters, strict=True))
    if name not in named:
        there = ", ".join(named) or "none"
        raise UsageError(f"there is no filter {name!r}{nearest(name, named)} in augment.filters; there are: {there}")
    return name, named[name]
