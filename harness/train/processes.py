"""Training by several processes, one for each GPU, that torchrun or accelerate starts: cells are divided among them.

Cells do not depend on each other, so that processes exchange nothing but that they have planned, and what failed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self

from harness.errors import MachineError, UsageError, first_line
from harness.train.grid import GridCell

ENDED = "harness/ended"  # in the store: a process has failed, so that nobody waits for it
LOOKS = 0.1  # seconds between two looks of a process that waits for the others: who trains more may take long


@dataclass
class Group:
    """The processes of one training, connected by a store of torch's that all of them see.

    There is no process group: where there is one, libraries take the processes for one training whose weights the
    first of them writes, and transformers' save_pretrained writes none in the others.
    """

    rank: int
    of: int
    store: Any = None  # a torch.distributed.Store
    meetings: int = 0

    def wait(self) -> None:
        """Go on when all have come here."""
        self.gathered({})

    def gathered(self, values: Mapping[str, str]) -> dict[str, str]:
        """What all processes give, put together, when all have given it. Raises MachineError where they are gone."""
        if self.of == 1:
            return dict(values)
        self.meetings += 1
        with self._errors():
            self.store.set(f"harness/{self.meetings}/{self.rank}", json.dumps(dict(values)))
            given = [json.loads(self._value(f"harness/{self.meetings}/{rank}")) for rank in range(self.of)]
        return {key: value for each in given for key, value in each.items()}

    def leave(self) -> None:
        """Tell the others that this process reads no more. The first one, which may hold the store, leaves last."""
        if self.of == 1:
            return
        with self._errors():
            self.store.set(f"harness/left/{self.rank}", "")
            if self.rank == 0:
                for rank in range(self.of):
                    self._value(f"harness/left/{rank}")

    def _value(self, key: str) -> bytes:
        while not self.store.check([key]):
            if self.store.check([ENDED]):
                raise MachineError(f"process {self.rank} of {self.of}: another one failed, see what it said")
            time.sleep(LOOKS)
        return bytes(self.store.get(key))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # what torch raises when the store cannot be reached
            raise MachineError(
                f"process {self.rank} of {self.of}: the others cannot be reached, one of them has ended: "
                f"{first_line(error)}"
            ) from error


@dataclass(frozen=True)
class Processes:
    """This process among those of one training. The first one writes what the run has in common."""

    rank: int = 0
    of: int = 1
    on_this_machine: int = 0  # its number there, which is that of its GPU

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """As torchrun and accelerate tell it. Without their variables there is one process.

        Raises UsageError for variables that are no numbers in their range.
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        if not all(name in environment for name in names[:2]):
            return cls()
        try:
            rank, of, local = (int(environment.get(name, "0")) for name in names)
        except ValueError as error:
            raise UsageError(f"{' '.join(names)}: torchrun sets these to numbers: {error}") from error
        if not 0 <= rank < of:
            raise UsageError(f"RANK {rank} is not below WORLD_SIZE {of}")
        return cls(rank, of, local)

    @property
    def first(self) -> bool:
        """Whether it is the one that writes what the run has in common."""
        return self.rank == 0

    @property
    def name(self) -> str:
        """What its own files have in their names. Empty where there is one process."""
        return f"-{self.rank}-of-{self.of}" if self.of > 1 else ""

    def mine(self, cells: Sequence[GridCell]) -> list[GridCell]:
        """Its share of the cells, in their order. The longest are given out first, each to who has least."""
        given = [0] * self.of
        owner: dict[str, int] = {}
        for planned in sorted(cells, key=lambda planned: (-planned.steps, planned.key)):
            owner[planned.key] = min(range(self.of), key=lambda rank: given[rank])
            given[owner[planned.key]] += planned.steps
        return [planned for planned in cells if owner[planned.key] == self.rank]

    @contextmanager
    def joined(self) -> Iterator[Group]:
        """Connected with the others inside the block."""
        if self.of == 1:
            yield Group(0, 1)
            return
        import torch
        from torch.distributed.rendezvous import rendezvous

        if torch.cuda.is_available():
            torch.cuda.set_device(self.on_this_machine % torch.cuda.device_count())
        store, _, _ = next(rendezvous("env://", self.rank, self.of))
        group = Group(self.rank, self.of, store)
        try:
            yield group
        except BaseException:
            with suppress(RuntimeError):
                store.set(ENDED, "")
            raise
        group.leave()


ALONE = Processes()
