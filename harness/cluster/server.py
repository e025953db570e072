"""An engine in a process of its own, somewhere: it is handed requests, and asked now and then for what is answered."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue

import harness
from harness.cluster.logs import log_to
from harness.core.environment import set_defaults
from harness.engines.leaving import arriving, close
from harness.engines.protocols import Generator
from harness.records import Completion, Request


class Server:
    """Holds an engine. Ray makes an actor of it: one call at a time, while the engine works in a thread."""

    def __init__(self) -> None:
        self._engine: Generator | None = None
        self._inbox: SimpleQueue[Request | None] = SimpleQueue()  # None: no more will come
        self._outbox: SimpleQueue[Completion | BaseException] = SimpleQueue()
        self._flying = 0  # taken by the engine and not answered
        self._worker: threading.Thread | None = None
        self._error: BaseException | None = None  # the engine's, which ended it

    def hello(self) -> tuple[str, str, int, str]:
        """(The node's name, the package's version there, the process, the node's id of Ray's)."""
        import ray

        return socket.gethostname(), harness.__version__, os.getpid(), ray.get_runtime_context().get_node_id()

    def open(self, build: Callable[[], Generator], log: Path | None = None) -> None:
        """Build the engine, and set it to work. What it prints goes to `log`. Raises what building raises."""
        set_defaults()
        if log is not None:
            log_to(log)
        self._engine = build()
        self._worker = threading.Thread(target=self._work, args=(self._engine,), daemon=True)
        self._worker.start()

    def step(self, requests: Sequence[Request], seconds: float) -> list[Completion]:
        """Take requests, wait so long for an answer, and give all that there are. Raises what the engine raised."""
        for request in requests:
            self._inbox.put(request)
        came = list(arriving(self._outbox, 0.0))
        if not came and self._error is None:
            came = [event for event in [next(arriving(self._outbox, seconds), None)] if event is not None]
            came += arriving(self._outbox, 0.0)
        self._error = next((event for event in came if isinstance(event, BaseException)), self._error)
        answers = [event for event in came if isinstance(event, Completion)]
        if self._error is not None and not answers:  # what was answered before is handed out first
            raise self._error
        return answers

    def close(self) -> None:
        """End the engine's work, and have it give back what it holds. One that is in the middle is not waited for."""
        if self._worker is not None:
            self._inbox.put(None)
            self._worker.join(1.0)
        if self._engine is not None:
            close(self._engine)

    def _work(self, engine: Generator) -> None:
        try:
            for completion in engine.generate(self._wanted()):
                self._flying -= 1
                self._outbox.put(completion)
        except BaseException as error:  # noqa: BLE001  (whoever asks for the next answers raises it)
            self._outbox.put(error)

    def _wanted(self) -> Iterator[Request | None]:
        """What the engine may take: it waits for a request where it has nothing else to do."""
        while True:
            try:
                request = self._inbox.get(block=self._flying == 0)
            except Empty:
                yield None
                continue
            if request is None:
                return
            self._flying += 1
            yield request
