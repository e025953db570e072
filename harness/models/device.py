"""Where torch computes, and one clear message where its memory does not suffice."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from harness.core.memory import available_memory
from harness.errors import MachineError, UsageError

Device = Literal["cpu", "cuda"]


def device_of(name: str) -> Device:
    """`auto` takes a CUDA device where there is one. Raises UsageError for a device this machine has not."""
    available = torch.cuda.is_available()
    if name == "cpu" or (name == "auto" and not available):
        return "cpu"
    if name in ("auto", "cuda") and available:
        return "cuda"
    has = "auto, cpu or cuda" if available else "auto or cpu (this machine shows no CUDA device)"
    raise UsageError(f"device {name!r}: it must be {has}")


def dtype_of(device: Device) -> torch.dtype:
    """bfloat16 where the processor computes in it. Elsewhere float32 is several times faster."""
    if device == "cuda":
        return torch.bfloat16
    able = [name for name, has in torch.cpu.get_capabilities().items() if has and "bf16" in name]
    return torch.bfloat16 if able else torch.float32


def free_memory(device: Device) -> int | None:
    """Bytes that a device, or on a CPU this machine, still has. None where that is not known."""
    return torch.cuda.mem_get_info()[0] if device == "cuda" else available_memory()


@contextmanager
def memory_errors(what: str, setting: str) -> Iterator[None]:
    """Turn a lack of memory into MachineError: what was done, and which setting needs less when it is lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch's own error is a RuntimeError
        lack = isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
        if not lack:
            raise
        raise MachineError(f"{what}: memory ran out: {str(error)[:200]}; lower {setting}") from error


def peak_memory(device: torch.device) -> int:
    """Bytes at most so far: of the GPU's memory, or of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
