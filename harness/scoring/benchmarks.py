"""Public benchmarks: lm-evaluation-harness supplies task, prompt and metric; our log-likelihood answers.

Rows come from the hub, or from the folder that the environment variable HARNESS_BENCHMARKS names, as JSON
lines called NAME_SPLIT.jsonl where NAME is the hub dataset's configuration or the dataset itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError, nearest
from harness.records import Score, digest
from harness.scoring.base import StudentEngine
from harness.scoring.choices import continuation_pair
from harness.scoring.suites import BenchmarkSuite

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import Task

FOLDER_VARIABLE = "HARNESS_BENCHMARKS"
SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")


class NotReachable(Exception):
    """The benchmark's rows are neither in the local folder nor on a hub that answers; says why."""


def benchmark_task(suite: BenchmarkSuite) -> Task:
    """The library's task with its rows loaded. Raises UsageError for a name nobody has, NotReachable."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(verbosity="ERROR")
    entry = manager.task_index.get(suite.benchmark)
    if entry is None or "task" not in (entry.cfg or {}):
        hint = nearest(suite.benchmark, manager.all_subtasks)
        raise UsageError(
            f"benchmark: {suite.benchmark!r} is no task of lm-evaluation-harness{hint}; `lm-eval ls tasks` lists them"
        )
    config = {**entry.cfg, "num_fewshot": suite.num_fewshot}
    local = _local_files(config)
    if local:
        config |= {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": local}}
        config["task"] = f"{suite.benchmark}_local"  # a name the library knows would bring its own rows back
    elif os.environ.get("HF_HUB_OFFLINE") == "1":
        raise NotReachable(_where(config) + "; the hub is switched off (HF_HUB_OFFLINE=1)")
    try:
        loaded = manager.load([config])["tasks"]
    except (OSError, ConnectionError, FileNotFoundError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise NotReachable(f"{_where(config)}; the hub did not answer: {first[:200]}") from error
    task: Task = next(iter(loaded.values()))
    return task


def _local_files(config: dict[str, Any]) -> dict[str, str]:
    """Split -> file of the local folder, for every split the task names; empty when one is missing."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return {}
    dataset = str(config["dataset_path"]).split("/")[-1]
    name = config.get("dataset_name")
    splits = {str(config[key]) for key in SPLITS if config.get(key)}
    for stem in [s for s in (name, dataset, f"{dataset}_{name}") if s]:
        files = {split: Path(folder) / f"{stem}_{split}.jsonl" for split in splits}
        if files and all(file.is_file() for file in files.values()):
            return {split: str(file) for split, file in files.items()}
    return {}


def _where(config: dict[str, Any]) -> str:
    folder = os.environ.get(FOLDER_VARIABLE)
    looked = f"no rows in the folder that {FOLDER_VARIABLE} names" if folder else f"{FOLDER_VARIABLE} is not set"
    return f"{config.get('dataset_path')}: {looked}"


def chosen_documents(task: Task, limit: int | None) -> list[tuple[int, str]]:
    """(index, 16-hex id) of the documents to score: all, or the `limit` first by content digest."""
    named = [
        (index, digest("document", json.dumps(document, sort_keys=True, default=str))[:16])
        for index, document in enumerate(task.eval_docs)
    ]
    if limit is None or limit >= len(named):
        return named
    return sorted(sorted(named, key=lambda pair: pair[1])[:limit])


def score_benchmark(suite: BenchmarkSuite, task: Task, engine: StudentEngine) -> list[Score]:
    """One score per chosen document, with the task's own metrics as values."""
    from lm_eval import simple_evaluate

    documents = chosen_documents(task, suite.limit)
    name = task.config.task
    result = simple_evaluate(
        model=_bridge(engine),
        tasks=[task],
        samples={name: [index for index, _ in documents]},
        bootstrap_iters=0,
        log_samples=True,
        verbosity="ERROR",
    )
    by_index = {sample["doc_id"]: sample for sample in result["samples"][name]}
    return [_score(by_index.get(index), item) for index, item in documents]


def _score(sample: dict[str, Any] | None, item: str) -> Score:
    if sample is None:
        return Score(item=item, split="test", status="failed", error="the library returned no sample for it")
    names = sample.get("metrics") or []
    values = {n: float(sample[n]) for n in names if isinstance(sample.get(n), int | float)}
    if "acc_norm" in values or "acc" in values:
        values["accuracy"] = values.get("acc_norm", values.get("acc", 0.0))
    return Score(item=item, split="test", status="scored", values=values, gold=str(sample.get("target", "")))


def _bridge(engine: StudentEngine) -> Any:
    """Our engine as the library's LM. Defined here since its base class is the library's."""
    from lm_eval.api.model import LM

    class Bridge(LM):
        def loglikelihood(
            self, requests: list[Instance], disable_tqdm: bool = False
        ) -> list[tuple[float, bool]]:
            pairs = [continuation_pair(engine, *map(str, request.args)) for request in requests]
            return [(m.logprob, m.greedy) for m in engine.loglikelihood(pairs)]

        def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
            raise UsageError("this benchmark needs rolling log-likelihoods, which no suite uses yet")

        def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
            raise UsageError("this benchmark generates text, which no suite uses yet")

    return Bridge()


def mean(scores: Sequence[Score], name: str) -> float:
    """Mean of a value over all scores; one that is absent counts 0, as the denominator never shrinks."""
    return sum(score.values.get(name, 0.0) for score in scores) / len(scores)
