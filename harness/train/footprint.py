"""What training takes: bytes on disk, and an estimate of the memory at the peak. No torch.

All of it follows from the shapes of the student's weights, the methods, and the tokens of one pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.config.methods import Lora, Method
from harness.config.run import Train
from harness.models.files import text_number, weight_shapes
from harness.train.capacity import Shapes, adapter_parameters

FLOAT = 4  # bytes; what is tuned, and its optimizer's state, are float32
TUNED = 4  # numbers for each that is tuned: itself, its gradient, two moments
STATE = 3  # of these a checkpoint holds: itself and the moments
CHECKPOINTS = 3  # while the third is written two are kept
OTHER_FILES = 2**20  # bytes of a cell's other files, at most
HALF = 2  # bytes of a number in bfloat16, in which models are stored
FOUR_BITS = 0.55  # bytes of a number in NF4, its scales included
ACTIVATIONS = 2.9  # bytes kept for the backward pass, for each token and each input and output of a linear layer
SCORES = 4  # bytes for each token, head of attention and token that it may attend to
LOGITS = 14  # bytes for each token that carries loss and each token of the vocabulary
PROCESS = 600 * 2**20  # bytes of Python and its libraries, where they share the memory


@dataclass(frozen=True)
class Architecture:
    """A student in numbers."""

    shapes: Shapes
    parameters: int
    linear: int  # inputs and outputs of all its linear layers, the head left out
    vocabulary: int  # tokens
    heads: int  # of attention, in all layers together

    def tuned(self, method: Method) -> int:
        """How many numbers a method tunes."""
        return adapter_parameters(self.shapes, method.lora) if method.lora else self.parameters


@dataclass(frozen=True)
class Passes:
    """The largest forward and backward pass of a training."""

    cells: int  # that share it
    tokens: int
    learned: int  # tokens that carry loss
    longest: int  # tokens of a row


@dataclass(frozen=True)
class Footprint:
    """Bytes at the peak of training, by what they are for."""

    base: int
    tuned: int  # with its gradients and the optimizer's state
    activations: int
    logits: int
    process: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.base + self.tuned + self.activations + self.logits + self.process

    @property
    def words(self) -> str:
        """The total and its parts."""
        return f"{size(self.total)} ({', '.join(f'{name} {size(part)}' for name, part in vars(self).items() if part)})"


def architecture(name: str, folder: Path) -> Architecture | None:
    """The numbers of the model in a folder. None without the library that reads them.

    Raises UsageError naming a file that cannot be read.
    """
    shapes = weight_shapes(folder)
    if not shapes:
        return None
    vocabulary, heads, layers = (
        text_number(name, folder / "config.json", key) or 0
        for key in ("vocab_size", "num_attention_heads", "num_hidden_layers")
    )
    parameters = sum(math.prod(shape) for shape in shapes.values())
    # an adapter of rank 1 in every linear layer has a number for each input and output
    return Architecture(shapes, parameters, adapter_parameters(shapes, Lora(r=1)), vocabulary, heads * layers)


def stored_bytes(student: Architecture, method: Method) -> int:
    """Bytes of a stored cell, about: an adapter, or a whole model."""
    return (FLOAT if method.lora else HALF) * student.tuned(method) + OTHER_FILES


def checkpoint_bytes(student: Architecture, method: Method, cells: int, best: bool = False) -> int:
    """Bytes of the checkpoints that are there at once, of so many cells in work.

    `best`: they hold the best weights so far too, as early stopping does.
    """
    return CHECKPOINTS * (STATE + best) * FLOAT * student.tuned(method) * cells


def largest_pass(
    lengths: Sequence[int], learned: Sequence[int], batch_size: int, micro_batch_tokens: int, cells: int
) -> Passes:
    """What one pass holds at most. `lengths` and `learned` are each row's tokens, and those that carry loss.

    As many cells share a pass as have room for a step each. Shared beginnings of rows make it smaller.
    """
    step = batch_size * sum(lengths) / len(lengths)
    together = max(1, min(cells, int(micro_batch_tokens // step)))
    longest = max(lengths)
    tokens = max(longest, min(micro_batch_tokens, batch_size * together * longest))
    losses = max([*learned, round(tokens * sum(learned) / sum(lengths))])
    return Passes(together, tokens, losses, longest)


def peak_memory(
    student: Architecture, method: Method, largest: Passes, weight_bytes: int, shared: bool, best: bool = False
) -> Footprint:
    """An estimate of the memory at the peak. The constants are those of tests/bench/bench_footprint.py.

    `weight_bytes` is what a number of the base takes. `shared`: the process takes of the same memory, as on a CPU.
    `best` as of `checkpoint_bytes`.
    """
    a_token = ACTIVATIONS * student.linear + SCORES * student.heads * largest.longest
    base = FOUR_BITS if method.kind == "qlora" else weight_bytes
    return Footprint(
        base=round(base * student.parameters),
        tuned=FLOAT * (TUNED + best) * student.tuned(method) * (largest.cells if method.kind == "lora" else 1),
        activations=round(a_token * largest.tokens),
        logits=LOGITS * largest.learned * student.vocabulary,
        process=PROCESS if shared else 0,
    )


def footprint(
    student: Architecture, settings: Train, methods: Sequence[Method], lengths: Sequence[int], learned: Sequence[int],
    weight_bytes: int, shared: bool,
) -> tuple[int, Footprint]:  # fmt: skip
    """(Bytes on disk, memory at the peak) of training one cell for each of `methods`. Arguments as of the parts."""
    adapters = sum(method.kind == "lora" for method in methods)
    largest = largest_pass(lengths, learned, settings.batch_size, settings.micro_batch_tokens, max(1, adapters))
    disk = sum(stored_bytes(student, method) for method in methods)
    best = settings.early_stopping is not None
    disk += max(checkpoint_bytes(student, m, largest.cells if m.kind == "lora" else 1, best) for m in methods)
    peaks = [peak_memory(student, method, largest, weight_bytes, shared, best) for method in methods]
    return disk, max(peaks, key=lambda peak: peak.total)


def size(count: float) -> str:
    """Bytes in words: "312 MiB", "2.1 GiB"."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
