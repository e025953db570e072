"""runs/gpu.yaml end to end with tiny random models of the same architectures, a real vLLM, the real benchmarks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.needs import needs_vllm
from tests.process import ROOT, harness, succeed
from tests.tiny import make_tiny_model

ARCHITECTURES = ("qwen2", "qwen3", "gemma3_text")  # of the students; the teacher's is qwen2 too
pytestmark = [pytest.mark.slow, needs_vllm]


@pytest.mark.usefixtures("benchmark_rows")
def test_the_gpu_run_with_tiny_models(tmp_path: Path) -> None:
    for folder in ("prompts", "suites"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for name, every in (("helpdesk", 16), ("open_ended", 12), ("general_knowledge", 44)):
        items = tmp_path / f"suites/{name}.jsonl"  # a few of the shipped items: the kinds of suite are what counts
        items.write_text("".join(items.read_text().splitlines(keepends=True)[::every]))
    (tmp_path / "runs").mkdir()
    shutil.copy(ROOT / "runs/gpu.yaml", tmp_path / "runs/gpu.yaml")
    teacher = make_tiny_model(tmp_path / "models/teacher", "qwen2", random_seed=1)
    students = [str(make_tiny_model(tmp_path / f"models/{name}", name)) for name in ARCHITECTURES]
    listed = ", ".join(students)
    settings = [
        f"teacher.model={teacher}", "teacher.max_model_len=2048", "teacher.concurrency=64",
        f"train.students=[{listed}]", "train.sizes=[0, 2, 4]", "train.random_seeds=[0]", "train.min_steps=2",
        f"ship={{student: {students[0]}, size: 4}}",
        "augment.rows=8", "augment.requests_per_row=8", "augment.max_requests_per_row=40",
        "train.data=[filtered]", "eval.limit=2",
    ]  # fmt: skip
    options = [word for setting in settings for word in ("--set", setting)]
    output = succeed(tmp_path, "augment", "gpu", *options)
    assert "funnel" in output
    succeed(tmp_path, "train", "gpu", *options)
    succeed(tmp_path, "eval", "gpu", *options)
    stored = json.loads((tmp_path / "runs/gpu/eval/scorecards.json").read_text())
    assert stored["not_run"] == {}
    suites = {card["suite"] for card in stored["cards"]}
    assert {"arc_challenge", "hellaswag", "mmlu", "truthfulqa_mc2", "helpdesk", "open_ended"} <= suites
    scored = {card["cell"]["student"] for card in stored["cards"]}
    assert set(students) <= scored
    assert (tmp_path / "runs/gpu/eval/report.md").is_file()


def test_trained_adapters_answer_in_vllm(tmp_path: Path, bundled_model: Path) -> None:
    """Cells of the real student, as train stores them, each answer 8 prompts as a LoRARequest in one engine."""
    shutil.copytree(ROOT / "prompts", tmp_path / "prompts")
    shutil.copytree(ROOT / "suites", tmp_path / "suites")
    (tmp_path / "runs").mkdir()
    shutil.copy(ROOT / "runs/helpdesk.yaml", tmp_path / "runs/helpdesk.yaml")
    own = [json.loads(line) for line in (ROOT / "prompts/helpdesk/seeds.jsonl").read_text().splitlines()]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(line) + "\n" for line in own))
    settings = [
        "augment.rows_file=own.jsonl", "augment.templates=[]", "augment.filters=[]", "augment.rows=32",
        f"train.students=[{bundled_model}]", "train.sizes=[0, 8, 32]", "train.data=[filtered]",
        "train.min_steps=4", "train.epochs=1", f"ship={{student: {bundled_model}, size: 32}}",
    ]  # fmt: skip
    options = [word for setting in settings for word in ("--set", setting)]
    succeed(tmp_path, "augment", "helpdesk", *options)
    succeed(tmp_path, "train", "helpdesk", *options)
    cells = json.loads((tmp_path / "runs/helpdesk/train/cells.json").read_text())["cells"]
    adapters = {cell["name"]: str(tmp_path / cell["folder"]) for cell in cells if cell["folder"]}
    assert len(adapters) == 2
    script = """
import json, sys
from pathlib import Path
from harness.engines.vllm import VLLMEngine
from harness.records import Message, Origin, Request, Sampling
base, adapters = Path(sys.argv[1]), {k: Path(v) for k, v in json.loads(sys.argv[2]).items()}
texts = json.loads(sys.argv[3])
engine = VLLMEngine(base, adapters={**adapters, "base": None}, max_model_len=512, concurrency=24)
requests = [
    Request(model=name, messages=(Message(role="user", content=f"Message: {t}\\nTopic:"),),
            sampling=Sampling(temperature=0, max_tokens=6), origin=Origin(purpose="answer", row=str(i)))
    for name in [*adapters, "base"] for i, t in enumerate(texts)
]
found = {c.request: c for c in engine.generate(requests)}
print("ANSWERS " + json.dumps([[r.model, found[r.key].text, found[r.key].finish_reason] for r in requests]))
engine.close()
"""
    texts = [seed["text"] for seed in own[:8]]
    done = harness(tmp_path, str(bundled_model), json.dumps(adapters), json.dumps(texts), program=script)
    assert done.returncode == 0, done.stderr[-4000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("ANSWERS "))
    answers = json.loads(line.removeprefix("ANSWERS "))
    assert len(answers) == 8 * 3
    assert all(reason != "error" for _, _, reason in answers)
    said = {name: [text for who, text, _ in answers if who == name] for name in [*adapters, "base"]}
    assert said[list(adapters)[-1]] != said["base"], "the adapter changes what is said"
