"""A teacher behind an OpenAI-compatible endpoint: vLLM's server, llama.cpp, Ollama, a hosted service.

What is asked is checked before anything is spent (is it there, does it take the key, does it know the model).
After that the failure of one request is that request's completion, with finish_reason "error"; only an
endpoint that is gone altogether, or that takes the key back, ends the work.

The `openai` client sends and retries: back-off, Retry-After, time-outs. One thread per request in flight: measured
with instant answers, its asynchronous client reached a quarter of the requests per second. Reading the answers is
ours (openai_wire.py), since the client's types hold only what OpenAI itself sends. How many requests are sent at once
follows what the endpoint throttles (pace.py): a retry waits for its turn too, and a pause before it takes no place.

The key is given by the caller, sent in one header, and is in no message, no record and no repr.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from queue import SimpleQueue
from typing import Any
from weakref import WeakSet

import httpx2
from openai import APIConnectionError, APIStatusError, APITimeoutError, Omit, OpenAI, omit

from harness.engines import openai_wire as wire
from harness.engines.leaving import CLOSE_S, LEAVE_S, arriving
from harness.engines.pace import Outcome, Pace
from harness.errors import HarnessError, MachineError, UsageError, nearest
from harness.models.endpoint import address_problem, check_proxies, endpoint_path
from harness.records import Completion, Request

ATTEMPTS = 6  # of one request
# Of them so many may end without an answer in time, then the request fails: a hanging endpoint holds it for so many
# times `timeout_s`. Each halves how many are sent at once, for an endpoint that is too busy looks the same.
TIMEOUTS = 3
TIMEOUTS_SHARED = 2  # where other endpoints have the same model: what one leaves unanswered they are asked
PREFLIGHT_ATTEMPTS = 3  # of the check before anything is spent
GIVE_UP_AFTER = 20  # requests in a row that failed in all their attempts
FIRST_CALLS = 8  # in flight at most before one was answered; when the first so many fail alike, no more are sent
THROTTLED = (429, 503, 529)  # too many requests, too busy, overloaded
# An answer that comes in pieces has so many times `timeout_s`: hosts send blank lines while a request waits for its
# turn (DeepSeek for up to ten minutes), and without a bound one that never ends would hold its place for ever.
PIECEWISE = 10
MODELS_SHOWN = 10


class OpenAIEngine:
    """Asks an OpenAI-compatible endpoint, up to `concurrency` requests at a time, fewer while it throttles.

    `base_url` is what comes before `/chat/completions`, e.g. http://127.0.0.1:8000/v1. `api_key` is None for
    an endpoint without one. `timeout_s` is for connecting, and for each wait for the next piece of an answer, all
    of which together have PIECEWISE times as long. `timeouts` attempts of a request may end so, the last one fails it.
    `transport` replaces the network in tests, `say` is told once of each thing that is odd about the endpoint. `place`
    is where a run file has it. Of `Request.model` (name@revision) the endpoint is sent what it lists: all of it, or the
    name alone.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        *,
        concurrency: int = 32,
        timeout_s: float = 120.0,
        attempts: int = ATTEMPTS,
        timeouts: int = TIMEOUTS,
        transport: httpx2.BaseTransport | None = None,
        say: Callable[[str], None] = lambda text: None,
        place: str = "teacher",
    ) -> None:
        """Raises UsageError for an address or a proxy variable that cannot be used."""
        if problem := address_problem(base_url):
            raise UsageError(f"{place}.base_url: it {problem}")
        self._address = address = httpx2.URL(base_url)
        self._shown = str(address.copy_with(query=None, fragment=None)).rstrip("/")
        query = [value for value in address.params.values() if len(value) > 3]
        self._hidden = tuple(text for text in (api_key, address.host, *query) if text)
        self._api_key = api_key
        # What the client would take from the environment (another key, an organisation) is not sent.
        self._headers: dict[str, str | Omit] = {
            "Authorization": f"Bearer {api_key}" if api_key else omit,
            "OpenAI-Organization": omit,
            "OpenAI-Project": omit,
        }
        self._pace = Pace(FIRST_CALLS, concurrency)
        self._attempts, self._timeout_s, self._timeouts = attempts, timeout_s, timeouts
        self._models: tuple[str, ...] | None = None  # that the endpoint lists; None before it was asked
        self._listing_is_a_page = False
        self._answered = False  # whether any request ever was
        self._dialect = wire.Dialect()
        self._learning = threading.Lock()
        self._say, self._said = say, set[str]()
        self._place = place
        self._threads = WeakSet[threading.Thread]()
        # .leaving: the event of the call of `generate` that a thread works for; .begun: of its attempt on the way, from
        # .since on; .timeouts: its attempts that ended without an answer in time
        self._thread = threading.local()
        local = address.host in ("localhost", "127.0.0.1", "::1")
        if not local and transport is None:
            check_proxies()
        self._client = OpenAI(
            api_key="in the headers of each request",
            base_url=self._shown,
            max_retries=attempts - 1,
            timeout=httpx2.Timeout(timeout_s, connect=min(10.0, timeout_s)),
            http_client=httpx2.Client(
                limits=httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
                transport=transport,
                trust_env=not local,  # no proxy on the way to oneself
                event_hooks={"request": [self._await_turn], "response": [self._judge]},
            ),
        )

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """Yield one completion per request as they come back.

        Raises UsageError when the endpoint refuses the key or does not know the model, MachineError when it
        cannot be reached or is gone; what had come back by then is yielded first. Closing the iterator
        gives up what is in flight.
        """
        waiting = iter(requests)
        done: SimpleQueue[Completion | Exception] = SimpleQueue()
        leaving = threading.Event()
        flying = completed = 0
        failures = Failures()
        first: list[str] = []  # why requests failed before any was answered
        try:
            while True:
                for request in islice(waiting, max(0, self._pace.limit - flying)):
                    if request is None:  # nothing can be asked before another answer
                        break
                    model = self._model(request.model)
                    # a daemon: a process told to stop at once waits for no answer
                    thread = threading.Thread(target=self._work, args=(request, model, done, leaving), daemon=True)
                    self._threads.add(thread)
                    thread.start()
                    flying += 1
                    failures.sent(request)
                if not flying:
                    return
                outcome = done.get()
                flying -= 1
                if isinstance(outcome, Exception):
                    raise outcome
                failures.count(outcome)
                if outcome.finish_reason != "error":
                    self._answered, completed = True, completed + 1
                elif outcome.error.startswith("HTTP 403") and not completed:
                    raise self._refusal(403, "", outcome.error)  # the key; later on it is a word it dislikes
                yield outcome
                if outcome.error and not self._answered:
                    first.append(outcome.error)
                if failures.in_a_row >= GIVE_UP_AFTER:
                    raise MachineError(
                        f"{self._shown} is gone or exhausted: {GIVE_UP_AFTER} requests in a row failed, the last"
                        f" with: {outcome.error}. {completed} were completed and are kept; the same command goes on"
                        " from there"
                    )
                if len(first) >= FIRST_CALLS and len(set(map(_without_numbers, first))) == 1 and not self._answered:
                    raise MachineError(
                        f"{self._shown}: the first {len(first)} calls all failed for one reason, and no more are"
                        f" sent: {first[0]}"
                    )
        except HarnessError:
            leaving.set()
            for landed in islice(arriving(done, LEAVE_S), flying):  # paid for, so it is kept
                if isinstance(landed, Completion) and landed.finish_reason != "error":
                    yield landed
            raise
        finally:
            leaving.set()

    def close(self) -> None:
        """Close the connections. Answers on their way that nobody waits for have CLOSE_S to come back."""
        until = time.monotonic() + CLOSE_S
        for thread in list(self._threads):
            thread.join(max(0.0, until - time.monotonic()))
        self._client.close()

    def _work(
        self, request: Request, model: str, done: SimpleQueue[Completion | Exception], leaving: threading.Event
    ) -> None:
        """Put exactly one outcome: a completion, or what must end all work."""
        self._thread.leaving, self._thread.begun, self._thread.timeouts = leaving, None, 0
        outcome: Completion | Exception
        try:
            outcome = self._complete(request, model)
        except Exception as error:  # noqa: BLE001  (the caller's thread raises it)
            outcome = error
        self._end_attempt("answered" if isinstance(outcome, Completion) and not outcome.error else "failed")
        done.put(outcome)

    def _complete(self, request: Request, model: str) -> Completion:
        """The answer, or a completion with the reason of its failure. Raises UsageError for a refused key or model."""
        response, reason = self._ask(request, model)
        if response is not None and response.is_success:
            return self._read(request, response.extensions["answer"])
        if response is not None and response.extensions["http_status"] in (401, 404):
            raise self._refusal(response.status_code, model, reason)
        return Completion(request=request.key, finish_reason="error", error=reason)

    def _ask(self, request: Request, model: str) -> tuple[httpx2.Response | None, str]:
        """Ask, and ask again where the endpoint says how it wants to be asked."""
        path = "chat/completions" if request.messages else "completions"
        # an endpoint that knows this header does not charge a retry whose first answer was lost on the way
        headers = {**self._headers, "Idempotency-Key": request.key}
        while True:
            dialect = self._dialect
            sent = wire.body(request, model, dialect)
            response, reason = self._send(self._client.post, path, body=sent, options={"headers": headers})
            if response is None or response.status_code not in (400, 422):
                return response, reason
            better = wire.lesson(response.text, sent, dialect)
            if better is None:
                return response, reason
            with self._learning:
                self._dialect = better
            self._say_once(
                f"it wants {better.limit} in the place of {dialect.limit}"
                if better.limit != dialect.limit
                else f"it takes no {' or '.join(sorted(better.without - dialect.without))}; it is asked without"
            )

    def _send(
        self, method: Callable[..., httpx2.Response], path: str, **content: Any
    ) -> tuple[httpx2.Response | None, str]:
        """The response (None when there is no answer at all) and why it is not a good one, after the last attempt."""
        try:
            return method(str(endpoint_path(self._address, path)), cast_to=httpx2.Response, **content), ""
        except APITimeoutError:
            self._end_attempt("throttled")
            return None, wire.TIMEOUT
        except APIConnectionError as error:
            return None, f"{wire.NO_ANSWER} ({type(error.__cause__).__name__})"
        except APIStatusError as error:
            return error.response, str(error.response.extensions.get("reason", ""))

    def _await_turn(self, attempt: httpx2.Request) -> None:
        """Let an attempt begin when the pace allows. Raises MachineError where its answer has no reader any more.

        Leaving does not end the client's pauses, so a retry may come late. A first attempt that need not wait is sent.
        Raises APITimeoutError, which the client passes on, where enough attempts have waited in vain.
        """
        mine = self._thread
        leaving: threading.Event | None = getattr(mine, "leaving", None)
        if leaving is None:
            return
        if mine.begun is not None:  # the attempt before ended without a response
            timed_out = time.monotonic() - mine.since >= self._timeout_s
            mine.timeouts += timed_out
            self._end_attempt("throttled" if timed_out else "failed")
            if mine.timeouts >= self._timeouts:
                raise APITimeoutError(request=attempt)
        unwanted = leaving.is_set() and attempt.headers["x-stainless-retry-count"] != "0"
        mine.begun = None if unwanted else self._pace.begin(leaving.is_set)
        if mine.begun is None:
            raise MachineError("the work was ended")
        mine.since = time.monotonic()

    def _end_attempt(self, outcome: Outcome, status: int = 0) -> None:
        """Tell the pace of this thread's attempt, once."""
        begun, self._thread.begun = getattr(self._thread, "begun", None), None
        lowered = None if begun is None else self._pace.end(begun, outcome)
        if lowered and not begun:  # the first time
            how = f"it throttles (HTTP {status})" if status else "it does not answer in time"
            self._say_once(f"{how}: {lowered} in flight from now on, more again as it answers")

    def _judge(self, response: httpx2.Response) -> None:
        """Give an answer of HTTP 200 that holds none the status it should have had: the client retries or raises."""
        if response.request.method != "POST":
            return
        if isinstance(response.stream, httpx2.SyncByteStream):
            response.stream = wire.Bounded(response.stream, PIECEWISE * self._timeout_s)
        response.read()
        http_status = response.status_code
        response.status_code, reason, answer = wire.judge(response, self._hidden)
        response.extensions |= {"reason": reason, "answer": answer, "http_status": http_status}
        wire.cap_wait(response)
        if not response.is_success:
            throttled = response.status_code in THROTTLED
            self._end_attempt("throttled" if throttled else "failed", response.status_code)
        if reason == wire.GARBAGE and self._listing_is_a_page and not self._answered:
            raise UsageError(
                f"{self._place}.base_url: {self._shown} answers, but not as an OpenAI-compatible endpoint does"
                f"{self._ending()}"
            )

    def _read(self, request: Request, answer: Any) -> Completion:
        read = wire.completion(request, answer)
        for odd in wire.oddities(request, answer, read):
            self._say_once(odd)
        return read

    def _say_once(self, what: str) -> None:
        with self._learning:
            new = what not in self._said
            self._said.add(what)
        if new:
            self._say(f"{self._shown}: {what}")

    def _model(self, name: str) -> str:
        """The name as the endpoint lists it. Raises UsageError when it knows no such model."""
        if self._models is None:
            self._models = self._list_models()
        listed = self._models
        bare = name.rpartition("@")[0] or name
        if not listed or name in listed or bare in listed:
            return name if name in listed else bare
        shown = ", ".join(" ".join(model.split()) for model in listed[:MODELS_SHOWN])
        more = f" and {len(listed) - MODELS_SHOWN} more" if len(listed) > MODELS_SHOWN else ""
        raise UsageError(
            f"{self._place}.model: {self._shown} serves no model {bare!r}{nearest(bare, listed)};"
            f" it serves: {shown}{more}"
        )

    def _list_models(self) -> tuple[str, ...]:
        """What the endpoint says it serves; empty where it keeps no list, or none for this key: requests will tell.

        Raises MachineError when it cannot be reached, UsageError when it has moved.
        """
        retries = min(self._attempts, PREFLIGHT_ATTEMPTS) - 1
        response, reason = self._send(
            self._client.get, "models", options={"headers": self._headers, "max_retries": retries}
        )
        if response is None:
            raise MachineError(f"{self._place}.base_url: cannot reach {self._shown}: {reason}; is the server running?")
        if response.is_redirect:
            raise UsageError(
                f"{self._place}.base_url: {self._shown} has moved (HTTP {response.status_code}); give the new address"
            )
        if response.status_code != 200:
            return ()
        try:
            listed = response.json()
            listed = listed if isinstance(listed, list) else listed["data"]
            return tuple(str(model["id"]) for model in listed)
        except wire.ODD as error:
            self._listing_is_a_page = isinstance(error, ValueError)
            return ()

    def _refusal(self, status: int, model: str, reason: str) -> UsageError:
        said = reason.partition(": ")[2]
        said = f" (HTTP {status}: {said})" if said else f" (HTTP {status})"
        if status == 404:
            what = f"has no completions for the model {model!r}"
            return UsageError(f"{self._place}.base_url: {self._shown} {what}{said}{self._ending()}")
        how = "refuses the key" if self._api_key else "wants a key and none was given"
        return UsageError(
            f"{self._place}.api_key_env: {self._shown} {how}{said}; put a valid key into the environment"
            f" variable that {self._place}.api_key_env names"
        )

    def _ending(self) -> str:
        return "" if self._shown.rstrip("/").endswith("/v1") else "; most addresses end in /v1"


@dataclass
class Failures:
    """Requests in a row that failed for a reason that lies with the endpoint.

    Those that were on their way when the first of them had no answer in time are not counted: an endpoint that is too
    busy answers a whole burst too late, and the next, smaller one in time.
    """

    in_a_row: int = 0
    _burst: int = 0
    _late: bool = False  # whether an answer did not come in time since the last that came
    _sent_in: dict[str, int] = field(default_factory=dict)  # key of a request on its way -> its burst

    def sent(self, request: Request) -> None:
        """A request is on its way."""
        self._sent_in[request.key] = self._burst

    def count(self, outcome: Completion) -> None:
        """It came back."""
        burst = self._sent_in.pop(outcome.request, self._burst)
        if outcome.finish_reason != "error":
            self.in_a_row, self._late = 0, False
        elif outcome.error == wire.TIMEOUT:
            self._burst, self._late = self._burst + (not self._late), True
            self.in_a_row += burst == self._burst
        elif wire.blames_endpoint(outcome.error):
            self.in_a_row += 1


def _without_numbers(reason: str) -> str:
    """A reason without what differs from call to call: counts, ids."""
    return re.sub(r"[0-9a-f-]{8,}|\d+", "#", reason)
