"""Files that survive: atomic writes, a full disk, locks, and the cache of calls under kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import MachineError, UsageError
from harness.records import Completion, Origin, Request, Sampling, Seed
from harness.store import (
    CallCache,
    cached,
    disk_errors,
    folder_atomic,
    locked,
    read_jsonl,
    write_atomic,
    write_jsonl,
)

ROOT = Path(__file__).parent.parent


def request(i: int) -> Request:
    origin = Origin(purpose="generate")
    return Request(model="m@1", prompt="p", sampling=Sampling(), sample_index=i, origin=origin)


class Echo:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for r in requests:
            self.asked.append(r.key)
            yield Completion(request=r.key, text=str(r.sample_index), finish_reason="stop")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "\ud800")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_full_disk_is_one_clear_message(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.fail("/dev/full is needed to test a full disk")
    expected = pytest.raises(MachineError, match=r"No space left on device; .* MiB are free")
    with expected, disk_errors(tmp_path), Path("/dev/full").open("wb", buffering=0) as full:
        full.write(b"x")


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def half() -> None:
        with folder_atomic(tmp_path / "cell") as folder:
            (folder / "a").write_text("1")
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        half()
    assert not list(tmp_path.iterdir())
    with folder_atomic(tmp_path / "cell") as folder:
        (folder / "a").write_text("1")
    assert (tmp_path / "cell" / "a").read_text() == "1"


@settings(deadline=None)  # fsync takes as long as the disk likes
@given(st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), max_size=8))
def test_jsonl_round_trip(tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]) -> None:
    seeds = [Seed(text=a, label=b) for a, b in pairs]
    path = tmp_path_factory.mktemp("jsonl") / "x.jsonl"
    write_jsonl(path, seeds)
    assert [seed for _, seed in read_jsonl(path, Seed)] == seeds


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a", "label": "b"}\n\n{"text": "a", "lable": "b"}\n')
    with pytest.raises(UsageError, match=r"x.jsonl:3: label: Field required"):
        read_jsonl(path, Seed)
    path.write_text('{"text": "a", "label": "b", "lable": "b"}\n')
    with pytest.raises(UsageError, match=r"x.jsonl:1: lable: unknown field \(did you mean 'label'\?\)"):
        read_jsonl(path, Seed)


def test_calls_are_asked_once_and_failures_again(tmp_path: Path) -> None:
    cache = CallCache(tmp_path / "calls.sqlite")
    requests = [request(i) for i in range(50)]
    engine = Echo()
    first = list(cached([*requests, *requests], cache, lambda: engine, lambda: False))
    assert len(first) == len(engine.asked) == 50
    assert all(paid for _, paid in first)
    again = list(cached(requests, cache, lambda: pytest.fail("nothing is missing"), lambda: False))
    assert {c.request for c, _ in again} == {r.key for r in requests}
    assert not any(paid for _, paid in again)
    failed = Completion(request=request(99).key, finish_reason="error", error="x")
    cache.put([failed])
    assert not cache.get([failed.request])


def test_stopping_hands_out_nothing_more(tmp_path: Path) -> None:
    cache, engine = CallCache(tmp_path / "calls.sqlite"), Echo()
    seen: list[Completion] = []
    for completion, _ in cached([request(i) for i in range(50)], cache, lambda: engine, lambda: len(seen) >= 10):
        seen.append(completion)
    assert len(engine.asked) == len(seen) == 10
    assert len(cache.get([request(i).key for i in range(50)])) == 10


def test_a_run_is_held_by_one_process(tmp_path: Path) -> None:
    with locked(tmp_path / "run", "train of x"):
        code = (
            "from pathlib import Path\nfrom harness.store import locked\nfrom harness.errors import MachineError\n"
            f"try:\n    locked(Path({str(tmp_path / 'run')!r}), 'train of x').__enter__()\n"
            "except MachineError as e:\n    print(e)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert f"train of x is being worked on by another process (pid {os.getpid()})" in done.stdout


KILLED = """
import sys
from pathlib import Path
from tests.test_store import Echo, request
from harness.store import CallCache, cached
import time
class Slow(Echo):
    def generate(self, requests):
        for c in super().generate(requests):
            time.sleep(0.002)
            yield c
cache = CallCache(Path(sys.argv[1]))
for completion, paid in cached([request(i) for i in range(5000)], cache, Slow, lambda: False):
    print(completion.request, flush=True)
"""


def test_kill_9_loses_only_what_was_in_flight(tmp_path: Path) -> None:
    path = tmp_path / "calls.sqlite"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    seen = [process.stdout.readline().strip() for _ in range(100)]
    time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    seen += [line.strip() for line in process.stdout if line.endswith("\n")]
    process.wait()
    process.stdout.close()
    stored = CallCache(path).get([request(i).key for i in range(5000)])
    lost = [key for key in seen if key not in stored]
    assert len(stored) >= 64
    assert len(lost) <= 32, "at most one batch that was not yet committed"


def test_a_cache_that_is_not_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "calls.sqlite").write_text("this is no database, whatever its name says" * 100)
    with pytest.raises(MachineError, match="cannot be opened"):
        CallCache(tmp_path / "calls.sqlite")
