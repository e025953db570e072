"""Every error a user can meet, and the exit code each one ends the process with.

HarnessError
├── UsageError            2   the request or a file is wrong; the message says where and what is allowed
├── MachineError          3   the machine or a service failed: disk, memory, engine, endpoint
└── Interrupted         130   Ctrl-C: what was finished is kept, the same command goes on

`check` answers with 0 (pass), 1 (regressed) or 4 (inconclusive): an answer is no error.
A message gives the place, the value, what is allowed, and the nearest valid name.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath


class HarnessError(Exception):
    """Base of all errors shown to a user as one message without a traceback."""

    exit_code = 3

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it in place of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class UsageError(HarnessError):
    """The request or a file is wrong."""

    exit_code = 2


class MachineError(HarnessError):
    """The machine, an engine or an endpoint failed."""

    exit_code = 3


class Interrupted(HarnessError):
    """The user stopped the work; what was finished is on disk."""

    exit_code = 130


class Mistakes:
    """What is wrong in one file, collected, so that it can be said together and mended in one go."""

    MOST = 20  # kinds of mistakes that are said
    PLACE = re.compile(r"^.*?(:\d+|: row \d+): ")  # of a line or row, in front of what is wrong there

    def __init__(self) -> None:
        self._alike: dict[str, list[str]] = {}  # what is wrong -> every message that says it

    def note(self, message: str) -> None:
        """Keep one mistake."""
        self._alike.setdefault(self.PLACE.sub("", message), []).append(message)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Keep the UsageError of the block, which then ends there, and go on after it."""
        try:
            yield
        except UsageError as error:
            self.note(str(error))

    def check(self) -> None:
        """Raises UsageError with a line for each mistake; the same one at several places is said once, and counted."""
        if not self._alike:
            return
        said = []
        for first, *others in list(self._alike.values())[: self.MOST]:
            lines = [match[1].strip(": row") for other in others if (match := self.PLACE.match(other))]
            also = (
                f" (also at {', '.join(lines[: self.MOST])}{' and more' * (len(lines) > self.MOST)})" if lines else ""
            )
            said.append(f"{first}{also}")
        more = sum(map(len, list(self._alike.values())[self.MOST :]))
        raise UsageError("\n".join([*said, *([f"and {more} more"] if more else [])]))


def first_line(error: BaseException) -> str:
    """What an error of a library says, on one line; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def nearest(name: str, allowed: Iterable[str]) -> str:
    """' (did you mean X?)' for the closest allowed name, or '' when none is close."""
    close = difflib.get_close_matches(name, [candidate for candidate in allowed if candidate != name], n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def nearest_file(path: Path, folder: str = "") -> str:
    """' (did you mean X?)' for the file or folder beside a missing one whose name is closest, or ''.

    `folder` is written before its name. Endings break ties only: else any two names with the same one would be close.
    """
    try:
        names = sorted(beside.name for beside in path.parent.iterdir())
    except OSError:
        return ""
    close = difflib.get_close_matches(path.stem, {PurePath(name).stem for name in names}, n=1, cutoff=0.6)
    alike = [f"{folder}{name}" for name in names if close and PurePath(name).stem == close[0]]
    return nearest(f"{folder}{path.name}", alike)
