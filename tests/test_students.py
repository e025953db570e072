"""Several students in one run: from training to the table and the figure of what a larger one gains and costs."""

from __future__ import annotations

import math
from pathlib import Path

from harness.augment.stage import augment
from harness.config.load import load_run
from harness.core.terminal import Stop
from harness.engines.scripted import ScriptedEngine
from harness.eval.stage import evaluate
from harness.models.files import weight_shapes
from harness.models.teachers import Teachers
from harness.report.findings import findings
from harness.report.stage import report
from harness.report.tables import MONEY
from harness.train.stage import train
from tests.fakes import Quiet
from tests.project import write_project
from tests.test_full_student import OPENERS
from tests.tiny import make_tiny_model


def test_students_are_compared_by_what_they_are_worth_and_what_they_take(tmp_path: Path, tiny_model: Path) -> None:
    other = make_tiny_model(tmp_path / "models/other", "gemma2", random_seed=1)
    path = write_project(tmp_path, str(tiny_model))
    settings = [f"train.students=[{other}, {tiny_model}]", "train.sizes=[0, 12]", "train.data=[filtered]"]
    more = ["eval.suites=[shop]", "eval.reference=null", "eval.prompting=[zero_shot]", "train.min_steps=1", "ship=null"]
    run = load_run(path, [*settings, *more])
    script = run.root / "prompts/shop/teacher.json"
    augment(run, Teachers(own="script@1"), lambda: ScriptedEngine.from_file(script), Quiet(), Stop())
    train(run, Quiet(), Stop())
    evaluate(run, OPENERS, Quiet(), Stop())
    first, second = findings(run, "").students["shop"]
    sizes = {str(folder): sum(map(math.prod, weight_shapes(folder).values())) for folder in (other, tiny_model)}
    assert sizes[str(other)] != sizes[str(tiny_model)]
    assert [cost.arm.student for cost in (first, second)] == sorted(sizes, key=lambda name: sizes[name])
    assert [cost.parameters for cost in (first, second)] == sorted(sizes.values())
    assert first.against is None
    assert second.against is not None
    assert abs(second.against.interval.estimate - (second.value - first.value)) < 1e-9
    assert min(first.tokens, second.tokens, first.seconds, second.seconds) > 0
    report(run, Quiet())
    text = (run.folder / "eval/report.md").read_text()
    assert "## Students on shop" in text
    html = (run.folder / "eval/report.html").read_text()
    assert "milliseconds an answer" in html
    assert html.count('class="answer"') == 2
    assert MONEY not in text
    priced = load_run(path, [*settings, *more, "report.price_per_hour=7.2"])  # a thousand seconds cost 2
    report(priced, Quiet())  # the same scores: a price makes none of them anew
    text = (run.folder / "eval/report.md").read_text()
    assert text.count(MONEY) == 2  # of every candidate, and of the students side by side
    assert f"| {2 * first.seconds:.3g} |" in text
