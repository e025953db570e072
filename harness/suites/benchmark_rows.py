"""Where a public benchmark's definition and rows come from: lm-evaluation-harness, and the hub or a folder.

Rows come from the folder that the environment variable HARNESS_BENCHMARKS names, as JSON lines called
NAME_SPLIT.jsonl where NAME is the hub dataset's configuration or the dataset itself, else from the hub.
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
import socket
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from harness.core.record import digest
from harness.core.table_file import jsonl_rows
from harness.errors import UsageError, first_line, nearest

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager

    from harness.suites.benchmark import BenchmarkSuite

FOLDER_VARIABLE = "HARNESS_BENCHMARKS"
SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")
NAMED = re.compile(r"""^["']?(?:task|group)["']?[ \t]*:[ \t]*["']?([\w.+-]+)""", re.MULTILINE)  # in a task file
LOCAL = "_local"  # ends the name of a task whose rows are the folder's: the library knows the bare name


class NotReachable(Exception):
    """The benchmark's rows are neither in the local folder nor on a hub that answers. The message says why."""


def benchmark_tasks(suite: BenchmarkSuite) -> list[Task]:
    """The library's tasks (a group such as mmlu has many) with their rows loaded.

    Raises UsageError for a name nobody has and for rows that do not fit the task, NotReachable when the rows are
    nowhere to be had.
    """
    import datasets

    datasets.disable_progress_bars()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of its own task files, once a task
    manager, configs = _find(suite.benchmark)
    closed: str | None = None
    tasks: list[Task] = []
    read = cache(lambda file: [row for _, row in jsonl_rows(file)])  # the subjects of a group lie in one file
    with _library_seeds():
        for config in configs:
            files = _local_files(config)
            if files:
                tasks += _load_local(manager, config, suite, {split: read(file) for split, file in files.items()})
                continue
            if not tasks:
                closed = _hub_closed()  # asked once: the other tasks of a group come from the same place
            if closed:
                raise NotReachable(f"{_where(config)}; {closed}")
            tasks += _load_from_hub(manager, {**config, "num_fewshot": suite.num_fewshot})
    for task in tasks:  # once, and as they are now: the task's own property prepares them every time it is read
        task.task_docs = list(task.eval_docs)
    return tasks


# --- the definition -------------------------------------------------------------------------------------------


def _find(name: str) -> tuple[TaskManager, list[dict[str, Any]]]:
    """The library's own definitions behind a name.

    Indexing all of its fourteen thousand files takes many seconds, so folders whose name starts the task's are tried
    first, and a name that stands in no file is refused without.
    """
    import lm_eval.tasks
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    home = Path(str(lm_eval.tasks.__file__)).parent
    likely = [folder for folder in home.iterdir() if folder.is_dir() and name.startswith(folder.name)]
    for where in (likely, None):
        if where == []:
            continue
        if where is None:
            _refuse_unknown(name, home)
        manager = TaskManager(
            include_path=[str(folder) for folder in where] if where else None,
            include_defaults=where is None,
        )
        # the index leaves a task's functions as names; read its file once more with them
        files = [manager.task_index[leaf].yaml_path for leaf in _leaves(manager, name)]
        try:
            configs = [load_yaml(file, resolve_func=True) for file in files]
        except ImportError as error:
            raise UsageError(f"benchmark: {name!r} needs a package that is not installed: {error}") from error
        if configs:
            return manager, configs
    raise _nobody_has(name, manager.all_tasks)


def _refuse_unknown(name: str, home: Path) -> None:
    """Raises UsageError for a name that no task file holds, with the nearest of those they do."""
    files = (file for file in home.rglob("*") if file.suffix in ("", ".yaml", ".yml") and file.is_file())
    texts = [file.read_text(encoding="utf-8") for file in files]
    if not any(name in text for text in texts):
        raise _nobody_has(name, {task_name for text in texts for task_name in NAMED.findall(text)})


def _nobody_has(name: str, names: Iterable[str]) -> UsageError:
    return UsageError(
        f"benchmark: {name!r} is no task of lm-evaluation-harness{nearest(name, names)}; `lm-eval ls tasks` lists them"
    )


def _leaves(manager: TaskManager, name: str) -> list[str]:
    """The tasks behind the name of a task, a tag or a group, in order of name."""
    entry = manager.task_index.get(name)
    if entry is None:
        return []
    if entry.kind.name in ("TASK", "PY_TASK"):
        return [name]
    below = sorted(entry.tags) if entry.kind.name == "TAG" else (entry.cfg or {}).get("task", [])
    if any(not isinstance(child, str) for child in below):
        raise UsageError(f"benchmark: the group {name!r} rewrites its tasks; name the tasks one by one")
    return sorted({leaf for child in below for leaf in _leaves(manager, child)})


@contextmanager
def _library_seeds() -> Iterator[None]:
    """The library's own random seeds while tasks load, since some shuffle choices then. They are put back after."""
    import numpy as np
    from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED

    states = random.getstate(), np.random.get_state()
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


# --- the rows -------------------------------------------------------------------------------------------------


def _load_from_hub(manager: TaskManager, config: dict[str, Any]) -> list[Task]:
    try:
        return list(manager.load([config])["tasks"].values())
    except ImportError as error:
        raise UsageError(f"benchmark: {config['task']!r} needs a package that is not installed: {error}") from error
    except (OSError, ConnectionError, ValueError) as error:
        raise NotReachable(f"{_where(config)}; the hub did not answer: {first_line(error)[:200]}") from error


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


def _where(config: dict[str, Any]) -> str:
    folder = os.environ.get(FOLDER_VARIABLE)
    looked = f"no rows in the folder that {FOLDER_VARIABLE} names" if folder else f"{FOLDER_VARIABLE} is not set"
    return f"{config.get('dataset_path') or config['task']}: {looked}"


def _local_files(config: dict[str, Any]) -> dict[str, Path]:
    """Split -> its file in the local folder. None when the rows to be scored are not there."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder or not config.get("dataset_path"):
        return {}
    dataset = str(config["dataset_path"]).split("/")[-1]
    name, short = config.get("dataset_name"), dataset.replace("_qa", "qa")
    splits = {str(config[key]) for key in SPLITS if config.get(key)}
    scored = str(config.get("test_split") or config.get("validation_split"))
    for stem in [s for s in (name, dataset, short, name and f"{short}_{name}") if s]:
        files = {split: Path(folder) / f"{stem}_{split}.jsonl" for split in splits}
        present = {split: file for split, file in files.items() if file.is_file()}
        if scored in present:
            return present
    return {}


def _load_local(
    manager: TaskManager, config: dict[str, Any], suite: BenchmarkSuite, rows: Mapping[str, list[dict[str, Any]]]
) -> list[Task]:
    """The task over rows of the folder. Rows that name a `subject` are narrowed to the task's own.

    Raises NotReachable when the rows that examples come from are absent and the suite names no way out.
    """
    from datasets import Dataset
    from jinja2 import TemplateError

    name = config.get("dataset_name")
    rows_by_split = {split: [row for row in all_ if row.get("subject", name) == name] for split, all_ in rows.items()}
    datasets = {split: Dataset.from_list(split_rows) for split, split_rows in rows_by_split.items() if split_rows}
    shots, source = suite.num_fewshot, _source_of_shots(config)
    if shots and source and source not in datasets:
        if suite.num_fewshot_without_rows is None:
            raise NotReachable(f"{_where(config)} of the {source} split, which its {shots} examples come from")
        shots = suite.num_fewshot_without_rows
    absent = {key: None for key in SPLITS if config.get(key) and str(config[key]) not in datasets}
    changes = {
        "task": f"{config['task']}{LOCAL}",
        "dataset_kwargs": None,
        "custom_dataset": lambda **_: datasets,
        "num_fewshot": shots,
    }
    if callable(config.get("process_docs")):  # the library prepares the same rows again and again
        changes["process_docs"] = cache(config["process_docs"])
    try:
        return list(manager.load([{**config, **changes, **absent}])["tasks"].values())
    except ImportError as error:
        raise UsageError(f"benchmark: {config['task']!r} needs a package that is not installed: {error}") from error
    except (ValueError, KeyError, TypeError, IndexError, TemplateError) as error:
        raise UsageError(
            f"benchmark: the rows of {config['task']!r} in the folder that {FOLDER_VARIABLE} names do not fit the"
            f" task: {type(error).__name__}: {str(error)[:200]}"
        ) from error


def _source_of_shots(config: dict[str, Any]) -> str | None:
    """The split that examples are drawn from, or None when the task file brings its own."""
    settings = config.get("fewshot_config") or {}
    if settings.get("samples"):
        return None
    named = settings.get("split") or config.get("fewshot_split") or config.get("training_split")
    return str(named or config.get("validation_split") or config.get("test_split"))


def fingerprint() -> list[tuple[str, int]]:
    """Names and sizes of the files in the local folder: whether rows can be checked against them, and which."""
    folder = os.environ.get(FOLDER_VARIABLE)
    return sorted((f.name, f.stat().st_size) for f in Path(folder).glob("*.jsonl")) if folder else []


# --- the documents --------------------------------------------------------------------------------------------


def documents_of(task: Task) -> Sequence[Mapping[str, Any]]:
    """The documents to score, as `benchmark_tasks` read them."""
    documents: Sequence[Mapping[str, Any]] = task.task_docs
    return documents


def chosen_documents(tasks: Sequence[Task], limit: int | None) -> list[tuple[Task, int, str]]:
    """(task, index, 16-hex id) of the documents to score: all, or `limit` of them by content digest.

    A group's tasks are taken in turn, so that a small limit still reaches every subject. Where a row stands twice
    in a benchmark, its second place has an id of its own.
    """
    queues, places = [], Counter[str]()
    for task in tasks:
        named = []
        for index, document in enumerate(documents_of(task)):
            text = json.dumps(document, sort_keys=True, default=str)
            occurrence = [places[text]] if places[text] else []
            places[text] += 1
            named.append((digest("document", text, *occurrence)[:16], index))
        queues.append([(task, index, name) for name, index in sorted(named)])
    total = sum(map(len, queues))
    taken = [queue[i] for i in range(max(map(len, queues), default=0)) for queue in queues if i < len(queue)]
    return taken[: total if limit is None else limit]


def questions(tasks: Sequence[Task]) -> list[tuple[str, str]]:
    """(16-hex id, question as the task words it) of every document, so that no training row repeats one."""
    return [(name, _question(task, documents_of(task)[index])) for task, index, name in chosen_documents(tasks, None)]


def _question(task: Task, document: Mapping[str, Any]) -> str:
    text = task.doc_to_text(document)
    if isinstance(text, int):  # the choices stand in the question, and this is the number of the right one
        text = task.doc_to_choice(document)[text]
    return str(text or task.doc_to_target(document))  # a task that only measures a text asks nothing
