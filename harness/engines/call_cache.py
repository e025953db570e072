"""Completed calls, shared by all runs: whatever process asks, none is paid for twice.

Completions are committed in small batches to one SQLite file. A call that another process is asking just now is not
asked: its answer is waited for, after everything that nobody asks yet.
"""

from __future__ import annotations

import functools
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from harness.core.leases import Heartbeat, Holder, claim, release, renew
from harness.engines.call_file import CallFile, seal, select, undamaged
from harness.engines.protocols import Generator, Stoppable
from harness.records import Completion, Request

COMMIT_EVERY = 16  # completions
COMMIT_SECONDS = 1.0
CLAIM_EVERY = 8  # calls claimed at once, when the engine wants more
MOST_AT_ONCE = 256  # calls looked up at once where all before them are stored
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
        stored: dict[str, Completion] = {}
        damaged: list[tuple[bytes, bytes, bytes]] = []
        for row in self._file.read(read, empty):
            completion = undamaged(*row)
            if completion is None:
                damaged.append(row)
            else:
                stored[completion.request] = completion
        if damaged:
            self._drop(damaged)
        return stored

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
    requests: Iterable[Request | None], cache: CallCache, engine: Callable[[], Generator], stop: Callable[[], bool]
) -> Iterator[tuple[Completion, bool]]:
    """Answer every request from the cache or the engine: yields (completion, whether it was paid for now).

    Requests are taken a few at a time, as the engine wants more, so that they may depend on what was answered before.
    None among them says that nothing can be asked before another answer.
    The engine is built only if something is missing that no other process asks. What others ask is waited for last,
    and asked here when they die, fail or fall silent. When `stop` turns true no new request is handed out and the
    iterator ends once those in flight are back. Equal requests are asked once.
    """
    queue = _Queue(requests, cache, stop)
    built = functools.cache(engine)
    polls = 0
    while True:
        missing = queue.next_missing()
        delivered = False
        for answer in queue.stored():
            delivered = True
            yield answer
        if missing:
            polls = 0
            try:
                for completion in _asked(Stoppable(queue.as_wanted(missing), stop), cache, built()):
                    yield completion, True
                    yield from queue.stored()
            finally:
                cache.release()
        elif delivered:
            continue  # what is asked next may depend on it
        elif stop() or not queue.asked_elsewhere:
            return
        else:
            polls += 1
            if polls == POLLS_UNSAID:
                waiting = len(queue.asked_elsewhere)
                cache.say(f"waiting for {waiting} calls that another process is asking: none is paid for twice")
            time.sleep(POLL_SECONDS)
            queue.look_again()


class _Ended:
    """In the place of a request: there are no more."""


class _Queue:
    """Requests on their way to an engine, each once: some are stored, some are asked by another process."""

    def __init__(self, requests: Iterable[Request | None], cache: CallCache, stop: Callable[[], bool]) -> None:
        self._requests, self._cache, self._stop = iter(requests), cache, stop
        self._ahead: deque[Request] = deque()  # taken from `requests` and to be looked up again
        self._at_once = CLAIM_EVERY
        self._seen: set[str] = set()
        self._stored: deque[Completion] = deque()
        self.asked_elsewhere: dict[str, Request] = {}
        self._blocked = False  # whether the last look ended at None: more will come after another answer

    def stored(self) -> Iterator[tuple[Completion, bool]]:
        """What was found in the cache since the last call."""
        while self._stored:
            yield self._stored.popleft(), False

    def next_missing(self) -> list[Request]:
        """The next few requests that are neither stored nor asked by another process. They are claimed.

        None where something stored is to be delivered first, at the end, and where answers must come first.
        """
        while not self._stop() and (part := self._unseen()):
            stored = self._cache.get(list(part))
            self._stored.extend(stored.values())
            missing = [key for key in part if key not in stored]
            self._at_once = CLAIM_EVERY if missing else min(2 * self._at_once, MOST_AT_ONCE)
            missing, later = missing[:CLAIM_EVERY], missing[CLAIM_EVERY:]
            self._take_back([part[key] for key in later])
            claimed = self._cache.claim(missing) if missing else set()
            self.asked_elsewhere |= {key: part[key] for key in missing if key not in claimed}
            if claimed or stored:
                return [part[key] for key in missing if key in claimed]
        return []

    def _unseen(self) -> dict[str, Request]:
        """The next few requests that were not looked up before, by key."""
        part: dict[str, Request] = {}
        self._blocked = False
        while len(part) < self._at_once:
            request = self._ahead.popleft() if self._ahead else next(self._requests, _Ended)
            if request is None or isinstance(request, type):
                self._blocked = request is None
                break
            key = request.key
            if key not in self._seen:
                self._seen.add(key)
                part[key] = request
        return part

    def _take_back(self, requests: Sequence[Request]) -> None:
        """Have requests looked up again, before all others."""
        self._seen.difference_update(request.key for request in requests)
        self._ahead.extendleft(reversed(requests))

    def as_wanted(self, missing: Sequence[Request]) -> Iterator[Request | None]:
        """`missing`, then all that comes after, looked up when it is wanted. None where answers must come first."""
        while True:
            for request in missing:
                if self._stop():
                    return
                yield request
            missing = self.next_missing()
            if not missing:
                if self._stop() or not (self._blocked or self._stored):
                    return
                yield None

    def look_again(self) -> None:
        """Take what others were asking as requests of our own: by now they are answered, still asked, or free."""
        requests, self.asked_elsewhere = self.asked_elsewhere, {}
        self._take_back(list(requests.values()))


def _asked(requests: Iterable[Request | None], cache: CallCache, engine: Generator) -> Iterator[Completion]:
    """The engine's answers, committed in small batches, the last of them however this ends."""
    pending: list[Completion] = []
    committed = time.monotonic()
    try:
        for completion in engine.generate(requests):
            pending.append(completion)
            if len(pending) >= COMMIT_EVERY or time.monotonic() - committed > COMMIT_SECONDS:
                cache.put(pending)
                pending, committed = [], time.monotonic()
            yield completion
    finally:
        cache.put(pending)
