"""Python's search for reference cycles, made rarer where records by the million are made and kept."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

OBJECTS = 50_000  # that are new and alive, after which the search begins; Python's own default is 700


@contextmanager
def collecting_rarely() -> Iterator[None]:
    """Search less often inside the block. Measured: among the records of a run it finds nothing, and took 38% of the
    time until the first call that was not stored.
    """
    before = gc.get_threshold()
    gc.set_threshold(max(OBJECTS, before[0]) if before[0] else 0, *before[1:])  # 0: somebody has switched it off
    try:
        yield
    finally:
        gc.set_threshold(*before)
