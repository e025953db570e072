"""A student's engine whose answers survive the process: computed block by block, each block on disk at once.

The file holds one JSON object per line, only ever appended to:

    {"seconds": 1.5}                                           what one block took, after its answers
    {"pair": "DIGEST", "logprob": -3.2, "tokens": 2, "greedy": false}
    {"completion": {...}}                                      a Completion, named by its request's key

A line that was cut by a kill is taken off when the file is opened.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from harness.core.store import disk_errors
from harness.engines.protocols import NextTokens, StudentEngine
from harness.errors import Interrupted, MachineError
from harness.records import Completion, Loglikelihood, Message, Pair, Request

BLOCK_COMPLETIONS = 64
BLOCK_SECONDS = 5.0  # completions that came in are written when the next comes after so long

Tick = Callable[[int, int], None]  # (done, total) of one call, what was on file included


@dataclass(frozen=True)
class BlockSize:
    """The most that is measured between two saves. Pairs with one context stay together up to twice as much."""

    pairs: int = 256
    tokens: int = 65_536


def _no_tick(done: int, total: int) -> None:
    """Nobody watches."""


class Remembered:
    """A StudentEngine around another one, which is opened only when something is missing."""

    def __init__(
        self,
        open_engine: Callable[[], StudentEngine],
        path: Path,
        stop: Callable[[], bool],
        tick: Tick = _no_tick,
        blocks: BlockSize = BlockSize(),
    ) -> None:
        """`path`: the file of one student, of its weights and nothing else. `stop` is asked between blocks.

        Raises MachineError for a file that cannot be read, or that is not one of these.
        """
        self._open, self._path, self._stop, self._tick, self._size = open_engine, path, stop, tick, blocks
        self._engine: StudentEngine | None = None
        self._pairs: dict[str, Loglikelihood] = {}
        self._completions: dict[str, Completion] = {}
        self._seconds = 0.0
        self._read()

    # --- what the inner engine knows -----------------------------------------------------------------------

    @property
    def engine(self) -> StudentEngine:
        """The inner engine, opened at the first need."""
        if self._engine is None:
            self._engine = self._open()
        return self._engine

    def release(self) -> None:
        """Let go of the inner engine. It is opened again when something is missing."""
        self._engine = None

    @property
    def seconds(self) -> float:
        """What computing all answers on file took, over all commands, without opening the engine."""
        return self._seconds

    @property
    def notes(self) -> Sequence[str]:
        """As the inner engine's, which it opens. So do the four below."""
        return self.engine.notes

    @property
    def max_length(self) -> int:
        """Tokens of its context."""
        return self.engine.max_length

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The chat template's tokens up to where the assistant begins."""
        return self.engine.prompt_ids(messages)

    def answer_ids(self, messages: Sequence[Message], answer: str) -> tuple[int, ...]:
        """The chat template's tokens of an assistant's answer."""
        return self.engine.answer_ids(messages, answer)

    def text_ids(self, text: str) -> tuple[int, ...]:
        """Tokens of raw text."""
        return self.engine.text_ids(text)

    # --- what is remembered --------------------------------------------------------------------------------

    def loglikelihood(self, pairs: Sequence[Pair]) -> list[Loglikelihood]:
        """One answer per pair, same order. Equal pairs are asked once. Raises Interrupted between blocks."""
        names = [_name(pair) for pair in pairs]
        missing = {name: pair for name, pair in zip(names, pairs, strict=True) if name not in self._pairs}
        done, total = len(set(names)) - len(missing), len(set(names))
        self._tick(done, total)
        for block in _blocks(missing, self._size):
            if self._stop():
                raise Interrupted(
                    f"stopped: {done} of {total} log-likelihoods of this step are on file; the same command goes on"
                )
            started = time.monotonic()
            computed = self.engine.loglikelihood([missing[name] for name in block])
            good = [
                (name, measure) for name, measure in zip(block, computed, strict=True) if math.isfinite(measure.logprob)
            ]
            lines = [
                {"pair": name} | measure.model_dump() for name, measure in good
            ]  # what is no number is asked again
            self._append(lines, time.monotonic() - started)
            self._pairs |= zip(block, computed, strict=True)
            done += len(block)
            self._tick(done, total)
        return [self._pairs[name] for name in names]

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """As records.Generator: equal requests are asked once, what is on file is not asked, errors are not kept.

        Once `stop` says so nothing more is asked. What is in flight is finished and kept, then Interrupted raised.
        """
        on_file: list[Completion] = []
        in_flight: Counter[str] = Counter()
        done, stopped = 0, False

        def lacking() -> Iterator[Request]:
            nonlocal stopped
            for request in requests:
                stored = self._completions.get(request.key)
                if stored is not None:
                    on_file.append(stored)
                    continue
                stopped = self._stop()
                if stopped:
                    return
                in_flight[request.key] += 1
                if in_flight[request.key] == 1:
                    yield request

        source = lacking()
        first = next(source, None)
        fresh = self._written(chain([first], source)) if first else iter(())
        for completion in fresh:
            answers = [completion] * in_flight.pop(completion.request) + on_file
            on_file.clear()
            done += len(answers)
            self._tick(done, done + in_flight.total())
            yield from answers
        yield from on_file
        done += len(on_file)
        if stopped:
            raise Interrupted(f"stopped: {done} answers of this step are on file; the same command goes on")

    def next_tokens(self, pairs: Sequence[Pair], k: int, at: Sequence[NextTokens] | None = None) -> list[NextTokens]:
        """As the inner engine's. They are not stored, since it is large and soon computed."""
        return self.engine.next_tokens(pairs, k, at)

    def _written(self, missing: Iterable[Request]) -> Iterator[Completion]:
        """The inner engine's answers, each on disk before it is passed on. Those of some seconds go together."""
        fresh: list[Completion] = []
        started = time.monotonic()
        try:
            for completion in self.engine.generate(missing):
                fresh.append(completion)
                if len(fresh) >= BLOCK_COMPLETIONS or time.monotonic() - started > BLOCK_SECONDS:
                    stored, fresh = self._kept(fresh, time.monotonic() - started), []
                    yield from stored
                    started = time.monotonic()
        finally:  # what came before an error is paid for too
            stored = self._kept(fresh, time.monotonic() - started)
        yield from stored

    def _kept(self, fresh: list[Completion], seconds: float) -> list[Completion]:
        good = [completion for completion in fresh if completion.finish_reason != "error"]
        self._append([{"completion": completion.model_dump()} for completion in good], seconds)
        self._completions |= {completion.request: completion for completion in good}
        return fresh

    # --- the file ------------------------------------------------------------------------------------------

    def _append(self, lines: list[dict[str, Any]], seconds: float) -> None:
        """Answers and then what they took, on disk when this returns."""
        if not lines:
            return
        text = "".join(json.dumps(line) + "\n" for line in [*lines, {"seconds": seconds}])
        with disk_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
        self._seconds += seconds

    def _read(self) -> None:
        """Take in what is on file. Raises MachineError."""
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise MachineError(f"{self._path}: cannot read it: {error.strerror}") from error
        complete = raw.rfind(b"\n") + 1
        for number, line in enumerate(raw[:complete].split(b"\n")[:-1], start=1):
            try:
                self._take_in(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise MachineError(
                    f"{self._path}:{number}: not a line of answers; delete the file, and they are computed again"
                ) from error
        if complete < len(raw):
            with disk_errors(self._path):
                os.truncate(self._path, complete)

    def _take_in(self, line: dict[str, Any]) -> None:
        if "seconds" in line:
            self._seconds += float(line["seconds"])
        elif "completion" in line:
            completion = Completion.model_validate(line["completion"])
            self._completions[completion.request] = completion
        else:
            name = str(line.pop("pair"))
            self._pairs[name] = Loglikelihood.model_validate(line)


def _name(pair: Pair) -> str:
    """32 hex digits over a pair's token ids."""
    digest = hashlib.sha256(len(pair.context).to_bytes(8, "little"))
    digest.update(array("q", pair.context).tobytes() + array("q", pair.continuation).tobytes())
    return digest.hexdigest()[:32]


def _blocks(missing: dict[str, Pair], most: BlockSize) -> Iterator[list[str]]:
    """Names in order of their contexts, so that blocks share their beginnings. No context is in two without need."""
    order = sorted(missing, key=lambda name: (missing[name].context, missing[name].continuation))
    block: list[str] = []
    tokens = 0
    for name in order:
        pair = missing[name]
        size = len(pair.context) + len(pair.continuation)
        full = len(block) >= most.pairs or tokens + size > most.tokens
        same_context = block and missing[block[-1]].context == pair.context
        if block and ((full and not same_context) or len(block) >= 2 * most.pairs or tokens + size > 2 * most.tokens):
            yield block
            block, tokens = [], 0
        block.append(name)
        tokens += size
    if block:
        yield block
