"""learning_rate: auto is a number by a rule, and that number is all that a cell's key knows of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.commands.dry_run import describe_training
from harness.config.load import load_run
from harness.config.methods import Method
from harness.config.run import Train
from harness.errors import UsageError
from harness.train.grid import plan_training
from harness.train.learning_rate import peak_rate, recommended
from tests.project import write_project
from tests.test_train_stage import make_run
from tests.tiny import HIDDEN

AUTO = Method(learning_rate="auto", lora=None)


@pytest.mark.parametrize(
    ("width", "family", "lora"),
    [  # 5e-4 x (2000 / width) ** P
        (896, "qwen2", 5.32e-4),
        (2048, "llama", 4.91e-4),
        (576, "llama", 1.32e-3),
        (1024, "mistral", 8.43e-4),
        (2048, "smollm3", 4.91e-4),
        (640, "gemma3_text", 5.46e-4),  # below 2000 the smaller of both is Qwen's
        (4096, "gemma3_text", 2.86e-4),  # above it Llama's
    ],
)
def test_by_hand(width: int, family: str, lora: float) -> None:
    assert recommended(width, family, full=False) == lora
    assert recommended(width, family, full=True) == pytest.approx(lora / 10, rel=0.01)


@given(st.integers(1, 100_000), st.sampled_from(["llama", "qwen3", "mystery", ""]), st.booleans())
def test_it_is_a_number_that_a_person_can_write(width: int, family: str, full: bool) -> None:
    rate = recommended(width, family, full)
    assert 0 < rate < 1
    assert float(f"{rate:g}") == rate
    if family in ("mystery", ""):
        assert rate <= min(recommended(width, known, full) for known in ("llama", "qwen3"))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"hidden_size": 896, "model_type": "qwen2"}, 5.32e-4),
        ({"n_embd": 768, "model_type": "gpt2"}, 5.38e-4),
        ({"model_type": "gemma3", "text_config": {"hidden_size": 640, "model_type": "gemma3_text"}}, 5.46e-4),
    ],
)
def test_the_width_is_read_from_the_models_settings(tmp_path: Path, config: dict[str, Any], expected: float) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert peak_rate(AUTO, "m", tmp_path) == expected
    assert peak_rate(Method(learning_rate=0.25, lora=None), "m", Path("nowhere")) == 0.25


@pytest.mark.parametrize(
    ("config", "said"),
    [({"model_type": "x"}, "hidden_size, n_embd or d_model"), ({"hidden_size": "1"}, "whole number")],
)
def test_a_model_that_does_not_say_is_refused(tmp_path: Path, config: dict[str, Any], said: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=said):
        peak_rate(AUTO, "m", tmp_path)


def test_auto_and_the_number_it_stands_for_are_one_cell(tiny_model: Path, tmp_path: Path) -> None:
    auto = make_run(tmp_path, tiny_model, learning_rate="auto")
    planned = plan_training(auto).cells
    rate = recommended(HIDDEN, "llama", full=False)
    assert {cell.learning_rate for cell in planned} == {rate}
    written = plan_training(make_run(tmp_path, tiny_model, "written", learning_rate=rate)).cells
    assert [cell.key for cell in planned] == [cell.key for cell in written]
    default = plan_training(make_run(tmp_path, tiny_model, "default")).cells
    assert not {cell.key for cell in planned if cell.rows} & {cell.key for cell in default}
    assert f"learning rate auto: {rate} for {tiny_model}" in describe_training(auto)


def test_a_students_rate_is_known_with_its_weights(tmp_path: Path) -> None:
    path = write_project(tmp_path, "owner/name")
    said = describe_training(load_run(path, ["train.learning_rate=auto", "ship=null"]))
    assert "learning rate auto: known with its weights for owner/name" in said
    assert "1 epoch but at least 2 steps of 4 rows" in said


@pytest.mark.parametrize("rate", ["automatic", 0, 1, -1e-3, True, None])
def test_what_is_neither_is_refused(tmp_path: Path, rate: object) -> None:
    path = write_project(tmp_path, "tiny")
    with pytest.raises(UsageError, match=r"train\.learning_rate"):
        load_run(path, [f"train.learning_rate={json.dumps(rate)}"])


def test_a_method_has_its_own(tiny_model: Path, tmp_path: Path) -> None:
    methods = {
        "lora": {"learning_rate": 0.5},
        "dora": {"use_dora": True},
        "full": {"kind": "full", "learning_rate": "auto"},
    }
    train = Train.model_validate({"students": ["s"], "sizes": [1], "learning_rate": "auto", "methods": methods})
    run = make_run(tmp_path, tiny_model, learning_rate="auto", methods=train.methods)
    rates = {cell.cell.method: cell.learning_rate for cell in plan_training(run).cells if cell.rows}
    assert rates == {"lora": 0.5, "dora": 7.35e-3, "full": 7.35e-4}
