"""Cells trained and cards scored as tasks of a Ray cluster, in a folder that all nodes share, or carried.

A task does what the stage does on one machine, for its share: what it stores is where the stage looks for it. So a task
that died is given to another node, and finds what was stored, and the checkpoints of what was not. Where a node does
not see the project's folder, project and results are carried through Ray, and a task that died begins anew.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import harness
from harness.cluster.carry import made, packed, packed_since, put_in_place, unpacked
from harness.cluster.logs import log_file, log_to
from harness.cluster.nodes import all_see
from harness.config.cluster import Cluster
from harness.config.run import Run
from harness.core.terminal import Stop, Terminal
from harness.errors import HarnessError, MachineError, UsageError, first_line
from harness.eval.plan import PlannedCard, stored_card
from harness.eval.runner import Scorer
from harness.eval.stage import Elsewhere as ScoreElsewhere
from harness.train.grid import GridCell
from harness.train.processes import Processes
from harness.train.watching import LOG

TRIES = 3  # of a task whose node or process is lost
LOOK_S = 0.5  # between two looks at tasks and at Ctrl-C


def cells_on(
    cluster: Cluster, run: Run, terminal: Terminal, stop: Stop
) -> Callable[[Sequence[GridCell]], dict[str, str]]:
    """What trains cells on a cluster. It returns (key -> why) of those that failed."""

    def elsewhere(cells: Sequence[GridCell]) -> dict[str, str]:
        logs = StepLogs(run.folder / "train")
        shares = [Processes(rank, cluster.tasks).mine(cells) for rank in range(cluster.tasks)]
        work = [(_train, [planned.key for planned in share]) for share in shares if share]
        with terminal.progress("train", sum(planned.steps for planned in cells)) as advance:

            def look() -> None:
                done = sum(planned.folder.is_dir() for planned in cells)  # it is there when all of it is
                advance(logs.steps(), f"steps; cells: {done} of {len(cells)} done")

            failures = _spread("train", work, cluster, run, stop, look)
        return {key: why for failed in failures for key, why in failed.items()}

    return elsewhere


class StepLogs:
    """The steps that all processes log in a folder from now on. What was read is not read again."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._steps = folder, 0
        self._read = {path: path.stat().st_size for path in folder.glob(LOG.format("*"))}  # bytes

    def steps(self) -> int:
        """Their number."""
        for path in self._folder.glob(LOG.format("*")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                new = file.read()
            self._steps += new.count(b"\n")
            self._read[path] = self._read.get(path, 0) + len(new)
        return self._steps


def cards_on(cluster: Cluster, run: Run, scorers: Scorers, terminal: Terminal, stop: Stop) -> ScoreElsewhere:
    """What scores cards on a cluster: those of one model by one task, of untuned models first, which others need.

    `scorers` builds, on a node, what scores there.
    """

    def elsewhere(cards: Sequence[PlannedCard]) -> None:
        scores, waiting = run.cache / "scores", {card.key: card for card in cards}
        with terminal.progress("eval", len(cards)) as advance:

            def look() -> None:
                for key in [key for key, card in waiting.items() if stored_card(card, scores) is not None]:
                    del waiting[key]
                advance(len(cards) - len(waiting), "cards")

            for tuned in (False, True):
                by_model: dict[tuple[Path, Path | None], list[str]] = {}
                for card in cards:
                    if card.candidate.tuned is tuned:
                        by_model.setdefault((card.candidate.base, card.candidate.adapter), []).append(card.key)
                work = [(partial(_score, scorers), keys) for keys in by_model.values()]
                _spread("eval", work, cluster, run, stop, look)

    return elsewhere


Scorers = Callable[[Run, Terminal, Stop], Callable[[int | None], Scorer]]
Task = Callable[[Run, "Share"], Any]


@dataclass(frozen=True)
class Share:
    """What one task does."""

    task: Task
    settings: tuple[str, ...]  # of the run
    keys: tuple[str, ...]  # of cells, or of cards
    part: str  # in the names of its own files
    version: str = harness.__version__  # of the package, that its node must have


def _spread(
    stage: str,
    work: Sequence[tuple[Task, list[str]]],
    cluster: Cluster,
    run: Run,
    stop: Stop,
    look: Callable[[], None],
) -> list[Any]:
    """What the tasks return, in any order. Raises MachineError for one that is lost TRIES times; stops with `stop`."""
    import ray

    logs = run.folder / "cluster"
    gpus = float(bool(ray.cluster_resources().get("GPU"))) if cluster.gpus is None else cluster.gpus
    options = {"num_cpus": cluster.cpus_each(cluster.tasks), "num_gpus": gpus, "max_retries": TRIES - 1}
    carried = cluster.storage == "carried" or (cluster.storage == "auto" and not all_see(run.root))
    project = ray.put(packed(run.root, run.name)) if carried else None
    waiting = [
        ray.remote(_call)
        .options(**options)
        .remote(
            project,
            run.root,
            run.name,
            log_file(logs, f"{stage}-{number}"),
            Share(task, run.settings, tuple(keys), f"-{number}-of-{len(work)}"),
        )
        for number, (task, keys) in enumerate(work)
    ]
    came: list[Any] = []
    try:
        while waiting and not stop():
            ready, waiting = ray.wait(waiting, timeout=LOOK_S)
            for result, files in (ray.get(one) for one in ready):
                came.append(result)
                if files:
                    put_in_place(run.root, files)
            look()
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, HarnessError):
            raise error.cause from error
        raise MachineError(f"a task of the cluster failed: {first_line(error.cause)} ({logs} has more)") from error
    except ray.exceptions.RayError as error:
        raise MachineError(
            f"a task of the cluster was lost {TRIES} times: {first_line(error)} ({logs} has more)"
        ) from error
    finally:
        for one in waiting:
            ray.cancel(one, force=True)  # what is stored stays, and checkpoints too
    return came


def _call(project: bytes | None, root: Path, name: str, log: Path, share: Share) -> tuple[Any, bytes]:
    """What Ray runs on a node: (what a share of the work returns, files that it made if the project was carried)."""
    log_to(log)
    if share.version != harness.__version__:
        here = f"the node {socket.gethostname()} has harness {harness.__version__}"
        raise UsageError(f"{here}, the machine that drives the run has {share.version}: install the same there")
    if project is None:
        return share.task(_loaded(root, name, share), share), b""
    with unpacked(project) as copy:
        before = made(copy)
        result = share.task(_loaded(copy, name, share), share)
        return result, packed_since(copy, before)


def _loaded(root: Path, name: str, share: Share) -> Run:
    """The run, on a node. Raises MachineError naming the node that does not see its folder."""

    from harness.config.load import load_run

    place = root / "runs" / f"{name}.yaml"
    if not place.is_file():
        raise MachineError(f"the node {socket.gethostname()} does not see {place} (cluster.storage: carried)")
    return load_run(place, list(share.settings))


def _train(run: Run, share: Share) -> dict[str, str]:
    from harness.core.environment import environment
    from harness.train.grid import plan_training
    from harness.train.preflight import check_students
    from harness.train.stage import train_missing

    quiet, missing = Terminal(silent=True), plan_training(run).missing
    cells = [missing[key] for key in share.keys if key in missing]
    if not cells:
        return {}
    prepared = check_students(run, cells, quiet.say)
    return train_missing(cells, prepared, run, environment(run.root), share.part, quiet, Stop())


def _score(scorers: Scorers, run: Run, share: Share) -> None:
    from harness.eval.stage import score_card

    scorer, scores = scorers(run, Terminal(silent=True), Stop())(None), run.cache / "scores"
    for planned in scorer.plan.cards:
        if planned.key in share.keys and stored_card(planned, scores) is None:
            score_card(scorer, planned, scores, lambda share, what: None)
