"""What augment itself costs a row, how much memory it needs, and how long a run takes whose every call is stored.

    python -m tests.bench.bench_augment_scale                    # 5,000 to 200,000 rows, without and with judge
    python -m tests.bench.bench_augment_scale --rows 5000        # one size; a minute
    python -m tests.bench.bench_augment_scale stored --rows 100000

The teacher answers at once and its own time is left out. Filters are those of the default run. Every line comes from a
process of its own, in which 64 rows were made before, so that imports and the suites' files are not counted.
Seconds are of CPU, since other work on the machine stretches those of a clock, which stand beside them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import accumulate, islice
from pathlib import Path

from harness.augment.stage import augment
from harness.config.run import Run
from harness.core.terminal import Stop
from harness.models.teachers import Teachers
from harness.records import Completion, Request
from tests.bench.bench_augment import Silent, default_run, project, without_judge

SIZES = [5_000, 50_000, 200_000]  # rows begun; each is asked for once
STORED = [100_000]
LABELS = 8  # of the default run
WORDS = 11  # of a text, as in a help-desk message
AIM_MS, AIM_GIB, AIM_STORED_S = 1.0, 2.0, 10.0


class Teacher:
    """Writes random words, as frequent as in a language, and judges every text by the label it was asked for.

    A seed has the label that its file says. `seconds` counts the CPU time that this takes. As many requests are pulled
    ahead as a real engine pulls, and they are answered in their order.
    """

    AHEAD = 32

    def __init__(self, run: Run) -> None:
        draw = random.Random(0)
        self._words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 9))) for _ in range(3_000)]
        self._weights = list(accumulate(1 / (rank + 10) for rank in range(len(self._words))))
        self._labels = {seed.text: seed.answer for seed in run.seeds}
        self.seconds = 0.0
        self.asked = 0
        self.first = 0.0  # CPU time of the process when it was first asked

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """One completion after the other."""
        waiting, ahead = iter(requests), deque[Completion]()
        while True:
            for request in islice(waiting, self.AHEAD - len(ahead)):
                if request is None:  # nothing can be asked before another answer
                    break
                ahead.append(self.answer(request))
            if not ahead:
                return
            yield ahead.popleft()

    def answer(self, request: Request) -> Completion:
        """The completion of one request."""
        started = time.thread_time()
        self.first = self.first or time.process_time()
        text, logprobs = "", dict[str, float]()
        if request.sampling.choices:
            judged = request.prompt.rpartition("\nMessage: ")[2].rpartition("\nTopic:")[0]
            right = f" {self._labels.get(judged, request.origin.label)}"
            logprobs = {choice: math.log(0.9 if choice == right else 0.01) for choice in request.sampling.choices}
        else:
            draw = random.Random(request.prompt + str(request.sample_index))
            text = " ".join(draw.choices(self._words, cum_weights=self._weights, k=WORDS))
        self.seconds += time.thread_time() - started
        self.asked += 1
        return Completion(request=request.key, text=text, finish_reason="stop", first_logprobs=logprobs)


def run_of(path: Path, rows: int, judge: bool) -> Run:
    """The default run with so many rows, each asked for once."""
    run = default_run(path, rows)
    return run if judge else without_judge(run)


def measured(run: Run, name: str) -> dict[str, float]:
    """Augment with a teacher of that name: seconds of its own CPU and of the clock, of CPU until the teacher is asked
    first, calls asked, rows kept, peak memory in GiB.
    """
    teacher = Teacher(run)
    begun, clock = time.process_time(), time.monotonic()
    funnel = augment(run, Teachers(own=name), lambda: teacher, Silent(), Stop())
    return {
        "cpu": time.process_time() - begun - teacher.seconds,
        "clock": time.monotonic() - clock,
        "first": teacher.first - begun if teacher.asked else math.nan,
        "asked": teacher.asked,
        "kept": funnel.kept if funnel else 0,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def child(what: str, rows: int, judge: bool, folder: Path) -> None:
    """One measurement, as a line of JSON. `fresh` asks a new teacher, `store` and `stored` share the calls of one."""
    path = folder / "runs/helpdesk.yaml"
    measured(run_of(path, 64, judge), f"{what}@warm-up")
    sys.stdout.write(json.dumps(measured(run_of(path, rows, judge), "instant@1")) + "\n")


def in_a_process(what: str, rows: int, judge: bool, folder: Path) -> dict[str, float]:
    """The measurement of a fresh process."""
    arguments = [what, "--rows", str(rows), "--folder", str(folder), *([] if judge else ["--no-judge"])]
    command = [sys.executable, "-m", "tests.bench.bench_augment_scale", *arguments]
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def fresh_table(sizes: list[int]) -> None:
    """Own time a row and peak memory at each size."""
    print(
        f"{'rows':>8} {'judge':>6} {'calls':>8} {'kept':>8} {'CPU s':>8} {'clock s':>8} {'ms a row':>9} {'peak GiB':>9}"
    )
    for judge in (False, True):
        for rows in sizes:
            with tempfile.TemporaryDirectory() as temporary:
                project(Path(temporary))
                line = in_a_process("fresh", rows, judge, Path(temporary))
            print(
                f"{rows:>8} {'on' if judge else 'off':>6} {line['asked']:>8.0f} {line['kept']:>8.0f}"
                f" {line['cpu']:>8.1f} {line['clock']:>8.1f} {1000 * line['cpu'] / rows:>9.3f} {line['peak']:>9.2f}",
                flush=True,
            )
    print(f"aim: at most {AIM_MS:g} ms a row and {AIM_GIB:g} GiB at every size")


def stored_table(sizes: list[int]) -> None:
    """How long augment takes when every call is stored, or all but a few, beside the run that stored them."""
    heads = ("calls asked", "first after", "CPU s", "clock s", "ratio", "peak GiB")
    print(f"{'rows':>8} {'':<28}" + "".join(f"{head:>12}" for head in heads))
    for rows in sizes:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(project(Path(temporary))).parent.parent
            lines = [("nothing is stored", in_a_process("store", rows, False, folder))]
            for title, more in (("every call is stored", 0), ("all but one of each label", LABELS)):
                (folder / "runs/helpdesk/augment/manifest.json").unlink()  # else there is nothing to do
                lines.append((title, in_a_process("stored", rows + more, False, folder)))
        for title, line in lines:
            print(
                f"{rows:>8} {title:<28}{line['asked']:>12.0f}{line['first']:>12.1f}{line['cpu']:>12.1f}"
                f"{line['clock']:>12.1f}{line['cpu'] / lines[0][1]['cpu']:>12.2f}{line['peak']:>12.2f}",
                flush=True,
            )
    print(f"aim: {STORED[0]} stored calls in under {AIM_STORED_S:g} s; first after: CPU s before the teacher is asked")


def main() -> None:
    """Print the table asked for."""
    os.environ.setdefault("HARNESS_BENCHMARKS", "")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["fresh", "store", "stored"], default="fresh")
    parser.add_argument("--rows", type=int, nargs="+")
    parser.add_argument("--no-judge", action="store_true")
    parser.add_argument("--folder", type=Path, help="of a project: measure here, in this process")
    given = parser.parse_args()
    if given.folder:
        child(given.what, given.rows[0], not given.no_judge, given.folder)
    elif given.what == "fresh":
        fresh_table(given.rows or SIZES)
    else:
        stored_table(given.rows or STORED)


if __name__ == "__main__":
    main()
