"""A deterministic OpenAI-compatible endpoint on loopback, which can be told to fail.

Its answers are a pure function of what was asked (the body, and the Idempotency-Key that tells repeated
askings apart), so that runs against it can be compared byte by byte. Its logic needs no socket:
`transport(endpoint)` is the same endpoint inside an httpx2 client.

    with serving(Endpoint(faults=["429", "500", "garbage"])) as endpoint:
        OpenAIEngine(endpoint.base_url, api_key=None)
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

import httpx2

Fault = Literal[
    "ok", "429", "500", "503", "529", "400", "401", "403", "garbage", "half", "cut", "reset", "hang", "drip"
]

WORDS = (
    "the my a was is not again twice bike app battery bill charged lock city refund help now please broken"
    " lost arrive month card street week rider wheel station email nobody answer flat cannot"
)
AT_ONCE = {"Retry-After-Ms": "1"}  # for the client's own pauses are long for a test
KEY = "sk-test-of-the-key-that-must-stay-hidden"


@dataclass
class Answer:
    """One HTTP answer; `reset` drops the connection instead, `cut` in the middle of the body."""

    status: int = 200
    content: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    reset: bool = False
    cut: bool = False
    drips: tuple[int, float] = (0, 0.0)  # blank lines before the body, seconds before each

    def bytes(self) -> bytes:
        """The body."""
        return self.raw if self.raw is not None else json.dumps(self.content).encode()


@dataclass
class Endpoint:
    """What the server does. `faults` are used up one per POST, in the order in which they arrive."""

    models: tuple[str, ...] = ("teacher",)
    key: str | None = None  # the key it wants
    faults: Iterable[Fault] = ()
    dies_after: int | None = None  # POSTs that are answered before every connection is dropped
    retry_after: str = ""  # what each failure asks for; by default it asks for a pause of 1 ms
    hang_s: float = 30.0
    delay_s: float = 0.0  # before each good answer
    at_once: int | None = None  # POSTs that are answered at the same time; any more get 429
    drips: tuple[int, float] = (0, 0.0)  # of the fault "drip": blank lines before the body, seconds before each
    guided: bool = True  # choices are honoured
    longest: int | None = None  # characters of a body; longer ones are refused
    no_logprobs: bool = False  # they are left out, asked for or not
    base_url: str = ""  # set while serving
    posts: list[dict[str, Any]] = field(default_factory=list)  # bodies, as they came
    arrivals: list[tuple[int, bool]] = field(default_factory=list)  # POSTs there with each, itself too; one too many?

    def __post_init__(self) -> None:
        self._there = 0
        self._faults = deque(self.faults)
        self._lock = threading.Lock()
        self.closing = threading.Event()

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """The answer to one request; header names in lower case."""
        dead = self.dies_after is not None and len(self.posts) >= self.dies_after
        if dead and method == "POST":
            return Answer(reset=True)
        if self.key is not None and headers.get("authorization") != f"Bearer {self.key}":
            return _error(401, f"Incorrect API key provided: {headers.get('authorization', '')[7:]}")
        if method == "GET" and path.endswith("/v1/models"):
            return Answer(content={"object": "list", "data": [{"id": m, "object": "model"} for m in self.models]})
        chat = path.endswith("/v1/chat/completions")
        if method != "POST" or not (chat or path.endswith("/v1/completions")):
            return _error(404, "Not Found")
        asked = json.loads(body)
        with self._lock:
            self.posts.append(asked)
            self._there += 1
            crowded = self.at_once is not None and self._there > self.at_once
            self.arrivals.append((self._there, crowded))
            fault: Fault = "429" if crowded else self._faults.popleft() if self._faults else "ok"
        try:
            return self._answer(asked, fault, chat, headers, len(body))
        finally:
            with self._lock:
                self._there -= 1

    def _answer(self, asked: dict[str, Any], fault: Fault, chat: bool, headers: dict[str, str], length: int) -> Answer:
        if asked["model"] not in self.models:
            return _error(404, f"The model {asked['model']} does not exist.")
        if fault not in ("ok", "cut", "drip"):
            return self._fail(fault, headers)
        if self.longest is not None and length > self.longest:
            return _error(400, "This model's maximum context length is exceeded.")
        time.sleep(self.delay_s)
        content = self._complete(asked, chat, headers.get("idempotency-key", ""))
        return Answer(content=content, cut=fault == "cut", drips=self.drips if fault == "drip" else (0, 0.0))

    def _fail(self, fault: Fault, headers: dict[str, str]) -> Answer:
        if fault == "garbage":
            return Answer(raw=b"<html>a proxy's page</html>", headers=AT_ONCE)
        if fault == "half":
            return Answer(content={"choices": []})
        if fault == "hang":
            self.closing.wait(self.hang_s)
            return Answer(reset=True)
        if fault == "reset":
            return Answer(reset=True)
        said = f"this is fault {fault} of http://secret.example/v1 for {headers.get('authorization', '')[7:]}"
        answer = _error(int(fault), said)
        answer.headers |= {"Retry-After": self.retry_after} if self.retry_after else AT_ONCE
        return answer

    def _complete(self, asked: dict[str, Any], chat: bool, key: str) -> dict[str, Any]:
        seed = hashlib.sha256(json.dumps([asked, key], sort_keys=True).encode()).hexdigest()
        draw = random.Random(seed)
        choices = (asked.get("structured_outputs") or {}).get("choice") if self.guided else None
        weights = {text: draw.random() + 0.01 for text in choices or draw.sample(WORDS.split(), 20)}
        logprobs = {text: math.log(w / sum(weights.values())) for text, w in weights.items()}
        if choices:
            words = [max(weights, key=lambda text: weights[text])]
        elif asked.get("response_format"):
            words = [
                json.dumps({"text": " ".join(draw.choices(WORDS.split(), k=8)), "label": draw.choice(WORDS.split())})
            ]
        else:
            words = draw.choices(WORDS.split(), k=draw.randint(3, 14))
        limit = int(asked["max_tokens"])
        text, ended = " ".join(words[:limit]), "length" if len(words) > limit else "stop"
        prompt = json.dumps(asked.get("messages") or asked["prompt"])
        choice: dict[str, Any] = {"index": 0, "finish_reason": ended, "logprobs": None}
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        if asked.get("logprobs") and not self.no_logprobs:
            choice["logprobs"] = _logprobs(chat, words[0], logprobs)
        used = {"prompt_tokens": len(prompt.split()), "completion_tokens": min(len(words), limit)}
        return {"id": seed[:8], "model": asked["model"], "choices": [choice], "usage": used}


def _logprobs(chat: bool, first: str, logprobs: dict[str, float]) -> dict[str, Any]:
    own = logprobs.get(first, -9.0)
    if chat:
        top = [{"token": token, "logprob": value, "bytes": None} for token, value in logprobs.items()]
        return {"content": [{"token": first, "logprob": own, "bytes": None, "top_logprobs": top}]}
    return {"tokens": [first], "token_logprobs": [own], "top_logprobs": [logprobs], "text_offset": [0]}


def _error(status: int, message: str) -> Answer:
    return Answer(status, {"error": {"message": message, "type": "error", "code": status}})


def transport(endpoint: Endpoint) -> httpx2.MockTransport:
    """The endpoint without a socket."""

    def handle(request: httpx2.Request) -> httpx2.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        answer = endpoint.answer(request.method, request.url.path, headers, request.content)
        if answer.reset or answer.cut:
            raise httpx2.ReadError("connection reset", request=request)
        return httpx2.Response(answer.status, headers=answer.headers, content=answer.bytes())

    return httpx2.MockTransport(handle)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128  # connections that may come at the same moment

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has left is no error, and a test that fails says so itself."""


@contextmanager
def serving(endpoint: Endpoint, port: int = 0) -> Iterator[Endpoint]:
    """Serve on a port of this machine (0: a free one); `endpoint.base_url` tells which.

    At the end every connection is dropped, as when a process dies. It may be served again then.
    """
    connections: list[socket.socket] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            connections.append(self.connection)

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = endpoint.answer(self.command, self.path, headers, body)
            if answer.reset:
                self.close_connection = True
                return
            content = answer.bytes()
            count, pause_s = answer.drips
            self.send_response(answer.status)
            for name, value in {**answer.headers, "Content-Type": "application/json"}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(count + len(content)))
            self.end_headers()
            for _ in range(count):
                endpoint.closing.wait(pause_s)
                self.wfile.write(b"\n")
            self.wfile.write(content[: len(content) // 2] if answer.cut else content)
            self.close_connection = self.close_connection or answer.cut

        def log_message(self, *_: object) -> None:
            """Tests print what they need."""

    endpoint.closing.clear()
    server = _Server(("127.0.0.1", port), Handler)
    endpoint.base_url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        endpoint.closing.set()
        server.shutdown()
        server.server_close()
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
