"""Where the file of calls lies: in the project, or on this machine's own disk where the project's is a network's.

SQLite's write-ahead log is shared memory of one machine, and its locks are not held by every network file system
(sqlite.org/wal.html, "All processes using a database must be on the same host computer").
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.core.record import digest
from harness.core.store import write_parts
from harness.errors import MachineError

FILE = "calls.sqlite"
CHUNK = 2**20  # bytes of a file that are copied at once
MOUNTS = Path("/proc/self/mounts")  # of Linux; elsewhere every disk is taken for a local one
NETWORK = frozenset(
    {
        "9p", "afs", "beegfs", "ceph", "cifs", "davfs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "orangefs",
        "panfs", "pvfs2", "smb3", "smbfs", "virtiofs", "vboxsf", "wekafs",
    }
)  # fmt: skip
NETWORK_FUSE = re.compile(r"fuse\.(?!fuse-overlayfs|ext|ntfs|gvfsd|portal)")  # sshfs, s3fs, gcsfuse, juicefs, ...


def call_file(cache: Path, say: Callable[[str], None] = lambda text: None, mounts: Path = MOUNTS) -> Path:
    """The file of calls of the project whose `cache` folder this is. Nothing is opened.

    Where the project lies on a network file system, the file lies on this machine's own disk, and `say` is told. It
    begins with what is in the project. Raises MachineError where this machine has no disk of its own to write to.
    """
    inside = cache / FILE
    kind = network(cache, mounts)
    if kind is None:
        return inside
    homes = _homes()
    home = next((home for home in homes if network(home, mounts) is None), None)
    if home is None:
        raise MachineError(
            f"{inside}: SQLite does not work on {kind}, and none of {', '.join(map(str, homes))} lies on a disk of this"
            " machine: set XDG_CACHE_HOME to a folder on one"
        )
    outside = home / "harness" / digest("calls of", os.path.realpath(cache))[:16] / FILE
    if not outside.is_file() and inside.is_file():
        with inside.open("rb") as file:
            write_parts(outside, iter(lambda: file.read(CHUNK), b""))
    say(
        f"the project lies on {kind}, where SQLite does not work: calls are kept on this machine, in {outside}."
        " Go on on this machine, or take that file along"
    )
    return outside


def network(path: Path, mounts: Path = MOUNTS) -> str | None:
    """The kind of network file system that `path` lies on, or will lie on. None for a disk of this machine."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    real, best, kind = os.path.realpath(path), "", ""
    for line in lines:
        _, folder, found, *_ = line.split(" ")
        folder = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), folder)
        inside = real == folder or real.startswith(folder.rstrip("/") + "/")
        if inside and len(folder) >= len(best):  # of two mounts in one place the later one is seen
            best, kind = folder, found
    return kind if kind in NETWORK or NETWORK_FUSE.match(kind) else None


def _homes() -> Sequence[Path]:
    """Folders for what a machine keeps, the best first."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache, Path("/var/tmp"), Path(tempfile.gettempdir())
