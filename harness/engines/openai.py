"""A teacher behind an OpenAI-compatible endpoint: vLLM's server, llama.cpp, Ollama, a hosted service.

What is asked is checked before anything is spent (is it there, does it take the key, does it know the model).
After that the failure of one request is that request's completion, with finish_reason "error"; only an
endpoint that is gone altogether, or that takes the key back, ends the work.

The key is given by the caller, sent in one header, and is in no message, no record and no repr.
"""

from __future__ import annotations

import contextlib
import email.utils
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any

import httpx

from harness.engines import openai_wire as wire
from harness.errors import HarnessError, MachineError, UsageError, nearest
from harness.models.endpoint import address_problem, check_proxies, endpoint_path
from harness.records import Completion, Request

ATTEMPTS = 6  # of one request
PREFLIGHT_ATTEMPTS = 3  # of the check before anything is spent
BACKOFF_S = 0.5  # before the second attempt; doubles, with jitter
LONGEST_WAIT_S = 120.0  # between two attempts, whatever Retry-After asks for
LEAVE_S = 10.0  # what is in flight when the endpoint is given up may take this long to come back
GIVE_UP_AFTER = 20  # requests in a row that failed in all their attempts
FIRST_CALLS = 8  # in flight at most before one was answered; when the first so many fail alike, no more are sent
MODELS_SHOWN = 10


class OpenAIEngine:
    """Asks an OpenAI-compatible endpoint, `concurrency` requests at a time.

    `base_url` is what comes before `/chat/completions`, e.g. http://127.0.0.1:8000/v1. `api_key` is None for
    an endpoint without one. `timeout_s` is for connecting, and for each wait for the next piece of an answer.
    `transport` replaces the network in tests, `say` is told once of each thing that is odd about the endpoint. Of
    `Request.model` (name@revision) the endpoint is sent what it lists: all of it, or the name alone.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        *,
        concurrency: int = 32,
        timeout_s: float = 120.0,
        attempts: int = ATTEMPTS,
        backoff_s: float = BACKOFF_S,
        transport: httpx.BaseTransport | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Raises UsageError for an address or a proxy variable that cannot be used."""
        if problem := address_problem(base_url):
            raise UsageError(f"teacher.base_url: it {problem}")
        self._address = address = httpx.URL(base_url)
        self._shown = str(address.copy_with(query=None, fragment=None)).rstrip("/")
        query = [value for value in address.params.values() if len(value) > 3]
        self._hidden = tuple(text for text in (api_key, address.host, *query) if text)
        self._has_key = api_key is not None
        self._concurrency = concurrency
        self._attempts = attempts
        self._backoff_s = backoff_s
        self._known: tuple[str, ...] | None = None  # models the endpoint lists; None before it was asked
        self._listing_is_a_page = False
        self._answered = False  # whether any request ever was
        self._dialect = wire.Dialect()
        self._learning = threading.Lock()
        self._say, self._said = say, set[str]()
        local = address.host in ("localhost", "127.0.0.1", "::1")
        if not local and transport is None:
            check_proxies()
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout_s, connect=min(10.0, timeout_s)),
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
            transport=transport,
            trust_env=not local,  # no proxy on the way to oneself
        )

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield one completion per request as they come back.

        Raises UsageError when the endpoint refuses the key or does not know the model, MachineError when it
        cannot be reached or is gone; what had come back by then is yielded first. Closing the iterator
        gives up what is in flight.
        """
        waiting = iter(requests)
        done: SimpleQueue[Completion | Exception] = SimpleQueue()
        leaving = threading.Event()
        flying = completed = failed_in_a_row = 0
        first: list[str] = []  # why requests failed before any was answered
        fatal: Exception | None = None
        try:
            while fatal is None:
                room = self._concurrency if self._answered else min(FIRST_CALLS, self._concurrency)
                for request in islice(waiting, room - flying):
                    try:
                        self._launch(request, done, leaving)
                    except HarnessError as error:
                        fatal = error
                        break
                    flying += 1
                if fatal is not None or not flying:
                    break
                outcome = done.get()
                flying -= 1
                if isinstance(outcome, Exception):
                    fatal = outcome
                    break
                if outcome.finish_reason != "error":
                    self._answered, completed, failed_in_a_row = True, completed + 1, 0
                elif outcome.error.startswith("HTTP 403") and not completed:
                    fatal = self._refusal(403, "", outcome.error)  # the key; later on it is a word it dislikes
                    break
                elif wire.blames_endpoint(outcome.error):
                    failed_in_a_row += 1
                yield outcome
                if outcome.error and not self._answered:
                    first.append(outcome.error)
                if failed_in_a_row >= GIVE_UP_AFTER:
                    fatal = self._gone(completed, outcome.error)
                elif len(first) >= FIRST_CALLS and len(set(map(_without_numbers, first))) == 1 and not self._answered:
                    fatal = MachineError(
                        f"{self._shown}: the first {len(first)} calls all failed for one reason, and no more are"
                        f" sent: {first[0]}"
                    )
            leaving.set()
            if fatal is not None:
                yield from _landed(done, flying)
                raise fatal
        finally:
            leaving.set()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _launch(self, request: Request, done: SimpleQueue[Completion | Exception], leaving: threading.Event) -> None:
        """Start asking. The thread is a daemon: a process told to stop at once waits for no answer."""
        model = self._model(request.model, leaving)
        threading.Thread(target=self._work, args=(request, model, done, leaving), daemon=True).start()

    def _work(
        self, request: Request, model: str, done: SimpleQueue[Completion | Exception], leaving: threading.Event
    ) -> None:
        """Put exactly one outcome: a completion, or what must end all work."""
        try:
            done.put(self._complete(request, model, leaving))
        except Exception as error:  # noqa: BLE001  (the caller's thread raises it)
            done.put(error)

    def _complete(self, request: Request, model: str, leaving: threading.Event) -> Completion:
        """Ask until there is an answer, a refusal, or no attempt left."""
        reason = "not asked"
        for attempt in range(self._attempts):
            response, reason = self._ask(request, model)
            status, wait_s = response.status_code if response is not None else 0, 0.0
            if response is not None and status == 200:
                try:
                    answer = wire.answer_of(response)
                except UnicodeDecodeError:
                    reason = f"{wire.GARBAGE}: it is not UTF-8"
                    break
                except wire.ODD:
                    reason = wire.GARBAGE  # a proxy's page, half an answer: try again
                    if self._listing_is_a_page and not self._answered:
                        raise self._no_endpoint() from None
                else:
                    error = wire.error_in(answer, self._hidden)
                    if error is None:
                        return self._read(request, answer)
                    status, words = error
                    reason = f"HTTP {status}: {words}" if status else f"an error in place of an answer: {words}"
                    if not _may_pass(status):
                        break
            elif response is not None and status in (401, 404):
                raise self._refusal(status, model, reason)
            elif response is not None and not _may_pass(status):
                break  # the request itself is refused; asking again changes nothing
            if response is not None:
                wait_s = _retry_after(response)
            if attempt + 1 < self._attempts and leaving.wait(self._pause(attempt, wait_s, request.key)):
                break
        return Completion(request=request.key, finish_reason="error", error=reason)

    def _ask(self, request: Request, model: str) -> tuple[httpx.Response | None, str]:
        """One attempt, made again at once where the endpoint says how it wants to be asked."""
        path = "chat/completions" if request.messages else "completions"
        # an endpoint that knows this header does not charge a retry whose first answer was lost on the way
        headers = {"Idempotency-Key": request.key}
        while True:
            dialect = self._dialect
            sent = wire.body(request, model, dialect)
            response, reason = self._send("POST", path, json=sent, headers=headers)
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

    def _send(self, method: str, path: str, **content: Any) -> tuple[httpx.Response | None, str]:
        """The response (None when there is no answer at all) and, for people, why it is not a good one."""
        try:
            response = self._client.request(method, endpoint_path(self._address, path), **content)
        except httpx.TimeoutException:
            return None, wire.TIMEOUT
        except (httpx.TransportError, httpx.DecodingError) as error:
            return None, f"{wire.NO_ANSWER} ({type(error).__name__})"
        return response, wire.reason(response, self._hidden) if response.status_code != 200 else ""

    def _pause(self, attempt: int, asked_s: float, key: str) -> float:
        """Seconds before the next attempt: doubling, spread out, never less than the endpoint asked for."""
        own: float = self._backoff_s * 2**attempt * random.Random(f"{key}{attempt}").uniform(0.5, 1.5)
        return min(max(own, asked_s), LONGEST_WAIT_S)

    def _model(self, name: str, leaving: threading.Event) -> str:
        """The name as the endpoint lists it. Raises UsageError when it knows no such model."""
        if self._known is None:
            self._known = self._models(leaving)
        bare = name.rpartition("@")[0] or name
        if not self._known or name in self._known or bare in self._known:
            return name if name in self._known else bare
        shown = ", ".join(" ".join(known.split()) for known in self._known[:MODELS_SHOWN])
        more = f" and {len(self._known) - MODELS_SHOWN} more" if len(self._known) > MODELS_SHOWN else ""
        raise UsageError(
            f"teacher.model: {self._shown} serves no model {bare!r}{nearest(bare, self._known)};"
            f" it serves: {shown}{more}"
        )

    def _models(self, leaving: threading.Event) -> tuple[str, ...]:
        """What the endpoint says it serves; empty where it keeps no list, or none for this key: requests will tell.

        Raises MachineError when it cannot be reached, UsageError when it has moved.
        """
        response: httpx.Response | None = None
        reason = ""
        for attempt in range(PREFLIGHT_ATTEMPTS):
            response, reason = self._send("GET", "models")
            if response is not None and not _may_pass(response.status_code):
                break
            wait_s = _retry_after(response) if response is not None else 0.0
            if attempt + 1 < PREFLIGHT_ATTEMPTS:
                leaving.wait(self._pause(attempt, wait_s, "models"))
        if response is None:
            raise MachineError(f"teacher.base_url: cannot reach {self._shown}: {reason}; is the server running?")
        if response.is_redirect:
            raise UsageError(
                f"teacher.base_url: {self._shown} has moved (HTTP {response.status_code}); give the new address"
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

    def _no_endpoint(self) -> UsageError:
        return UsageError(
            f"teacher.base_url: {self._shown} answers, but not as an OpenAI-compatible endpoint does{self._ending()}"
        )

    def _refusal(self, status: int, model: str, reason: str) -> UsageError:
        said = reason.partition(": ")[2]
        said = f" (HTTP {status}: {said})" if said else f" (HTTP {status})"
        if status == 404:
            what = f"has no completions for the model {model!r}"
            return UsageError(f"teacher.base_url: {self._shown} {what}{said}{self._ending()}")
        how = "refuses the key" if self._has_key else "wants a key and none was given"
        return UsageError(
            f"teacher.api_key_env: {self._shown} {how}{said}; put a valid key into the environment"
            " variable that teacher.api_key_env names"
        )

    def _ending(self) -> str:
        return "" if self._shown.rstrip("/").endswith("/v1") else "; most addresses end in /v1"

    def _gone(self, completed: int, reason: str) -> MachineError:
        return MachineError(
            f"{self._shown} is gone or exhausted: {GIVE_UP_AFTER} requests in a row failed, the last with:"
            f" {reason}. {completed} were completed and are kept; the same command goes on from there"
        )


def _without_numbers(reason: str) -> str:
    """A reason without what differs from call to call: counts, ids."""
    return re.sub(r"[0-9a-f-]{8,}|\d+", "#", reason)


def _landed(done: SimpleQueue[Completion | Exception], flying: int) -> Iterator[Completion]:
    """Answers that were on their way when the work ended: they are paid for, so they are kept."""
    until = time.monotonic() + LEAVE_S
    for _ in range(flying):
        try:
            outcome = done.get(timeout=max(0.0, until - time.monotonic()))
        except Empty:
            return
        if isinstance(outcome, Completion) and outcome.finish_reason != "error":
            yield outcome


def _may_pass(status: int) -> bool:
    """Whether asking again later may help."""
    return status in (408, 409, 425, 429) or status >= 500


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the endpoint asks to be left alone (a number or a date); 0 when it does not say."""
    text = response.headers.get("retry-after", "")
    with contextlib.suppress(ValueError):
        return max(0.0, float(text))
    with contextlib.suppress(ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    return 0.0
