"""A project that is carried to another node and back: what stages read goes, what they made comes, each whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.cluster.carry import COPIES, packed, packed_results, put_in_place, unpacked
from harness.errors import MachineError

GOES = (
    "runs/shop.yaml", "runs/shop/augment/train.jsonl", "runs/shop/train/cells.json", "runs/shop/eval/scorecards.json",
    "prompts/shop/task.yaml", "suites/shop.yaml", "runs/.cache/students/abc/adapter.safetensors",
    "runs/.cache/scores/k.json", "runs/.cache/scores/k.part.jsonl", "runs/.cache/row_scores/fit.jsonl",
)  # fmt: skip
STAYS = (
    "runs/other/train/cells.json", "runs/.cache/calls.sqlite", "runs/.cache/models/m/w", ".env", "suites/.hidden",
    "runs/.cache/students/.abc.tmp/w", ".venv/bin/python", ".git/HEAD",
)  # fmt: skip


def write(root: Path, *paths: str, text: str = "x") -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_what_stages_read_goes_and_what_was_asked_for_comes_back(tmp_path: Path) -> None:
    write(tmp_path, *GOES, *STAYS)
    with unpacked(packed(tmp_path, "shop")) as copy:
        assert files(copy) == set(GOES)
        write(copy, "runs/.cache/students/new/adapter.safetensors", "runs/.cache/students/other/w", text="new")
        write(copy, "runs/.cache/scores/n.jsonl", "runs/.cache/scores/n.json", "runs/.cache/scores/o.json", text="new")
        students = packed_results(copy, "train", ["new"])
        scores = packed_results(copy, "eval", ["n", "k"])
    assert not copy.exists()
    put_in_place(tmp_path, students)
    assert files(tmp_path) - {*GOES, *STAYS} == {"runs/.cache/students/new/adapter.safetensors"}
    put_in_place(tmp_path, scores)
    new = {f"runs/.cache/{name}" for name in ("students/new/adapter.safetensors", "scores/n.json", "scores/n.jsonl")}
    assert files(tmp_path) - {*GOES, *STAYS} == new
    assert not list((tmp_path / "runs/.cache").glob(".carried*"))


def test_what_was_damaged_here_is_replaced(tmp_path: Path) -> None:
    write(tmp_path, "runs/.cache/students/new/w", "runs/.cache/students/new/old", text="damaged")
    write(tmp_path, "runs/.cache/scores/n.json", text="damaged")
    with unpacked(packed(tmp_path, "shop")) as copy:
        (copy / "runs/.cache/students/new/old").unlink()
        write(copy, "runs/.cache/students/new/w", "runs/.cache/scores/n.json", text="whole")
        made = packed_results(copy, "train", ["new"]), packed_results(copy, "eval", ["n"])
    for data in made:
        put_in_place(tmp_path, data)
    assert files(tmp_path) == {"runs/.cache/students/new/w", "runs/.cache/scores/n.json"}
    assert {(tmp_path / name).read_text() for name in files(tmp_path)} == {"whole"}


def test_links_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path, *GOES)
    (tmp_path / "prompts/up").symlink_to(tmp_path)
    (tmp_path / "prompts/nowhere").symlink_to(tmp_path / "is not there")
    elsewhere = tmp_path.with_name(f"{tmp_path.name}-elsewhere")
    write(elsewhere, "seeds.jsonl")
    (tmp_path / "prompts/data").symlink_to(elsewhere)
    with unpacked(packed(tmp_path, "shop")) as copy:
        assert files(copy) == {*GOES, "prompts/data/seeds.jsonl"}


def test_copies_of_killed_processes_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left, mine = tmp_path / f"{COPIES}99999999.abc", tmp_path / f"{COPIES}{os.getpid()}.abc"
    write(left, "runs/x")
    write(mine, "runs/x")
    write(tmp_path / "project", *GOES)
    with unpacked(packed(tmp_path / "project", "shop")):
        assert not left.exists()
        assert mine.exists()


def test_a_project_that_is_too_large_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.cluster.carry.MOST", 3)
    write(tmp_path, *GOES)
    with pytest.raises(MachineError, match="a folder that all nodes share"):
        packed(tmp_path, "shop")
