"""The train stage: every cell of the grid gets an adapter, unless some run has trained the same one before.

rows of augment + seeds -> grid -> keys -> preflight of every student -> one adapter per missing cell
-> runs/.cache/students/KEY/ (shared by all runs), runs/NAME/train/cells.json
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.config.run import Run
from harness.core.aligned import aligned
from harness.core.environment import environment
from harness.core.json_file import read_json
from harness.core.record import digest
from harness.core.store import Manifest, finished, folder_atomic, locked, unseal, write_json, write_manifest
from harness.core.terminal import Advance, Stop, Terminal
from harness.errors import Interrupted
from harness.models.resolve import Model
from harness.train.adapters import seal_adapter
from harness.train.cells import CELLS, TrainedCell, TrainedCells
from harness.train.grid import GridCell, expand, no_sampling_variance

if TYPE_CHECKING:
    from harness.models.chat_template import TokenizedRow
    from harness.train.loop import Base

CELLS_VERSION = 3  # of what cells.json says of a cell


def train(run: Run, terminal: Terminal, stop: Stop) -> int | None:
    """Train what is missing of the run's grid; returns how many cells that were, or None.

    Raises UsageError when there are fewer rows than a size asks for or a row would spoil a student,
    Interrupted after writing what there is, MachineError for memory, disk, or a loss that is no number.
    """
    folder = run.folder / "train"
    grid = expand(run)
    inputs = digest("train", CELLS_VERSION, [[g.cell.model_dump(), g.key] for g in grid])
    manifest = finished(folder, inputs)
    missing = {g.key: g for g in grid if not g.trained(run)}
    if manifest and not missing:
        terminal.say(f"train: nothing to do ({manifest.summary}; same rows, students and settings)")
        return None
    with locked(folder, f"train of {run.name}"):
        notes = no_sampling_variance(grid)
        for note in notes:
            terminal.say(f"train: {note}")
        _say_what_is_there(run, grid, missing, terminal)
        trained = _train_missing(run, list(missing.values()), terminal, stop) if missing else 0
        done = [g for g in grid if g.key not in missing or g.trained(run)]
        cells = tuple(_trained_cell(run, g) for g in done)
        settings = run.file.train
        unseal(folder)
        stored = TrainedCells(cells=cells, notes=tuple(notes), epochs=settings.epochs, min_steps=settings.min_steps)
        write_json(folder / CELLS, stored.model_dump(mode="json"))
        partial = len(done) < len(grid)
        summary = f"{len(done)} of {len(grid)} cells" if partial else f"{len(grid)} cells"
        record = Manifest(
            stage="train", inputs=inputs, partial=partial, summary=summary, environment=environment(run.root)
        )
        write_manifest(folder, record, [folder / CELLS])
    terminal.say(table(cells))
    if partial or stop():
        more = f"; go on with: make train RUN={run.name}" if partial else ""
        raise Interrupted(f"stopped: {summary} are trained{more}")
    return trained


# --- training what is missing


def _say_what_is_there(run: Run, grid: Sequence[GridCell], missing: Mapping[str, GridCell], terminal: Terminal) -> None:
    """Say which cells were trained before, and which must be trained again."""
    tuned = [g for g in grid if g.rows]
    there = [g for g in tuned if g.key not in missing]
    if there:
        terminal.say(
            f"train: {len(there)} of {len(tuned)} cells are trained already, in this run or another: {_names(there)}"
        )
    damaged = [g for g in missing.values() if g.folder(run).exists()]
    if damaged:
        terminal.say(
            "train: adapters that were edited or damaged, or that an older version left without a seal, are trained"
            f" again: {_names(damaged)}"
        )


def _names(cells: Sequence[GridCell]) -> str:
    return ", ".join(g.cell.name for g in cells[:4]) + (", ..." if len(cells) > 4 else "")


def _train_missing(run: Run, missing: Sequence[GridCell], terminal: Terminal, stop: Stop) -> int:
    """Check every student's rows, then train cell after cell; returns how many were finished."""
    from harness.models.chat_template import left_out, load_chat
    from harness.train.loop import load_base
    from harness.train.preflight import preflight

    examples: dict[Model, Mapping[str, TokenizedRow]] = {}
    for model, cells in _by_model(missing).items():
        rows = [row for g in cells for row in g.rows]
        chat = load_chat(model.name, model.folder)
        for note in left_out(chat, rows[0].messages[:-1]):
            terminal.say(f"train: {note}")
        examples[model] = preflight(chat, rows, run.file.train)
    finished = done = 0
    total = sum(g.steps for g in missing)
    with locked(run.cache / "training", "training"), terminal.progress("train", total) as advance:
        _sweep(run.cache / "students")
        for model, cells in _by_model(missing).items():
            if stop():
                break
            advance(done, f"loading {model.name}")
            base = load_base(model, list(examples[model].values()))
            for g in cells:
                if stop() or not _train_one(run, g, base, examples[model], advance, done, stop):
                    break
                finished += 1
                done += g.steps
            del base  # let go of it before the next is loaded
    return finished


def _train_one(
    run: Run,
    g: GridCell,
    base: Base,
    examples: Mapping[str, TokenizedRow],
    advance: Advance,
    done: int,
    stop: Stop,
) -> bool:
    """Train one cell into the shared cache, whole or not at all; false when the user stopped it."""
    from harness.train.loop import train_cell

    def report(steps: int, note: str) -> None:
        advance(done + steps, f"{g.cell.name}: {note}")

    settings = run.file.train.model_dump(mode="json", exclude={"students", "data", "sizes", "random_seeds"})
    try:
        with folder_atomic(g.folder(run)) as folder:
            log = train_cell(base, g.rows, examples, run.file.train, g.steps, g.cell.random_seed, folder, report, stop)
            if log is None:
                raise Interrupted(f"{g.cell.name} was stopped")  # makes the half-made folder vanish
            record = {
                "key": g.key,
                "random_seed": g.cell.random_seed,
                "settings": settings,
                **log.model_dump(mode="json"),
                "environment": environment(run.root),
            }
            write_json(folder / "cell.json", record)
            seal_adapter(folder, g.key)
    except Interrupted:
        return False
    return True


def _by_model(cells: Sequence[GridCell]) -> dict[Model, list[GridCell]]:
    grouped: dict[Model, list[GridCell]] = {}
    for g in cells:
        grouped.setdefault(g.model, []).append(g)
    return grouped


def _sweep(students: Path) -> None:
    """Remove what a killed training left behind; the caller holds the lock."""
    for left in students.glob(".*.*"):
        shutil.rmtree(left, ignore_errors=True)


# --- what is written and shown


def _trained_cell(run: Run, g: GridCell) -> TrainedCell:
    """A cell as eval and report read it."""
    untrained = TrainedCell(
        **g.cell.model_dump(),
        name=g.cell.name,
        key=g.key,
        model=g.model.identity,
        tuned=bool(g.rows),
        base=_relative(g.model.folder, run.root),
        folder=_relative(g.folder(run), run.root) if g.rows else "",
        rows=len(g.rows),
        available=g.available,
        steps=g.steps,
    )
    if not g.rows:
        return untrained
    log = read_json(g.folder(run) / "cell.json")
    losses = log["losses"]
    few = max(1, len(losses) // 10)  # one step is eight rows: too few to read a loss from
    return untrained.model_copy(
        update={
            "tokens": log["tokens"],
            "seconds": log["seconds"],
            "first_loss": sum(losses[:few]) / few,
            "final_loss": sum(losses[-few:]) / few,
        }
    )


def _relative(path: Path, root: Path) -> str:
    """A path as seen from the project, where it lies in it; runs/ may be a link to elsewhere."""
    pairs = ((path, root), (path.resolve(), root.resolve()))
    return next((str(inner.relative_to(outer)) for inner, outer in pairs if inner.is_relative_to(outer)), str(path))


def table(cells: Sequence[TrainedCell]) -> str:
    """One line per tuned cell; losses are means over the first and the last tenth of the steps."""
    tuned = [cell for cell in cells if cell.tuned]
    if not tuned:
        return "no cell is trained yet"
    rows = [("cell", "rows", "steps", "seconds", "tokens/s", "loss first -> last")]
    for cell in tuned:
        speed = cell.tokens / max(cell.seconds, 1e-9)
        losses = f"{cell.first_loss:.3f} -> {cell.final_loss:.3f}"
        rows.append((cell.name, str(cell.rows), str(cell.steps), f"{cell.seconds:.1f}", f"{speed:.0f}", losses))
    return aligned(rows, right=range(1, 5))
