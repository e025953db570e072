"""vLLM's own server, a real process on loopback that a test starts and stops: a teacher, and exported students."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml

from harness.augment.rows import read_rejected
from harness.builders import form_scorer
from harness.commands.export_student import Options, export_student
from harness.config.load import load_run
from harness.core.json_file import read_json, read_jsonl
from harness.core.terminal import Stop
from harness.engines.transformers import TransformersEngine
from harness.eval.prompting import prompt_forms
from harness.records import Message, Row
from harness.suites.generate import ask
from harness.train.grid import plan_training
from harness.train.stage import train
from tests.fakes import Quiet
from tests.needs import needs_vllm
from tests.process import ROOT, harness
from tests.test_export_student import no_hub
from tests.test_steps import ANSWER, ASK, project

START_S = 600  # the server compiles and warms up; beside other work that takes minutes
SMALL = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_HOST_IP": "127.0.0.1"}


@contextmanager
def vllm_server(model: str, log: Path, *more: str) -> Iterator[str]:
    """The base_url of a vLLM server of a model, with these words more. It is stopped at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--host", "127.0.0.1"]
    words += ["--port", str(port), "--max-model-len", "512", "--enforce-eager", *more]
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


def written(url: str, model: str, messages: Sequence[Message]) -> str:
    """The greedy answer of a served model to a chat."""
    asked = {"model": model, "temperature": 0, "max_tokens": 8, "messages": [m.model_dump() for m in messages]}
    head = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/chat/completions", json.dumps(asked).encode(), head)
    with urllib.request.urlopen(request, timeout=120) as response:
        return str(json.load(response)["choices"][0]["message"]["content"])


@needs_vllm
@pytest.mark.slow
def test_an_exported_student_is_served_by_the_line_that_is_printed(tmp_path: Path, bundled_model: Path) -> None:
    for name in ("prompts/helpdesk", "suites"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "runs").mkdir()
    shutil.copy(ROOT / "runs/helpdesk.yaml", tmp_path / "runs")
    (tmp_path / "runs/mini.yaml").write_text(
        "extends: helpdesk.yaml\neval: {suites: [helpdesk]}\nship: null\n"
        f"train: {{students: [{bundled_model}], data: [seeds_only], sizes: [0, 16]}}\n"
    )
    run = load_run(tmp_path / "runs/mini.yaml")
    train(run, Quiet(), Stop())
    (cell,) = (planned for planned in plan_training(run).cells if planned.rows)
    items = [item for item in run.suites["helpdesk"].items if item.split == "test"][:8]
    prompts = [prompt_forms(run.task, run.prompts).tuned(item) for item in items]
    # float32 on both sides: in bfloat16 two kernels may pick another of two words that are nearly as likely
    engine = TransformersEngine(bundled_model, cell.folder, device="cpu", dtype="float32")
    said = ask(dict(enumerate(prompts)), engine, "student", 8, ())
    expected = [said[number].text for number in range(len(prompts))]
    assert len(set(expected)) > 2, "it tells topics apart"
    del engine
    for merged in (False, True):
        heard = Quiet()
        dtype = "float32" if merged else "auto"
        options = Options(student="seeds_only", merged=merged, dtype=dtype)
        export_student(run, options, form_scorer(run, heard), no_hub, heard)
        line = next(line for line in heard.said if "serve it: " in line).partition("serve it: ")[2]
        command, verb, model, *more = shlex.split(line)
        assert (command, verb) == ("vllm", "serve")  # the console command of this wheel does not start: the same server
        name = more[more.index("--served-model-name" if merged else "--lora-modules") + 1].partition("=")[0]
        with vllm_server(model, tmp_path / f"served.{merged}.log", *more, "--dtype", "float32") as url:
            assert [written(url, name, prompt) for prompt in prompts if not isinstance(prompt, str)] == expected


@needs_vllm
@pytest.mark.slow
def test_a_chain_is_made_over_http_by_vllm_itself(tmp_path: Path, bundled_model: Path) -> None:
    steps = [{**ASK, "sampling": {"max_tokens": 12, "stop": ["\n"]}},
             {**ANSWER, "samples": 2, "pick": {"by": "majority"}, "sampling": {"max_tokens": 8}}]  # fmt: skip
    project(tmp_path, steps)
    path = tmp_path / "runs/q.yaml"
    run = yaml.safe_load(path.read_text())
    run["train"]["students"] = ["smollm2-135m-instruct"]
    with vllm_server(str(bundled_model), tmp_path / "server.log", "--served-model-name", "teacher") as url:
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
