"""A cluster in a run file: what it may say, that it changes no digest, and how a server works without Ray."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

import harness
from harness.augment.node_work import NodeWork, by_kind, note, noted
from harness.cluster.connect import authentication
from harness.cluster.doctor import judged
from harness.cluster.nodes import CPU, Able, Found, Nodes, Seen, even_share, kind_of, look, why_unable
from harness.cluster.replica import Replica, replicas
from harness.cluster.server import Server
from harness.cluster.spread import Share, _call
from harness.cluster.tasks import StepLogs
from harness.config.cluster import Cluster, address_given
from harness.config.inputs import rows_source, scores_source, students_source
from harness.config.load import load_run
from harness.engines.scripted import Script, ScriptedEngine
from harness.engines.several import Source
from harness.errors import MachineError, UsageError
from harness.records import Completion, Origin, Request, Sampling
from harness.report.sections import cost
from tests.project import write_project


def requests(count: int) -> list[Request]:
    made = Origin(purpose="generate", label="x")
    return [Request(model="script@1", prompt=f"p {i}", sampling=Sampling(), origin=made) for i in range(count)]


def test_a_cluster_changes_no_row_no_student_and_no_score(tmp_path: Path) -> None:
    path = write_project(tmp_path, "nobody")
    plain, there = load_run(path), load_run(path, ["cluster.address=local", "cluster.replicas=3", "cluster.tasks=2"])
    assert there.file.cluster == Cluster(address="local", replicas=3, tasks=2)
    assert there.settings == ("cluster.address=local", "cluster.replicas=3", "cluster.tasks=2")
    for source in (rows_source, students_source, scores_source):
        assert source(plain) == source(there)


@pytest.mark.parametrize("wrong", ["cluster.replicas=0", "cluster.tasks=0", "cluster.cpus=0", "cluster.adress=local"])
def test_what_no_cluster_has_is_refused(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(UsageError, match="cluster"):
        load_run(write_project(tmp_path, "nobody"), [wrong])


def test_addresses(tmp_path: Path) -> None:
    for address in ("local", "auto", "10.0.0.1:6379", "ray://head:10001", "[::1]:6379"):
        assert address_given(address) == address
    for address in ("nowhere", "host:port", "http://x:1", "", "head:123456", "ray://head"):
        with pytest.raises(
            UsageError, match=r"--cluster '.*': an address is local, auto, HOST:PORT or ray://HOST:PORT"
        ):
            address_given(address)
    path = write_project(tmp_path, "nobody")
    path.write_text(path.read_text() + "cluster:\n  address: nowhere\n")
    line = len(path.read_text().splitlines())
    with pytest.raises(UsageError, match=rf"shop\.yaml:{line}: cluster\.address"):
        load_run(path)


def test_a_cluster_without_an_address_is_not_joined(tmp_path: Path) -> None:
    path = write_project(tmp_path, "nobody")
    settings = ["cluster.replicas=2"]
    assert load_run(path, settings).file.on_cluster is None
    on = load_run(path, [*settings, "cluster.address=local"])
    assert on.file.on_cluster == Cluster(address="local", replicas=2)
    assert on.command("train") == ('make train RUN=shop ARGS="--set cluster.replicas=2 --set cluster.address=local"'), (
        "what is typed next goes on with the same settings"
    )


def test_each_replica_is_a_source_of_the_same_model() -> None:
    source = Source("teacher", "script@1", functools.partial(ScriptedEngine, Script().answer))
    other = Source("judge", "script@2", functools.partial(ScriptedEngine, Script().answer))
    nodes = Nodes(Path(), lambda text: None)
    made = replicas(
        [(source, 5, 2), (other, 6, 1)], Cluster(replicas=2, silent_s=7), Path("logs"), lambda: nodes, print
    )
    assert [(one.name, one.model) for one in made] == [
        ("teacher, replica 1", "script@1"),
        ("teacher, replica 2", "script@1"),
        ("judge, replica 1", "script@2"),
        ("judge, replica 2", "script@2"),
    ]
    engines = [one.build() for one in made]
    assert all(isinstance(engine, Replica) for engine in engines)
    first, *_, last = (engine.wanted for engine in engines if isinstance(engine, Replica))
    assert (first.room, first.parallel, first.cluster.silent_s, first.build) == (5, 2, 7, source.build)
    assert (first.number, last.number, last.of) == (1, 4, 4), "each teacher's replicas need room beside the other's"


def found(name: str, cpus: float, gpus: float = 0, **seen: Any) -> Found:
    said: Seen = {"harness": harness.__version__, "python": "3.11.7", "shared": True, "missing": []}
    return Found(name, name, {"CPU": cpus, "GPU": gpus}, cast(Seen, said | seen))


def test_room_is_counted_node_by_node() -> None:
    able = Able((found("a", 8, 2), found("b", 3)), ("bad",))
    assert able.selector == {"ray.io/node-id": "!in(bad)"}
    assert (able.room(2, 0), able.room(2, 1), able.room(0.5, 2), able.room(0, 0) > 1000) == (5, 2, 1, True)
    with pytest.raises(UsageError, match=r"no node has 9 CPUs and 0 GPUs.*a: 8 CPUs and 2 GPUs; b: 3 CPUs and 0 GPUs"):
        able.room(9, 0)
    assert all(Able((found("here", 2),)).room(even_share(2, parts), 0) >= parts for parts in range(1, 200))
    assert (even_share(2, 1), even_share(64, 3)) == (2, 21)
    assert able.all_see
    assert not Able((found("a", 8, shared=False),)).all_see
    assert Able((found("a", 8),)).selector is None


def test_a_server_takes_requests_while_it_works_and_hands_out_what_came() -> None:
    server, came, before = Server(), list[Completion](), set(threading.enumerate())
    server.open(functools.partial(ScriptedEngine, Script().answer, concurrency=4))
    asked = requests(40)
    for start in range(0, 40, 10):
        came += server.step(asked[start : start + 10], 0.01)
    while len(came) < len(asked):
        came += server.step([], 1.0)
    assert sorted(answer.request for answer in came) == sorted(request.key for request in asked)
    assert server.step([], 0.01) == []
    server.close()
    assert not [thread for thread in threading.enumerate() if thread not in before and thread.is_alive()]


def test_what_was_answered_before_an_error_is_handed_out_first() -> None:
    class Breaks:
        def generate(self, asked: Iterable[Request | None]) -> Iterator[Completion]:
            for number, request in enumerate(asked):
                if number == 3 or request is None:
                    raise MachineError("it broke")
                yield Script().answer(request)

    server = Server()
    server.open(Breaks)
    came = server.step(requests(4), 1.0)
    while len(came) < 3:
        came += server.step([], 1.0)
    with pytest.raises(MachineError, match="it broke"):
        server.step([], 10.0)


def test_doctor_says_what_a_node_lacks(tmp_path: Path) -> None:
    seen = look(tmp_path / "not there")
    assert seen["shared"] is False
    assert why_unable(seen) == ""
    old = found("n1", 8, harness="0.0", shared=False, missing=["vllm"])
    assert old.seen
    findings = judged(replace(old, why=why_unable(old.seen)))
    assert [good for good, _ in findings] == [True, False, False, False]
    said = " ".join(text for _, text in findings)
    for part in ("n1: 8 CPUs and 0 GPUs", "install the same", "does not see this folder", "vllm not installed"):
        assert part in said
    assert "torch, peft not installed" in why_unable(seen | {"missing": ["torch", "peft", "vllm"]})
    assert why_unable(seen | {"missing": ["vllm"]}) == "", "it can train and score"
    (tmp_path / "there").touch()
    assert look(tmp_path / "there")["shared"]
    assert [good for good, _ in judged(found("n", 8))] == [True]


def test_what_nodes_did_is_said_by_their_kind(tmp_path: Path) -> None:
    assert noted(tmp_path) == []
    assert kind_of({"CPU": 8, "GPU": 1, "accelerator_type:H100": 1}) == "H100"
    for replica, node, kind in (
        ("t, replica 1", "n1", "H100"),
        ("t, replica 2", "n2", "H100"),
        ("t, replica 3", "c", CPU),
    ):
        work = NodeWork(replica=replica, node=node, kind=kind, answers=100, tokens=5000, seconds=1800)
        note(tmp_path / "cluster", work)
    lines = list(by_kind(noted(tmp_path / "cluster"), kept=50, prices={"H100": 3.0}))
    assert lines == [
        "CPU: 1 replica on 1 node, 100 answers, 5000 tokens, 0.5 replica hours, no price (cluster.prices has H100)",
        "H100: 2 replicas on 2 nodes, 200 answers, 10000 tokens, 1 replica hours, 3 in money, 0.06 per kept row",
    ]
    (unpriced, _) = by_kind(noted(tmp_path / "cluster"), kept=50, prices={"H100": 3.0, "H2OO": 4.0})
    assert unpriced.endswith("no price (cluster.prices has H100, H2OO)")
    with (tmp_path / "cluster/nodes.jsonl").open("a") as file:
        file.write('{"replica": "to')  # a kill
    assert len(noted(tmp_path / "cluster")) == 3
    said = cost(None, lines, [], [], [])
    assert all(line in said for line in lines), "the report has them"
    assert "cluster" not in cost(None, [], [], [], [])


def test_a_task_is_refused_by_a_node_with_another_version(tmp_path: Path) -> None:
    share = Share(lambda run, share, stop: None, (), "train", (), "", version="9.9")
    outcome = _call(None, tmp_path, "shop", tmp_path / "none/cluster/x.log", share)
    assert isinstance(outcome.error, UsageError)
    assert "this machine has 9.9: install the same there" in str(outcome.error)


def step(cell: str, number: int) -> str:
    return json.dumps({"cell": cell, "step": number}) + "\n"


def test_steps_of_all_processes_are_counted_as_they_come(tmp_path: Path) -> None:
    (tmp_path / "log-0-of-2.jsonl").write_text(step("a", 1) + step("a", 2))
    logs = StepLogs(tmp_path)
    assert logs.steps() == 0, "those of earlier commands do not count"
    with (tmp_path / "log-0-of-2.jsonl").open("a") as one, (tmp_path / "log-1-of-2.jsonl").open("a") as other:
        one.write(step("a", 3))
        other.write(step("b", 1) + step("b", 2) + step("b", 3)[:5])
    assert logs.steps() == 5
    with (tmp_path / "log-1-of-2.jsonl").open("a") as other:
        other.write(step("b", 3)[5:])
    assert logs.steps() == logs.steps() == 6
    with (tmp_path / "log-1-of-2.jsonl").open("a") as other:
        other.write(step("b", 1) + step("b", 2))  # its process was killed, and begins anew
    assert logs.steps() == 6


def test_rays_client_is_told_to_send_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.cluster.connect.TOKEN", tmp_path / "auth_token")
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert authentication() == {}
    (tmp_path / "auth_token").touch()
    assert authentication() == {"RAY_AUTH_MODE": "token"}
