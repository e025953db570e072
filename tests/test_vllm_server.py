"""Augment against vLLM's own server: a real process on loopback, which the test starts and stops."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml

from harness.augment.rows import read_rejected
from harness.core.json_file import read_json, read_jsonl
from harness.records import Row
from tests.needs import needs_vllm
from tests.process import harness
from tests.test_steps import ANSWER, ASK, project

START_S = 600  # the server compiles and warms up; beside other work that takes minutes
SMALL = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_HOST_IP": "127.0.0.1"}


@contextmanager
def vllm_server(model: Path, log: Path) -> Iterator[str]:
    """The base_url of a vLLM server of a model. It is stopped at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--host", "127.0.0.1"]
    words += ["--port", str(port), "--served-model-name", "teacher", "--max-model-len", "512", "--enforce-eager"]
    with log.open("w") as out:
        process = subprocess.Popen(words, env={**os.environ, **SMALL}, stdout=out, stderr=out, start_new_session=True)
    url = f"http://127.0.0.1:{port}/v1"
    try:
        deadline = time.monotonic() + START_S
        while not answers(url):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, f"no answer in {START_S} s: {log.read_text()[-3000:]}"
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    """Whether the server lists its models."""
    with suppress(OSError), urllib.request.urlopen(f"{url}/models", timeout=5) as response:
        return bool(response.status == 200)
    return False


@needs_vllm
@pytest.mark.slow
def test_a_chain_is_made_over_http_by_vllm_itself(tmp_path: Path, bundled_model: Path) -> None:
    steps = [{**ASK, "sampling": {"max_tokens": 12, "stop": ["\n"]}},
             {**ANSWER, "samples": 2, "pick": {"by": "majority"}, "sampling": {"max_tokens": 8}}]  # fmt: skip
    project(tmp_path, steps)
    path = tmp_path / "runs/q.yaml"
    run = yaml.safe_load(path.read_text())
    run["train"]["students"] = ["smollm2-135m-instruct"]
    with vllm_server(bundled_model, tmp_path / "server.log") as url:
        run["teacher"] = {"engine": "openai", "model": "teacher", "base_url": url, "concurrency": 8}
        path.write_text(yaml.safe_dump(run, sort_keys=False))
        first = harness(tmp_path, "augment", "q")
    assert first.returncode == 0, first.stderr[-3000:]
    funnel = read_json(tmp_path / "runs/q/augment/funnel.json")
    rows = [row for _, row in read_jsonl(tmp_path / "runs/q/augment/train.jsonl", Row)]
    assert len(rows) == funnel["kept"] >= 4
    assert (funnel["failed"], funnel["pending"]) == (0, 0)
    assert all([step.name for step in row.provenance.steps] == ["question", "answer"] for row in rows)
    assert not any(line.lost == "failed" for line in read_rejected(tmp_path / "runs/q/augment/rejected.jsonl")[1])
    again = harness(tmp_path, "augment", "q")
    assert again.returncode == 0
    assert "nothing to do" in again.stdout + again.stderr, "the server is gone, and nothing is asked"
