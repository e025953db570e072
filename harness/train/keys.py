"""The names of what is stored for a cell: digests over all that decides its weights. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from harness.config.run import Train
from harness.core.record import digest, digested
from harness.models.resolve import Model
from harness.records import Row

STAGE_VERSION = 1
BASE = "base"  # what stands for the kind of data where there is none


def cell_key(model: Model, rows: Sequence[Row], settings: Train, steps: int, random_seed: int) -> str:
    """64 hex digits over all that decides an adapter. A base's key is over its weights alone."""
    if not rows:
        return base_key(model)
    resolved = {  # by their first names, under which adapters are stored
        "updates": steps,
        "random_seed": random_seed,
        "batch_rows": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "warmup": settings.warmup_ratio,
        "lora": digested(settings.lora),
    }
    return digest("cell", STAGE_VERSION, model.weights_digest, [row.id for row in rows], resolved)


def base_key(model: Model) -> str:
    """64 hex digits of a model as it is: its weights alone."""
    return digest("base", STAGE_VERSION, model.weights_digest)
