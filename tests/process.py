"""The `harness` command in a process of its own, as a shell would start it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
COMMAND = "import sys; from harness.cli import main; sys.argv = ['harness', *sys.argv[1:]]; main()"
HIDDEN = ("GITHUB_", "PYTEST", "MAKE", "MFLAGS", "ARGS")  # whoever runs these tests may set them, a child heeds them
LIMIT_S = 1500  # longer than any stage takes in a test


def environment(**more: str) -> dict[str, str]:
    """This process's variables for a child that imports this checkout from any folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(HIDDEN)}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return kept | {"PYTHONPATH": path} | more


def harness(folder: Path, *words: str, program: str = COMMAND, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder to its end; `program` is other Python to run, `more` goes to the environment."""
    return subprocess.run(
        [sys.executable, "-c", program, *words], cwd=folder, env=environment(**more), capture_output=True, text=True,
        timeout=LIMIT_S, check=False,
    )  # fmt: skip


def succeed(folder: Path, *words: str) -> str:
    """Run the command, which must succeed; returns all that it said on both streams."""
    done = harness(folder, *words)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-6000:]
    return said


def start(folder: Path, *words: str, program: str = COMMAND) -> subprocess.Popen[str]:
    """Start the command and leave it running; what it says comes as one stream."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *words], cwd=folder, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code of a started command, and what it said that nobody has read yet."""
    said, _ = process.communicate(timeout=LIMIT_S)
    return process.returncode, said


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until something is so while a process runs; fails when it ends before that."""
    deadline = time.monotonic() + 180
    while not ready():
        assert process.poll() is None, "the process ended before what was waited for"
        assert time.monotonic() < deadline, "what was waited for did not come in three minutes"
        time.sleep(0.005)
