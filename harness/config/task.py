"""Task files as typed models: what the student is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from harness.config.builtin_prompts import student_template, untuned_template
from harness.config.teacher import Name
from harness.core.record import Record
from harness.core.templates import Template
from harness.core.text import normalise
from harness.data.examples import Shape
from harness.errors import UsageError, nearest
from harness.records import Example, Form, Loss

FieldName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]  # as a template writes it
# what templates are given beside the fields
GIVEN = ("answer", "label", "labels", "description", "shots", "system", "turns", "index", "wrong")

# what YAML takes for a truth value or for nothing, and Jinja for its own
WORDS = frozenset(
    {
        "and", "block", "call", "elif", "else", "extends", "false", "filter", "for", "from", "if", "import", "in",
        "include", "is", "macro", "n", "no", "none", "not", "null", "off", "on", "or", "raw", "set", "true", "y", "yes",
    }
)  # fmt: skip


@dataclass(frozen=True)
class TaskPrompts:
    """The compiled templates of a task."""

    student: Template  # of the user turn that a student is tuned on and asked with
    untuned: Template  # of what an untuned model is asked


class TaskFile(Record):
    """What the student is asked to do: the labels, and the prompts it is tuned and asked with."""

    fields: Annotated[tuple[FieldName, ...], Field(min_length=1)] = ("text",)  # what an example's input is made of
    optional: tuple[FieldName, ...] = ()  # fields that may be empty, such as the input of an instruction
    labels: dict[str, str] = {}  # label -> one-line description; {} where answers are free text
    system: str  # the system message of every prompt
    prompt: Name | None = None  # template of the user turn a student is tuned on and asked with: the fields, text
    untuned_prompt: Name | None = None  # template for an untuned model: fields, text, turns, labels, shots, system
    loss: Loss = "last"  # of a conversation: the answer is learned, or all of the assistant's turns
    untuned_form: Literal["auto"] | Form = "auto"  # how it is asked; auto: the form that scores best on the dev items

    @model_validator(mode="after")
    def _fields_are_names(self) -> Self:
        for name in self.fields:
            if name in GIVEN:
                raise ValueError(f"fields: {name!r} is what templates call something else: choose another name")
            if name in WORDS:
                raise ValueError(f"fields: {name!r} is a word of YAML or of Jinja: choose another name")
        if len(set(self.fields)) < len(self.fields):
            raise ValueError(f"fields {list(self.fields)} repeats one")
        for name in self.optional:
            if name not in self.fields:
                raise ValueError(f"optional: {name!r} is none of the fields{nearest(name, self.fields)}")
        return self

    @model_validator(mode="after")
    def _choosable(self) -> Self:
        if len(self.labels) == 1:
            raise ValueError("one label leaves nothing to choose: write two or more, or {} where answers are free text")
        seen: dict[str, str] = {}
        for label in self.labels:  # an answer is read without case and punctuation
            twin = seen.setdefault(normalise(label), label)
            if twin != label or not normalise(label):
                raise ValueError(f"the labels {twin!r} and {label!r} read alike in an answer: rename one")
        return self

    @property
    def free(self) -> bool:
        """Whether any text may be the answer."""
        return not self.labels

    @property
    def shape(self) -> Shape:
        """What its examples look like, to read files by."""
        return Shape(self.fields, tuple(self.labels), self.optional)

    def prompts(self, root: Path) -> TaskPrompts:
        """The templates that it names, compiled, or the built-in ones for its fields and kind of answer."""
        return TaskPrompts(
            student_template(root, self.prompt, self.fields),
            untuned_template(root, self.untuned_prompt, self.fields, self.free),
        )


def require_used(template: Template, name: str, seed: Example, more: Mapping[str, Any]) -> None:
    """Raises UsageError for a template whose prompt does not depend on a field of the task."""
    prompts = [
        template.render(**Example(fields=fields).input, **more)
        for fields in (seed.fields, seed.fields | {name: f"{seed.fields[name]} ..."})
    ]
    if prompts[0] == prompts[1]:
        raise UsageError(f"{template.path}: two texts give one prompt: the template must use {{{{ {name} }}}}")
