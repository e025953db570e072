"""From a teacher's completions to rows: what it wrote is read, cleaned and made into training examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.augment.rows import Lost, Step, make_row
from harness.config.run import Run
from harness.config.task import TaskFile
from harness.core.completions import NO_JSON, find_json, without_thinking
from harness.core.text import writable
from harness.data.examples import conversation
from harness.errors import UsageError
from harness.records import Completion, Example, Provenance, Request, Row


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
        example = _read(completion, outputs[request.origin.template], request.origin.label, run.task)
        if isinstance(example, str):
            lost.append(_lost("unparsed", example, request, completion))
            continue
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
        rows.append(make_row(run.task, template, example, provenance))
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


def answer_name(task: TaskFile) -> str:
    """What a teacher's JSON calls the answer of a task without labels."""
    return "label" if task.fields == ("text",) else "answer"


def _read(completion: Completion, output: str, label: str, task: TaskFile) -> Example | str:
    """The example in a completion, or why it is not in the form asked for."""
    if output == "text":
        text = _one_line(completion.text).strip("\"' ")
        return Example(fields={task.fields[0]: text}, answer=label, label=label) if text else "it has no words"
    cut = " (it was cut at sampling.max_tokens)" if completion.finish_reason == "length" else ""
    value = find_json(completion.text)
    if value is NO_JSON:
        return f"there is no JSON in it{cut}"
    if not isinstance(value, dict):
        return f"the JSON in it is no object{cut}"
    if output == "messages":
        return _conversation(value, task, cut)
    wanted = (*task.fields, *((answer_name(task),) if task.free else ()))
    problem = next((p for name in wanted if (p := _problem(value, name, name in task.optional))), "")
    if problem:
        return problem + cut
    fields = {name: _value(value.get(name, "")) for name in task.fields}
    if not task.free:
        return Example(fields=fields, answer=label, label=label)
    return Example(fields=fields, answer=_value(value[answer_name(task)]))


def _conversation(value: dict[str, Any], task: TaskFile, cut: str) -> Example | str:
    if "messages" not in value:
        return f"its JSON has no 'messages'{cut}"
    try:
        return conversation(value, task.shape, "its JSON")
    except UsageError as error:
        return f"{error}{cut}"


def _problem(value: dict[str, Any], name: str, optional: bool) -> str:
    if name not in value:
        return "" if optional else f"its JSON has no {name!r}"
    if not isinstance(value[name], str):
        return f"{name!r} in its JSON is no text"
    return "" if optional or _value(value[name]) else f"{name!r} in its JSON is empty"


def _value(text: str) -> str:
    """A value of JSON with its line breaks; an escaped mark of thinking shows only now."""
    lines = writable(without_thinking(text)).splitlines()
    return "\n".join(line.rstrip() for line in lines).strip()


def _one_line(text: str) -> str:
    """A text that a line holds, in characters that a file can hold."""
    return " ".join(writable(text).split())
