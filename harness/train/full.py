"""Full fine-tuning: all weights of a student are tuned, in float32, and it is stored as a model of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.models.files import copy_companions


@dataclass(frozen=True)
class AllWeights:
    """A whole network in training."""

    network: Any
    dtype: torch.dtype  # in which it was loaded, and is stored
    source: Path  # the folder that it was loaded from

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All weights, in one order."""
        return list(self.network.parameters())

    def save(self, folder: Path) -> None:
        """Write a model folder: the weights as safetensors, and beside them all files of the student but its weights.

        Raises OSError or SafetensorError where it cannot be written.
        """
        tensors = {name: weight.to(self.dtype) for name, weight in self.network.state_dict().items()}
        self.network.save_pretrained(folder, state_dict=tensors, safe_serialization=True)
        copy_companions(self.source, folder)


@contextmanager
def all_weights(network: Any, source: Path) -> Iterator[AllWeights]:
    """All weights of a network to be tuned inside the block, and as they were after it.

    They are float32 inside it, since small steps are lost in bfloat16. Products are the caller's to make in
    less (autocast).
    """
    dtype = next(network.parameters()).dtype
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    network.float().requires_grad_(True)
    try:
        yield AllWeights(network, dtype, source)
    finally:
        network.to(dtype).requires_grad_(False)
        with torch.no_grad():
            for name, weight in network.named_parameters():
                weight.copy_(before[name])
                weight.grad = None
