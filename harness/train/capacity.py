"""Whether a cell's answers hold more than its adapter can: what is said before training. Pure, no torch.

An adapter too small for its rows does not stop learning, it learns more slowly than full fine-tuning would ("LoRA
Without Regret", Schulman et al. 2025, which counts as here: about two bits a parameter against the bits of what is
learned). Two bits a parameter is what networks were found to store after long training (Allen-Zhu and Li 2024).
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping, Sequence

from harness.config.methods import Lora
from harness.records import Row

BITS = 2.0  # that a parameter stores
BITS_A_BYTE = 1.0  # of ordinary text to a language model, at most
NO_LINEAR = ("embed", "wte", "wpe", "lm_head")  # in the names of two-dimensional weights that all-linear leaves out

Shapes = Mapping[str, tuple[int, ...]]  # weight -> its shape, by the names of a model's files


def capacity_note(name: str, rows: Sequence[Row], shapes: Shapes, lora: Lora) -> str | None:
    """A sentence where the answers of a cell's rows hold more bits than its adapter stores. None where they fit."""
    parameters = adapter_parameters(shapes, lora)
    capacity, texts = BITS * parameters, [text for row in rows for text in learned_texts(row)]
    if not parameters or BITS_A_BYTE * sum(len(text.encode()) for text in texts) <= capacity:
        return None
    bits = answer_bits(texts)
    if bits <= capacity:
        return None
    rank = math.ceil(lora.r * bits / capacity)
    return (
        f"{name}: its answers hold about {bits / 1e6:.2g} million bits, its adapter {capacity / 1e6:.2g}"
        f" ({BITS:g} for each of {parameters} parameters): it may learn more slowly than full fine-tuning would;"
        f" lora.r: {rank} holds as much"
    )


def learned_texts(row: Row) -> list[str]:
    """The turns of a row that carry loss."""
    answers = [message.content for message in row.messages if message.role == "assistant"]
    return answers if row.loss == "all" else answers[-1:]


def answer_bits(texts: Sequence[str]) -> float:
    """The bits that texts hold at most: by zlib's size of all together, or one a byte, whichever is smaller.

    zlib finds what repeats, such as labels. One bit a byte is what language models of this size reach on ordinary text.
    """
    joined = "\n".join(texts).encode()
    return min(8.0 * len(zlib.compress(joined, 9)), BITS_A_BYTE * len(joined))


def adapter_parameters(shapes: Shapes, lora: Lora) -> int:
    """How many numbers LoRA trains in a model with weights of these shapes: r x (in + out) for each target.

    DoRA adds out. Modules that are saved whole and single tokens are not counted.
    """
    return sum(
        _rank(module, lora) * sum(shape) + int(lora.use_dora) * shape[0]
        for weight, shape in shapes.items()
        if len(shape) == 2 and _is_target(module := weight.removesuffix(".weight"), lora)
    )


def _is_target(module: str, lora: Lora) -> bool:
    """Whether PEFT puts an adapter into a module of this name."""
    if lora.exclude_modules is not None and _named(module, lora.exclude_modules):
        return False
    if lora.layers_to_transform is not None:
        wanted = lora.layers_to_transform
        layers = [int(part) for part in module.split(".") if part.isdecimal()]
        if not layers or layers[0] not in ((wanted,) if isinstance(wanted, int) else wanted):
            return False
    if lora.target_modules == "all-linear":
        return not any(part in module for part in NO_LINEAR)
    return _named(module, lora.target_modules)


def _named(module: str, names: str | Sequence[str]) -> bool:
    """A text is a regular expression for the whole name. Of a list each is a name, or the last parts of one."""
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _rank(module: str, lora: Lora) -> int:
    """The rank of a module: that of the first pattern that fits the end of its name, else r."""
    patterns = (rank for key, rank in lora.rank_pattern.items() if re.match(rf"(.*\.)?({key})$", module))
    return next(patterns, lora.r)
