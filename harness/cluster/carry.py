"""A project taken to a node that does not see its folder, and what was made there taken back: a tar each way.

Ray's object store moves them. What goes is what stages read: files of the project, the rows and cells of one run,
students and scores. What comes back are new students and scores; each is put in its place whole or not at all.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.core.store import disk_errors
from harness.errors import MachineError

LEFT_OUT = frozenset({".git", ".venv", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", "node_modules"})
STAGES = ("augment", "train", "eval")  # folders of a run that later stages read
READ = ("students", "scores", "row_scores")  # folders of runs/.cache that stages read
MADE = ("students", "scores")  # those that tasks write
COPIES = "harness.carried."  # begins the names of their folders on a node; the process follows
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
    _remove_left()
    with tempfile.TemporaryDirectory(prefix=f"{COPIES}{os.getpid()}.") as folder:
        root = Path(folder).resolve()
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            tar.extractall(root, filter="data")
        yield root


def _remove_left() -> None:
    """Remove copies of processes that were killed on this node."""
    for folder in Path(tempfile.gettempdir()).glob(f"{COPIES}*"):
        process = folder.name.removeprefix(COPIES).partition(".")[0]
        if process.isdecimal() and not Path(f"/proc/{process}").exists() and Path("/proc").is_dir():
            shutil.rmtree(folder, ignore_errors=True)


def packed_results(root: Path, stage: str, keys: Iterable[str]) -> bytes:
    """What is stored of cells or cards: their students, or their scores and answers."""
    cache = root / "runs/.cache"
    stored = cache / ("students" if stage == "train" else "scores")
    named = sorted({path for key in keys for path in stored.glob(f"{key}*")})
    files = (file for path in named for file in (path, *sorted(path.rglob("*"))) if file.is_file())
    return _tar(root, [file.relative_to(root) for file in files])


def put_in_place(root: Path, data: bytes) -> None:
    """Take over what another node made, in the place of what is there. Raises MachineError where the disk refuses."""
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
                    there = cache / kind / one.name
                    if there.is_dir():  # damaged, or it would not have been made again
                        there.rename(Path(folder) / f"{kind}.{one.name}")
                    one.replace(there)


def _read(root: Path, name: str) -> Iterator[Path]:
    """Files that stages read, relative to the project."""
    seen: set[tuple[int, int]] = set()  # folders, which a link may lead to again
    for folder, below, files in os.walk(root, followlinks=True):
        here, this = Path(folder).relative_to(root), Path(folder).stat()
        if (this.st_dev, this.st_ino) in seen:
            below[:] = []
            continue
        seen.add((this.st_dev, this.st_ino))
        below[:] = sorted(one for one in below if one not in LEFT_OUT and _goes(here / one, name))
        files = [file for file in sorted(files) if _finished(here / file) and (root / here / file).is_file()]
        yield from (here / file for file in files)


def _goes(folder: Path, name: str) -> bool:
    """Whether a folder of the project is read: of results those of one run, and of the cache what it may go on from."""
    parts = folder.parts
    if parts[0] != "runs" or len(parts) == 1:
        return True
    if parts[1] == ".cache":
        return len(parts) == 2 or parts[2] in READ
    return parts[1] == name and (len(parts) == 2 or parts[2] in STAGES)


def _finished(path: Path) -> bool:
    """Whether it is no file that somebody is still writing, and no lock."""
    inside = path.parts[2:] if path.parts[:2] == ("runs", ".cache") else path.parts
    return not path.name.startswith("calls.sqlite") and not any(part.startswith(".") for part in inside)


def _tar(root: Path, paths: list[Path]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", dereference=True) as tar:
        for path in paths:
            tar.add(root / path, str(path), recursive=False)
    return file.getvalue()
