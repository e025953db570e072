"""Whether the answers fit an adapter: parameters as PEFT counts them, bits by hand, and what is said."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config.methods import Lora
from harness.models.files import weight_shapes
from harness.records import Message, Row
from harness.train.capacity import BITS, adapter_parameters, answer_bits, capacity_note, learned_texts
from harness.train.grid import plan_training
from tests.project import row
from tests.test_train_stage import make_run

LORAS: list[dict[str, Any]] = [
    {},
    {"r": 3, "use_dora": True},
    {"use_rslora": True, "target_modules": ("q_proj", "mlp.down_proj")},
    {"target_modules": r".*\.(k_proj|v_proj)", "rank_pattern": {"k_proj": 2, r"1\.self_attn\.v_proj": 5}},
    {"target_modules": ("q_proj", "o_proj"), "layers_to_transform": 1},
    {"exclude_modules": ("gate_proj",), "init_lora_weights": "gaussian"},
    {"exclude_modules": r".*0\.self_attn.*", "init_lora_weights": "orthogonal"},
]


@pytest.mark.parametrize("settings", LORAS, ids=[str(settings) for settings in LORAS])
def test_parameters_are_counted_as_peft_trains_them(tiny_model: Path, settings: dict[str, Any]) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    lora = Lora(**settings)
    network = AutoModelForCausalLM.from_pretrained(tiny_model)
    peft = get_peft_model(network, LoraConfig(**lora.peft_settings, task_type="CAUSAL_LM"))
    trained = sum(p.numel() for p in peft.parameters() if p.requires_grad)
    assert adapter_parameters(weight_shapes(tiny_model), lora) == trained > 0


def test_bits_by_hand() -> None:
    labels = ["repair", "billing"] * 5000
    assert answer_bits(labels) < 2000, "what repeats holds little"
    prose = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz ", k=8000))
    assert answer_bits([prose]) == 8000, "one a byte, where zlib needs more"
    assert answer_bits([]) == 0


@given(st.lists(st.text(max_size=30), max_size=30))
def test_more_text_holds_no_less_than_nothing_and_no_more_than_a_bit_a_byte(texts: list[str]) -> None:
    assert 0 <= answer_bits(texts) <= len("\n".join(texts).encode())


def long_rows(count: int, characters: int) -> list[Row]:
    rng = random.Random(1)
    return [row(f"question {i}", "".join(rng.choices("abcdefghij ", k=characters))) for i in range(count)]


def test_a_note_names_what_is_too_much_and_the_rank_that_is_enough() -> None:
    shapes = {"model.layers.0.q_proj.weight": (50, 50), "model.embed_tokens.weight": (900, 50)}
    lora = Lora(r=2)
    assert adapter_parameters(shapes, lora) == 200
    assert capacity_note("cell", long_rows(1, 300), shapes, lora) is None
    note = capacity_note("cell", long_rows(10, 300), shapes, lora)
    assert note is not None
    assert note.startswith("cell: its answers hold about 0.003 million bits, its adapter 0.0004 (2 for each of 200 ")
    assert note.endswith("lora.r: 16 holds as much"), "3009 bytes at 100 parameters a rank, 2 bits each"
    assert capacity_note("cell", long_rows(10, 300), shapes, Lora(r=16)) is None
    assert capacity_note("cell", long_rows(10, 300), {}, lora) is None, "of a model that could not be read"


def test_what_is_learned_is_what_carries_loss() -> None:
    turns = tuple(Message(role=role, content=role[0] + str(i)) for i in range(2) for role in ("user", "assistant"))
    several = row("q", "a").model_copy(update={"messages": turns})
    assert learned_texts(several) == ["a1"]
    assert learned_texts(several.model_copy(update={"loss": "all"})) == ["a0", "a1"]


def test_a_plan_speaks_of_the_largest_size(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not [note for note in plan_training(make_run(tmp_path, tiny_model)).notes if "bits" in note]
    monkeypatch.setattr("harness.train.capacity.BITS", BITS / 1e6)
    notes = [note for note in plan_training(make_run(tmp_path, tiny_model)).notes if "bits" in note]
    assert [note.split(":")[0].removeprefix(f"{tiny_model}".strip("/").replace("/", "--")) for note in notes] == [
        ".filtered.12.s0", ".seeds_only.8.s0",
    ]  # fmt: skip
