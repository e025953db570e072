"""The whole loop with a tiny student and several data arms: rows are measured, trained on, scored, and reported."""

from __future__ import annotations

import re
from pathlib import Path

from harness.augment.stage import augment
from harness.commands.dry_run import describe_training
from harness.config.load import load_run
from harness.core.json_file import read_json
from harness.core.terminal import Stop
from harness.engines.scripted import ScriptedEngine
from harness.eval.stage import evaluate
from harness.models.teachers import Teachers
from harness.report.stage import report
from harness.train.row_scores import Models
from harness.train.stage import train
from tests.fakes import Quiet, WordEmbedder
from tests.project import write_project
from tests.test_loop import OPENERS, opener

SETTINGS = [
    "train.data=[filtered, random, {without: judge}, length, diverse, student_fit, ifd, {template: list}]",
    "train.sizes=[0, 12]",
    "eval.suites=[shop]",
    "ship.data=without_judge",
]


def test_rows_are_measured_once_and_every_arm_is_reported(tmp_path: Path, tiny_model: Path) -> None:
    run = load_run(write_project(tmp_path, str(tiny_model)), SETTINGS)
    script = run.root / "prompts/shop/teacher.json"
    funnel = augment(run, Teachers(own="script@1"), lambda: ScriptedEngine.from_file(script), Quiet(), Stop())
    assert funnel is not None
    calls = {line.purpose: line.calls for line in funnel.calls}
    assert sum(calls.values()) == funnel.calls_paid + funnel.calls_cached
    assert calls["generate"] == funnel.requested
    assert calls["judge"] + calls["calibrate"] > 0

    described = describe_training(run)
    assert f"first, data student_fit, ifd: {funnel.kept} rows are to be measured under" in described
    assert f"first, data diverse: {funnel.kept} rows are to be measured by sentence embeddings" in described
    models = Models(lambda name: opener(Path(name), None), WordEmbedder)
    train(run, Quiet(), Stop(), models)
    assert "are to be measured" not in describe_training(run)
    evaluate(run, OPENERS, Quiet(), Stop())
    report(run, Quiet())

    text = (run.folder / "eval/report.md").read_text()
    section = text[text.index("## Data arms at equal rows") :]
    lines = [re.split(r" \| ", line.strip("| ")) for line in section.splitlines() if "| 12 |" in line]
    compared = [(line[2], line[4]) for line in lines if line[4].startswith("minus")]
    names = ["filtered", "without_judge", "length", "diverse", "student_fit", "ifd", "template_list"]
    assert [arm for arm, control in compared if control == "minus random"] == names
    assert [arm for arm, control in compared if control == "minus filtered"] == names[1:]
    assert [line[0] for line in lines if not line[4].startswith("minus")] == ["filter judge", "template list"]
    cells = read_json(run.folder / "train/cells.json")["cells"]
    assert {cell["steps"] for cell in cells if cell["size"]} == {3}
    assert train(run, Quiet(), Stop()) is None
