"""What a base in 4 bits needs of a machine, asked before any cell is trained. No torch."""

from __future__ import annotations

from collections.abc import Iterable

from harness.errors import MachineError
from harness.train.grid import GridCell


def require_four_bits(cells: Iterable[GridCell], device: str, has_bitsandbytes: bool) -> None:
    """Raises MachineError where a cell is to be tuned by QLoRA and the machine cannot load its base in 4 bits.

    `device` is cpu or cuda. Such a cell is scored like any other: its adapter is merged into the base as it is stored.
    """
    named = next((planned for planned in cells if planned.rows and planned.method.kind == "qlora"), None)
    if named is None or (device == "cuda" and has_bitsandbytes):
        return
    lacks = "bitsandbytes is not installed: pip install bitsandbytes" if device == "cuda" else "there is none here"
    need = "the package bitsandbytes" if device == "cuda" else "an NVIDIA GPU"
    raise MachineError(
        f"{named.cell.name}: train.methods: kind qlora tunes on a base in 4 bits, which takes {need}, and {lacks}."
        " Nothing is trained yet: run it on another machine, or take kind: lora"
    )
