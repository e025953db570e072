"""Watching a training: the live line, and the libraries that train.report_to names, as fakes of the same interface."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.config.run import Train
from harness.errors import UsageError
from harness.train.loop import Passed
from harness.train.trackers import LIBRARIES, Trackers, libraries
from harness.train.trainee import Step, Trainee
from harness.train.watching import Watcher, reported
from tests.test_train_stage import cells, go, make_run

STEP = Step("a cell", 3, 8, 0.5, 1.5, 1e-3, 200.0)


class Recorded:
    """All four libraries at once: each call of theirs that counts, as (what, run's name, values)."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[int, dict[str, float]]] = {}
        self.projects: set[str] = set()
        self.ended: list[str] = []

    def put(self, run: str, values: Mapping[str, float], step: int) -> None:
        self.runs.setdefault(run, {}).setdefault(step, {}).update(values)

    def tensorboard(self) -> Any:
        @contextmanager
        def writer(log_dir: str) -> Iterator[Any]:
            self.projects.add(Path(log_dir).parent.parent.name)
            run = Path(log_dir).name
            yield SimpleNamespace(add_scalar=lambda name, value, step: self.put(run, {name: value}, step))
            self.ended.append(run)

        return SimpleNamespace(SummaryWriter=writer)

    def wandb(self) -> Any:
        @contextmanager
        def init(project: str, name: str, dir: str, reinit: str) -> Iterator[Any]:  # noqa: A002
            assert reinit == "create_new"
            assert Path(dir).is_dir()
            self.projects.add(project)
            yield SimpleNamespace(log=lambda values, step: self.put(name, values, step))
            self.ended.append(name)

        return SimpleNamespace(init=init)

    def trackio(self) -> Any:
        def init(project: str, name: str) -> Any:
            self.projects.add(project)
            return SimpleNamespace(
                log=lambda values, step: self.put(name, values, step), finish=lambda: self.ended.append(name)
            )

        return SimpleNamespace(init=init)

    def mlflow(self) -> Any:
        def experiment(name: str) -> Any:
            self.projects.add(name)
            return SimpleNamespace(experiment_id="7")

        def create_run(experiment_id: str, run_name: str) -> Any:
            assert experiment_id == "7"
            return SimpleNamespace(info=SimpleNamespace(run_id=run_name))

        client = SimpleNamespace(create_run=create_run, set_terminated=self.ended.append)
        return SimpleNamespace(
            set_experiment=experiment,
            MlflowClient=lambda: client,
            log_metrics=lambda values, step, run_id: self.put(run_id, values, step),
        )


@pytest.mark.parametrize("name", LIBRARIES)
def test_every_cell_is_a_run_of_its_own(tmp_path: Path, name: str) -> None:
    heard, warned = Recorded(), list[str]()
    loaded = {LIBRARIES[name][0]: getattr(heard, name)()}
    folder = tmp_path / "demo"
    folder.mkdir()
    trackers = Trackers(libraries([name], folder, "demo", loaded.__getitem__), warned.append)
    for step in (1, 2):
        for cell in ("one", "two"):
            trackers.log(cell, {"train/loss": float(step)}, step)
    trackers.end("one")
    trackers.log("three", {"train/loss": 0.0}, 1)
    assert heard.ended == ["one"]
    trackers.close()
    assert heard.runs["one"] == heard.runs["two"] == {1: {"train/loss": 1.0}, 2: {"train/loss": 2.0}}
    assert sorted(heard.ended) == ["one", "three", "two"]
    assert heard.projects == {"demo"}
    assert not warned


def test_a_library_that_is_not_installed_is_named_with_its_package(tmp_path: Path) -> None:
    def missing(module: str) -> Any:
        raise ModuleNotFoundError(f"No module named {module!r}")

    for name, (_, package, _) in LIBRARIES.items():
        with pytest.raises(UsageError, match=rf"report_to: {name}: .*pip install {package}"):
            libraries([name], tmp_path, "demo", missing)


def test_the_keys_are_those_that_have_an_adapter() -> None:
    assert Train(students=("s",), sizes=(1,), report_to=tuple(LIBRARIES)).report_to == tuple(LIBRARIES)
    with pytest.raises(ValueError, match="tensorbord"):
        Train.model_validate({"students": ["s"], "sizes": [1], "report_to": ["tensorbord"]})
    with pytest.raises(ValueError, match="repeats"):
        Train(students=("s",), sizes=(1,), report_to=("wandb", "wandb"))


def test_a_library_that_fails_is_left_out_and_the_others_go_on(tmp_path: Path) -> None:
    heard, warned = Recorded(), list[str]()

    def broken(cell: str) -> Any:
        raise OSError("no route to host")

    working = libraries(["trackio"], tmp_path, "demo", lambda module: heard.trackio())
    trackers = Trackers({"broken": broken, **working}, warned.append)
    for step in (1, 2, 3):
        trackers.log("one", {"train/loss": 1.0}, step)
    trackers.close()
    assert list(heard.runs["one"]) == [1, 2, 3]
    assert len(warned) == 1
    assert "broken" in warned[0]
    assert "no route to host" in warned[0]


def test_numbers_have_the_names_of_transformers() -> None:
    expected = {
        "train/loss": 0.5, "train/grad_norm": 1.5, "train/learning_rate": 1e-3, "train/tokens_per_second": 200.0,
    }  # fmt: skip
    assert reported(STEP) == expected
    watched = Step(**(vars(STEP) | {"validation_loss": 0.7}))
    assert reported(watched) == expected | {"eval/loss": 0.7}


def trainee(key: str, taken: int, **state: Any) -> Trainee:
    """What a watcher looks at of a cell in work, which has taken so many steps of 100 tokens."""
    also = {"validation": [], "failure": "", "done": False} | state
    of = SimpleNamespace(job=SimpleNamespace(key=key, name=key), losses=[1.0] * taken, tokens=100 * taken, **also)
    return cast(Trainee, of)


def test_the_line_counts_cells_and_steps(tmp_path: Path) -> None:
    said: list[tuple[float, str]] = []
    steps = {"a": 8, "b": 4, "c": 4, "d": 2}
    with (tmp_path / "log.jsonl").open("w") as log:
        watcher = Watcher(steps, log, Trackers({}, print), lambda done, note: said.append((done, note)))
        watcher.saw(Passed((trainee("a", 3), trainee("b", 1)), (STEP, STEP)))
        watcher.saw(Passed((trainee("a", 4, validation=[(4, 0.25)]), trainee("b", 2, done=True)), (STEP,)))
        watcher.saw(Passed((trainee("a", 5), trainee("c", 0, failure="nan")), (STEP,)))
    assert [done for done, _ in said] == [4, 8, 13]  # what stopped early or failed takes no more steps
    assert "steps; cells: 0 done, 2 in work, 2 waiting; loss 0.50, " in said[0][1]
    assert "cells: 1 done, 1 in work, 2 waiting; loss 0.50, dev loss 0.25, " in said[1][1]
    assert "cells: 1 done, 1 in work, 1 waiting, 1 failed" in said[2][1]


def test_the_stage_reports_every_step_and_moves_no_key(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, heard = make_run(tmp_path / "plain", tiny_model), Recorded()
    go(plain)
    monkeypatch.setitem(sys.modules, "trackio", heard.trackio())
    run = make_run(tmp_path / "reported", tiny_model, report_to=("trackio",))
    go(run)
    assert [cell["key"] for cell in cells(run).values()] == [cell["key"] for cell in cells(plain).values()]
    tuned = {cell["name"]: cell["steps"] for cell in cells(run).values() if cell["folder"]}
    assert {name: max(steps) for name, steps in heard.runs.items()} == tuned
    assert sorted(heard.ended) == sorted(tuned)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match="pip install wandb"):
        go(make_run(tmp_path / "missing", tiny_model, report_to=("wandb",)))
