"""From a teacher's completions to rows: what it wrote is read, cleaned and made into training examples."""

from __future__ import annotations

from typing import Any, Literal

from harness.augment.rows import Lost, Step, make_row
from harness.config.task import TaskFile
from harness.core.completions import NO_JSON, find_json, without_thinking
from harness.core.templates import Template
from harness.core.text import writable
from harness.data.examples import conversation
from harness.errors import UsageError
from harness.records import Completion, Example, Provenance, Request, Row

Output = Literal["text", "json", "messages"]  # the form that a template asks the teacher for


def row_of(request: Request, completion: Completion, output: Output, task: TaskFile, student: Template) -> Row | Lost:
    """The row that a completion gives, or why it gives none. `student`: the template of a student's prompt."""
    if completion.error or completion.no_answer:
        step: Step = "failed" if completion.error else "no answer"
        return _lost(step, completion.error or completion.no_answer, request, completion)
    example = _read(completion, output, request.origin.label, task)
    if isinstance(example, str):
        return _lost("unparsed", example, request, completion)
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
    return make_row(task, student, example, provenance)


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
    names = (*task.fields, *((answer_name(task),) if task.free else ()))
    problem = next((p for name in names if (p := _problem(value, name, name in task.optional))), "")
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
    """A value of JSON with its line breaks. An escaped mark of thinking is visible only after decoding."""
    lines = writable(without_thinking(text)).splitlines()
    return "\n".join(line.rstrip() for line in lines).strip()


def _one_line(text: str) -> str:
    """A text that a line holds, in characters that a file can hold."""
    return " ".join(writable(text).split())
