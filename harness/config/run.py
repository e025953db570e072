"""Run files, task files and suite files as typed models; everything wrong is said at load, before anything is spent.

All paths in them are relative to the project: the folder that holds `runs/`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from harness.config.null_run import shuffle_labels
from harness.config.task import TaskFile
from harness.config.teacher import Name, ScriptedTeacher, Teacher
from harness.core import templates, yaml_file
from harness.core.project_file import project_file
from harness.core.record import Record
from harness.core.templates import Template
from harness.data.columns import written_as
from harness.data.examples import Examples, local_path, read_seeds
from harness.errors import Mistakes, UsageError, nearest
from harness.filters import AnyFilter, Judge, PythonFilter
from harness.filters.base import PARTS
from harness.records import Example, Sampling
from harness.suites.suite import Suite, load_suite

RandomSeed = Annotated[int, Field(ge=0, lt=2**32)]  # what every library's generator takes


class TemplateUse(Record):
    """One teacher template and how its completions are sampled and read."""

    path: Name
    form: Literal["completion", "chat"] = "completion"  # a plain prompt to continue, or one user turn
    # the new text itself, an object of the task's fields and the answer, or {"messages": [...]}
    output: Literal["text", "json", "messages"] = "text"
    shots: Annotated[int, Field(ge=0, le=64)] = 4  # seeds of the label shown in the prompt
    sampling: Sampling


class Augment(Record):
    """Where rows come from and which are kept."""

    seeds: Examples | None = None  # a handful of human-written examples; only own rows can do without
    rows: Annotated[int, Field(ge=1, le=10_000_000)] = 600  # kept rows wanted
    requests_per_row: Annotated[float, Field(ge=1, le=50)] = 1.5  # requests in the first round per row wanted
    max_requests_per_row: Annotated[float, Field(ge=1, le=100)] = 4.0  # requests at most per row wanted, all rounds
    templates: tuple[TemplateUse, ...] = ()
    rows_file: Examples | None = None  # rows you already have; no teacher is asked to write
    filters: tuple[AnyFilter, ...] = ()

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.templates) == bool(self.rows_file):
            raise ValueError("give either templates (a teacher writes) or rows_file (you have rows)")
        needing = "templates" if self.templates else "the filter judge" if any(map(_judges, self.filters)) else ""
        if self.seeds is None and needing:
            raise ValueError(f"seeds: this key is missing: {needing} cannot do without human-written examples")
        if self.max_requests_per_row < self.requests_per_row:
            most, first = self.max_requests_per_row, self.requests_per_row
            raise ValueError(f"max_requests_per_row ({most:g}) is below requests_per_row ({first:g})")
        return self


def _judges(filter_: AnyFilter) -> bool:
    return isinstance(filter_, Judge)


def _each_once(record: Record, *names: str) -> None:
    """Raises ValueError for a list among these fields that names something twice."""
    for name in names:
        values = getattr(record, name)
        if len(set(values)) != len(values):
            raise ValueError(f"{name} {list(values)} repeats one")


class Lora(Record):
    """LoRA settings, named as PEFT names them."""

    r: Annotated[int, Field(ge=1, le=1024)] = 16
    lora_alpha: Annotated[int, Field(ge=1)] = 32
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"

    @model_validator(mode="after")
    def _pattern(self) -> Self:
        if isinstance(self.target_modules, str):
            try:
                re.compile(self.target_modules)
            except re.error as error:
                raise ValueError(f"target_modules {self.target_modules!r} is no regular expression: {error}") from error
        return self


class Train(Record):
    """The grid: students x data x sizes x random seeds, and how each cell is tuned."""

    students: Annotated[tuple[str, ...], Field(min_length=1)]
    data: tuple[Literal["filtered", "unfiltered", "seeds_only"], ...] = ("filtered", "seeds_only")
    sizes: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    random_seeds: Annotated[tuple[RandomSeed, ...], Field(min_length=1)] = (0,)
    epochs: Annotated[int, Field(ge=1)] = 2
    min_steps: Annotated[int, Field(ge=1)] = 32  # so that a small size is not also an under-trained one
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 8  # rows of one optimizer step
    micro_batch_tokens: Annotated[int, Field(ge=64)] = 1024  # tokens of one forward pass; memory, not results
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.1  # share of the steps
    max_length: Annotated[int, Field(ge=16)] = 512  # tokens of one row; a longer one is an error, never cut
    lora: Lora = Lora()

    @model_validator(mode="after")
    def _growing(self) -> Self:
        if list(self.sizes) != sorted(set(self.sizes)):
            raise ValueError(f"sizes {list(self.sizes)} must grow, each once")
        _each_once(self, "students", "data", "random_seeds")
        return self


class Eval(Record):
    """Which suites score which prompting."""

    suites: Annotated[tuple[str, ...], Field(min_length=1)]
    prompting: tuple[Literal["zero_shot", "few_shot", "retrieval"], ...] = ("zero_shot", "few_shot")
    retrieved: Annotated[int, Field(ge=1, le=64)] = 4  # rows nearest in meaning that retrieval shows
    compare: tuple[str, ...] = ()  # other models, asked as an untuned one is: "teacher", or a model's name
    reference: Literal["tfidf_logistic_regression"] | None = "tfidf_logistic_regression"
    limit: Annotated[int, Field(ge=1)] | None = None  # items of a public benchmark at most, for a quick look
    batch_tokens: Annotated[int, Field(ge=64)] = 2048  # tree nodes of one forward pass; memory, not results
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _once(self) -> Self:
        _each_once(self, "suites", "prompting", "compare")
        if "zero_shot" not in self.prompting:
            raise ValueError(f"prompting {list(self.prompting)} lacks zero_shot, which every comparison starts from")
        return self


class Ship(Record):
    """The student that `check` judges."""

    student: str
    data: Literal["filtered", "unfiltered", "seeds_only"] = "filtered"
    size: Annotated[int, Field(ge=0)]
    random_seed: int = 0
    question: Literal["weights", "recipe"] = "weights"  # is it about this student, or about training it again?


TaskSource = Annotated[  # a task file, or the task itself, written in the run file
    Annotated[Name, Tag("file")] | Annotated[TaskFile, Tag("mapping")], Discriminator(written_as)
]


class RunFile(Record):
    """One experiment, as a person writes it in runs/NAME.yaml.

    Without augment.seeds, train.data is [filtered] unless stated.
    """

    random_seed: RandomSeed = 0
    task: TaskSource
    shuffle_labels: bool = False  # the null run: seeds and items get labels at random; nothing may be found
    teacher: Teacher | None = None  # only where nobody writes or judges
    augment: Augment
    train: Train
    eval: Eval
    ship: Ship | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_seeds(cls, written: Any) -> Any:
        augment, train = (written.get(key) for key in ("augment", "train")) if isinstance(written, dict) else ("", "")
        if isinstance(augment, dict) and isinstance(train, dict) and "data" not in train and not augment.get("seeds"):
            return written | {"train": {"data": ["filtered"], **train}}
        return written

    @model_validator(mode="after")
    def _somebody_writes(self) -> Self:
        if self.teacher is None:
            judge = any(map(_judges, self.augment.filters))
            needing = "augment.templates" if self.augment.templates else "the filter judge" if judge else ""
            needing = needing or ("eval.compare" if "teacher" in self.eval.compare else "")
            if needing:
                raise ValueError(f"teacher: this key is missing, and {needing} needs one")
        if self.augment.seeds is None and "seeds_only" in self.train.data:
            raise ValueError(f"train.data {list(self.train.data)}: seeds_only needs augment.seeds, and there are none")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.ship and self.ship.student not in self.train.students:
            known = self.train.students
            raise ValueError(
                f"ship.student {self.ship.student!r} is not in train.students{nearest(self.ship.student, known)}"
            )
        if self.ship and self.ship.size and self.ship.data not in self.train.data:
            raise ValueError(f"ship.data {self.ship.data!r} is not one of train.data {list(self.train.data)}")
        if self.ship and self.ship.size not in self.train.sizes and self.ship.data != "seeds_only":
            raise ValueError(f"ship.size {self.ship.size} is not one of train.sizes {list(self.train.sizes)}")
        if self.ship and self.ship.random_seed not in self.train.random_seeds:
            raise ValueError(f"ship.random_seed {self.ship.random_seed} is not in {list(self.train.random_seeds)}")
        return self


@dataclass(frozen=True)
class Run:
    """A loaded run: its name, where things are, and every file it names, read and checked."""

    name: str
    root: Path
    file: RunFile
    task: TaskFile
    seeds: tuple[Example, ...]
    suites: dict[str, Suite]

    @property
    def folder(self) -> Path:
        """Where this run's results land."""
        return self.root / "runs" / self.name

    @property
    def teacher(self) -> Teacher:
        """Who writes and judges. Raises UsageError where the run names nobody."""
        if self.file.teacher is None:
            raise UsageError(f"runs/{self.name}.yaml: teacher: this key is missing, and a teacher is needed here")
        return self.file.teacher

    @property
    def cache(self) -> Path:
        """What runs share: teacher calls, converted models, trained cells, scores."""
        return self.root / "runs" / ".cache"


def load_run(path: Path, settings: list[str] | None = None) -> Run:
    """Load `runs/NAME.yaml` and all it names. Raises UsageError naming file, line, key, value, what is allowed."""
    path = path if path.suffix else path.with_suffix(".yaml")
    document = _with_parents(path, ())
    document = yaml_file.override(document, settings or [])
    run_file = yaml_file.parse(RunFile, document, "a run file")
    # of the name that was given: a run file that is a link belongs to the project where the link lies
    root = Path(os.path.normpath(path.absolute())).parent.parent

    def at(*key: str | int) -> str:
        return f"{document.place(key)}: {'.'.join(map(str, key))}"

    task = _task(run_file.task, root, at("task"))
    mistakes = Mistakes()
    for key, named in _files_of(run_file):
        with mistakes.noted():
            project_file(root, named, at(*key))
    seeds: tuple[Example, ...] = ()
    if run_file.augment.seeds:
        with mistakes.noted():
            seeds = read_seeds(run_file.augment.seeds, root, task.shape, at("augment", "seeds"))
    suites: dict[str, Suite] = {}
    for i, name in enumerate(run_file.eval.suites):
        with mistakes.noted():
            suites[name] = _suite(name, root, at("eval", "suites", i), task, run_file)
    mistakes.check()
    if task.free:
        _free_answers_fit(run_file, at)
    _fields_fit(run_file, task, at)
    _templates_render(run_file, task, seeds, root)
    if seeds:
        _labels_have_seeds(suites, seeds)
    _sizes_fit(run_file, at("train", "sizes"))
    if run_file.shuffle_labels:
        seeds, suites = shuffle_labels(seeds, suites, run_file.random_seed)
    return Run(path.stem, root, run_file, task, seeds, suites)


def _files_of(run_file: RunFile) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """(key, path) of the files that a run file names and that are read later than it is."""
    augment = run_file.augment
    for i, template in enumerate(augment.templates):
        yield ("augment", "templates", i, "path"), template.path
    if augment.rows_file and (path := local_path(augment.rows_file)):
        yield ("augment", "rows_file"), path
    if isinstance(run_file.teacher, ScriptedTeacher):
        yield ("teacher", "script"), run_file.teacher.script
    for i, filter_ in enumerate(augment.filters):
        if isinstance(filter_, Judge):
            yield ("augment", "filters", i, "template"), filter_.template
        if isinstance(filter_, PythonFilter):
            yield ("augment", "filters", i, "file"), filter_.file


def _suite(name: str, root: Path, place: str, task: TaskFile, run_file: RunFile) -> Suite:
    """One suite of a run. Raises UsageError for one that is not there, and for a rubric that nobody can judge by."""
    known = sorted(path.stem for path in (root / "suites").glob("*.yaml"))
    if name not in known:
        raise UsageError(f"{place}: there is no suite {name!r}{nearest(name, known)}; there are: {', '.join(known)}")
    path = project_file(root, f"suites/{name}.yaml", place)
    suite = load_suite(path, root, tuple(task.labels), run_file.eval.limit, task.shape)
    if run_file.teacher is None and suite.rubric and not suite.rubric.judge:
        raise UsageError(f"{path}: answer.judge: the run has no teacher to judge the answers: name a model here")
    return suite


def load_suites(root: Path) -> dict[str, Suite]:
    """Every suite file of a project, by name; labels suites with the labels their own items have."""
    found: dict[str, Suite] = {}
    for path in sorted((root / "suites").glob("*.yaml")):
        found[path.stem] = load_suite(path, root, None)
    return found


def _with_parents(path: Path, seen: tuple[Path, ...]) -> yaml_file.Document:
    """A run file laid on the one it `extends`, and so on up."""
    document = yaml_file.load(path)
    if isinstance(document.data, dict) and "extends" in document.data:
        place, name = document.place(("extends",)), document.data.pop("extends")
        beside = {p.name: p for p in path.parent.glob("*.yaml")}
        if not isinstance(name, str) or name not in beside:
            hint = nearest(str(name), beside)
            raise UsageError(f"{place}: extends: there is no run file {name!r} beside this one{hint}")
        if beside[name] in (*seen, path):
            raise UsageError(f"{place}: extends: {name} extends itself")
        document = yaml_file.merge(_with_parents(beside[name], (*seen, path)), document)
    return document


def _task(task: str | TaskFile, root: Path, place: str) -> TaskFile:
    """The task of a run, and the templates it names are there. Raises UsageError."""
    document = None
    if not isinstance(task, TaskFile):
        document = yaml_file.load(project_file(root, task, place))
        task = yaml_file.parse(TaskFile, document, "a task file")
    for key, value in (("prompt", task.prompt), ("untuned_prompt", task.untuned_prompt)):
        if value:
            project_file(root, value, f"{document.place((key,))}: {key}" if document else f"{place}.{key}")
    return task


def _fields_fit(run_file: RunFile, task: TaskFile, at: Callable[..., str]) -> None:
    """Filters look at parts that the task's examples have, and a plain text fills one field. Raises UsageError."""
    allowed = (*PARTS, *task.fields)
    for i, filter_ in enumerate(run_file.augment.filters):
        on = getattr(filter_, "on", "input")
        if on not in allowed:
            place = at("augment", "filters", i, "on")
            raise UsageError(f"{place}: {on!r}{nearest(on, allowed)}; allowed: {', '.join(allowed)}")
    for i, use in enumerate(run_file.augment.templates):
        if use.output == "text" and len(task.fields) > 1:
            raise UsageError(
                f"{at('augment', 'templates', i, 'output')}: 'text': the task has the fields {', '.join(task.fields)},"
                " which a plain text cannot tell apart: write output: json"
            )


def _free_answers_fit(run_file: RunFile, at: Callable[..., str]) -> None:
    """What needs labels is refused where the task has none."""
    for i, use in enumerate(run_file.augment.templates):
        if use.output == "text":
            raise UsageError(
                f"{at('augment', 'templates', i, 'output')}: {use.output!r}: the task has no labels, so a template must"
                " give both the text and its answer: write output: json"
            )
    for i, filter_ in enumerate(run_file.augment.filters):
        if isinstance(filter_, Judge) and filter_.choices == "labels":
            raise UsageError(
                f"{at('augment', 'filters', i, 'choices')}: 'labels': the task has no labels; give the judge words to"
                " pick from, such as choices: [yes, no] and accept: yes"
            )


def _templates_render(run_file: RunFile, task: TaskFile, seeds: tuple[Example, ...], root: Path) -> None:
    """Render every template once, so that a mistake in one is found before anything is spent."""
    made_up = {name: f"a {name}" for name in task.fields}
    seed = seeds[0] if seeds else Example(fields=made_up, answer=next(iter(task.labels), "an answer"))
    label = "" if task.free else seed.answer  # a teacher is not told an answer, and so writes its own
    shots = [shot.shown for shot in seeds]
    shared = {"label": label, "description": task.labels.get(label, ""), "labels": task.labels}
    untuned = {"labels": task.labels, "shots": shots[:2], "system": task.system, "turns": []}
    for template, more in ((task.student_template(root), {}), (task.untuned_template(root), untuned)):
        for name in task.fields:
            _uses(template, name, seed, more)
    for use in run_file.augment.templates:
        templates.load(root / use.path).render(**shared, shots=shots[: use.shots], index=0)
    for judge in (f for f in run_file.augment.filters if isinstance(f, Judge)):
        examples = [{**shot, "wrong": seed.answer} for shot in shots[: judge.shots]]
        templates.load(root / judge.template).render(**(shared | seed.shown), shots=examples)


def _uses(template: Template, name: str, seed: Example, more: Mapping[str, Any]) -> None:
    """Raises UsageError for a template whose prompt does not depend on a field of the task."""
    prompts = [
        template.render(**Example(fields=fields).input, **more)
        for fields in (seed.fields, seed.fields | {name: f"{seed.fields[name]} ..."})
    ]
    if prompts[0] == prompts[1]:
        raise UsageError(f"{template.path}: two texts give one prompt: the template must use {{{{ {name} }}}}")


def _labels_have_seeds(suites: dict[str, Suite], seeds: tuple[Example, ...]) -> None:
    known = {seed.answer for seed in seeds}
    for name, suite in suites.items():
        for label in suite.labels:
            if label not in known:
                raise UsageError(
                    f"suites/{name}.yaml: the label {label!r} of its items is in no seed{nearest(label, known)};"
                    f" seeds have: {', '.join(sorted(known))}"
                )


def _sizes_fit(run_file: RunFile, place: str) -> None:
    largest, rows = max(run_file.train.sizes), run_file.augment.rows
    if largest > rows and not run_file.augment.rows_file:
        raise UsageError(f"{place}: {largest} is larger than augment.rows ({rows}): there would be no such rows")
