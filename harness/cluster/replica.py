"""An engine on a Ray cluster as one that is here. It may die or fall silent: then it is started again.

Only what it had not answered is asked again: whoever asks here commits each answer as it comes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import harness
from harness.augment.node_work import NodeWork, note
from harness.cluster.logs import log_file
from harness.cluster.nodes import CPU, kinds
from harness.cluster.server import Server
from harness.config.cluster import Cluster
from harness.engines.protocols import Generator
from harness.engines.several import Source
from harness.errors import MachineError, UsageError, first_line
from harness.records import Completion, Request

WAIT_S = 0.2  # of an actor for an answer, while it has room: what it may be asked next depends on other replicas
BUSY_WAIT_S = 2.0  # the same while it has none: only an answer changes that
GRACE_S = 30.0  # beyond that, until a call to an actor is given up
START_S = 900.0  # until an engine is loaded
MOST_STARTS = 3  # in a row without an answer, before it is left out


@dataclass
class Replica:
    """One engine in an actor. `build` makes the engine where the actor is, and must be known there by name."""

    name: str
    build: Callable[[], Generator]
    room: int  # requests in flight at most
    cpus: float
    gpus: float | None  # None: `parallel` of them where the cluster has any
    parallel: int
    silent_s: float
    say: Callable[[str], None]
    log: Path | None = None  # where its node prints what the engine prints; what it did is noted beside it
    version: str = harness.__version__  # that the package must have on its node
    node: str = "no node yet"
    actor: Any = None
    starts: int = 0  # in a row without an answer
    since: float = 0.0  # its engine was loaded
    answers: int = 0  # of this actor
    tokens: int = 0

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """As Generator. Raises MachineError where it dies as often as MOST_STARTS without an answer between."""
        source, flying = iter(requests), dict[str, Request]()
        ended, heard = False, time.monotonic()
        again: Sequence[Request] = ()
        while True:
            new = list(again)
            again = ()
            while not ended and len(flying) < self.room:
                try:
                    request = next(source)
                except StopIteration:
                    ended = True
                    break
                if request is None:
                    break
                flying[request.key] = request
                new.append(request)
            if not flying:
                return
            try:
                came = self._step(new, WAIT_S if len(flying) < self.room else BUSY_WAIT_S, heard)
            except _Lost as lost:
                self._restart(str(lost), len(flying))
                again, heard = tuple(flying.values()), time.monotonic()
                continue
            for completion in came:
                self.starts, heard = 0, time.monotonic()
                self.answers += 1
                self.tokens += completion.prompt_tokens + completion.completion_tokens
                del flying[completion.request]
                yield completion

    def close(self) -> None:
        """End the actor."""
        if self.actor is not None:
            import ray

            self._note()
            ray.kill(self.actor)
            self.actor = None

    def _note(self) -> None:
        """Write down what its actor did."""
        if self.log is not None and self.since:
            import ray

            kind = kinds(ray.nodes()).get(self.node, CPU)
            seconds = round(time.monotonic() - self.since, 2)
            note(
                self.log.parent,
                NodeWork(
                    replica=self.name, node=self.node, kind=kind, answers=self.answers, tokens=self.tokens,
                    seconds=seconds,
                ),
            )  # fmt: skip
        self.since, self.answers, self.tokens = 0.0, 0, 0

    def _step(self, new: Sequence[Request], wait_s: float, heard: float) -> list[Completion]:
        """What the actor answered, at the latest after `wait_s`.

        Raises _Lost where it is gone or silent, and MachineError where the engine failed.
        """
        import ray

        if self.actor is None:
            self._start()
            heard = time.monotonic()
        try:
            came: list[Completion] = ray.get(self.actor.step.remote(new, wait_s), timeout=wait_s + GRACE_S)
        except ray.exceptions.GetTimeoutError as error:
            raise _Lost(f"it did not reply within {wait_s + GRACE_S:.0f} s") from error
        except ray.exceptions.RayTaskError as error:  # the engine's own
            raise MachineError(f"{self.name} on {self.node}: {first_line(error.cause)}") from error
        except ray.exceptions.RayError as error:
            raise _Lost(first_line(error)) from error
        if not came and time.monotonic() - heard > self.silent_s:
            raise _Lost(f"it answered nothing for {self.silent_s:g} s")
        return came

    def _start(self) -> None:
        """Make the actor and load its engine. Raises _Lost where it dies over it."""
        import ray

        gpus = self.parallel * bool(ray.cluster_resources().get("GPU")) if self.gpus is None else self.gpus
        self.actor = ray.remote(Server).options(num_cpus=self.cpus, num_gpus=gpus).remote()
        try:
            self.node, version, _ = ray.get(self.actor.hello.remote(), timeout=START_S)
            if version != self.version:
                raise UsageError(
                    f"{self.name}: the node {self.node} has harness {version}, this machine has {self.version}: install"
                    " the same there"
                )
            ray.get(self.actor.open.remote(self.build, self.log), timeout=START_S)
            self.since = time.monotonic()
        except ray.exceptions.GetTimeoutError as error:
            raise MachineError(
                f"{self.name}: no node started it within {START_S:.0f} s: it wants {self.cpus:g} CPUs and {gpus:g} GPUs"
                " (cluster.cpus, cluster.gpus)"
            ) from error
        except ray.exceptions.RayTaskError as error:
            raise MachineError(f"{self.name} on {self.node}: {first_line(error.cause)}") from error
        except ray.exceptions.RayError as error:
            raise _Lost(first_line(error)) from error

    @property
    def _printed(self) -> str:
        return f" (what it printed: {self.log})" if self.log and self.log.is_file() else ""

    def _restart(self, why: str, flying: int) -> None:
        self.starts += 1
        where = f"{self.name} on {self.node}"
        self.close()
        if self.starts >= MOST_STARTS:
            raise MachineError(f"{where} was lost {self.starts} times without an answer: {why}{self._printed}")
        self.say(f"{where} is lost: {why}. It is started again, and {flying} requests are asked again")


def replicas(
    source: Source, cluster: Cluster, logs: Path, room: int, parallel: int, say: Callable[[str], None]
) -> list[Source]:
    """As many of an engine as the cluster is to have, in place of the one that is here.

    `logs`: a folder for what each prints, and for what it did. `room`: requests in flight at each. `parallel`: GPUs
    that one works on together.
    """
    names = [f"{source.name}, replica {number}" for number in range(1, cluster.replicas + 1)]
    settings = (room, cluster.cpus_each(cluster.replicas), cluster.gpus, parallel, cluster.silent_s, say)
    return [
        Source(name, source.model, partial(Replica, name, source.build, *settings, log_file(logs, name)))
        for name in names
    ]


class _Lost(Exception):
    """An actor is gone, or silent."""
