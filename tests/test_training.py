"""Tuning cells with a tiny model: alone and together they learn the same, and their adapters open with PEFT."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model

from harness.config.methods import Lora, Method
from harness.config.run import Train
from harness.errors import MachineError, UsageError
from harness.models.chat_template import TokenizedRow, load_chat, prompt_ids
from harness.models.resolve import Model
from harness.records import Row
from harness.train import loop
from harness.train.base import Base, load_base
from harness.train.checkpoint import last_checkpoint, write_checkpoint
from harness.train.loop import Passed, at_once, peft_config, train_cells
from harness.train.lora import SharedLinear
from harness.train.packing import micro_batches, pad, token_losses, tokens_together
from harness.train.preflight import preflight
from harness.train.sizes import batches
from harness.train.trainee import Job, Trainee
from tests.project import prompted_row
from tests.tiny import END_OF_TURN

WORDS = ("screen", "bill", "plan", "parcel", "wheel", "charger", "thief", "phone")
LABELS = ("repair", "billing", "cancel", "delivery")
ROWS = tuple(prompted_row(f"my {word} number {i}", LABELS[i % 4]) for i, word in enumerate(WORDS * 2))
SETTINGS = Train(students=("tiny",), sizes=(16,))
STEPS = 12


def load(tiny_model: Path, exact: bool = False) -> Base:
    """A fresh load of the tiny model under a hub-like name. With `exact` in float32, so that equal means equal."""
    source = Model("someone/tiny", tiny_model, "abc", "0" * 64)
    loaded: Base = load_base(source, list(tokenized(tiny_model).values()), "cpu")
    if exact:
        loaded.network.float()
        return replace(loaded, dtype=torch.float32)
    return loaded


def tokenized(tiny_model: Path) -> Mapping[str, TokenizedRow]:
    """The rows as token ids."""
    return preflight(load_chat("tiny", tiny_model), ROWS, SETTINGS)


def method(**settings: Any) -> Method:
    """A way to tune by a small adapter."""
    return Method(learning_rate=2e-2, lora=Lora(**{"r": 4, **settings}))


def job(name: str, random_seed: int = 0, rows: tuple[Row, ...] = ROWS, steps: int = STEPS, **changes: Any) -> Job:
    """A cell's work."""
    settings: dict[str, Any] = {"batch_size": 8, "learning_rate": 2e-2, "warmup_ratio": 0.1, "method": method()}
    return Job(name=name, key=name, rows=rows, steps=steps, random_seed=random_seed, **(settings | changes))


def tune(base: Base, *jobs: Job, tokens: int = 100_000, together: int = 8) -> dict[str, Trainee]:
    """All jobs to their end, by name."""
    examples = tokenized(base.source.folder)
    trainees: dict[str, Trainee] = {}
    for passed in train_cells(base, jobs, examples, tokens, together):
        trainees |= {trainee.job.name: trainee for trainee in passed.trainees}
    return trainees


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """A saved adapter's tensors."""
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def base(tiny_model: Path) -> Base:
    """The tiny model in float32, loaded once for all tests here."""
    return load(tiny_model, exact=True)


JOBS = (
    job("first"),
    job("few rows", 7, ROWS[:5], steps=5, batch_size=4),
    job("other seed", 1, learning_rate=5e-3),
    job("late", 2, ROWS[3:], steps=7, warmup_ratio=0.5),
)


def logits(base: Base, folder: Path) -> torch.Tensor:
    """Those of the base with a saved adapter, opened by PEFT, on prompts that no cell was tuned on."""
    from peft import PeftModel

    held_out = [prompted_row(f"the {word} of neighbour {i}", "repair") for i, word in enumerate(WORDS * 4)]
    chat = load_chat("tiny", base.source.folder)
    network = PeftModel.from_pretrained(copy.deepcopy(base.network), folder).eval()
    network.set_attn_implementation("sdpa")
    with torch.no_grad():
        ids = [torch.tensor([prompt_ids(chat, row.messages[:-1])]) for row in held_out]
        return torch.stack([network(input_ids=prompt).logits[0, -1] for prompt in ids])


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_cells_that_share_passes_learn_what_each_learns_alone(base: Base, tmp_path: Path, dropout: float) -> None:
    jobs = [replace(each, method=method(lora_dropout=dropout)) for each in JOBS]
    before = {name: weight.clone() for name, weight in base.network.named_parameters()}
    together = tune(base, *jobs, together=3)  # the fourth enters when one leaves
    for each in jobs:
        alone = tune(base, each)[each.name]
        assert together[each.name].losses == pytest.approx(alone.losses, abs=1e-4)
        for trainee, name in ((alone, "alone"), (together[each.name], "together")):
            trainee.weights.save(tmp_path / name / each.name)
        shared, own = (logits(base, tmp_path / name / each.name) for name in ("together", "alone"))
        torch.testing.assert_close(shared, own, rtol=0, atol=1e-3)
    after = dict(base.network.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_cell_equals_what_peft_and_a_plain_loop_make_of_it(base: Base) -> None:
    """The same rows through PEFT's own layers, one by one with plain attention, AdamW and the schedule by hand."""
    each, examples = JOBS[0], tokenized(base.source.folder)
    ours = tune(base, each)[each.name]
    network = copy.deepcopy(base.network)
    network.set_attn_implementation("sdpa")
    torch.manual_seed(each.random_seed)
    wrapped = get_peft_model(network, peft_config(Lora(r=4)))
    weights = [weight for weight in wrapped.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, weight_decay=0.0)
    for step, batch in enumerate(batches(each.rows, each.steps, each.batch_size, each.random_seed)):
        rows = [examples[row.id] for row in batch]
        answers = sum(len(row.ids) - row.answer_start for row in rows)
        loss = torch.zeros(())
        for row in rows:
            labels = torch.tensor([[*[-100] * row.answer_start, *row.ids[row.answer_start :]]])
            mean = wrapped(input_ids=torch.tensor([row.ids]), labels=labels).loss
            loss = loss + mean * (len(row.ids) - row.answer_start) / answers
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.param_groups[0]["lr"] = each.rate(step)
        optimizer.step()
        optimizer.zero_grad()
        assert ours.losses[step] == pytest.approx(loss.item(), abs=1e-4)
    for own, theirs in zip(ours.weights.parameters, weights, strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-3, atol=1e-4)


def test_the_loss_falls_and_the_same_work_gives_the_same_weights(tiny_model: Path) -> None:
    one, two = (tune(load(tiny_model), JOBS[0])["first"] for _ in range(2))
    assert one.losses[-1] < 0.7 * one.losses[0]
    assert one.tokens > STEPS * 8 * 20
    assert one.losses == two.losses
    assert all(map(torch.equal, one.weights.parameters, two.weights.parameters))
    assert tune(load(tiny_model), job("other", 1))["other"].losses != one.losses


def test_callers_random_numbers_are_left_alone(base: Base) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    tune(base, replace(JOBS[0], method=method(lora_dropout=0.5)))
    assert torch.equal(torch.rand(3), expected)


def test_micro_batches_are_about_memory_not_results(base: Base) -> None:
    small, large = (tune(base, JOBS[0], tokens=tokens)["first"].losses for tokens in (64, 100_000))
    assert small == pytest.approx(large, rel=1e-3)


def test_a_step_that_does_not_fit_the_gpu_is_done_again_in_smaller_passes(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = tune(base, JOBS[0], tokens=200)["first"].losses
    asked: list[int] = []

    def fits(parts: Any, tokens: int, alone: bool = False) -> Any:
        asked.append(tokens)
        if tokens > 200:
            raise torch.OutOfMemoryError("too much")
        return micro_batches(parts, tokens, alone)

    monkeypatch.setattr(loop, "micro_batches", fits)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    losses = tune(base, JOBS[0], tokens=1600)["first"].losses
    assert asked[:5] == [1600, 800, 400, 200, 200]
    assert losses == pytest.approx(expected, abs=1e-6)


def test_where_one_row_does_not_fit_the_gpu_what_backward_needs_is_computed_twice(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = tune(base, JOBS[0], tokens=64)["first"].losses
    seen: list[bool] = []

    def fits(parts: Any, tokens: int, alone: bool = False) -> Any:
        seen.append(base.network.is_gradient_checkpointing)
        if not seen[-1]:
            raise torch.OutOfMemoryError("too much")
        return micro_batches(parts, tokens, alone)

    monkeypatch.setattr(loop, "micro_batches", fits)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    losses = tune(base, JOBS[0], tokens=64)["first"].losses
    assert seen.count(False) >= 1
    assert losses == pytest.approx(expected, abs=1e-5)
    assert not base.network.is_gradient_checkpointing
    with pytest.raises(MachineError, match=r"memory ran out.*lower train\.micro_batch_tokens"):
        tune(base, replace(JOBS[0], method=method(lora_dropout=0.5)), tokens=64)


def test_a_base_whose_rows_cannot_be_packed_is_tuned_row_by_row(tiny_model: Path, base: Base) -> None:
    apart = replace(load(tiny_model, exact=True), windows={})
    apart.network.set_attn_implementation("sdpa")
    assert at_once(apart, JOBS, tokenized(tiny_model), 10_000) == 1
    padded = tune(apart, JOBS[0], together=1)["first"].losses
    assert padded == pytest.approx(tune(base, JOBS[0])["first"].losses, abs=1e-4)


def test_as_many_cells_share_a_pass_as_have_room(base: Base) -> None:
    examples = tokenized(base.source.folder)
    assert at_once(base, JOBS, examples, 1) == 1
    assert at_once(base, JOBS, examples, 10_000) == len(JOBS)
    one = tokens_together([examples[row.id] for row in JOBS[0].rows[:8]])
    assert at_once(base, [JOBS[0]] * 9, examples, 3 * one) == 3


def test_the_adapter_opens_with_plain_peft_and_names_no_path(base: Base, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    one_answer = tuple(row for row in ROWS if row.answer == "repair")
    tune(base, job("one", rows=one_answer, steps=40, method=method(r=16)))["one"].weights.save(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    stored = json.loads((tmp_path / "adapter_config.json").read_text())
    assert stored["base_model_name_or_path"] == "someone/tiny"
    assert all(w.dtype == torch.float32 for w in weights(tmp_path).values())

    fresh = AutoModelForCausalLM.from_pretrained(base.source.folder, dtype=torch.bfloat16)
    network = PeftModel.from_pretrained(fresh, tmp_path)
    chat = load_chat("tiny", base.source.folder)
    example = tokenized(base.source.folder)[one_answer[0].id]
    prompt = torch.tensor([example.ids[: example.answer_start]])
    written = network.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=24, do_sample=False
    )[0, prompt.shape[1] :]
    assert chat.tokenizer.decode(written) == "repair" + END_OF_TURN  # it answers and stops


OTHERS = {
    "DoRA": method(use_dora=True),
    "a layer tuned in full": method(modules_to_save=("norm",)),
    "all weights": Method(kind="full", learning_rate=1e-3, lora=None),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_methods_have_the_base_to_themselves_and_leave_it_as_it_was(
    tiny_model: Path, tmp_path: Path, name: str
) -> None:
    base = load(tiny_model)
    before = {name: weight.clone() for name, weight in base.network.named_parameters()}
    plain = job("plain", steps=3)
    other = job("other", method=OTHERS[name], learning_rate=OTHERS[name].learning_rate)
    saved: dict[str, list[float]] = {}
    for passed in train_cells(base, [other, plain], tokenized(tiny_model), 100_000, 3):
        for trainee in passed.finished:
            trainee.weights.save(tmp_path / trainee.job.name)
            saved[trainee.job.name] = trainee.losses
    assert list(saved) == ["plain", "other"]
    assert saved["other"][-1] < saved["other"][0] - 0.5
    assert all(torch.equal(before[name], weight) for name, weight in base.network.named_parameters())
    assert saved["plain"] == tune(load(tiny_model), plain)["plain"].losses
    assert _loss_of(tmp_path / "other", tiny_model) == pytest.approx(saved["other"][-1], rel=0.5)


def _loss_of(folder: Path, tiny_model: Path) -> float:
    """The mean loss of the rows, of what was saved as PEFT or transformers opens it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    whole = folder if (folder / "config.json").exists() else tiny_model
    network = AutoModelForCausalLM.from_pretrained(whole, dtype=torch.float32)
    if whole == tiny_model:
        network = PeftModel.from_pretrained(network, folder)
    rows = list(tokenized(whole).values())  # a tuned model's folder has its tokenizer
    with torch.no_grad():
        return token_losses(network.eval(), pad(rows, torch.device("cpu")), {}).mean().item()


def test_a_loss_that_is_no_number_stops_its_cell_and_no_other(base: Base) -> None:
    def spoil(trainee: Trainee) -> None:
        if trainee.job.name == "first":
            trainee.weights.parameters[0].data[0] = math.nan

    examples = tokenized(base.source.folder)
    alone = tune(base, JOBS[2])["other seed"]
    passes = list(train_cells(base, JOBS, examples, 100_000, 3, begun=spoil))
    failed = {trainee.job.name: trainee.failure for passed in passes for trainee in passed.failed}
    assert list(failed) == ["first"]
    assert f"step 1 of {STEPS}: the loss is nan" in failed["first"]
    assert any(row.id in failed["first"] for row in ROWS)
    finished = {trainee.job.name: trainee for passed in passes for trainee in passed.finished}
    assert set(finished) == {"few rows", "other seed", "late"}
    assert finished["other seed"].losses == pytest.approx(alone.losses, abs=1e-4)


def test_unknown_target_modules_are_refused(base: Base) -> None:
    with pytest.raises(UsageError, match=r"train\.lora: someone/tiny: .*q_projection"):
        tune(base, replace(JOBS[0], method=method(target_modules=("q_projection",))))
    assert tune(base, JOBS[0])["first"].losses  # and the base is still fit for use


def test_who_stops_early_leaves_the_base_as_it_was(base: Base) -> None:
    passes = train_cells(base, JOBS, tokenized(base.source.folder), 100_000, 3)
    next(passes)
    passes.close()
    assert not [name for name, module in base.network.named_modules() if isinstance(module, SharedLinear)]
    assert tune(base, JOBS[0])["first"].losses


def test_a_checkpoint_goes_on_to_the_same_bits(base: Base, tmp_path: Path) -> None:
    examples = tokenized(base.source.folder)
    jobs = [replace(each, method=method(lora_dropout=0.2)) for each in JOBS]

    def finished(passes: Iterable[Passed]) -> dict[str, Trainee]:
        return {trainee.job.name: trainee for passed in passes for trainee in passed.finished}

    whole = finished(train_cells(base, jobs, examples, 300, 3))
    for number, passed in enumerate(train_cells(base, jobs, examples, 300, 3)):
        write_checkpoint(tmp_path, 3, passed.trainees)
        if number == 6:
            break
    assert len(list(tmp_path.iterdir())) == 2
    checkpoint, damaged = last_checkpoint(tmp_path)
    assert checkpoint
    assert not damaged
    keys = [reached.key for reached in checkpoint.state.cells]
    left = sorted((j for j in jobs if j.name != "few rows"), key=lambda j: keys.index(j.key) if j.key in keys else 9)
    again = finished(train_cells(base, left, examples, 300, checkpoint.state.together, checkpoint.restore))
    assert set(again) == {"first", "other seed", "late"}
    for name, trainee in again.items():
        assert trainee.losses == whole[name].losses
        assert all(map(torch.equal, trainee.weights.parameters, whole[name].weights.parameters))

    last = max(tmp_path.iterdir())
    file = last / "0.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    earlier, damaged = last_checkpoint(tmp_path)
    assert damaged == [last]
    assert earlier
    assert len(earlier.state.cells[0].losses) == len(checkpoint.state.cells[0].losses) - 1


def test_the_learning_rate_rises_then_falls_and_is_never_zero() -> None:
    each = job("any", steps=20)
    rates = [each.rate(i) for i in range(20)]
    assert max(rates) == pytest.approx(each.learning_rate)
    assert rates.index(max(rates)) in (1, 2)
    assert rates[0] == pytest.approx(each.learning_rate / 2)
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] > 0
    assert all(math.isfinite(job("any", steps=1, warmup_ratio=w).rate(0)) for w in (0, 0.9))
