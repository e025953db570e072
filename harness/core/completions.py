"""What a model wrote, before anybody reads it: thinking taken away, the JSON in it found. Imports nothing of ours."""

from __future__ import annotations

import json
import re
from typing import Any

_NAME = r"(?:[a-z]+:)?(?:think|thinking|thought|reasoning)"  # as in <think>, <seed:think>
_MARK = re.compile(
    rf"(?P<open><{_NAME}>|\[think\]|<\|start_thinking\|>)|</{_NAME}>|\[/think\]|<\|end_thinking\|>", re.I
)

_FENCE = re.compile(r"```[ \t]*(?:json)?[ \t]*\n?(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
MOST_STARTS = 256  # brackets tried as the beginning of a JSON value


def without_thinking(text: str) -> str:
    """The answer in a completion: its text without the thinking, or '' where there is nothing else.

    Taken away are whole blocks (`<think>...</think>`), what stands before a lone closing mark (chat templates may
    have written the opening one), and what follows an opening mark that is never closed.
    """
    if not _MARK.search(text):
        return text
    answer: list[str] = []
    start, thinking = 0, False
    for mark in _MARK.finditer(text):
        if mark["open"] and not thinking:
            answer.append(text[start : mark.start()])
        elif not mark["open"] and not thinking:
            answer.clear()  # closed without having been opened: all so far was thinking
        thinking, start = bool(mark["open"]), mark.end()
    if not thinking:
        answer.append(text[start:])
    return "".join(answer).strip()


NO_JSON: Any = object()  # stands for 'no JSON value found'; None would be JSON's null


def find_json(text: str) -> Any:
    """The JSON value of an answer: the whole of it, a fenced block, or the first object (else list) among the words.

    NO_JSON where there is none. NaN and Infinity are not JSON.
    """
    for candidate in (text, *(fenced[1] for fenced in _FENCE.finditer(text))):
        try:
            return json.loads(candidate.strip(), parse_constant=refuse_constant)
        except (ValueError, RecursionError):  # also a number of thousands of digits, or nested without end
            continue
    return _first_inside(text)


def _first_inside(text: str) -> Any:
    decoder = json.JSONDecoder(parse_constant=refuse_constant)
    first_list: Any = NO_JSON
    end = 0
    for number, start in enumerate(re.finditer(r"[{\[]", text)):
        if number >= MOST_STARTS:
            break
        if start.start() < end:
            continue
        try:
            value, end = decoder.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) or any(isinstance(part, dict) for part in value):
            return value
        first_list = value if first_list is NO_JSON else first_list
    return first_list


def refuse_constant(name: str) -> Any:
    """As json's `parse_constant`. Raises ValueError for NaN and Infinity."""
    raise ValueError(f"{name} is not JSON")
