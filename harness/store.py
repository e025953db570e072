"""Files that survive a power cut: atomic writes, JSONL, stage manifests, locks.

A file is written to a temporary name, fsynced and renamed; a stage's manifest is written last. Whatever
has no manifest, or one whose inputs differ, is done again.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from pydantic import ValidationError

from harness.errors import MachineError, UsageError
from harness.records import Record


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


def made_folders(folder: Path) -> list[Path]:
    """Make a folder and its parents; returns those that were not there before, the deepest first."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove those of the folders that are empty, in the order given: what was refused leaves no trace."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Hold `folder` for this process. Raises MachineError naming the process that holds it already.

    A folder that was made for it and holds nothing at the end is removed.
    """
    with disk_errors(folder):
        made = made_folders(folder)
    handle = _lock_file(folder / ".lock", what)
    try:
        handle.seek(0)
        handle.truncate()
        handle.write(str(os.getpid()))
        handle.flush()
        yield
    finally:
        if made and [path.name for path in folder.iterdir()] == [".lock"]:
            (folder / ".lock").unlink(missing_ok=True)
            remove_empty(made)
        handle.close()  # closing releases the lock; so does any kind of death


def _lock_file(path: Path, what: str) -> TextIO:
    """The open file, locked; one that its last holder removed meanwhile locks nothing."""
    while True:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = path.open("a+")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            handle.seek(0)
            holder = handle.read().strip() or "unknown"
            handle.close()
            raise MachineError(f"{what} is being worked on by another process (pid {holder}); wait for it") from error
        with suppress(OSError):
            if os.path.samestat(os.fstat(handle.fileno()), path.stat()):
                return handle
        handle.close()
