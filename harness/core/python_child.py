"""Runs a user's function in a process of its own, for python_file.py. Started by its path, it imports nothing of ours.

argv: two file descriptors. From the first come lines of JSON: a task {path, source, name, sys_path, parent, spread},
then one argument a line, or with `spread` a list of the arguments of one call. To the second go lines of JSON, each an
object whose first key is its kind: {"ready": first line of the function} or {"error": "", "names": [functions there
are]}, then for each argument {"value": plain value}, {"pair": [plain, plain]}, {"shown": repr of anything else}.
{"error": message, "line": line} may come at any time, and is the last.
On SIGUSR1 the place where the function stands is written there too, as text.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

PLAIN = (bool, int, float, str, type(None))
SHOWN = 200  # characters of a value that is not plain
END_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def main() -> None:
    """Answer until the arguments end. Ends at once: threads that the function left running keep nothing open."""
    questions, answers = (int(number) for number in sys.argv[1:3])
    me = os.getpid()

    def say(**message: Any) -> None:
        if os.getpid() != me:  # the function forked, and this process came back from it as well
            os._exit(0)
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(answers, data) :]
        if "error" in message:
            os._exit(1)

    with os.fdopen(questions, encoding="utf-8") as lines:
        task = json.loads(next(lines))
        sys.path[:] = task["sys_path"]
        end_with(task["parent"])
        faulthandler.register(signal.SIGUSR1, file=answers)
        function = load(task, say)
        for line in lines:
            try:
                argument = json.loads(line)
                answer = described(function(*argument) if task["spread"] else function(argument))
            except BaseException as error:  # noqa: BLE001  (whatever it is, it is the function's)
                answer = {"error": said(error), "line": line_of(error, task["path"])}
            say(**answer)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def load(task: dict[str, Any], say: Callable[..., None]) -> Callable[[Any], Any]:
    """The function of the task's source."""
    path = task["path"]
    module = ModuleType(os.path.splitext(os.path.basename(path))[0])  # noqa: PTH119, PTH122  (pathlib costs 10 ms)
    module.__file__ = path
    try:
        # not by import: that would leave a __pycache__ in the project and hand out stale code
        exec(compile(task["source"].encode(errors="surrogateescape"), path, "exec"), module.__dict__)
    except SyntaxError as error:
        say(error=f"not valid Python: {error.msg}", line=error.lineno)
    except BaseException as error:  # noqa: BLE001
        say(error=said(error), line=line_of(error, path))
    function: Any = vars(module).get(task["name"])
    if not callable(function):
        names = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        say(error="", names=names)
    code = getattr(function, "__code__", None)
    say(ready=getattr(code, "co_firstlineno", 0))
    return function  # type: ignore[no-any-return]


def described(answer: Any) -> dict[str, Any]:
    """An answer as JSON can carry it."""
    if type(answer) is tuple and len(answer) == 2 and all(isinstance(part, PLAIN) for part in answer):
        return {"pair": answer}
    return {"value": answer} if is_plain(answer) else {"shown": repr(answer)[:SHOWN]}


def is_plain(value: Any) -> bool:
    """Whether JSON gives a value back as it was: lists, and dicts whose keys are text, however deep."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(part) for key, part in value.items())
    return all(map(is_plain, value)) if isinstance(value, list) else isinstance(value, PLAIN)


def said(error: BaseException) -> str:
    """The kind of an error and what it says, on one line."""
    try:
        return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    except BaseException:  # noqa: BLE001  (an error of the user's own that cannot be printed)
        return type(error).__name__


def line_of(error: BaseException, path: str) -> int:
    """The line of the deepest frame of the user's file, or 0 where it is in none."""
    lines = [frame.lineno or 0 for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return lines[-1] if lines else 0


def end_with(parent: int) -> None:
    """Have this process killed when its parent dies (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(END_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    main()
