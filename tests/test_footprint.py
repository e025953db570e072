"""What training takes, against PEFT's own files and a measured peak; and how much memory is free."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config.methods import Lora, Method
from harness.config.run import EarlyStopping, Train
from harness.core.memory import available_memory
from harness.errors import UsageError
from harness.train.footprint import (
    ACTIVATIONS,
    CHECKPOINTS,
    OTHER_FILES,
    SCORES,
    Architecture,
    Passes,
    architecture,
    footprint,
    largest_pass,
    peak_memory,
    size,
    stored_bytes,
)
from tests.tiny import make_tiny_model

LORA = Method(learning_rate=1e-3, lora=Lora(r=2))
FULL = Method(kind="full", learning_rate=1e-4, lora=None)
TWO_LAYERS = {"layers.0.q_proj.weight": (10, 30), "layers.0.k_proj.weight": (10, 10), "embed_tokens.weight": (100, 6)}
SMALL = Architecture(TWO_LAYERS, parameters=1000, linear=60, vocabulary=100, heads=3)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gemma2", "gemma3_text"])
def test_a_stored_cell_takes_what_is_said(tmp_path: Path, kind: str) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = make_tiny_model(tmp_path / kind, kind)
    student = architecture(kind, folder)
    assert student is not None
    network = AutoModelForCausalLM.from_pretrained(folder)
    assert student.parameters == sum(p.numel() for p in network.parameters()) == student.tuned(FULL)
    config = LoraConfig(r=6, target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(network, config).save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    for written, method in ((folder, FULL), (tmp_path / "adapter", Method(learning_rate=1e-3, lora=Lora(r=6)))):
        taken = sum(path.stat().st_size for path in written.iterdir())
        assert taken <= stored_bytes(student, method) < taken + OTHER_FILES


def test_weights_in_several_files_are_counted_once(tmp_path: Path, tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(tiny_model).save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    (tmp_path / "consolidated.safetensors").write_bytes((tiny_model / "model.safetensors").read_bytes())
    assert architecture("parts", tmp_path) == architecture("whole", tiny_model)


def test_a_damaged_header_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(UsageError, match=r"model\.safetensors cannot be read"):
        architecture("bad", tmp_path)


@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(1, 60)), min_size=1, max_size=20),
    st.integers(1, 64),
    st.integers(64, 5000),
    st.integers(1, 12),
)
def test_the_largest_pass_holds_the_longest_row_and_no_more_than_is_allowed(
    rows: list[tuple[int, int]], batch_size: int, allowed: int, cells: int
) -> None:
    lengths, learned = [prompt + answer for prompt, answer in rows], [answer for _, answer in rows]
    largest = largest_pass(lengths, learned, batch_size, allowed, cells)
    assert max(lengths) == largest.longest <= largest.tokens <= max(allowed, largest.longest)
    assert 1 <= largest.cells <= cells
    assert max(learned) <= largest.learned <= largest.tokens


def test_the_estimate_is_made_of_its_parts() -> None:
    largest = Passes(cells=3, tokens=64, learned=6, longest=20)
    peak = peak_memory(SMALL, LORA, largest, weight_bytes=2, shared=False)
    assert (peak.base, peak.tuned, peak.process) == (2000, 3 * 4 * 4 * 2 * 60, 0)
    assert peak.activations == round(64 * (ACTIVATIONS * 60 + SCORES * 3 * 20))
    assert peak.total == peak.base + peak.tuned + peak.activations + peak.logits
    assert peak_memory(SMALL, FULL, largest, weight_bytes=2, shared=True).tuned == 4 * 4 * 1000
    qlora = LORA.model_copy(update={"kind": "qlora"})
    assert peak_memory(SMALL, qlora, largest, weight_bytes=2, shared=False).base < 600
    assert "activations" in peak.words
    assert [size(n) for n in (3 * 2**20, 3 * 2**29)] == ["3 MiB", "1.5 GiB"]


def test_the_disk_holds_all_cells_and_the_checkpoints_of_those_in_work() -> None:
    settings = Train(students=("a",), sizes=(1,), batch_size=2, micro_batch_tokens=100)
    disk, peak = footprint(SMALL, settings, [LORA] * 5, [20, 20], [2, 4], 2, shared=False)
    assert disk == 5 * (4 * 120 + OTHER_FILES) + CHECKPOINTS * 3 * 4 * 120 * 2  # two steps of 40 tokens have room
    more, larger = footprint(SMALL, settings, [LORA, FULL], [20, 20], [2, 4], 2, shared=False)
    assert more > 2 * 1000 + CHECKPOINTS * 3 * 4 * 1000
    assert larger.tuned == 4 * 4 * 1000 > peak.tuned
    stopping = settings.model_copy(update={"early_stopping": EarlyStopping(patience=1)})
    with_best, kept = footprint(SMALL, stopping, [LORA] * 5, [20, 20], [2, 4], 2, shared=False)
    assert with_best - disk == CHECKPOINTS * 4 * 120 * 2
    assert kept.tuned - peak.tuned == 4 * 120 * 2


def test_free_memory_is_the_least_that_machine_and_container_leave(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 4000 kB\nMemAvailable:    3000 kB\n")
    group = {tmp_path / "group": ("memory.max", "memory.current", "inactive_file")}
    assert available_memory(meminfo, group) == 3000 * 1024
    (tmp_path / "group").mkdir()
    (tmp_path / "group/memory.current").write_text("1500000\n")
    (tmp_path / "group/memory.stat").write_text("anon 1\ninactive_file 500000\n")
    (tmp_path / "group/memory.max").write_text("max\n")
    assert available_memory(meminfo, group) == 3000 * 1024
    (tmp_path / "group/memory.max").write_text("2000000\n")
    assert available_memory(meminfo, group) == 1_000_000
    assert available_memory(tmp_path / "none", {}) is None
    here = available_memory()
    assert here is None or here > 0
