"""Remove from the shared cache what no run's stored results refer to."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path

from harness.core.store import locked
from harness.core.terminal import Terminal
from harness.errors import MachineError
from harness.eval.results import keys_in_use
from harness.train.cells import cell_keys

MOST_LISTED = 10  # of what is removed, by name


def clean(runs: Path, dry_run: bool, terminal: Terminal) -> list[Path]:
    """Delete trained cells and scores that no runs/*/ names. Returns what was (or would be) deleted.

    Teacher calls, measured rows and models stay.

    Which scores a run that is trained and not yet evaluated, or is being evaluated, will name is not known: while
    there is one, all stay. Raises MachineError while something is trained, UsageError for a damaged file.
    """
    cells: set[str] = set()
    cards: set[str] = set()
    waiting: list[str] = []
    cache = runs / ".cache"
    with ExitStack() as held:
        # a cell that is being trained has no run that names it yet
        _hold(held, cache / "training", "training", dry_run)
        for folder in sorted({stage.parent for name in ("train", "eval") for stage in runs.glob(f"*/{name}")}):
            trained, pretraining = cell_keys(folder)
            cells |= trained | pretraining
            try:
                _hold(held, folder / "eval", f"eval of {folder.name}", dry_run)
            except MachineError:
                waiting.append(folder.name)
                continue
            named, scored = keys_in_use(folder)
            cards |= named
            waiting += [folder.name] if trained - scored else []
        if waiting:
            why = "trained, and not evaluated to the end"
            terminal.say(f"scores are left alone: {', '.join(waiting)} may still need them ({why})")
        return _remove(cache, cells, None if waiting else cards, dry_run, terminal)


def _hold(held: ExitStack, folder: Path, what: str, dry_run: bool) -> None:
    """Lock a folder, as `locked`. A dry run makes none: where there is no lock nobody holds it."""
    if not dry_run or (folder / ".lock").is_file():
        held.enter_context(locked(folder, what))


def _remove(cache: Path, cells: set[str], cards: set[str] | None, dry_run: bool, terminal: Terminal) -> list[Path]:
    """`cards`: the scores that runs name. With None all scores stay."""
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
    for path in leftovers[:MOST_LISTED]:
        terminal.say(f"  {path.relative_to(cache.parent)}")
    if len(leftovers) > MOST_LISTED:
        terminal.say(f"  and {len(leftovers) - MOST_LISTED} more")
    return leftovers
