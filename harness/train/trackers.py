"""A training in the libraries that train.report_to names: every cell is a run of its own there, under its name.

Each adapter is a few lines around a library's public interface. A library is imported only where it is named. No torch.
"""

from __future__ import annotations

import contextvars
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from harness.errors import UsageError


class Tracker(Protocol):
    """One cell's run in a library."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Take the numbers of one step."""


Open = Callable[[str], AbstractContextManager[Tracker]]  # the cell's name -> its run, ended with the block


@dataclass(frozen=True)
class _Scalars:
    writer: Any  # a SummaryWriter

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)


@dataclass(frozen=True)
class _Metrics:
    library: Any  # mlflow
    run_id: str

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.library.log_metrics(values, step=step, run_id=self.run_id)


@contextmanager
def _tensorboard(library: Any, folder: Path, run: str, cell: str) -> Iterator[Tracker]:
    with library.SummaryWriter(str(folder / "tensorboard" / cell)) as writer:
        yield _Scalars(writer)


@contextmanager
def _trackio(library: Any, folder: Path, run: str, cell: str) -> Iterator[Tracker]:
    # in a context of its own: `init` ends the run that it finds there
    tracker = contextvars.Context().run(library.init, project=run, name=cell)
    try:
        yield tracker
    finally:
        tracker.finish()


@contextmanager
def _wandb(library: Any, folder: Path, run: str, cell: str) -> Iterator[Tracker]:
    with library.init(project=run, name=cell, dir=str(folder), reinit="create_new") as tracker:
        yield tracker


@contextmanager
def _mlflow(library: Any, folder: Path, run: str, cell: str) -> Iterator[Tracker]:
    client = library.MlflowClient()
    run_id = client.create_run(library.set_experiment(run).experiment_id, run_name=cell).info.run_id
    try:
        yield _Metrics(library, run_id)
    finally:
        client.set_terminated(run_id)


# transformers' name -> (module, package, adapter)
LIBRARIES: Mapping[str, tuple[str, str, Callable[[Any, Path, str, str], AbstractContextManager[Tracker]]]] = {
    "tensorboard": ("torch.utils.tensorboard", "tensorboard", _tensorboard),
    "trackio": ("trackio", "trackio", _trackio),
    "wandb": ("wandb", "wandb", _wandb),
    "mlflow": ("mlflow", "mlflow", _mlflow),
}


def libraries(
    names: Sequence[str], folder: Path, run: str, load: Callable[[str], Any] = importlib.import_module
) -> dict[str, Open]:
    """The named libraries, imported. `folder` is for the files of those that write some, `run` names the project.

    Raises UsageError for one that is not installed.
    """
    opening: dict[str, Open] = {}
    for name in names:
        module, package, adapter = LIBRARIES[name]
        try:
            opening[name] = partial(adapter, load(module), folder, run)
        except ImportError as error:
            raise UsageError(
                f"train.report_to: {name}: {error}; install it with .venv/bin/pip install {package}, or take it out"
            ) from error
    return opening


class Trackers:
    """The runs of the cells in work, in every library. One that fails is left out, and the training goes on."""

    def __init__(self, opening: Mapping[str, Open], warn: Callable[[str], None]) -> None:
        self._opening, self._warn = dict(opening), warn
        self._runs: dict[tuple[str, str], tuple[Tracker, ExitStack]] = {}  # by library and cell

    def log(self, cell: str, values: Mapping[str, float], step: int) -> None:
        """Send the numbers of one step. The first ones open the cell's runs."""
        for name in list(self._opening):
            with self._going_on(name):
                if (name, cell) not in self._runs:
                    stack = ExitStack()
                    self._runs[name, cell] = (stack.enter_context(self._opening[name](cell)), stack)
                self._runs[name, cell][0].log(values, step=step)

    def end(self, cell: str) -> None:
        """End a cell's runs, where there are any."""
        for name, of_cell in [key for key in self._runs if key[1] == cell]:
            with self._going_on(name):
                self._runs.pop((name, of_cell))[1].close()

    def close(self) -> None:
        """End them all."""
        for cell in {cell for _, cell in self._runs}:
            self.end(cell)

    @contextmanager
    def _going_on(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001  (log.jsonl has the numbers: no training ends for want of a chart)
            if self._opening.pop(name, None):
                self._warn(f"train.report_to: {name} failed and is left out from here on: {error}")
