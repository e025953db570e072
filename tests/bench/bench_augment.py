"""What augment costs beside its teacher: engine steps and sequences in flight, and its own time per request.

    python -m tests.bench.bench_augment vllm      # the default run's teacher in vLLM, 384 requests; a few minutes
    python -m tests.bench.bench_augment instant   # 20,000 answers that take no time

The first compares augment, judge and all, with one call of the same engine that is handed the same requests at once.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.augment.stage import augment
from harness.builders import teachers_of
from harness.config.load import load_run
from harness.config.run import Run
from harness.core.terminal import Stop, Terminal
from harness.engines.protocols import Generator
from harness.engines.scripted import ScriptedEngine
from harness.models.teachers import Teachers
from harness.records import Completion, Request

ROOT = Path(__file__).resolve().parents[2]
REQUESTS = {"vllm": 384, "instant": 20_000}
ONCE = ["augment.requests_per_row=1", "augment.max_requests_per_row=1", "train.sizes=[0, 1]", "ship.size=1"]


class Silent(Terminal):
    """Prints nothing."""

    def say(self, text: str = "") -> None:
        pass


class Recorder:
    """Passes requests on to an engine, and keeps them."""

    def __init__(self, inner: Generator) -> None:
        self.inner = inner
        self.requests: list[Request] = []

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        def recorded() -> Iterator[Request | None]:
            for request in requests:
                if request is not None:
                    self.requests.append(request)
                yield request

        yield from self.inner.generate(recorded())


def project(folder: Path) -> Path:
    """A copy of what a person wrote, so that no result of this checkout is used or overwritten."""
    for name in ("prompts", "suites"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / "runs").mkdir()
    for path in (ROOT / "runs").glob("*.yaml"):
        shutil.copy(path, folder / "runs")
    return folder / "runs/helpdesk.yaml"


def without_judge(run: Run) -> Run:
    """The run without the filters that ask the teacher."""
    augment = run.file.augment
    filters = tuple(filter_ for filter_ in augment.filters if not filter_.needs.teachers)
    file = run.file.model_copy(update={"augment": augment.model_copy(update={"filters": filters})})
    return replace(run, file=file)


def vllm(path: Path) -> None:
    run = load_run(path, [f"augment.rows={REQUESTS['vllm']}", *ONCE])
    teachers, build = teachers_of(run, Silent())
    engine: Any = build()
    inner, in_flight = engine._engine, []
    step, scheduler = inner.step, inner.engine_core.engine_core.scheduler

    def counted() -> Any:
        sequences, before = inner.get_num_unfinished_requests(), len(scheduler.running)
        outputs = step()
        if before or scheduler.running or outputs:  # else every request waits for its guide, and the step did nothing
            in_flight.append(sequences)
        return outputs

    inner.step = counted

    def line(title: str, seconds: float) -> None:
        mean = sum(in_flight) / len(in_flight)
        print(f"{title:<32}{len(recorder.requests):>9}{len(in_flight):>8}{mean:>12.1f}{seconds:>10.1f}")
        in_flight.clear()

    recorder = Recorder(engine)
    print(f"{'':<32}{'requests':>9}{'steps':>8}{'in flight':>12}{'seconds':>10}")
    started = time.monotonic()
    augment(run, teachers, lambda: recorder, Silent(), Stop())
    line("augment", time.monotonic() - started)
    started = time.monotonic()
    for _ in engine.generate(recorder.requests):
        pass
    line("the same requests in one call", time.monotonic() - started)


def instant(path: Path) -> None:
    run = load_run(path, [f"augment.rows={REQUESTS['instant']}", *ONCE])
    letters = random.Random(0)
    words = ["".join(letters.choices("etaoinshrdlu", k=letters.randint(2, 9))) for _ in range(3_000)]

    def answer(request: Request) -> Completion:
        draw = random.Random(request.key)
        logprobs: dict[str, float] = {}
        if request.sampling.choices:
            right = max(request.sampling.choices, key=lambda choice: (choice.strip() in request.prompt, choice))
            logprobs = {choice: math.log(0.9 if choice == right else 0.01) for choice in request.sampling.choices}
        text = " ".join(draw.choices(words, k=11))
        return Completion(request=request.key, text=text, finish_reason="stop", first_logprobs=logprobs)

    for count in (64, REQUESTS["instant"]):  # the first loads what is imported on the way
        engine = Recorder(ScriptedEngine(answer))
        run = load_run(path, [f"augment.rows={count}", *ONCE])
        started = time.process_time()
        augment(run, Teachers(own=f"instant@{count}"), lambda engine=engine: engine, Silent(), Stop())  # type: ignore[misc]
        seconds, asked = time.process_time() - started, len(engine.requests)
        print(f"{asked} requests: {seconds:.1f} s of CPU, {1000 * seconds / asked:.2f} ms a request")


if __name__ == "__main__":
    os.environ.setdefault("HARNESS_BENCHMARKS", "")
    with tempfile.TemporaryDirectory() as temporary:
        {"vllm": vllm, "instant": instant}[sys.argv[1]](project(Path(temporary)))
