"""Parts of a stage's work as tasks on the nodes of a Ray cluster: placed, watched, started again, taken in."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import harness
from harness.cluster.carry import packed, packed_results, put_in_place, unpacked
from harness.cluster.logs import host_of, log_file, log_to
from harness.cluster.nodes import Nodes, other_version, reason, wish
from harness.config.cluster import Cluster
from harness.config.run import Run
from harness.core.environment import set_defaults
from harness.core.terminal import DRAIN_SECONDS, Stop
from harness.errors import HarnessError, MachineError, UsageError, first_line

TRIES = 3  # of a part whose node or process is lost
LOOK_S = 0.5  # between two looks at tasks and at Ctrl-C
HEAD_EVERY = 20  # of these looks the head is asked, too

Task = Callable[[Run, "Share", Stop], Any]


@dataclass(frozen=True)
class Part:
    """A part of a stage's work: cells, or the cards of one model."""

    stage: str
    number: int
    of: int
    task: Task
    keys: tuple[str, ...]
    name: str = ""  # in the names of its own files
    losses: int = 0


@dataclass(frozen=True)
class Share:
    """What one task does."""

    task: Task
    settings: tuple[str, ...]  # of the run
    stage: str
    keys: tuple[str, ...]  # of cells, or of cards
    part: str  # in the names of its own files
    version: str = harness.__version__  # of the package, that its node must have


@dataclass(frozen=True)
class Outcome:
    """What a task says when it ends, well or not."""

    result: Any
    files: bytes  # what it made, if the project was carried
    error: HarnessError | None = None


@dataclass(frozen=True)
class Spread:
    """Parts of a stage's work on the nodes of a cluster."""

    cluster: Cluster
    run: Run
    nodes: Nodes
    say: Callable[[str], None]
    stop: Stop

    def results(self, parts: Sequence[Part], look: Callable[[], None]) -> list[Any]:
        """What the tasks return, in any order.

        Raises what one of them raised, when the others have ended, and MachineError for one that is lost TRIES times.
        After `stop` tasks store what they have, and end.
        """
        import ray

        if not parts:
            return []
        start, waiting, came = self._starter(), dict[Any, Part](), list[Outcome]()
        try:
            waiting = {start(part): part for part in parts}
            looks = 0
            while waiting and not self.stop():
                came += self._ended(waiting, start, LOOK_S)
                look()
                looks += 1
                if looks % HEAD_EVERY == 0:
                    self.nodes.require_head()
            for one in waiting:
                ray.cancel(one, force=False)  # a task hears it as Ctrl-C
            came += self._drained(waiting)
            look()
        finally:
            for one in waiting:
                ray.cancel(one, force=True)  # what is stored stays, and checkpoints too
        if error := next((outcome.error for outcome in came if outcome.error is not None), None):
            raise error
        return [outcome.result for outcome in came]

    def _starter(self) -> Callable[[Part], Any]:
        """What starts a part on a node. Raises UsageError where no node could have it."""
        import ray

        able = self.nodes.able()
        cpus, gpus = wish(self.cluster, self.cluster.tasks)
        able.room(cpus, gpus)
        carried = self.cluster.storage == "carried" or (self.cluster.storage == "auto" and not able.all_see)
        project = ray.put(packed(self.run.root, self.run.name)) if carried else None
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": 0, "label_selector": able.selector}

        def start(part: Part) -> Any:
            share = Share(part.task, self.run.settings, part.stage, part.keys, part.name)
            where = project, self.run.root, self.run.name, self._log(part)
            return ray.remote(_call).options(**options).remote(*where, share)

        return start

    def _ended(self, waiting: dict[Any, Part], start: Callable[[Part], Any], seconds: float) -> list[Outcome]:
        """Take in what ends within so many seconds. A part that was lost is started again."""
        import ray

        came: list[Outcome] = []
        for one in ray.wait(list(waiting), timeout=seconds)[0]:
            part = waiting.pop(one)
            try:
                came.append(self._taken(part, one))
            except ray.exceptions.RayError as error:
                self.nodes.require_head()
                part = self._lost(part, reason(error))
                self.nodes.look_again()
                waiting[start(part)] = part
        return came

    def _drained(self, waiting: dict[Any, Part]) -> list[Outcome]:
        """What tasks that were told to stop have, when they have ended. What takes too long is left in `waiting`."""
        import ray

        came: list[Outcome] = []
        for one in ray.wait(list(waiting), num_returns=len(waiting), timeout=DRAIN_SECONDS)[0] if waiting else ():
            part = waiting.pop(one)
            with suppress(ray.exceptions.RayError, MachineError):  # those that had not begun
                came.append(self._taken(part, one))
        return came

    def _taken(self, part: Part, one: Any) -> Outcome:
        """What a part says that has ended, its files in their places. Raises MachineError for a fault of ours."""
        import ray

        try:
            outcome: Outcome = ray.get(one)
        except ray.exceptions.RayTaskError as error:
            raise MachineError(f"{self._title(part)}: {first_line(error.cause)}{self._printed(part)}") from error
        if outcome.files:
            put_in_place(self.run.root, outcome.files)
        return outcome

    def _lost(self, part: Part, why: str) -> Part:
        """The part once more. Raises MachineError where that was the last time."""
        again, said = replace(part, losses=part.losses + 1), f"{self._title(part)} was lost: {why}{self._printed(part)}"
        if again.losses >= TRIES:
            raise MachineError(f"{said}, for the {TRIES}rd time")
        self.say(f"{said}. It is started again ({again.losses} of {TRIES - 1})")
        return again

    def _title(self, part: Part) -> str:
        host = host_of(self._log(part))
        return f"{part.stage}, part {part.number} of {part.of}" + (f", on {host}" if host else "")

    def _printed(self, part: Part) -> str:
        log = self._log(part)
        return f" (what it printed: {log})" if log.is_file() else ""

    def _log(self, part: Part) -> Path:
        return log_file(self.run.folder / "cluster", f"{part.stage}-{part.number}")


# --- on a node ----------------------------------------------------------------------------------------------


def _call(project: bytes | None, root: Path, name: str, log: Path, share: Share) -> Outcome:
    """What Ray runs on a node. A mistake of the user's, or of the machine's, comes back beside what was made."""
    set_defaults()
    log_to(log)
    if other := other_version(harness.__version__, share.version):
        return Outcome(None, b"", UsageError(f"the node {socket.gethostname()}: {other}"))
    with Stop().listening() as stop:
        if project is None:
            return _done(root, name, share, stop)
        with unpacked(project) as copy:
            outcome = _done(copy, name, share, stop)
            return replace(outcome, files=packed_results(copy, share.stage, share.keys))


def _done(root: Path, name: str, share: Share, stop: Stop) -> Outcome:
    try:
        return Outcome(share.task(_loaded(root, name, share), share, stop), b"")
    except HarnessError as error:
        return Outcome(None, b"", type(error)(f"the node {socket.gethostname()}: {error}"))


def _loaded(root: Path, name: str, share: Share) -> Run:
    """The run, on a node. Raises MachineError for a node that does not see its folder."""
    from harness.config.load import load_run

    place = root / "runs" / f"{name}.yaml"
    if not place.is_file():
        raise MachineError(f"it does not see {place} (cluster.storage: carried)")
    return load_run(place, list(share.settings))
