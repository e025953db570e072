"""Files that survive: atomic writes, a full disk, locks."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.json_file import read_jsonl
from harness.core.store import disk_errors, folder_atomic, locked, write_atomic, write_jsonl
from harness.errors import MachineError, UsageError
from harness.records import Example, Message
from tests.project import labelled

ROOT = Path(__file__).parent.parent


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "\ud800")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_lines_that_cannot_all_be_written_leave_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [Message(role="user", content="old")])

    def lines() -> Iterator[Message]:
        yield Message(role="user", content="new")
        raise KeyError("the next one")

    with pytest.raises(KeyError, match="the next one"):
        write_jsonl(path, lines())
    assert [message.content for _, message in read_jsonl(path, Message)] == ["old"]
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_full_disk_is_one_clear_message(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.fail("/dev/full is needed to test a full disk")
    expected = pytest.raises(MachineError, match=r"No space left on device; .* MiB are free")
    with expected, disk_errors(tmp_path), Path("/dev/full").open("wb", buffering=0) as full:
        full.write(b"x")
    with expected, disk_errors(tmp_path):
        raise ValueError("Error while serializing: I/O error: No space left on device (os error 28)")  # as safetensors
    with pytest.raises(ValueError, match="another"), disk_errors(tmp_path):
        raise ValueError("another")


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def half() -> None:
        with folder_atomic(tmp_path / "cell") as folder:
            (folder / "a").write_text("1")
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        half()
    assert not list(tmp_path.iterdir())
    with folder_atomic(tmp_path / "cell") as folder:
        (folder / "a").write_text("1")
    assert (tmp_path / "cell" / "a").read_text() == "1"


@settings(deadline=None)  # fsync takes as long as the disk likes
@given(st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), max_size=8))
def test_jsonl_round_trip(tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]) -> None:
    seeds = [labelled(a, b) for a, b in pairs]
    path = tmp_path_factory.mktemp("jsonl") / "x.jsonl"
    write_jsonl(path, seeds)
    assert [seed for _, seed in read_jsonl(path, Example)] == seeds


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"role": "user", "content": "b"}\n\n{"role": "user", "contnt": "b"}\n')
    with pytest.raises(UsageError, match=r"x.jsonl:3: content: Field required"):
        read_jsonl(path, Message)
    path.write_text('{"role": "user", "content": "b", "contnt": "b"}\n')
    with pytest.raises(UsageError, match=r"x.jsonl:1: contnt: unknown field \(did you mean 'content'\?\)"):
        read_jsonl(path, Message)


def test_a_run_is_held_by_one_process(tmp_path: Path) -> None:
    with locked(tmp_path / "run", "train of x"):
        code = (
            "from pathlib import Path\nfrom harness.core.store import locked\nfrom harness.errors import MachineError\n"
            f"try:\n    locked(Path({str(tmp_path / 'run')!r}), 'train of x').__enter__()\n"
            "except MachineError as e:\n    print(e)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert f"train of x is being worked on by another process (pid {os.getpid()})" in done.stdout


def test_a_disk_without_locks_is_not_called_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*given: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(MachineError, match=rf"cannot write it: {os.strerror(errno.ENOLCK)}"):
        locked(tmp_path / "run", "train of x").__enter__()


def test_a_lock_leaves_no_folder_that_holds_nothing(tmp_path: Path) -> None:
    with locked(tmp_path / "runs" / "shop" / "augment", "augment of shop"):
        pass
    assert not list(tmp_path.iterdir())
    with locked(tmp_path / "runs" / "shop", "shop"):
        (tmp_path / "runs" / "shop" / "made").touch()
    assert {p.name for p in (tmp_path / "runs" / "shop").iterdir()} == {"made", ".lock"}
