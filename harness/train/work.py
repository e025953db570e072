"""Training the cells of one student: what is stored of them on the way and at their end."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config.run import Train
from harness.core.store import disk_errors, folder_atomic, write_json
from harness.core.terminal import Stop, Terminal
from harness.models.device import peak_memory
from harness.train.adapters import seal_adapter
from harness.train.base import Base
from harness.train.cells import CHECKPOINTS, CellLog
from harness.train.checkpoint import Checkpoint, last_checkpoint, remove_checkpoints, write_checkpoint
from harness.train.grid import GridCell
from harness.train.loop import Validation, at_once, train_cells
from harness.train.preflight import Prepared
from harness.train.trainee import Job, Trainee
from harness.train.watching import Watcher

WRITING_SHARE = 0.05  # of the time, at most, goes into checkpoints


@dataclass(frozen=True)
class Work:
    """The missing cells of one student, and all that their training needs."""

    base: Base
    cells: Sequence[GridCell]
    prepared: Prepared  # the rows tokenized, and by which chat template
    settings: Train
    folder: Path  # of the run's train stage
    machine: Mapping[str, Any]
    process: str  # what this process's own files have in their names

    def train(self, watcher: Watcher, terminal: Terminal, stop: Stop) -> dict[str, str]:
        """Train the cells, from the last checkpoint where there is one. Returns (key -> why) of those that failed.

        Raises UsageError for settings that PEFT refuses, MachineError for memory or a disk that does not suffice. When
        `stop` turns true, a checkpoint is written and the rest is left for the next command.
        """
        saving = _Checkpoints(
            self.folder / CHECKPOINTS / f"{self._begins_as}{self.process}", self.settings.checkpoint_seconds
        )
        checkpoint = saving.last({planned.key for planned in self.cells}, terminal)
        jobs = self._jobs(checkpoint)
        together = checkpoint.state.together if checkpoint else 0
        together = together or at_once(self.base, jobs, self.prepared.examples, self.settings.micro_batch_tokens)
        passes = train_cells(
            self.base,
            jobs,
            self.prepared.examples,
            self.settings.micro_batch_tokens,
            together,
            checkpoint.restore if checkpoint else lambda trainee: None,
            self._validation,
        )
        failed: dict[str, str] = {}
        watcher.begins()
        for passed in passes:
            watcher.saw(passed)
            stopping = stop()
            if passed.finished or saving.due or stopping:
                saving.write(together, passed.trainees)
            for trainee in passed.finished:
                self._store(trainee)
            failed |= {trainee.job.key: trainee.failure for trainee in passed.failed}
            if stopping:
                passes.close()
                return failed
        remove_checkpoints(saving.folder)
        return failed

    @property
    def _begins_as(self) -> str:
        """What tells apart the checkpoints of what this process trains one after the other on the same weights."""
        kind = "-raw-text" if self.cells[0].is_pretraining else "-4-bits" if self.base.four_bits else ""
        return f"{self.base.source.weights_digest[:16]}{kind}"

    @property
    def _validation(self) -> Validation | None:
        settings = self.settings.validation
        return Validation(self.prepared.dev_items, settings.every) if settings else None

    def _jobs(self, checkpoint: Checkpoint | None) -> list[Job]:
        """The cells as jobs: those in work at the checkpoint first, in its order, so that passes are as they were."""
        begun = [reached.key for reached in checkpoint.state.cells] if checkpoint else []
        stopping = self.settings.early_stopping
        place = {key: number for number, key in enumerate(begun)}
        return [
            Job(
                name=planned.cell.name,
                key=planned.key,
                rows=planned.rows,
                steps=planned.steps,
                random_seed=planned.cell.random_seed,
                method=planned.method,
                batch_size=self.settings.batch_size,
                learning_rate=planned.learning_rate,
                warmup_ratio=self.settings.warmup_ratio,
                patience=stopping.patience if stopping else None,
            )
            for planned in sorted(self.cells, key=lambda planned: place.get(planned.key, len(place)))
        ]

    def _store(self, trainee: Trainee) -> None:
        """A finished cell into the shared cache, complete or not at all."""
        planned = next(planned for planned in self.cells if planned.key == trainee.job.key)
        stopping = self.settings.early_stopping is not None
        log = CellLog(
            base=self.base.source.identity,
            rows=len(trainee.job.rows),
            steps=trainee.job.steps,
            losses=tuple(trainee.losses),
            validation=tuple(trainee.validation),
            steps_done=len(trainee.losses) if stopping else None,
            best_step=trainee.best_step if stopping else None,
            tokens=trainee.tokens,
            seconds=round(trainee.seconds, 3),
            peak_memory=peak_memory(self.base.device),
            device=str(self.base.device),
            dtype=str(self.base.dtype).removeprefix("torch."),
            packed=self.base.packs,
        )
        record = {
            "key": planned.key,
            "random_seed": trainee.job.random_seed,
            "chat_template": self.prepared.chat_template,  # its digest; the key has its text among the base's files
            "method": trainee.job.method.model_dump(mode="json"),
            "settings": self.settings.model_dump(mode="json", exclude={"students", "data", "sizes", "random_seeds"}),
            **log.model_dump(mode="json"),
            "environment": self.machine,
        }
        with folder_atomic(planned.folder) as folder:
            with disk_errors(planned.folder):
                trainee.weights.save(folder)
            write_json(folder / "cell.json", record)
            seal_adapter(folder, planned.key)


class _Checkpoints:
    """When the next one is due, and where they are."""

    def __init__(self, folder: Path, seconds: float) -> None:
        """`seconds` between two, or more where writing one takes more than a twentieth of that."""
        self.folder, self._seconds = folder, seconds
        self._next = time.monotonic() + seconds

    def last(self, keys: Collection[str], terminal: Terminal) -> Checkpoint | None:
        """The one to go on from. Says which were damaged. None where none of the cells `keys` is in work in it."""
        checkpoint, damaged = last_checkpoint(self.folder)
        for path in damaged:
            terminal.say(f"train: the checkpoint {path} was edited or damaged and is left out")
        begun = [reached for reached in checkpoint.state.cells if reached.key in keys] if checkpoint else []
        if checkpoint is None or not begun:
            return None
        steps = ", ".join(f"{len(reached.losses)}" for reached in begun)
        terminal.say(f"train: going on from {checkpoint.folder} (steps done of the cells in work: {steps})")
        return checkpoint

    @property
    def due(self) -> bool:
        """Whether enough was done since the last one."""
        return time.monotonic() >= self._next

    def write(self, together: int, trainees: Sequence[Trainee]) -> None:
        """Write one now."""
        started = time.monotonic()
        write_checkpoint(self.folder, together, trainees)
        taken = time.monotonic() - started
        self._next = started + taken + max(self._seconds, taken / WRITING_SHARE if self._seconds else 0)
