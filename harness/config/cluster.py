"""Where a run works: on one machine, or on a Ray cluster."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import Field

from harness.core.record import Record


class Cluster(Record):
    """A Ray cluster, and what of it a run takes. It changes no row and no score."""

    address: str = "auto"  # auto: the one this machine belongs to; ray://HOST:PORT; local: Ray on this machine alone
    replicas: Annotated[int, Field(ge=1)] = 1  # engines of each teacher whose weights are loaded here
    tasks: Annotated[int, Field(ge=1)] = 1  # parts that the cells to train are divided into
    # that a replica or a task is given; None: on this machine alone an even share of its cores, elsewhere 1
    cpus: Annotated[float, Field(gt=0)] | None = None
    gpus: Annotated[float, Field(ge=0)] | None = (
        None  # the same; None: those of its tensor_parallel_size, where nodes have any
    )
    prices: dict[str, Annotated[float, Field(ge=0)]] = {}  # kind of node (as Ray names accelerators, or CPU) -> an hour
    # where students and scores come back: in a folder that all nodes see, or through Ray; auto asks every node
    storage: Literal["auto", "shared", "carried"] = "auto"
    silent_s: Annotated[float, Field(gt=0)] = 900  # a replica that answers nothing for so long is started again

    def cpus_each(self, parts: int) -> float:
        """What each of so many replicas or tasks is given. Ray tells libraries to use as many threads."""
        if self.cpus is not None:
            return self.cpus
        return max(1, (os.cpu_count() or 1) // parts) if self.address == "local" else 1
