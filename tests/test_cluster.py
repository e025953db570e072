"""Augment on a Ray cluster: the rows of one machine, whatever dies, and nothing that was answered is asked again."""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from harness import __version__ as harness_version
from harness.augment.node_work import noted
from harness.cluster.doctor import examine_cluster
from harness.cluster.nodes import Nodes
from harness.cluster.replica import MOST_STARTS, Replica, Wanted
from harness.cluster.server import Server
from harness.config.cluster import Cluster
from harness.core.terminal import Stop
from harness.engines.call_cache import CallCache, cached
from harness.engines.scripted import Script
from harness.engines.several import SeveralEngines, Source
from harness.errors import MachineError, UsageError
from harness.records import Completion, Origin, Request, Sampling
from tests.needs import missing, needs_ray, needs_vllm
from tests.process import environment, finish, harness, start, succeed, wait_for
from tests.project import write_project

pytestmark = pytest.mark.slow
MODEL = "script@1"


class Slow:
    """Answers as the script, each answer after some time. One that is asked for silence says nothing any more."""

    def __init__(self, seconds: float = 0.002, loads: float = 0.0) -> None:
        time.sleep(loads)
        self.seconds = seconds

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        script = Script()
        for request in requests:
            if request is None:
                continue
            if "silence" in request.prompt:
                time.sleep(3600)
            if "mistake" in request.prompt:
                raise UsageError("the model has no chat template")
            if "failure" in request.prompt:
                raise MachineError("the engine is broken")
            time.sleep(self.seconds)
            yield script.answer(request)


class OfTests(Nodes):
    """Tests reach nothing but loopback, and a head listens on the machine's own address."""

    def require_head(self) -> None:
        """Not looked for."""


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cluster of two nodes on this machine."""
    try:
        import ray
        from ray.cluster_utils import Cluster as RayNodes
    except ImportError:
        missing("ray", "Ray is not installed (locks/cluster.txt)")
    os.environ.update(environment(RAY_USAGE_STATS_ENABLED="0"))
    small = {"object_store_memory": 100_000_000}
    cluster = RayNodes(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **small})
    cluster.add_node(num_cpus=2, **small)
    ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
    nodes = OfTests(tmp_path_factory.mktemp("root"), lambda text: None)
    yield SimpleNamespace(
        address=cluster.address,
        nodes=nodes,
        add_node=cluster.add_node,
        remove_node=cluster.remove_node,
    )
    ray.shutdown()
    cluster.shutdown()


def requests(count: int, word: str = "p") -> list[Request]:
    made = Origin(purpose="generate", label="x")
    return [Request(model=MODEL, prompt=f"{word} {i}", sampling=Sampling(), origin=made) for i in range(count)]


def replica(ray: Any, said: list[str], number: int = 1, **settings: Any) -> Replica:
    engine = functools.partial(Slow, settings.pop("seconds", 0.002), settings.pop("loads", 0.0))
    cluster = Cluster(cpus=settings.pop("cpus", 0.5), gpus=0, silent_s=settings.pop("silent_s", 60.0))
    wanted = Wanted(f"teacher, replica {number}", engine, 8, cluster, number, 2, **settings)
    return Replica(wanted, lambda: ray.nodes, said.append)


def together(*replicas: Replica) -> SeveralEngines:
    say = replicas[0].say
    return SeveralEngines([Source(one.wanted.name, MODEL, functools.partial(_same, one)) for one in replicas], say)


def _same(one: Replica) -> Replica:
    return one


def test_every_request_is_answered_once_and_a_slow_replica_gets_less(ray: Any, tmp_path: Path) -> None:
    said: list[str] = []
    fast = replica(ray, said, 1, log=tmp_path / "cluster/1.log")
    slow = replica(ray, said, 2, seconds=0.05, log=tmp_path / "cluster/2.log")
    with closing(together(fast, slow)) as engine:
        answers = list(engine.generate(iter(requests(400))))
    assert sorted(answer.request for answer in answers) == sorted(request.key for request in requests(400))
    assert len(list((tmp_path / "cluster").glob("*.log"))) == 2, "each prints into a file of its own"
    by_key = {request.key: request for request in requests(400)}
    assert all(answer == Script().answer(by_key[answer.request]) for answer in answers)
    assert said == []
    done = {work.replica: work.answers for work in noted(tmp_path / "cluster")}
    assert done[slow.wanted.name] < done[fast.wanted.name] / 3, done


def test_one_that_is_killed_is_started_again_and_only_what_was_in_flight_is_asked_again(
    ray: Any, tmp_path: Path
) -> None:
    said: list[str] = []
    one, other = replica(ray, said, 1), replica(ray, said, 2)
    asked = requests(300)
    with closing(CallCache(tmp_path / "calls.sqlite")) as cache, closing(together(one, other)) as engine:
        committed = 0
        for committed, _ in enumerate(cached(asked, cache, lambda: engine, Stop()), start=1):
            if committed == 100:
                os.kill(process_of(one), signal.SIGKILL)
        assert committed == 300
        again = [paid for _, paid in cached(asked, cache, lambda: pytest.fail("nothing is to be asked"), Stop())]
    assert again == [False] * 300
    (line,) = said
    assert line.startswith("teacher, replica 1 on ")
    assert int(line.split("and ")[1].split()[0]) <= one.wanted.room


def process_of(one: Replica) -> int:
    import ray as library

    _, _, process, _ = library.get(one._actor.hello.remote())
    assert isinstance(process, int)
    return process


def test_a_node_that_is_removed_costs_only_what_it_had_in_flight(ray: Any, tmp_path: Path) -> None:
    said: list[str] = []
    node = ray.add_node(num_cpus=4)
    here = SimpleNamespace(nodes=OfTests(tmp_path, said.append))
    one, other = replica(here, said, 1, cpus=3.0), replica(here, said, 2)  # the first fits on that node alone
    got = []
    with closing(together(one, other)) as engine:
        for number, answer in enumerate(engine.generate(iter(requests(400)))):
            got.append(answer.request)
            if number == 100:
                ray.remove_node(node)
    assert sorted(got) == sorted(request.key for request in requests(400))
    assert said[0].startswith("teacher, replica 1 on ")
    assert "is lost: " in said[0]
    assert "teacher, replica 1 is left out from here on: no node has 3 CPUs" in said[-1]


def test_load_and_idleness_are_no_silence(ray: Any) -> None:
    said: list[str] = []
    one = replica(ray, said, seconds=0.2, loads=2.0, silent_s=1.0)

    def with_a_pause() -> Iterator[Request | None]:
        yield requests(1)[0]
        yield None  # until that is answered
        time.sleep(2.0)
        yield from requests(2, "later")

    with closing(one):
        assert len(list(one.generate(with_a_pause()))) == 3
    assert said == []


def test_a_replica_takes_no_request_before_it_can_answer(ray: Any) -> None:
    one, slow = replica(ray, [], 1), replica(ray, [], 2, loads=30.0)
    begun = time.monotonic()
    with closing(together(one, slow)) as engine:
        for count, _ in enumerate(engine.generate(iter(requests(40))), start=1):
            if count == 40:
                break
    assert time.monotonic() - begun < 20


def test_more_than_the_cluster_has_is_said_at_once(ray: Any) -> None:
    huge = replica(ray, [], cpus=64.0)
    with closing(huge), pytest.raises(UsageError, match=r"no node has 64 CPUs and 0 GPUs.*cluster\.cpus"):
        list(huge.generate(iter(requests(1))))
    said: list[str] = []
    one, other = replica(ray, said, 1, cpus=2.0), replica(ray, said, 2, cpus=2.0)
    with closing(together(one, other)) as engine:
        assert len(list(engine.generate(iter(requests(40))))) == 40
    assert "room for 1 of 2 replicas with 2 CPUs" in said[0]


def test_a_mistake_of_the_user_stays_one_and_one_that_is_closed_stays_closed(ray: Any) -> None:
    said: list[str] = []
    one, slow = replica(ray, said, 1), replica(ray, said, 2, seconds=3.0)
    with closing(together(one, slow)) as engine, pytest.raises(UsageError, match=r"replica . on .*no chat template"):
        list(engine.generate(iter([*requests(16), *requests(1, "mistake")])))
    time.sleep(4)
    assert slow._actor is None
    assert not [line for line in said if "is lost" in line]


def test_one_whose_process_hangs_is_started_again(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.cluster.replica.GRACE_S", 2.0)
    said: list[str] = []
    one, got, stopped = replica(ray, said, 1), [], 0
    with closing(together(one)) as engine:
        for answer in engine.generate(iter(requests(200))):
            got.append(answer.request)
            if len(got) == 50:
                stopped = process_of(one)
                os.kill(stopped, signal.SIGSTOP)
    assert sorted(got) == sorted(request.key for request in requests(200))
    (line,) = said
    assert "did not reply within" in line
    deadline = time.monotonic() + 30
    while running(stopped):
        assert time.monotonic() < deadline, "the process that hung is ended"
        time.sleep(0.1)


def running(process: int) -> bool:
    """Whether a process is there, and not merely unread by its parent."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def test_a_full_object_store_stops_nothing(ray: Any, tmp_path: Path) -> None:
    import numpy as np
    import ray as library

    room = int(library.cluster_resources()["object_store_memory"])
    held = [library.put(np.zeros(room // 8, np.uint8)) for _ in range(12)]  # more than it holds: Ray writes it to disk
    with closing(together(replica(ray, [], 1), replica(ray, [], 2))) as engine:
        assert len(list(engine.generate(iter(requests(200))))) == 200
    assert len(held) == 12


def test_one_that_falls_silent_is_left_out_and_others_do_its_work(ray: Any) -> None:
    said: list[str] = []
    one = replica(ray, said, 1, silent_s=1.0)
    with closing(together(one)) as engine, pytest.raises(MachineError, match=f"lost {MOST_STARTS} times"):
        list(engine.generate(iter(requests(1, "silence"))))
    assert [line for line in said if "answered nothing for 1 s" in line]


def test_what_the_engine_says_names_the_node(ray: Any) -> None:
    with (
        closing(together(replica(ray, [], 1))) as engine,
        pytest.raises(MachineError, match=r"replica 1 on .*is broken"),
    ):
        list(engine.generate(iter(requests(1, "failure"))))


def test_another_version_of_the_package_is_refused_by_name(ray: Any) -> None:
    one = replica(ray, [], version="9.9")
    with closing(together(one)) as engine, pytest.raises(UsageError, match=r"has harness .*, this machine has 9\.9"):
        list(engine.generate(iter(requests(1))))


@needs_ray
def test_a_cluster_that_is_not_there_and_an_address_that_is_none_are_one_message(
    tmp_path: Path, tiny_model: Path
) -> None:
    write_project(tmp_path, str(tiny_model))
    for address, code in (("127.0.0.1:1", 3), ("nowhere", 2), ("host:port", 2), ("http://x:1", 2), ("", 2)):
        done = harness(tmp_path, "augment", "shop", "--cluster", address)
        assert done.returncode == code, done.stderr
        assert f"cluster.address {address}" in done.stderr or f"--cluster {address!r}: an address is" in done.stderr
        assert "Traceback" not in done.stderr


@needs_ray
def test_rows_on_a_cluster_are_those_of_one_machine_also_after_a_kill(tmp_path: Path, tiny_model: Path) -> None:
    one, many, killed = (tmp_path / name for name in ("one", "many", "killed"))
    for folder in (one, many, killed):
        write_project(folder, str(tiny_model))
    succeed(one, "augment", "shop")
    said = succeed(many, "augment", "shop", "--cluster", "local", "--set", "cluster.replicas=2")
    assert re.search(r"cluster [\d.]+:\d+: 1 node, ", said)
    process = start(killed, "augment", "shop", "--cluster", "local")
    calls = killed / "runs/.cache/calls.sqlite"
    while process.poll() is None and not (calls.is_file() and calls.stat().st_size):
        time.sleep(0.05)
    process.kill()
    assert finish(process)[0] == -signal.SIGKILL, "it was at work"
    succeed(killed, "augment", "shop", "--cluster", "local")
    files = [(folder / "runs/shop/augment/train.jsonl").read_bytes() for folder in (one, many, killed)]
    assert files[0] == files[1] == files[2]
    assert "nothing to do" in succeed(many, "augment", "shop"), "a cluster changes no digest"


@needs_ray
@needs_vllm
def test_of_two_real_engines_one_is_killed_and_the_same_run_goes_on_without_a_cluster(
    tmp_path: Path, bundled_model: Path
) -> None:
    teacher = {"model": str(bundled_model), "engine": "vllm", "concurrency": 8, "max_model_len": 1024}
    run = write_project(tmp_path, str(bundled_model), teacher=teacher)
    text = yaml.safe_load(run.read_text())
    text["augment"] |= {"filters": [{"kind": "duplicate"}]}
    run.write_text(yaml.safe_dump(text, sort_keys=False))
    process = start(tmp_path, "augment", "shop", "--cluster", "local", "--set", "cluster.replicas=2")
    calls, logs = tmp_path / "runs/.cache/calls.sqlite", tmp_path / "runs/shop/cluster"
    wait_for(lambda: stored_calls(calls) > 0 and len(list(logs.glob("*.log"))) == 2, process)
    killed = next(logs.glob("*.log"))
    os.kill(int(killed.read_text().splitlines()[0].rpartition(" ")[2]), signal.SIGKILL)
    code, said = finish(process)
    assert code == 0, said[-3000:]
    assert "is lost" in said
    rows = (tmp_path / "runs/shop/augment/train.jsonl").read_bytes()
    assert rows.count(b"\n") >= 8
    shutil.rmtree(tmp_path / "runs/shop/augment")
    assert "; 0 calls made in this augment" in succeed(tmp_path, "augment", "shop").replace("\n", " ")
    assert (tmp_path / "runs/shop/augment/train.jsonl").read_bytes() == rows


def stored_calls(path: Path) -> int:
    """Calls that are committed in a file which another process writes."""
    if not path.is_file():
        return 0
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        try:
            return int(db.execute("SELECT COUNT(*) FROM calls").fetchone()[0])
        except sqlite3.OperationalError:  # it is being made
            return 0


def test_doctor_asks_every_node(ray: Any, tmp_path: Path) -> None:
    said, able = examine_cluster(ray.address, tmp_path)
    lines = said.splitlines()
    assert able
    assert lines[0].startswith("ok  cluster ")
    nodes = [line for line in lines if f", harness {harness_version}" in line]
    assert len(nodes) >= 2, lines
    assert all(line.startswith("ok  ") and " and 0 GPUs, " in line for line in nodes)
    assert not list(tmp_path.iterdir()), "the file that nodes looked for is taken away"


def test_without_a_cluster_ray_is_not_imported(tmp_path: Path, tiny_model: Path) -> None:
    write_project(tmp_path, str(tiny_model))
    program = (
        "import sys; from harness.cli import main; sys.argv = ['harness', 'augment', 'shop']\n"
        "try:\n    main()\nfinally:\n    print('ray' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "False"


def test_a_server_raises_what_the_engine_raised() -> None:
    broken = Server()
    broken.open(Slow)
    with pytest.raises(MachineError, match="is broken"):
        broken.step(requests(1, "failure"), 5.0)
