"""Public benchmarks: lm-evaluation-harness supplies task, prompt and metric; our log-likelihood answers.

Rows come from the hub, or from the folder that the environment variable HARNESS_BENCHMARKS names, as JSON
lines called NAME_SPLIT.jsonl where NAME is the hub dataset's configuration or the dataset itself.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from harness.errors import UsageError, nearest
from harness.records import Score, digest
from harness.scoring.base import StudentEngine
from harness.scoring.choices import continuation_pair
from harness.scoring.suites import BenchmarkSuite

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager

FOLDER_VARIABLE = "HARNESS_BENCHMARKS"
SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")


class NotReachable(Exception):
    """The benchmark's rows are neither in the local folder nor on a hub that answers; says why."""


def benchmark_task(suite: BenchmarkSuite) -> Task:
    """The library's task with its rows loaded. Raises UsageError for a name nobody has, NotReachable."""
    import datasets

    datasets.disable_progress_bars()
    manager, found = _find(suite.benchmark)
    config = {**found, "num_fewshot": suite.num_fewshot}
    local = _local_files(config)
    if local:
        config |= {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": local}}
        config["task"] = f"{suite.benchmark}_local"  # a name the library knows would bring its own rows back
    else:
        why_not = _hub_closed()
        if why_not:
            raise NotReachable(f"{_where(config)}; {why_not}")
    try:
        loaded = manager.load([config])["tasks"]
    except (OSError, ConnectionError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise NotReachable(f"{_where(config)}; the hub did not answer: {first[:200]}") from error
    task: Task = next(iter(loaded.values()))
    return task


def _find(name: str) -> tuple[TaskManager, dict[str, Any]]:
    """The library's own definition of a task.

    Indexing all of its ten thousand files takes seconds, so folders whose name starts the task's are tried first.
    """
    import lm_eval.tasks
    from lm_eval.tasks import TaskManager

    home = Path(str(lm_eval.tasks.__file__)).parent
    likely = [folder for folder in home.iterdir() if folder.is_dir() and name.startswith(folder.name)]
    for where in (likely, None):
        if where == []:
            continue
        manager = TaskManager(
            include_path=[str(folder) for folder in where] if where else None,
            include_defaults=where is None,
        )
        entry = manager.task_index.get(name)
        if entry is not None and "task" in (entry.cfg or {}):
            return manager, dict(entry.cfg)
    raise UsageError(
        f"benchmark: {name!r} is no task of lm-evaluation-harness{nearest(name, manager.all_subtasks)};"
        " `lm-eval ls tasks` lists them"
    )


def _hub_closed() -> str | None:
    """Why the hub cannot be asked, found in seconds instead of through the library's long retries."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "the hub is switched off (HF_HUB_OFFLINE)"
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return None  # only the proxy knows
    address = urlsplit(constants.ENDPOINT)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((str(address.hostname), port), timeout=5).close()
    except OSError as error:
        return f"the hub cannot be reached ({error.strerror or error})"
    return None


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


def questions(task: Task) -> list[tuple[str, str]]:
    """(16-hex id, question as the task words it) of every document, so that no training row repeats one."""
    documents = list(task.eval_docs)
    named = chosen_documents(task, None)
    return [(name, str(task.doc_to_text(documents[index]))) for index, name in named]
