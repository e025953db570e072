"""Calls lie in the project, or on this machine's own disk where the project's is a network's."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.engines.call_place import call_file, network
from harness.errors import MachineError

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


def test_calls_leave_a_network_file_system_with_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    cache, other = tmp_path / "net/a/runs/.cache", tmp_path / "net/b/runs/.cache"
    cache.mkdir(parents=True)
    (cache / "calls.sqlite").write_bytes(b"calls")
    said: list[str] = []
    assert call_file(cache, said.append, mounted(tmp_path)) == cache / "calls.sqlite"
    assert said == []
    mounts = mounted(tmp_path, f"server:/x {tmp_path}/net nfs4")
    outside = call_file(cache, said.append, mounts)
    assert outside.is_relative_to(tmp_path / "home")
    assert outside.read_bytes() == b"calls"
    assert "nfs4" in said[0]
    assert str(outside) in said[0]
    outside.write_bytes(b"more calls")
    assert call_file(cache, said.append, mounts).read_bytes() == b"more calls"
    assert call_file(other, said.append, mounts) != outside, "each project has its own"


def test_a_machine_without_a_disk_of_its_own_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    mounts = tmp_path / "mounts"
    mounts.write_text("server:/ / nfs rw 0 0\n")
    with pytest.raises(MachineError, match=r"SQLite does not work on nfs.*XDG_CACHE_HOME"):
        call_file(tmp_path / "runs/.cache", mounts=mounts)
