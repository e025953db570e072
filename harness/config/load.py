"""Loading of a run file and of all the files it names. Every mistake is found here, before anything is spent."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.config.arms import Replay, Sources, arm_problem
from harness.config.attributes import computed, draw_attributes
from harness.config.guided import require_guide
from harness.config.null_run import shuffle_labels
from harness.config.quotas import most_kept, quota_problems
from harness.config.run import Augment, Run, RunFile
from harness.config.steps import DOCUMENT, Step, is_template, row_problem, row_template, stand_in
from harness.config.task import TaskFile, TaskPrompts, require_used
from harness.config.teacher import ScriptedTeacher, VLLMTeacher, price_of
from harness.core import templates, yaml_file
from harness.core.project_file import project_file
from harness.core.templates import Template
from harness.data.documents import Piece, document_files
from harness.data.examples import Shape, local_path, read_examples, read_seeds
from harness.engines.scripted import read_script
from harness.errors import Mistakes, UsageError, nearest
from harness.filters import Score, Support, judges_of
from harness.filters.base import PARTS
from harness.filters.pick import PickByJudge
from harness.models.teachers import OWN_TEACHER
from harness.records import Example
from harness.suites.kinds import load_suite
from harness.suites.suite import Suite


def load_named_run(name: str, settings: list[str] | None, elsewhere: Callable[[Path], None]) -> Run:
    """The run that a command names, as `run_path` says.

    `elsewhere` is told of a project in another folder than this one. Raises as `run_path` and `load_run`.
    """
    path = run_path(name)
    if (folder := path.resolve().parent.parent) != Path.cwd().resolve():
        elsewhere(folder)
    return load_run(path, settings)


def run_path(name: str) -> Path:
    """The file of the run that a person names: NAME, of runs/NAME.yaml here, or a path that ends with .yaml.

    Raises UsageError for no name, for the name of a file in runs/, and for a link that leads to itself.
    """
    if not name.strip():
        raise UsageError("RUN is empty: it is the name of a run file, runs/RUN.yaml")
    path = Path(name) if name.endswith(".yaml") else Path("runs") / f"{name}.yaml"
    if name.endswith(".yaml") and not path.is_file() and (Path("runs") / name).is_file():
        raise UsageError(f"there is no file {name} here; did you mean the run {name.removesuffix('.yaml')!r}?")
    try:
        path.resolve()
    except (OSError, RuntimeError) as error:
        raise UsageError(f"{path}: cannot read it: {error}") from error
    return path


def load_run(path: Path, settings: list[str] | None = None) -> Run:
    """Load `runs/NAME.yaml` and all it names. Raises UsageError naming file, line, key, value, what is allowed."""
    path = path if path.suffix else path.with_suffix(".yaml")
    root = _project(path)
    document, run_file, task = _run_and_task(path, settings or [])

    def at(*key: str | int) -> str:
        return f"{document.place(key)}: {'.'.join(map(str, key))}"

    mistakes = Mistakes()
    for key, named in _files_of(run_file):
        with mistakes.noted():
            project_file(root, named, at(*key))
    for key, named in _documents_of(run_file):
        with mistakes.noted():
            document_files(named, root, at(*key))
    seeds: tuple[Example, ...] = ()
    if run_file.augment.seeds:
        with mistakes.noted():
            seeds = read_seeds(run_file.augment.seeds, root, task.shape, at("augment", "seeds"))
    shots: tuple[Example, ...] = ()
    if run_file.augment.shots_file:
        with mistakes.noted():
            shots = read_examples(run_file.augment.shots_file, root, task.shape, at("augment", "shots_file")).examples
    for teacher in run_file.all_teachers.values():
        if isinstance(teacher, ScriptedTeacher) and (root / teacher.script).is_file():
            with mistakes.noted():
                read_script(root / teacher.script)
    suites: dict[str, Suite] = {}
    for i, name in enumerate(run_file.eval.suites):
        with mistakes.noted():
            suites[name] = _suite(name, root, at("eval", "suites", i), task, run_file)
    mistakes.check()
    if task.free:
        _free_answers_fit(run_file, at)
    _fields_fit(run_file, task, at)
    _attributes_fit(run_file, at)
    _teachers_fit(run_file, at)
    _quotas_fit(run_file.augment, task, at)
    prompts = task.prompts(root)
    _templates_render(run_file, task, prompts, seeds, root, at("augment"))
    if seeds:
        _labels_have_seeds(suites, seeds)
    _sizes_fit(run_file, at("train", "sizes"))
    _arms_fit(run_file, at)
    if run_file.eval.guided:
        require_guide(suites.values(), at("eval", "guided"))
    if run_file.train.validation and not any(suite.answered_dev_items for suite in suites.values()):
        own = ", ".join(name for name, suite in suites.items() if suite.of_task) or "none"
        raise UsageError(
            f"{at('train', 'validation')}: no dev item with a gold answer in the task's own suites of eval.suites"
            f" ({own})"
        )
    if run_file.shuffle_labels:
        seeds, suites = shuffle_labels(seeds, suites, run_file.random_seed)
    return Run(path.stem, root, run_file, task, seeds, suites, prompts, shots, tuple(settings or ()))


def _files_of(run_file: RunFile) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """(key, path) of the files that a run file names and that are read later than it is."""
    augment = run_file.augment
    for key, step in augment.asked_in():
        yield ("augment", *key, "path"), step.path
        for i, filter_ in enumerate(step.filters):
            for name in filter_.needs.files:
                yield ("augment", *key, "filters", i, name), getattr(filter_, name)
        for name in step.pick.needs.files if step.pick else ():
            yield ("augment", *key, "pick", name), getattr(step.pick, name)
    if augment.rows_file and (path := local_path(augment.rows_file)):
        yield ("augment", "rows_file"), path
    for i, arm in enumerate(run_file.train.data):
        if isinstance(arm, Replay) and (path := local_path(arm.rows)):
            yield ("train", "data", i, "rows"), path
    teachers = [
        (("teacher",), run_file.teacher),
        *((("teachers", name), one) for name, one in run_file.teachers.items()),
    ]
    for place, teacher in teachers:
        if isinstance(teacher, ScriptedTeacher):
            yield (*place, "script"), teacher.script
    for i, filter_ in enumerate(augment.filters):
        for name in filter_.needs.files:
            yield ("augment", "filters", i, name), getattr(filter_, name)
    for name, program in run_file.eval.programs.items():
        yield ("eval", "programs", name, "file"), program.file


def _documents_of(run_file: RunFile) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """(key, path) of the documents that a run file names, each a file or a folder."""
    if documents := run_file.augment.documents:
        yield ("augment", "documents", "path"), documents.path
    for name, method in run_file.train.methods.items():
        if method.pretrain:
            yield ("train", "methods", name, "pretrain", "documents", "path"), method.pretrain.documents.path


def _suite(name: str, root: Path, place: str, task: TaskFile, run_file: RunFile) -> Suite:
    """One suite of a run. Raises UsageError for one that is not there, and for a rubric that nobody can judge by."""
    suite_names = sorted(path.stem for path in (root / "suites").glob("*.yaml"))
    if name not in suite_names:
        raise UsageError(
            f"{place}: there is no suite {name!r}{nearest(name, suite_names)}; there are: {', '.join(suite_names)}"
        )
    path = project_file(root, f"suites/{name}.yaml", place)
    suite = load_suite(path, root, task.shape, run_file.eval.limit)
    if run_file.teacher is None and suite.rubric and not suite.rubric.judge:
        raise UsageError(f"{path}: answer.judge: the run has no teacher to judge the answers: name a model here")
    return suite


def load_suites(root: Path) -> dict[str, Suite]:
    """Every suite file of a project, by name, each read by the shape of the task of the first run that scores it.

    A suite that no run scores has items of single texts, and the labels that stand in them.
    """
    shapes: dict[str, Shape] = {}
    for path in sorted((root / "runs").glob("*.yaml")):
        with suppress(UsageError):  # a run file says what is wrong with it when it is loaded
            _, run_file, task = _run_and_task(path, [])
            shapes |= {name: task.shape for name in run_file.eval.suites if name not in shapes}
    return {
        path.stem: load_suite(path, root, shapes.get(path.stem)) for path in sorted((root / "suites").glob("*.yaml"))
    }


def _run_and_task(path: Path, settings: list[str]) -> tuple[yaml_file.Document, RunFile, TaskFile]:
    """A run file laid on those it extends, as it is written and typed, and its task. Raises UsageError."""
    document = yaml_file.override(_with_parents(path, ()), settings)
    run_file = yaml_file.parse(RunFile, document, "a run file")
    return document, run_file, _task(run_file.task, _project(path), f"{document.place(('task',))}: task")


def _project(path: Path) -> Path:
    """The project of a run file. One that is a link belongs to the project where the link lies."""
    return Path(os.path.normpath(path.absolute())).parent.parent


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
        if isinstance(filter_, Score):
            _require_written(filter_.of, run_file.augment, at("augment", "filters", i, "of"))
        if isinstance(filter_, Support) and filter_.document not in ("", *task.fields):
            place, name = at("augment", "filters", i, "document"), filter_.document
            raise UsageError(f"{place}: {name!r}{nearest(name, task.fields)}; fields: {', '.join(task.fields)}")
    makers = dict(run_file.augment.row_makers())
    for key, step in makers.items():
        if step.output == "text" and len(task.fields) > 1:
            raise UsageError(
                f"{at('augment', *key, 'output')}: 'text': the task has the fields {', '.join(task.fields)},"
                " which a plain text cannot tell apart: write output: json"
            )
    for key, step in run_file.augment.asked_in():
        written = task.fields if key in makers else step.parts(task.fields)
        for i, filter_ in enumerate(step.filters):
            name, parts = ("of", written) if isinstance(filter_, Score) else ("on", ("input", *written, "both"))
            on = getattr(filter_, name, "input")
            if on not in parts:
                place = at("augment", *key, "filters", i, name)
                raise UsageError(f"{place}: {on!r}{nearest(on, parts)}; a step wrote: {', '.join(parts)}")
    augment = run_file.augment
    given = [*augment.attributes, *([DOCUMENT] if augment.documents else [])]
    if augment.row and (problem := row_problem(augment.steps, augment.row, given, task)):
        raise UsageError(f"{at('augment', 'row')}: {problem}")


def _require_written(named: str, augment: Augment, place: str) -> None:
    """Raises UsageError where rows do not hold what such a step wrote, or such a key of its object (STEP.KEY).

    They hold the steps of a chain. Of a single step, and of an object that is a row by itself, they hold the row alone.
    """
    whole = [step.name for _, step in augment.row_makers() if step.output != "text"]
    if len(augment.steps) == 1 or named.split(".")[0] in whole:
        raise UsageError(
            f"{place}: {named!r}: rows do not hold this beside their fields and their answer: say with `row` what of it"
            " makes the row, and give the filter to the step"
        )
    written = [
        f"{step.name}.{part}" if step.output == "json" else str(step.name)
        for step in augment.steps
        for part in (step.parts(()) if step.output == "json" else ("",))
    ]
    if named not in written:
        hint = f"{nearest(named, written)}; there are: {', '.join(written)}" if written else ": the run has no steps"
        raise UsageError(f"{place}: there is no step {named!r}{hint}")


def _teachers_fit(run_file: RunFile, at: Callable[..., str]) -> None:
    """Steps and judges name teachers that the run has, and every one of them. They have prices and memory to share.

    Raises UsageError.
    """
    teachers = run_file.all_teachers
    if OWN_TEACHER in run_file.teachers:
        raise UsageError(f"{at('teachers', OWN_TEACHER)}: this is the run's own teacher: choose another name")
    asked = run_file.augment.teachers_asked()
    for key, name in asked:
        if name not in teachers:
            hint = f"{nearest(name, teachers)}; there are: {', '.join(teachers)}"
            raise UsageError(f"{at('augment', *key)}: there is no teacher {name!r}{hint}")
    names = {name for _, name in asked}
    for name in run_file.teachers:
        if name not in names:
            raise UsageError(f"{at('teachers', name)}: no step and no judge names it")
    shares = [one.gpu_memory_utilization for name in names if isinstance(one := teachers[name], VLLMTeacher)]
    if sum(shares) > 1:
        raise UsageError(
            f"{at('teachers')}: {len(shares)} of them run in vLLM here, on the same GPU, and gpu_memory_utilization is"
            f" {sum(shares):g} in all: at most 1"
        )
    if run_file.augment.caps.money is not None:
        for name, teacher in teachers.items():
            if price_of(teacher, 0, 0) is None:
                place = at("teacher") if name == OWN_TEACHER else at("teachers", name)
                raise UsageError(f"{place}: augment.caps.money needs its price: set prompt_price or completion_price")
        if not teachers:
            raise UsageError(f"{at('augment', 'caps', 'money')}: there is no teacher, and so nothing has a price")


def _attributes_fit(run_file: RunFile, at: Callable[..., str]) -> None:
    """Filters name attributes that the run has. Raises UsageError."""
    augment = run_file.augment
    places = [(("filters",), augment.filters), *(((*key, "filters"), step.filters) for key, step in augment.asked_in())]
    for key, filters in places:
        for i, filter_ in enumerate(filters):
            for field in filter_.needs.attributes:
                value = getattr(filter_, field)
                for name in (value,) if isinstance(value, str) else value:
                    if name and name not in augment.attributes:
                        place, names = at("augment", *key, i, field), list(augment.attributes)
                        hint = f"{nearest(name, names)}; there are: {', '.join(names)}" if names else ""
                        raise UsageError(f"{place}: there is no attribute {name!r} in augment.attributes{hint}")


def _quotas_fit(augment: Augment, task: TaskFile, at: Callable[..., str]) -> None:
    """Filters and quotas let as many rows be kept as are wanted. Raises UsageError for each that does not."""
    if augment.quotas and not augment.teacher_writes:
        raise UsageError(f"{at('augment', 'quotas')}: no teacher writes rows here, so that none can be ordered")
    mistakes = Mistakes()
    problems = quota_problems(augment.quotas, augment.attributes, task.labels, augment.rows, augment.filters)
    for key, problem in problems:
        mistakes.note(f"{at('augment', 'quotas', *key)}: {problem}")
    for i, filter_ in enumerate(augment.filters if augment.teacher_writes else ()):
        most = most_kept(filter_, augment.attributes, task.labels)
        if most is not None and most < augment.rows:
            place = at("augment", "filters", i)
            mistakes.note(f"{place}: {filter_.kind} keeps {most} rows at most, and augment.rows is {augment.rows}")
    mistakes.check()


def _free_answers_fit(run_file: RunFile, at: Callable[..., str]) -> None:
    """What needs labels is refused where the task has none."""
    for key, step in run_file.augment.row_makers():
        if step.output == "text":
            raise UsageError(
                f"{at('augment', *key, 'output')}: {step.output!r}: the task has no labels, so a template must"
                " give both the text and its answer: write output: json"
            )
    for i, filter_ in enumerate(run_file.augment.filters):
        if any(judge.choices == "labels" for judge in judges_of([filter_])):
            raise UsageError(
                f"{at('augment', 'filters', i, 'choices')}: 'labels': the task has no labels; give the judge words to"
                " pick from, such as choices: [good, bad] and accept: good"
            )


def _templates_render(
    run_file: RunFile, task: TaskFile, prompts: TaskPrompts, seeds: tuple[Example, ...], root: Path, place: str
) -> None:
    """Render every template once, so that a mistake in one is found before anything is spent.

    `place` is where the run file has `augment`.
    """
    made_up = {name: f"a {name}" for name in task.fields}
    seed = seeds[0] if seeds else Example(fields=made_up, answer=next(iter(task.labels), "an answer"))
    label = "" if task.free else seed.answer  # a teacher is not told an answer, and so writes its own
    shots = [shot.shown for shot in seeds]
    shared = {"label": label, "description": task.labels.get(label, ""), "labels": task.labels}
    untuned = {"labels": task.labels, "shots": shots[:2], "system": task.system, "turns": []}
    for template, more in ((prompts.student, {}), (prompts.untuned, untuned)):
        for name in task.fields:
            require_used(template, name, seed, more)
    stand_ins: dict[str, Any] = _drawn(run_file.augment, place) | {"index": 0}
    for _, step in run_file.augment.asked_in():
        template = templates.load(root / step.path)
        _render_step(template, step, run_file.augment, shared | stand_ins | {"shots": shots[: step.shots]})
        if isinstance(step.pick, PickByJudge):
            candidates = templates.load(root / step.pick.template)
            _render_step(candidates, step, run_file.augment, shared | stand_ins | {"candidate": "some words"})
        if step.name:
            stand_ins[step.name] = stand_in(step)
    for name, source in run_file.augment.row.items():
        if is_template(source):
            row_template(name, str(source), place).render(**stand_ins)
    for judge in judges_of(run_file.augment.filters):
        examples = [{**shot, "wrong": seed.answer} for shot in shots[: judge.shots]]
        templates.load(root / judge.template).render(**(shared | seed.shown), shots=examples)


def _drawn(augment: Augment, place: str) -> dict[str, Any]:
    """Attributes and a document as templates will be given them. `place` is where the run file has `augment`."""
    drawn = draw_attributes(augment.attributes, computed(augment.attributes, place), random.Random(0))
    return {**drawn, **({DOCUMENT: Piece("a file", "a title", "some words").shown} if augment.documents else {})}


def _render_step(template: Template, step: Step, augment: Augment, variables: Mapping[str, Any]) -> None:
    """Render a step's template. Raises UsageError, which says where a step is used before it has written."""
    try:
        template.render(**variables)
    except UsageError as error:
        later = [other.name for other in augment.steps if other.name and other.name not in variables]
        used = next((name for name in later if f"'{name}' is undefined" in str(error)), None)
        why = f"; the step {used!r} writes after {step.name!r}" if used else ""
        if used == step.name:
            why = f"; {used!r} is this step itself, which has not written yet"
        raise UsageError(f"{error}{why}") from error


def _labels_have_seeds(suites: dict[str, Suite], seeds: tuple[Example, ...]) -> None:
    seed_labels = {seed.answer for seed in seeds}
    for name, suite in suites.items():
        for label in suite.labels:
            if label not in seed_labels:
                raise UsageError(
                    f"suites/{name}.yaml: the label {label!r} of its items is in no seed{nearest(label, seed_labels)};"
                    f" seeds have: {', '.join(sorted(seed_labels))}"
                )


def _sizes_fit(run_file: RunFile, place: str) -> None:
    largest, rows = max(run_file.train.sizes), run_file.augment.rows
    if largest > rows and run_file.augment.teacher_writes:
        raise UsageError(f"{place}: {largest} is larger than augment.rows ({rows}): there would be no such rows")


def _arms_fit(run_file: RunFile, at: Callable[..., str]) -> None:
    """Every data arm can have rows. Raises UsageError with a line for each that cannot."""
    augment, mistakes = run_file.augment, Mistakes()
    makers = [step for _, step in augment.row_makers()] if len(augment.steps) < 2 else []
    sources = Sources(
        seeds=augment.seeds is not None,
        own_rows=augment.rows_file is not None,
        writers=list(dict.fromkeys(name for _, step in augment.asked_in() for name in step.teachers)),
        teachers=list(run_file.all_teachers),
        templates=[step.path for step in makers],
        filters=augment.filters,
    )
    for i, arm in enumerate(run_file.train.data):
        if problem := arm_problem(arm, sources):
            mistakes.note(f"{at('train', 'data', i)}: {problem}")
    mistakes.check()
