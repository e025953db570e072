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
import threading
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any

import httpx

from harness.engines import openai_wire as wire
from harness.errors import HarnessError, MachineError, UsageError, nearest
from harness.records import Completion, Request

ATTEMPTS = 6  # of one request
PREFLIGHT_ATTEMPTS = 3  # of the check before anything is spent
BACKOFF_S = 0.5  # before the second attempt; doubles, with jitter
LONGEST_WAIT_S = 120.0  # between two attempts, whatever Retry-After asks for
LEAVE_S = 10.0  # what is in flight when the endpoint is given up may take this long to come back
GIVE_UP_AFTER = 20  # requests in a row that failed in all their attempts
MODELS_SHOWN = 10


class OpenAIEngine:
    """Asks an OpenAI-compatible endpoint, `concurrency` requests at a time.

    `base_url` is what comes before `/chat/completions`, e.g. http://127.0.0.1:8000/v1. `api_key` is None for
    an endpoint without one. `timeout_s` is for one attempt, waiting for its whole answer included.
    `transport` replaces the network in tests. Of `Request.model` (name@revision) the endpoint is sent what
    it lists: all of it, or the name alone.
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
    ) -> None:
        address = _address(base_url)
        self._shown = str(address.copy_with(username=None, password=None, query=None, fragment=None))
        self._hidden = tuple(text for text in (api_key, address.password, address.host) if text)
        self._has_key = api_key is not None
        self._concurrency = concurrency
        self._attempts = attempts
        self._backoff_s = backoff_s
        self._known: tuple[str, ...] | None = None  # models the endpoint lists; None before it was asked
        self._client = httpx.Client(
            base_url=address,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout_s, connect=min(10.0, timeout_s)),
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
            transport=transport,
            trust_env=address.host not in ("localhost", "127.0.0.1", "::1"),  # no proxy on the way to oneself
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
        fatal: Exception | None = None
        try:
            while fatal is None:
                for request in islice(waiting, self._concurrency - flying):
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
                    completed, failed_in_a_row = completed + 1, 0
                elif outcome.error.startswith("HTTP 403") and not completed:
                    fatal = self._refusal(403, "")  # the key; later on it is a word the endpoint dislikes
                    break
                elif wire.blames_endpoint(outcome.error):
                    failed_in_a_row += 1
                yield outcome
                if failed_in_a_row >= GIVE_UP_AFTER:
                    fatal = self._gone(completed, outcome.error)
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
        content = wire.body(request, self._model(request.model, leaving))
        threading.Thread(target=self._work, args=(request, content, done, leaving), daemon=True).start()

    def _work(
        self,
        request: Request,
        content: dict[str, Any],
        done: SimpleQueue[Completion | Exception],
        leaving: threading.Event,
    ) -> None:
        """Put exactly one outcome: a completion, or what must end all work."""
        try:
            done.put(self._complete(request, content, leaving))
        except Exception as error:  # noqa: BLE001  (the caller's thread raises it)
            done.put(error)

    def _complete(self, request: Request, content: dict[str, Any], leaving: threading.Event) -> Completion:
        """Ask until there is an answer, a refusal, or no attempt left."""
        path = "chat/completions" if request.messages else "completions"
        # an endpoint that knows this header does not charge a retry whose first answer was lost on the way
        headers = {"Idempotency-Key": request.key}
        reason = "not asked"
        for attempt in range(self._attempts):
            response, reason = self._send("POST", path, json=content, headers=headers)
            if response is None:
                wait_s = 0.0
            elif response.status_code == 200:
                try:
                    return wire.completion(request, response.json())
                except (ValueError, KeyError, IndexError, TypeError, AttributeError):
                    reason, wait_s = wire.GARBAGE, 0.0  # a proxy's page, half an answer: try again
            elif response.status_code in (401, 404):
                raise self._refusal(response.status_code, str(content["model"]))
            elif _may_pass(response.status_code):
                wait_s = _retry_after(response)
            else:
                break  # the request itself is refused; asking again changes nothing
            if attempt + 1 < self._attempts and leaving.wait(self._pause(attempt, wait_s, request.key)):
                break
        return Completion(request=request.key, finish_reason="error", error=reason)

    def _send(self, method: str, path: str, **content: Any) -> tuple[httpx.Response | None, str]:
        """The response (None when there is no answer at all) and, for people, why it is not a good one."""
        try:
            response = self._client.request(method, path, **content)
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
        shown = ", ".join(self._known[:MODELS_SHOWN])
        more = f" and {len(self._known) - MODELS_SHOWN} more" if len(self._known) > MODELS_SHOWN else ""
        raise UsageError(
            f"teacher.model: {self._shown} serves no model {bare!r}{nearest(bare, self._known)};"
            f" it serves: {shown}{more}"
        )

    def _models(self, leaving: threading.Event) -> tuple[str, ...]:
        """What the endpoint serves; empty where it does not say. The check before anything is spent."""
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
        if response.status_code in (401, 403, 404):
            raise self._refusal(response.status_code, "")
        if _may_pass(response.status_code):
            raise MachineError(f"teacher.base_url: {self._shown} does not answer: {reason}")
        if response.is_redirect:
            raise UsageError(
                f"teacher.base_url: {self._shown} has moved (HTTP {response.status_code}); give the new address"
            )
        if response.status_code != 200:
            return ()  # it keeps no list; the first request will tell
        try:
            return tuple(str(model["id"]) for model in response.json()["data"])
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"teacher.base_url: {self._shown} answers, but not as an OpenAI-compatible endpoint does"
                f"{self._ending()}"
            ) from error

    def _refusal(self, status: int, model: str) -> UsageError:
        if status == 404:
            what = f"has no completions for the model {model!r}" if model else "is no OpenAI-compatible endpoint"
            return UsageError(f"teacher.base_url: {self._shown} {what} (HTTP 404){self._ending()}")
        how = "refuses the key" if self._has_key else "wants a key and none was given"
        return UsageError(
            f"teacher.api_key_env: {self._shown} {how} (HTTP {status}); put a valid key into the environment"
            " variable that teacher.api_key_env names"
        )

    def _ending(self) -> str:
        return "" if self._shown.rstrip("/").endswith("/v1") else "; most addresses end in /v1"

    def _gone(self, completed: int, reason: str) -> MachineError:
        return MachineError(
            f"{self._shown} is gone or exhausted: {GIVE_UP_AFTER} requests in a row failed, the last with:"
            f" {reason}. {completed} were completed and are kept; the same command goes on from there"
        )


def _address(base_url: str) -> httpx.URL:
    """The endpoint's address. Raises UsageError for one that is not http or https."""
    with contextlib.suppress(httpx.InvalidURL):
        address = httpx.URL(base_url.rstrip("/"))
        if address.scheme in ("http", "https") and address.host:
            return address
    raise UsageError(f"teacher.base_url: {base_url!r} is not an address; write it like http://127.0.0.1:8000/v1")


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
