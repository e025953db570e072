"""What the nodes of a cluster have, and what they lack to work for a run."""

from __future__ import annotations

from pathlib import Path

from harness.cluster.connect import joined
from harness.cluster.nodes import Found, ask, size


def examine_cluster(address: str, root: Path) -> tuple[str, bool]:
    """(A line for each finding, good or bad; whether every node can work) of every node of the cluster.

    `root`: the project's folder, that nodes are to see. Raises UsageError without Ray or for a wrong address, and
    MachineError where no cluster answers.
    """
    said: list[str] = []
    with joined(address, said.append):
        found = ask(root)
    findings = [(True, said[0]), *(finding for node in found for finding in judged(node))]
    lines = "\n".join(f"{'ok' if good else '--'}  {text}" for good, text in findings)
    return lines, not any(node.why for node in found)


def judged(node: Found) -> list[tuple[bool, str]]:
    """Whether a node can work for a run of this machine, and how."""
    has = node.resources
    memory, objects = (has.get(kind, 0) / 2**30 for kind in ("memory", "object_store_memory"))
    said = f"{node.name}: {size(has)}, {memory:.0f} GiB, object store {objects:.1f} GiB"
    if node.seen is None:
        return [(False, f"{said}: {node.why}")]
    findings = [(True, f"{said}, Python {node.seen['python']}, harness {node.seen['harness']}")]
    if node.why:
        findings.append((False, f"{node.name}: {node.why}"))
    if not node.seen["shared"]:
        findings.append(
            (False, f"{node.name}: it does not see this folder: train and eval carry the project there and back")
        )
    if "vllm" in node.seen["missing"]:
        findings.append((False, f"{node.name}: vllm not installed: no teacher of this engine can be there"))
    return findings
