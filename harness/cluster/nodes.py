"""The nodes of a cluster: what each is, whether it can work for a run, and how much room they have."""

from __future__ import annotations

import os
import platform
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypedDict

import harness
from harness.config.cluster import Cluster
from harness.core.store import write_atomic
from harness.errors import MachineError, UsageError, first_line

ANSWER_S = 60.0  # of a node, until it is called silent
HEAD_S = 10.0  # of the head
CPU = "CPU"  # the kind of a node without an accelerator
PACKAGES = ("torch", "transformers", "peft", "vllm")
RAY_MARKS = re.compile(r"\x1b\[[0-9;]*m|\(pid=[^)]*\)")  # colours, and where its process was


class Seen(TypedDict):
    """What a node says of itself."""

    harness: str  # the package's version
    python: str
    shared: bool  # whether it sees the folder
    missing: list[str]  # of PACKAGES


@dataclass(frozen=True)
class Found:
    """One node, as it is listed, and what it said when it was asked."""

    id: str
    name: str  # of the host, with its address
    resources: Mapping[str, float]
    seen: Seen | None  # None: it said nothing
    why: str = ""  # it cannot work for a run; empty where it can


@dataclass(frozen=True)
class Able:
    """The nodes that can work for a run. `left_out`: ids of those that cannot."""

    nodes: tuple[Found, ...]
    left_out: tuple[str, ...] = ()

    @property
    def selector(self) -> dict[str, str] | None:
        """What keeps Ray from placing work on the others."""
        return {"ray.io/node-id": f"!in({','.join(self.left_out)})"} if self.left_out else None

    @property
    def all_see(self) -> bool:
        """Whether all of them see the folder that they were asked for."""
        return all(node.seen is not None and node.seen["shared"] for node in self.nodes)

    def room(self, cpus: float, gpus: float) -> int:
        """How many parts that want so much have room at the same time, at least one. Raises UsageError for none."""
        wanted = {kind: amount for kind, amount in (("CPU", cpus), ("GPU", gpus)) if amount}
        if not wanted:
            return 2**31
        fits = sum(
            int(min(node.resources.get(kind, 0) / amount for kind, amount in wanted.items())) for node in self.nodes
        )
        if not fits:
            has = "; ".join(f"{node.name}: {size(node.resources)}" for node in self.nodes)
            raise UsageError(
                f"no node has {amounts(cpus, gpus)}, which a part of the work is to have (cluster.cpus, cluster.gpus):"
                f" {has}"
            )
        return fits


class Nodes:
    """The nodes of the cluster that is joined, each asked once. One that cannot work is left out, and that is said."""

    def __init__(self, root: Path, say: Callable[[str], None]) -> None:
        self._root, self._say = root, say
        self._lock = threading.Lock()
        self._able: Able | None = None

    def look_again(self) -> None:
        """Ask them once more when they are wanted next: one was lost."""
        with self._lock:
            self._able = None

    def require_head(self) -> None:
        """Raises MachineError where the head of the cluster answers no more: then nothing can be started again."""
        import ray

        with suppress(AttributeError):  # a client of ray:// has none, and hears it from its own connection
            host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
            try:
                socket.create_connection((host, int(port)), timeout=HEAD_S).close()
            except OSError as error:
                raise MachineError(
                    f"the head of the cluster at {host}:{port} is gone ({first_line(error)}): start it again, then the"
                    " same command goes on"
                ) from error

    def able(self) -> Able:
        """Those that can work. Raises MachineError where none can."""
        with self._lock:
            if self._able is None:
                found = ask(self._root)
                bad = [node for node in found if node.why]
                for node in bad:
                    self._say(f"the node {node.name} is left out: {node.why}")
                if len(bad) == len(found):
                    raise MachineError(f"no node of the cluster can work: {found[0].name}: {found[0].why}")
                able = tuple(node for node in found if not node.why)
                self._able = Able(able, tuple(node.id for node in bad))
            return self._able


def ask(root: Path) -> list[Found]:
    """Every node that is alive, with what it says of itself and of a folder of this machine."""

    with _mark(root) as path:
        return [_found(node, answer) for node, answer in _each_node(look, path)]


def look(path: Path) -> Seen:
    """What this node is, and whether it sees a file."""
    return {
        "harness": harness.__version__,
        "python": platform.python_version(),
        "shared": path.is_file(),
        "missing": [name for name in PACKAGES if find_spec(name) is None],
    }


def other_version(there: str, here: str = harness.__version__) -> str:
    """What is said of a node with another version of this package than this machine has. Empty for the same one."""
    return "" if there == here else f"it has harness {there}, this machine has {here}: install the same there"


def why_unable(seen: Seen) -> str:
    """Why a node that says so of itself cannot work for a run of this machine. Empty where it can."""
    if other := other_version(seen["harness"]):
        return other
    lacks = [name for name in seen["missing"] if name != "vllm"]  # who trains and scores needs no vLLM
    return f"{', '.join(lacks)} not installed: `make setup` there" if lacks else ""


def kind_of(resources: Mapping[str, float]) -> str:
    """The kind of a node with these resources of Ray's."""
    prefix = "accelerator_type:"
    return next((name.removeprefix(prefix) for name in sorted(resources) if name.startswith(prefix)), CPU)


def wish(cluster: Cluster, parts: int, parallel: int = 1) -> tuple[float, float]:
    """(CPUs, GPUs) of each of so many replicas or tasks. `parallel`: GPUs that one works on together.

    Ray has libraries use as many threads as CPUs.
    """
    import ray

    has = ray.cluster_resources()
    gpus = float(bool(has.get("GPU"))) if cluster.gpus is None else cluster.gpus
    share = even_share(has.get("CPU", 1), parts) if cluster.address == "local" else 1.0
    return share if cluster.cpus is None else cluster.cpus, gpus * parallel


def even_share(cpus: float, parts: int) -> float:
    """What each of so many parts gets: whole CPUs, or below one as much as Ray counts, so that all of them fit."""
    share = cpus / parts
    return float(int(share)) if share > 1 else int(share * 10_000) / 10_000


def amounts(cpus: float, gpus: float) -> str:
    """So many CPUs and GPUs, in words."""
    return f"{cpus:g} CPU{'s' * (cpus != 1)} and {gpus:g} GPU{'s' * (gpus != 1)}"


def size(resources: Mapping[str, float]) -> str:
    """What a node has, in words."""
    kind = kind_of(resources)
    return amounts(resources.get("CPU", 0), resources.get("GPU", 0)) + (f" ({kind})" if kind != CPU else "")


def reason(error: Exception) -> str:
    """Why Ray lost a process, in one line."""
    import ray

    lost = ray.exceptions
    for kind, what in (
        (lost.NodeDiedError, "its node is gone"),
        (lost.OutOfMemoryError, "its node ran out of memory"),
        (lost.WorkerCrashedError, "its process died"),
    ):
        if isinstance(error, kind):
            return what
    return RAY_MARKS.sub("", first_line(error)).strip().rstrip(".")


def _each_node(question: Callable[[Path], Any], path: Path) -> list[tuple[dict[str, Any], Any]]:
    """(The node as Ray lists it, a reference to what it says of `path`) of each one that is alive.

    Those that answer have answered when this returns, or ANSWER_S are over.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = [
        (
            node,
            ray.remote(question)
            .options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
                num_cpus=0,
                max_retries=0,
            )
            .remote(path),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
    references = [reference for _, reference in asked]
    ray.wait(references, num_returns=len(references), timeout=ANSWER_S)
    return asked


def _found(node: dict[str, Any], answer: Any) -> Found:
    """A node, and what it said or why it said nothing."""
    import ray

    seen: Seen | None = None
    try:
        seen = ray.get(answer, timeout=0)
        why = why_unable(seen)
    except ray.exceptions.GetTimeoutError:
        why = f"it did not answer within {ANSWER_S:.0f} s: look at `ray status`"
    except ray.exceptions.RayTaskError:  # what Ray says is of its own, with all folders where it looked
        why = (
            f"the Python that Ray runs there cannot load this package: install harness {harness.__version__} for it, or"
            " take the node away"
        )
    except ray.exceptions.RayError as error:
        why = reason(error)
    name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
    return Found(node["NodeID"], name, node["Resources"], seen, why)


@contextmanager
def _mark(root: Path) -> Iterator[Path]:
    """A file in a folder that nodes are asked for, as long as the block takes."""
    path = root / f".seen-by-nodes.{os.getpid()}.{socket.gethostname()}"
    write_atomic(path, "")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
