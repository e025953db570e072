"""Public benchmarks: lm-evaluation-harness supplies task, prompt and metric; our log-likelihood answers.

Rows come from the hub, or from the folder that the environment variable HARNESS_BENCHMARKS names, as JSON
lines called NAME_SPLIT.jsonl where NAME is the hub dataset's configuration or the dataset itself.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
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


def benchmark_tasks(suite: BenchmarkSuite) -> list[Task]:
    """The library's tasks (a group such as mmlu has many) with their rows loaded.

    Raises UsageError for a name nobody has, NotReachable when the rows are nowhere to be had.
    """
    import datasets

    datasets.disable_progress_bars()
    manager, configs = _find(suite.benchmark)
    closed: str | None = None
    tasks: list[Task] = []
    for found in configs:
        config = {**found, "num_fewshot": suite.num_fewshot}
        local = _local_rows(config)
        if local:
            config |= local
        elif not tasks:
            closed = _hub_closed()  # asked once: the other tasks of a group come from the same place
        if not local and closed:
            raise NotReachable(f"{_where(config)}; {closed}")
        try:
            tasks += manager.load([config])["tasks"].values()
        except (OSError, ConnectionError, ValueError) as error:
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise NotReachable(f"{_where(config)}; the hub did not answer: {first[:200]}") from error
    return tasks


def _find(name: str) -> tuple[TaskManager, list[dict[str, Any]]]:
    """The library's own definitions behind a name.

    Indexing all of its ten thousand files takes seconds, so folders whose name starts the task's are tried first.
    """
    import lm_eval.tasks
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    home = Path(str(lm_eval.tasks.__file__)).parent
    likely = [folder for folder in home.iterdir() if folder.is_dir() and name.startswith(folder.name)]
    for where in (likely, None):
        if where == []:
            continue
        manager = TaskManager(
            include_path=[str(folder) for folder in where] if where else None,
            include_defaults=where is None,
        )
        # the index leaves a task's functions as names; read its file once more with them
        files = [manager.task_index[leaf].yaml_path for leaf in _leaves(manager, name)]
        configs = [load_yaml(file, resolve_func=True) for file in files]
        if configs:
            return manager, configs
    raise UsageError(
        f"benchmark: {name!r} is no task of lm-evaluation-harness{nearest(name, manager.all_tasks)};"
        " `lm-eval ls tasks` lists them"
    )


def _leaves(manager: TaskManager, name: str) -> list[str]:
    """The tasks behind the name of a task, a tag or a group, in order of name."""
    entry = manager.task_index.get(name)
    if entry is None:
        return []
    if entry.kind.name == "TASK":
        return [name]
    below = sorted(entry.tags) if entry.kind.name == "TAG" else [str(n) for n in (entry.cfg or {}).get("task", [])]
    return sorted({leaf for child in below for leaf in _leaves(manager, child)})


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


def _local_rows(config: dict[str, Any]) -> dict[str, Any]:
    """What to change in a task so that it reads the local folder; nothing when a split of it is missing there.

    A file that holds all configurations of a dataset (mmlu) is narrowed to the rows whose `subject` is this one.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return {}
    dataset = str(config["dataset_path"]).split("/")[-1]
    name = config.get("dataset_name")
    splits = {str(config[key]) for key in SPLITS if config.get(key)}
    for stem in [
        s for s in (name, dataset, dataset.replace("_qa", "qa"), f"{dataset.replace('_qa', 'qa')}_{name}") if s
    ]:
        files = {split: Path(folder) / f"{stem}_{split}.jsonl" for split in splits}
        there = {split: str(file) for split, file in files.items() if file.is_file()}
        needed = {str(config[key]) for key in ("test_split", "validation_split") if config.get(key)}
        if not there or not (needed & set(there)):
            continue
        changes: dict[str, Any] = {
            # a name the library knows would bring its own rows back
            "task": f"{config['task']}_local",
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": there},
        }
        changes |= {key: None for key in SPLITS if config.get(key) and str(config[key]) not in there}
        if name and stem == dataset:
            changes["process_docs"] = lambda rows: rows.filter(lambda row: row["subject"] == name)
        return changes
    return {}


def fingerprint() -> list[tuple[str, int]]:
    """Names and sizes of the files in the local folder: whether rows can be checked against them, and which."""
    folder = os.environ.get(FOLDER_VARIABLE)
    return sorted((f.name, f.stat().st_size) for f in Path(folder).glob("*.jsonl")) if folder else []


def _where(config: dict[str, Any]) -> str:
    folder = os.environ.get(FOLDER_VARIABLE)
    looked = f"no rows in the folder that {FOLDER_VARIABLE} names" if folder else f"{FOLDER_VARIABLE} is not set"
    return f"{config.get('dataset_path')}: {looked}"


def chosen_documents(tasks: Sequence[Task], limit: int | None) -> list[tuple[Task, int, str]]:
    """(task, index, 16-hex id) of the documents to score: all, or `limit` of them by content digest.

    A group's tasks are taken in turn, so that a small limit still reaches every subject.
    """
    queues = []
    for task in tasks:
        named = [
            (digest("document", json.dumps(document, sort_keys=True, default=str))[:16], index)
            for index, document in enumerate(task.eval_docs)
        ]
        queues.append([(task, index, name) for name, index in sorted(named)])
    total = sum(map(len, queues))
    taken = [queue[i] for i in range(max(map(len, queues))) for queue in queues if i < len(queue)]
    return taken[: total if limit is None else limit]


def score_benchmark(suite: BenchmarkSuite, tasks: Sequence[Task], engine: StudentEngine) -> list[Score]:
    """One score per chosen document, with the task's own metrics as values."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    documents = chosen_documents(tasks, suite.limit)
    wanted: dict[str, list[int]] = {}
    for task, index, _ in documents:
        wanted.setdefault(task.config.task, []).append(index)
    too_long: dict[tuple[str, int], str] = {}
    result = simple_evaluate(
        model=_bridge(engine, too_long),
        tasks=[task for task in tasks if task.config.task in wanted],
        samples=wanted,
        task_manager=TaskManager(include_defaults=False),  # its own would index all task files: 7 s a card
        bootstrap_iters=0,
        log_samples=True,
    )
    found = {(name, sample["doc_id"]): sample for name, all_ in result["samples"].items() for sample in all_}
    return [
        _score(found.get((task.config.task, index)), item, too_long.get((task.config.task, index)))
        for task, index, item in documents
    ]


def _score(sample: dict[str, Any] | None, item: str, too_long: str | None) -> Score:
    if too_long:
        return Score(item=item, split="test", status="failed", error=too_long)
    if sample is None:
        return Score(item=item, split="test", status="failed", error="the library returned no sample for it")
    names = sample.get("metrics") or []
    values = {n: float(sample[n]) for n in names if isinstance(sample.get(n), int | float)}
    if "acc_norm" in values or "acc" in values:
        values["accuracy"] = values.get("acc_norm", values.get("acc", 0.0))
    return Score(item=item, split="test", status="scored", values=values, gold=str(sample.get("target", "")))


def _bridge(engine: StudentEngine, too_long: dict[tuple[str, int], str]) -> Any:
    """Our engine as the library's LM; notes documents longer than the context by (task, index).

    Defined here since its base class is the library's.
    """
    from lm_eval.api.model import LM

    class Bridge(LM):  # type: ignore[misc]  # the library is untyped
        def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            pairs = [continuation_pair(engine, *map(str, request.args)) for request in requests]
            lengths = [len(pair.context) + len(pair.continuation) for pair in pairs]
            fit = [pair for pair, length in zip(pairs, lengths, strict=True) if length <= engine.max_length]
            measured = iter(engine.loglikelihood(fit))
            answers: list[tuple[float, bool]] = []
            for request, length in zip(requests, lengths, strict=True):
                if length <= engine.max_length:
                    m = next(measured)
                    answers.append((m.logprob, m.greedy))
                else:  # the library cuts such prompts in silence; here the document fails by name
                    place = (str(request.task_name), int(request.doc_id or 0))
                    too_long[place] = f"{length} tokens, the context holds {engine.max_length}"
                    answers.append((-1e9, False))
            return answers

        def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
            raise UsageError("this benchmark needs rolling log-likelihoods, which no suite uses yet")

        def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
            raise UsageError("this benchmark generates text, which no suite uses yet")

    return Bridge()


def questions(tasks: Sequence[Task]) -> list[tuple[str, str]]:
    """(16-hex id, question as the task words it) of every document, so that no training row repeats one."""
    documents = {task.config.task: list(task.eval_docs) for task in tasks}
    return [
        (name, str(task.doc_to_text(documents[task.config.task][index])))
        for task, index, name in chosen_documents(tasks, None)
    ]
