"""A project that is carried to another node and back: what stages read goes, what they made comes, each whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cluster.carry import made, packed, packed_since, put_in_place, unpacked
from harness.errors import MachineError

GOES = (
    "runs/shop.yaml", "runs/shop/augment/train.jsonl", "runs/shop/train/cells.json", "prompts/shop/task.yaml",
    "suites/shop.yaml", "runs/.cache/students/abc/adapter.safetensors", "runs/.cache/scores/k.json",
)  # fmt: skip
STAYS = (
    "runs/shop/eval/report.md", "runs/other/train/cells.json", "runs/.cache/calls.sqlite", "runs/.cache/models/m/w",
    "runs/.cache/students/.abc.tmp/w", "runs/.cache/scores/k.part.jsonl", ".venv/bin/python", ".git/HEAD",
)  # fmt: skip


def write(root: Path, *paths: str, text: str = "x") -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def test_what_stages_read_goes_and_what_they_made_comes_back(tmp_path: Path) -> None:
    write(tmp_path, *GOES, *STAYS)
    with unpacked(packed(tmp_path, "shop")) as copy:
        assert {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()} == set(GOES)
        before = made(copy)
        assert {str(path) for path in before} == {path for path in GOES if ".cache" in path}
        write(copy, "runs/.cache/students/new/adapter.safetensors", "runs/.cache/scores/n.json", text="new")
        write(copy, "runs/.cache/scores/n.jsonl", "runs/.cache/scores/half.part.jsonl", text="new")
        back = packed_since(copy, before)
    assert not copy.exists()
    put_in_place(tmp_path, back)
    assert {str(path) for path in made(tmp_path) - before} == {
        "runs/.cache/students/new/adapter.safetensors",
        "runs/.cache/scores/n.json",
        "runs/.cache/scores/n.jsonl",
    }
    assert not list((tmp_path / "runs/.cache").glob(".carried*"))


def test_what_is_there_already_stays(tmp_path: Path) -> None:
    write(tmp_path, "runs/.cache/students/new/w", text="here")
    with unpacked(packed(tmp_path, "shop")) as copy:
        write(copy, "runs/.cache/students/new/w", text="there")
        back = packed_since(copy, set())
    put_in_place(tmp_path, back)
    assert (tmp_path / "runs/.cache/students/new/w").read_text() == "here"


def test_a_project_that_is_too_large_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.cluster.carry.MOST", 3)
    write(tmp_path, *GOES)
    with pytest.raises(MachineError, match="a folder that all nodes share"):
        packed(tmp_path, "shop")
