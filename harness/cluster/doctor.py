"""What the nodes of a cluster can do for the harness, asked of each of them, and what to change."""

from __future__ import annotations

import platform
import socket
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import harness
from harness.cluster.connect import connected
from harness.cluster.nodes import ANSWER_S, CPU, each_node, kind_of, mark, sees
from harness.config.cluster import Cluster
from harness.errors import first_line

PACKAGES = ("torch", "transformers", "peft", "vllm")
Seen = dict[str, Any]


def examine_cluster(address: str, root: Path) -> str:
    """Lines of `ok` / `--` findings, one or more for each node. A `--` line says what to do.

    Raises as `connected`. Writes a file into `root` for as long as this takes: every node must see it.
    """
    said: list[str] = []
    with connected(Cluster(address=address), said.append), mark(root) as path:
        findings = [finding for node, one in each_node(look, path) for finding in _found(node, one)]
    return "\n".join(f"{'ok' if good else '--'}  {text}" for good, text in [(True, said[0]), *findings])


def look(mark: Path) -> Seen:
    """What a node says of itself. `mark` is a file in the project's folder, as the asking machine names it."""
    return {
        "node": socket.gethostname(),
        "harness": harness.__version__,
        "python": platform.python_version(),
        "shared": sees(mark),
        "missing": [name for name in PACKAGES if find_spec(name) is None],
    }


def _found(node: dict[str, Any], asked: Any) -> list[tuple[bool, str]]:
    """What one node said, or why it said nothing."""
    import ray

    name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
    has = node["Resources"]
    kind = kind_of(has)
    size = f"{has.get('CPU', 0):g} CPUs, {has.get('GPU', 0):g} GPUs{f' ({kind})' if kind != CPU else ''}"
    size += (
        f", {has.get('memory', 0) / 2**30:.0f} GiB, object store {has.get('object_store_memory', 0) / 2**30:.1f} GiB"
    )
    try:
        seen: Seen = ray.get(asked, timeout=0)
    except ray.exceptions.GetTimeoutError:
        return [(False, f"{name}: {size}: it did not answer within {ANSWER_S:.0f} s: look at `ray status`")]
    except ray.exceptions.RayTaskError as error:
        return [(False, f"{name}: {size}: {first_line(error.cause)}: install harness {harness.__version__} there")]
    except ray.exceptions.RayError as error:
        return [(False, f"{name}: {size}: {first_line(error)}")]
    return judged(name, size, seen)


def judged(name: str, size: str, seen: Seen) -> list[tuple[bool, str]]:
    """Whether a node of this name and size, that said so of itself, can work for a run of this machine."""
    findings = [(True, f"{name}: {size}, Python {seen['python']}, harness {seen['harness']}")]
    if seen["harness"] != harness.__version__:
        findings.append(
            (False, f"{name}: harness {seen['harness']}; here it is {harness.__version__}: install the same")
        )
    if not seen["shared"]:
        findings.append(
            (False, f"{name}: it does not see this folder: train and eval carry the project there and back")
        )
    if seen["missing"]:
        findings.append((False, f"{name}: {', '.join(seen['missing'])} not installed: `make setup` there"))
    return findings
