"""What a person sees of a training while it goes on: one live line about the grid, log.jsonl, tracking libraries."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from harness.core.store import disk_errors
from harness.core.terminal import Advance, Terminal
from harness.train.grid import GridCell
from harness.train.trackers import Open, Trackers

if TYPE_CHECKING:
    from harness.train.loop import Passed
    from harness.train.trainee import Step

LOG = "log{}.jsonl"  # a line for each step of each cell


@contextmanager
def watching(
    cells: Sequence[GridCell], folder: Path, process: str, opening: Mapping[str, Open], terminal: Terminal
) -> Iterator[Watcher]:
    """A watcher of the training of these cells. `folder` holds the log, `opening` are the tracking libraries.

    `process`: what its own files have in their names, of one of several. Each has a log of its own: on a network file
    system two hosts that append to one file write over each other.
    """
    steps = {planned.key: planned.steps for planned in cells}
    folder.mkdir(parents=True, exist_ok=True)
    with (
        (folder / LOG.format(process)).open("a", encoding="utf-8") as log,
        closing(Trackers(opening, terminal.warn)) as trackers,
        terminal.progress("train", sum(steps.values())) as advance,
    ):
        yield Watcher(steps, log, trackers, advance)


class Watcher:
    """Is told of every pass, and tells a person."""

    def __init__(self, steps: Mapping[str, int], log: TextIO, trackers: Trackers, advance: Advance) -> None:
        """`steps`: of every cell that is to be trained, by its key."""
        self._steps, self._log, self._trackers, self._advance = steps, log, trackers, advance
        self._done: dict[str, int] = {}  # steps of each cell; all of them where it stopped early or failed
        self._over: dict[str, bool] = {}  # cells that take no more steps, and whether they failed
        self._validation: dict[str, float] = {}
        self._tokens: dict[str, int] = {}
        self._read, self._seconds, self._last = 0, 0.0, time.monotonic()  # of all passes

    def loads(self, model: str) -> None:
        """A student is loaded now."""
        self._advance(sum(self._done.values()), f"loading {model}")

    def begins(self) -> None:
        """A student's passes begin now: what went before does not count in tokens a second."""
        self._last = time.monotonic()

    def saw(self, passed: Passed) -> None:
        """Show, log and report one pass."""
        for trainee in passed.trainees:
            key = trainee.job.key
            # of a cell that goes on, what an earlier command read does not count
            before = self._tokens.get(key, 0 if len(trainee.losses) <= 1 else trainee.tokens)
            self._read += trainee.tokens - before
            self._tokens[key], self._done[key] = trainee.tokens, len(trainee.losses)
            if trainee.validation:
                self._validation[key] = trainee.validation[-1][1]
            if trainee.done or trainee.failure:
                self._over[key] = bool(trainee.failure)
                self._done[key] = self._steps[key]
        now = time.monotonic()
        self._seconds, self._last = self._seconds + now - self._last, now
        self._write(passed.steps)
        for trainee in passed.trainees:
            if trainee.job.key in self._over:
                self._trackers.end(trainee.job.name)
        if passed.steps:
            self._advance(sum(self._done.values()), self._words(passed))

    def _write(self, steps: Sequence[Step]) -> None:
        """A line for each step of each cell. A step that is done again after a kill has another line."""
        with disk_errors(Path(self._log.name)):
            for step in steps:
                line = {name: value for name, value in vars(step).items() if value is not None}
                self._log.write(json.dumps(line) + "\n")
            self._log.flush()
        for step in steps:
            self._trackers.log(step.cell, reported(step), step.step)

    def _words(self, passed: Passed) -> str:
        """Cells by where they are, the mean losses of those in work, tokens a second."""
        working = [trainee.job.key for trainee in passed.trainees if trainee.job.key not in self._over]
        waiting = len(self._steps) - len(self._over) - len(working)
        loss = sum(step.loss for step in passed.steps) / len(passed.steps)
        validated = [self._validation[t.job.key] for t in passed.trainees if t.job.key in self._validation]
        on_dev = f", dev loss {sum(validated) / len(validated):.2f}" if validated else ""
        failed = sum(self._over.values())
        cells = f"steps; cells: {len(self._over) - failed} done, {len(working)} in work, {waiting} waiting"
        cells += f", {failed} failed" if failed else ""
        return f"{cells}; loss {loss:.2f}{on_dev}, {self._read / max(self._seconds, 1e-9):.0f} tokens/s"


def reported(step: Step) -> dict[str, float]:
    """A step's numbers by the names that transformers has for them."""
    values = {
        "train/loss": step.loss,
        "train/learning_rate": step.learning_rate,
        "train/grad_norm": step.gradient_norm,
        "train/tokens_per_second": step.tokens_per_second,
    }
    return values if step.validation_loss is None else {**values, "eval/loss": step.validation_loss}
