"""An engine on a Ray cluster as one that is here. It may die or fall silent: then it is started again.

Only what it had not answered is asked again: whoever asks here commits each answer as it comes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import harness
from harness.augment.node_work import NodeWork, note
from harness.cluster.logs import log_file
from harness.cluster.nodes import CPU, Nodes, amounts, kind_of, other_version, reason, wish
from harness.cluster.server import Server
from harness.config.cluster import Cluster
from harness.engines.protocols import Generator
from harness.engines.several import Source
from harness.errors import HarnessError, MachineError, UsageError, first_line
from harness.records import Completion, Request

WAIT_S = 0.2  # of an actor for an answer, while it has room: what it may be asked next depends on other replicas
BUSY_WAIT_S = 2.0  # the same while it has none: only an answer changes that
GRACE_S = 30.0  # beyond that, until a call to an actor is given up
ROOM_S = 900.0  # until a node has room for it
ROOM_SAID_S = 20.0  # until it is said that it waits for room
LOAD_S = 3600.0  # until an engine is loaded
CLOSE_S = 5.0  # until an engine that is to end has given back what it holds
MOST_STARTS = 3  # in a row without an answer, before it is left out


@dataclass(frozen=True)
class Wanted:
    """One replica of a teacher, as a run asks for it."""

    name: str
    build: Callable[[], Generator]  # makes the engine where the actor is, and must be known there by name
    room: int  # requests in flight at most
    cluster: Cluster
    number: int = 1  # among all replicas of the run
    of: int = 1
    parallel: int = 1  # GPUs that it works on together
    log: Path | None = None  # where its node prints what the engine prints; what it did is noted beside it
    version: str = harness.__version__  # that the package must have on its node


@dataclass(eq=False)
class Replica:
    """One engine in an actor."""

    wanted: Wanted
    join: Callable[[], Nodes]
    say: Callable[[str], None]
    _actor: Any = None
    _node: str = ""
    _kind: str = CPU
    _starts: int = 0  # in a row without an answer
    _since: float = 0.0  # its engine was loaded
    _heard: float = 0.0  # it had something to do, or answered
    _closed: bool = False
    _done: list[int] = field(default_factory=lambda: [0, 0])  # answers and tokens of this actor

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """As Generator. Raises MachineError where it dies as often as MOST_STARTS without an answer between."""
        source, flying = iter(requests), dict[str, Request]()
        ended = False
        again: Sequence[Request] = ()
        while not self._closed:
            try:
                self._start()  # before it takes a request, which others could answer in the meantime
                new, again = list(again), ()
                while not ended and len(flying) < self.wanted.room:
                    try:
                        request = next(source)
                    except StopIteration:
                        ended = True
                        break
                    if request is None:
                        break
                    if not flying:
                        self._heard = time.monotonic()
                    flying[request.key] = request
                    new.append(request)
                if not flying:
                    return
                came = self._step(new, WAIT_S if len(flying) < self.wanted.room else BUSY_WAIT_S)
            except _Lost as lost:
                self._restart(str(lost), len(flying))
                again = tuple(flying.values())
                continue
            for completion in came:
                if flying.pop(completion.request, None) is not None:
                    self._starts, self._heard = 0, time.monotonic()
                    self._done[0] += 1
                    self._done[1] += completion.prompt_tokens + completion.completion_tokens
                    yield completion

    def close(self) -> None:
        """End the actor, and start no other."""
        self._closed = True
        self._end(CLOSE_S)

    @property
    def where(self) -> str:
        """Its name, with the node that it is on."""
        return f"{self.wanted.name} on {self._node}" if self._node else self.wanted.name

    # --- its actor ------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Make the actor and load its engine, where there is none.

        Raises _Lost where it dies over it, UsageError where no node could ever have it, and MachineError where none
        has room.
        """
        if self._actor is not None:
            return
        import ray

        wanted, able = self.wanted, self.join().able()
        cpus, gpus = wish(wanted.cluster, wanted.of, wanted.parallel)
        try:
            room = able.room(cpus, gpus)
        except UsageError as error:
            if self._starts:  # a node had so many, and was lost: others may do its work
                raise MachineError(str(error)) from error
            raise
        if wanted.number > room:
            raise MachineError(
                f"the cluster has room for {room} of {wanted.of} replicas with {amounts(cpus, gpus)} each"
            )
        options = {"num_cpus": cpus, "num_gpus": gpus, "label_selector": able.selector}
        self._actor = ray.remote(Server).options(**options).remote()
        try:
            self._node, version, resources = self._placed(self._actor, amounts(cpus, gpus))
            self._kind = kind_of(resources)
            if other := other_version(version, wanted.version):
                raise UsageError(f"{self.where}: {other}")
            ray.get(self._actor.open.remote(wanted.build, wanted.log), timeout=LOAD_S)
            self._since = self._heard = time.monotonic()
        except ray.exceptions.GetTimeoutError as error:
            self._end()
            raise MachineError(
                f"{self.where}: its engine was not loaded within {LOAD_S:.0f} s{self._printed}"
            ) from error
        except ray.exceptions.RayTaskError as error:
            raise self._failed(error) from error
        except ray.exceptions.RayError as error:
            raise _Lost(reason(error)) from error
        except HarnessError:
            self._end()
            raise

    def _placed(self, actor: Any, amount: str) -> tuple[str, str, dict[str, float]]:
        """(The node of a new actor, the package's version there, what the node has). Raises MachineError without."""
        import ray

        hello, begun, said = actor.hello.remote(), time.monotonic(), False
        while not ray.wait([hello], timeout=1.0)[0]:
            waited = time.monotonic() - begun
            if waited > ROOM_S:
                raise MachineError(f"{self.wanted.name}: no node had room for {amount} within {ROOM_S:.0f} s")
            if waited > ROOM_SAID_S and not said:
                said, free = True, "that nobody else uses (cluster.cpus, cluster.gpus)"
                self.say(f"{self.wanted.name} waits for a node with {amount} {free}")
        node, version, _, id_ = ray.get(hello)
        return node, version, next((one["Resources"] for one in ray.nodes() if one["NodeID"] == id_), {})

    def _step(self, new: Sequence[Request], wait_s: float) -> list[Completion]:
        """What the actor answered, at the latest after `wait_s`.

        Raises _Lost where it is gone or silent, and what the engine raised.
        """
        import ray

        try:
            came: list[Completion] = ray.get(self._actor.step.remote(new, wait_s), timeout=wait_s + GRACE_S)
        except ray.exceptions.GetTimeoutError as error:
            raise _Lost(f"it did not reply within {wait_s + GRACE_S:.0f} s") from error
        except ray.exceptions.RayTaskError as error:
            raise self._failed(error) from error
        except ray.exceptions.RayError as error:
            self.join().require_head()
            raise _Lost(reason(error)) from error
        if not came and time.monotonic() - self._heard > self.wanted.cluster.silent_s:
            raise _Lost(f"it answered nothing for {self.wanted.cluster.silent_s:g} s")
        return came

    def _failed(self, error: Any) -> HarnessError:
        """What the engine raised, as it would be raised here."""
        self._end()
        kind = UsageError if isinstance(error.cause, UsageError) else MachineError
        return kind(f"{self.where}: {first_line(error.cause)}")

    def _restart(self, why: str, flying: int) -> None:
        self._starts += 1
        where = self.where
        self._end()
        self.join().look_again()
        if self._starts >= MOST_STARTS:
            raise MachineError(f"{where} was lost {self._starts} times without an answer: {why}{self._printed}")
        if not self._closed:
            asked = f", and {flying} requests are asked again" if flying else ""
            self.say(f"{where} is lost: {why}{self._printed}. It is started again{asked}")

    def _end(self, seconds: float = 0.0) -> None:
        """End the actor. Its engine may take so many seconds to give back what it holds."""
        import ray

        actor, self._actor = self._actor, None
        self._note()
        if actor is None:
            return
        with suppress(Exception):  # it may hang or be gone, as may its cluster
            if seconds:
                ray.get(actor.close.remote(), timeout=seconds)
        with suppress(Exception):
            ray.kill(actor)

    def _note(self) -> None:
        """Write down what its actor did. It is a statistic, and no failure of it stops work."""
        if self.wanted.log is not None and self._since:
            answers, tokens = self._done
            seconds = round(time.monotonic() - self._since, 2)
            work = NodeWork(
                replica=self.wanted.name, node=self._node, kind=self._kind, answers=answers, tokens=tokens,
                seconds=seconds,
            )  # fmt: skip
            with suppress(MachineError):
                note(self.wanted.log.parent, work)
        self._since, self._done = 0.0, [0, 0]

    @property
    def _printed(self) -> str:
        log = self.wanted.log
        return f" (what it printed: {log})" if log and log.is_file() else ""


def replicas(
    sources: Sequence[tuple[Source, int, int]],
    cluster: Cluster,
    logs: Path,
    join: Callable[[], Nodes],
    say: Callable[[str], None],
) -> list[Source]:
    """As many of each engine as the cluster is to have, in place of the one that is here.

    `sources`: each with its requests in flight at most, and the GPUs that one works on together. `logs`: a folder for
    what each prints, and for what it did.
    """
    made: list[Source] = []
    of = len(sources) * cluster.replicas
    for source, room, parallel in sources:
        for copy in range(1, cluster.replicas + 1):
            name = f"{source.name}, replica {copy}"
            wanted = Wanted(name, source.build, room, cluster, len(made) + 1, of, parallel, log_file(logs, name))
            made.append(Source(name, source.model, partial(Replica, wanted, join, say)))
    return made


class _Lost(Exception):
    """An actor is gone, or silent."""
