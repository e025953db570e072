"""What a worker prints, in a file of the run's folder where its node sees that, beside Ray's own logs where not."""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

KEPT = 1_000_000  # bytes: a file that is larger is begun anew


def log_file(folder: Path, name: str) -> Path:
    """The log of a worker of this name."""
    return folder / f"{re.sub(r'[^a-zA-Z0-9_.]+', '-', name)}.log"


def host_of(log: Path) -> str:
    """The host of the last worker that printed into a log. Empty where that is not seen here."""
    with suppress(OSError):
        begun = re.findall(r"(?m)^--- .* on (\S+), process \d+$", log.read_text(encoding="utf-8", errors="replace"))
        return begun[-1] if begun else ""
    return ""


def log_to(path: Path) -> None:
    """Have this process, and those it starts, print into a file. Nothing happens where its folder is not seen."""
    if not path.parent.parent.is_dir():
        return
    with suppress(OSError):  # a full disk: the work matters more than its log
        path.parent.mkdir(exist_ok=True)
        large = path.is_file() and path.stat().st_size > KEPT
        with path.open("w" if large else "a", encoding="utf-8") as file:
            now = time.strftime("%Y-%m-%d %H:%M:%S")
            file.write(f"--- {now} on {socket.gethostname()}, process {os.getpid()}\n")
            file.flush()
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            for descriptor in (1, 2):
                os.dup2(file.fileno(), descriptor)
