"""Every shipped recipe, with a scripted teacher and a tiny student, from its run file to a report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness.augment.current import kept_rows
from harness.config.load import load_run
from tests.process import succeed

ROOT = Path(__file__).parent.parent
TEACHER = "{model: smollm2-135m-instruct, engine: vllm}"
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
SMALLER = {  # text of a run file -> what a test has time for
    "orders": {
        "rows: 1024": "rows: 32",
        "[0, 64, 256, 1024]": "[0, 8, 32]",
        "[orders, open_ended, general_knowledge]": "[orders]",
        "[zero_shot, few_shot, retrieval]": "[zero_shot]",
        "ship: {student: smollm2-135m-instruct, data: filtered, size: 1024, random_seed: 0}": "",
    },
}


def project(root: Path, name: str, student: Path) -> None:
    """What the recipe names, in a folder of its own."""
    for folder in ("prompts", "suites"):
        shutil.copytree(ROOT / folder, root / folder)
    (root / "script.json").write_text(json.dumps({"steps": SCRIPTS[name]}))
    run = (ROOT / f"runs/{name}.yaml").read_text()
    assert TEACHER in run
    run = run.replace(TEACHER, "{model: t, engine: scripted, script: script.json}")
    for written, less in SMALLER.get(name, {}).items():
        assert written in run
        run = run.replace(written, less)
    (root / "runs").mkdir()
    (root / f"runs/{name}.yaml").write_text(run.replace("[smollm2-135m-instruct]", f"[{student}]"))


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
