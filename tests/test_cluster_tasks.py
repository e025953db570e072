"""Train and eval on a Ray cluster: the students and scores of one machine, whatever dies, also where all is carried."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import yaml

from harness.eval.results import load_results
from harness.metrics.table import metric_of
from tests.needs import needs_ray
from tests.process import finish, start, succeed, wait_for
from tests.project import write_judged_suite, write_project
from tests.test_cluster import stored_calls

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def one_machine(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A project whose run is scored without a cluster."""
    folder = tmp_path_factory.mktemp("one")
    write_project(folder, str(tiny_model))
    for verb in ("augment", "train", "eval"):
        succeed(folder, verb, "shop")
    return folder


@needs_ray
@pytest.mark.parametrize("storage", ["auto", "carried"])
def test_students_and_scores_of_a_cluster_are_those_of_one_machine(
    tmp_path: Path, one_machine: Path, storage: str
) -> None:
    one, many = one_machine, tmp_path / "many"
    shutil.copytree(one, many)
    for made in ("shop/train", "shop/eval", ".cache/students", ".cache/scores"):
        shutil.rmtree(many / "runs" / made)
    on_cluster = ["--cluster", "local", "--set", "cluster.tasks=2", "--set", f"cluster.storage={storage}"]
    for verb in ("train", "eval"):
        succeed(many, verb, "shop", *on_cluster)
    folders = [folder / "runs/.cache/students" for folder in (one, many)]
    names = [sorted(path.name for path in folder.iterdir() if path.is_dir()) for folder in folders]
    assert names[0] == names[1]
    assert names[0]
    for name in names[0]:
        weights = [(folder / name / "adapter_model.safetensors").read_bytes() for folder in folders]
        assert weights[0] == weights[1]
    assert cards_of(one) == cards_of(many)
    for verb in ("train", "eval"):
        assert "nothing to do" in succeed(many, verb, "shop")


def cards_of(project: Path) -> dict[tuple[str, str, str], dict[str, object]]:
    """Every metric of every card, equal to the last bit but for cosines.

    These are sums of float32 in an order that depends on the threads of a process, of which Ray gives a task its share:
    numbers of one embedding differed by 2.7e-7 between one thread and two, cosines of cards by 2e-8.
    """
    cards = load_results(project / "runs/shop").cards
    return {
        (card.suite, card.student, card.prompting): {
            name: pytest.approx(value, abs=1e-6) if metric_of(name).kind == "cosine" else value
            for name, value in card.metrics.items()
        }
        for card in cards
    }


@needs_ray
def test_what_a_judge_reads_and_what_a_selection_ranks_is_the_same_when_all_is_carried(
    tmp_path: Path, tiny_model: Path
) -> None:
    one, many = tmp_path / "one", tmp_path / "many"
    path = write_project(one, str(tiny_model))
    write_judged_suite(one, items=6, planted=2)
    run = yaml.safe_load(path.read_text())
    run["train"] |= {"sizes": [0, 4], "data": ["filtered", "student_fit"]}
    run["eval"] = {"suites": ["shop", "kind"]}
    run["ship"]["size"] = 4
    path.write_text(yaml.safe_dump(run, sort_keys=False))
    succeed(one, "augment", "shop")
    shutil.copytree(one, many)
    carried = ["--cluster", "local", "--set", "cluster.storage=carried"]
    for verb in ("train", "eval"):
        succeed(one, verb, "shop")
        succeed(many, verb, "shop", *carried)
    assert cards_of(one) == cards_of(many)
    calls = [stored_calls(project / "runs/.cache/calls.sqlite") for project in (one, many)]
    assert calls[0] == calls[1], "the judge was asked from here, and each answer is kept"
    weights = next((many / "runs/.cache/students").glob("*/adapter_model.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    succeed(many, "train", "shop", *carried)
    assert weights.read_bytes() == whole, "what was damaged here is replaced by what was made there"


@needs_ray
def test_a_run_file_that_is_changed_meanwhile_is_said_and_a_part_that_dies_is_started_again(
    tmp_path: Path, one_machine: Path
) -> None:
    many = tmp_path / "many"
    shutil.copytree(one_machine, many)
    run, log = many / "runs/shop.yaml", many / "runs/shop/cluster/train-1.log"
    on = ["train", "shop", "--cluster", "local", "--set", "cluster.tasks=3", "--set", "cluster.cpus=2"]
    process = start(many, *on, "--set", "train.min_steps=300")
    wait_for(log.is_file, process)
    os.kill(int(log.read_text().splitlines()[0].rpartition(" ")[2]), signal.SIGKILL)
    run.write_text(run.read_text().replace("sizes:", "lora: {r: 3}\n  sizes:"))
    code, said = finish(process)
    assert code == 3, said
    assert re.search(r"train, part 1 of 3, on \S+ was lost: its process died \(what it printed: .*train-1\.log\)", said)
    assert re.search(r"the node \S+: \d of \d cells are none that it plans: the run's files", said)
    assert "raylet" not in said
    assert "\x1b" not in said


@needs_ray
def test_the_head_dies(tmp_path: Path, one_machine: Path) -> None:
    many = tmp_path / "many"
    shutil.copytree(one_machine, many)
    process = start(many, "train", "shop", "--cluster", "local", "--set", "train.min_steps=3000")
    wait_for((many / "runs/shop/cluster/train-1.log").is_file, process)
    heads = [int(pid.name) for pid in Path("/proc").iterdir() if pid.name.isdecimal() and is_head(pid, process.pid)]
    os.kill(heads[0], signal.SIGKILL)
    code, said = finish(process)
    assert code == 3, said
    assert re.search(r"the head of the cluster at [\d.]+:\d+ is gone", said)


def is_head(process: Path, parent: int) -> bool:
    """Whether a process is Ray's head that another one started."""
    try:
        status, command = (process / "status").read_text(), (process / "cmdline").read_bytes()
    except OSError:
        return False
    return f"\nPPid:\t{parent}\n" in status and b"gcs_server" in command.split(b"\0")[0]


@needs_ray
def test_a_signal_is_a_normal_way_to_stop(tmp_path: Path, one_machine: Path) -> None:
    many = tmp_path / "many"
    shutil.copytree(one_machine, many)
    process = start(many, "train", "shop", "--cluster", "local", "--set", "train.min_steps=2000")
    wait_for(lambda: (many / "runs/shop/cluster/train-1.log").is_file(), process)
    process.terminate()
    code, said = finish(process)
    assert code == 130, said
    assert "go on with: make train RUN=shop" in said
    assert "*** SIGTERM" not in said, "to Ray it is a crash"
