"""Requests a second of augment over HTTP, beside a bare asynchronous client with as many in flight.

    python -m tests.bench.bench_augment_http                                  # 2,000 requests a pass; some minutes
    python -m tests.bench.bench_augment_http --requests 200 --delays 0.02     # to try it; half a minute

The server is a process of its own on loopback that answers every request after the same delay, with random words. The
default run without its judge asks it. The bare side posts the same bodies and reads the texts: by httpx2, and by the
`openai` client. The ratio is to the faster of the two. Passes go augment, bare, bare, augment. Own CPU is of the
process that asks. Where the delay is short the server takes a core, and what is measured is who gets the other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from openai import AsyncOpenAI

from harness.augment.stage import augment
from harness.builders import teachers_of
from harness.config.load import load_run
from harness.core.terminal import Stop
from harness.engines import openai_wire as wire
from tests.bench.bench_augment import ONCE, Recorder, Silent, forget, project, without_judge

REQUESTS, CONCURRENCY = 2_000, 32
DELAYS = [0.0, 0.02, 0.1, 0.5]  # seconds
AIM = 0.95  # of the bare client's requests a second
MODEL = "teacher"
WORDS = 11  # of an answer

Body = dict[str, Any]


class Answering(asyncio.Protocol):
    """One connection of the server: reads requests, writes answers, each after the delay."""

    def __init__(self, delay: float, words: Sequence[str], draw: random.Random) -> None:
        self._delay, self._words, self._draw = delay, words, draw
        self._received = b""

    def connection_made(self, transport: Any) -> None:
        """Keep where answers go."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every request that is whole."""
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end].lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
            if len(self._received) < end + 4 + length:
                return
            self._received = self._received[end + 4 + length :]
            if head.startswith(b"get"):
                self._write({"object": "list", "data": [{"id": MODEL, "object": "model"}]})
            elif self._delay:
                asyncio.get_running_loop().call_later(self._delay, self._complete)
            else:
                self._complete()

    def _complete(self) -> None:
        choice = {"index": 0, "text": " ".join(self._draw.choices(self._words, k=WORDS)), "finish_reason": "stop"}
        usage = {"prompt_tokens": 90, "completion_tokens": WORDS, "total_tokens": 90 + WORDS}
        about = {"id": "x", "object": "text_completion", "created": 0, "model": MODEL}
        self._write({**about, "choices": [{**choice, "logprobs": None}], "usage": usage})

    def _write(self, content: Body) -> None:
        body = json.dumps(content).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)


async def serve(delay: float) -> None:
    """Answer on a free port, which is printed, for ever."""
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 9))) for _ in range(3_000)]
    server = await asyncio.get_running_loop().create_server(lambda: Answering(delay, words, draw), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def serving(delay: float) -> Iterator[str]:
    """The address of a server in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.bench_augment_http", "--serve", str(delay)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.terminate()


async def all_of(bodies: Sequence[Body], post: Callable[[Body], Awaitable[str]], concurrency: int) -> list[str]:
    """The texts that come back, so many requests in flight."""
    waiting, texts = iter(bodies), list[str]()

    async def work() -> None:
        for body in waiting:
            texts.append(await post(body))

    await asyncio.gather(*(work() for _ in range(concurrency)))
    return texts


async def by_httpx(address: str, bodies: Sequence[Body], concurrency: int) -> list[str]:
    """The texts, by httpx2 alone."""
    limits = httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with httpx2.AsyncClient(limits=limits, trust_env=False, timeout=60) as client:

        async def post(body: Body) -> str:
            response = await client.post(f"{address}/completions", json=body)
            return str(response.json()["choices"][0]["text"])

        return await all_of(bodies, post, concurrency)


async def by_openai(address: str, bodies: Sequence[Body], concurrency: int) -> list[str]:
    """The texts, by the `openai` client."""
    async with AsyncOpenAI(base_url=address, api_key="none") as client:

        async def post(body: Body) -> str:
            return str((await client.completions.create(**body)).choices[0].text)

        return await all_of(bodies, post, concurrency)


class Side:
    """What the passes of one side took."""

    def __init__(self) -> None:
        self.requests, self.seconds, self.cpu = 0, 0.0, 0.0

    @property
    def speed(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add what the block takes."""
        clock, cpu = time.monotonic(), time.process_time()
        yield
        self.seconds, self.cpu = self.seconds + time.monotonic() - clock, self.cpu + time.process_time() - cpu


def compare(path: Path, delay: float, concurrency: int, rows: int) -> dict[str, Side]:
    """Augment and the bare clients, two passes of each."""
    sides = {"augment": Side(), "httpx2": Side(), "AsyncOpenAI": Side()}
    with serving(delay) as address:

        def augmented(count: int, side: Side) -> list[Body]:
            teacher = f"teacher={{model: {MODEL}, engine: openai, base_url: '{address}', concurrency: {concurrency}}}"
            run = without_judge(load_run(path, [teacher, f"augment.rows={count}", *ONCE, "ship.size=1"]))
            forget(run)
            teachers, build = teachers_of(run, Silent())
            recorder = Recorder(build())
            with side.timed():
                augment(run, teachers, lambda: recorder, Silent(), Stop())
            side.requests += len(recorder.requests)
            return [wire.body(request, MODEL, wire.Dialect()) for request in recorder.requests]

        augmented(16, Side())  # loads what is imported on the way
        bodies = augmented(rows, sides["augment"])
        for name, ask in (("httpx2", by_httpx), ("AsyncOpenAI", by_openai)) * 2:
            with sides[name].timed():
                sides[name].requests += len(asyncio.run(ask(address, bodies, concurrency)))
        augmented(rows, sides["augment"])
    return sides


def main() -> None:
    """Print the table."""
    os.environ.setdefault("HARNESS_BENCHMARKS", "")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=REQUESTS, help="in one pass")
    parser.add_argument("--concurrency", type=int, default=CONCURRENCY, help="requests in flight")
    parser.add_argument("--delays", type=float, nargs="+", default=DELAYS, help="of the server, in seconds")
    parser.add_argument("--serve", type=float, help="be the server, with this delay in seconds")
    given = parser.parse_args()
    if given.serve is not None:
        asyncio.run(serve(given.serve))
        return
    print(f"{given.requests} requests a pass, {given.concurrency} in flight, {os.cpu_count()} cores; requests a second")
    print(
        f"{'delay s':>8}{'at most':>10}{'httpx2':>10}{'AsyncOpenAI':>13}{'augment':>10}{'ratio':>8}  own CPU, ms each"
    )
    for delay in given.delays:
        with tempfile.TemporaryDirectory() as temporary:
            sides = compare(project(Path(temporary)), delay, given.concurrency, given.requests)
        ours, bare = sides["augment"], [sides["httpx2"], sides["AsyncOpenAI"]]
        at_most = f"{given.concurrency / delay:.0f}" if delay else ""
        cpu = ", ".join(f"{name} {1000 * side.cpu / side.requests:.2f}" for name, side in sides.items())
        ratio = ours.speed / max(side.speed for side in bare)
        print(
            f"{delay:>8g}{at_most:>10}{bare[0].speed:>10.1f}{bare[1].speed:>13.1f}{ours.speed:>10.1f}{ratio:>8.3f}"
            f"  {cpu}",
            flush=True,
        )
    print(f"aim: a ratio of at least {AIM:g}")


if __name__ == "__main__":
    main()
