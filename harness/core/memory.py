"""How much memory is free: of this machine, and of the container that a process is kept in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CONTAINERS = {  # folder of a control group -> its files: the limit, what is taken, and the name of cache in memory.stat
    Path("/sys/fs/cgroup"): ("memory.max", "memory.current", "inactive_file"),
    Path("/sys/fs/cgroup/memory"): ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def available_memory(
    meminfo: Path = MEMINFO, containers: Mapping[Path, tuple[str, str, str]] = CONTAINERS
) -> int | None:
    """Bytes that processes here may still take: what Linux calls available, and what a container's limit leaves.

    None where neither is known, as on other systems than Linux.
    """
    machine = _numbers(meminfo).get("MemAvailable:")
    left = [machine * 1024] if machine is not None else []  # the file counts in KiB
    for folder, (limit, taken, cache) in containers.items():
        most, now = _number(folder / limit), _number(folder / taken)
        if most is not None and now is not None:
            left.append(max(0, most - now + _numbers(folder / "memory.stat").get(cache, 0)))
    return min(left, default=None)


def _number(path: Path) -> int | None:
    """The number that a file holds. None without one: "max" is no limit."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _numbers(path: Path) -> dict[str, int]:
    """The lines "name number ..." of a file."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdigit()}
