"""Completed calls: asked once, whatever dies, whatever is damaged, and whoever else asks the same."""

from __future__ import annotations

import os
import pty
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core import leases
from harness.core.leases import Holder, claim
from harness.engines.call_cache import CLAIM_EVERY, CallCache, cached
from harness.engines.call_file import count_stored
from harness.records import Completion, Origin, Request, Sampling
from tests.fakes import FakeGenerator
from tests.http_server import Endpoint, serving
from tests.process import COMMAND, environment, finish, start, wait_for
from tests.project import write_project

ROOT = Path(__file__).parent.parent
TEXT = "the answer to call number {0}, long enough that many of them fill more than one page of the file"


def request(i: int) -> Request:
    origin = Origin(purpose="generate")
    return Request(model="m@1", prompt="p", sampling=Sampling(), sample_index=i, origin=origin)


def echo() -> FakeGenerator:
    """An engine that answers with the number of the call."""
    return FakeGenerator(lambda request: TEXT.format(request.sample_index))


def test_calls_are_asked_once_and_failures_again(tmp_path: Path) -> None:
    cache = CallCache(tmp_path / "calls.sqlite")
    requests = [request(i) for i in range(50)]
    engine = echo()
    first = list(cached([*requests, *requests], cache, lambda: engine, lambda: False))
    assert len(first) == len(engine.requests) == 50
    assert all(paid for _, paid in first)
    again = list(cached(requests, cache, lambda: pytest.fail("nothing is missing"), lambda: False))
    assert {c.request for c, _ in again} == {r.key for r in requests}
    assert not any(paid for _, paid in again)
    failed = Completion(request=request(99).key, finish_reason="error", error="x")
    cache.put([failed])
    assert not cache.get([failed.request])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 1500), max_size=40), st.integers(1, 3))
def test_what_is_missing_among_many_that_are_stored_is_asked_in_order(
    tmp_path_factory: pytest.TempPathFactory, missing: list[int], later: int
) -> None:
    """Many are looked up at once, and only the next few are claimed: another process may ask the others."""
    cache = CallCache(tmp_path_factory.mktemp("calls") / "calls.sqlite")
    requests = [request(i) for i in range(1500)]
    absent = {r.key for r in requests if r.sample_index in missing or r.sample_index % (97 * later) == 5}
    text = TEXT.format(0)
    cache.put([Completion(request=r.key, text=text, finish_reason="stop") for r in requests if r.key not in absent])
    claimed: list[int] = []
    claim_some = cache.claim

    def claim(keys: Sequence[str]) -> set[str]:
        claimed.append(len(keys))
        return claim_some(keys)

    cache.claim = claim  # type: ignore[method-assign]
    engine = echo()
    answered = [completion.request for completion, _ in cached(requests, cache, lambda: engine, lambda: False)]
    assert sorted(answered) == sorted(r.key for r in requests)
    assert [r.key for r in engine.requests] == [r.key for r in requests if r.key in absent]
    assert max(claimed) <= CLAIM_EVERY


def test_stopping_hands_out_nothing_more(tmp_path: Path) -> None:
    cache, engine = CallCache(tmp_path / "calls.sqlite"), echo()
    seen: list[Completion] = []
    for completion, _ in cached([request(i) for i in range(50)], cache, lambda: engine, lambda: len(seen) >= 10):
        seen.append(completion)
    assert len(engine.requests) == len(seen) == 10
    assert len(cache.get([request(i).key for i in range(50)])) == 10


KILLED = """
import sys
from pathlib import Path
from tests.fakes import FakeGenerator
from tests.test_call_cache import TEXT, request
from harness.engines.call_cache import CLAIM_EVERY, CallCache, cached
import time
def slowly(request):
    time.sleep(0.002)
    return TEXT.format(request.sample_index)
cache = CallCache(Path(sys.argv[1]))
for completion, paid in cached([request(i) for i in range(5000)], cache, lambda: FakeGenerator(slowly), lambda: False):
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


# --- damage -------------------------------------------------------------------------------------------------


def fill(path: Path, n: int) -> dict[str, str]:
    """A closed file of n calls; returns their texts by key."""
    cache = CallCache(path)
    found = {c.request: c.text for c, _ in cached([request(i) for i in range(n)], cache, echo, lambda: False)}
    cache.close()
    assert [p.name for p in path.parent.iterdir()] == [path.name], "a closed file stands alone"
    return found


def ask_again(path: Path, n: int) -> tuple[dict[str, str], int, str]:
    """(texts by key, calls paid for, what was said) of the same calls once more."""
    said: list[str] = []
    cache = CallCache(path, said.append)
    found = list(cached([request(i) for i in range(n)], cache, echo, lambda: False))
    cache.close()
    return {c.request: c.text for c, _ in found}, sum(paid for _, paid in found), "\n".join(said)


def change(path: Path, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(statement, values)


@pytest.mark.parametrize(
    "value",
    ["{", "", b"\xff\xfe", 7, "null", '{"request": "another", "text": "x", "finish_reason": "stop"}', "[" * 5000],
)
def test_a_damaged_completion_is_asked_again_and_said(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "calls.sqlite"
    texts = fill(path, 20)
    change(path, "UPDATE calls SET completion = ? WHERE rowid IN (3, 7)", value)
    assert count_stored(path, list(texts)) == 18
    found, paid, said = ask_again(path, 20)
    assert (found, paid) == (texts, 2)
    assert str(path) in said
    assert "2 calls" in said
    assert ask_again(path, 20) == (texts, 0, "")
    assert count_stored(path, list(texts)) == 20


def test_a_completion_in_the_place_of_another_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "calls.sqlite"
    texts = fill(path, 20)
    one, other = list(texts)[:2]
    # the content of the other call under this one's name: as JSON there is nothing wrong with it
    with closing(sqlite3.connect(path)) as db, db:
        (foreign,) = db.execute("SELECT completion FROM calls WHERE key = ?", (other,)).fetchone()
        db.execute("UPDATE calls SET completion = ? WHERE key = ?", (foreign.replace(other, one), one))
    found, paid, said = ask_again(path, 20)
    assert (found, paid) == (texts, 1)
    assert "1 call" in said


def readable(path: Path, rows: int) -> set[tuple[bytes, ...]]:
    """The calls that SQLite can read of a damaged file, row by row."""
    calls: set[tuple[bytes, ...]] = set()
    with suppress(sqlite3.Error, UnicodeDecodeError), closing(sqlite3.connect(path)) as db:
        db.text_factory = bytes
        for row in range(1, rows + 1):
            with suppress(sqlite3.Error, UnicodeDecodeError):
                calls.update(db.execute("SELECT key, completion FROM calls WHERE rowid = ?", (row,)))
    return calls


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_flipped_bytes_change_no_answer_and_lose_no_file(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    folder = tmp_path_factory.mktemp("flip")
    path, n = folder / "calls.sqlite", 60
    texts = fill(path, n)
    content = bytearray(path.read_bytes())
    start = data.draw(st.integers(0, len(content) - 1))
    end = min(len(content), start + data.draw(st.sampled_from([1, 64, 4096])))
    content[start:end] = bytes(255 - byte for byte in content[start:end])
    path.write_bytes(content)
    before = path.read_bytes()
    found, paid, said = ask_again(path, n)
    assert found == texts
    assert bool(paid) <= bool(said), "what is paid for again is said"
    aside = [p for p in folder.iterdir() if "damaged" in p.name and p.suffix == ".sqlite"]
    assert all(p.name in said for p in aside)
    if aside:
        copy = folder / "before"
        copy.write_bytes(before)
        assert len(readable(copy, n) - readable(aside[0], n)) <= paid, (
            "only damaged calls are taken out, and asked again"
        )
    assert ask_again(path, n) == (texts, 0, "")


def test_a_row_number_that_was_damaged_costs_no_day(tmp_path: Path) -> None:
    path = tmp_path / "calls.sqlite"
    texts = fill(path, 20)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE calls SET rowid = ? WHERE rowid = 7", (2**40,))
        (index,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name LIKE 'sqlite_autoindex_calls%'").fetchone()
    content = bytearray(path.read_bytes())
    content[(index - 1) * 4096 : (index - 1) * 4096 + 64] = b"\xff" * 64
    path.write_bytes(content)
    started = time.monotonic()
    found, paid, said = ask_again(path, 20)
    assert (found, paid) == (texts, 1), "the row of the impossible number is asked again"
    assert time.monotonic() - started < 60
    assert "set aside" in said


@pytest.mark.parametrize("what", ["text", "folder", "tables", "column", "key"])
def test_what_is_no_cache_of_calls_is_set_aside(tmp_path: Path, what: str) -> None:
    path = tmp_path / "calls.sqlite"
    if what == "text":
        path.write_text("this is no database, whatever its name says" * 100)
    elif what == "folder":
        path.mkdir()
    else:
        fill(path, 5)
        change(path, "DROP TABLE calls")
        columns = {"tables": None, "column": "key TEXT PRIMARY KEY, b", "key": "key, completion, digest"}[what]
        if columns:
            change(path, f"CREATE TABLE calls ({columns})")
    _, paid, said = ask_again(path, 5)
    assert paid == 5
    assert "set aside as calls.damaged-1.sqlite" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["calls.damaged-1.sqlite", "calls.sqlite"]
    assert ask_again(path, 5)[1:] == (0, "")


def damage_one_page(path: Path, n: int) -> None:
    """Make the page of a call in the middle of `n` unreadable; where calls are added, the file stays intact."""
    content = bytearray(path.read_bytes())
    page = content.index(TEXT.format(n // 2).encode()) // 4096 * 4096
    content[page : page + 8] = bytes(8)
    path.write_bytes(content)


WRITING = """
import sys
from itertools import count
from pathlib import Path
from tests.test_call_cache import request
from harness.engines.call_cache import CallCache
from harness.records import Completion
cache = CallCache(Path(sys.argv[1]))
for i in count(10_000):
    cache.put([Completion(request=request(i).key, text="paid", finish_reason="stop")])
    print(request(i).key, flush=True)
"""


def test_what_another_process_commits_while_a_file_is_set_aside_is_kept(tmp_path: Path) -> None:
    path, n, said = tmp_path / "calls.sqlite", 2000, list[str]()
    fill(path, n)
    damage_one_page(path, n)
    writer = subprocess.Popen([sys.executable, "-c", WRITING, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert writer.stdout is not None
    paid = [writer.stdout.readline().strip() for _ in range(20)]
    cache = CallCache(path, said.append)
    cache.claim(["another"])
    paid += [writer.stdout.readline().strip() for _ in range(20)]
    writer.send_signal(signal.SIGKILL)
    paid += [line.strip() for line in writer.stdout if line.endswith("\n")]
    writer.wait()
    writer.stdout.close()
    assert "set aside" in "".join(said)
    assert set(paid) <= cache.get(paid).keys()
    cache.close()


def test_a_full_disk_leaves_no_half_of_a_rescued_file(tmp_path: Path) -> None:
    path, n = tmp_path / "calls.sqlite", 1000
    fill(path, n)
    damage_one_page(path, n)
    code = (
        "import resource, sys; from pathlib import Path; from harness.engines.call_cache import CallCache;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16)); CallCache(Path(sys.argv[1])).claim(['another'])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, cwd=ROOT)
    assert "MachineError" in done.stderr
    assert "cannot write it" in done.stderr
    assert {p.name for p in tmp_path.iterdir()} <= {f"calls.sqlite{ending}" for ending in ("", "-wal", "-shm")}
    assert len(CallCache(path).get([request(i).key for i in range(n)])) > n // 2


def test_calls_of_an_earlier_release_stay_valid(tmp_path: Path) -> None:
    path = tmp_path / "calls.sqlite"
    texts = fill(path, 30)
    with closing(sqlite3.connect(path)) as db, db:
        rows = db.execute("SELECT key, completion FROM calls ORDER BY rowid").fetchall()
        db.execute("DROP TABLE calls")
        db.execute("DROP TABLE leases")
        db.execute("CREATE TABLE calls (key TEXT PRIMARY KEY, completion TEXT NOT NULL)")
        db.executemany("INSERT INTO calls VALUES (?, ?)", [*rows[:-1], (rows[-1][0], "{")])
    assert count_stored(path, list(texts)) == 29
    found, paid, said = ask_again(path, 30)
    assert (found, paid) == (texts, 1)
    assert "1 call" in said
    change(path, "UPDATE calls SET completion = replace(completion, 'number 4,', 'number 5,')")
    assert ask_again(path, 30)[:2] == (texts, 1), "since then each has its digest"


def test_counting_for_a_dry_run_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "calls.sqlite"
    assert count_stored(path, ["a"]) == 0
    assert not list(tmp_path.iterdir())
    texts = fill(path, 3)
    assert count_stored(path, list(texts)) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["calls.sqlite"]


def test_a_cache_in_which_nothing_was_stored_leaves_no_trace(tmp_path: Path) -> None:
    def refuse(_: Request) -> str:
        raise RuntimeError("no key")

    cache = CallCache(tmp_path / "runs" / ".cache" / "calls.sqlite")
    with pytest.raises(RuntimeError, match="no key"):
        list(cached([request(0)], cache, lambda: FakeGenerator(refuse), lambda: False))
    cache.close()
    assert not list(tmp_path.iterdir())


# --- two processes ------------------------------------------------------------------------------------------


def shop(root: Path, url: str) -> None:
    """Two runs that ask the same 60 calls."""
    teacher = {"model": "teacher", "engine": "openai", "base_url": url, "concurrency": 4}
    path = write_project(root, "smollm2-135m-instruct", teacher=teacher)
    run = yaml.safe_load(path.read_text())
    run["augment"]["filters"] = [{"kind": "duplicate"}]
    for name in ("shop", "shop2"):
        (path.parent / f"{name}.yaml").write_text(yaml.safe_dump(run))


def stored(root: Path) -> tuple[int, int]:
    """(calls, leases) in the file."""
    with closing(sqlite3.connect(root / "runs/.cache/calls.sqlite")) as db:
        calls, leased = (db.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in ("calls", "leases"))
    return calls, leased


def test_two_runs_that_start_together_pay_each_call_once(tmp_path: Path) -> None:
    with serving(Endpoint(delay_s=0.03)) as endpoint:
        shop(tmp_path, endpoint.base_url)
        both = [start(tmp_path, "augment", name) for name in ("shop", "shop2")]
        ends = [finish(process) for process in both]
    assert [code for code, _ in ends] == [0, 0], ends
    rows = [(tmp_path / "runs" / name / "augment" / "train.jsonl").read_bytes() for name in ("shop", "shop2")]
    assert rows[0] == rows[1]
    assert stored(tmp_path) == (len(endpoint.posts), 0)


def test_a_run_goes_on_with_the_calls_of_one_that_was_killed(tmp_path: Path) -> None:
    with serving(Endpoint(delay_s=0.12)) as endpoint:
        shop(tmp_path, endpoint.base_url)
        first = start(tmp_path, "augment", "shop")
        wait_for(lambda: len(endpoint.posts) >= 8, first)
        second = start(tmp_path, "augment", "shop2")
        wait_for(lambda: len(endpoint.posts) >= 24, second)
        os.kill(first.pid, signal.SIGKILL)
        finish(first)
        killed_at, began = len(endpoint.posts), time.monotonic()
        code, said = finish(second)
    assert code == 0, said
    assert time.monotonic() - began < leases.LEASE_SECONDS, "a dead process is not waited for"
    again = len(endpoint.posts) - stored(tmp_path)[0]
    assert killed_at >= 24
    assert again <= 4 + 16, "what was in flight, and what was answered but not yet committed"


def test_a_lease_ends_with_its_process_or_its_silence(tmp_path: Path) -> None:
    cache, other = CallCache(tmp_path / "calls.sqlite"), CallCache(tmp_path / "calls.sqlite")
    assert cache.claim(["a", "b"]) == {"a", "b"}
    assert other.claim(["a", "b", "c"]) == {"c"}
    cache.release()
    assert other.claim(["a", "b"]) == {"a", "b"}
    here = Holder()
    dead = Holder(pid=here.pid, started="long ago")  # its process id was given to another process
    far = Holder(machine="elsewhere", started="long ago")
    with closing(sqlite3.connect(tmp_path / "calls.sqlite")) as db:
        db.text_factory = bytes
        assert claim(db, ["d"], dead) == {"d"}
        assert claim(db, ["d"], here) == {"d"}
        assert claim(db, ["e"], far) == {"e"}
        assert claim(db, ["e"], here) == set()
        db.execute("UPDATE leases SET expires = expires - 61")
        assert claim(db, ["e"], here) == {"e"}
    cache.close()
    other.close()


def test_what_another_process_asks_is_waited_for_after_everything_else(tmp_path: Path) -> None:
    path = tmp_path / "calls.sqlite"
    other, cache, engine = CallCache(path), CallCache(path), echo()
    requests = [request(i) for i in range(40)]
    held = [r.key for r in requests[:10]]
    other.claim(held)
    found: list[tuple[Completion, bool]] = []
    for completion, paid in cached(requests, cache, lambda: engine, lambda: False):
        found.append((completion, paid))
        if len(found) == 30:
            assert not set(held) & {request.key for request in engine.requests}
            other.put([Completion(request=key, text="theirs", finish_reason="stop") for key in held[:9]])
            other.put([Completion(request=held[9], finish_reason="error", error="not theirs")])
    assert Counter(paid for _, paid in found) == {True: 31, False: 9}
    assert {c.text for c, paid in found if not paid} == {"theirs"}
    assert engine.requests[-1].key == held[9], "a call that failed there is asked here"
    cache.close()
    other.close()


# --- signals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_loses_no_call_that_was_answered(tmp_path: Path, number: signal.Signals) -> None:
    with serving(Endpoint(delay_s=0.3)) as endpoint:
        shop(tmp_path, endpoint.base_url)
        process = start(tmp_path, "augment", "shop")
        wait_for(lambda: len(endpoint.posts) >= 20, process)
        process.send_signal(number)
        code, said = finish(process)
        assert (code, "Traceback" in said) == (130, False), said
        assert "go on with: make augment RUN=shop" in said
        assert finish(start(tmp_path, "augment", "shop"))[0] == 0
        assert stored(tmp_path) == (len(endpoint.posts), 0)


def test_the_end_of_a_session_loses_no_call_that_was_answered(tmp_path: Path) -> None:
    """The terminal itself goes away: a hangup, and from then on nothing can be written to it."""
    with serving(Endpoint(delay_s=0.3)) as endpoint:
        shop(tmp_path, endpoint.base_url)
        child, terminal = pty.fork()
        if not child:  # in the new session
            os.chdir(tmp_path)
            os.execve(sys.executable, [sys.executable, "-c", COMMAND, "augment", "shop"], environment())
        while len(endpoint.posts) < 20:
            os.read(terminal, 4096)
        os.close(terminal)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130
        assert finish(start(tmp_path, "augment", "shop"))[0] == 0
        assert stored(tmp_path) == (len(endpoint.posts), 0)


def test_a_run_that_ignores_the_end_of_its_session_goes_on(tmp_path: Path) -> None:
    ignoring = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{COMMAND}"  # as nohup does
    with serving(Endpoint(delay_s=0.05)) as endpoint:
        shop(tmp_path, endpoint.base_url)
        process = start(tmp_path, "augment", "shop", program=ignoring)
        wait_for(lambda: len(endpoint.posts) >= 20, process)
        process.send_signal(signal.SIGHUP)
        assert finish(process)[0] == 0
