"""Files that survive a power cut: atomic writes, JSONL, stage manifests, locks.

A file is written to a temporary name, fsynced and renamed. A stage's manifest is written last. Whatever
has no manifest, or one whose inputs differ, is done again.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from pydantic import ValidationError

from harness.core.record import Record, digest
from harness.errors import MachineError, UsageError

_RUST = re.compile(r"\(os error (\d+)\)")


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what a disk refuses (it is full, read-only, without locks) into one clear message."""
    try:
        yield
    except Exception as error:  # what is no refusal of the operating system goes on as it is
        if (refused := _refused(error)) is None:
            raise
        free = shutil.disk_usage(existing_parent(path)).free
        hint = f"; {free / 2**20:.0f} MiB are free" if refused.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise MachineError(f"{path}: cannot write it: {refused.strerror or refused}{hint}") from error


def _refused(error: Exception) -> OSError | None:
    """What the operating system refused, also where a library that is written in Rust says so (safetensors)."""
    if isinstance(error, OSError):
        return error
    number = _RUST.search(str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else None


def existing_parent(path: Path) -> Path:
    """The nearest folder above `path` that exists."""
    return next(p for p in [path, *path.resolve().parents] if p.is_dir())


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a whole file or nothing. Raises MachineError when the disk refuses."""
    write_parts(path, [data.encode() if isinstance(data, str) else data])


def write_parts(path: Path, parts: Iterable[bytes]) -> None:
    """Write a whole file, part by part, or nothing. Raises as `write_atomic`."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.writelines(parts)
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
                    file.chmod(0o644)  # safetensors writes for its owner alone
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


def write_jsonl(path: Path, records: Iterable[Record], *, defaults: bool = True) -> None:
    """Write one JSON object per line atomically. Without `defaults` a field at its default is left out."""
    write_parts(path, (f"{record.model_dump_json(exclude_defaults=not defaults)}\n".encode() for record in records))


class Manifest(Record):
    """Written last by a stage: what it was made from, what it made. Its presence says that the rest is whole."""

    stage: str
    inputs: str  # digest of all that could change the outputs
    settings: str = ""  # digest of the part of it that a person wrote, for the next stage to compare
    suites: dict[str, str] = {}  # the suites it read -> digest of what it took of each, for the same
    partial: bool = False  # stopped by hand; usable, and to be continued
    summary: str = ""  # one line for the next caller to print when it skips
    outputs: dict[str, str] = {}  # file, relative to the folder -> 16 hex digits over its content
    environment: dict[str, Any] = {}
    seal: str = ""  # digest of all the rest

    def sealed(self) -> str:
        """The seal of an untouched manifest. A field at its default is left out, so that adding one breaks none."""
        return digest("manifest", self.model_dump(mode="json", exclude={"seal"}, exclude_defaults=True))


def content_digest(path: Path) -> str:
    """64 hex digits over a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_digest(path: Path) -> str:
    """16 hex digits over a file, or '' where there is none."""
    return content_digest(path)[:16] if path.is_file() else ""


def read_manifest(folder: Path, name: str = "manifest.json") -> Manifest | None:
    """The manifest of a stage's folder, or None where it is missing, edited, damaged or of another version."""
    path = folder / name
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return manifest if manifest.outputs and manifest.seal == manifest.sealed() else None


def write_manifest(
    folder: Path,
    manifest: Manifest,
    outputs: Sequence[Path],
    content: Callable[[Path], str] = file_digest,
    name: str = "manifest.json",
) -> None:
    """Seal a stage's folder and what it wrote there. `content` gives the digest of a file."""
    files = {str(path.relative_to(folder)): content(path) for path in outputs}
    record = manifest.model_copy(update={"outputs": files})
    record = record.model_copy(update={"seal": record.sealed()})
    write_atomic(folder / name, record.model_dump_json(indent=1) + "\n")


def finished(folder: Path, inputs: str, content: Callable[[Path], str] = file_digest) -> Manifest | None:
    """The manifest where a stage has nothing to do: made from `inputs`, not stopped, its files as it left them."""
    manifest = read_manifest(folder)
    if manifest is None or manifest.inputs != inputs or manifest.partial:
        return None
    changed = (name for name, sealed in manifest.outputs.items() if content(folder / name) != sealed)
    return None if any(changed) else manifest


def require_sealed(folder: Path, names: Iterable[str], command: str) -> Manifest:
    """The manifest that vouches for the files `names` of a stage's folder.

    Raises UsageError naming the file that is missing, edited or damaged, or the manifest that is, and `command`,
    which makes it again.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        what = (
            "was edited or damaged, or another version wrote it"
            if (folder / "manifest.json").exists()
            else "is missing"
        )
        raise UsageError(
            f"{folder / 'manifest.json'} {what}: nothing vouches for the files beside it; {command} makes them again"
        )
    for name in names:
        require_same(folder, name, manifest, command)
    return manifest


def require_same(folder: Path, name: str, manifest: Manifest, command: str) -> None:
    """Raises UsageError where a file is not as the stage that wrote the manifest left it."""
    path = folder / name
    if not path.is_file():
        raise UsageError(f"{path} is missing; {command} makes it again")
    if file_digest(path) != manifest.outputs.get(name):
        raise UsageError(f"{path} was edited or damaged since {manifest.stage} wrote it; {command} makes it again")


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
    """Make a folder and its parents. Returns those that were not there before, the deepest first."""
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
        new_folders = made_folders(folder)
    handle = _lock_file(folder / ".lock", what)
    try:
        handle.seek(0)
        handle.truncate()
        handle.write(str(os.getpid()))
        handle.flush()
        yield
    finally:
        if new_folders and [path.name for path in folder.iterdir()] == [".lock"]:
            (folder / ".lock").unlink(missing_ok=True)
            remove_empty(new_folders)
        handle.close()  # closing releases the lock; so does any kind of death


def _lock_file(path: Path, what: str) -> TextIO:
    """The open file, locked. One that its last holder removed meanwhile locks nothing."""
    while True:
        with disk_errors(path), ExitStack() as opened:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = opened.enter_context(path.open("a+"))
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                handle.seek(0)
                holder = handle.read().strip() or "unknown"
                raise MachineError(
                    f"{what} is being worked on by another process (pid {holder}); wait for it"
                ) from error
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle.fileno()), path.stat()):
                    opened.pop_all()
                    return handle
