"""What a teacher wrote, read and cleaned: a value for later steps, or an example."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from harness.augment.rows import Lost, LostAt
from harness.config.steps import Step
from harness.config.task import TaskFile
from harness.core.completions import NO_JSON, find_json, without_thinking
from harness.core.text import writable
from harness.data.examples import conversation
from harness.errors import UsageError
from harness.metrics.json_answers import schema_mismatch
from harness.records import Completion, Example, Request

Output = Literal["text", "json", "messages"]  # the form that a template asks the teacher for


class Reading(NamedTuple):
    """What a completion says, or why it is not in the form asked for."""

    value: Any = None
    problem: str = ""


def lost_request(step: LostAt, reason: str, request: Request, completion: Completion) -> Lost:
    """A request that gave no row."""
    return Lost(
        lost=step,
        reason=reason,
        text=writable(completion.text or completion.thinking),
        request=request.key,
        template=request.origin.template,
        label=request.origin.label,
        teacher=request.model,
        step=request.origin.step,
    )


def step_value(completion: Completion, step: Step) -> Reading:
    """What a step wrote for later ones: a text with its line breaks, one of its choices, or an object by its schema."""
    if step.output == "text":
        text = _value(completion.text)
        if step.sampling.choices and text not in (choice.strip() for choice in step.sampling.choices):
            return Reading(problem=f"it is none of the choices: {', '.join(step.sampling.choices)}")
        return Reading(text) if text else Reading(problem="it has no words")
    cut = " (it was cut at sampling.max_tokens)" if completion.finish_reason == "length" else ""
    value = find_json(completion.text)
    if value is NO_JSON:
        return Reading(problem=f"there is no JSON in it{cut}")
    if not isinstance(value, dict):
        return Reading(problem=f"the JSON in it is no object{cut}")
    if mismatch := schema_mismatch(step.sampling.json_schema or {}, value):
        return Reading(problem=f"its JSON is not of the schema: {mismatch}{cut}")
    return Reading({key: _value(part) if isinstance(part, str) else part for key, part in value.items()})


def row_example(completion: Completion, output: Output, label: str, task: TaskFile) -> Reading:
    """The example that a completion holds, or why it is not in the form asked for."""
    read = _example(completion, output, label, task)
    return Reading(problem=read) if isinstance(read, str) else Reading(read)


def _example(completion: Completion, output: Output, label: str, task: TaskFile) -> Example | str:
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
    names = (*task.fields, *(("answer",) if task.free else ()))
    problem = next((p for name in names if (p := _problem(value, name, name in task.optional))), "")
    if problem:
        return problem + cut
    fields = {name: _value(value.get(name, "")) for name in task.fields}
    if not task.free:
        return Example(fields=fields, answer=label, label=label)
    return Example(fields=fields, answer=_value(value["answer"]))


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
