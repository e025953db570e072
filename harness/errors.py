"""Every error a user can meet, and the exit code each one ends the process with.

HarnessError
├── UsageError            2   the request or a file is wrong; the message says where and what is allowed
├── MachineError          3   the machine or a service failed: disk, memory, engine, endpoint
└── Interrupted         130   Ctrl-C: what was finished is kept, the same command goes on

`check` answers with 0 (pass), 1 (regressed) or 4 (not enough data): an answer is no error.
A message gives the place, the value, what is allowed, and the nearest valid name.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HarnessError(Exception):
    """Base of all errors shown to a user as one message without a traceback."""

    exit_code = 3


class UsageError(HarnessError):
    """The request or a file is wrong."""

    exit_code = 2


class MachineError(HarnessError):
    """The machine, an engine or an endpoint failed."""

    exit_code = 3


class Interrupted(HarnessError):
    """The user stopped the work; what was finished is on disk."""

    exit_code = 130


def nearest(name: str, allowed: Iterable[str]) -> str:
    """' (did you mean X?)' for the closest allowed name, or '' when none is close."""
    close = difflib.get_close_matches(name, [other for other in allowed if other != name], n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
