"""Rows as a student reads them, for the page: token by token what carries loss, and how long rows are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from harness.core.json_file import read_json
from harness.core.record import Record
from harness.core.store import write_json
from harness.errors import UsageError
from harness.report.page.written import lines

STORED = "samples.json"


class Sample(Record):
    """Some rows of one student's largest cell."""

    student: str
    source: str  # where the rows come from
    rows: tuple[tuple[str, tuple[tuple[str, bool], ...]], ...]  # (what it is, (text, whether it carries loss)...)
    lengths: str  # a table of plain text
    limits: tuple[str, ...]


class Samples(Record):
    """What the file of them holds."""

    samples: tuple[Sample, ...]


def store_samples(folder: Path, samples: Sequence[Sample]) -> None:
    """Keep them in runs/NAME/eval: a report that is written again needs none of the libraries that tokenize."""
    write_json(folder / STORED, Samples(samples=tuple(samples)).model_dump(mode="json"))


def stored_samples(folder: Path) -> tuple[Sample, ...]:
    """What `store_samples` kept. Empty where there is nothing, or nothing that can be read."""
    try:
        return Samples.model_validate(read_json(folder / STORED)).samples
    except (UsageError, ValidationError):
        return ()


def samples_section(samples: Sequence[Sample]) -> str:
    """The rows as HTML: what a student learns is marked, for those who see colours and for those who do not."""
    parts = []
    for sample in samples:
        parts.append(f"<h3>{lines(sample.student)}</h3><p>{lines(sample.source)}.</p>")
        for title, pieces in sample.rows:
            marked = "".join(
                f'<mark class="learned">{lines(text)}</mark>' if learned else lines(text) for text, learned in pieces
            )
            parts.append(f'<p class="soft">{lines(title)}</p><div class="tokens" dir="auto">{marked}</div>')
        parts.append(f'<pre tabindex="0">{lines(sample.lengths)}</pre>')
        parts += [f'<p class="soft">{lines(line)}</p>' for line in sample.limits]
    if not parts:
        return ""
    return "<p>What carries loss, which is what the student learns, is marked.</p>" + "".join(parts)
