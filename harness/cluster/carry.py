"""A project taken to a node that does not see its folder, and what was made there taken back: a tar each way.

Ray's object store moves them. What goes is what stages read: files of the project, the rows and cells of one run,
students and scores. What comes back are new students and scores; each is put in its place whole or not at all.
"""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.core.store import disk_errors
from harness.errors import MachineError

LEFT_OUT = frozenset({".git", ".venv", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", "node_modules"})
STAGES = ("augment", "train")  # folders of a run that later stages read
MADE = ("students", "scores")  # folders of runs/.cache that stages write
MOST = 2 * 2**30  # bytes


def packed(root: Path, name: str) -> bytes:
    """All that stages read of the project and of its run `name`. Raises MachineError where that is too large."""
    paths = list(_read(root, name))
    size = sum((root / path).stat().st_size for path in paths)
    if size > MOST:
        raise MachineError(
            f"{root}: {size / 2**30:.1f} GiB would have to be carried to nodes that do not see this folder, and at most"
            f" {MOST >> 30} can be: put the project in a folder that all nodes share"
        )
    return _tar(root, paths)


@contextmanager
def unpacked(data: bytes) -> Iterator[Path]:
    """The project in a folder of this node, which is removed at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="harness.") as folder:
        root = Path(folder).resolve()
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            tar.extractall(root, filter="data")
        yield root


def made(root: Path) -> set[Path]:
    """Students and scores that are stored, relative to the project."""
    cache = root / "runs/.cache"
    files = (path for folder in MADE for path in (cache / folder).rglob("*") if path.is_file())
    return {path for path in (file.relative_to(root) for file in files) if _finished(path)}


def packed_since(root: Path, before: set[Path]) -> bytes:
    """What was made since `made` said `before`."""
    return _tar(root, sorted(made(root) - before))


def put_in_place(root: Path, data: bytes) -> None:
    """Take over what another node made. What is there already stays. Raises MachineError where the disk refuses."""
    cache = root / "runs/.cache"
    with disk_errors(cache):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".carried.") as folder:
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                tar.extractall(folder, filter="data")
            came = Path(folder) / "runs/.cache"
            for kind in MADE:
                (cache / kind).mkdir(exist_ok=True)
                # the scores of a card come before the card that vouches for them
                for one in sorted((came / kind).glob("*"), key=lambda path: (path.suffix == ".json", path.name)):
                    if not (cache / kind / one.name).exists():
                        one.replace(cache / kind / one.name)


def _read(root: Path, name: str) -> Iterator[Path]:
    """Files that stages read, relative to the project."""
    for folder, below, files in os.walk(root, followlinks=True):
        here = Path(folder).relative_to(root)
        below[:] = sorted(one for one in below if one not in LEFT_OUT and _goes(here / one, name))
        yield from (here / file for file in sorted(files) if _finished(here / file))


def _goes(folder: Path, name: str) -> bool:
    """Whether a folder of the project is read: of results those of one run, and of the cache what it may go on from."""
    parts = folder.parts
    if parts[0] != "runs" or len(parts) == 1:
        return True
    if parts[1] == ".cache":
        return len(parts) == 2 or parts[2] in MADE
    return parts[1] == name and (len(parts) == 2 or parts[2] in STAGES)


def _finished(path: Path) -> bool:
    """Whether it is no file that somebody is still writing, and no lock."""
    inside = path.parts[2:] if path.parts[:2] == ("runs", ".cache") else path.parts[1:]
    unfinished = path.name.endswith(".part.jsonl") or path.name.startswith("calls.sqlite")
    return not unfinished and not any(part.startswith(".") for part in inside)


def _tar(root: Path, paths: list[Path]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", dereference=True) as tar:
        for path in paths:
            tar.add(root / path, str(path), recursive=False)
    return file.getvalue()
