"""How a teacher is asked for a row, as a run file says it: in one call, or in steps that see what others wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from harness.config.task import FieldName, TaskFile
from harness.config.teacher import Name
from harness.core.record import Record
from harness.core.templates import Template, compile_template
from harness.errors import nearest
from harness.filters import AnyFilter, AnyPick
from harness.metrics.json_answers import schema_problem
from harness.models.teachers import OWN_TEACHER
from harness.records import Sampling

DOCUMENT = "document"  # what templates call the piece of a document that a row is about
DOCUMENT_PARTS = ("id", "source", "title", "text")  # keys of it
# what the templates of steps, and of their ways to pick, are given beside attributes and what steps wrote
RESERVED = ("label", "labels", "description", "shots", "index", DOCUMENT, "candidate")
Weight = Annotated[float, Field(gt=0, le=1e9)]
TURNS = "turns"  # in `row`: the steps that write a conversation's turns, the user's first


class Step(Record):
    """One teacher call: its template, how completions are sampled and read, and which of them is taken."""

    path: Name  # of the template
    name: FieldName | None = None  # what later templates, and `row`, call what it wrote
    # who is asked: a name of `teachers`, or several with weights, of which one is drawn for each row
    teacher: Name | Annotated[dict[Name, Weight], Field(min_length=1)] = OWN_TEACHER
    form: Literal["completion", "chat"] = "completion"  # a plain prompt to continue, or one user turn
    # a text, an object (by sampling.json_schema, else the task's fields and the answer), or {"messages": [...]}
    output: Literal["text", "json", "messages"] = "text"
    shots: Annotated[int, Field(ge=0, le=64)] = 4  # seeds of the label shown in the prompt
    pool_shots: Annotated[int, Field(ge=0, le=64)] = 0  # kept rows shown after the seeds, where augment has a pool
    sampling: Sampling
    samples: Annotated[int, Field(ge=1, le=64)] = 1  # completions, of which `pick` takes one
    pick: AnyPick | None = None
    attempts: Annotated[int, Field(ge=1, le=16)] = 1  # askings at most where no completion is in the form asked for
    filters: tuple[AnyFilter, ...] = ()  # see what this step wrote: a row that they drop costs no further call

    @model_validator(mode="after")
    def _readable(self) -> Self:
        if self.samples > 1 and self.pick is None:
            raise ValueError(f"samples is {self.samples}, and pick does not say which of them is taken")
        if self.sampling.json_schema is not None:
            if self.output != "json":
                raise ValueError(f"sampling.json_schema with output {self.output!r}: write output: json")
            if problem := schema_problem(self.sampling.json_schema):
                raise ValueError(f"sampling.json_schema: {problem}")
            kinds = self.sampling.json_schema.get("type", "object")
            if "object" not in (kinds if isinstance(kinds, list) else [kinds]):
                raise ValueError(f"sampling.json_schema.type: {kinds!r}: what a step writes as JSON is an object")
        if self.sampling.choices and self.output != "text":
            raise ValueError(f"sampling.choices with output {self.output!r}: a choice is read as output: text")
        if asking := next((filter_.kind for filter_ in self.filters if filter_.needs.teachers), ""):
            raise ValueError(f"filters: {asking} asks a teacher: it belongs in augment.filters")
        return self

    @property
    def teachers(self) -> dict[str, float]:
        """Names of the teachers that are asked, each with its weight."""
        return {self.teacher: 1.0} if isinstance(self.teacher, str) else dict(self.teacher)

    def parts(self, fields: Sequence[str]) -> tuple[str, ...]:
        """What filters of the step can look at: its text by its name, or the keys of the object that it writes."""
        if self.output == "text":
            return (self.name or "text",)
        schema = self.sampling.json_schema
        return tuple(schema.get("properties", {})) if schema else tuple(fields)


def stand_in(step: Step, text: str = "some words") -> Any:
    """A value like those that a step will write, its texts being `text`: to try templates with, and to plan."""
    if step.output == "text":
        return next((choice.strip() for choice in step.sampling.choices), text)
    return _like({"type": "object", **(step.sampling.json_schema or {})}, text)


def _like(schema: Any, text: str) -> Any:
    kind = schema.get("type") if isinstance(schema, dict) else None
    if kind == "object":
        return {name: _like(part, text) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [_like(schema.get("items", {}), text)]
    return {"integer": 1, "number": 1.5, "boolean": True}.get(str(kind), text)


def is_template(source: object) -> bool:
    """Whether a source of `row` is no name but a template of its own, as in "{{ greeting }} {{ text }}"."""
    return isinstance(source, str) and "{{" in source


def row_template(name: str, source: str, place: str = "augment") -> Template:
    """The compiled template that writes `row.NAME`. Raises UsageError naming what is wrong with it."""
    return compile_template(Path(f"{place}.row.{name}"), source)


def chain_problem(steps: Sequence[Step], row: Mapping[str, object], given: Sequence[str]) -> str:
    """What is wrong with steps that follow each other and the row they make, or ''. `given`: names of attributes."""
    seen: dict[str, int] = {}
    for i, step in enumerate(steps):
        if step.name is None:
            return f"steps.{i}: name: this key is missing: later templates and `row` need it"
        if step.name in RESERVED:
            return f"steps.{i}.name: {step.name!r} is what templates call something else: choose another name"
        if step.name in given:
            return f"steps.{i}.name: {step.name!r} is the name of an attribute too: choose another name"
        if step.name in seen:
            return f"steps.{i}.name: {step.name!r} is the name of steps.{seen[step.name]} too"
        seen[step.name] = i
        makes_row = not row and i == len(steps) - 1
        if step.output == "json" and step.sampling.json_schema is None and not makes_row:
            return f"steps.{i}: sampling.json_schema: this key is missing: it says what later steps can use"
        if step.pick and step.pick.by == "student" and makes_row:
            return f"steps.{i}.pick: a student measures an answer to a question: say with `row` which steps write them"
        if step.output == "messages" and not makes_row:
            return f"steps.{i}.output: 'messages': only the last step, without `row`, makes a conversation of its JSON"
    return ""


def _key_problem(step: Step, keys: Sequence[str]) -> str:
    """Why a step writes no text and no number at these keys, as far as its form and its schema tell, or ''."""
    if step.output == "text":
        return f"the step {step.name!r} writes a text, which has no keys" if keys else ""
    schema: Any = {"type": "object", **(step.sampling.json_schema or {})}
    for key in keys:
        known = schema.get("properties") if isinstance(schema, dict) else None
        if not isinstance(known, dict) or (key not in known and schema.get("additionalProperties")):
            return ""  # it may be there
        if key not in known:
            return f"the schema of the step {step.name!r} has no {key!r}{nearest(key, known)}: {', '.join(known)}"
        schema = known[key]
    kind = schema.get("type") if isinstance(schema, dict) else None
    if kind in ("object", "array", "boolean"):
        inside = ", ".join(schema.get("properties", ()))
        advice = f": name one of its keys: {inside}" if inside else ""
        return f"the step {step.name!r} writes a value of type {kind} there, and a row holds texts and numbers{advice}"
    return ""


def _drawn_problem(name: str, keys: Sequence[str]) -> str:
    """Why a document, or else an attribute, has no text and no number at these keys, or ''."""
    if name != DOCUMENT:
        return f"the attribute {name!r} has no keys" if keys else ""
    parts = ", ".join(f"{DOCUMENT}.{part}" for part in DOCUMENT_PARTS)
    return "" if len(keys) == 1 and keys[0] in DOCUMENT_PARTS else f"of a document a row can take one of {parts}"


def row_problem(steps: Sequence[Step], row: Mapping[str, object], given: Sequence[str], task: TaskFile) -> str:
    """What is wrong with how a row is put together, or ''. `given`: names of attributes, and of the document."""
    allowed = (*task.fields, "answer", TURNS)
    for name in row:
        if name not in allowed:
            return f"{name!r}{nearest(name, allowed)}; allowed: {', '.join(allowed)}"
    for name in task.fields:
        if name not in row and name not in task.optional:
            return f"{name}: this key is missing: it says which step writes the field"
    if task.free and "answer" not in row:
        return "answer: this key is missing: it says which step writes the answer"
    by_name = {step.name or "": step for step in steps}
    sources = [*by_name, *given]
    for name, written in row.items():
        for source in written if isinstance(written, tuple) else (written,):
            if is_template(source):
                continue  # it is rendered when the run is loaded
            first, *keys = str(source).split(".")
            if first not in sources:
                hint = f"{nearest(first, sources)}; there are: {', '.join(sources)}"
                return f"{name}: {source!r}: there is no step {first!r}{hint}"
            if first in by_name:
                problem = _key_problem(by_name[first], keys)
            else:
                problem = _drawn_problem(first, keys)
            if problem:
                return f"{name}: {source!r}: {problem}"
    if isinstance(turns := row.get(TURNS), tuple) and len(turns) % 2:
        return f"turns names {len(turns)} steps: earlier turns are pairs, the user's and the assistant's"
    return ""
