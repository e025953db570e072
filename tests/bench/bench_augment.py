"""Tokens a second through augment, beside the bare engine that is handed the same requests at once.

    python -m tests.bench.bench_augment                  # 384 requests a pass; about half an hour on two cores
    python -m tests.bench.bench_augment --requests 24    # to try it; about two minutes

The default run's teacher in vLLM: without its judge, with it, and a chain of three steps (the first three of
runs/critique.yaml). The bare side is vLLM's own `LLM.generate`, on the same loaded engine, given every call that
augment made, those too that depend on earlier answers. Passes go augment, bare, bare, augment, so that neither side
gains by being later, and nothing is in the engine's cache of prompts when a pass begins. A small pass before all of
them loads what is imported on the way. Steps are the engine's, in flight are the sequences in one of them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from harness.augment.stage import augment
from harness.builders import teachers_of
from harness.config.load import load_run
from harness.config.run import Run
from harness.core.terminal import Stop, Terminal
from harness.engines.protocols import Generator
from harness.records import Completion, Request

ROOT = Path(__file__).resolve().parents[2]
REQUESTS = 384
ONCE = ["augment.requests_per_row=1", "augment.max_requests_per_row=1", "train.sizes=[0, 1]"]
STEPS = 3  # of the chain
AIM = 0.95  # of the bare engine's tokens a second


class Silent(Terminal):
    """Prints nothing."""

    def say(self, text: str = "") -> None:
        pass


class Recorder:
    """Passes requests on to an engine, and keeps them and how many tokens were written."""

    def __init__(self, inner: Generator) -> None:
        self.inner = inner
        self.requests: list[Request] = []
        self.tokens = 0

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        def recorded() -> Iterator[Request | None]:
            for request in requests:
                if request is not None:
                    self.requests.append(request)
                yield request

        for completion in self.inner.generate(recorded()):
            self.tokens += completion.completion_tokens
            yield completion


@dataclass
class Side:
    """What the passes of one side took."""

    requests: int = 0
    tokens: int = 0
    seconds: float = 0.0
    in_flight: list[int] = field(default_factory=list)  # sequences, of each step of the engine

    def line(self, bare: Side | None = None) -> str:
        """As a part of a table, with the ratio to the bare engine's speed."""
        ratio = f"{self.tokens / self.seconds / (bare.tokens / bare.seconds):>8.3f}" if bare else ""
        mean = sum(self.in_flight) / max(len(self.in_flight), 1)
        return (
            f"{self.requests:>10}{self.tokens:>9}{self.seconds:>10.1f}{self.tokens / self.seconds:>11.1f}"
            f"{len(self.in_flight):>7}{mean:>11.1f}{ratio}"
        )


class Engine:
    """The teacher of a run, loaded once: as augment's engine, and as vLLM's own `LLM`."""

    def __init__(self, run: Run) -> None:
        self.teachers, build = teachers_of(run, Silent())
        engine: Any = build()
        self.ours, self._inner = engine, engine._engine
        from vllm import LLM
        from vllm.v1.engine.llm_engine import LLMEngine

        with mock.patch.object(LLMEngine, "from_engine_args", return_value=self._inner):  # one engine for both
            self._llm = LLM(self._inner.model_config.model)
        self._in_flight: list[int] = []
        self._inner.step = self._counted(self._inner.step)

    def _counted(self, step: Any) -> Any:
        scheduler = self._inner.engine_core.engine_core.scheduler

        def counted() -> Any:
            sequences, before = self._inner.get_num_unfinished_requests(), len(scheduler.running)
            outputs = step()
            if before or scheduler.running or outputs:  # else all wait for their guides, and the step did nothing
                self._in_flight.append(sequences)
            return outputs

        return counted

    def fresh(self) -> float:
        """Forget the prompts of earlier passes. Returns the time."""
        assert self._inner.reset_prefix_cache()
        self._in_flight.clear()
        return time.monotonic()

    def augmented(self, run: Run, side: Side) -> list[Request]:
        """One pass of augment over a run of which nothing is stored. Returns what it asked."""
        forget(run)
        recorder = Recorder(self.ours)
        started = self.fresh()
        augment(run, self.teachers, lambda: recorder, Silent(), Stop())
        self._add(side, len(recorder.requests), recorder.tokens, started)
        return recorder.requests

    def bare(self, requests: list[Request], side: Side) -> None:
        """One call of `LLM.generate`."""
        started = self.fresh()
        prompts = [
            {"prompt_token_ids": self.ours._tokens(request)} if request.messages else request.prompt
            for request in requests
        ]
        parameters = [self.ours._parameters(request.sampling) for request in requests]
        outputs = self._llm.generate(prompts, parameters, use_tqdm=False)
        self._add(side, len(requests), sum(len(output.outputs[0].token_ids) for output in outputs), started)

    def _add(self, side: Side, requests: int, tokens: int, started: float) -> None:
        side.seconds += time.monotonic() - started
        side.requests, side.tokens = side.requests + requests, side.tokens + tokens
        side.in_flight += self._in_flight


def project(folder: Path) -> Path:
    """A copy of what a person wrote, so that no result of this checkout is used or overwritten."""
    for name in ("prompts", "suites"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / "runs").mkdir()
    for path in (ROOT / "runs").glob("*.yaml"):
        shutil.copy(path, folder / "runs")
    return folder / "runs/helpdesk.yaml"


def forget(run: Run) -> None:
    """Take away what earlier passes stored."""
    shutil.rmtree(run.folder, ignore_errors=True)
    for path in run.cache.glob("calls.sqlite*"):
        path.unlink()


def default_run(path: Path, rows: int) -> Run:
    """The default run with so many rows, each asked for once."""
    return load_run(path, [f"augment.rows={rows}", *ONCE, "ship.size=1"])


def without_judge(run: Run) -> Run:
    """The run without the filters that ask the teacher."""
    augment = run.file.augment
    filters = tuple(filter_ for filter_ in augment.filters if not filter_.needs.teachers)
    file = run.file.model_copy(update={"augment": augment.model_copy(update={"filters": filters})})
    return replace(run, file=file)


def chain_run(path: Path, rows: int) -> Run:
    """A request, its answer, and what is wrong with that: so many rows, each begun once."""
    written = yaml.safe_load((path.parent / "critique.yaml").read_text())
    written["augment"]["steps"] = written["augment"]["steps"][:STEPS]
    written["augment"]["row"] = {"text": "text", "answer": "draft"}
    chain = path.with_name("chain.yaml")
    chain.write_text(yaml.safe_dump(written, sort_keys=False))
    return load_run(chain, [f"augment.rows={rows}", *ONCE])


def compare(engine: Engine, run: Run) -> tuple[Side, Side]:
    """Augment and the bare engine, two passes of each."""
    ours, bare = Side(), Side()
    requests = engine.augmented(run, ours)
    engine.bare(requests, bare)
    engine.bare(requests, bare)
    engine.augmented(run, ours)
    return ours, bare


def main() -> None:
    """Print the table."""
    os.environ.setdefault("HARNESS_BENCHMARKS", "")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=REQUESTS, help="that write, in one pass")
    count = parser.parse_args().requests
    with tempfile.TemporaryDirectory() as temporary:
        path = project(Path(temporary))
        with_judge, chain = default_run(path, count), chain_run(path, max(count // STEPS, 1))
        engine = Engine(with_judge)
        for small in (default_run(path, 4), chain_run(path, 1)):
            engine.augmented(small, Side())
        print(f"{with_judge.teacher.model}, {os.cpu_count()} cores, two passes of each side, load left out")
        heads = ("requests", "tokens", "seconds", "tokens/s", "steps", "in flight", "ratio")
        widths = (10, 9, 10, 11, 7, 11, 8)
        print(f"{'':<38}" + "".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True)))
        runs = {
            "default filters, judge off": without_judge(with_judge),
            "default filters, judge on": with_judge,
            f"a chain of {STEPS} steps": chain_run(path, chain.file.augment.rows),
        }
        for title, run in runs.items():
            ours, bare = compare(engine, run)
            print(f"{title + ': augment':<38}{ours.line(bare)}", flush=True)
            print(f"{'    LLM.generate, all at once':<38}{bare.line()}", flush=True)
    print(f"aim: a ratio of at least {AIM:g}")


if __name__ == "__main__":
    main()
