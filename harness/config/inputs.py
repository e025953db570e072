"""What a person wrote that decides rows, students and scores: one digest for each question.

Everything in a run file and its task file counts, apart from the fields that are named here, so that a field added
later counts from the day somebody uses it. A field at its default is left out, so that adding one changes no digest.
A field that was renamed keeps its first name (`FIRST_NAMES`).
A file counts by its content, not by its path.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from harness.config.arms import Replay
from harness.config.run import Run
from harness.core.record import digest, first_name
from harness.core.store import content_digest
from harness.data.documents import folder_digest
from harness.filters import AnyFilter
from harness.suites.suite import Suite

# how a teacher is reached and what it costs: the same model writes the same rows
REACHED = {
    "engine", "base_url", "api_key_env", "concurrency", "max_model_len", "gpu_memory_utilization",
    "tensor_parallel_size", "prompt_price", "completion_price",
}  # fmt: skip
UNTUNED = {"untuned_prompt", "untuned_form"}  # how a model that no row has touched is asked
GRID = {"students", "data", "sizes", "random_seeds", "micro_batch_tokens"}  # which cells there are, and memory
# which cards there are, and memory
CARDS = {
    "suites", "prompting", "tuned_prompting", "compare", "reference", "programs", "limit", "batch_tokens", "device",
}  # fmt: skip


def rows_source(run: Run) -> str:
    """What made these rows? 64 hex digits over all that a person wrote of it, but for the suites (`guarded_suites`)."""
    file, root = run.file, run.root
    documents = file.augment.documents
    of_folder = folder_digest(documents, root) if documents else ""  # `identity` knows the content of files only
    return digest(
        "rows",
        [file.random_seed, file.shuffle_labels],
        identity(file.teacher, root, REACHED),
        *([[[name, identity(one, root, REACHED)] for name, one in file.teachers.items()]] if file.teachers else []),
        identity(file.augment, root),
        identity(run.task, root, UNTUNED),
        run.prompts.student.digest,  # a built-in one, too
        *([of_folder] if of_folder else []),
    )


def guarded_suites(filters: Sequence[AnyFilter], suites: Mapping[str, Suite]) -> dict[str, str]:
    """The suites that rows are checked against, each with a digest of its texts. Empty without such a filter.

    The digest of a public benchmark is empty where its rows are not at hand.
    """
    if not any(filter_.needs.suites for filter_ in filters):
        return {}
    return {name: suite.spec.extras.texts_digest(suite.items) for name, suite in suites.items()}


def still_guarded(now: Mapping[str, str], before: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """(suite -> digest, benchmarks whose rows are gone). Such a benchmark keeps its digest from `before`.

    `now` is what `guarded_suites` gives at present, `before` what it gave when the rows were checked.

    Rows that cannot be checked once more are no reason to make them again.
    """
    gone = [name for name, text_digest in now.items() if not text_digest and before.get(name)]
    return {**now, **{name: before[name] for name in gone}}, gone


def unguarded_suites(filters: Sequence[AnyFilter], suites: Mapping[str, Suite], before: Mapping[str, str]) -> list[str]:
    """Suites that are new or changed since the rows were checked (`before`).

    A benchmark that they were checked against counts whatever rows of it are at hand now.
    """
    unreadable = {name for name, suite in suites.items() if not suite.items and before.get(name)}
    return [
        name
        for name, text_digest in guarded_suites(filters, suites).items()
        if text_digest not in ("", before.get(name)) and name not in unreadable
    ]


def students_source(run: Run) -> str:
    """How did these students come about? 64 hex digits: the rows, and how students are tuned on them."""
    # an arm's name says all of it, but for what is in the file of a replay
    general = [[arm.name, identity(arm.rows, run.root)] for arm in run.file.train.data if isinstance(arm, Replay)]
    also = [general] if general else []
    # a validation only watches, but where it decides when a cell stops
    watching = set() if run.file.train.early_stopping else {"validation"}
    return digest("students", rows_source(run), identity(run.file.train, run.root, GRID | watching), *also)


def scores_source(run: Run) -> str:
    """How were these scores made? 64 hex digits: the students, and how models are asked. Suites have their own."""
    untuned = [run.prompts.untuned.digest, run.task.untuned_form]
    return digest("scores", students_source(run), untuned, identity(run.file.eval, run.root, CARDS))


def suite_source(suite: Suite, root: Path) -> str:
    """What was scored? 64 hex digits over a suite's rules, items, and the files that its rules name."""
    files = named_files(suite.spec, root, {"items", "documents"})
    return digest("asked", suite.digest, {name: content_digest(path) for name, path in files})


def identity(value: Any, root: Path, without: Collection[str] = ()) -> Any:
    """A typed file, or a part of it, as plain data: defaults left out, a file's content in place of its path.

    `without`: fields of the outermost model that do not count.
    """
    if isinstance(value, BaseModel):
        return {
            first_name(type(value), name): identity(content, root)
            for name, content, default in _fields(value)
            if name not in without and (name == "kind" or content != default)
        }
    if isinstance(value, Mapping):  # in its order: rows are asked for label by label
        return [[str(key), identity(content, root)] for key, content in value.items()]
    if isinstance(value, tuple | list):
        return [identity(content, root) for content in value]
    return content_digest(root / value) if isinstance(value, str) and is_file(value, root) else value


def named_files(value: Any, root: Path, without: Collection[str] = (), name: str = "") -> Iterator[tuple[str, Path]]:
    """(dotted place, path) of every file that a typed file names, however deep."""
    if isinstance(value, BaseModel):
        for field, content, _ in _fields(value):
            if field not in without:
                yield from named_files(content, root, (), f"{name}.{field}".lstrip("."))
    elif isinstance(value, Mapping):
        for key, content in value.items():
            yield from named_files(content, root, (), f"{name}.{key}")
    elif isinstance(value, tuple | list):
        for place, content in enumerate(value):
            yield from named_files(content, root, (), f"{name}.{place}")
    elif isinstance(value, str) and is_file(value, root):
        yield name, root / value


def is_file(value: str, root: Path) -> bool:
    """Whether a text is the path of a file in the project."""
    try:
        return value != "" and (root / value).is_file()
    except OSError:  # longer than any path
        return False


def _fields(model: BaseModel) -> Iterator[tuple[str, Any, Any]]:
    """(name, value, default) of every field, but for those that no digest has (`exclude`)."""
    for name, info in type(model).model_fields.items():
        if not info.exclude:
            yield name, getattr(model, name), info.get_default(call_default_factory=True)
