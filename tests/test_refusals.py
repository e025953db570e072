"""A request that is refused leaves the project as it was: no empty folder, no empty file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cli import app
from harness.errors import UsageError
from tests.http_server import Endpoint, serving
from tests.process import harness
from tests.project import write_project

VERBS = [
    *(["augment", "shop", *more] for more in ([], ["--dry-run"])),
    *([verb, "shop"] for verb in ("train", "eval", "report", "show", "bless", "check", "errors", "rescore")),
    ["rescore", "shop", "--engine", "vllm"],
    ["eval", "shop", "--dry-run"],
    ["compare", "shop", "shop"],
    ["ask", "shop", "hello"],
]


def edited(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = root / "runs/shop.yaml"
    run = yaml.safe_load(path.read_text())
    change(run)
    path.write_text(yaml.safe_dump(run))


def own_rows(root: Path, text: str) -> None:
    (root / "own.jsonl").write_text(text)
    edited(root, lambda run: run["augment"].update(rows_file="own.jsonl", templates=[]))


def own_filter(root: Path, text: str) -> None:
    (root / "f.py").write_text(text)
    edited(root, lambda run: run["augment"]["filters"].append({"kind": "python", "file": "f.py"}))


REFUSED: dict[str, Callable[[Path], object]] = {
    "a key that is none": lambda root: edited(root, lambda run: run.update(nosuch=1)),
    "no template": lambda root: (root / "prompts/shop/list.j2").unlink(),
    "a broken template": lambda root: (root / "prompts/shop/judge.j2").write_text("{{ nosuch }}"),
    "no such student": lambda root: edited(root, lambda run: run["train"].update(students=["nobody"])),
    "own rows of another label": lambda root: own_rows(root, '{"text": "a", "label": "nosuch"}\n'),
    "no own rows": lambda root: own_rows(root, "\n"),
    "a filter that does not load": lambda root: own_filter(root, "def keep("),
    "an answer script that is none": lambda root: (root / "prompts/shop/teacher.json").write_text('{"a": []}'),
    "items that are none": lambda root: (root / "suites/shop.jsonl").write_text("{"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refused_request_leaves_no_trace(
    kind: str, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_project(tmp_path, str(tiny_model))
    REFUSED[kind](tmp_path)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for words in VERBS:
        refused = False
        try:
            app(words, standalone_mode=False)
        except UsageError:
            refused = True
        assert refused or "--dry-run" in words, words
        if refused:
            assert sorted(tmp_path.rglob("*")) == before, f"{words} left something behind"
        shutil.rmtree(tmp_path / "runs/.cache", ignore_errors=True)  # what a dry run knows of a model's weights


@pytest.mark.parametrize(("model", "code"), [("other", 2), ("away", 3)])
def test_an_endpoint_that_refuses_leaves_no_trace(tmp_path: Path, model: str, code: int) -> None:
    write_project(tmp_path, "smollm2-135m-instruct")
    with serving(Endpoint()) as server:
        url = "http://127.0.0.1:9/v1" if model == "away" else server.base_url
        edited(tmp_path, lambda run: run.update(teacher={"model": model, "engine": "openai", "base_url": url}))
        before = sorted(tmp_path.rglob("*"))
        done = harness(tmp_path, "augment", "shop")
    assert done.returncode == code, done.stderr
    assert sorted(tmp_path.rglob("*")) == before
