"""Run files, task files and suite files as typed models. Everything wrong is said at load, before anything is spent.

All paths in them are relative to the project: the folder that holds `runs/`.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from harness.config.arms import FILTERED, SEEDS_ONLY, ArmName, DataArm, Named, plain_arms
from harness.config.attributes import Attributes, conditions_problem
from harness.config.cluster import Cluster
from harness.config.methods import LEARNING_RATE, LearningRate, Lora, Method, filled_in
from harness.config.programs import Program
from harness.config.quotas import Quotas
from harness.config.steps import RESERVED, Step, chain_problem
from harness.config.task import FieldName, TaskFile, TaskPrompts
from harness.config.teacher import Name, Teacher
from harness.core.record import Record
from harness.data.columns import written_as
from harness.data.documents import Documents
from harness.data.examples import Examples
from harness.errors import UsageError, nearest
from harness.filters import AnyFilter, AnyPick
from harness.models.teachers import OWN_TEACHER
from harness.records import Example
from harness.suites.suite import Suite

Key = tuple[str | int, ...]  # where something stands in a file
RandomSeed = Annotated[int, Field(ge=0, lt=2**32)]  # what every library's generator takes


class Caps(Record):
    """What augment may spend in all its rounds. Reaching one ends the work as Ctrl-C does: everything is kept."""

    tokens: Annotated[int, Field(ge=1)] | None = None  # of prompts and completions, stored ones too
    seconds: Annotated[float, Field(gt=0)] | None = None  # of one command's engine work
    money: Annotated[float, Field(gt=0)] | None = None  # by the teacher's prices, stored calls too


class Augment(Record):
    """Where rows come from and which are kept."""

    seeds: Examples | None = None  # a handful of human-written examples; only own rows can do without
    shots_file: Examples | None = None  # examples that prompts show in place of the seeds, label by label
    rows: Annotated[int, Field(ge=1, le=10_000_000)] = 600  # kept rows wanted
    # label, or an attribute -> value -> kept rows of it at least; values that are not named share what is left
    quotas: Quotas = {}
    requests_per_row: Annotated[float, Field(ge=1, le=50)] = 1.5  # requests in the first round per row wanted
    max_requests_per_row: Annotated[float, Field(ge=1, le=100)] = 4.0  # requests at most per row wanted, all rounds
    caps: Annotated[Caps, Field(exclude=True)] = Caps()  # they decide no row that is made
    templates: tuple[Step, ...] = ()  # taken in turn: each makes a row in one call
    steps: tuple[Step, ...] = ()  # or one after the other: together they make a row
    # a field, or answer -> the step that wrote it, keys by dots, or several, of which the first that is not empty is
    # taken, or a template over steps and attributes; turns -> the steps that wrote earlier turns, the user's first
    row: dict[str, Name | tuple[Name, ...]] = {}
    attributes: Attributes = {}  # drawn or computed for each row, for the templates
    documents: Documents | None = None  # a piece of them for each row
    pool_every: Annotated[int, Field(ge=1)] | None = None  # rows begun, after which the kept ones may be shots
    rows_file: Examples | None = None  # rows you already have; with templates or steps a teacher writes the rest
    filters: tuple[AnyFilter, ...] = ()

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.templates and self.steps) or not (self.templates or self.steps or self.rows_file):
            raise ValueError(
                "give one of templates and steps (a teacher writes), or rows_file (you have rows), or both"
            )
        self._chains_fit()
        if self.seeds is None and self.needs_seeds:
            what = self.asking if not (self.steps or self.templates) else f"{self.asking} with shots"
            raise ValueError(f"seeds: this key is missing: {what} cannot do without human-written examples")
        if self.max_requests_per_row < self.requests_per_row:
            most, first = self.max_requests_per_row, self.requests_per_row
            raise ValueError(f"max_requests_per_row ({most:g}) is below requests_per_row ({first:g})")
        return self

    def _chains_fit(self) -> None:
        if not self.steps and self.row:
            raise ValueError("row: it says which of several steps writes what, and there are no steps")
        for name in self.attributes:
            if name in RESERVED:
                raise ValueError(f"attributes: {name!r} is what templates call something else: choose another name")
        if problem := conditions_problem(self.attributes) or chain_problem(self.steps, self.row, list(self.attributes)):
            raise ValueError(problem)
        if self.pool_every is None and any(step.pool_shots for step in (*self.steps, *self.templates)):
            raise ValueError("pool_every: this key is missing: pool_shots shows rows of a pool, which grows by it")

    def asked_in(self) -> list[tuple[tuple[str, int], Step]]:
        """Every step with its key in the run file, in the order in which they are asked."""
        named = [("templates", self.templates), ("steps", self.steps)]
        return [((name, i), step) for name, steps in named for i, step in enumerate(steps)]

    def teachers_asked(self) -> list[tuple[Key, str]]:
        """(key, teacher's name) of everything that asks one."""
        asked: list[tuple[Key, str]] = []
        for key, step in self.asked_in():
            asked += [((*key, "teacher"), name) for name in step.teachers]
            asked += _teachers_of(step.pick, (*key, "pick")) if step.pick else ()
        for i, filter_ in enumerate(self.filters):
            asked += _teachers_of(filter_, ("filters", i))
        return asked

    def row_makers(self) -> list[tuple[tuple[str, int], Step]]:
        """The steps whose completions are rows by themselves, with their keys."""
        if self.row:
            return []
        return [(key, step) for key, step in self.asked_in() if key[0] == "templates" or key[1] == len(self.steps) - 1]

    @property
    def teacher_writes(self) -> bool:
        """Whether a teacher makes rows."""
        return bool(self.templates or self.steps)

    @property
    def asking(self) -> str:
        """What of it asks the teacher, and first about the seeds, in words. Empty where nothing does."""
        judge = next((f"the filter {filter_.kind}" for filter_ in self.filters if filter_.needs.teachers), "")
        return "steps" if self.steps else "templates" if self.templates else judge

    @property
    def needs_seeds(self) -> bool:
        """Whether it cannot do without human-written examples: prompts show some, or a judge is measured on them."""
        shown = any(step.shots for step in (*self.steps, *self.templates))
        return shown or any(filter_.needs.teachers for filter_ in self.filters)


def _teachers_of(asking: AnyFilter | AnyPick, key: Key) -> list[tuple[Key, str]]:
    """(key, teacher's name) of what a filter, or a way to pick, asks."""
    named = [(field, getattr(asking, field)) for field in asking.needs.teachers]
    return [((*key, field), n) for field, value in named for n in ((value,) if isinstance(value, str) else value)]


def _each_once(record: Record, *names: str) -> None:
    """Raises ValueError for a list among these fields that names something twice."""
    for name in names:
        values = getattr(record, name)
        if len(set(values)) != len(values):
            raise ValueError(f"{name.removesuffix('_names')} {list(values)} repeats one")


class Validation(Record):
    """How often the loss of the dev items is measured while a cell is trained."""

    every: Annotated[int, Field(ge=1)]  # optimizer steps; it is measured after the last one too


class EarlyStopping(Record):
    """When a cell takes no more steps. It leaves with the weights of its lowest validation loss."""

    patience: Annotated[int, Field(ge=1)]  # validations without a lower loss


class Train(Record):
    """The grid: students x data x sizes x random seeds, and how each cell is tuned."""

    students: Annotated[tuple[str, ...], Field(min_length=1)]
    data: Annotated[tuple[DataArm, ...], Field(min_length=1)] = (Named(name=FILTERED), Named(name=SEEDS_ONLY))
    sizes: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    random_seeds: Annotated[tuple[RandomSeed, ...], Field(min_length=1)] = (0,)
    epochs: Annotated[int, Field(ge=1)] = 2
    min_steps: Annotated[int, Field(ge=1)] = 32  # so that a small size is not also an under-trained one
    steps: Annotated[int, Field(ge=1)] | None = None  # in place of both: optimizer steps of every cell, at any size
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 8  # rows of one optimizer step
    micro_batch_tokens: Annotated[int, Field(ge=64)] = 1024  # tokens of one forward pass; memory, not results
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 60.0  # between two checkpoints of the cells in work
    learning_rate: LearningRate = LEARNING_RATE  # the peak
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.1  # share of the steps
    max_length: Annotated[int, Field(ge=16)] = 512  # tokens of one row; a longer one is an error, never cut
    lora: Lora = Lora()
    methods: dict[FieldName, Method] = {}  # ways to tune, each in every cell; none: LoRA as `lora` says
    # transformers' names of what every step is reported to, beside log.jsonl; it decides nothing that is learned
    report_to: Annotated[tuple[Literal["tensorboard", "trackio", "wandb", "mlflow"], ...], Field(exclude=True)] = ()
    validation: Validation | None = None  # None: never
    early_stopping: EarlyStopping | None = None  # None: every cell takes all its steps

    @model_validator(mode="before")
    @classmethod
    def _filled_in(cls, written: Any) -> Any:
        if not isinstance(written, dict):
            return written
        left_out = [name for name in ("epochs", "min_steps") if written.get("steps") and written.get(name, 0) is None]
        filled = {name: value for name, value in written.items() if name not in left_out}
        if filled.get("methods", {}) is None:
            del filled["methods"]
        if "methods" in filled:
            lora, rate = filled.get("lora", {}), filled.get("learning_rate", LEARNING_RATE)
            filled["methods"] = filled_in(filled["methods"], lora, rate)
        return filled

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        other = sorted({"epochs", "min_steps"} & self.model_fields_set)
        if self.steps is not None and other:
            raise ValueError(
                f"steps: it is the number of steps of every cell, and {' and '.join(other)} would give another: take"
                f" one out (in a run that extends another: {other[0]}: null)"
            )
        return self

    @model_validator(mode="after")
    def _something_to_stop_by(self) -> Self:
        if self.early_stopping and not self.validation:
            raise ValueError("early_stopping: it goes by the validation loss: set validation too, such as {every: 8}")
        return self

    @property
    def by_method(self) -> dict[str, Method]:
        """Every method by the name that cells have for it, in the order of the file. The only one is called ''."""
        only = Method(learning_rate=self.learning_rate, lora=self.lora)
        return self.methods if len(self.methods) > 1 else {"": next(iter(self.methods.values()), only)}

    @property
    def budget(self) -> str:
        """How many steps a cell has, in words."""
        epochs = f"{self.epochs} epoch{'s' if self.epochs > 1 else ''}"
        steps = f"{self.steps} steps" if self.steps else f"{epochs} but at least {self.min_steps} steps"
        early = ""
        if self.early_stopping and self.validation:
            early = (
                f", or fewer: a cell stops when its validation loss, measured every {self.validation.every} steps, has"
                f" not fallen for {self.early_stopping.patience} of them, and has the weights of its lowest one"
            )
        return f"{steps} of {self.batch_size} rows{' at every size' if self.steps else ''}{early}"

    @model_validator(mode="after")
    def _growing(self) -> Self:
        if list(self.sizes) != sorted(set(self.sizes)):
            raise ValueError(f"sizes {list(self.sizes)} must grow, each once")
        _each_once(self, "students", "data_names", "random_seeds", "report_to")
        return self

    @property
    def data_names(self) -> list[str]:
        """The names of the data arms."""
        return [arm.name for arm in self.data]


class Eval(Record):
    """Which suites score which prompting."""

    suites: Annotated[tuple[str, ...], Field(min_length=1)]
    prompting: tuple[Literal["zero_shot", "few_shot", "retrieval"], ...] = ("zero_shot", "few_shot")
    # how tuned students are asked: with nothing but the question, and with the rows nearest to it, as retrieval shows
    tuned_prompting: Annotated[tuple[Literal["zero_shot", "retrieval"], ...], Field(min_length=1)] = ("zero_shot",)
    retrieved: Annotated[int, Field(ge=1, le=64)] = 4  # rows nearest in meaning that retrieval shows
    compare: tuple[str, ...] = ()  # other models, asked as an untuned one is: "teacher", or a model's name
    reference: Literal["tfidf_logistic_regression"] | None = "tfidf_logistic_regression"
    programs: dict[FieldName, Program] = {}  # of one's own, that answer the task's items: rules by hand, a classifier
    guided: bool = False  # JSON answers are written by the suite's schema, token by token, so that each is valid
    limit: Annotated[int, Field(ge=1)] | None = None  # items of a public benchmark at most, for a quick look
    batch_tokens: Annotated[int, Field(ge=64)] = 2048  # tree nodes of one forward pass; memory, not results
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _once(self) -> Self:
        _each_once(self, "suites", "prompting", "tuned_prompting", "compare")
        if "zero_shot" not in self.tuned_prompting:
            raise ValueError(
                f"tuned_prompting {list(self.tuned_prompting)} lacks zero_shot, which students are tuned for"
            )
        if "zero_shot" not in self.prompting:
            raise ValueError(f"prompting {list(self.prompting)} lacks zero_shot, which every comparison starts from")
        return self


class Report(Record):
    """What the report cannot know by itself."""

    price_per_hour: Annotated[float, Field(gt=0)] | None = None  # money, of the machine that scores: prices answers


class Ship(Record):
    """The student that `check` judges."""

    student: str
    data: ArmName = FILTERED
    size: Annotated[int, Field(ge=0)]
    method: str = ""  # of train.methods, where there are several
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
    teacher: Teacher | None = None  # who writes and judges where no other is named
    teachers: dict[FieldName, Teacher] = {}  # further ones, by the names that steps and judges have for them
    augment: Augment
    train: Train
    eval: Eval
    report: Report = Report()
    cluster: Cluster | None = None  # None, or one without an address: all on this machine
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
            own = any(name == OWN_TEACHER for _, name in self.augment.teachers_asked())
            needing = (own and self.augment.asking) or ("eval.compare" if "teacher" in self.eval.compare else "")
            if needing:
                raise ValueError(f"teacher: this key is missing, and {needing} needs one")
        if self.augment.seeds is None and Named(name=SEEDS_ONLY) in plain_arms(self.train.data):
            names = self.train.data_names
            raise ValueError(f"train.data {names}: {SEEDS_ONLY} needs augment.seeds, and there are none")
        return self

    @property
    def on_cluster(self) -> Cluster | None:
        """The cluster that the run works on, or None where it works on this machine."""
        return self.cluster if self.cluster and self.cluster.address else None

    @property
    def all_teachers(self) -> dict[str, Teacher]:
        """The run's own teacher, where it has one, and the further ones, by name."""
        return {**({OWN_TEACHER: self.teacher} if self.teacher else {}), **self.teachers}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.ship and self.ship.student not in self.train.students:
            students = self.train.students
            raise ValueError(
                f"ship.student {self.ship.student!r} is not in train.students{nearest(self.ship.student, students)}"
            )
        names = self.train.data_names
        if self.ship and self.ship.size and self.ship.data not in names:
            hint = nearest(self.ship.data, names)
            raise ValueError(f"ship.data {self.ship.data!r} is not one of train.data {names}{hint}")
        if self.ship and self.ship.size not in self.train.sizes and self.ship.data != SEEDS_ONLY:
            raise ValueError(f"ship.size {self.ship.size} is not one of train.sizes {list(self.train.sizes)}")
        names = list(self.train.methods)
        chosen = self.ship.method if self.ship else ""
        if self.ship and chosen not in names and (chosen or (len(names) > 1 and self.ship.size)):
            raise ValueError(f"ship.method {chosen!r} is not one of train.methods {names}{nearest(chosen, names)}")
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
    prompts: TaskPrompts
    shots: tuple[Example, ...] = ()  # of augment.shots_file
    settings: tuple[str, ...] = ()  # KEY=VALUE, that were laid over the file

    @property
    def folder(self) -> Path:
        """Where this run's results land."""
        return self.root / "runs" / self.name

    def command(self, target: str) -> str:
        """What people type to have a stage of this run made, with the settings of this command."""
        settings = " ".join(f"--set {shlex.quote(setting)}" for setting in self.settings)
        return f"make {target} RUN={self.name}" + (f' ARGS="{settings}"' if settings else "")

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
