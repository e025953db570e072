"""Completed calls, shared by all runs: whatever process asks, none is paid for twice.

Completions are committed in small batches to one SQLite file. A call that another process is asking just now is not
asked: its answer is waited for, after everything that nobody asks yet.
"""

from __future__ import annotations

import functools
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from harness.core.leases import Heartbeat, Holder, claim, release, renew
from harness.engines.call_file import CallFile, seal, select, whole
from harness.engines.protocols import Generator
from harness.records import Completion, Request

COMMIT_EVERY = 16  # completions
COMMIT_SECONDS = 1.0
CLAIM_EVERY = 8  # calls claimed at once, when the engine wants more
POLL_SECONDS = 0.2  # between two looks at what other processes have answered
POLLS_UNSAID = 10  # a shorter wait is not worth a line


class CallCache:
    """Completed calls by request key, in one SQLite file. Failed calls are never stored.

    `say` hears of what is damaged: those calls are asked again. Raises MachineError from every method when the disk
    is full or another process holds the file for too long.
    """

    def __init__(self, path: Path, say: Callable[[str], None] = lambda text: None) -> None:
        self.path, self.say = path, say
        self._file = CallFile(path, say)
        self._holder = Holder()
        self._heartbeat: Heartbeat | None = None

    def get(self, keys: Sequence[str]) -> dict[str, Completion]:
        """The stored completions among `keys`. A damaged one is taken out of the file, and that is said."""

        def read(db: sqlite3.Connection) -> list[tuple[bytes, bytes, bytes]]:
            return list(select(db, keys, "key, completion, digest"))

        empty: list[tuple[bytes, bytes, bytes]] = []
        found: dict[str, Completion] = {}
        damaged: list[tuple[bytes, bytes, bytes]] = []
        for row in self._file.read(read, empty):
            completion = whole(*row)
            if completion is None:
                damaged.append(row)
            else:
                found[completion.request] = completion
        if damaged:
            self._drop(damaged)
        return found

    def put(self, completions: Sequence[Completion]) -> None:
        """Commit completions. Their leases end, those of failed calls too."""
        if not completions:
            return
        rows = []
        for completion in completions:
            if completion.finish_reason != "error":
                text = completion.model_dump_json()
                rows.append((completion.request, text, seal(completion.request, text.encode())))

        def store(db: sqlite3.Connection) -> None:
            db.executemany("INSERT OR IGNORE INTO calls VALUES (?, ?, ?)", rows)
            ended = [(completion.request, self._holder.owner) for completion in completions]
            db.executemany("DELETE FROM leases WHERE key = ? AND owner = ?", ended)

        self._file.write(store, durable=bool(rows))

    def claim(self, keys: Sequence[str]) -> set[str]:
        """Those of `keys` that this process may ask now: not stored, and asked by no other."""
        if self._heartbeat is None:
            self._file.check()  # before anything is paid
            self._heartbeat = Heartbeat(lambda: self._file.write(lambda db: renew(db, self._holder), durable=False))
        return self._file.write(lambda db: claim(db, keys, self._holder), durable=False)

    def release(self) -> None:
        """Let other processes ask what this one claimed and did not get."""
        if self._heartbeat is not None:
            self._file.write(lambda db: release(db, self._holder), durable=False)

    def close(self) -> None:
        """Close the file."""
        if self._heartbeat is not None:
            self._heartbeat.stop()
        self._file.close()

    def _drop(self, damaged: Sequence[tuple[bytes, bytes, bytes]]) -> None:
        texts = [(key.decode(errors="replace"), text) for key, text, _ in damaged]

        def delete(db: sqlite3.Connection) -> None:
            db.executemany("DELETE FROM calls WHERE key = ? AND CAST(completion AS BLOB) = CAST(? AS BLOB)", texts)

        self._file.write(delete)
        what = "call in it is" if len(damaged) == 1 else "calls in it are"
        self.say(f"{self.path}: {len(damaged)} {what} damaged, and asked again where a run needs them")


def cached(
    requests: Sequence[Request], cache: CallCache, engine: Callable[[], Generator], stop: Callable[[], bool]
) -> Iterator[tuple[Completion, bool]]:
    """Answer every request from the cache or the engine; yields (completion, whether it was paid for now).

    The engine is built only if something is missing that no other process asks. What others ask is waited for last,
    and asked here when they die, fail or fall silent. When `stop` turns true no new request is handed out and the
    iterator ends once those in flight are back. Equal requests are asked once.
    """
    missing = {request.key: request for request in requests}
    built = functools.cache(engine)
    polls = 0
    while True:
        for key, completion in cache.get(list(missing)).items():
            del missing[key]
            yield completion, False
        if not missing or stop():
            return
        claimed = _claimed(list(missing.values()), cache, stop)
        first = next(claimed, None)
        if first is None:
            polls += 1
            if polls == POLLS_UNSAID:
                cache.say(f"waiting for {len(missing)} calls that another process is asking: none is paid for twice")
            time.sleep(POLL_SECONDS)
            continue
        handed_out: list[str] = []
        try:
            for completion in _asked(chain([first], claimed), handed_out, cache, built()):
                yield completion, True
        finally:
            cache.release()
        for key in handed_out:
            del missing[key]


def _claimed(requests: Sequence[Request], cache: CallCache, stop: Callable[[], bool]) -> Iterator[Request]:
    """Those requests that nobody else asks, claimed as they are wanted."""
    for start in range(0, len(requests), CLAIM_EVERY):
        part = requests[start : start + CLAIM_EVERY]
        if stop():
            return
        mine = cache.claim([request.key for request in part])
        for request in part:
            if stop():
                return
            if request.key in mine:
                yield request


def _asked(
    requests: Iterator[Request], handed_out: list[str], cache: CallCache, engine: Generator
) -> Iterator[Completion]:
    """What the engine answers; committed in small batches, the last of them however this ends.

    `handed_out` is given the keys of what the engine was asked, answered or not.
    """

    def noted() -> Iterator[Request]:
        for request in requests:
            handed_out.append(request.key)
            yield request

    pending: list[Completion] = []
    committed = time.monotonic()
    try:
        for completion in engine.generate(noted()):
            pending.append(completion)
            if len(pending) >= COMMIT_EVERY or time.monotonic() - committed > COMMIT_SECONDS:
                cache.put(pending)
                pending, committed = [], time.monotonic()
            yield completion
    finally:
        cache.put(pending)
