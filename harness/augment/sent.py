"""The prompts that teachers were sent for rows, word for word: prompts.jsonl, written while augment works.

One line a request, those that stored calls answer too. What a judge is asked is not in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from harness.core.json_file import lines_of, parse_object
from harness.core.store import disk_errors
from harness.records import Request

PROMPTS = "prompts.jsonl"


@dataclass
class Sent:
    """A file of prompts in the making. It takes its name when `keep` is called."""

    folder: Path
    file: BinaryIO
    lines: int = 0

    def __call__(self, request: Request) -> None:
        """Note what is asked."""
        if request.origin.purpose != "generate":
            return
        text = request.prompt or "\n\n".join(message.content for message in request.messages)
        line = {"request": request.key, "template": request.origin.template, "prompt": text}
        with disk_errors(Path(self.file.name)):
            self.file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        self.lines += 1

    def keep(self) -> tuple[Path, ...]:
        """Put the file in its place, and return it. Where no teacher was asked there is none."""
        place = self.folder / PROMPTS
        with disk_errors(place):
            self.file.flush()
            if self.lines:
                Path(self.file.name).replace(place)
                return (place,)
            place.unlink(missing_ok=True)
            return ()


@contextmanager
def recording(folder: Path) -> Iterator[Sent]:
    """What notes the prompts of one augment. Without `keep` nothing is left of it."""
    part = folder / f".{PROMPTS}"  # one left by a killed process is written over
    with disk_errors(part):
        folder.mkdir(parents=True, exist_ok=True)
        file = part.open("wb")
    try:
        with file:
            yield Sent(folder, file)
    finally:
        part.unlink(missing_ok=True)


def read_prompts(path: Path, requests: Container[str]) -> dict[str, str]:
    """The prompts of these requests, by key. Raises UsageError naming a line that is none."""
    prompts = {}
    for number, line in lines_of(path):
        sent = parse_object(line, path, number)
        if sent.get("request") in requests:
            prompts[str(sent["request"])] = str(sent.get("prompt", ""))
    return prompts


Note = Callable[[Request], None]


def not_noted(request: Request) -> None:
    """Where nobody wants to know what is asked."""
