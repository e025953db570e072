"""A row in the making: what its steps have written so far, and what becomes of the next completions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

from harness.augment.parse import lost_request, row_example, step_value
from harness.augment.rows import Lost, make_row
from harness.config.steps import DOCUMENT, TURNS, Step, is_template, row_template, stand_in
from harness.config.task import TaskFile
from harness.core.templates import Template
from harness.core.text import printable
from harness.data.documents import Piece
from harness.errors import UsageError, nearest
from harness.filters import Context, Picker, Rule
from harness.records import Completion, Example, Message, Provenance, Request, Row, StepWritten

Place = tuple[str, int]  # the label that a row is asked for, and its number among them


@dataclass(frozen=True)
class PlannedStep:
    """A step with its compiled template, and with its filters and its way to pick once they are prepared."""

    step: Step
    template: Template
    rules: tuple[Rule, ...] = ()
    picker: Picker | None = None

    def prepared(self, context: Context) -> PlannedStep:
        """The same step, ready to read completions. Raises UsageError for a filter that cannot stand in a step."""
        rules = tuple(filter_.prepare(context) for filter_ in self.step.filters)
        for filter_, rule in zip(self.step.filters, rules, strict=True):
            if rule.compares_rows:
                name = f"step {self.step.name!r}" if self.step.name else self.step.path
                raise UsageError(
                    f"{name}: the filter {filter_.kind} compares rows with each other: it belongs in augment.filters"
                )
        return replace(self, rules=rules, picker=self.step.pick.prepare(context) if self.step.pick else None)


class Candidate(NamedTuple):
    """A completion in the form that its step asks for."""

    value: Any  # a text, an object, or the example that the last step wrote
    text: str  # the same as a text
    request: Request
    completion: Completion


class Chain(NamedTuple):
    """A row in the making. Its place and what was drawn for it decide all that it asks."""

    place: Place
    steps: tuple[PlannedStep, ...]
    attributes: Mapping[str, str | int]
    document: Piece | None
    values: Mapping[str, Any] = MappingProxyType({})  # what each step wrote, by its name
    written: tuple[StepWritten, ...] = ()
    attempt: int = 0  # of this step
    candidates: tuple[Candidate, ...] = ()  # of this step, while one of them is picked

    @property
    def step(self) -> PlannedStep:
        """The step whose turn it is."""
        return self.steps[len(self.written)]

    @property
    def complete(self) -> bool:
        """Whether every step has written."""
        return len(self.written) == len(self.steps)

    @property
    def drawn(self) -> dict[str, Any]:
        """What provenance says of what was drawn for it."""
        document = self.document.id if self.document else ""
        return {"document": document, "attributes": {name: str(value) for name, value in self.attributes.items()}}

    @property
    def variables(self) -> dict[str, Any]:
        """What was drawn for it, its document, and what its steps wrote, by name."""
        document = {DOCUMENT: self.document.shown} if self.document else {}
        return {**self.attributes, **document, **self.values}

    @property
    def texts(self) -> list[str]:
        """The candidates as texts."""
        return [candidate.text for candidate in self.candidates]

    def lost(self, lost: Lost) -> Lost:
        """Why its step gave nothing, with what was drawn for it and who wrote what."""
        several = len(self.steps) > 1
        teachers = {step.name: step.teacher for step in self.written} | {lost.step: lost.teacher} if several else {}
        return lost.model_copy(update={**self.drawn, "teachers": teachers})

    def again(self, lost: Lost) -> Chain | Lost:
        """The chain with its step to be asked once more, or why it ends here. A call that failed is not asked twice."""
        if lost.lost == "failed" or self.attempt + 1 >= self.step.step.attempts:
            return lost
        return self._replace(attempt=self.attempt + 1, candidates=())


def read_step(
    chain: Chain,
    requests: Sequence[Request],
    answers: Sequence[Completion],
    task: TaskFile,
    row: Mapping[str, object],
) -> Chain | Lost:
    """The chain with the completions of its step that are in the form asked for, or why none is.

    `row` says how a row is put together. Without it the last step writes the whole example.
    """
    step = chain.step.step
    makes_row = not row and len(chain.written) == len(chain.steps) - 1
    candidates: list[Candidate] = []
    lost: list[Lost] = []
    for request, completion in zip(requests, answers, strict=True):
        if completion.error or completion.no_answer:
            why = completion.error or completion.no_answer
            lost.append(lost_request("failed" if completion.error else "no answer", why, request, completion))
            continue
        read = row_example(completion, step.output, chain.place[0], task) if makes_row else step_value(completion, step)
        if read.problem:
            lost.append(lost_request("unparsed", read.problem, request, completion))
        else:
            candidates.append(Candidate(read.value, _text(read.value), request, completion))
    return chain._replace(candidates=tuple(candidates)) if candidates else lost[0]


def pick_one(
    chain: Chain, variables: Callable[[Chain], Mapping[str, object]], answers: Sequence[Completion]
) -> Candidate | Lost:
    """The candidate that the step takes, the first one where it has no way to pick, or why it takes none.

    `variables` gives what templates are given of a chain.
    """
    first = chain.candidates[0]
    if chain.step.picker is None:
        return first
    picked = chain.step.picker.choose(chain.texts, variables(chain), answers)
    if picked.place is None:
        return lost_request("not picked", picked.reason, first.request, first.completion)
    return chain.candidates[picked.place]


def go_on(chain: Chain, candidate: Candidate) -> Chain | Lost:
    """The chain after its step, or what a filter of the step says against it."""
    request = candidate.request
    written = StepWritten(
        name=request.origin.step,
        request=request.key,
        template=request.origin.template,
        template_digest=request.template_digest,
        teacher=request.model,
        text=candidate.text,
    )
    if chain.step.rules:
        row = _partial_row(chain, candidate)
        for rule in chain.step.rules:
            (verdict,) = rule.verdicts([row], [()])
            if not verdict.keep:
                lost = lost_request("filtered", verdict.reason, request, candidate.completion)
                return lost.model_copy(update={"filter": verdict.filter})
    values = {**chain.values, request.origin.step: candidate.value} if request.origin.step else chain.values
    return chain._replace(values=values, written=(*chain.written, written), attempt=0, candidates=())


def row_of(chain: Chain, last: Candidate, task: TaskFile, student: Template, row: Mapping[str, object]) -> Row | Lost:
    """The row of a chain whose steps have all written. `student`: the template of a student's prompt."""
    request, completion = last.request, last.completion
    example: Example | str = last.value if not row else put_together(chain, row, task)
    if isinstance(example, str):
        return lost_request("unparsed", example, request, completion)
    provenance = Provenance(
        source="teacher",
        **chain.drawn,
        steps=chain.written if len(chain.written) > 1 else (),
        request=request.key,
        template=request.origin.template,
        template_digest=request.template_digest,
        teacher=request.model,
        seeds=request.origin.seeds,
        finish_reason=completion.finish_reason,
        completion_tokens=completion.completion_tokens,
    )
    return make_row(task, student, example, provenance)


def put_together(chain: Chain, row: Mapping[str, object], task: TaskFile) -> Example | str:
    """The example that `row` makes of what was written and drawn, or why it cannot: a value is missing or empty."""
    return example_of(chain.variables, chain.place[0], row, task)


def example_of(
    values: Mapping[str, Any], label: str, row: Mapping[str, object], task: TaskFile, *, answered: bool = True
) -> Example | str:
    """The example that `row` makes of values, or why it cannot. Not `answered`, it is the question alone."""
    texts: dict[str, str] = {}
    for name, source in row.items():
        if name == TURNS or (name == "answer" and not answered):
            continue
        found = [_at(values, option, name) for option in _sources(source)]
        text = next((text for text in found if text), "" if "" in found else None)
        if text is None or (not text and name not in task.optional):
            state = "not there" if text is None else "empty"
            return f"{' and '.join(_sources(source))}, of which row.{name} is to be made: {state}"
        texts[name] = text
    turns: list[Message] = []
    for place, source in enumerate(_sources(row.get(TURNS, ()))):
        if not (turn := _at(values, source, TURNS)):
            return f"{source}, which is to be a turn: it is empty, or not there"
        turns.append(Message(role="assistant" if place % 2 else "user", content=turn))
    answer = texts.get("answer", label)
    if answered and not task.free and answer not in task.labels:
        return f"the answer {answer[:80]!r} is none of the labels{nearest(answer, task.labels)}"
    fields = {name: texts.get(name, "") for name in task.fields}
    return Example(fields=fields, turns=tuple(turns), answer=answer, label=None if task.free else answer)


def _sources(named: object) -> tuple[str, ...]:
    """One name, or several, as `row` has them."""
    return tuple(map(str, named)) if isinstance(named, tuple) else (str(named),)


_row_template = cache(row_template)


def _at(values: Mapping[str, Any], source: str, name: str) -> str | None:
    """The text at a dotted name, or None where there is none. A template for `row.NAME` gives what it renders to."""
    if is_template(source):
        return printable(_row_template(name, source).render(**values)).strip()
    value: Any = values
    for part in source.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return str(value)


def imagined(chain: Chain, text: str) -> Chain:
    """The chain after its step as if it had written such a text, or an object of such texts: for a plan."""
    step = chain.step.step
    written = StepWritten(name=step.name or "", request="", template="", template_digest="", teacher="", text=text)
    values = {**chain.values, step.name: stand_in(step, text)} if step.name else chain.values
    return chain._replace(values=values, written=(*chain.written, written))


def _partial_row(chain: Chain, candidate: Candidate) -> Row:
    """What a step wrote as a row, for its filters: a text under the step's name, an object by its keys."""
    value = candidate.value
    if isinstance(value, Example):
        example = value
    elif isinstance(value, dict):
        example = Example(fields={key: _text(part) for key, part in value.items()} or {"text": ""})
    else:
        example = Example(fields={chain.step.step.name or "text": value})
    completion = candidate.completion
    provenance = Provenance(
        source="teacher",
        **chain.drawn,
        finish_reason=completion.finish_reason,
        completion_tokens=completion.completion_tokens,
    )
    messages = (Message(role="user", content=example.text), Message(role="assistant", content=example.answer))
    return Row(messages=messages, example=example, provenance=provenance)


def _text(value: Any) -> str:
    if isinstance(value, Example):
        return f"{value.text}\n\n{value.answer}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
