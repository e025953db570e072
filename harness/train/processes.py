"""Training by several processes, one for each GPU, that torchrun or accelerate starts: cells are divided among them.

Cells do not depend on each other, so that processes exchange nothing but that they have planned, and what failed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

from harness.errors import UsageError
from harness.train.grid import GridCell

PATIENCE = timedelta(days=30)  # of a process that waits for the others: who trains more may take long


@dataclass(frozen=True)
class Group:
    """The processes of one training, connected."""

    of: int

    def wait(self) -> None:
        """Go on when all have come here."""
        self.gathered({})

    def gathered(self, values: Mapping[str, str]) -> dict[str, str]:
        """What all processes give, put together, when all have given it."""
        if self.of == 1:
            return dict(values)
        import torch

        all_values: list[dict[str, str]] = [{} for _ in range(self.of)]
        torch.distributed.all_gather_object(all_values, dict(values))
        return {key: value for each in all_values for key, value in each.items()}


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
            yield Group(1)
            return
        import torch

        if torch.cuda.is_available():
            torch.cuda.set_device(self.on_this_machine % torch.cuda.device_count())
        torch.distributed.init_process_group("gloo", timeout=PATIENCE)
        try:
            yield Group(self.of)
        finally:
            torch.distributed.destroy_process_group()


ALONE = Processes()
