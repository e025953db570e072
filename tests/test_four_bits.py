"""QLoRA is refused before anything is trained where its base cannot be loaded, and its key is its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.config.run import Train
from harness.errors import MachineError
from harness.train.four_bits import require_four_bits
from harness.train.grid import GridCell, plan_training
from tests.test_train_stage import go, make_run


def planned(student: Path, root: Path, **methods: Any) -> tuple[GridCell, ...]:
    train = Train.model_validate({"students": ["s"], "sizes": [1], "lora": {"r": 2}, "methods": methods})
    return plan_training(make_run(root, student, methods=train.methods)).cells


@pytest.mark.parametrize(
    ("device", "has", "said"),
    [
        ("cpu", True, r"filtered\.4\.small\.s0: train\.methods: kind qlora .* an NVIDIA GPU, and there is none"),
        ("cpu", False, "an NVIDIA GPU"),
        ("cuda", False, "pip install bitsandbytes"),
        ("cuda", True, ""),
    ],
)
def test_it_needs_a_gpu_and_bitsandbytes(tiny_model: Path, tmp_path: Path, device: str, has: bool, said: str) -> None:
    cells = planned(tiny_model, tmp_path, lora={}, small={"kind": "qlora"})
    if not said:
        require_four_bits(cells, device, has)
        return
    with pytest.raises(MachineError, match=said):
        require_four_bits(cells, device, has)
    require_four_bits([one for one in cells if one.method.kind == "lora"], device, has)


def test_it_is_a_cell_of_its_own_with_an_adapter_for_the_whole_base(tiny_model: Path, tmp_path: Path) -> None:
    cells = planned(tiny_model, tmp_path, lora={}, small={"kind": "qlora"})
    by_method = {one.cell.method: one for one in cells if one.cell.size == 4}
    assert by_method["lora"].key != by_method["small"].key
    assert (by_method["small"].base, by_method["small"].adapter) == (tiny_model, by_method["small"].folder)
    assert by_method["small"].method.words.startswith("QLoRA, base in 4 bits, r 2")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there it would be trained")
def test_a_run_with_it_trains_nothing_without_a_gpu(tiny_model: Path, tmp_path: Path) -> None:
    train = Train.model_validate({"students": ["s"], "sizes": [1], "methods": {"lora": {}, "small": {"kind": "qlora"}}})
    run = make_run(tmp_path, tiny_model, methods=train.methods)
    with pytest.raises(MachineError, match="an NVIDIA GPU"):
        go(run)
    assert not list((run.cache / "students").glob("*"))
