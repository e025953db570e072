"""What needs a GPU, for `make verify-gpu`: CUDA scores as the CPU does, trains, and serves adapters through vLLM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.engines.transformers import TransformersEngine
from harness.records import Origin, Pair, Request, Sampling

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def needs_cuda() -> None:
    """Skip where there is no GPU, unless HARNESS_REQUIRE names it: then its absence is the failure."""
    import torch

    if torch.cuda.is_available():
        return
    assert "gpu" not in os.environ.get("HARNESS_REQUIRE", "").split(","), (
        "no CUDA device, and HARNESS_REQUIRE wants one"
    )
    pytest.skip("no CUDA device on this machine")


def test_cuda_scores_as_the_cpu_does(tiny_model: Path) -> None:
    shared = tuple(range(10, 60))
    pairs = [Pair(context=(*shared, 60 + i), continuation=(70 + i, 80)) for i in range(8)]
    found = [TransformersEngine(tiny_model, device=d, dtype="float32").loglikelihood(pairs) for d in ("cpu", "cuda")]
    for here, there in zip(*found, strict=True):
        assert there.logprob == pytest.approx(here.logprob, abs=1e-3)


def test_cuda_generates(tiny_model: Path) -> None:
    engine = TransformersEngine(tiny_model, device="cuda")
    requests = [
        Request(
            model="tiny", prompt="one two three " * i, sampling=Sampling(temperature=0, max_tokens=8),
            origin=Origin(purpose="answer"),
        )
        for i in range(1, 20)
    ]  # fmt: skip
    answers = list(engine.generate(requests))
    assert {a.request for a in answers} == {r.key for r in requests}
    assert all(a.finish_reason != "error" for a in answers)


def test_the_loop_runs_on_the_gpu(tmp_path: Path, tiny_model: Path) -> None:
    from tests.project import write_project

    write_project(tmp_path, str(tiny_model))
    verb = "import sys\nfrom harness.cli import main\nsys.argv = ['harness', *sys.argv[1:]]\nmain()\n"
    teacher = ["--set", f"teacher={{model: {tiny_model}, engine: vllm, max_model_len: 1024, memory: 0.3}}"]
    loose = ["--set", "augment.filters=[{kind: duplicate}]"]
    for stage in ("augment", "train", "eval"):
        done = subprocess.run(
            [sys.executable, "-c", verb, stage, "shop", *teacher, *loose], cwd=tmp_path, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-4000:]
    cells = json.loads((tmp_path / "runs/shop/train/cells.json").read_text())["cells"]
    for cell in (c for c in cells if c["folder"]):
        assert json.loads((tmp_path / cell["folder"] / "cell.json").read_text())["device"].startswith("cuda")
