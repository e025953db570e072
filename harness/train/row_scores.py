"""What selections rank rows by: measured once by a model, and kept in runs/.cache/row_scores/ by model and row.

student_fit   the mean log-probability (nats a token) of the answer under the untuned student, asked as it is tuned
              (GRAPE: Zhang et al. 2025, arXiv 2502.04194)
ifd           the loss of the answer with its prompt over its loss without one, under the untuned student: how little
              the prompt helps (Instruction-Following Difficulty: Li et al. 2024, arXiv 2308.12032)
diverse       the place in a greedy choice by facility location over sentence embeddings of the inputs

A file is written whole, again and again while rows are measured, so that a kill costs seconds of work.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from harness.augment.current import kept_rows
from harness.config.arms import DataArm, plain_arms
from harness.config.run import Run
from harness.core.json_file import read_json
from harness.core.record import Record, digest
from harness.core.store import locked, write_json
from harness.core.terminal import Stop, Terminal
from harness.errors import Interrupted, MachineError, UsageError
from harness.models.resolve import Model, resolve
from harness.records import Message, Pair, Row
from harness.train.arms import Scores, by_label

if TYPE_CHECKING:
    from harness.engines.protocols import Embedder, StudentEngine

FOLDER = "row_scores"
VERSION = 1  # of how rows are measured
BLOCK = 64  # rows measured in one call
SAVE_SECONDS = 10.0  # of work that a kill may cost
DECIMALS = 6
DIVERSE, STUDENT_FIT, IFD = "diverse", "student_fit", "ifd"
MEASURED = (DIVERSE, STUDENT_FIT, IFD)


@dataclass(frozen=True)
class Models:
    """Builders of the models that measure rows. Each is called when a score is missing."""

    student: Callable[[str], StudentEngine]  # by the name that train.students has
    embedder: Callable[[], Embedder]
    block: int = BLOCK  # rows measured in one call


def _no_student(name: str) -> StudentEngine:
    raise UsageError(f"no student {name!r} is at hand to measure rows")


def _no_embedder() -> Embedder:
    raise UsageError("no embedding model is at hand to measure rows")


NO_MODELS = Models(_no_student, _no_embedder)


class StudentScores(Record):
    """What a student says of rows: row id -> mean log-probability of the answer, in nats a token."""

    prompted: dict[str, float] = {}  # asked as it is tuned
    alone: dict[str, float] = {}  # asked nothing
    seal: str = ""  # digest of the rest

    def sealed(self) -> str:
        """The seal of untouched scores."""
        return digest(FOLDER, self.prompted, self.alone)


class DiverseOrder(Record):
    """Row ids in the order in which they are taken: as many as were needed so far."""

    order: tuple[str, ...] = ()
    seal: str = ""

    def sealed(self) -> str:
        """The seal of an untouched order."""
        return digest(DIVERSE, list(self.order))


@dataclass(frozen=True)
class Unmeasured:
    """Rows that a selection cannot rank yet."""

    data: tuple[str, ...]  # the selections that wait for it
    student: str  # under which they are to be measured; empty: by sentence embeddings
    rows: int

    @property
    def words(self) -> str:
        """For people."""
        how = f"under {self.student}" if self.student else "by sentence embeddings"
        return f"data {', '.join(self.data)}: {self.rows} rows are to be measured {how}"


def measures_of(arms: Sequence[DataArm]) -> list[str]:
    """The selections among arms, and in their mixes and replays, that a model measures."""
    names = {arm.name for arm in plain_arms(arms)}
    return [name for name in MEASURED if name in names]


def stored_scores(
    arms: Sequence[DataArm], rows: Sequence[Row], largest: int, model: Model, cache: Path
) -> tuple[Scores, list[Unmeasured]]:
    """(The scores of the kept rows that these arms go by, what is still to be measured for them).

    `largest`: rows of the largest size. Nothing is loaded.
    """
    measures = measures_of(arms) if largest else []
    scores, missing = dict[str, Mapping[str, float]](), list[Unmeasured]()
    if DIVERSE in measures:
        due = _due(rows, largest)
        orders = [_read(_diverse_path(group, cache), DiverseOrder).order for group, _ in due]
        lacking = sum(len(group) for (group, need), order in zip(due, orders, strict=True) if len(order) < need)
        missing += [Unmeasured((DIVERSE,), "", lacking)] if lacking else []
        scores[DIVERSE] = {row: -float(place) for order in orders for place, row in enumerate(order)}
    of_student = tuple(name for name in measures if name != DIVERSE)
    if of_student:
        stored = _read(_student_path(model, cache), StudentScores)
        lacking = len(_lacking(rows, stored, alone=IFD in measures))
        missing += [Unmeasured(of_student, model.name, lacking)] if lacking else []
        scores[STUDENT_FIT] = stored.prompted
        scores[IFD] = {
            row.id: _ratio(stored.prompted[row.id], stored.alone[row.id])
            for row in rows
            if row.id in stored.prompted and row.id in stored.alone
        }
    return scores, missing


def measure_rows(run: Run, models: Models, terminal: Terminal, stop: Stop) -> None:
    """Measure what the selections of a run lack. Models are loaded for what is missing alone.

    Raises UsageError for rows that a student cannot read, Interrupted after storing what there is.
    """
    settings, largest = run.file.train, max(run.file.train.sizes)
    if not measures_of(settings.data):
        return
    rows = kept_rows(run)
    for name in settings.students:
        model = resolve(name, run.cache, root=run.root)
        for missing in stored_scores(settings.data, rows, largest, model, run.cache)[1]:
            with locked(run.cache / FOLDER, "measuring rows"):
                if missing.student:
                    alone = IFD in measures_of(settings.data)
                    _measure(name, model, rows, alone, run.cache, models, terminal, stop)
                else:
                    _choose_diverse(rows, largest, run.cache, models, terminal)
        if stop():
            raise Interrupted(f"stopped: rows that are measured are kept; go on with: {run.command('train')}")


# --- by a student


def _measure(
    name: str,
    model: Model,
    rows: Sequence[Row],
    alone: bool,
    cache: Path,
    models: Models,
    terminal: Terminal,
    stop: Stop,
) -> None:
    """Measure the rows that have no scores under a student, block by block, until the user stops it."""
    path = _student_path(model, cache)
    stored = _read(path, StudentScores)
    prompted, without = dict(stored.prompted), dict(stored.alone)
    lacking = _lacking(rows, stored, alone)
    engine, saved = models.student(name), time.monotonic()
    with terminal.progress("measuring rows", len(lacking)) as advance:
        for start in range(0, len(lacking), models.block):
            if stop():
                break
            block = lacking[start : start + models.block]
            prompted |= _mean_logprobs([row for row in block if row.id not in prompted], engine, name, _as_it_is)
            if alone:
                without |= _mean_logprobs([row for row in block if row.id not in without], engine, name, emptied)
            if time.monotonic() - saved > SAVE_SECONDS:
                _write(path, StudentScores(prompted=prompted, alone=without))
                saved = time.monotonic()
            advance(start + len(block), f"under {name}")
    _write(path, StudentScores(prompted=prompted, alone=without))


def _mean_logprobs(
    rows: Sequence[Row], engine: StudentEngine, name: str, prompt: Callable[[tuple[Message, ...]], tuple[Message, ...]]
) -> dict[str, float]:
    """Row id -> mean log-probability of its answer, given what `prompt` makes of the messages before it."""
    if not rows:
        return {}
    pairs = [
        Pair(
            context=engine.prompt_ids(prompt(row.messages[:-1])),
            continuation=engine.answer_ids(row.messages[:-1], row.messages[-1].content),
        )
        for row in rows
    ]
    for row, pair in zip(rows, pairs, strict=True):
        length = len(pair.context) + len(pair.continuation)
        if length > engine.max_length:
            raise UsageError(
                f"{name}: row {row.id} has {length} tokens, its context has {engine.max_length}: drop long rows by a"
                f" `length` filter: {row.text[:50]!r}"
            )
    scores: dict[str, float] = {}
    for row, measured in zip(rows, engine.loglikelihood(pairs), strict=True):
        if not math.isfinite(measured.logprob):
            raise MachineError(f"{name}: the log-likelihood of row {row.id} is no number: {measured.logprob}")
        scores[row.id] = round(measured.logprob / measured.tokens, DECIMALS)
    return scores


def _as_it_is(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    return messages


def emptied(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """A prompt that asks nothing: the system message, where there is one, and a user's turn, both without a word.

    No prompt at all would leave out what marks an answer as one, and some chat templates would fill in a system
    message.
    """
    system = [Message(role="system", content="")] if messages[0].role == "system" else []
    return (*system, Message(role="user", content=""))


def _ratio(prompted: float, alone: float) -> float:
    """The loss with the prompt over the loss without it."""
    return prompted / alone if alone else math.inf


def _lacking(rows: Iterable[Row], stored: StudentScores, alone: bool) -> list[Row]:
    """The rows without a score, each once, in their order."""
    unique = {row.id: row for row in rows}
    return [row for key, row in unique.items() if key not in stored.prompted or (alone and key not in stored.alone)]


def _student_path(model: Model, cache: Path) -> Path:
    return cache / FOLDER / f"{digest(FOLDER, VERSION, model.weights_digest)[:32]}.json"


# --- by sentence embeddings


def _choose_diverse(rows: Sequence[Row], largest: int, cache: Path, models: Models, terminal: Terminal) -> None:
    """Choose the most diverse rows of each label, as many as the largest size takes of it."""
    import numpy as np

    from harness.filters.meaning import facility_location

    due = [(group, need) for group, need in _due(rows, largest) if need]
    embedder = models.embedder()
    with terminal.progress("embedding rows", len(due)) as advance:
        for done, (group, need) in enumerate(due, start=1):
            vectors = embedder.embed([row.text for row in group])
            chosen = facility_location(vectors, need, np.zeros((0, vectors.shape[1]), np.float32))
            _write(_diverse_path(group, cache), DiverseOrder(order=tuple(group[place].id for place in chosen)))
            advance(done, "by sentence embeddings")


def _due(rows: Sequence[Row], largest: int) -> list[tuple[list[Row], int]]:
    """(Rows of a label, in the order of their ids, and how many of them a size can take at most), label by label."""
    unique = list({row.id: row for row in rows}.values())
    groups = by_label(sorted(unique, key=lambda row: row.id)).values()
    return [(group, min(len(group), rounds_of([len(one) for one in groups], largest))) for group in groups]


def rounds_of(groups: Sequence[int], size: int) -> int:
    """How often each of several groups is called in turn until `size` rows are taken, or all."""
    rounds = 0
    while sum(min(rounds, group) for group in groups) < min(size, sum(groups)):
        rounds += 1
    return rounds


def _diverse_path(group: Sequence[Row], cache: Path) -> Path:
    return cache / FOLDER / f"{digest(DIVERSE, VERSION, [row.id for row in group])[:32]}.json"


# --- files

S = TypeVar("S", StudentScores, DiverseOrder)


def _read(path: Path, model: type[S]) -> S:
    """What a file holds, or nothing where there is none, or one that was edited or damaged: it is measured again."""
    try:
        stored = model.model_validate(read_json(path))
    except (UsageError, ValidationError):
        return model()
    return stored if stored.seal == stored.sealed() else model()


def _write(path: Path, scores: StudentScores | DiverseOrder) -> None:
    write_json(path, scores.model_copy(update={"seal": scores.sealed()}).model_dump(mode="json"))
