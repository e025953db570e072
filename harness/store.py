"""Files that survive a power cut: atomic writes, JSONL, stage manifests, the cache of teacher calls.

A file is written to a temporary name, fsynced and renamed; a stage's manifest is written last. Whatever
has no manifest, or one whose inputs differ, is done again. Completed calls are committed in small batches
to one SQLite file that all runs share, so none is paid for twice.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from harness.errors import MachineError, UsageError, nearest
from harness.records import Completion, Generator, Record, Request

M = TypeVar("M", bound=BaseModel)

COMMIT_EVERY = 16  # completions
COMMIT_SECONDS = 1.0


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk into one clear message."""
    try:
        yield
    except OSError as error:
        free = shutil.disk_usage(existing_parent(path)).free
        hint = f"; {free / 2**20:.0f} MiB are free" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise MachineError(f"{path}: cannot write it: {error.strerror or error}{hint}") from error


def existing_parent(path: Path) -> Path:
    """The nearest folder above `path` that exists."""
    return next(p for p in [path, *path.resolve().parents] if p.is_dir())


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a whole file or nothing. Raises MachineError when the disk refuses."""
    raw = data.encode() if isinstance(data, str) else data
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def folder_atomic(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder` when the block ends well, and vanishes when it does not."""
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield temporary
        with disk_errors(folder):
            for file in temporary.rglob("*"):
                if file.is_file():
                    with file.open("rb") as handle:
                        os.fsync(handle.fileno())
            temporary.chmod(0o755)
            if folder.exists():
                shutil.rmtree(folder)
            temporary.replace(folder)
            sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically."""
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, records: Iterable[Record]) -> None:
    """Write one JSON object per line atomically."""
    write_atomic(path, "".join(r.model_dump_json() + "\n" for r in records))


def read_json(path: Path) -> Any:
    """Read JSON. Raises UsageError naming file and line."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot read it: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, nested without end, a number without end
        line = getattr(error, "lineno", 1)
        raise UsageError(f"{path}:{line}: not valid JSON") from error


def read_jsonl(path: Path, model: type[M]) -> list[tuple[int, M]]:
    """(line number, record) of every line that is not blank. Raises UsageError naming file, line and field."""
    found: list[tuple[int, M]] = []
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors begin a file with a byte order mark
    except OSError as error:
        raise UsageError(f"{path}: cannot read it: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text (byte {error.start})") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found.append((number, model.model_validate_json(line)))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = ".".join(str(part) for part in first["loc"])
            fields = ", ".join(model.model_fields)
            if first["type"] == "extra_forbidden":
                hint = nearest(name, model.model_fields)
                raise UsageError(f"{path}:{number}: {name}: unknown field{hint}; allowed: {fields}") from error
            what = f"{name}: {first['msg']}" if name else f"a broken line: {first['msg']}"
            raise UsageError(f"{path}:{number}: {what}; each line is a JSON object with {fields}") from error
    return found


class Manifest(Record):
    """Written last by a stage: what it was made from, what it made. Its presence says that the rest is whole."""

    stage: str
    inputs: str  # digest of all that could change the outputs
    settings: str = ""  # digest of the part of it that a person wrote, for the next stage to compare
    partial: bool = False  # stopped by hand; usable, and to be continued
    summary: str = ""  # one line for the next caller to print when it skips
    outputs: dict[str, str] = {}  # file, relative to the folder -> 16 hex digits over its content
    environment: dict[str, Any] = {}


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a stage's folder, or None when the stage has not finished there."""
    path = folder / "manifest.json"
    if not path.is_file():
        return None
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError:
        return None  # another version wrote it: do the stage again


def write_manifest(folder: Path, manifest: Manifest, outputs: Sequence[Path]) -> None:
    """Seal a stage's folder and what it wrote there."""
    sealed = {str(path.relative_to(folder)): _content(path) for path in outputs}
    record = manifest.model_copy(update={"outputs": sealed})
    write_atomic(folder / "manifest.json", record.model_dump_json(indent=1) + "\n")


def finished(folder: Path, inputs: str) -> Manifest | None:
    """The manifest where a stage has nothing to do: made from `inputs`, not stopped, its files as it left them."""
    found = read_manifest(folder)
    if found is None or found.inputs != inputs or found.partial:
        return None
    changed = (name for name, sealed in found.outputs.items() if _content(folder / name) != sealed)
    return None if any(changed) else found


def _content(path: Path) -> str:
    """16 hex digits over a file; '' where it is not there."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


@contextmanager
def remade_by(command: str) -> Iterator[None]:
    """Adds to what is said of a damaged file which command makes it again."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{error}. The file is damaged; {command} makes it again") from error


def unseal(folder: Path) -> None:
    """Take a stage's manifest away before its files are written again: they are not whole until it is back."""
    if (folder / "manifest.json").exists():
        with disk_errors(folder):
            (folder / "manifest.json").unlink()
            sync_folder(folder)


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Hold `folder` for this process. Raises MachineError naming the process that holds it already."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("a+")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.seek(0)
        holder = handle.read().strip() or "unknown"
        handle.close()
        raise MachineError(f"{what} is being worked on by another process (pid {holder}); wait for it") from error
    try:
        handle.seek(0)
        handle.truncate()
        handle.write(str(os.getpid()))
        handle.flush()
        yield
    finally:
        handle.close()  # closing releases the lock; so does any kind of death


class CallCache:
    """Completed calls by request key, in one SQLite file. Failed calls are never stored."""

    def __init__(self, path: Path) -> None:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        try:
            self._db = sqlite3.connect(path, timeout=30)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("CREATE TABLE IF NOT EXISTS calls (key TEXT PRIMARY KEY, completion TEXT NOT NULL)")
            self._db.commit()
        except sqlite3.Error as error:
            raise MachineError(
                f"{path}: the cache of teacher calls cannot be opened: {error}; without the file, calls are made again"
            ) from error

    def get(self, keys: Sequence[str]) -> dict[str, Completion]:
        """The stored completions among `keys`."""
        found: dict[str, Completion] = {}
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            marks = ",".join("?" * len(part))
            for key, text in self._db.execute(f"SELECT key, completion FROM calls WHERE key IN ({marks})", part):
                found[key] = Completion.model_validate_json(text)
        return found

    def put(self, completions: Sequence[Completion]) -> None:
        """Commit completions. Raises MachineError when the disk is full."""
        try:
            with self._db:
                self._db.executemany(
                    "INSERT OR IGNORE INTO calls VALUES (?, ?)",
                    [(c.request, c.model_dump_json()) for c in completions if c.finish_reason != "error"],
                )
        except sqlite3.Error as error:
            raise MachineError(f"{self.path}: a completed call cannot be stored: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def cached(
    requests: Sequence[Request], cache: CallCache, engine: Callable[[], Generator], stop: Callable[[], bool]
) -> Iterator[tuple[Completion, bool]]:
    """Answer every request from the cache or the engine; yields (completion, whether it was paid for now).

    The engine is built only if something is missing. When `stop` turns true no new request is handed out
    and the iterator ends once those in flight are back. Equal requests are asked once.
    """
    unique = {request.key: request for request in requests}
    found = cache.get(list(unique))
    for completion in found.values():
        yield completion, False
    missing = [request for key, request in unique.items() if key not in found]
    if not missing or stop():
        return
    pending: list[Completion] = []
    committed = time.monotonic()
    try:
        handed_out = takewhile(lambda _: not stop(), missing)
        for completion in engine().generate(handed_out):
            pending.append(completion)
            if len(pending) >= COMMIT_EVERY or time.monotonic() - committed > COMMIT_SECONDS:
                cache.put(pending)
                pending, committed = [], time.monotonic()
            yield completion, True
    finally:
        cache.put(pending)
