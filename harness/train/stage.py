"""The train stage: every cell of the grid gets an adapter, unless some run has trained the same one before.

rows of augment + seeds -> plan: cells with keys -> preflight of every student -> one adapter per missing cell
-> runs/.cache/students/KEY/ (shared by all runs), runs/NAME/train/cells.json
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from harness.config.run import Run
from harness.core.aligned import aligned
from harness.core.environment import environment
from harness.core.json_file import read_json
from harness.core.store import Manifest, finished, locked, unseal, write_json, write_manifest
from harness.core.terminal import Stop, Terminal
from harness.errors import Interrupted, MachineError
from harness.models.resolve import Model
from harness.train.cells import CELLS, CHECKPOINTS, TrainedCell, TrainedCells, early_stopping_note
from harness.train.grid import GridCell, TrainPlan, plan_training
from harness.train.preflight import Prepared, check_students
from harness.train.pretraining import settings_of
from harness.train.processes import ALONE, Processes
from harness.train.row_scores import NO_MODELS, Models, measure_rows
from harness.train.trackers import libraries
from harness.train.watching import watching

# trains the first cells, which are some of the second ones; (key -> why) of those that failed
Elsewhere = Callable[[Sequence[GridCell], Sequence[GridCell]], dict[str, str]]


def train(
    run: Run,
    terminal: Terminal,
    stop: Stop,
    models: Models = NO_MODELS,
    processes: Processes = ALONE,
    elsewhere: Elsewhere | None = None,
) -> int | None:
    """Train the missing cells of the run's grid. Returns their number, or None when none is missing.

    `models` measure the rows that a selection ranks. Of several `processes` each trains its share, and the first one
    writes what the run has in common when all are done. `elsewhere` trains on other machines, where it is given.
    Raises UsageError when there are fewer rows than a size asks for or a row would spoil a student,
    Interrupted after writing what there is, MachineError for memory, disk, or a loss that is no number.
    """
    folder = run.folder / "train"
    with ExitStack() as held, processes.joined() as group:
        if processes.first:
            held.enter_context(locked(folder, f"train of {run.name}"))
            measure_rows(run, models, terminal, stop)
        group.wait()
        plan = plan_training(run)
        manifest = finished(folder, plan.inputs)
        missing = plan.missing
        if manifest and not missing:
            terminal.say(f"train: nothing to do ({manifest.summary}; same rows, students and settings)")
            return None
        if processes.first and missing:
            held.enter_context(locked(run.cache / "training", "training"))
            _sweep(run.cache / "students")
        group.wait()  # no cell is stored before all have seen the same ones missing
        for note in plan.notes:
            terminal.say(f"train: {note}")
        _say_what_is_stored(plan, missing, terminal)
        machine = environment(run.root)
        prepared = check_students(run, list(missing.values()), terminal.say)
        failed, count = dict[str, str](), 0
        for first in (True, False):  # what others begin from is trained first
            # divided among processes are all of them, not the missing ones: after a kill each finds its checkpoints
            every = [planned for planned in plan.distinct.values() if planned.is_pretraining is first and planned.rows]
            mine = [missing[p.key] for p in processes.mine(every) if p.key in missing and missing[p.key].can_begin]
            count += len(mine)
            if elsewhere and mine:
                failed |= elsewhere(mine, every)
            else:
                failed |= group.gathered(
                    train_missing(mine, prepared, run, machine, processes.name, terminal, stop) if mine else {}
                )
        if not processes.first:
            return count
        done = [planned for planned in plan.cells if _unchanged(planned, missing) or planned.can_be_loaded]
        stored = _write_cells(run, plan, done, machine)
        if len(done) == len(plan.cells):  # of other settings, or of as many processes as there were before a kill
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    terminal.say(table((*stored.pretraining, *stored.cells)))
    if failed:
        raise MachineError(_failure(failed, missing))
    stopped = len(done) < len(plan.cells)
    if stopped or stop():
        what = _summary(plan, done)
        more = f"; go on with: {run.command('train')}" if stopped else ""
        raise Interrupted(f"stopped: {what} are trained{more}")
    return sum(planned.key in missing for planned in done)


def _unchanged(planned: GridCell, missing: Mapping[str, GridCell]) -> bool:
    """Whether a cell and what it began from were stored before this training."""
    return planned.key not in missing and (planned.pretraining is None or planned.pretraining.key not in missing)


def _failure(failed: Mapping[str, str], missing: Mapping[str, GridCell]) -> str:
    """Which cells failed and why, and what became of the other missing ones."""
    left = [planned for key, planned in missing.items() if key not in failed and not planned.trained]
    waiting = [planned for planned in left if planned.pretraining and planned.pretraining.key in failed]
    said = [f"{len(failed)} of {len(missing)} cells failed"]
    if waiting:
        said.append(f"{len(waiting)} that begin from their weights are not trained: {_names(waiting)}")
    if len(left) > len(waiting):
        said.append(f"{len(left) - len(waiting)} were not finished before the stop")
    if len(missing) > len(failed) + len(left):
        said.append("the others are stored")
    reasons = "; ".join(f"{missing[key].cell.name}: {reason}" for key, reason in failed.items())
    return f"{', '.join(said)}; {reasons}"


def _summary(plan: TrainPlan, done: Sequence[GridCell]) -> str:
    return f"{len(done)} of {len(plan.cells)} cells" if len(done) < len(plan.cells) else f"{len(done)} cells"


def _write_cells(run: Run, plan: TrainPlan, done: Sequence[GridCell], machine: Mapping[str, Any]) -> TrainedCells:
    """Write cells.json and its seal. Returns what is in it."""
    folder, settings = run.folder / "train", run.file.train
    cells = tuple(_trained_cell(planned, run.root) for planned in done)
    stored = TrainedCells(
        cells=cells,
        pretraining=tuple(_trained_cell(planned, run.root) for planned in plan.pretraining if planned.trained),
        notes=(*plan.notes, *early_stopping_note(cells)),
        epochs=settings.epochs,
        min_steps=settings.min_steps,
    )
    unseal(folder)
    write_json(folder / CELLS, stored.model_dump(mode="json"))
    partial, summary = len(done) < len(plan.cells), _summary(plan, done)
    record = Manifest(stage="train", inputs=plan.inputs, partial=partial, summary=summary, environment=dict(machine))
    write_manifest(folder, record, [folder / CELLS])
    return stored


# --- training what is missing


def _say_what_is_stored(plan: TrainPlan, missing: Mapping[str, GridCell], terminal: Terminal) -> None:
    """Say which cells were trained before, and which must be trained again."""
    tuned = [planned for planned in plan.cells if planned.rows]
    stored = [planned for planned in tuned if planned.key not in missing]
    if stored:
        names = _names(stored)
        terminal.say(f"train: {len(stored)} of {len(tuned)} cells are trained already, in this run or another: {names}")
    damaged = [planned for planned in missing.values() if planned.folder.exists()]
    if damaged:
        terminal.say(
            "train: adapters that were edited or damaged, or that an older version left without a seal, are trained"
            f" again: {_names(damaged)}"
        )


def _names(cells: Sequence[GridCell]) -> str:
    return ", ".join(planned.cell.name for planned in cells[:4]) + (", ..." if len(cells) > 4 else "")


def train_missing(
    missing: Sequence[GridCell],
    prepared: Mapping[Model, Prepared],
    run: Run,
    machine: Mapping[str, Any],
    process: str,
    terminal: Terminal,
    stop: Stop,
) -> dict[str, str]:
    """Train the cells of every student. Returns (key -> why) of those that failed."""
    from harness.train.base import load_base
    from harness.train.work import Work

    failed: dict[str, str] = {}
    folder, settings = run.folder / "train", run.file.train
    opening = libraries(settings.report_to, folder, run.name)
    with watching(missing, folder, process, opening, terminal) as watcher:
        for (model, four_bits), cells in _by_base(missing).items():
            if stop():
                break
            student = prepared[cells[0].model]
            watcher.loads(model.name)
            base = load_base(model, list(student.examples.values()), four_bits=four_bits)
            used = settings_of(settings) if cells[0].is_pretraining else settings
            work = Work(base, cells, student, used, folder, machine, process)
            failed |= work.train(watcher, terminal, stop)
            del base, work  # let go of it before the next is loaded
    return failed


def _by_base(cells: Sequence[GridCell]) -> dict[tuple[Model, bool], list[GridCell]]:
    """Cells by what is loaded for them: the weights that they begin from, and whether in 4 bits."""
    grouped: dict[tuple[Model, bool], list[GridCell]] = {}
    for planned in cells:
        grouped.setdefault((planned.begins_as, planned.method.kind == "qlora"), []).append(planned)
    return grouped


def _sweep(students: Path) -> None:
    """Remove the unfinished folders of a killed training. The caller holds the lock."""
    for unfinished in students.glob(".*.*"):
        shutil.rmtree(unfinished, ignore_errors=True)


# --- what is written and shown


def _trained_cell(planned: GridCell, root: Path) -> TrainedCell:
    """A cell as eval and report read it."""
    untrained = TrainedCell(
        **planned.cell.model_dump(),
        name=planned.cell.name,
        key=planned.key,
        model=planned.model.identity,
        tuned=bool(planned.rows),
        base=_relative(planned.base, root),
        folder=_relative(planned.adapter, root) if planned.adapter else "",
        pretraining=planned.pretraining.key if planned.pretraining else "",
        rows=len(planned.rows),
        available=planned.available,
        steps=planned.steps,
    )
    if not planned.rows:
        return untrained
    log = read_json(planned.folder / "cell.json")
    losses, best_step = log["losses"], log.get("best_step")
    validation = dict(log.get("validation", ()))
    few = max(1, len(losses) // 10)  # one step is eight rows: too few to read a loss from
    return untrained.model_copy(
        update={
            "learning_rate": planned.learning_rate,
            "steps_done": log.get("steps_done"),
            "best_step": best_step,
            "validation_loss": validation.get(best_step or len(losses)),
            "tokens": log["tokens"],
            "seconds": log["seconds"],
            "first_loss": sum(losses[:few]) / few,
            "final_loss": sum(losses[-few:]) / few,
        }
    )


def _relative(path: Path, root: Path) -> str:
    """A path as seen from the project, where it lies in it. runs/ may be a link to another place."""
    pairs = ((path, root), (path.resolve(), root.resolve()))
    return next((str(inner.relative_to(outer)) for inner, outer in pairs if inner.is_relative_to(outer)), str(path))


def table(cells: Sequence[TrainedCell]) -> str:
    """One line per tuned cell. Losses are means over the first and the last tenth of the steps done.

    The dev loss is that of the dev items with the cell's weights, where there was a validation.
    """
    tuned = [cell for cell in cells if cell.tuned]
    if not tuned:
        return "no student is tuned yet"
    validated = any(cell.validation_loss is not None for cell in tuned)
    more = ["dev loss"] if validated else []
    rows = [("cell", "rows", "steps", "seconds", "tokens/s", "loss first -> last", *more)]
    for cell in tuned:
        speed = cell.tokens / max(cell.seconds, 1e-9)
        losses = f"{cell.first_loss:.3f} -> {cell.final_loss:.3f}"
        row = (cell.name, str(cell.rows), cell.steps_words, f"{cell.seconds:.1f}", f"{speed:.0f}", losses)
        on_dev = "" if cell.validation_loss is None else f"{cell.validation_loss:.3f}"
        rows.append((*row, *([on_dev] if validated else [])))
    return aligned(rows, right=range(1, 5))
