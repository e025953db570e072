"""A cluster in a run file: what it may say, that it changes no digest, and how a server works without Ray."""

from __future__ import annotations

import functools
import threading
from pathlib import Path

import pytest

import harness
from harness.augment.node_work import NodeWork, by_kind, note, noted
from harness.cluster.connect import authentication, where
from harness.cluster.doctor import judged, look
from harness.cluster.nodes import CPU, kind_of
from harness.cluster.replica import Replica, replicas
from harness.cluster.server import Server
from harness.cluster.tasks import Share, StepLogs, _call
from harness.config.cluster import Cluster
from harness.config.inputs import rows_source, scores_source, students_source
from harness.config.load import load_run
from harness.engines.scripted import Script, ScriptedEngine
from harness.engines.several import Source
from harness.errors import UsageError
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


def test_addresses() -> None:
    assert where("local")["include_dashboard"] is False
    for address in ("auto", "10.0.0.1:6379", "ray://head:10001"):
        assert where(address) == {"address": address}
    with pytest.raises(UsageError, match=r"cluster\.address nowhere"):
        where("nowhere")


def test_each_replica_is_a_source_of_the_same_model() -> None:
    source = Source("teacher", "script@1", functools.partial(ScriptedEngine, Script().answer))
    made = replicas(source, Cluster(replicas=2, silent_s=7), Path("logs"), room=5, parallel=2, say=lambda text: None)
    assert [(one.name, one.model) for one in made] == [
        ("teacher, replica 1", "script@1"),
        ("teacher, replica 2", "script@1"),
    ]
    engine = made[0].build()
    assert isinstance(engine, Replica)
    assert (engine.room, engine.parallel, engine.silent_s, engine.build) == (5, 2, 7, source.build)


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


def test_doctor_says_what_a_node_lacks(tmp_path: Path) -> None:
    seen = look(tmp_path / "not there")
    assert seen["shared"] is False
    seen |= {"harness": "0.0", "missing": ["vllm"]}
    (first, *others) = judged("n1 (10.0.0.1)", "8 CPUs", seen)
    assert first == (True, f"n1 (10.0.0.1): 8 CPUs, Python {seen['python']}, harness 0.0")
    assert [good for good, _ in others] == [False] * 3
    said = " ".join(text for _, text in others)
    for part in ("install the same", "does not see this folder", "vllm not installed"):
        assert part in said
    (tmp_path / "there").touch()
    assert judged("n", "s", look(tmp_path / "there") | {"missing": []}) == [
        (True, f"n: s, Python {seen['python']}, harness {harness.__version__}")
    ]


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
        "CPU: 1 replica on 1 node, 100 answers, 5000 tokens, 0.5 replica hours",
        "H100: 2 replicas on 2 nodes, 200 answers, 10000 tokens, 1 replica hours, 3 in money, 0.06 per kept row",
    ]
    said = cost(None, lines, [], [])
    assert all(line in said for line in lines), "the report has them"
    assert "cluster" not in cost(None, [], [], [])


def test_a_task_is_refused_by_a_node_with_another_version(tmp_path: Path) -> None:
    share = Share(lambda run, share: None, (), (), "", version="9.9")
    with pytest.raises(UsageError, match=r"the node .* has harness .*, the machine that drives the run has 9\.9"):
        _call(None, tmp_path, "shop", tmp_path / "none/cluster/x.log", share)


def test_steps_of_all_processes_are_counted_as_they_come(tmp_path: Path) -> None:
    (tmp_path / "log-0-of-2.jsonl").write_text("{}\n{}\n")
    logs = StepLogs(tmp_path)
    assert logs.steps() == 0, "those of earlier commands do not count"
    with (tmp_path / "log-0-of-2.jsonl").open("a") as one, (tmp_path / "log-1-of-2.jsonl").open("a") as other:
        one.write("{}\n")
        other.write("{}\n{}\n{")
    assert logs.steps() == 3
    with (tmp_path / "log-1-of-2.jsonl").open("a") as other:
        other.write("}\n")
    assert logs.steps() == logs.steps() == 4


def test_rays_client_is_told_to_send_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.cluster.connect.TOKEN", tmp_path / "auth_token")
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert authentication() == {}
    (tmp_path / "auth_token").touch()
    assert authentication() == {"RAY_AUTH_MODE": "token"}
