"""Who is asking which call: a process holds a lease on it, so that no other process pays for the same call.

A lease ends with the answer, with the process that holds it, or when that process has given no sign of life for a
minute: one that was stopped, or one of another machine.
"""

from __future__ import annotations

import os
import platform
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import MachineError

LEASE_SECONDS = 60.0  # without a sign of life
BEAT_SECONDS = 15.0  # between two signs of life


@dataclass(frozen=True)
class Holder:
    """A process that may hold leases. A process id alone is not enough: the machine may use it again."""

    owner: str = field(default_factory=lambda: uuid.uuid4().hex)
    machine: str = field(default_factory=lambda: _machine())
    pid: int = field(default_factory=os.getpid)
    started: str = field(default_factory=lambda: _started(os.getpid()))


def claim(db: sqlite3.Connection, keys: Sequence[str], holder: Holder) -> set[str]:
    """Take the leases of those `keys` that are neither stored nor held by a living process. Returns these keys."""
    now, taken = time.time(), set()
    for key in keys:
        if db.execute("SELECT 1 FROM calls WHERE key = ?", (key,)).fetchone():
            continue
        held = db.execute("SELECT owner, machine, pid, started, expires FROM leases WHERE key = ?", (key,)).fetchone()
        if held is not None and _living(held, holder, now):
            continue
        values = (key, holder.owner, holder.machine, holder.pid, holder.started, now + LEASE_SECONDS)
        db.execute("INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?, ?, ?)", values)
        taken.add(key)
    return taken


def renew(db: sqlite3.Connection, holder: Holder) -> None:
    """Give a sign of life for all leases of a holder."""
    db.execute("UPDATE leases SET expires = ? WHERE owner = ?", (time.time() + LEASE_SECONDS, holder.owner))


def release(db: sqlite3.Connection, holder: Holder) -> None:
    """Give up all leases of a holder."""
    db.execute("DELETE FROM leases WHERE owner = ?", (holder.owner,))


class Heartbeat:
    """Calls `beat` every `BEAT_SECONDS` from a thread of its own, while answers may take minutes."""

    def __init__(self, beat: Callable[[], None]) -> None:
        self._beat = beat
        self._done = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def stop(self) -> None:
        """No beat begins after this."""
        self._done.set()

    def _run(self) -> None:
        while not self._done.wait(BEAT_SECONDS):
            with suppress(MachineError):  # whoever stores the next completion meets the same trouble, and says it
                self._beat()


def _living(held: tuple[bytes, bytes, int, bytes, float], holder: Holder, now: float) -> bool:
    """Whether another process still asks. A lease of the holder itself is its own to take again."""
    owner, machine, pid, started, expires = held
    if owner.decode(errors="replace") == holder.owner or expires < now or expires > now + 2 * LEASE_SECONDS:
        return False
    return machine.decode(errors="replace") != holder.machine or _started(pid) == started.decode(errors="replace")


def _machine() -> str:
    """This machine since it was last started, and the namespace in which its process ids count."""
    boot = namespace = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
    return f"{platform.node()} {boot} {namespace}"


def _started(pid: int) -> str:
    """When a process began, as its system counts it, or '' where no such process runs."""
    with suppress(OSError, IndexError):
        after_name = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return "" if after_name[0] in "ZX" else after_name[19]  # a zombie asks nothing any more
    if not Path("/proc/self/stat").exists():  # not Linux: the process id must do
        with suppress(OSError):
            os.kill(pid, 0)
            return "running"
    return ""
