"""Remove from the shared cache what no run's stored results refer to."""

from __future__ import annotations

import shutil
from pathlib import Path

from harness.results import card_keys, read_cells
from harness.store import locked
from harness.terminal import Terminal

SHOWN = 10  # of what is removed, by name


def clean(runs: Path, dry_run: bool, terminal: Terminal) -> list[Path]:
    """Delete trained cells and scores that no runs/*/ names; returns what was (or would be) deleted.

    Which scores a run that is trained and not yet evaluated will name is not known: while there is one, all stay.
    """
    cells: set[str] = set()
    cards: set[str] = set()
    for path in runs.glob("*/train/cells.json"):
        cells |= {cell["key"] for cell in read_cells(path.parent.parent)["cells"]}
    for path in runs.glob("*/eval/scorecards.json"):
        cards |= card_keys(path.parent.parent)
    cache = runs / ".cache"
    waiting = [path.parent.parent.name for path in sorted(runs.glob("*/train/cells.json"))
               if not (path.parent.parent / "eval" / "scorecards.json").is_file()]  # fmt: skip
    if waiting:
        terminal.say(f"scores are left alone: {', '.join(waiting)} may still need them (trained, not evaluated)")
    with locked(cache / "training", "training"):  # a cell that is being trained has no run that names it yet
        return _remove(cache, cells, None if waiting else cards, dry_run, terminal)


def _remove(cache: Path, cells: set[str], cards: set[str] | None, dry_run: bool, terminal: Terminal) -> list[Path]:
    """`cards`: the scores that are named; None leaves all of them."""
    leftovers = [f for f in (cache / "students").glob("*") if f.name.split(".")[0] not in cells]
    if cards is not None:
        leftovers += [f for f in (cache / "scores").glob("*") if f.name.split(".")[0] not in cards]
    size = sum(
        f.stat().st_size for top in leftovers for f in (top.rglob("*") if top.is_dir() else [top]) if f.is_file()
    )
    if not dry_run:
        for path in leftovers:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    word, cells_left = "would remove" if dry_run else "removed", sum(path.is_dir() for path in leftovers)
    what = f"{cells_left} trained cells and {len(leftovers) - cells_left} files of scores"
    terminal.say(f"{word} {what} that no run refers to ({size / 2**20:.1f} MiB)")
    for path in leftovers[:SHOWN]:
        terminal.say(f"  {path.relative_to(cache.parent)}")
    if len(leftovers) > SHOWN:
        terminal.say(f"  and {len(leftovers) - SHOWN} more")
    return leftovers
