"""Where a run works: on one machine, or on a Ray cluster."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from harness.core.record import Record
from harness.errors import UsageError

ADDRESSES = "local, auto, HOST:PORT or ray://HOST:PORT"
ADDRESS = re.compile(r"local|auto|(ray://)?([\w.-]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}", re.ASCII)


def address_of(text: str) -> str:
    """The address of a cluster. Raises ValueError for one that is none."""
    if not ADDRESS.fullmatch(text):
        raise ValueError(f"an address is {ADDRESSES}")
    return text


def address_given(text: str) -> str:
    """The same, of the command line. Raises UsageError."""
    try:
        return address_of(text)
    except ValueError as error:
        raise UsageError(f"--cluster {text!r}: {error}") from error


class Cluster(Record):
    """A Ray cluster, and what of it a run takes. It changes no row and no score."""

    # auto: the one this machine belongs to; local: Ray on this machine alone; None: no cluster is joined
    address: Annotated[str, AfterValidator(address_of)] | None = None
    replicas: Annotated[int, Field(ge=1)] = 1  # engines of each teacher whose weights are loaded here
    tasks: Annotated[int, Field(ge=1)] = 1  # parts that the cells to train are divided into
    # of a replica or a task. None: on this machine alone an even share of its cores, elsewhere 1
    cpus: Annotated[float, Field(gt=0)] | None = None
    # of a task, and of a replica for each of its tensor_parallel_size. None: 1 where the cluster has any
    gpus: Annotated[float, Field(ge=0)] | None = None
    prices: dict[str, Annotated[float, Field(ge=0)]] = {}  # kind of node (as Ray names accelerators, or CPU) -> an hour
    # where students and scores come back: in a folder that all nodes see, or through Ray; auto asks every node
    storage: Literal["auto", "shared", "carried"] = "auto"
    silent_s: Annotated[float, Field(gt=0)] = 900  # a replica that answers nothing for so long is started again
