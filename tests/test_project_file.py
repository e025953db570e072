"""Paths: a run is the same wherever it is started and whatever is a link, and its files never leave the project."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from harness.config.load import load_run, load_suites
from harness.core.project_file import project_file
from harness.errors import UsageError
from harness.models.resolve import possible, resolve
from tests.process import harness, succeed
from tests.project import write_project

NAMED = [  # file -> key that names another file
    ("runs/shop.yaml", "task"),
    ("runs/shop.yaml", "teacher.script"),
    ("runs/shop.yaml", "augment.seeds"),
    ("runs/shop.yaml", "augment.templates.0.path"),
    ("runs/shop.yaml", "augment.filters.5.template"),
    ("prompts/shop/task.yaml", "prompt"),
    ("prompts/shop/task.yaml", "untuned_prompt"),
    ("suites/shop.yaml", "items"),
]


def place_of(root: Path, file: str, key: str, value: str | None = None) -> str:
    """The path that a key of a YAML file names, after `value` has been written there."""
    document = yaml.safe_load((root / file).read_text())
    *above, last = [int(part) if part.isdecimal() else part for part in key.split(".")]
    inner = document
    for part in above:
        inner = inner[part]
    if value is not None:
        inner[last] = value
        (root / file).write_text(yaml.safe_dump(document, sort_keys=False))
    return str(inner[last])


@pytest.mark.parametrize(("file", "key"), NAMED)
def test_no_file_outside_the_project_is_read(tmp_path: Path, file: str, key: str) -> None:
    root = tmp_path / "p"
    run = write_project(root, "nobody")
    written = place_of(root, file, key)
    outside = tmp_path / Path(written).name
    shutil.copy(root / written, outside)
    load_run(run)
    (root / "link").symlink_to(outside.parent)
    for leaving in (str(outside), f"../{outside.name}", f"prompts/../../{outside.name}", f"link/{outside.name}"):
        place_of(root, file, key, leaving)
        with pytest.raises(UsageError, match=rf"{Path(file).name}:\d+: {key}: .* leads out of the project"):
            load_run(run)


@pytest.mark.parametrize(
    ("suite", "key"),
    [
        ("kind: facts\nitems: suites/i.jsonl\n", "documents"),
        ("kind: open_ended\nitems: suites/talk.jsonl\n", "canaries"),
        ("kind: open_ended\nitems: suites/talk.jsonl\n", "moderation"),
        ("kind: answers\nitems: suites/i.jsonl\n", "answer: {kind: json, json_schema"),
    ],
)
def test_no_file_that_a_suite_names_lies_outside(tmp_path: Path, suite: str, key: str) -> None:
    root = tmp_path / "p"
    run = write_project(root, "nobody", eval={"suites": ["extra"]})
    items = [{"question": f"{i}?", "answer": "{}"} for i in range(9)]
    (root / "suites/i.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (tmp_path / "out.jsonl").write_text('{"canary": "one two three four"}\n')
    (root / "suites/extra.yaml").write_text(f"{suite}{key}: ../out.jsonl{'}' * ('{' in key)}\n")
    with pytest.raises(UsageError, match=r"extra.yaml:\d+: .*\.\./out.jsonl leads out of the project"):
        load_run(run)
    with pytest.raises(UsageError, match="leads out of the project"):
        load_suites(root)


def test_a_suite_is_read_by_the_shape_of_a_run_that_scores_it(tmp_path: Path) -> None:
    fields = ["document", "question"]
    run = write_project(tmp_path, "nobody", eval={"suites": ["extra"]})
    written = yaml.safe_load(run.read_text())
    run.write_text(yaml.safe_dump(written | {"task": {"system": "Answer.", "fields": fields}}))
    items = [{"document": f"{i}", "question": "which?", "answer": "a"} for i in range(12)]
    (tmp_path / "suites/i.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (tmp_path / "suites/extra.yaml").write_text("kind: answers\nitems: suites/i.jsonl\n")
    assert set(load_suites(tmp_path)["extra"].items[0].fields) == set(fields)
    run.unlink()
    with pytest.raises(UsageError, match=r"i.jsonl:1: document: unknown column"):
        load_suites(tmp_path)


def test_a_link_within_the_project_is_a_file_like_others(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "real.txt").write_text("x")
    (tmp_path / "alias.txt").symlink_to(tmp_path / "real.txt")
    assert project_file(tmp_path, "alias.txt", "here").read_text() == "x"
    with pytest.raises(UsageError, match=r"here: .*aliases\.txt .*'alias\.txt'"):
        project_file(tmp_path, "aliases.txt", "here")


def test_a_run_by_its_path_from_another_folder_is_the_same(tmp_path: Path, tiny_model: Path) -> None:
    root, elsewhere = tmp_path / "p", tmp_path / "else"
    write_project(root, "./tiny")
    elsewhere.mkdir()
    shutil.copytree(tiny_model, root / "tiny")
    succeed(root, "augment", "shop")
    path = str(root / "runs/shop.yaml")
    assert "nothing to do" in succeed(elsewhere, "augment", path)
    for verb in ("show", "train", "eval"):
        done = harness(elsewhere, verb, path, "--dry-run")
        assert done.returncode == 0, done.stderr
    assert list(elsewhere.iterdir()) == []


def test_a_model_is_seen_from_the_project_and_may_lie_anywhere(tmp_path: Path, tiny_model: Path) -> None:
    root = tmp_path / "p"
    shutil.copytree(tiny_model, root / "tiny")
    for name in ("./tiny", "tiny", str(tiny_model)):
        assert possible(name, root)
    assert not possible("./tiny", tmp_path)
    assert resolve("./tiny", root / "runs/.cache", root=root).folder == (root / "tiny").resolve()
    assert resolve(str(tiny_model), root / "runs/.cache", root=root).folder == tiny_model.resolve()


def test_a_linked_run_file_belongs_where_the_link_lies(tmp_path: Path) -> None:
    root, other = tmp_path / "p", tmp_path / "conf"
    path = write_project(root, "nobody")
    other.mkdir()
    shutil.move(path, other / "any.yaml")
    path.symlink_to(other / "any.yaml")
    run = load_run(path)
    assert (run.root, run.name, run.folder) == (root, "shop", root / "runs/shop")
    (root / "runs/child.yaml").write_text("extends: shop.yaml\nrandom_seed: 3\n")
    (root / "runs/again.yaml").symlink_to(root / "runs/child.yaml")
    assert load_run(root / "runs/again.yaml").file.random_seed == 3


@pytest.mark.slow
def test_runs_may_be_a_link_to_another_disk(tmp_path: Path, tiny_model: Path) -> None:
    root = tmp_path / "p"
    write_project(root, "tiny", eval={"suites": ["shop"]})
    shutil.copytree(tiny_model, root / "tiny")
    shutil.move(root / "runs", tmp_path / "disk")
    (root / "runs").symlink_to(tmp_path / "disk")
    for verb in ("augment", "train", "eval"):
        succeed(root, verb, "shop")
    cells = json.loads((tmp_path / "disk/shop/train/cells.json").read_text())["cells"]
    assert {cell["base"] for cell in cells} == {"tiny"}
    assert all(cell["folder"].startswith("runs/.cache/") for cell in cells if cell["folder"])
    assert "nothing to do" in succeed(root, "augment", "shop")
    assert (tmp_path / "disk/shop/eval/report.md").is_file()
