"""Jinja templates from strangers: the one door through which a template gets data and becomes a prompt.

The same renderer serves teacher templates, judge templates and student prompts. What a template may use and cost is
in `sandbox`. What it is handed is turned into plain data here: it never holds an object of ours.
"""

from __future__ import annotations

import hashlib
import string
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
from jinja2.parser import Parser
from pydantic import BaseModel

from harness.core import sandbox, template_syntax
from harness.core.json_file import read_text
from harness.core.text import has_lone_surrogate
from harness.errors import UsageError, nearest

MAX_SOURCE = 100_000  # characters of a template
MAX_RENDERED = 200_000  # characters of a prompt
_BARE = frozenset((type(None), str, bool, int, float))  # kinds of plain data that hold no other


@dataclass(frozen=True)
class Template:
    """A compiled template with the digest of its source."""

    path: Path
    source: str
    compiled: jinja2.Template

    @cached_property
    def digest(self) -> str:
        """16 hex digits over the source."""
        return hashlib.sha256(self.source.encode()).hexdigest()[:16]

    def render(self, **variables: Any) -> str:
        """The prompt, from variables as plain data. Raises UsageError naming the file, the line and the mistake."""
        return self.render_plain({name: plain(value) for name, value in variables.items()})

    def render_plain(self, variables: dict[str, Any]) -> str:
        """As `render`, from variables that `plain` has made: a copy of what thousands of prompts show is made once."""
        return _render(self, variables)


def plain(value: Any) -> Any:
    """Text, numbers, true, false, none, and lists and dicts of them: a copy that holds no object of ours.

    A record becomes a dict of its fields. Raises TypeError for what has no such form.
    """
    if type(value) in _BARE:
        return value
    if isinstance(value, str):
        return str.__str__(value)  # a kind of string that has methods of its own
    if isinstance(value, dict | Mapping):  # most are a dict, which is quick to tell
        return {
            key if type(key) in _BARE else plain(key): content if type(content) in _BARE else plain(content)
            for key, content in value.items()
        }
    if isinstance(value, BaseModel):
        return {name: plain(content) for name, content in value}
    if isinstance(value, Sequence):
        return [content if type(content) in _BARE else plain(content) for content in value]
    raise TypeError(f"{type(value).__name__} is no plain data: a template cannot be given it")


def load(path: Path) -> Template:
    """Compile one template file. Raises UsageError for a missing, oversized or malformed one."""
    return compile_template(path, read_text(path))


def compile_template(path: Path, source: str) -> Template:
    """Compile a template from its text. `path` is for messages. Raises as `load`."""
    if len(source) > MAX_SOURCE:
        raise UsageError(f"{path}: {len(source)} characters; a template has at most {MAX_SOURCE}")
    for number, line in enumerate(source.split("\n"), start=1):
        if has_lone_surrogate(line):
            raise UsageError(f"{path}:{number}: half of a surrogate pair, which is no character")
    try:
        environment = sandbox.environment()
        tree = template_syntax.rewrite(environment.parse(source))
        code = environment.compile(tree)
        return Template(path, source, jinja2.Template.from_code(environment, code, {}))
    except jinja2.TemplateSyntaxError as error:
        raise UsageError(f"{path}:{error.lineno}: {error.message}") from error
    except (RecursionError, MemoryError, SyntaxError) as error:
        raise UsageError(f"{_parsed_line(error, path)}: nested too deeply") from error
    except ValueError as error:  # a number of more digits than Python reads
        raise UsageError(f"{_parsed_line(error, path)}: {error}") from error


def check_pattern(pattern: str, *names: str) -> None:
    """Raises ValueError unless `{name}` of these names, without attribute, index or format, is all that has braces."""
    for _, name, form, conversion in string.Formatter().parse(pattern):
        if name is not None and (name not in names or form or conversion):
            allowed = " or ".join(f"{{{allowed}}}" for allowed in names)
            raise ValueError(f"only {allowed} may stand in braces, with nothing else in them")


def fill(pattern: str, **values: str) -> str:
    """A pattern with text for its `{name}` places. Raises ValueError as `check_pattern`."""
    check_pattern(pattern, *values)
    return pattern.format(**values)


def _render(template: Template, variables: Mapping[str, Any]) -> str:
    pieces: list[str] = []
    length = 0
    try:
        for piece in template.compiled.generate(**variables):
            length += len(piece)
            if length > MAX_RENDERED:
                raise UsageError(f"{template.path}: the prompt is longer than {MAX_RENDERED} characters")
            pieces.append(piece)
    except UsageError:
        raise
    except jinja2.UndefinedError as error:
        name = str(error).split("'")[1] if "'" in str(error) else ""
        hint = ""
        if str(error).endswith(" is undefined"):
            given = ", ".join(sorted(variables)) or "nothing"
            hint = f"{nearest(name, variables)}; a template here is given: {given}"
        raise UsageError(f"{_line(error, template)}: {error.message}{hint}") from error
    except jinja2.TemplateError as error:
        raise UsageError(f"{_line(error, template)}: {error.message or type(error).__name__}") from error
    except Exception as error:  # whatever it is, the template did it: it holds nothing but plain data
        raise UsageError(f"{_line(error, template)}: {type(error).__name__}: {error}") from error
    text = "".join(pieces)
    if not text.strip():
        raise UsageError(f"{template.path}: it renders to nothing")
    return text


def _line(error: BaseException, template: Template) -> str:
    """`path:line` where rendering stood when it failed: Jinja rewrites its frames to the template's lines."""
    frames = traceback.walk_tb(error.__traceback__)
    lines = [line for frame, line in frames if frame.f_code.co_filename == "<template>"]
    return f"{template.path}:{lines[-1]}" if lines else str(template.path)


def _parsed_line(error: BaseException, path: Path) -> str:
    """`path:line` up to which a template was read when reading it failed."""
    line = 0
    for frame, _ in traceback.walk_tb(error.__traceback__):
        names = frame.f_locals
        if isinstance(names.get("lineno"), int):
            line = names["lineno"]
        elif isinstance(names.get("self"), Parser):
            line = names["self"].stream.current.lineno
    return f"{path}:{line}" if line else str(path)
