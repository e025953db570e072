"""How far the cells in work have come, on disk: a killed training goes on from there to the same weights, bit for bit.

One folder for each time, the last two are kept: FOLDER/NUMBER/{state.json, 0.safetensors, ..., manifest.json}.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.core.record import Record
from harness.core.store import Manifest, finished, folder_atomic, write_json, write_manifest
from harness.errors import MachineError
from harness.train.trainee import Trainee

KEPT = 2  # the one before the last is there for a last one that a disk damaged
STATE = "state.json"


class Reached(Record):
    """How far one cell has come."""

    key: str  # the cell's
    losses: tuple[float, ...]
    validation: tuple[tuple[int, float], ...] = ()  # (steps done, mean loss of the dev items)
    tokens: int
    seconds: float


class State(Record):
    """What state.json holds."""

    together: int  # cells of a pass at most: it decides rounding, so that it must not change on the way
    cells: tuple[Reached, ...]  # in the order in which they are laid into a pass


@dataclass(frozen=True)
class Checkpoint:
    """One that was found whole."""

    folder: Path
    state: State

    def restore(self, trainee: Trainee) -> None:
        """Bring a trainee to where its cell was. One that is not in it stays as it is."""
        for number, reached in enumerate(self.state.cells):
            if reached.key == trainee.job.key:
                _fill(trainee, load_file(self.folder / f"{number}.safetensors"))
                trainee.resume(reached.losses, reached.validation, reached.tokens, reached.seconds)


def write_checkpoint(folder: Path, together: int, trainees: Sequence[Trainee]) -> None:
    """Store where these cells are. Raises MachineError where the disk refuses."""
    before = _numbers(folder)
    cells = tuple(
        Reached(
            key=trainee.job.key,
            losses=tuple(trainee.losses),
            validation=tuple(trainee.validation),
            tokens=trainee.tokens,
            seconds=trainee.seconds,
        )
        for trainee in trainees
    )
    with folder_atomic(folder / f"{max(before, default=0) + 1:06d}") as made:
        try:
            for number, trainee in enumerate(trainees):
                save_file(dict(_tensors(trainee)), made / f"{number}.safetensors")
        except (OSError, SafetensorError) as error:  # a full disk is no OSError to safetensors
            raise MachineError(f"{folder}: the state of the training cannot be written: {error}") from error
        write_json(made / STATE, State(together=together, cells=cells).model_dump(mode="json"))
        write_manifest(made, Manifest(stage="checkpoint", inputs=STATE), sorted(made.iterdir()))
    for number in before[: -(KEPT - 1)]:
        shutil.rmtree(folder / f"{number:06d}", ignore_errors=True)


def last_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[Path]]:
    """(The newest that is whole, those newer than it, which are damaged)."""
    damaged: list[Path] = []
    for number in reversed(_numbers(folder)):
        path = folder / f"{number:06d}"
        if finished(path, STATE) is not None:
            try:
                return Checkpoint(path, State.model_validate_json((path / STATE).read_bytes())), damaged
            except ValidationError:  # of another version
                pass
        damaged.append(path)
    return None, damaged


def remove_checkpoints(folder: Path) -> None:
    """Remove them all: nothing is left to go on with."""
    shutil.rmtree(folder, ignore_errors=True)


def _numbers(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.glob("[0-9]*") if path.name.isdecimal())


def _tensors(trainee: Trainee) -> Iterator[tuple[str, Tensor]]:
    """Weights, the best so far and the optimizer's state of each, by their place in the list of parameters."""
    for place, weight in enumerate(trainee.weights.parameters):
        yield f"{place}.weight", weight.detach().contiguous()
        for name, value in trainee.optimizer.state[weight].items():
            yield f"{place}.{name}", value.contiguous()
    for place, best in enumerate(trainee.best):
        yield f"{place}.best", best.contiguous()


def _fill(trainee: Trainee, tensors: dict[str, Tensor]) -> None:
    stored: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, _, what = name.partition(".")
        stored.setdefault(int(number), {})[what] = value
    for place, weight in enumerate(trainee.weights.parameters):
        weight.data.copy_(stored[place].pop("weight"))
        if "best" in stored[place]:
            trainee.best.append(stored[place].pop("best").to(weight.device))
        trainee.optimizer.state[weight] = {what: value.to(weight.device) for what, value in stored[place].items()}
