"""The student that `ship:` names."""

from __future__ import annotations

from harness.config.arms import SEEDS_ONLY
from harness.config.run import Run
from harness.errors import UsageError
from harness.records import Cell


def ship_cells(run: Run) -> tuple[Cell, ...]:
    """The cells that `ship:` names: one student, or all random seeds of it when it asks about the recipe."""
    ship = run.file.ship
    if ship is None:
        raise UsageError(
            f"runs/{run.name}.yaml: it has no ship section, which says which student is judged:"
            " ship: {student: ..., data: filtered, size: ..., random_seed: 0}"
        )
    size = len(run.seeds) if ship.data == SEEDS_ONLY and ship.size else ship.size
    seeds = run.file.train.random_seeds if ship.question == "recipe" and size else (ship.random_seed,)
    method = ship.method if size and ship.method in run.file.train.by_method else ""
    return tuple(
        Cell(student=ship.student, data=ship.data, size=size, random_seed=seed, method=method) for seed in seeds
    )
