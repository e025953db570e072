"""What needs a GPU, for `make verify-gpu`: CUDA scores as the CPU does, trains, and agrees with vLLM on adapters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.engines.transformers import TransformersEngine
from harness.records import Origin, Pair, Request, Sampling
from tests.needs import missing
from tests.process import succeed
from tests.project import write_project

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def needs_cuda() -> None:
    """Skip where there is no GPU, unless HARNESS_REQUIRE names it: then its absence is the failure."""
    import torch

    if not torch.cuda.is_available():
        missing("gpu", "no CUDA device on this machine")


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
    write_project(tmp_path, str(tiny_model))
    settings = "engine: vllm, max_model_len: 1024, gpu_memory_utilization: 0.3"
    teacher = ["--set", f"teacher={{model: {tiny_model}, {settings}}}"]
    loose = ["--set", "augment.filters=[{kind: duplicate}]"]
    for stage, *more in (["augment"], ["train"], ["eval"], ["rescore", "--engine", "vllm"]):
        succeed(tmp_path, stage, "shop", *more, *teacher, *loose)
    cells = json.loads((tmp_path / "runs/shop/train/cells.json").read_text())["cells"]
    tuned = [cell for cell in cells if cell["folder"]]
    assert len(tuned) == 3
    assert (tmp_path / "runs/shop/eval/agree.json").is_file()
    for cell in tuned:
        assert json.loads((tmp_path / cell["folder"] / "cell.json").read_text())["device"].startswith("cuda")
