"""Several engines at work as one: each request goes to an engine that has its model, all of them kept busy.

An engine takes requests when it wants them, and may be slow to say so: a step of vLLM takes its time, an endpoint
answers when it likes. So each one works in a thread of its own, and asks the caller's thread for every request. Only
the caller's thread touches the source of requests, so that what comes next may depend on the completions before.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue

from harness.engines.leaving import CLOSE_S, LEAVE_S, arriving, close
from harness.engines.protocols import Generator, Stoppable
from harness.errors import MachineError
from harness.records import Completion, Request

MOST_AHEAD = 16  # requests that wait for busy engines at most


@dataclass(frozen=True)
class Source:
    """An engine that is built when its model is first asked."""

    name: str  # for people: the teacher's name in the run file, or the address of an endpoint
    model: str  # name@revision: the requests that it answers
    build: Callable[[], Generator]


class _Ended:
    """In the place of a request: there are no more."""


class _Wanting:
    """In the place of a completion: the engine has room for a request."""


_Event = Completion | BaseException | type[_Wanting]


@dataclass(eq=False)
class _Lane:
    """One engine at work, as the caller's thread sees it."""

    source: Source
    inbox: SimpleQueue[Request | type[_Ended] | None] = field(default_factory=SimpleQueue)
    queue: deque[Request] = field(default_factory=deque)  # not handed out yet
    flying: dict[str, Request] = field(default_factory=dict)  # handed out and not answered, by key
    wanting: bool = False  # whether its engine waits for an answer to its wish for a request
    thread: threading.Thread | None = None
    gone: bool = False  # it broke, and others do its work

    @property
    def load(self) -> int:
        """Requests that are not answered."""
        return len(self.queue) + len(self.flying)

    def give(self, request: Request) -> None:
        """Hand a request to the engine, which waits for it."""
        self.flying[request.key], self.wanting = request, False
        self.inbox.put(request)

    def tell(self, word: type[_Ended] | None) -> None:
        """Answer the engine's wish: nothing now, or nothing ever."""
        self.wanting = False
        self.inbox.put(word)


class SeveralEngines:
    """Answers requests of several models, each by an engine of its own, or by several that have the same model.

    Of several with one model the one that wants a request first gets it. What fails at one of them is asked of the
    others. Where one breaks, they take over what it has not answered, and `say` is told.
    """

    def __init__(self, sources: Sequence[Source], say: Callable[[str], None] = lambda text: None) -> None:
        self._sources, self._say = tuple(sources), say
        self._built: dict[Source, Generator] = {}
        self._broken: set[Source] = set()

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """Yield one completion per request as they come back. One call at a time.

        Requests that are Stoppable may be ended: then those that wait for a busy engine are not asked any more. Raises
        whatever an engine raises which no other can stand in for, after what had come back by then.
        """
        work = _Work(self._sources, requests, self._engine, self._broken)
        wait_s = CLOSE_S
        try:
            while work.feed():
                lane, event = work.events.get()
                if isinstance(event, Completion):
                    request = lane.flying.pop(event.request)
                    if event.finish_reason != "error" or not work.tried_elsewhere(request, lane):
                        yield event
                elif isinstance(event, BaseException):
                    if not self._stand_in(work, lane, event):
                        yield from work.landed()
                        raise event
                else:
                    lane.wanting = True
        except KeyboardInterrupt:
            wait_s = 0.0
            raise
        finally:
            work.end(wait_s)

    def close(self) -> None:
        """Close every engine that was built."""
        for engine in self._built.values():
            close(engine)
        self._built = {}

    def _engine(self, source: Source) -> Generator:
        if source not in self._built:
            self._built[source] = source.build()
        return self._built[source]

    def _stand_in(self, work: _Work, lane: _Lane, error: BaseException) -> bool:
        """Have others do what a broken engine has not done. False where none has its model, or the user is to act."""
        lane.gone = True
        others = [one for one in work.lanes if one.source.model == lane.source.model and not one.gone]
        if not isinstance(error, MachineError) or not others:
            return False
        self._broken.add(lane.source)
        left = [*lane.flying.values(), *lane.queue]
        lane.flying, lane.queue = {}, deque()
        self._say(f"{lane.source.name} is left out from here on: {error}; {len(left)} of its requests go to others")
        for request in left:
            work.route_anew(request)
        return True


class _Work:
    """One call of `generate`: the lanes, and what goes where."""

    def __init__(
        self,
        sources: Sequence[Source],
        requests: Iterable[Request | None],
        engine: Callable[[Source], Generator],
        broken: set[Source],
    ) -> None:
        self.events: SimpleQueue[tuple[_Lane, _Event]] = SimpleQueue()
        self.lanes = [_Lane(source, gone=source in broken) for source in sources]
        self._requests, self._engine = iter(requests), engine
        self._ended = requests.ended if isinstance(requests, Stoppable) else lambda: False
        self._failed_at: dict[str, list[_Lane]] = {}  # key of a request -> where it failed
        self._leaving = threading.Event()

    def feed(self) -> bool:
        """Hand out what can be handed out now. False when everything is answered and nothing more is asked."""
        for lane in self.lanes:
            if self._ended():
                lane.queue.clear()
            if lane.wanting:
                self._answer(lane)
        if not any(lane.load for lane in self.lanes):  # at the beginning, and at the end
            request = next(self._requests, None)
            if request is None:
                return False
            self.route(request)
        return True

    def route(self, request: Request, first: _Lane | None = None) -> None:
        """Give a request to `first` where it has the model, else to the least busy engine that has."""
        able = self._able(request)
        if not able:
            raise MachineError(f"no engine answers as {request.model!r}")
        for lane in able:
            self._start(lane)
        lane = first if first in able else min(able, key=lambda one: one.load)
        if lane.wanting:
            lane.give(request)
        else:
            lane.queue.append(request)

    def route_anew(self, request: Request) -> None:
        """Give a request to any engine that has its model, even one at which it failed, unless the work has ended."""
        self._failed_at.pop(request.key, None)
        if not self._ended():
            self.route(request)

    def tried_elsewhere(self, request: Request, lane: _Lane) -> bool:
        """Have another engine of the model try what failed at this one. False where all have, or the work has ended."""
        self._failed_at.setdefault(request.key, []).append(lane)
        again = bool(self._able(request)) and not self._ended()
        if again:
            self.route(request)
        return again

    def _able(self, request: Request) -> list[_Lane]:
        """The engines that have a request's model, and at which it has not failed."""
        failed_at = self._failed_at.get(request.key, ())
        return [
            lane
            for lane in self.lanes
            if lane.source.model == request.model and not lane.gone and lane not in failed_at
        ]

    def landed(self) -> Iterator[Completion]:
        """Answers that are on their way when the work ends: they are paid for, so they are kept."""
        self._end_all()
        events = arriving(self.events, LEAVE_S)
        while any(lane.flying and not lane.gone for lane in self.lanes) and (came := next(events, None)):
            lane, event = came
            if isinstance(event, Completion):
                lane.flying.pop(event.request, None)
                yield event
            elif isinstance(event, BaseException):
                lane.gone = True
            else:
                lane.tell(_Ended)

    def end(self, wait_s: float) -> None:
        """Have every engine end its work, and wait so long for it. What is in flight is given up."""
        self._leaving.set()
        self._end_all()
        until = time.monotonic() + wait_s
        for lane in self.lanes:
            if lane.thread is not None:
                lane.inbox.put(_Ended)  # it may be on its way to ask
                lane.thread.join(max(0.0, until - time.monotonic()))

    def _end_all(self) -> None:
        for lane in self.lanes:
            lane.queue.clear()
            if lane.wanting:
                lane.tell(_Ended)

    def _answer(self, lane: _Lane) -> None:
        """Answer an engine's wish for a request. One with nothing in flight is left waiting where there is none."""
        while lane.wanting and not lane.queue and sum(len(one.queue) for one in self.lanes) < MOST_AHEAD:
            request = next(self._requests, None)
            if request is None:
                break
            self.route(request, first=lane)
        if lane.wanting and lane.queue:
            lane.give(lane.queue.popleft())
        elif lane.wanting and lane.flying:
            lane.tell(None)

    def _start(self, lane: _Lane) -> None:
        if lane.thread is None:
            engine = self._engine(lane.source)  # here, so that a model is loaded by the main thread
            lane.thread = threading.Thread(target=self._serve, args=(lane, engine), daemon=True)
            lane.thread.start()

    def _serve(self, lane: _Lane, engine: Generator) -> None:
        """In the lane's own thread: have the engine answer what it is handed."""

        def wanted() -> Iterator[Request | None]:
            while not self._leaving.is_set():
                self.events.put((lane, _Wanting))
                request = lane.inbox.get()
                if isinstance(request, type):
                    return
                yield request

        ended: BaseException = MachineError(f"{lane.source.name} ended before everything was answered")
        try:
            for completion in engine.generate(wanted()):
                self.events.put((lane, completion))
                if self._leaving.is_set():
                    return
        except BaseException as error:  # noqa: BLE001  (the caller's thread raises it)
            ended = error
        self.events.put((lane, ended))  # nobody reads it where the work has ended
