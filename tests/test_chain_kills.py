"""A chain whose process is killed again and again: the server's own log says that nothing is paid for twice."""

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
from harness.models.teachers import Teachers
from tests.fakes import FakeGenerator
from tests.http_server import Endpoint, serving
from tests.process import finish, start, succeed, wait_for
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
    for count, committed in moments:
        again = {prompts[key] for key in committed} & set(posts[count:])
        assert not again, f"{len(again)} committed calls were asked again after {count} posts"
    assert len(moments[-1][1]) > 40, "the kills came while the chain was at work"
