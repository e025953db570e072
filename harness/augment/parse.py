"""From a teacher's completions to rows: what it wrote is read, cleaned and made into training examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.augment.rows import Lost, Step, make_row
from harness.config.run import Run
from harness.core.completions import NO_JSON, find_json, without_thinking
from harness.core.text import writable
from harness.records import Completion, Provenance, Request, Row


@dataclass(frozen=True)
class Parsed:
    """Rows in request order, and the requests that gave none, each with its reason."""

    rows: list[Row]
    lost: tuple[Lost, ...] = ()


def parse(run: Run, requests: Sequence[Request], found: Mapping[str, Completion]) -> Parsed:
    """Rows from completions; a request without a completion was stopped and gives nothing."""
    template = run.task.student_template(run.root)
    outputs = {use.path: use.output for use in run.file.augment.templates}
    rows: list[Row] = []
    lost: list[Lost] = []
    for request in requests:
        completion = found.get(request.key)
        if completion is None:
            continue
        if completion.error or completion.no_answer:
            step: Step = "failed" if completion.error else "no answer"
            lost.append(_lost(step, completion.error or completion.no_answer, request, completion))
            continue
        read = _read(completion, outputs[request.origin.template], request.origin.label, run.task.free)
        if isinstance(read, str):
            lost.append(_lost("unparsed", read, request, completion))
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
    return Parsed(rows, tuple(lost))


def _lost(step: Step, reason: str, request: Request, completion: Completion) -> Lost:
    return Lost(
        lost=step,
        reason=reason,
        text=writable(completion.text or completion.thinking),
        request=request.key,
        template=request.origin.template,
        label=request.origin.label,
    )


def _read(completion: Completion, output: str, label: str, free: bool) -> tuple[str, str] | str:
    """(the new text, its answer) in a completion, or why it is not in the form asked for."""
    if output == "text":
        text = _clean(completion.text).strip("\"' ")
        return (text, label) if text else "it has no words"
    cut = " (it was cut at sampling.max_tokens)" if completion.finish_reason == "length" else ""
    value = find_json(completion.text)
    if value is NO_JSON:
        return f"there is no JSON in it{cut}"
    if not isinstance(value, dict):
        return f"the JSON in it is no object{cut}"
    problem = next((p for name in (("text", "label") if free else ("text",)) if (p := _problem(value, name))), "")
    if problem:
        return problem + cut
    return _value(value["text"]), _value(value["label"]) if free else label


def _problem(value: dict[str, Any], name: str) -> str:
    if name not in value:
        return f"its JSON has no {name!r}"
    if not isinstance(value[name], str):
        return f"{name!r} in its JSON is no text"
    return "" if _value(value[name]) else f"{name!r} in its JSON is empty"


def _value(text: str) -> str:
    """A value of JSON; an escaped mark of thinking shows only now."""
    return _clean(without_thinking(text))


def _clean(text: str) -> str:
    """One line, in characters that a file can hold."""
    return " ".join(writable(text).split())
