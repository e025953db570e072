"""A user's own function: whatever it does, one message names its file and line, and nothing is left running."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
import yaml

from harness.config.inputs import identity
from harness.core.python_file import PythonFunction
from harness.errors import UsageError
from harness.filters import PythonFilter
from harness.metrics.moderation import PythonModeration
from tests.process import finish, harness, start, wait_for
from tests.project import context, row, verdicts_of, write_project


def function(folder: Path, source: str, timeout_s: float = 60.0) -> PythonFunction:
    path = folder / "mine.py"
    path.write_text(source, encoding="utf-8")
    return PythonFunction(path, path.read_bytes(), "keep", timeout_s)


def answers(folder: Path, source: str, *arguments: object, timeout_s: float = 60.0) -> list[object]:
    texts = [json.dumps(argument) for argument in arguments]
    return function(folder, source, timeout_s).answers(texts, [str(argument) for argument in arguments])


def test_answers_come_in_order_and_the_file_is_loaded_once(tmp_path: Path) -> None:
    source = "seen = []\ndef keep(x):\n    seen.append(x)\n    return len(seen), str(x)\n"
    assert answers(tmp_path, source, "a", {"b": [1]}, None) == [(1, "a"), (2, "{'b': [1]}"), (3, "None")]
    assert answers(tmp_path, source) == []
    many = list(range(3000))
    assert answers(tmp_path, "def keep(x): return x * 2", *many) == [2 * x for x in many]


@pytest.mark.parametrize("value", ["True", "0", "0.5", "'text'", "None", "(True, 'why')", "float('inf')", "'\\ud800'"])
def test_plain_values_arrive_as_they_are(tmp_path: Path, value: str) -> None:
    (answer,) = answers(tmp_path, f"def keep(x): return {value}", 1)
    assert answer == eval(value)
    assert type(answer) is type(eval(value))


@pytest.mark.parametrize("value", ["[True, 'why']", "object", "{1: 2}", "(1, 2, 3)", "(True, [])", "iter(())"])
def test_other_values_are_shown_and_never_mistaken_for_an_answer(tmp_path: Path, value: str) -> None:
    rule = PythonFilter(file=function(tmp_path, f"def keep(x): return {value}").path.name)
    with pytest.raises(UsageError, match=r"mine\.py: keep .*keep\(row: dict\) -> bool"):
        verdicts_of(rule, [row("a")], context(tmp_path))


RAISED = [
    "KeyError('a')", "GeneratorExit", "KeyboardInterrupt", "SystemExit(0)", "SystemExit('bye')", "StopIteration",
    "type('Mine', (BaseException,), {})", "type('Mute', (Exception,), {'__str__': lambda self: 1 / 0})",
    "RecursionError", "MemoryError", "UnicodeDecodeError('utf-8', b'x', 0, 1, 'why')",
]  # fmt: skip


@pytest.mark.parametrize("raised", RAISED)
def test_whatever_is_raised_is_named_with_its_line(tmp_path: Path, raised: str) -> None:
    source = f"def keep(x):\n    if x == 'b':\n        raise {raised}\n    return True\n"
    with pytest.raises(UsageError, match=r"mine\.py:3: keep failed on the text 'b': \w+"):
        answers(tmp_path, source, "a", "b")
    with pytest.raises(UsageError, match=r"mine\.py:1: \w+"):
        answers(tmp_path, f"raise {raised}\ndef keep(x): return True\n")


SCRIBBLING = """import os
from contextlib import suppress
def keep(x):
    for n in range(3, 9999):
        with suppress(OSError):
            os.write(n, b"5\\n")
"""


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import os\ndef keep(x): os._exit(0)", r"mine\.py:2: keep on the text 'a' ended the process \(exit code 0\)"),
        ("import os\ndef keep(x): os._exit(1)", r"mine\.py:2: .* \(exit code 1\)"),
        ("import os\ndef keep(x): os.kill(os.getpid(), 9)", r"mine\.py:2: .* \(signal 9\)"),
        ("import os\ndef keep(x): os.abort()", r"mine\.py:2: .* \(signal 6\)"),
        ("import os\nos._exit(0)\ndef keep(x): return True", r"mine\.py: loading it ended the process"),
        ("import os\ndef keep(x):\n    os.closerange(3, 9999)\n    os._exit(0)", r"mine\.py:2: .* ended the process"),
        (SCRIBBLING, r"mine\.py:3: .* wrote into the pipe that carries its answers"),
        ("def keep(x): return input()", r"mine\.py:1: keep failed on the text 'a': EOFError"),
        ("def keep(x):\n    while True: pass", r"mine\.py:2: .* no answer within 0\.7 s \(timeout_s"),
        ("import time\ndef keep(x):\n    time.sleep(99)", r"mine\.py:3: .* no answer within 0\.7 s"),
        ("import re\ndef keep(x):\n    re.match('(a*)*b', 'a' * 40)", r"mine\.py:[23]: .* no answer within 0\.7 s"),
        ("import signal\ndef keep(x):\n    while True: print('x' * 999)", r"mine\.py:3: .* no answer within 0\.7 s"),
        ("while True: pass", r"mine\.py:1: loading it gave no answer within 0\.7 s"),
    ],
)
def test_whatever_it_does_it_is_stopped_and_named(tmp_path: Path, source: str, says: str) -> None:
    limit = 0.7 if "within" in says else 60.0
    before = children()
    with pytest.raises(UsageError, match=says):
        answers(tmp_path, source, "a", "b", timeout_s=limit)
    assert children() <= before


def test_a_process_that_it_forks_gives_no_second_answer(tmp_path: Path) -> None:
    source = "import os\ndef keep(x):\n    os.fork()\n    return x * 2"
    assert answers(tmp_path, source, *range(20)) == [2 * x for x in range(20)]
    worked = "from multiprocessing import get_context\ndef keep(x):\n    with get_context('fork').Pool(2) as pool:\n"
    assert answers(tmp_path, worked + "        return pool.map(str, [x])[0]", 1, 2) == ["1", "2"]


def children() -> set[str]:
    """Processes of this one that are not over."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_what_it_started_ends_with_it(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    source = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])\n"
        f"open({str(note)!r}, 'w').write(str(child.pid))\n"
        "def keep(x): return True\n"
    )
    assert answers(tmp_path, source, "a") == [True]
    assert gone(int(note.read_text()))


def gone(pid: int) -> bool:
    """Whether a process ends within a few seconds; a zombie that nobody waits for has ended."""
    stat = Path(f"/proc/{pid}/stat")
    for _ in range(100):
        try:
            if stat.read_text().rpartition(")")[2].split()[0] in "ZX":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_what_it_prints_cannot_drive_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert answers(tmp_path, "def keep(x):\n    print('\\x1b[31mred', x)\n    return True", "a") == [True]
    captured = capfd.readouterr()
    assert "red a" in captured.err
    assert "\x1b" not in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("door", [PythonFilter, PythonModeration])
def test_the_time_limit_is_no_part_of_what_made_rows_or_numbers(
    tmp_path: Path, door: type[PythonFilter | PythonModeration]
) -> None:
    short, long = door(file="f.py", timeout_s=1), door(file="f.py")
    assert short.model_dump() == long.model_dump()
    assert identity(short, tmp_path) == identity(long, tmp_path)
    with pytest.raises(ValueError, match="timeout_s"):
        door(file="f.py", timeout_s=0)


@pytest.mark.parametrize(("body", "line"), [("raise GeneratorExit", 2), ("import os; os._exit(0)", 1)])
def test_augment_ends_with_2_and_names_the_place(tmp_path: Path, body: str, line: int) -> None:
    project(tmp_path, f"def keep(row):\n    {body}\n")
    done = harness(tmp_path, "augment", "shop")
    assert done.returncode == 2, done.stderr
    assert f"f.py:{line}: keep" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_killed_augment_leaves_no_function_running(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    project(
        tmp_path,
        f"import os\ndef keep(row):\n    open({str(note)!r}, 'w').write(str(os.getpid()))\n    while True: pass\n",
    )
    process = start(tmp_path, "augment", "shop")
    wait_for(lambda: note.exists() and bool(note.read_text()), process)
    process.send_signal(signal.SIGKILL)
    finish(process)
    assert gone(int(note.read_text()))


def test_a_mistake_is_found_before_the_teacher_is_asked(tmp_path: Path) -> None:
    project(tmp_path, "def keep(row)\n")
    done = harness(tmp_path, "augment", "shop")
    assert (done.returncode, "f.py:1: not valid Python" in done.stderr) == (2, True)
    assert not (tmp_path / "runs/.cache").exists()


def project(root: Path, source: str) -> None:
    path = write_project(root, "smollm2-135m-instruct")
    run = yaml.safe_load(path.read_text())
    run["augment"]["filters"] = [{"kind": "python", "file": "f.py"}]
    path.write_text(yaml.safe_dump(run))
    (root / "f.py").write_text(source)
