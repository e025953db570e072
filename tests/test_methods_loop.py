"""Several methods from training to report, with a tiny student."""

from __future__ import annotations

from pathlib import Path

from harness.augment.stage import augment
from harness.config.load import load_run
from harness.core.terminal import Stop
from harness.engines.scripted import ScriptedEngine
from harness.eval.results import load_results
from harness.eval.stage import evaluate
from harness.models.teachers import Teachers
from harness.report.stage import report
from harness.train.cells import load_cells
from harness.train.stage import train
from tests.fakes import Quiet
from tests.project import write_project
from tests.test_full_student import OPENED, OPENERS

METHODS = (
    "{lora: {}, dora: {use_dora: true}, rslora: {use_rslora: true, r: 4}, mica: {init_lora_weights: mica},"
    " parts: {r: 4, modules_to_save: [norm], rank_pattern: {q_proj: 2}}, full: {kind: full, learning_rate: auto}}"
)


def test_every_method_is_trained_scored_and_reported(tiny_model: Path, tmp_path: Path) -> None:
    settings = [f"train.methods={METHODS}", "ship.method=full", "train.sizes=[0, 12]", "train.data=[filtered]"]
    more = ["train.learning_rate=auto", "eval.suites=[shop]", "eval.reference=null", "eval.prompting=[zero_shot]"]
    run = load_run(write_project(tmp_path, str(tiny_model)), [*settings, *more])
    script = run.root / "prompts/shop/teacher.json"
    augment(run, Teachers(own="script@1"), lambda: ScriptedEngine.from_file(script), Quiet(), Stop())
    train(run, Quiet(), Stop())
    cells = {cell.method: cell for cell in load_cells(run.folder).cells}
    names = ["lora", "dora", "rslora", "mica", "parts", "full"]
    assert list(cells) == ["", *names]
    assert {name for name in names if not cells[name].folder} == {"full"}
    assert {cells[name].learning_rate for name in names} == {7.35e-3, 7.35e-4}
    first = [cells[name].first_loss or 0.0 for name in names]
    assert max(first) - min(first) < 0.02, "the same rows, before anything is learned, but for rounding"
    evaluate(run, OPENERS, Quiet(), Stop())
    own = run.root / cells["full"].base
    assert (own.resolve(), None) in [(base.resolve(), adapter) for base, adapter in OPENED]
    cards = {card.cell.method: card for card in load_results(run.folder).cards if card.cell}
    assert all(cards[name].complete for name in names)
    report(run, Quiet())
    text = (run.folder / "eval/report.md").read_text()
    assert all(f"| {name} |" in text for name in names)
    assert train(run, Quiet(), Stop()) is None
