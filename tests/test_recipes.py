"""Every shipped recipe, with a scripted teacher and a tiny student, from its run file to a report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.augment.current import kept_rows
from harness.config.load import load_run
from harness.core import yaml_file
from tests.process import succeed
from tests.project import every_sixth

ROOT = Path(__file__).parent.parent
QUESTION = ["what {word} {word} is {number}", "how does a {word} {word} {word} {number}"]
SAID = json.dumps({"question": "what is {word} about {word} {number}", "answer": "{word} {word}"})
SCRIPTS: dict[str, dict[str, list[str]]] = {
    "self_instruct": {"text": QUESTION, "answer": ["it is {word} {word}"]},
    "critique": {"text": QUESTION, "draft": ["{word}"], "critique": ["it lacks {word}"], "answer": ["it is {word}"]},
    "evolve": {"text": QUESTION, "answer": ["it is {word} {word}"]},
    "personas": {"text": QUESTION, "answer": ["it is {word} {word}"]},
    "magpie": {"text": QUESTION, "answer": ["it is {word} {word}"]},
    "arithmetic": {"text": ["{prompt} {word} {word}?"]},
    "passages": {"asked": [SAID]},
    "orders": {"aside": ["The {word} is near my {word} {word}.", "My {word} likes {word} and {word}."]},
}
SMALLER: dict[str, dict[str, Any]] = {  # recipe -> section.key of its run file -> what a test has time for
    "orders": {
        "augment.rows": 32,
        "train.data": ["filtered"],
        "train.sizes": [0, 32],
        "eval.suites": ["orders"],
        "eval.prompting": ["zero_shot"],
    },
}


def project(root: Path, name: str, student: Path) -> None:
    """What the recipe names, in a folder of its own."""
    for folder in ("prompts", "suites"):
        shutil.copytree(ROOT / folder, root / folder)
    every_sixth(root / "suites/orders.jsonl")
    (root / "script.json").write_text(json.dumps({"steps": SCRIPTS[name]}))
    run = yaml_file.load(ROOT / f"runs/{name}.yaml").data
    run["teacher"] = {"model": "t", "engine": "scripted", "script": "script.json"}
    run["train"]["students"] = [str(student)]
    run.pop("ship", None)  # it names the student that is bundled
    for place, value in SMALLER.get(name, {}).items():
        section, key = place.split(".")
        assert key in run[section]
        run[section][key] = value
    (root / "runs").mkdir()
    (root / f"runs/{name}.yaml").write_text(yaml.safe_dump(run, sort_keys=False))


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_recipe_goes_from_its_run_file_to_a_report(tmp_path: Path, name: str, tiny_model: Path) -> None:
    project(tmp_path, name, tiny_model)
    for verb in ("augment", "train", "eval"):
        succeed(tmp_path, verb, name)
    run = load_run(tmp_path / f"runs/{name}.yaml")
    rows = kept_rows(run)
    assert len(rows) >= run.file.augment.rows
    steps = [step.name for step in run.file.augment.steps]
    for row in rows:
        assert [step.name for step in row.provenance.steps] == (steps if len(steps) > 1 else [])
        assert row.provenance.attributes.keys() == run.file.augment.attributes.keys()
        assert bool(row.provenance.document) == (run.file.augment.documents is not None)
    assert f" on {run.file.eval.suites[0]}" in (run.folder / "eval/report.md").read_text()


def test_every_recipe_is_tried() -> None:
    with_steps = {path.stem for path in (ROOT / "runs").glob("*.yaml") if "\n  steps:\n" in path.read_text()}
    assert with_steps == SCRIPTS.keys()
