"""A function in a user's own Python file: the one door for rules that no file of settings can say."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.errors import UsageError, nearest


def read_file(path: Path, what: str) -> bytes:
    """The content of a user's own file. Raises UsageError naming it, `what` it is, and the nearest one there."""
    try:
        return path.read_bytes()
    except OSError as error:
        siblings = sorted(p.name for p in path.parent.glob("*")) if path.parent.is_dir() else []
        raise UsageError(f"{path}: {what}: cannot read it: {error.strerror}{nearest(path.name, siblings)}") from error


def load_function(path: Path, source: bytes, name: str) -> Callable[..., Any]:
    """The function `name` of `source`, which stands at `path`. Raises UsageError naming file, line and functions."""
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    try:
        # not by import: that would leave a __pycache__ in the project and hand out stale code
        exec(compile(source, str(path), "exec"), module.__dict__)
    except SyntaxError as error:
        raise UsageError(f"{path}:{error.lineno}: not valid Python: {error.msg}") from error
    except (Exception, SystemExit) as error:
        raise UsageError(f"{line_of(error, path)}: {type(error).__name__}: {error}") from error
    function: Callable[..., Any] | None = vars(module).get(name)
    if function is None or not callable(function):
        names = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        listed = ", ".join(names) or "none"
        raise UsageError(f"{path}: there is no function {name!r}{nearest(name, names)}; functions in it: {listed}")
    return function


def line_of(error: BaseException, path: Path) -> str:
    """`path:line` of the deepest frame of the user's file."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return f"{path}:{lines[-1]}" if lines else str(path)
