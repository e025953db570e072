"""What a cluster's driver can carry: replicas, committed calls, and a grid divided into tasks.

    python -m tests.bench.bench_cluster replicas                     # 1 to 64 actors on this machine; needs Ray
    python -m tests.bench.bench_cluster calls --calls 10000000       # the store of calls, alone
    python -m tests.bench.bench_cluster contamination --rows 1000000
    python -m tests.bench.bench_cluster schedule                     # of runs/gpu.yaml's cells; nothing is trained

Replicas are simulated: real actors of Ray, each in a process of its own, whose engine has 8 places and answers after
a fixed time, as a loaded GPU does. A driver and 64 such actors share this machine's cores, so that the efficiency
found is a lower bound of that of a driver with a machine to itself.
"""

from __future__ import annotations

import argparse
import functools
import heapq
import os
import resource
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from harness.cluster.nodes import Nodes
from harness.cluster.replica import Replica, Wanted
from harness.config.cluster import Cluster
from harness.config.load import load_run
from harness.core.terminal import Stop
from harness.engines.call_cache import COMMIT_EVERY, CallCache, cached
from harness.engines.protocols import Generator
from harness.engines.scripted import Script
from harness.engines.several import SeveralEngines, Source
from harness.filters import Contamination
from harness.filters.base import Protected
from harness.records import Completion, Origin, Request, Sampling
from harness.train.grid import GridCell, grid_cells, steps_of
from harness.train.processes import Processes
from tests.bench.bench_near_duplicate import planted
from tests.project import context, row

MODEL = "simulated@1"
PLACES = 8  # requests that a replica works on at once
FILL, LAST = 4096, 50_000  # calls of a commit that fills the store; calls that are timed
CHUNK = 10_000  # rows that are made at once
ROUNDS = 8  # requests of each place


class Timed:
    """Answers PLACES requests at once, each after a fixed time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """One completion after the other, as they are due."""
        script, due = Script(), list[tuple[float, str, Request]]()
        source = iter(requests)
        while True:
            while len(due) < PLACES and (request := next(source)) is not None:
                heapq.heappush(due, (time.monotonic() + self.seconds, request.key, request))
            while due and due[0][0] <= time.monotonic():
                yield script.answer(heapq.heappop(due)[2])
            time.sleep(0.01)


def requests(count: int, start: int = 0) -> Iterator[Request]:
    """Requests of one size, about that of a help-desk prompt."""
    made = Origin(purpose="generate", label="x")
    for number in range(start, start + count):
        yield Request(model=MODEL, prompt=f"{number} {'words ' * 60}", sampling=Sampling(), origin=made)


def replicas_table(counts: Sequence[int], seconds: float) -> None:
    """Answers a second of so many replicas, over so many times those that one could give at most."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    ray.init(address="local", num_cpus=max(counts), include_dashboard=False, log_to_driver=False)
    print(f"service time {seconds:g} s, {PLACES} places a replica, {ROUNDS} requests a place; {os.cpu_count()} cores")
    print(f"{'replicas':>8} {'requests':>9} {'seconds':>8} {'answers/s':>10} {'of the bound':>13} {'driver CPU':>11}")
    nodes = Nodes(Path(tempfile.gettempdir()), print)
    for count in counts:
        engines = [replica(number, seconds, nodes) for number in range(count)]
        warm(engines)
        total = count * PLACES * ROUNDS
        sources = [Source(one.wanted.name, MODEL, functools.partial(_same, one)) for one in engines]
        with (
            tempfile.TemporaryDirectory() as folder,
            closing(CallCache(Path(folder) / "calls.sqlite")) as cache,
            closing(SeveralEngines(sources)) as engine,
        ):
            begun, cpu = time.monotonic(), time.process_time()
            answered = sum(1 for _ in cached(requests(total), cache, functools.partial(_same, engine), Stop()))
            took, used = time.monotonic() - begun, time.process_time() - cpu
        assert answered == total
        rate, bound = total / took, count * PLACES / seconds
        print(
            f"{count:>8} {total:>9} {took:>8.1f} {rate:>10.1f} {rate / bound:>13.3f} {used / took:>11.2f}", flush=True
        )
    ray.shutdown()


def replica(number: int, seconds: float, nodes: Nodes) -> Replica:
    """One of many, which needs a hundredth of a core."""
    build = functools.partial(Timed, seconds)
    cluster = Cluster(cpus=0.01, gpus=0, silent_s=600.0)
    return Replica(Wanted(f"replica {number}", build, 2 * PLACES, cluster), lambda: nodes, print)


def warm(engines: Sequence[Replica]) -> None:
    """Start all actors and have each answer once: loading is not what is measured."""
    threads = [threading.Thread(target=lambda one=one: list(one.generate(requests(1, -1)))) for one in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _same(one: Generator) -> Generator:
    return one


def calls_table(count: int) -> None:
    """The store of calls alone: filled in large batches, then LAST more in the driver's small ones, then looked up."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "calls.sqlite"
        with closing(CallCache(path)) as cache:
            fill(cache, count - LAST, 0, FILL)
            rate = fill(cache, LAST, count - LAST, COMMIT_EVERY)
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        print(
            f"{count} calls, {size / 2**30:.2f} GiB: the last {LAST} at {rate:,.0f} a second, {COMMIT_EVERY} a commit"
        )
        print(f"peak memory {peak_gib():.2f} GiB", flush=True)
        with closing(CallCache(path)) as cache:
            begun = time.monotonic()
            found = sum(not paid for _, paid in cached(requests(count), cache, _nobody, Stop()))
            took = time.monotonic() - begun
        assert found == count
        print(f"all looked up again: {count / took:,.0f} a second ({took:.0f} s); peak memory {peak_gib():.2f} GiB")


def fill(cache: CallCache, count: int, start: int, batch: int) -> float:
    """Commit so many calls, `batch` at once. Returns calls a second; making them does not count."""
    script, seconds = Script(), 0.0
    source = requests(count, start)
    while made := [script.answer(request) for request in islice(source, batch)]:
        begun = time.monotonic()
        cache.put(made)
        seconds += time.monotonic() - begun
    return count / max(seconds, 1e-9)


def _nobody() -> Generator:
    raise AssertionError("every call is stored")


def contamination_table(count: int) -> None:
    """Rows of 40 words held against 500 items by the contamination filter, on one core."""
    items = tuple(Protected("s", str(i), text) for i, text in enumerate(planted(500, 1, 40)))
    rule = Contamination().prepare(context(protected=items))
    seconds, dropped = 0.0, 0
    for start in range(0, count, CHUNK):
        rows = [row(text) for text in planted(min(CHUNK, count - start), 2 + start, 40)]
        begun = time.process_time()
        dropped += sum(not verdict.keep for verdict in rule.verdicts(rows, [()] * len(rows)))
        seconds += time.process_time() - begun
    print(f"{count} rows against {len(items)} items: {seconds:.0f} s of CPU, {1e6 * seconds / count:.0f} us a row;")
    print(f"{dropped} dropped; peak memory {peak_gib():.2f} GiB, rows being made {CHUNK} at a time")


def peak_gib() -> float:
    """Of this process, until now."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def schedule_table(path: Path, machines: Sequence[int]) -> None:
    """When the last part of a grid ends, over the bound: the longest cell, or all work divided evenly."""
    run = load_run(path)
    settings = run.file.train
    cells = [
        cast(GridCell, SimpleNamespace(key=cell.name, steps=steps_of(cell, settings)))
        for cell in grid_cells(settings, len(run.seeds))
        if cell.size
    ]
    steps = [planned.steps for planned in cells]
    print(f"{path.stem}: {len(cells)} cells, {sum(steps)} steps; the longest cell has {max(steps)}")
    print(f"{'GPUs':>5} {'bound':>8} {'last ends':>10} {'ratio':>6}   in steps")
    for count in machines:
        last = max(sum(one.steps for one in Processes(rank, count).mine(cells)) for rank in range(count))
        bound = max(max(steps), sum(steps) / count)
        print(f"{count:>5} {bound:>8.0f} {last:>10} {last / bound:>6.3f}")


def main() -> None:
    """One of the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["replicas", "calls", "contamination", "schedule"])
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--seconds", type=float, default=4.0, help="that a simulated engine takes for an answer")
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--run", type=Path, default=Path("runs/gpu.yaml"))
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2, 4, 8, 16, 64])
    chosen = parser.parse_args()
    if chosen.what == "replicas":
        replicas_table(chosen.replicas, chosen.seconds)
    elif chosen.what == "calls":
        calls_table(chosen.calls)
    elif chosen.what == "contamination":
        contamination_table(chosen.rows)
    else:
        schedule_table(chosen.run, chosen.gpus)


if __name__ == "__main__":
    main()
