"""Continued pre-training: a base that reads raw text before it is tuned, from the run file to the exported student."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from harness.augment.stage import augment
from harness.builders import form_scorer
from harness.commands.clean import clean
from harness.commands.dry_run import describe_training
from harness.commands.export_student import Options, export_student
from harness.config.load import load_run
from harness.config.run import Run
from harness.core.terminal import Stop
from harness.engines.scripted import ScriptedEngine
from harness.errors import Interrupted, MachineError, UsageError
from harness.eval.plan import plan_scoring
from harness.eval.results import load_results
from harness.eval.stage import evaluate
from harness.models.chat_template import load_chat
from harness.models.teachers import Teachers
from harness.report.stage import report
from harness.train.cells import load_cells
from harness.train.grid import TrainPlan, plan_training
from harness.train.pretraining import tokenized_texts
from harness.train.stage import train
from tests.fakes import Quiet
from tests.project import write_project
from tests.test_export_student import no_hub
from tests.test_full_student import OPENERS

READ = "pretrain: {documents: {path: handbook.md, words: 16}, steps: 3, learning_rate: 1e-3}"
METHODS = f"train.methods={{lora: {{}}, read: {{{READ}}}, read_full: {{kind: full, learning_rate: 1e-4, {READ}}}}}"
SMALL = ["train.sizes=[0, 8]", "train.data=[filtered]", "ship=null", "eval.suites=[shop]"]
TEXT = "\n\n".join(f"# Shelf {i}\n\nParcels of row {i} wait on shelf {i} until the van of gate {i}." for i in range(9))


def prepared(root: Path, student: Path, *settings: str) -> Run:
    """A run whose rows are made."""
    path = write_project(root, str(student))
    (root / "handbook.md").write_text(TEXT)
    fixed = [*SMALL, "train.random_seeds=[0, 1]", "train.epochs=1"]
    more = ["eval.reference=null", "eval.prompting=[zero_shot]", "train.min_steps=2"]
    run = load_run(path, [METHODS, *fixed, *more, *settings])
    script = root / "prompts/shop/teacher.json"
    augment(run, Teachers(own="script@1"), lambda: ScriptedEngine.from_file(script), Quiet(), Stop())
    return run


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[Run, TrainPlan, str]:
    """A trained and scored run, its plan, and what its dry run said before."""
    run = prepared(tmp_path_factory.mktemp("read"), tiny_model)
    before = describe_training(run)
    train(run, Quiet(), Stop())
    evaluate(run, OPENERS, Quiet(), Stop())
    report(run, Quiet())
    return run, plan_training(run), before


def test_one_cell_of_raw_text_is_trained_for_all_that_begin_from_it(done: tuple[Run, TrainPlan, str]) -> None:
    run, plan, before = done
    (first,) = plan.pretraining
    assert first.trained
    assert {planned.cell.method for planned in plan.cells if planned.pretraining} == {"read", "read_full"}
    assert "raw_text.9.read.s0" in before
    assert "3 steps on the raw text of handbook.md" in before
    record = json.loads((first.folder / "cell.json").read_text())
    assert len(record["losses"]) == 3
    assert record["validation"] == []
    assert train(run, Quiet(), Stop()) is None


def test_cells_begin_from_the_weights_that_read_the_text(done: tuple[Run, TrainPlan, str], tiny_model: Path) -> None:
    run, plan, _ = done
    (first,) = plan.pretraining
    cells = {(planned.cell.method, planned.cell.random_seed): planned for planned in plan.cells if planned.rows}
    read, plain = cells["read", 0], cells["lora", 0]
    assert (read.base, plain.base) == (first.folder, plain.model.folder)
    assert read.key != plain.key
    weights = [AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (first.folder, tiny_model)]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    losses = {name: json.loads((cells[name, 0].folder / "cell.json").read_text())["losses"][0] for name, _ in cells}
    assert losses["read"] == pytest.approx(losses["read_full"], abs=2e-3), "the same rows on the same weights"
    assert losses["read"] != losses["lora"]
    stored = {cell.method: cell for cell in load_cells(run.folder).cells if cell.random_seed == 0}
    assert (run.root / stored["read"].base).resolve() == first.folder.resolve()
    assert stored["read"].pretraining == first.key
    cards = {card.cell.method: card for card in load_results(run.folder).cards if card.cell}
    assert all(cards[name].complete for name in ("lora", "read", "read_full"))
    assert "3 steps on the raw text of handbook.md" in (run.folder / "eval/report.md").read_text()


def test_it_is_kept_while_a_run_needs_it(done: tuple[Run, TrainPlan, str]) -> None:
    run, plan, _ = done
    terminal = Quiet()
    assert clean(run.root / "runs", False, terminal) == []
    assert plan.pretraining[0].trained
    assert "scores are left alone" not in terminal.text, "no suite scores it"


def test_a_base_that_is_lost_is_named_by_whoever_would_load_it(done: tuple[Run, TrainPlan, str]) -> None:
    run, plan, _ = done
    (first,) = plan.pretraining
    away = first.folder.rename(first.folder.parent.parent / "away")
    try:
        with pytest.raises(UsageError, match=rf"{first.key}: the base of \S+8\.read\.s0 is missing.*train first"):
            plan_scoring(run)
        with pytest.raises(UsageError, match=rf"{first.key}: the base that \S+8\.read\.s0 began from .*train first"):
            export_student(run, Options(student="8.read.s0"), form_scorer(run, Quiet()), no_hub, Quiet())
        assert {planned.cell.method for planned in plan.cells if not planned.can_be_loaded} == {"read"}
    finally:
        away.rename(first.folder)


def test_two_texts_have_two_names_and_what_reading_took_is_reported(done: tuple[Run, TrainPlan, str]) -> None:
    run, plan, _ = done
    other = "{kind: full, learning_rate: 1e-4, pretrain: {documents: {path: handbook.md, words: 16}, steps: 4}}"
    more = load_run(run.root / "runs/shop.yaml", [METHODS, f"train.methods.other={other}", *SMALL])
    assert [planned.cell.name.partition(".")[2] for planned in plan_training(more).pretraining] == [
        "raw_text.9.read.s0",
        "raw_text.9.other.s0",
    ]
    (stored,) = load_cells(run.folder).pretraining
    assert stored.key == plan.pretraining[0].key
    assert f"Continued pre-training before it: {stored.tokens} tokens" in (run.folder / "eval/report.md").read_text()


def test_documents_without_a_piece_are_said(done: tuple[Run, TrainPlan, str]) -> None:
    run, _, _ = done
    folder = run.root / "texts"
    folder.mkdir()
    (folder / "long.md").write_text(TEXT)
    (folder / "short.txt").write_text("Two words.")
    read = f"train.methods={{read: {{{READ.replace('handbook.md', 'texts')}}}}}"
    said = describe_training(load_run(run.root / "runs/shop.yaml", [read, *SMALL]))
    assert "documents: no section of texts/short.txt has 8 words (min_words): they are left out" in said


def test_a_student_that_began_from_it_is_exported_whole(done: tuple[Run, TrainPlan, str]) -> None:
    run, _, _ = done
    terminal = Quiet()
    folder = export_student(run, Options(student="8.read.s0"), form_scorer(run, terminal), no_hub, terminal).folder
    assert (folder / "model.safetensors").is_file()
    assert not (folder / "adapter_config.json").exists()
    assert any("nobody else has that base" in line for line in terminal.said)
    card = (folder / "README.md").read_text()
    assert "continued pre-training | 3 steps of all weights on 9 pieces of raw text" in card


def test_another_text_trains_anew_what_began_from_it(done: tuple[Run, TrainPlan, str]) -> None:
    run, plan, _ = done
    assert changed_by(run, plan, "Shelf 3", "Shelf three") == set(), "a heading is none of a piece's words"
    assert changed_by(run, plan, "row 3 wait", "row 3 rest") == {"read", "read_full"}


def changed_by(run: Run, plan: TrainPlan, old: str, new: str) -> set[str]:
    """The methods whose cells are others while the documents say `new`."""
    handbook = run.root / "handbook.md"
    try:
        handbook.write_text(TEXT.replace(old, new))
        other = plan_training(run)
    finally:
        handbook.write_text(TEXT)
    pairs = zip(plan.cells, other.cells, strict=True)
    return {before.cell.method for before, after in pairs if before.key != after.key}


def test_a_stop_in_it_leaves_the_rest_for_the_next_command(tmp_path: Path, tiny_model: Path) -> None:
    run, stop = prepared(tmp_path, tiny_model), Stop()
    stop.request()
    with pytest.raises(Interrupted, match="go on with"):
        train(run, Quiet(), stop)
    (first,) = plan_training(run).pretraining
    assert not first.trained
    train(run, Quiet(), Stop())
    assert all(planned.trained for planned in plan_training(run).order)


def test_a_stop_between_both_leaves_what_was_read_to_clean(tmp_path: Path, tiny_model: Path) -> None:
    run = prepared(tmp_path, tiny_model, "train.random_seeds=[0]")
    train(run, Quiet(), Stop())
    plan = plan_training(run)
    for planned in plan.cells:
        if planned.pretraining:
            shutil.rmtree(planned.folder)
    stop = Stop()
    stop.request()
    with pytest.raises(Interrupted, match="2 of 4 cells are trained"):
        train(run, Quiet(), stop)
    clean(run.root / "runs", False, Quiet())
    assert plan.pretraining[0].trained


def test_a_failure_in_it_says_what_is_not_trained_for_that(tmp_path: Path, tiny_model: Path) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "endless"))
    tensors = load_file(model / "model.safetensors")
    (token,) = load_chat("tiny", model).tokenizer("~")["input_ids"]
    tensors["model.embed_tokens.weight"][token] = math.inf
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    run = prepared(tmp_path, model, "train.random_seeds=[0]")
    with pytest.raises(MachineError) as failed:
        train(run, Quiet(), Stop())
    said = str(failed.value)
    assert "2 of 4 cells failed, 2 that begin from their weights are not trained: " in said
    assert "8.read.s0" in said.partition(";")[0]
    assert "raw_text.9.read.s0: step 1 of 3: the loss is nan" in said
    assert "are stored" not in said


def test_a_damaged_base_is_trained_again(tmp_path: Path, tiny_model: Path) -> None:
    run = prepared(tmp_path, tiny_model, "train.random_seeds=[0]")
    train(run, Quiet(), Stop())
    (first,) = plan_training(run).pretraining
    weights = first.folder / "model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-8])
    train(run, Quiet(), Stop())
    assert weights.read_bytes() == before


def test_documents_that_are_not_there_are_said_before_anything_is_spent(tmp_path: Path, tiny_model: Path) -> None:
    path = write_project(tmp_path, str(tiny_model))
    with pytest.raises(UsageError, match=r"train\.methods\.read\.pretrain\.documents\.path.*handbook\.md"):
        load_run(path, [METHODS, "ship=null"])


def test_a_piece_that_is_too_long_is_named_and_none_is_cut(done: tuple[Run, TrainPlan, str], tiny_model: Path) -> None:
    _, plan, _ = done
    chat, rows = load_chat("tiny", tiny_model), plan.pretraining[0].rows
    tokenized = tokenized_texts(chat, rows, 512, None)
    assert [chat.tokenizer.decode(tokenized[row.id].ids[:-1]) for row in rows] == [row.text for row in rows]
    assert {tokenized[row.id].ids[-1] for row in rows} == {chat.tokenizer.eos_token_id}
    with pytest.raises(UsageError, match=r"Parcels of row 0.*pretrain\.documents\.words"):
        tokenized_texts(chat, rows, 6, None)
    with pytest.raises(UsageError, match=r"more than the model's context \(5\): cut them"):
        tokenized_texts(chat, rows, 512, 5)
