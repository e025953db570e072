"""Training that ends midway, and training by two processes: the weights are those of a run that nobody disturbed."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch._C._distributed_c10d import HashStore

from harness.config.methods import Lora, Method
from harness.errors import MachineError, UsageError
from harness.models.resolve import Model
from harness.records import Cell
from harness.train.grid import GridCell
from harness.train.processes import ENDED, Group, Processes
from tests.process import COMMAND, environment, finish, start, succeed
from tests.test_own_rows import newcomer

KILLS = 6


def project(root: Path, student: Path) -> Path:
    """A grid of 8 cells that share passes, with a checkpoint after each; rows are made already."""
    path = newcomer(root, str(student))
    run = yaml.safe_load(path.read_text())
    run["train"] |= {
        "sizes": [0, 16, 32, 64, 100], "random_seeds": [0, 1], "epochs": 2, "min_steps": 6, "checkpoint_seconds": 0,
        "micro_batch_tokens": 2000, "lora": {"r": 2, "lora_dropout": 0.1},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(run, sort_keys=False))
    succeed(root, "augment", "mine")
    return path


def weights(root: Path) -> dict[str, bytes]:
    """Every cell's adapter, by the cell's name."""
    cells = json.loads((root / "runs/mine/train/cells.json").read_text())["cells"]
    return {c["name"]: (root / c["folder"] / "adapter_model.safetensors").read_bytes() for c in cells if c["folder"]}


@pytest.fixture(scope="module")
def undisturbed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The adapters of the grid, trained in one go."""
    root = tmp_path_factory.mktemp("whole")
    project(root, tiny_model)
    succeed(root, "train", "mine")
    found = weights(root)
    assert len(found) == 8
    return found


@pytest.mark.slow
def test_a_training_killed_at_any_moment_ends_with_the_same_bits(
    tiny_model: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    project(tmp_path, tiny_model)
    log, chance = tmp_path / "runs/mine/train/log.jsonl", random.Random(0)
    resumed = 0
    for _ in range(KILLS):
        lines = len(log.read_text().splitlines()) if log.is_file() else 0
        wanted = lines + chance.randint(1, 30)
        process = start(tmp_path, "train", "mine")
        while process.poll() is None and (not log.is_file() or len(log.read_text().splitlines()) < wanted):
            time.sleep(0.005)
        process.kill()
        _, said = finish(process)
        resumed += "going on from" in said
    assert resumed >= KILLS // 2
    succeed(tmp_path, "train", "mine")
    assert weights(tmp_path) == undisturbed
    assert not list((tmp_path / "runs/mine/train/checkpoints").glob("*"))


@pytest.mark.slow
def test_two_processes_train_the_cells_that_one_would(
    tiny_model: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    from safetensors.torch import load

    project(tmp_path, tiny_model)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    program = [sys.executable, "-c", COMMAND, "train", "mine"]
    done = subprocess.run(
        [*launcher, *program], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("loss first -> last") == 1  # one speaks for both
    both = weights(tmp_path)
    assert both.keys() == undisturbed.keys()
    for name, stored in both.items():  # other cells share a pass, so that rounding differs
        one, other = load(stored), load(undisturbed[name])
        assert all((one[layer] - other[layer]).abs().max() < 0.05 for layer in one)
    assert "nothing to do" in succeed(tmp_path, "train", "mine")
    shutil.rmtree(tmp_path / "runs/.cache/students")


@pytest.mark.slow
def test_whole_models_are_stored_by_every_process(tiny_model: Path, tmp_path: Path) -> None:
    path = project(tmp_path, tiny_model)
    run = yaml.safe_load(path.read_text())
    text = "Parcels of row one wait on shelf two until the van of gate three comes."
    (tmp_path / "one.txt").write_text(text)
    (tmp_path / "two.txt").write_text(text.replace("one", "four"))
    del run["ship"]
    full = {"kind": "full", "learning_rate": 1e-4}
    run["train"] |= {
        "sizes": [0, 16], "min_steps": 2, "epochs": 1,
        "methods": {
            name: {**full, "pretrain": {"documents": {"path": f"{name}.txt"}, "steps": 2}} for name in ("one", "two")
        },
    }  # fmt: skip
    path.write_text(yaml.safe_dump(run, sort_keys=False))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    program = [sys.executable, "-c", COMMAND, "train", "mine"]
    done = subprocess.run(
        [*launcher, *program], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    stored = json.loads((tmp_path / "runs/mine/train/cells.json").read_text())
    cells = [cell for cell in (*stored["pretraining"], *stored["cells"]) if cell["tuned"]]
    assert len(cells) == 6
    assert all((tmp_path / cell["base"] / "model.safetensors").is_file() for cell in cells)


def test_processes_meet_and_give_each_other_what_they_have() -> None:
    store = HashStore()
    with ThreadPoolExecutor(2) as pool:
        groups = [Group(rank, 2, store) for rank in range(2)]
        for turn in "ab":
            both = list(pool.map(lambda group, turn=turn: group.gathered({f"{turn}{group.rank}": "failed"}), groups))
            assert both == [{f"{turn}0": "failed", f"{turn}1": "failed"}] * 2
        list(pool.map(Group.leave, groups))
    assert Group(0, 1).gathered({"a": "failed"}) == {"a": "failed"}


def test_nobody_waits_for_a_process_that_failed() -> None:
    store = HashStore()
    store.set(ENDED, "")
    with pytest.raises(MachineError, match="process 0 of 2: another one failed"):
        Group(0, 2, store).wait()


def planned(key: str, steps: int) -> GridCell:
    """A cell of so many steps."""
    cell = Cell(student="s", data="filtered", size=1, random_seed=0)
    method = Method(learning_rate=1e-3, lora=Lora())
    return GridCell(cell, Model("s", Path(), "", ""), (), steps, key, 0, Path(), method, 1e-3)


@given(st.lists(st.integers(1, 500), max_size=20), st.integers(1, 5))
def test_every_cell_has_one_process_and_none_has_much_more_than_another(steps: list[int], of: int) -> None:
    cells = [planned(f"{number:04d}", count) for number, count in enumerate(steps)]
    shares = [Processes(rank, of).mine(cells) for rank in range(of)]
    assert sorted(cell.key for share in shares for cell in share) == [cell.key for cell in cells]
    loads = [sum(cell.steps for cell in share) for share in shares]
    assert max(loads) - min(loads) <= max(steps, default=0)


def test_processes_are_read_from_what_torchrun_sets() -> None:
    assert Processes.from_environment({}) == Processes()
    assert Processes.from_environment({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}) == Processes(3, 4, 1)
    with pytest.raises(UsageError, match="torchrun sets these to numbers"):
        Processes.from_environment({"RANK": "x", "WORLD_SIZE": "2"})
    with pytest.raises(UsageError, match="RANK 2 is not below WORLD_SIZE 2"):
        Processes.from_environment({"RANK": "2", "WORLD_SIZE": "2"})
