"""Tuning one cell with a tiny model: it learns, it repeats itself exactly, its adapter opens with PEFT."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harness.config.run import Lora, Train
from harness.errors import MachineError, UsageError
from harness.models.chat_template import TokenizedRow, load_chat
from harness.models.resolve import Model
from harness.records import Row
from harness.train.loop import Base, CellLog, learning_rate, load_base, train_cell
from harness.train.preflight import preflight
from tests.project import prompted_row
from tests.tiny import END_OF_TURN

WORDS = ("screen", "bill", "plan", "parcel", "wheel", "charger", "thief", "phone")
LABELS = ("repair", "billing", "cancel", "delivery")
ROWS = tuple(prompted_row(f"my {word} number {i}", LABELS[i % 4]) for i, word in enumerate(WORDS * 2))
SETTINGS = Train(students=("tiny",), sizes=(16,), batch_size=8, min_steps=10, learning_rate=2e-2, lora=Lora(r=4))
STEPS = 12


def load(tiny_model: Path) -> Base:
    """A fresh load of the tiny model under a hub-like name."""
    source = Model("someone/tiny", tiny_model, "abc", "0" * 64)
    return load_base(source, list(tokenized(tiny_model).values()), "cpu")


def tokenized(tiny_model: Path) -> Mapping[str, TokenizedRow]:
    """The rows as token ids."""
    return preflight(load_chat("tiny", tiny_model), ROWS, SETTINGS)


def tune(
    base: Base, out: Path, rows: tuple[Row, ...] = ROWS, settings: Train = SETTINGS, random_seed: int = 0
) -> CellLog:
    """A cell that nobody stops."""
    examples = tokenized(base.source.folder)
    log = train_cell(base, rows, examples, settings, STEPS, random_seed, out, lambda done, note: None, lambda: False)
    assert log is not None
    return log


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """A saved adapter's tensors."""
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def base(tiny_model: Path) -> Base:
    """The tiny model, loaded once for all tests here."""
    return load(tiny_model)


@pytest.fixture(scope="module")
def solo(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[CellLog, Path]:
    """One cell, tuned on a base that no other cell has touched."""
    out = tmp_path_factory.mktemp("solo")
    return tune(load(tiny_model), out), out


def test_the_loss_falls_and_the_log_says_what_happened(solo: tuple[CellLog, Path]) -> None:
    log, _ = solo
    assert log.losses[-1] < 0.7 * log.losses[0]
    assert (log.steps, len(log.losses), log.rows) == (STEPS, STEPS, len(ROWS))
    assert log.base == "someone/tiny@abc"
    assert log.tokens > STEPS * SETTINGS.batch_size * 20
    assert log.peak_memory > 2**20
    assert log.packed


def test_a_cell_in_a_grid_equals_the_cell_alone(base: Base, solo: tuple[CellLog, Path], tmp_path: Path) -> None:
    before = {name: p.clone() for name, p in base.network.named_parameters()}
    other = SETTINGS.model_copy(update={"lora": Lora(r=2, lora_dropout=0.5)})
    tune(base, tmp_path / "other", ROWS[:5], other, random_seed=7)
    log = tune(base, tmp_path / "again")
    assert log.losses == solo[0].losses
    again, alone = weights(tmp_path / "again"), weights(solo[1])
    assert again.keys() == alone.keys()
    assert all(torch.equal(again[name], alone[name]) for name in alone)
    after = dict(base.network.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_another_random_seed_gives_other_weights(base: Base, solo: tuple[CellLog, Path], tmp_path: Path) -> None:
    assert tune(base, tmp_path, random_seed=1).losses != solo[0].losses


def test_callers_random_numbers_are_left_alone(base: Base, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    tune(base, tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_micro_batches_are_about_memory_not_results(tiny_model: Path, tmp_path: Path) -> None:
    exact = load(tiny_model)
    exact = replace(exact, network=exact.network.float())
    losses = []
    for tokens in (64, 100_000):  # one row at a time; the whole step at once
        settings = SETTINGS.model_copy(update={"micro_batch_tokens": tokens})
        losses.append(tune(exact, tmp_path / str(tokens), settings=settings).losses)
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_base_whose_rows_cannot_be_packed_is_tuned_row_by_row(base: Base, tmp_path: Path) -> None:
    log = tune(replace(base, packs=False), tmp_path)
    assert not log.packed
    assert log.losses[-1] < 0.7 * log.losses[0]


def test_the_adapter_opens_with_plain_peft_and_names_no_path(base: Base, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    one_answer = tuple(row for row in ROWS if row.answer == "repair")
    examples = tokenized(base.source.folder)
    settings = SETTINGS.model_copy(update={"lora": Lora(r=16)})
    train_cell(base, one_answer, examples, settings, 40, 0, tmp_path, lambda done, note: None, lambda: False)
    assert {p.name for p in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    stored = json.loads((tmp_path / "adapter_config.json").read_text())
    assert stored["base_model_name_or_path"] == "someone/tiny"
    assert all(w.dtype == torch.float32 for w in weights(tmp_path).values())

    fresh = AutoModelForCausalLM.from_pretrained(base.source.folder, dtype=torch.bfloat16)
    network = PeftModel.from_pretrained(fresh, tmp_path)
    chat = load_chat("tiny", base.source.folder)
    example = examples[one_answer[0].id]
    prompt = torch.tensor([example.ids[: example.answer_start]])
    written = network.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=24, do_sample=False
    )[0, prompt.shape[1] :]
    assert chat.tokenizer.decode(written) == "repair" + END_OF_TURN  # it answers and stops


def test_stopping_early_leaves_nothing_and_stopping_late_finishes(base: Base, tmp_path: Path) -> None:
    examples = tokenized(base.source.folder)
    done: list[int] = []

    def report(count: int, note: str) -> None:
        done.append(count)

    early = train_cell(base, ROWS, examples, SETTINGS, STEPS, 0, tmp_path / "early", report, lambda: True)
    assert early is None
    assert not (tmp_path / "early").exists()
    assert done == []
    late = train_cell(
        base, ROWS, examples, SETTINGS, STEPS, 0, tmp_path / "late", report, lambda: len(done) > 0,
        finish_seconds=math.inf,
    )  # fmt: skip
    assert late is not None
    assert done == list(range(1, STEPS + 1))


def test_a_loss_that_is_no_number_names_the_step(tiny_model: Path, tmp_path: Path) -> None:
    broken = load(tiny_model)
    with torch.no_grad():
        broken.network.model.norm.weight[0] = float("nan")
    with pytest.raises(MachineError, match="step 1 of 12: the loss is nan"):
        tune(broken, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_unknown_target_modules_are_refused(base: Base, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"lora": Lora(target_modules=("q_projection",))})
    with pytest.raises(UsageError, match=r"train\.lora: someone/tiny: .*q_projection"):
        tune(base, tmp_path, settings=settings)
    assert tune(base, tmp_path).losses  # and the base is still fit for use


def test_the_learning_rate_rises_then_falls_and_is_never_zero() -> None:
    rates = [learning_rate(i, 20, SETTINGS) for i in range(20)]
    assert max(rates) == pytest.approx(SETTINGS.learning_rate)
    assert rates.index(max(rates)) in (1, 2)
    assert rates[0] == pytest.approx(SETTINGS.learning_rate / 2)
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] > 0
    assert all(math.isfinite(learning_rate(0, 1, SETTINGS.model_copy(update={"warmup_ratio": w}))) for w in (0, 0.9))
