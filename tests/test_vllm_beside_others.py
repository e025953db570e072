"""vLLM as one of several teachers of a run: in a thread beside an endpoint, and beside a second engine of its own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.augment.rows import read_rejected
from harness.core.json_file import read_json, read_jsonl
from harness.records import Row
from tests.http_server import Endpoint, serving
from tests.needs import needs_vllm
from tests.process import succeed
from tests.test_steps import ANSWER, ASK, CHECK, project

SMALL = {"engine": "vllm", "max_model_len": 256, "concurrency": 4, "gpu_memory_utilization": 0.4}
SHORT = {"max_tokens": 8}
JUDGE = {"by": "judge", "template": "prompts/q/judge.j2", "teacher": "teacher"}
STEPS = [  # from one engine to the other and back, and one of them judges what the other wrote
    {**ASK, "teacher": {"teacher": 1, "strong": 1}, "sampling": SHORT},
    {**ANSWER, "teacher": "strong", "form": "completion", "samples": 2, "pick": JUDGE, "sampling": SHORT},
    {**CHECK, "teacher": "teacher", "sampling": SHORT},
]


def chained(root: Path, bundled_model: Path, strong: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """The run file of a chain whose steps change the teacher, and what stands in it."""
    project(root, [ASK, ANSWER, CHECK], files={"judge": "Is {{ candidate }} an answer? Say yes or no:"})
    path = root / "runs/q.yaml"
    run = yaml.safe_load(path.read_text())
    run["train"]["students"] = ["smollm2-135m-instruct"]
    run["teacher"] = {**SMALL, "model": str(bundled_model)}
    run["teachers"] = {"strong": strong}
    run["augment"] |= {"steps": STEPS, "row": {"text": "question", "answer": "critique"}, "rows": 24}
    path.write_text(yaml.safe_dump(run, sort_keys=False))
    return path, run


def require_all_made(root: Path, said: str, strong: str) -> None:
    """Every call was answered, by whom it was meant for."""
    funnel = read_json(root / "runs/q/augment/funnel.json")
    assert (funnel["failed"], funnel["pending"]) == (0, 0), said
    rows = [row for _, row in read_jsonl(root / "runs/q/augment/train.jsonl", Row)]
    assert len(rows) == funnel["kept"] >= 4
    assert not any(line.lost == "failed" for line in read_rejected(root / "runs/q/augment/rejected.jsonl")[1])
    wrote = Counter((step.name, step.teacher.startswith(strong)) for row in rows for step in row.provenance.steps)
    assert wrote["answer", True] == wrote["critique", False] == len(rows)
    assert 0 < wrote["question", True] < len(rows)


@needs_vllm
@pytest.mark.slow
def test_vllm_and_an_endpoint_are_two_teachers_of_one_run(tmp_path: Path, bundled_model: Path) -> None:
    with serving(Endpoint(models=("strong",), faults=["ok", "429", "500"] * 3, delay_s=0.05)) as endpoint:
        strong = {"engine": "openai", "model": "strong", "base_url": endpoint.base_url, "concurrency": 4}
        chained(tmp_path, bundled_model, strong)
        said = succeed(tmp_path, "augment", "q")
        require_all_made(tmp_path, said, "strong@endpoint")
        posts = len(endpoint.posts)
        assert "Traceback" not in said
    assert "nothing to do" in succeed(tmp_path, "augment", "q")
    assert len(endpoint.posts) == posts


@needs_vllm
@pytest.mark.slow
def test_two_engines_of_vllm_take_turns(tmp_path: Path, bundled_model: Path, tiny_model: Path) -> None:
    """What vLLM keeps of a step stands in variables of its modules: two steps at once would take each other's."""
    chained(tmp_path, bundled_model, {**SMALL, "model": str(tiny_model)})
    said = succeed(tmp_path, "augment", "q")
    require_all_made(tmp_path, said, tiny_model.name)
    assert "Traceback" not in said
