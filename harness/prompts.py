"""Jinja templates from strangers: sandboxed, StrictUndefined, limited in size and time, with digests.

The same renderer serves teacher templates, judge templates and student prompts.
"""

from __future__ import annotations

import hashlib
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from harness.errors import UsageError, nearest

MAX_SOURCE = 100_000  # characters of a template
MAX_RENDERED = 200_000  # characters of a prompt
MAX_SECONDS = 2.0  # for one rendering
PADDING = frozenset({"ljust", "rjust", "center", "zfill", "expandtabs", "format", "format_map"})


class _Limited(ImmutableSandboxedEnvironment):
    """The sandbox, closed also against the cheap ways to eat memory: huge repeats and powers."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """No string methods that pad: one call could ask for gigabytes."""
        return attr not in PADDING and super().is_safe_attribute(obj, attr, value)

    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or (operator == "%" and isinstance(left, str)):
            raise jinja2.exceptions.SecurityError(f"the operator {operator!r} is not allowed in a template")
        if operator == "*" and not all(isinstance(x, int | float) and abs(x) < 1e9 for x in (left, right)):
            raise jinja2.exceptions.SecurityError("'*' is allowed between small numbers only")
        return super().call_binop(context, operator, left, right)


@dataclass(frozen=True)
class Template:
    """A compiled template with the digest of its source."""

    path: Path
    source: str
    compiled: jinja2.Template

    @property
    def digest(self) -> str:
        """16 hex digits over the source."""
        return hashlib.sha256(self.source.encode()).hexdigest()[:16]

    def render(self, **variables: Any) -> str:
        """The prompt. Raises UsageError naming the template, the line and the variable at fault."""
        return _render(self, variables)


def load(path: Path) -> Template:
    """Compile one template file. Raises UsageError for a missing, oversized or malformed one."""
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        missing = isinstance(error, OSError)
        siblings = sorted(p.name for p in path.parent.glob("*.j2")) if missing and path.parent.is_dir() else []
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UsageError(f"{path}: cannot read the template: {reason}{nearest(path.name, siblings)}") from error
    return compile_template(path, source)


def compile_template(path: Path, source: str) -> Template:
    """Compile a template from its text; `path` is for messages."""
    if len(source) > MAX_SOURCE:
        raise UsageError(f"{path}: {len(source)} characters; a template has at most {MAX_SOURCE}")
    environment = _Limited(undefined=jinja2.StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True)
    # range() and the like are the sandbox's own, limited; nothing else is reachable
    for name in ("format", "center", "indent"):  # filters that pad
        environment.filters.pop(name, None)
    environment.globals = {"range": environment.globals["range"]}
    try:
        return Template(path, source, environment.from_string(source))
    except jinja2.TemplateSyntaxError as error:
        raise UsageError(f"{path}:{error.lineno}: {error.message}") from error
    except (RecursionError, MemoryError) as error:
        raise UsageError(f"{path}: nested too deeply") from error


def _render(template: Template, variables: Mapping[str, Any]) -> str:
    pieces: list[str] = []
    length = 0
    try:
        with _time_limit(template.path):
            for piece in template.compiled.generate(**variables):
                length += len(piece)
                if length > MAX_RENDERED:
                    raise UsageError(f"{template.path}: the prompt is longer than {MAX_RENDERED} characters")
                pieces.append(piece)
    except jinja2.UndefinedError as error:
        line = _line(error, template)
        hint = nearest(_undefined_name(str(error)), variables)
        known = ", ".join(sorted(variables))
        raise UsageError(f"{line}: {error.message}{hint}; a template here is given: {known}") from error
    except jinja2.TemplateError as error:
        raise UsageError(f"{_line(error, template)}: {error.message or type(error).__name__}") from error
    except (TypeError, ValueError, LookupError, ArithmeticError, MemoryError, RecursionError) as error:
        raise UsageError(f"{_line(error, template)}: {type(error).__name__}: {error}") from error
    if not "".join(pieces).strip():
        raise UsageError(f"{template.path}: it renders to nothing")
    return "".join(pieces)


def _undefined_name(message: str) -> str:
    return message.split("'")[1] if "'" in message else message


def _line(error: BaseException, template: Template) -> str:
    """`path:line` where rendering stood when it failed: Jinja rewrites its frames to the template's lines."""
    trace, line = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{template.path}:{line}" if line else str(template.path)


@contextmanager
def _time_limit(path: Path) -> Iterator[None]:
    """Stop a rendering that runs too long. Signals reach the main thread only; others go unlimited in time."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def expired(*_: object) -> None:
        raise UsageError(f"{path}: rendering took longer than {MAX_SECONDS:g} s")

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
