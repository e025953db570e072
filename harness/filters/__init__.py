"""The closed set of filters. A filter is a frozen record: its fields are its YAML, its method the rule."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

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
    "judges_of",
]


def judges_of(filters: Iterable[AnyFilter]) -> list[Judge]:
    """Every judge among some filters: those that are one, and the two of each agreement."""
    pairs = [(f,) if isinstance(f, Judge) else f.judges for f in filters if isinstance(f, Judge | Agreement)]
    return [judge for judges in pairs for judge in judges]
