"""The names of what is stored for a cell: digests over all that decides its weights. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.config.methods import Method
from harness.config.run import Train
from harness.core.record import digest, digested
from harness.models.resolve import Model
from harness.records import Row

STAGE_VERSION = 1
BASE = "base"  # what stands for the kind of data where there is none


def cell_key(
    model: Model,
    rows: Sequence[Row],
    settings: Train,
    steps: int,
    random_seed: int,
    method: Method,
    learning_rate: float,
    dev_items: str = "",
    pretraining: str = "",
) -> str:
    """64 hex digits over all that decides a student's weights. A base's key is over its own weights alone.

    `learning_rate` is the number that the method's setting comes to for this model. `dev_items` is a digest of the
    items that early stopping goes by, `pretraining` the key of the cell whose weights are the base's.
    """
    if not rows:
        return base_key(model)
    how: dict[str, Any] = {"lora": digested(method.lora)} if method.lora else {}
    if method.kind != "lora":
        how["method"] = method.kind
    if settings.early_stopping and settings.validation:
        patience, every = settings.early_stopping.patience, settings.validation.every
        how["early_stopping"] = {"patience": patience, "every": every, "dev_items": dev_items}
    if pretraining:
        how["pretraining"] = pretraining
    resolved = {  # by their first names, under which adapters are stored
        "updates": steps,
        "random_seed": random_seed,
        "batch_rows": settings.batch_size,
        "learning_rate": learning_rate,
        "warmup": settings.warmup_ratio,
        **how,
    }
    return digest("cell", STAGE_VERSION, model.weights_digest, [row.id for row in rows], resolved)


def base_key(model: Model) -> str:
    """64 hex digits of a model as it is: its weights alone."""
    return digest("base", STAGE_VERSION, model.weights_digest)
