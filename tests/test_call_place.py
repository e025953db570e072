"""Calls lie in the project, or on this machine's own disk where the project's is a network's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.engines.call_place import call_file, calls_of, network
from harness.engines.scripted import Script
from harness.errors import MachineError
from harness.records import Completion, Origin, Request, Sampling
from tests.process import ROOT

LOCAL = "/dev/vda / ext4 rw 0 0\ntmpfs /dev/shm tmpfs rw 0 0\n"


def mounted(tmp_path: Path, *lines: str) -> Path:
    file = tmp_path / "mounts"
    file.write_text(LOCAL + "".join(f"{line} rw 0 0\n" for line in lines))
    return file


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("nfs4", True),
        ("lustre", True),
        ("fuse.sshfs", True),
        ("fuse.juicefs", True),
        ("xfs", False),
        ("fuseblk", False),
    ],
)
def test_a_network_file_system_is_known_by_its_mount(tmp_path: Path, kind: str, found: bool) -> None:
    project = tmp_path / "a project"
    written = str(project).replace(" ", "\\040")
    mounts = mounted(tmp_path, f"server:/x {written} {kind}")
    assert network(project / "runs/.cache", mounts) == (kind if found else None)
    assert network(tmp_path / "a project2", mounts) is None
    assert network(tmp_path, mounts) is None
    inner = mounted(tmp_path, f"server:/x {written} {kind}", f"/dev/vdb {written}/runs ext4")
    assert network(project / "runs/.cache", inner) is None
    assert network(project, tmp_path / "no mounts") is None


def made(*prompts: str) -> list[Completion]:
    origin = Origin(purpose="generate", label="x")
    asked = [Request(model="script@1", prompt=prompt, sampling=Sampling(), origin=origin) for prompt in prompts]
    return [Script().answer(request) for request in asked]


def store(cache: Path, mounts: Path, *prompts: str) -> None:
    with calls_of(cache, mounts=mounts) as calls:
        calls.put(made(*prompts))


def stored(cache: Path, mounts: Path, *prompts: str) -> int:
    with calls_of(cache, mounts=mounts) as calls:
        return len(calls.get([completion.request for completion in made(*prompts)]))


def test_calls_leave_a_network_file_system_and_a_copy_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, other = tmp_path / "net/a/runs/.cache", tmp_path / "net/b/runs/.cache"
    here, mounts = mounted(tmp_path), tmp_path / "net mounts"
    mounts.write_text(here.read_text() + f"server:/x {tmp_path}/net nfs4 rw 0 0\n")
    store(cache, here, "one")
    assert call_file(cache, mounts=here) == cache / "calls.sqlite"
    said: list[str] = []
    for machine in ("first", "second"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / machine))
        outside = call_file(cache, said.append, mounts)
        assert outside.is_relative_to(tmp_path / machine)
        assert "nfs4" in said[-1]
        assert str(outside) in said[-1]
        store(cache, mounts, machine)
        assert not list(cache.glob("calls.sqlite-*"))
        assert not [path for path in outside.parent.iterdir() if path.is_dir()]
    assert stored(cache, mounts, "one", "first", "second") == 3, "the second machine went on from the first one's"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "first"))
    assert stored(cache, mounts, "one", "first", "second") == 3, "and the first one from the second one's"
    assert call_file(other, said.append, mounts) != call_file(cache, said.append, mounts), "each project has its own"


def test_calls_of_a_process_that_was_killed_are_taken_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    cache, here = tmp_path / "net/runs/.cache", mounted(tmp_path)
    program = (
        "import os, sys; from pathlib import Path; sys.path.insert(0, sys.argv[3])\n"
        "from tests.test_call_place import calls_of, made\n"
        "with calls_of(Path(sys.argv[1]), mounts=Path(sys.argv[2])) as calls:\n"
        "    calls.put(made(*map(str, range(50))))\n"
        "    os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, cache, here, ROOT], check=False, cwd=ROOT)
    assert (cache / "calls.sqlite-wal").stat().st_size, "they are in the log alone"
    mounts = tmp_path / "net mounts"
    mounts.write_text(here.read_text() + f"server:/x {tmp_path}/net nfs4 rw 0 0\n")
    assert stored(cache, mounts, *map(str, range(50))) == 50


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("os.getuid", lambda: 12345)
    mounts = mounted(tmp_path, f"server:/x {tmp_path}/net nfs4")
    with pytest.raises(MachineError, match="belongs to another user"):
        store(tmp_path / "net/runs/.cache", mounts, "one")


def test_a_machine_without_a_disk_of_its_own_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    mounts = tmp_path / "mounts"
    mounts.write_text("server:/ / nfs rw 0 0\n")
    with pytest.raises(MachineError, match=r"SQLite does not work on nfs.*XDG_CACHE_HOME"):
        call_file(tmp_path / "runs/.cache", mounts=mounts)
