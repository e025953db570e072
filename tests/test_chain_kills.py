"""A chain that ends midway, killed or by a fault: the server's own log says that nothing is paid for twice."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.augment.ask import Asker
from harness.augment.plan import plan_rows
from harness.augment.preview import follow
from harness.config.load import load_run
from harness.core.terminal import Stop
from harness.engines.call_cache import CallCache
from harness.engines.openai import ATTEMPTS
from harness.errors import MachineError
from harness.models.teachers import Teachers
from tests.fakes import FakeGenerator
from tests.http_server import Endpoint, Fault, serving
from tests.process import COMMAND, finish, harness, start, succeed, wait_for
from tests.test_steps import ANSWER, ASK, CHECK, project

KILLS = 20
TEACHERS = Teachers(own="teacher@endpoint")


def stored(root: Path) -> set[str]:
    """Keys of the calls that are committed."""
    path = root / "runs/.cache/calls.sqlite"
    if not path.is_file():
        return set()
    with closing(sqlite3.connect(path)) as db:
        return {row[0] for row in db.execute("SELECT key FROM calls")}


def point_to(root: Path, url: str) -> None:
    """Have the run ask this server."""
    path = root / "runs/q.yaml"
    run = yaml.safe_load(path.read_text())
    run["teacher"] = {"engine": "openai", "model": "teacher", "base_url": url, "concurrency": 6}
    run["augment"]["rows"] = 200
    run["train"]["students"] = ["smollm2-135m-instruct"]
    path.write_text(yaml.safe_dump(run, sort_keys=False))


def prompt_in(body: dict[str, Any]) -> str:
    """The prompt of a body that the server was sent."""
    return str(body.get("prompt") or body["messages"][-1]["content"])


def prompts_of_committed(root: Path) -> dict[str, str]:
    """The prompt of each call that is committed, by its key: the finished run is followed through its own answers."""
    run = load_run(root / "runs/q.yaml")
    plan = plan_rows(run, TEACHERS)
    cache = CallCache(run.cache / "calls.sqlite")
    ask = Asker(cache, lambda: FakeGenerator(), Stop(), answers=cache.get(sorted(stored(root))))
    cache.close()
    prompts = {
        request.key: request.prompt or request.messages[-1].content
        for place in plan.places(plan.first_round())
        for _, request, _ in follow(plan, ask, place).asked
    }
    assert prompts.keys() == stored(root)
    return prompts


@pytest.mark.slow
def test_a_chain_killed_at_20_moments_asks_no_committed_call_again(tmp_path: Path) -> None:
    root, whole = tmp_path / "killed", tmp_path / "whole"
    row = {"text": "question", "answer": "critique"}
    for folder in (root, whole):
        project(folder, [ASK, ANSWER, CHECK], row)
    draw = random.Random(11)
    moments: list[tuple[int, set[str]]] = []  # posts that the server had, calls that were committed
    with serving(Endpoint(delay_s=0.05)) as endpoint:
        point_to(root, endpoint.base_url)
        for _ in range(KILLS):
            process = start(root, "augment", "q")
            goal = len(endpoint.posts) + draw.randrange(4, 48)
            wait_for(lambda goal=goal: len(endpoint.posts) >= goal, process)  # type: ignore[misc]
            process.kill()
            finish(process)
            moments.append((len(endpoint.posts), stored(root)))
        succeed(root, "augment", "q")
        posts = [prompt_in(body) for body in endpoint.posts]
        point_to(whole, endpoint.base_url)
        succeed(whole, "augment", "q")
    kept = [(folder / "runs/q/augment/train.jsonl").read_bytes() for folder in (root, whole)]
    assert kept[0] == kept[1]
    prompts = prompts_of_committed(root)
    for count, committed in moments:
        again = {prompts[key] for key in committed} & set(posts[count:])
        assert not again, f"{len(again)} committed calls were asked again after {count} posts"
    assert len(moments[-1][1]) > 40, "the kills came while the chain was at work"


# What a disk refuses once 64 pages of calls, or 1 MiB of one file, are written.
FULL = {
    "database or disk is full": """
import sqlite3
connect = sqlite3.connect
def small(*words, **settings):
    db = connect(*words, **settings)
    db.execute("PRAGMA max_page_count=64")
    return db
sqlite3.connect = small
""",
    "disk I/O error": "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("says", FULL)
def test_a_disk_that_fills_up_during_a_chain_ends_it_and_loses_no_committed_call(tmp_path: Path, says: str) -> None:
    root, whole = tmp_path / "full", tmp_path / "whole"
    for folder in (root, whole):
        project(folder, [ASK, ANSWER, CHECK], {"text": "question", "answer": "critique"})
    with serving(Endpoint()) as endpoint:
        point_to(root, endpoint.base_url)
        ended = harness(root, "augment", "q", program=FULL[says] + COMMAND)
        committed, count = stored(root), len(endpoint.posts)
        succeed(root, "augment", "q")
        posts = [prompt_in(body) for body in endpoint.posts]
        point_to(whole, endpoint.base_url)
        succeed(whole, "augment", "q")
    assert ended.returncode == MachineError.exit_code == 3, ended.stderr
    assert f"calls.sqlite: the cache of teacher calls fails: {says}" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert 48 < len(committed) < 600, "it came while the chain was at work"
    prompts = prompts_of_committed(root)
    assert committed <= prompts.keys()
    assert not {prompts[key] for key in committed} & set(posts[count:]), "a committed call was asked again"
    kept = [(folder / "runs/q/augment/train.jsonl").read_bytes() for folder in (root, whole)]
    assert kept[0] == kept[1]


@pytest.mark.slow
def test_an_endpoint_that_fails_for_good_ends_a_chain_and_loses_no_committed_call(tmp_path: Path) -> None:
    project(tmp_path, [ASK, ANSWER, CHECK], {"text": "question", "answer": "critique"})
    faults: list[Fault] = [*["ok"] * 150, *["500"] * 600]  # type: ignore[list-item]
    with serving(Endpoint(faults=faults)) as failing:
        point_to(tmp_path, failing.base_url)
        ended = harness(tmp_path, "augment", "q")
        committed = stored(tmp_path)
    with serving(Endpoint()) as healthy:
        point_to(tmp_path, healthy.base_url)
        succeed(tmp_path, "augment", "q")
        posts = {prompt_in(body) for body in healthy.posts}
    assert ended.returncode == MachineError.exit_code == 3, ended.stderr
    assert "20 requests in a row failed" in ended.stderr
    assert "150 were completed and are kept; the same command goes on from there" in ended.stderr
    assert len(failing.posts) < 150 + 2 * 20 * ATTEMPTS, "it is not asked for ever"
    assert len(committed) == 150, "all that was answered"
    prompts = prompts_of_committed(tmp_path)
    assert committed <= prompts.keys()
    assert not {prompts[key] for key in committed} & posts, "a committed call was asked again"
