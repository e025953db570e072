"""The SQLite file of completed calls: its tables, its transactions, and what becomes of a damaged one.

Every stored completion carries a digest over its key and its content. A file that is no database, has other tables or
has damaged pages is set aside under another name, never deleted: what is whole in it goes into a new file.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import ValidationError

from harness.core.store import disk_errors, made_folders, remove_empty, sync_folder
from harness.errors import MachineError
from harness.records import Completion

T = TypeVar("T")
Columns = list[tuple[str, int]]  # (name, place in the primary key or 0)

BUSY_SECONDS = 30.0  # how long another process may hold the file
KEYS_AT_ONCE = 500  # of one SELECT
SMALLEST_ROW = 64  # bytes: a file cannot hold more rows than its size allows
TABLES = {
    "calls": "key TEXT PRIMARY KEY, completion TEXT NOT NULL, digest TEXT NOT NULL DEFAULT ''",
    "leases": "key TEXT PRIMARY KEY, owner TEXT NOT NULL, machine TEXT NOT NULL, pid INTEGER NOT NULL,"
    " started TEXT NOT NULL, expires REAL NOT NULL",
}
CALLS: Columns = [("key", 1), ("completion", 0), ("digest", 0)]
LEASES: Columns = [("key", 1), ("owner", 0), ("machine", 0), ("pid", 0), ("started", 0), ("expires", 0)]
WITHOUT_DIGESTS = CALLS[:2]  # as earlier releases wrote it
MACHINE_TROUBLE = {  # the file may be whole, and something else is wrong
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_PERM, sqlite3.SQLITE_INTERRUPT,
}  # fmt: skip


# SQLite quotes damaged names in its messages, and Python cannot always read them
FAILURES = (sqlite3.Error, UnicodeDecodeError)


class Damaged(Exception):
    """The file is no cache of calls, or not a whole one."""


class CallFile:
    """One file, which is made when something is first written. `say` hears when a damaged one is set aside."""

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self.path, self._say = path, say
        self._db: sqlite3.Connection | None = None
        self._inode = 0
        self._lock = threading.RLock()  # the heartbeat of leases is a thread of its own
        self._made: list[Path] | None = None  # the folders made for the file; None: the file was there

    def read(self, work: Callable[[sqlite3.Connection], T], empty: T) -> T:
        """What `work` reads, or `empty` while there is no file. Raises MachineError."""
        if not os.path.lexists(self.path):
            return empty
        return self._run(work)

    def write(self, work: Callable[[sqlite3.Connection], T], *, durable: bool = True) -> T:
        """`work` in one transaction. Not `durable`: a power cut may undo it. Raises MachineError."""

        def transaction(db: sqlite3.Connection) -> T:
            db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            db.execute("BEGIN IMMEDIATE")
            try:
                if self._inode != _inode(self.path):  # set aside or removed while this waited for its turn
                    raise _Moved
                result = work(db)
                db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
                raise
            return result

        return self._run(transaction)

    def check(self) -> None:
        """Read the whole file and set it aside if its pages or its index are damaged."""

        def checked(db: sqlite3.Connection) -> None:
            problems = [_text(row[0]) for row in db.execute("PRAGMA integrity_check(1)")]
            if problems != ["ok"]:
                raise Damaged(" ".join(problems[0].split()))

        self.read(checked, None)

    def close(self) -> None:
        """Close the file. One that was made for nothing goes again, with its folders."""
        with self._lock:
            if self._made is not None:
                self._remove_unused(self._made)
            self._disconnect()

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            for _ in range(5):
                try:
                    return work(self._open())
                except _Moved:
                    self._disconnect()
                except Damaged as error:
                    self._set_aside(str(error))
                except FAILURES as error:
                    if self._inode != _inode(self.path):
                        self._disconnect()
                    elif not _is_damage(error, self.path):
                        raise MachineError(f"{self.path}: the cache of teacher calls fails: {error}") from error
                    else:
                        self._set_aside(str(error))
            raise MachineError(f"{self.path}: the cache of teacher calls is damaged again and again")

    def _open(self) -> sqlite3.Connection:
        if self._db is not None and self._inode == _inode(self.path):
            return self._db
        self._disconnect()
        if not os.path.lexists(self.path):
            with disk_errors(self.path):
                self._made = made_folders(self.path.parent)
        self._inode = _inode(self.path)
        self._db = _connect(self.path)
        if self._inode not in (0, _inode(self.path)):
            raise _Moved
        self._inode = _inode(self.path)
        _set_up(self._db)
        return self._db

    def _disconnect(self) -> None:
        if self._db is not None:
            with suppress(sqlite3.Error):
                self._db.close()
        self._db = None

    def _remove_unused(self, folders: list[Path]) -> None:
        """Take away a file without a call, while nobody can write to it."""

        def unlink(db: sqlite3.Connection) -> None:
            if db.execute("SELECT EXISTS (SELECT 1 FROM calls) + EXISTS (SELECT 1 FROM leases)").fetchone() == (0,):
                for path in _parts(self.path):
                    path.unlink(missing_ok=True)

        with suppress(MachineError, OSError):
            self.write(unlink, durable=False)
        remove_empty(folders)

    def _set_aside(self, why: str) -> None:
        """Give the file another name and begin a new one with all calls that are whole."""
        self._disconnect()
        new = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with disk_errors(self.path):
            handle = os.open(self.path, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)  # SQLite's own locks are of another kind
                if self._inode != _inode(self.path):
                    return  # another process has just done it
                aside = _free_name(self.path)
                with _writers_waiting(self.path):
                    rescued = _rescue(self.path, new)
                    for old, moved in zip(_parts(self.path), _parts(aside), strict=True):
                        if old.exists():
                            old.rename(moved)
                    new.rename(self.path)
                _fold_log(aside)
                sync_folder(self.path.parent)
            finally:
                new.unlink(missing_ok=True)
                os.close(handle)  # the last of it: closing a file gives up what SQLite holds of it in this process
        self._say(
            f"{self.path} is damaged ({why}): set aside as {aside.name}; {rescued} calls in it are whole and kept,"
            " others are asked again"
        )


class _Moved(Exception):
    """Another file stands at the path than the one that is open."""


def seal(key: str, completion: bytes) -> str:
    """The digest that is stored beside a completion: 32 hex digits over its key and its JSON."""
    return hashlib.sha256(key.encode() + b"\n" + completion).hexdigest()[:32]


def undamaged(key: Any, completion: Any, digest: Any) -> Completion | None:
    """A stored completion, or None where digest, JSON, form or key are not right. None for `digest`: it has none."""
    if not isinstance(key, bytes) or not isinstance(completion, bytes):
        return None
    name = key.decode(errors="replace")
    if digest is not None and digest != seal(name, completion).encode():
        return None
    try:
        parsed = Completion.model_validate_json(completion)
    except ValidationError:
        return None
    return parsed if parsed.request == name else None


def select(db: sqlite3.Connection, keys: Sequence[str], columns: str) -> Iterator[tuple[Any, ...]]:
    """Rows of `calls` with these keys."""
    for start in range(0, len(keys), KEYS_AT_ONCE):
        part = keys[start : start + KEYS_AT_ONCE]
        yield from db.execute(f"SELECT {columns} FROM calls WHERE key IN ({','.join('?' * len(part))})", part)


def count_stored(path: Path, keys: Sequence[str]) -> int:
    """How many of these calls are stored and whole, for a dry run: the file is left as it is, whatever its state."""
    in_use = any(part.exists() for part in _parts(path)[1:])
    mode = "mode=ro" if in_use else "mode=ro&immutable=1"  # without the second, SQLite leaves two files beside it
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?{mode}", uri=True, timeout=BUSY_SECONDS)) as db:
            db.text_factory = bytes
            digest = "digest" if _columns(db, "calls") == CALLS else "NULL"
            return sum(undamaged(*row) is not None for row in select(db, keys, f"key, completion, {digest}"))
    except FAILURES:
        return 0


# --- opening ------------------------------------------------------------------------------------------------


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    db.text_factory = bytes  # damaged text is no UTF-8
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
            return db
        except sqlite3.OperationalError as error:  # two processes that make the file at once: one must come back
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                db.close()
                raise
            time.sleep(0.02)
        except FAILURES:
            db.close()
            raise


def _set_up(db: sqlite3.Connection) -> None:
    """Make the tables, or give those of an earlier release their digests. Raises Damaged for other tables."""
    if (_columns(db, "calls"), _columns(db, "leases")) == (CALLS, LEASES):
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        calls, leases = _columns(db, "calls"), _columns(db, "leases")
        tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if calls not in ([], WITHOUT_DIGESTS, CALLS) or leases not in ([], LEASES) or (tables and not calls):
            raise Damaged("its tables are not those of a cache of calls")
        if calls == WITHOUT_DIGESTS:
            db.create_function("seal_of", 2, _seal_if_whole)
            db.execute("ALTER TABLE calls ADD COLUMN digest TEXT NOT NULL DEFAULT ''")
            db.execute("UPDATE calls SET digest = seal_of(CAST(key AS BLOB), CAST(completion AS BLOB))")
        for table, columns in TABLES.items():
            db.execute(f"CREATE TABLE IF NOT EXISTS {table} ({columns})")
        db.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


def _seal_if_whole(key: Any, completion: Any) -> str:
    return seal(key.decode(), completion) if undamaged(key, completion, None) else ""


def _columns(db: sqlite3.Connection, table: str) -> Columns:
    return [(_text(name), place) for _, name, _, _, _, place in db.execute(f"PRAGMA table_info({table})")]


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


# --- damage -------------------------------------------------------------------------------------------------


def _code(error: Exception) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _is_damage(error: Exception, path: Path) -> bool:
    """Whether the file is to blame, and not the disk, the rights to it, or another process."""
    code = _code(error)
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):  # also said of a header that makes no sense
        return os.path.lexists(path) and os.access(path, os.R_OK | os.W_OK) and os.access(path.parent, os.W_OK)
    return code not in MACHINE_TROUBLE


@contextmanager
def _writers_waiting(damaged: Path) -> Iterator[None]:
    """Let nobody commit to a damaged file, part of which may be intact, while it is copied and moved.

    Who waited to write finds another file at the path then. A file that takes no transaction takes no commit either.
    """
    with ExitStack() as held:
        with suppress(*FAILURES):
            db = held.enter_context(closing(sqlite3.connect(damaged, timeout=BUSY_SECONDS, isolation_level=None)))
            db.execute("BEGIN IMMEDIATE")
        yield


def _fold_log(path: Path) -> None:
    """Have SQLite bring what stands beside a file into it, where no other process has it open."""
    with suppress(*FAILURES), closing(sqlite3.connect(path)) as db:
        db.execute("SELECT count(*) FROM sqlite_master")


def _rescue(damaged: Path, new: Path) -> int:
    """Write every whole call of a damaged file into a new one, row by row. Returns how many."""
    new.unlink(missing_ok=True)
    rescued = 0
    with _disk_trouble(new), closing(sqlite3.connect(new, isolation_level=None)) as db:
        for table, columns in TABLES.items():
            db.execute(f"CREATE TABLE {table} ({columns})")
        db.execute("BEGIN")
        for key, completion, digest in _readable_rows(damaged):
            call = undamaged(key, completion, digest)
            if call is not None:
                row = (call.request, completion.decode(), seal(call.request, completion))
                rescued += db.execute("INSERT OR IGNORE INTO calls VALUES (?, ?, ?)", row).rowcount
        db.execute("COMMIT")
    return rescued


@contextmanager
def _disk_trouble(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise MachineError(f"{path}: cannot write it: {error}") from error


def _readable_rows(path: Path) -> Iterator[tuple[Any, Any, Any]]:
    """(key, completion, digest) of every row that SQLite can still read. One bad page hides only its own rows."""
    with suppress(*FAILURES), closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as db:
        db.text_factory = bytes
        if _columns(db, "calls") not in (WITHOUT_DIGESTS, CALLS):
            return
        digest = "digest" if _columns(db, "calls") == CALLS else "NULL"
        most = path.stat().st_size // SMALLEST_ROW
        last = most
        with suppress(*FAILURES):
            # one flipped bit may make a row the billionth: rows that were deleted since leave no more gaps than this
            last = min(db.execute("SELECT max(rowid) FROM calls").fetchone()[0] or 0, 8 * most)
        for rowid in range(1, last + 1):
            with suppress(*FAILURES):
                yield from db.execute(f"SELECT key, completion, {digest} FROM calls WHERE rowid = ?", (rowid,))


def _free_name(path: Path) -> Path:
    """calls.damaged-1.sqlite, or the next number that is free."""
    numbers = range(1, len(list(path.parent.iterdir())) + 2)
    names = (path.with_name(f"{path.stem}.damaged-{n}{path.suffix}") for n in numbers)
    return next(name for name in names if not os.path.lexists(name))


def _parts(path: Path) -> tuple[Path, ...]:
    """The file and the two that SQLite keeps beside it while it is open."""
    return tuple(path.with_name(f"{path.name}{ending}") for ending in ("", "-wal", "-shm"))


def _inode(path: Path) -> int:
    """What tells the file at a path from another one that stood there. 0 where there is none."""
    try:
        return path.stat().st_ino
    except OSError:
        return 0
