"""A function in a user's own Python file: the one door for rules that no file of settings can say.

It runs in a process of its own, so that whatever it does (raise anything, exit, fork, never end) it can be stopped and
named. It has all the rights of the harness: this keeps mistakes apart, not malice.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from harness.core.terminal import tell
from harness.core.text import printable
from harness.errors import UsageError, nearest

CHILD = Path(__file__).with_name("python_child.py")
TIMEOUT_S = 60.0  # for loading the file, and for each answer
SHOWN = 200  # characters of an argument in a message
PRINTED = 4000  # characters of what the function printed last
TRACE_S = 1.0  # for a process to say where it stands
TICK_S = 0.2  # between two looks whether the process lives


@dataclass(frozen=True)
class NotPlain:
    """An answer that JSON does not give back as it was, and that is no tuple of two plain values."""

    shown: str

    def __repr__(self) -> str:
        return self.shown


@dataclass(frozen=True)
class PythonFunction:
    """`name` in the Python `source` that stands at `path`."""

    path: Path
    source: bytes
    name: str
    timeout_s: float = TIMEOUT_S
    spread: bool = False  # each argument is a list of the arguments of one call

    def answers(self, arguments: Sequence[str], shown: Sequence[str]) -> list[Any]:
        """What the function returns for each of `arguments` (JSON texts), in order. One process answers all of them.

        `shown` is what messages call the arguments. Without arguments the file is loaded and the function looked up.
        Raises UsageError naming file and line for whatever the function did instead of answering.
        """
        with tempfile.TemporaryFile() as questions:
            task = {
                "path": str(self.path), "source": self.source.decode(errors="surrogateescape"), "name": self.name,
                "sys_path": sys.path, "parent": os.getpid(), "spread": self.spread,
            }  # fmt: skip
            questions.write(json.dumps(task).encode() + b"\n")
            questions.writelines(argument.encode() + b"\n" for argument in arguments)
            questions.flush()
            os.lseek(questions.fileno(), 0, os.SEEK_SET)
            with _child(questions.fileno()) as child:
                return _Conversation(self, child, shown).answers(len(arguments))


@dataclass
class _Child:
    process: subprocess.Popen[bytes]
    answers: int  # descriptor
    printed: int  # descriptor


@contextmanager
def _child(questions: int) -> Iterator[_Child]:
    """The process, in a session of its own: it does not hear Ctrl-C, and it ends with all that it started."""
    answers, write_end = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", str(CHILD), str(questions), str(write_end)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            pass_fds=(questions, write_end), start_new_session=True,
        )  # fmt: skip
        os.close(write_end)
        assert process.stdout is not None
        with process.stdout:
            try:
                yield _Child(process, answers, process.stdout.fileno())
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    finally:
        os.close(answers)


@dataclass
class _Conversation:
    """Reads a child's answers, one deadline after the other."""

    function: PythonFunction
    child: _Child
    shown: Sequence[str]
    received: bytes = b""
    printed: str = ""
    line: int = 0  # where the function begins
    found: list[Any] = field(default_factory=list)
    loaded: bool = False

    def answers(self, count: int) -> list[Any]:
        """All answers. Raises UsageError."""
        try:
            deadline = time.monotonic() + self.function.timeout_s
            while not self.loaded or len(self.found) < count:
                if self._hear(deadline):
                    deadline = time.monotonic() + self.function.timeout_s
            return self.found
        finally:
            self._listen([self.child.printed], 0)
            if self.printed.strip():
                tell(f"{self.function.path.name} printed: {printable(self.printed).strip()}")

    def _hear(self, deadline: float) -> bool:
        """Wait for a while, and tell whether an answer came."""
        ended = self.child.process.poll() is not None  # asked first: what it wrote before its end is still read
        heard = self._listen([self.child.answers, self.child.printed], 0 if ended else TICK_S)
        *lines, self.received = self.received.split(b"\n")
        for line in lines:
            self._take(line)
        if ended and not heard:
            raise UsageError(f"{self._place(self.line)}: {self._what()} {_end(self.child.process.returncode)}")
        if time.monotonic() > deadline and not lines:
            limit = f"gave no answer within {self.function.timeout_s:g} s (timeout_s in its settings)"
            raise UsageError(f"{self._place(self._standing() or self.line)}: {self._what()} {limit}")
        return bool(lines)

    def _listen(self, descriptors: list[int], wait_s: float) -> bool:
        """Read what there is, and tell whether it was an answer or a part of one."""
        ready = wait(descriptors, wait_s)  # unlike select it takes any descriptor
        heard = False
        for descriptor in descriptors:
            data = os.read(descriptor, 1 << 20) if descriptor in ready else b""
            if descriptor == self.child.printed:
                self.printed = (self.printed + data.decode(errors="replace"))[-PRINTED:]
            elif data:
                self.received += data
                heard = True
        if ready and not heard and self.child.process.poll() is None:
            time.sleep(0.001)  # a closed descriptor is always ready
        return heard

    def _take(self, line: bytes) -> None:
        try:
            message = json.loads(line)
            kind = next(iter(message))
        except (ValueError, TypeError, StopIteration) as error:
            raise UsageError(
                f"{self._place(self.line)}: {self._what()} wrote into the pipe that carries its answers; it must not"
                " write to file descriptors it did not open"
            ) from error
        if kind == "ready":
            self.loaded, self.line = True, message[kind]
        elif kind == "error":
            self._refuse(message)
        else:
            value = message[kind]
            self.found.append(NotPlain(value) if kind == "shown" else tuple(value) if kind == "pair" else value)

    def _refuse(self, message: dict[str, Any]) -> None:
        path, name = self.function.path, self.function.name
        if "names" in message:
            names = message["names"]
            listed = ", ".join(names) or "none"
            raise UsageError(f"{path}: there is no function {name!r}{nearest(name, names)}; functions in it: {listed}")
        what = f"{name} failed{self._asked()}: " if self.loaded else ""
        raise UsageError(f"{self._place(message['line'])}: {what}{message['error']}")

    def _standing(self) -> int:
        """The line of the user's file where its function stands now, or 0 where the process does not say."""
        with suppress(ProcessLookupError):
            self.child.process.send_signal(signal.SIGUSR1)
        until = time.monotonic() + TRACE_S
        line = re.compile(rb'File "%s", line (\d+)' % re.escape(str(self.function.path).encode()))
        while time.monotonic() < until:
            self._listen([self.child.answers], TICK_S)
            if place := line.search(self.received):
                return int(place[1])
        return 0

    def _place(self, line: int) -> str:
        return f"{self.function.path}:{line}" if line else str(self.function.path)

    def _what(self) -> str:
        return f"{self.function.name}{self._asked()}" if self.loaded else "loading it"

    def _asked(self) -> str:
        """' on the text ...' that the function is asked about now."""
        if len(self.found) >= len(self.shown):
            return ""
        text = self.shown[len(self.found)]
        return f" on the text {text if len(text) <= SHOWN else text[:SHOWN] + '...'!r}"


def _end(code: int) -> str:
    return f"ended the process (exit code {code})" if code >= 0 else f"ended the process (signal {-code})"
