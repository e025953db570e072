"""The stages with their engines built, Ctrl-C heard and folders held: what the command line and the Python API call.

Each function takes a loaded run. What a stage needs is imported when it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from harness.builders import openers, row_models, scorers, students_of, teachers_of
from harness.core.terminal import Stop, Terminal
from harness.errors import MachineError

if TYPE_CHECKING:
    from harness.augment.funnel import Funnel
    from harness.config.run import Run
    from harness.engines.protocols import Generator
    from harness.models.teachers import Teachers
    from harness.train.processes import Processes


@contextmanager
def _teachers_at_work(run: Run, terminal: Terminal, stop: Stop) -> Iterator[tuple[Teachers, Callable[[], Generator]]]:
    """The run's teachers and what opens their engines, with its rows held for this command. Closes them after it."""
    from harness.cluster.connect import joining
    from harness.core.store import locked
    from harness.engines.leaving import closed_at_end

    folder, what = run.folder / "augment", f"augment of {run.name}"
    with (
        stop.listening(),
        locked(folder, what),
        joining(run.file.cluster, run.root, terminal.say) as join,
    ):
        teachers, build = teachers_of(run, terminal, join)
        with closed_at_end(build) as engine:
            yield teachers, engine


def augment(run: Run, terminal: Terminal, stop: Stop) -> Funnel | None:
    """Have the teacher write the missing rows. Returns and raises as the stage; also for models that cannot be."""
    from harness.augment.node_work import costs_of
    from harness.augment.stage import augment as stage

    require_models(run)  # before a teacher is paid
    with _teachers_at_work(run, terminal, stop) as (teachers, engine):
        funnel = stage(run, teachers, engine, terminal, stop, students_of(run))
    if run.file.on_cluster:
        for line in costs_of(run, funnel.kept if funnel else 0):
            terminal.say(f"  {line}")
    return funnel


def describe_augment(run: Run, terminal: Terminal) -> str:
    """What augment would send and spend. Raises UsageError for models that cannot be."""
    from harness.commands.dry_run import describe_augment as describe
    from harness.commands.dry_run import tokens_of_teacher, unresolved
    from harness.models.resolve import ready

    require_models(run)
    loads = [one for one in run.file.all_teachers.values() if one.engine in ("vllm", "transformers")]
    unseen = any(not ready(one.model, run.cache, run.root) for one in loads)
    teachers = unresolved(run) if unseen else teachers_of(run, terminal)[0]
    return describe(run, teachers, tokens_of_teacher(run.file.teacher, run.root, run.cache, unseen))


def require_models(run: Run) -> None:
    """Raises UsageError for students, and models to compare with, whose names can be no model."""
    from harness.eval.candidates import require_possible_models

    require_possible_models(run.file.train, run.file.eval.compare, run.root, run.name)


def preview(run: Run, terminal: Terminal, stop: Stop, rows: int) -> None:
    """Make a few rows for real, show them, and forecast the whole of augment."""
    from harness.augment.preview import preview as show_rows

    with _teachers_at_work(run, terminal, stop) as (teachers, engine):
        show_rows(run, teachers, engine, terminal, stop, rows, students_of(run))


def train(run: Run, terminal: Terminal, stop: Stop, processes: Processes) -> int | None:
    """Train the missing cells. Returns and raises as the stage."""
    from harness.cluster.connect import joining
    from harness.train.stage import train as stage

    with stop.listening(), joining(run.file.cluster, run.root, terminal.say) as join:
        elsewhere = None
        if run.file.on_cluster:
            from harness.cluster.tasks import cells_on

            elsewhere = cells_on(run.file.on_cluster, run, join, terminal, stop)
        return stage(run, terminal, stop, row_models(run), processes, elsewhere)


def evaluate(run: Run, terminal: Terminal, stop: Stop) -> None:
    """Score what is not scored yet, then write the report and print its answer. Raises as the stages."""
    score(run, terminal, stop)
    report(run, terminal)


def score(run: Run, terminal: Terminal, stop: Stop) -> None:
    """Score what is not scored yet. Raises as the stage."""
    from harness.cluster.connect import joining
    from harness.commands.show_batch import store_rows
    from harness.eval.stage import evaluate as stage

    with stop.listening(), joining(run.file.cluster, run.root, terminal.say) as join:
        elsewhere = None
        if run.file.on_cluster:
            from harness.cluster.tasks import cards_on

            elsewhere = cards_on(run.file.on_cluster, run, join, scorers, terminal, stop)
        stored = stage(run, openers(run), terminal, stop, elsewhere)
    if stored is not None:  # reading rows takes seconds of imports, and the report has those of the last time
        store_rows(run)


def report(run: Run, terminal: Terminal) -> None:
    """Write the report from stored scores, and print its answer."""
    from harness.check.may_ship import may_ship
    from harness.report.stage import report as stage

    stage(run, terminal, may_ship(run))


@contextmanager
def machine_errors() -> Iterator[None]:
    """Turn what the operating system refuses, and a lack of memory, into MachineError."""
    try:
        yield
    except OSError as error:
        raise MachineError(f"{error.filename or 'the machine'}: {error.strerror or error}") from error
    except MemoryError as error:
        what = "out of memory; in train and eval a smaller train.micro_batch_tokens or eval.batch_tokens needs less"
        raise MachineError(what) from error
