"""Where the file of calls lies: in the project, or on this machine's own disk where the project's is a network's.

SQLite's write-ahead log is shared memory of one machine, and its locks are not held by every network file system
(sqlite.org/wal.html, "All processes using a database must be on the same host computer").
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from harness.core.record import digest
from harness.core.store import disk_errors, write_atomic, write_parts
from harness.engines.call_cache import CallCache
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

    Where the project lies on a network file system, the file lies on this machine's own disk, and `say` is told. Raises
    MachineError where this machine has no disk of its own to write to.
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
    outside = home / digest("calls of", os.path.realpath(cache))[:16] / FILE
    say(f"the project lies on {kind}, where SQLite does not work: calls are kept on this machine, in {outside}")
    return outside


@contextmanager
def calls_of(cache: Path, say: Callable[[str], None] = lambda text: None, mounts: Path = MOUNTS) -> Iterator[CallCache]:
    """The project's store of calls, open inside the block.

    Of one that lies outside the project a copy is put into the project at the end, so that another machine goes on
    from it. Raises MachineError as `call_file`, and where a disk refuses.
    """
    inside, file = cache / FILE, call_file(cache, say, mounts)
    if file != inside:
        _require_ours(file.parent.parent)
        _take_in(inside, file)
    before = _stamp(file)
    try:
        with closing(CallCache(file, say)) as calls:
            yield calls
    finally:
        if file != inside and _stamp(file) != before:
            _bring_back(file, inside)


def _take_in(inside: Path, outside: Path) -> None:
    """Add the calls of the project's copy to those outside, unless that copy was made or read here."""
    read = outside.with_name("read")
    if not inside.is_file() or (read.is_file() and read.read_text(encoding="utf-8") == _stamp(inside)):
        return
    with disk_errors(outside):
        outside.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=outside.parent) as folder:
            copy = Path(folder) / FILE
            for ending in ("", "-wal"):  # calls of a process that was killed are still in the log
                if Path(f"{inside}{ending}").is_file():
                    shutil.copyfile(f"{inside}{ending}", f"{copy}{ending}")
            try:
                with closing(sqlite3.connect(copy)) as theirs:
                    if outside.is_file():
                        theirs.execute("ATTACH ? AS ours", (str(outside),))
                        theirs.execute("INSERT OR IGNORE INTO ours.calls SELECT * FROM main.calls")
                        theirs.commit()
                    else:
                        with closing(sqlite3.connect(outside)) as ours:
                            theirs.backup(ours)
            except sqlite3.DatabaseError as error:
                raise MachineError(f"{inside}: SQLite cannot read it ({error}): move it away") from error
        write_atomic(read, _stamp(inside))


def _bring_back(outside: Path, inside: Path) -> None:
    """Put a copy of all calls in the project, whole or not at all."""
    with disk_errors(inside), tempfile.TemporaryDirectory(dir=outside.parent) as folder:
        copy = Path(folder) / FILE
        with closing(sqlite3.connect(outside)) as ours, closing(sqlite3.connect(copy)) as theirs:
            ours.backup(theirs)
        with copy.open("rb") as file:
            write_parts(inside, iter(lambda: file.read(CHUNK), b""))
        for ending in ("-wal", "-shm"):  # of the file that was there
            Path(f"{inside}{ending}").unlink(missing_ok=True)
        write_atomic(outside.with_name("read"), _stamp(inside))


def _stamp(file: Path) -> str:
    """Tells apart two states of a file."""
    return f"{file.stat().st_size} {file.stat().st_mtime_ns}" if file.is_file() else ""


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
    """Folders of this user's for what a machine keeps, the best first."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    own = f"harness-{os.getuid()}"  # others may write there, too
    return cache / "harness", Path("/var/tmp") / own, Path(tempfile.gettempdir()) / own


def _require_ours(home: Path) -> None:
    """Make a folder that only this user reads. Raises MachineError for one that is another's."""
    with disk_errors(home):
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        if home.stat().st_uid != os.getuid():
            raise MachineError(f"{home}: it belongs to another user: set XDG_CACHE_HOME to a folder of yours")
