"""The same numbers as lm-evaluation-harness's own Hugging Face backend: real rows, the bundled model, float32.

HARNESS_EQUALITY_ITEMS asks for another number of documents of each benchmark. The library's backend is what takes long:
100 documents take 13 minutes on two slow cores.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from harness.engines.transformers import TransformersEngine
from harness.records import Loglikelihood, Pair
from harness.suites.benchmark import BenchmarkSuite
from harness.suites.benchmark_lm import Ledger, bridge
from harness.suites.benchmarks import benchmark_tasks, chosen_documents, score_benchmark

ITEMS = int(os.environ.get("HARNESS_EQUALITY_ITEMS", "40"))
SUBJECTS = 57
TOLERANCE = 1e-3  # nats
CASES = {  # few examples where they are drawn per document: that backend computes each prompt once per choice
    "arc_challenge": {"num_fewshot": 1, "limit": ITEMS},
    "hellaswag": {"num_fewshot": 0, "limit": ITEMS},
    "mmlu": {"num_fewshot": 1, "limit": max(SUBJECTS, ITEMS)},
    "truthfulqa_mc2": {"num_fewshot": 0, "limit": ITEMS},
}


class Remembering(TransformersEngine):
    """Measures every pair once, so that the library's own loop can ask again what the scorer asked."""

    def loglikelihood(self, pairs: Sequence[Pair]) -> list[Loglikelihood]:
        known = self.__dict__.setdefault("known", {})
        missing = [pair for pair in dict.fromkeys(pairs) if pair not in known]
        if missing:
            known.update(zip(missing, super().loglikelihood(missing), strict=True))
        return [known[pair] for pair in pairs]


class Models(NamedTuple):
    """The two sides."""

    ours: Remembering
    theirs: Any


@pytest.fixture(scope="module")
def models(benchmark_rows: None, bundled_model: Path) -> Models:
    from lm_eval.models.huggingface import HFLM

    theirs = HFLM(pretrained=str(bundled_model), dtype="float32", device="cpu", batch_size=16)
    return Models(Remembering(bundled_model, device="cpu", dtype="float32"), theirs)


def samples(model: Any, tasks: Sequence[Any], chosen: dict[str, list[int]]) -> dict[tuple[str, int], dict[str, Any]]:
    """(task, document's index) -> what the library's own loop logs about it."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    result = simple_evaluate(
        model=model,
        tasks=[task for task in tasks if task.config.task in chosen],
        samples=chosen,  # in the order of the rows: the library would number another order wrongly
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
    )
    return {(name, sample["doc_id"]): sample for name, found in result["samples"].items() for sample in found}


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", CASES)
def test_log_likelihoods_and_metrics_equal_the_library(models: Models, benchmark: str) -> None:
    suite = BenchmarkSuite(kind="benchmark", benchmark=benchmark, **CASES[benchmark])
    tasks = benchmark_tasks(suite)
    outcome = score_benchmark(suite, tasks, models.ours)
    places = [(task.config.task, index) for task, index, _ in chosen_documents(tasks, suite.limit)]
    scores = dict(zip(places, outcome.scores, strict=True))
    assert {score.status for score in outcome.scores} == {"scored"}
    chosen: dict[str, list[int]] = {}
    for name, index in sorted(places):
        chosen.setdefault(name, []).append(index)
    theirs = samples(models.theirs, tasks, chosen)
    ours = samples(bridge(models.ours, Ledger()), tasks, chosen)
    assert set(theirs) == set(ours) == set(scores)
    worst = 0.0
    for place, their in theirs.items():
        our, score = ours[place], scores[place]
        assert our["doc_hash"] == their["doc_hash"]
        assert our["arguments"] == their["arguments"]
        for (mine, my_greedy), (its, its_greedy) in zip(
            (answers[0] for answers in our["resps"]), (answers[0] for answers in their["resps"]), strict=True
        ):
            worst = max(worst, abs(mine - its))
            assert bool(my_greedy) == bool(its_greedy), place
        assert their["metrics"]
        for metric in their["metrics"]:
            assert score.values[metric] == pytest.approx(float(their[metric]), abs=1e-4), (place, metric)
            assert our[metric] == pytest.approx(their[metric], abs=1e-4)
    assert worst <= TOLERANCE, f"the log-likelihoods differ by up to {worst:.2g} nats"
    assert len(theirs) >= ITEMS
