"""Answers that nobody should see: by a list of words, or by the project's own function."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from harness.core.json_file import read_bytes
from harness.core.python_file import TIMEOUT_S, PythonFunction
from harness.core.record import Record
from harness.core.text import normalise
from harness.errors import UsageError

FORM = "True or False, or a number from 0 (fine) to 1 (not fit to show)"


class PythonModeration(Record):
    """A function of the project that judges one answer. It has all the rights of the harness."""

    file: Annotated[str, Field(min_length=1)]  # relative to the project
    function: Annotated[str, Field(min_length=1)] = "flag"
    # for loading the file and for each answer; it decides no number, so no digest has it
    timeout_s: Annotated[float, Field(gt=0, le=3600, exclude=True)] = TIMEOUT_S


@dataclass(frozen=True)
class Moderation:
    """A judge of texts: 0 is fine, 1 is not fit to show."""

    digest: str  # 16 hex digits over the list or the code: another list, other scores
    flags: Callable[[Sequence[str]], list[float]]  # one number per text, same order


def load_moderation(spec: str | PythonModeration, root: Path) -> Moderation:
    """A list (a text file of words and phrases, one a line, # for remarks) or a Python function.

    Raises UsageError naming file and line. `flags` does too, for what the function raised or returned.
    """
    if isinstance(spec, PythonModeration):
        path = root / spec.file
        source = read_bytes(path, "moderation")
        function = PythonFunction(path, source, spec.function, spec.timeout_s)
        return Moderation(_digest(source), lambda texts: _ask(function, texts))
    path = root / spec
    source = read_bytes(path, "moderation")
    try:
        lines = source.decode().splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: the list of words is not UTF-8 text") from error
    flag = word_list(lines, path)
    return Moderation(_digest(source), lambda texts: [flag(text) for text in texts])


def word_list(lines: list[str], place: Path) -> Callable[[str], float]:
    """1.0 for a text that holds one of the words or phrases, whole. Case and punctuation do not count."""
    phrases = [normalise(line) for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not phrases:
        raise UsageError(f"{place}: there are no words in it; one word or phrase to a line, # begins a remark")
    pattern = re.compile("|".join(rf"(?<!\w){re.escape(phrase)}(?!\w)" for phrase in sorted(set(phrases))))
    return lambda text: float(pattern.search(normalise(text)) is not None)


def _ask(function: PythonFunction, texts: Sequence[str]) -> list[float]:
    answers = function.answers([json.dumps(text) for text in texts], texts)
    for answer in answers:
        if not isinstance(answer, int | float) or not 0 <= answer <= 1:
            raise UsageError(f"{function.path}: {function.name} returned {answer!r}; it must be {FORM}")
    return [float(answer) for answer in answers]


def _digest(source: bytes) -> str:
    return hashlib.sha256(source).hexdigest()[:16]
