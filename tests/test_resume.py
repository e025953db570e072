"""Answers that survive the process: what is on file is not computed again, whenever the process was killed."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path

import pytest

from harness.engines.protocols import StudentEngine
from harness.errors import Interrupted, MachineError
from harness.records import Origin, Pair, Request, Sampling
from harness.suites.resume import BlockSize, Remembered
from tests.fakes import ASSISTANT, END, FakeStudent
from tests.process import ROOT, finish, start, wait_for


def weighed(context: str, continuation: str) -> float:
    return math.nan if context == chr(13) else -sum(map(ord, context)) - sum(map(ord, continuation)) / 7


def write(request: Request) -> str:
    return "ERROR" if request.prompt == "bad" else request.prompt + "!\u2028ü"


def student(pause: float = 0.0) -> FakeStudent:
    """Its answers follow from what is asked."""
    return FakeStudent(write, weighed, max_length=99, pause=pause)


def asked(prompt: str) -> Request:
    return Request(model="m@0", prompt=prompt, sampling=Sampling(), origin=Origin(purpose="answer"))


def pairs_of(count: int) -> list[Pair]:
    """Four continuations after each context, in no order."""
    found = [Pair(context=(i % 97, i), continuation=(j,)) for i in range(count // 4) for j in range(4)]
    return sorted(found, key=lambda pair: (pair.context[1] * 31 + pair.continuation[0]) % 101)


def never() -> bool:
    return False


def must_not_open() -> StudentEngine:
    raise AssertionError("nothing is missing")


def test_answers_come_in_the_order_asked_and_equal_pairs_once(tmp_path: Path) -> None:
    inner, seen = student(), []
    pairs = pairs_of(40)
    wanted = student().loglikelihood(pairs)
    engine = Remembered(lambda: inner, tmp_path / "deep" / "a.jsonl", never, lambda *counts: seen.append(counts))
    assert engine.loglikelihood(pairs + pairs[::-1]) == wanted + wanted[::-1]
    assert [len(block) for block in inner.blocks] == [40]
    assert inner.blocks[0] == sorted(pairs, key=lambda pair: (pair.context, pair.continuation))
    assert seen == [(0, 40), (40, 40)]
    assert engine.loglikelihood([]) == []


def test_a_second_process_computes_only_what_is_missing(tmp_path: Path) -> None:
    first, second = student(), student()
    pairs = pairs_of(40)
    before = Remembered(lambda: first, tmp_path / "a.jsonl", never)
    before.loglikelihood(pairs[:25])
    again = Remembered(must_not_open, tmp_path / "a.jsonl", never)
    assert again.loglikelihood(pairs[:25]) == student().loglikelihood(pairs[:25])
    assert again.seconds == before.seconds > 0
    rest = Remembered(lambda: second, tmp_path / "a.jsonl", never)
    assert rest.loglikelihood(pairs) == student().loglikelihood(pairs)
    assert sorted(map(repr, second.blocks[0])) == sorted(map(repr, pairs[25:]))
    assert rest.seconds > again.seconds


def test_names_tell_contexts_from_continuations(tmp_path: Path) -> None:
    engine = Remembered(student, tmp_path / "a.jsonl", never)
    pairs = [Pair(context=(1,), continuation=(2, 3)), Pair(context=(1, 2), continuation=(3,))]
    assert [one.tokens for one in engine.loglikelihood(pairs)] == [2, 1]


def test_a_number_that_is_none_is_asked_again(tmp_path: Path) -> None:
    pair = Pair(context=(13,), continuation=(1,))
    for _ in range(2):
        engine = student()
        [found] = Remembered(lambda engine=engine: engine, tmp_path / "a.jsonl", never).loglikelihood([pair])  # type: ignore[misc]
        assert math.isnan(found.logprob)
        assert engine.blocks == [[pair]]


@pytest.mark.parametrize("cut", [1, 9, 30])
def test_a_half_written_line_is_taken_off(tmp_path: Path, cut: int) -> None:
    """Only its answer is computed again, and the file is whole after it."""
    path = tmp_path / "a.jsonl"
    pairs = pairs_of(8)
    Remembered(student, path, never).loglikelihood(pairs)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:5]) + lines[5][:cut])
    inner = student()
    assert Remembered(lambda: inner, path, never).loglikelihood(pairs) == student().loglikelihood(pairs)
    assert len(inner.blocks[0]) == 3
    assert len({json.dumps(json.loads(line)) for line in path.read_text().splitlines() if "pair" in line}) == 8


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"seconds": 1.0}\n{"other": 1}\n')
    with pytest.raises(MachineError, match=r"a\.jsonl:2: not a line of answers"):
        Remembered(student, path, never)


def test_blocks_are_bounded_and_keep_a_context_together(tmp_path: Path) -> None:
    inner = student()
    Remembered(lambda: inner, tmp_path / "a.jsonl", never, blocks=BlockSize(pairs=10)).loglikelihood(pairs_of(40))
    assert [len(block) for block in inner.blocks] == [12, 12, 12, 4]
    inner = student()
    same = [Pair(context=(1, 2, 3), continuation=(i,)) for i in range(11)]
    Remembered(lambda: inner, tmp_path / "b.jsonl", never, blocks=BlockSize(pairs=10, tokens=10)).loglikelihood(same)
    assert [len(block) for block in inner.blocks] == [5, 5, 1]


def test_it_stops_between_blocks(tmp_path: Path) -> None:
    inner = student()
    engine = Remembered(lambda: inner, tmp_path / "a.jsonl", lambda: len(inner.blocks) >= 2, blocks=BlockSize(pairs=8))
    with pytest.raises(Interrupted, match="16 of 40 log-likelihoods"):
        engine.loglikelihood(pairs_of(40))
    rest = student()
    Remembered(lambda: rest, tmp_path / "a.jsonl", never).loglikelihood(pairs_of(40))
    assert sum(map(len, rest.blocks)) == 24


def test_completions_are_remembered_errors_are_not(tmp_path: Path) -> None:
    requests = [asked(text) for text in ("a", "bad", "b", "a")]
    inner = student()
    found = list(Remembered(lambda: inner, tmp_path / "a.jsonl", never).generate(iter(requests)))
    assert sorted(one.request for one in found) == sorted(request.key for request in requests)
    assert [request.prompt for request in inner.requests] == ["a", "bad", "b"]
    again = student()
    second = list(Remembered(lambda: again, tmp_path / "a.jsonl", never).generate([*requests, asked("c")]))
    assert [request.prompt for request in again.requests] == ["bad", "c"]
    assert len(second) == 5
    assert {one.request: one for one in found}.items() <= {one.request: one for one in second}.items()
    whole = Remembered(must_not_open, tmp_path / "a.jsonl", never)
    assert [one.text for one in whole.generate([asked("c"), asked("a")])] == ["c!\u2028ü", "a!\u2028ü"]


def test_writing_stops_when_asked_and_keeps_what_came(tmp_path: Path) -> None:
    inner = student()
    engine = Remembered(lambda: inner, tmp_path / "a.jsonl", lambda: len(inner.requests) >= 3)
    source = engine.generate(asked(str(i)) for i in range(9))
    came = [next(source).request for _ in range(3)]
    with pytest.raises(Interrupted, match="3 answers"):
        next(source)
    assert came == [asked(str(i)).key for i in range(3)]
    known = Remembered(must_not_open, tmp_path / "a.jsonl", never)
    assert len(list(known.generate(asked(str(i)) for i in range(3)))) == 3


def test_what_came_before_an_error_is_kept(tmp_path: Path) -> None:
    def broken() -> FakeStudent:
        engine = student()

        def say(request: Request) -> str:
            if len(engine.requests) > 1:
                raise MachineError("memory ran out")
            return write(request)

        engine.say = say
        return engine

    with pytest.raises(MachineError, match="memory ran out"):
        list(Remembered(broken, tmp_path / "a.jsonl", never).generate([asked("a"), asked("b")]))
    assert len(list(Remembered(must_not_open, tmp_path / "a.jsonl", never).generate([asked("a")]))) == 1


def test_all_else_is_the_inner_engines(tmp_path: Path) -> None:
    opened = 0

    def open_engine() -> StudentEngine:
        nonlocal opened
        opened += 1
        return student()

    engine: StudentEngine = Remembered(open_engine, tmp_path / "a.jsonl", never)
    assert opened == 0
    assert engine.notes == ("a fake",)
    assert engine.max_length == 99
    assert engine.prompt_ids([]) == (ASSISTANT,)
    assert engine.answer_ids([], "A") == (65, END)
    assert engine.text_ids("A") == (65,)
    assert engine.next_tokens([Pair(context=(1,), continuation=(2,))], 3)[0].ids.shape == (1, 3)
    assert opened == 1
    assert not (tmp_path / "a.jsonl").exists()


SCRIPT = """
import sys
from pathlib import Path
from harness.suites import resume
from tests.test_resume import student, never, pairs_of

slow = resume.Remembered(lambda: student(pause=0.1), Path(sys.argv[1]), never, blocks=resume.BlockSize(pairs=8))
slow.loglikelihood(pairs_of(400))
"""


def test_killed_for_real_it_goes_on_from_there(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    child = start(ROOT, str(path), program=SCRIPT)
    wait_for(lambda: path.exists() and path.read_bytes().count(b"seconds") >= 3, child)
    child.send_signal(signal.SIGKILL)
    assert finish(child)[0] == -signal.SIGKILL
    on_file = path.read_bytes().count(b'"pair"')
    assert 24 <= on_file < 400
    inner = student()
    pairs = pairs_of(400)
    assert Remembered(lambda: inner, path, never).loglikelihood(pairs) == student().loglikelihood(pairs)
    assert sum(map(len, inner.blocks)) == 400 - on_file
