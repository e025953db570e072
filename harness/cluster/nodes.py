"""Every node of a cluster asked the same, each by a task that runs there."""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.core.store import write_atomic

ANSWER_S = 60.0  # of a node, until it is called silent


def each_node(question: Callable[[Path], Any], path: Path) -> list[tuple[dict[str, Any], Any]]:
    """(The node as Ray lists it, a reference to what it says of `path`) of each one that is alive.

    Those that answer have answered when this returns, or ANSWER_S are over.
    """
    ray: Any = importlib.import_module("ray")
    strategies: Any = importlib.import_module("ray.util.scheduling_strategies")
    there = strategies.NodeAffinitySchedulingStrategy
    asked = [
        (
            node,
            ray.remote(question)
            .options(scheduling_strategy=there(node["NodeID"], soft=False), num_cpus=0)
            .remote(path),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
    references = [reference for _, reference in asked]
    ray.wait(references, num_returns=len(references), timeout=ANSWER_S)
    return asked


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
    ray: Any = importlib.import_module("ray")
    with mark(root) as path:
        for _, reference in each_node(sees, path):
            try:
                if not ray.get(reference, timeout=0):
                    return False
            except ray.exceptions.RayError:
                continue  # the task that goes there says what is wrong
    return True
