"""From a teacher's completions to rows: what it wrote is read, cleaned and made into training examples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.config import Run
from harness.records import Completion, Provenance, Request, Row
from harness.rows import make_row


@dataclass(frozen=True)
class Parsed:
    """Rows in request order, and what became of the requests that gave none."""

    rows: list[Row]
    failed: int = 0
    unparsed: int = 0


def parse(run: Run, requests: Sequence[Request], found: Mapping[str, Completion]) -> Parsed:
    """Rows from completions; a request without a completion was stopped and gives nothing."""
    template = run.task.student_template(run.root)
    outputs = {use.path: use.output for use in run.file.augment.templates}
    rows: list[Row] = []
    failed = unparsed = 0
    for request in requests:
        completion = found.get(request.key)
        if completion is None:
            continue
        if completion.finish_reason == "error":
            failed += 1
            continue
        read = _read(completion.text, outputs[request.origin.template], request.origin.label, run.task.free)
        if read is None:
            unparsed += 1
            continue
        text, label = read
        provenance = Provenance(
            source="teacher",
            request=request.key,
            template=request.origin.template,
            template_digest=request.template_digest,
            teacher=request.model,
            seeds=request.origin.seeds,
            finish_reason=completion.finish_reason,
            completion_tokens=completion.completion_tokens,
        )
        rows.append(make_row(run.task, template, text, label, provenance))
    return Parsed(rows, failed, unparsed)


def _read(completion: str, output: str, label: str, free: bool) -> tuple[str, str] | None:
    """(the new text, its answer) in a completion, or None when it is not in the form asked for."""
    if output == "text":
        return _clean(completion).strip("\"' "), label
    try:
        value = json.loads(completion)
    except (ValueError, RecursionError):  # not JSON, a number of thousands of digits, or nested without end
        return None
    if not isinstance(value, dict):
        return None
    text, answer = value.get("text"), value.get("label") if free else label
    if not isinstance(text, str) or not isinstance(answer, str) or not (answer := _clean(answer)):
        return None
    return _clean(text), answer


def _clean(text: str) -> str:
    """One line, in characters that a file can hold: a lone surrogate cannot be written as UTF-8."""
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
