"""The closed set of filters. A filter is a frozen record: its fields are its YAML, its method the rule."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from harness.filters.base import Context, Filter, Protected, Rule
from harness.filters.contamination import Contamination
from harness.filters.judge import Judge
from harness.filters.language import Language
from harness.filters.meaning import Diverse, SemanticDuplicate
from harness.filters.personal_data import PersonalData
from harness.filters.pick import AnyPick, Picker
from harness.filters.python import PythonFilter
from harness.filters.rows import Finished, Format, Length, Refusal, Repetition, Slots
from harness.filters.sets import Balance, Duplicate, NearDuplicate, Novelty
from harness.filters.support import Support

AnyFilter = Annotated[
    Finished
    | Length
    | Format
    | Refusal
    | Repetition
    | Slots
    | Language
    | PersonalData
    | Support
    | Duplicate
    | NearDuplicate
    | Novelty
    | SemanticDuplicate
    | Contamination
    | Judge
    | PythonFilter
    | Balance
    | Diverse,
    Field(discriminator="kind"),
]

__all__ = [
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
    "SemanticDuplicate",
    "Slots",
    "Support",
]
