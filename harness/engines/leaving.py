"""Leaving work that is under way: how long engines wait for what is on its way, and how it is taken in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import TypeVar

T = TypeVar("T")

LEAVE_S = 10.0  # what is in flight when the work ends by a failure may take this long: it is paid for, and kept
CLOSE_S = 2.0  # what nobody waits for may take this long to end when an engine is closed


def arriving(queue: SimpleQueue[T], seconds: float) -> Iterator[T]:
    """What comes into a queue within so many seconds."""
    until = time.monotonic() + seconds
    while True:
        try:
            item = queue.get(timeout=max(0.0, until - time.monotonic()))
        except Empty:
            return
        yield item


@contextmanager
def closed_at_end(build: Callable[[], T]) -> Iterator[Callable[[], T]]:
    """The builder of an engine, which builds it once at most. It is closed at the end, where it can be.

    Ctrl-C leaves it as it is: the process ends, and waits for nothing.
    """
    built: list[T] = []

    def once() -> T:
        if not built:
            built.append(build())
        return built[0]

    try:
        yield once
    except KeyboardInterrupt:
        built.clear()
        raise
    finally:
        for engine in built:
            close(engine)


def close(engine: object) -> None:
    """Have an engine give back what it holds: connections, threads, memory. Some hold nothing and have no `close`."""
    if end := getattr(engine, "close", None):
        end()
