"""Builders of engines from a run file. Only the verbs call them. Nothing is loaded before it is needed."""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.terminal import Stop, Terminal
from harness.engines.several import SeveralEngines, Source
from harness.errors import MachineError, UsageError
from harness.models.teachers import NOBODY, OWN_TEACHER, Teachers, place_of

if TYPE_CHECKING:
    from harness.cluster.nodes import Nodes
    from harness.config.cluster import Cluster
    from harness.config.run import Run
    from harness.config.teacher import OpenAITeacher, Teacher, VLLMTeacher
    from harness.engines.protocols import Generator, StudentEngine
    from harness.engines.vllm import VLLMEngine
    from harness.eval.runner import Judge, Openers, Scorer
    from harness.models.resolve import Model
    from harness.records import Cell, Score
    from harness.suites.suite import Suite
    from harness.train.row_scores import Models

IN_FLIGHT = 32  # requests at a replica whose teacher does not say how many


def openers(run: Run, batch_tokens: int | None = None) -> Openers:
    """Builders of the models that eval needs. Nothing is loaded here."""
    from harness.augment.work import bundled_embedder
    from harness.eval.runner import Judge, Openers

    file = run.file.eval

    def student(base: Path, adapter: Path | None) -> StudentEngine:
        from harness.engines.transformers import TransformersEngine

        return TransformersEngine(base, adapter, device=file.device, batch_tokens=batch_tokens or file.batch_tokens)

    def judge(name: str) -> Judge:
        from harness.models.resolve import resolve

        if not name:
            return Judge(*own_teacher(run))
        model = resolve(name, run.cache, root=run.root)

        def build() -> Generator:
            from harness.engines.transformers import TransformersEngine

            return TransformersEngine(model.folder, device=file.device, batch_tokens=file.batch_tokens)

        return Judge(model.identity, build)

    return Openers(student, bundled_embedder, judge)


def students_of(run: Run) -> Callable[[str], StudentEngine]:
    """A loader of untuned students by their names."""
    from harness.models.resolve import resolve

    return lambda name: openers(run).student(resolve(name, run.cache, root=run.root).folder, None)


def row_models(run: Run) -> Models:
    """Builders of the models that measure rows before training."""
    from harness.augment.work import bundled_embedder
    from harness.train.row_scores import Models

    return Models(students_of(run), bundled_embedder)


def scorers(run: Run, terminal: Terminal, stop: Stop) -> Callable[[int | None], Scorer]:
    """A builder of what scores the cards of a run's plan, with so many tokens in a batch (None: as the run says)."""
    from harness.eval.plan import plan_scoring
    from harness.eval.runner import Scorer

    plan = plan_scoring(run)

    def build(batch_tokens: int | None) -> Scorer:
        return Scorer(plan, run.root, run.cache, openers(run, batch_tokens), terminal, stop)

    return build


def form_scorer(run: Run, terminal: Terminal) -> Callable[[Cell, Path], Callable[[Suite], Sequence[Score]]]:
    """What scores another form of a trained student: its cell, and the folder of a whole model."""

    def open_form(cell: Cell, folder: Path) -> Callable[[Suite], Sequence[Score]]:
        from harness.eval.runner import rescorer

        scorer_for = scorers(run, terminal, Stop())
        candidate = scorer_for(None).plan.student(cell, run.name)
        rescore = rescorer(replace(candidate, base=folder, adapter=None), scorer_for)
        return lambda suite: rescore(suite, run.file.eval.batch_tokens)

    return open_form


def teachers_of(
    run: Run, terminal: Terminal, join: Callable[[], Nodes] | None = None
) -> tuple[Teachers, Callable[[], Generator]]:
    """The models that write and judge in a run, and a builder of what answers for them.

    `join` joins the cluster that the run names. Without it all engines are on this machine.
    """
    if not run.file.augment.asking:
        return Teachers(own=NOBODY), _nobody  # own rows and nothing to judge
    sources = {name: _sources(teacher, run, terminal, name) for name, teacher in run.file.all_teachers.items()}
    models = {name: some[0].model for name, some in sources.items()}
    for name, model in models.items():
        if (first := next(other for other in models if models[other] == model)) != name:
            raise UsageError(
                f"runs/{run.name}.yaml: teachers.{name} is {model}, as {first} is: several endpoints of one model are"
                " written as base_url: [ADDRESS, ADDRESS]"
            )
    teachers = Teachers(own=models.pop(OWN_TEACHER, NOBODY), named=models)
    here = [source for some in sources.values() for source in some]
    if join is None or run.file.on_cluster is None:
        return teachers, _together(here, terminal.say)
    engines = _on_cluster(sources, run.file.on_cluster, run, join, terminal)
    if engines == here:  # endpoints alone
        return teachers, _together(here, terminal.say)

    def build() -> Generator:
        join()  # in the thread of the command, whose signals Ray takes
        return _together(engines, terminal.say)()

    return teachers, build


def _together(engines: Sequence[Source], say: Callable[[str], None]) -> Callable[[], Generator]:
    """A builder of engines at work as one."""
    return engines[0].build if len(engines) == 1 else lambda: SeveralEngines(engines, say)


def own_teacher(run: Run) -> tuple[str, Callable[[], Generator]]:
    """name@revision of the run's own teacher, and a builder of its engine. Raises UsageError where it has none."""
    sources = _sources(run.teacher, run, Terminal())
    return sources[0].model, _together(sources, lambda text: None)


def _sources(teacher: Teacher, run: Run, terminal: Terminal, name: str = OWN_TEACHER) -> list[Source]:
    """What answers for the teacher that the run calls `name`: its engine, or one for each of its endpoints."""
    from importlib.util import find_spec

    from harness.core.store import file_digest
    from harness.models.resolve import resolve

    if teacher.engine == "openai":
        return _endpoints(teacher, terminal, place_of(name))
    if teacher.engine == "scripted":
        script = run.root / teacher.script
        source = Source(
            teacher.model, f"{teacher.model}@{file_digest(script)}", functools.partial(_scripted_engine, script)
        )
        return [source]
    resolved = resolve(teacher.model, run.cache, teacher.revision, run.root)
    if teacher.engine == "vllm" and find_spec("vllm") is not None:
        build: Callable[[], Generator] = functools.partial(_vllm_engine, resolved, run.file.random_seed, teacher)
        return [Source(teacher.model, resolved.identity, build)]
    if teacher.engine == "vllm":
        terminal.say("vLLM is not installed here: the transformers engine does the teacher's work, more slowly")
    if any(step.output != "text" for _, step in run.file.augment.asked_in()):
        terminal.say("the transformers engine does not guide JSON: completions without the JSON asked for give no row")
    build = functools.partial(_transformers_engine, resolved)
    return [Source(teacher.model, resolved.identity, build)]


def _on_cluster(
    sources: Mapping[str, list[Source]], cluster: Cluster, run: Run, join: Callable[[], Nodes], terminal: Terminal
) -> list[Source]:
    """Endpoints as they are, and of each engine whose weights are loaded as many on a cluster as the run names."""
    from harness.cluster.replica import replicas

    asked: list[Source] = []
    loaded: list[tuple[Source, int, int]] = []
    for name, some in sources.items():
        teacher = run.file.all_teachers[name]
        if teacher.engine == "openai":
            asked += some
            continue
        room = getattr(teacher, "concurrency", IN_FLIGHT)
        loaded.append((some[0], room, getattr(teacher, "tensor_parallel_size", None) or 1))
    return [*asked, *replicas(loaded, cluster, run.folder / "cluster", join, terminal.say)]


# Builders of engines that know nothing but their arguments: a worker of a cluster calls them as well.


def _scripted_engine(script: Path) -> Generator:
    from harness.engines.scripted import ScriptedEngine

    return ScriptedEngine.from_file(script)


def _vllm_engine(model: Model, random_seed: int, teacher: VLLMTeacher) -> Generator:
    from harness.engines.vllm import VLLMEngine

    return VLLMEngine(
        _weights_here(model),
        random_seed=random_seed,
        max_model_len=teacher.max_model_len,
        concurrency=teacher.concurrency,
        gpu_memory_utilization=teacher.gpu_memory_utilization,
        tensor_parallel_size=teacher.tensor_parallel_size,
    )


def _transformers_engine(model: Model) -> Generator:
    from harness.engines.transformers import TransformersEngine

    return TransformersEngine(_weights_here(model))


def _weights_here(model: Model) -> Path:
    """A model's folder: where the machine that drives the run has it, else this node's own copy of the same weights.

    Raises MachineError naming the node that has neither.
    """
    from harness.models.resolve import resolve

    if model.folder.is_dir():
        return model.folder
    node = f"the node {socket.gethostname()}"
    try:
        found = resolve(model.name, Path.home() / ".cache/harness", model.revision if "/" in model.name else None)
    except UsageError as error:
        raise MachineError(f"{node} has no {model.folder}, and {model.name} is no model there: {error}") from error
    if found.identity != model.identity:
        raise MachineError(f"{node} has other weights of {model.name}: {found.identity} for {model.identity}")
    return found.folder


def _endpoints(teacher: OpenAITeacher, terminal: Terminal, place: str) -> list[Source]:
    from harness.engines.openai import TIMEOUTS, TIMEOUTS_SHARED
    from harness.models.endpoint import api_key

    key = api_key(os.environ, teacher.api_key_env, place)
    model = f"{teacher.model}@{teacher.revision or 'endpoint'}"
    timeouts = TIMEOUTS_SHARED if len(teacher.addresses) > 1 else TIMEOUTS

    def connect(address: str) -> Generator:
        from harness.engines.openai import OpenAIEngine  # its client takes a second to import

        return OpenAIEngine(
            address, key, concurrency=teacher.concurrency, timeouts=timeouts, say=terminal.say, place=place
        )

    return [Source(address, model, functools.partial(connect, address)) for address in teacher.addresses]


def vllm_of(teacher: Teacher | None) -> Callable[[Path, Path | None, str], VLLMEngine]:
    """A builder of vLLM for one student: base folder, adapter folder, the name that requests ask for."""

    def build(base: Path, adapter: Path | None, name: str) -> VLLMEngine:
        from harness.config.teacher import VLLMTeacher
        from harness.engines.vllm import VLLMEngine

        share = teacher.gpu_memory_utilization if isinstance(teacher, VLLMTeacher) else 1.0
        share = min(share, 0.5)  # on a GPU the student is there as well
        return VLLMEngine(base, adapters={name: adapter}, gpu_memory_utilization=share)

    return build


def _nobody() -> Generator:
    raise MachineError("this run has no teacher, and one was asked")
