"""A student whose weights were all tuned: scored, asked, studied, kept and vouched for as one with an adapter is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.augment.stage import augment
from harness.commands.ask import ask
from harness.commands.clean import clean
from harness.commands.error_analysis import analyse_errors
from harness.config.load import load_run
from harness.config.run import Run
from harness.core.store import write_json
from harness.core.terminal import Stop
from harness.engines.protocols import StudentEngine
from harness.engines.scripted import ScriptedEngine
from harness.engines.transformers import TransformersEngine
from harness.errors import UsageError
from harness.eval.plan import base_of, plan_scoring
from harness.eval.results import load_results
from harness.eval.runner import Openers
from harness.eval.stage import evaluate
from harness.models.teachers import Teachers
from harness.report.stage import report
from harness.train.adapters import is_intact, seal_adapter
from harness.train.cells import TrainedCell
from harness.train.grid import GridCell, plan_training
from tests.fakes import Quiet, WordEmbedder
from tests.project import no_judge, write_project
from tests.stored import write_cells
from tests.tiny import make_adapter, make_tiny_model

METHODS = "train.methods={lora: {}, full: {kind: full, learning_rate: auto}}"
OPENED: list[tuple[Path, Path | None]] = []


def opener(base: Path, adapter: Path | None) -> StudentEngine:
    OPENED.append((base, adapter))
    return TransformersEngine(base, adapter, device="cpu")


OPENERS = Openers(opener, WordEmbedder, no_judge)


def trained(planned: GridCell, root: Path, tiny_model: Path) -> TrainedCell:
    """What train leaves of a cell: a random adapter, or a random model in the place of all weights."""
    if planned.adapter:
        make_adapter(tiny_model, planned.folder, rank=16)
        (planned.folder / "README.md").unlink()
    elif planned.rows:
        make_tiny_model(planned.folder, random_seed=1)
    if planned.rows:
        write_json(planned.folder / "cell.json", {"key": planned.key})
        seal_adapter(planned.folder, planned.key)
    return TrainedCell(
        **planned.cell.model_dump(), name=planned.cell.name, key=planned.key, model=planned.model.identity,
        tuned=bool(planned.rows), base=os.path.relpath(planned.base, root),
        folder=os.path.relpath(planned.adapter, root) if planned.adapter else "", rows=len(planned.rows),
        available=planned.available, steps=planned.steps, learning_rate=planned.learning_rate,
    )  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Run:
    path = write_project(tmp_path_factory.mktemp("full"), str(tiny_model))
    run = load_run(path, [METHODS, "ship.method=full", "train.sizes=[0, 12]", "train.data=[filtered]"])
    script = run.root / "prompts/shop/teacher.json"
    augment(run, Teachers(own="script@1"), lambda: ScriptedEngine.from_file(script), Quiet(), Stop())
    write_cells(run, [trained(planned, run.root, tiny_model) for planned in plan_training(run).cells])
    evaluate(run, OPENERS, Quiet(), Stop())
    report(run, Quiet())
    return run


def full_cell(run: Run) -> GridCell:
    (cell,) = (planned for planned in plan_training(run).cells if planned.cell.method == "full")
    return cell


def test_it_is_scored_as_a_model_of_its_own_against_the_base_that_it_began_as(done: Run, tiny_model: Path) -> None:
    planned = full_cell(done)
    assert planned.trained
    assert (planned.folder, None) in [(base.resolve(), adapter) for base, adapter in OPENED]
    plan, results = plan_scoring(done), load_results(done.folder)
    student = plan.student(planned.cell, done.name)
    base = base_of(plan.candidates, student)
    assert base is not None
    assert (base.cell.size, base.base.resolve()) == (0, tiny_model.resolve())
    for suite in ("shop", "talk", "facts"):
        cards = {
            card.cell.method: card for card in results.cards if card.suite == suite and card.cell and card.cell.size
        }
        assert cards["full"].complete
        assert set(cards["full"].metrics) == set(cards["lora"].metrics), "kl_from_base among them"
        assert results.scores(cards["full"]) != results.scores(cards["lora"])
    assert any("kl_from_base" in card.metrics for card in results.cards if card.cell and card.cell.method == "full")
    text = (done.folder / "eval/report.md").read_text()
    assert "## Methods at equal rows" in text
    assert "| 0.000735 |" in text, "a tenth of LoRA's 0.00735 for a width of 64"


def test_it_answers_is_studied_and_is_not_cleaned_away(done: Run) -> None:
    planned, terminal = full_cell(done), Quiet()
    ask(done, "where is my parcel", OPENERS, terminal, student="full")
    assert sum(planned.cell.name in said for said in terminal.said) == 1
    assert analyse_errors(done, "shop", None, Quiet())[0].student.endswith("12 rows (filtered, full)")
    stranger = done.cache / "students" / ("0" * 64)
    stranger.mkdir()
    assert clean(done.root / "runs", False, Quiet()) == [stranger]
    assert planned.trained


def _shorten(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])


DAMAGE: dict[str, Callable[[Path], object]] = {
    "weights cut short": _shorten,
    "other settings": lambda folder: (folder / "config.json").write_text("{}"),
    "no tokenizer": lambda folder: (folder / "tokenizer.json").unlink(),
    "an index that names other weights": lambda folder: (folder / "model.safetensors.index.json").write_text("{}"),
    "more weights": lambda folder: (folder / "model-2.safetensors").write_text(""),
    "an adapter that transformers would put in": lambda folder: (folder / "adapter_config.json").write_text("{}"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_weights_are_never_scored(done: Run, tmp_path: Path, name: str) -> None:
    planned = full_cell(done)
    copy = tmp_path / "kept"
    shutil.copytree(planned.folder, copy)
    try:
        DAMAGE[name](planned.folder)
        assert not is_intact(planned.folder, planned.key)
        with pytest.raises(UsageError, match=rf"the weights of .*{planned.cell.name}.* train first"):
            plan_scoring(done)
    finally:
        shutil.rmtree(planned.folder)
        shutil.copytree(copy, planned.folder)
    assert planned.trained
