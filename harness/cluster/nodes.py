"""Every node of a cluster asked the same, each by a task that runs there."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.core.store import write_atomic

ANSWER_S = 60.0  # of a node, until it is called silent
CPU = "CPU"  # the kind of a node without an accelerator


def each_node(question: Callable[[Path], Any], path: Path) -> list[tuple[dict[str, Any], Any]]:
    """(The node as Ray lists it, a reference to what it says of `path`) of each one that is alive.

    Those that answer have answered when this returns, or ANSWER_S are over.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = [
        (
            node,
            ray.remote(question)
            .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False), num_cpus=0)
            .remote(path),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
    references = [reference for _, reference in asked]
    ray.wait(references, num_returns=len(references), timeout=ANSWER_S)
    return asked


def kind_of(resources: Mapping[str, float]) -> str:
    """The kind of a node with these resources of Ray's."""
    prefix = "accelerator_type:"
    return next((name.removeprefix(prefix) for name in sorted(resources) if name.startswith(prefix)), CPU)


def kinds(nodes: list[dict[str, Any]]) -> dict[str, str]:
    """Host name -> kind of the nodes of a cluster, as `ray.nodes()` lists them."""
    return {node["NodeManagerHostname"]: kind_of(node["Resources"]) for node in nodes if node["Alive"]}


@contextmanager
def mark(root: Path) -> Iterator[Path]:
    """A file in a folder that nodes are asked for, as long as the block takes."""
    path = root / f".seen-by-nodes.{os.getpid()}.{socket.gethostname()}"
    write_atomic(path, "")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def sees(path: Path) -> bool:
    """Whether this node sees a file."""
    return path.is_file()


def all_see(root: Path) -> bool:
    """Whether every node that answers sees a folder of this machine."""
    import ray

    with mark(root) as path:
        for _, reference in each_node(sees, path):
            try:
                if not ray.get(reference, timeout=0):
                    return False
            except ray.exceptions.RayError:
                continue  # the task that goes there says what is wrong
    return True
