"""What augment will ask: a plan that the dry run prints and the stage carries out."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from harness.augment.parse import answer_name, row_of
from harness.augment.rows import Lost, own_rows
from harness.config.run import Augment, Run, TemplateUse
from harness.config.task import TaskFile
from harness.core import templates
from harness.core.record import digest
from harness.core.templates import Template
from harness.records import Completion, Example, Message, Origin, Request, Row

HOPELESS = 64  # requests without a single row after which no further round is asked

TURN = {
    "type": "object",
    "properties": {"role": {"enum": ["user", "assistant"]}, "content": {"type": "string"}},
    "required": ["role", "content"],
}
CONVERSATION = {
    "type": "object",
    "properties": {"messages": {"type": "array", "items": TURN, "minItems": 2}},
    "required": ["messages"],
}


@dataclass(frozen=True)
class Plan:
    """A run's own rows, or the requests that make its rows, in the order that decides everything after."""

    teacher: str  # name@revision
    random_seed: int
    task: TaskFile
    settings: Augment
    seeds: tuple[Example, ...]
    templates: tuple[tuple[TemplateUse, Template], ...]
    student: Template  # of a student's prompt
    own: tuple[Row, ...]  # where there are any, no teacher writes

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that rows are asked for in turn. A task without labels has one, the empty name."""
        return tuple(self.task.labels) or ("",)

    def requests(self, count: dict[str, int]) -> Iterator[Request]:
        """The teacher's requests for `count` rows of each label.

        The j-th request of a label depends on nothing but the run file, the label and j: asking for more
        later leaves the earlier ones as they were. Each is made when the engine wants it.
        """
        for j in range(max(count.values())):
            for label in self.labels:
                if j < count.get(label, 0):
                    yield self._request(*self.templates[j % len(self.templates)], label, j)

    def first_round(self) -> dict[str, int]:
        """Requests per label of the first round: `requests_per_row` for every row of `rows`."""
        each = ceil(self.settings.rows * self.settings.requests_per_row / len(self.labels))
        return dict.fromkeys(self.labels, each)

    def next_round(self, requested: dict[str, int], rows: Counter[str]) -> dict[str, int] | None:
        """Requests per label, those made before among them, or None when nothing more is to be asked.

        `rows` counts the kept rows of each label. What is missing is asked for at each label's own keep rate.
        """
        room = int(self.settings.rows * self.settings.max_requests_per_row) - sum(requested.values())
        hopeless = not rows.total() and sum(requested.values()) >= HOPELESS
        if rows.total() >= self.settings.rows or room <= 0 or hopeless:
            return None
        target = ceil(self.settings.rows / len(requested))
        more: dict[str, int] = {}
        for label, n in requested.items():
            rate = max(rows[label] / n, 0.05)
            short = max(0, target - rows[label])
            more[label] = min(ceil(short / rate), room)
            room -= more[label]
        return {label: n + more[label] for label, n in requested.items()}

    def row(self, request: Request, completion: Completion) -> Row | Lost:
        """The row that a completion gives, or why it gives none."""
        output = next(use.output for use, _ in self.templates if use.path == request.origin.template)
        return row_of(request, completion, output, self.task, self.student)

    def _request(self, use: TemplateUse, template: Template, label: str, j: int) -> Request:
        draw = random.Random(digest("shots", self.random_seed, label, j))
        eligible = [seed for seed in self.seeds if seed.answer == label or self.task.free]
        shots: list[Example] = draw.sample(eligible, min(use.shots, len(eligible)))
        text = template.render(
            label=label,
            description=self.task.labels.get(label, ""),
            labels=self.task.labels,
            shots=[shot.shown for shot in shots],
            index=j,
        )
        sampling = use.sampling
        if use.output != "text":
            schema = _row_schema(self.task) if use.output == "json" else CONVERSATION
            sampling = sampling.model_copy(update={"json_schema": schema})
        return Request(
            model=self.teacher,
            prompt=text if use.form == "completion" else "",
            messages=(Message(role="user", content=text),) if use.form == "chat" else (),
            sampling=sampling,
            template_digest=template.digest,
            sample_index=j,
            origin=Origin(purpose="generate", template=use.path, label=label, seeds=tuple(seed.id for seed in shots)),
        )


def plan_rows(run: Run, teacher: str) -> Plan:
    """The plan of a run's rows. Raises UsageError naming every line of a user's own rows that is wrong."""
    return Plan(
        teacher,
        run.file.random_seed,
        run.task,
        run.file.augment,
        run.seeds,
        tuple((use, templates.load(run.root / use.path)) for use in run.file.augment.templates),
        run.prompts.student,
        own_rows(run),
    )


def _row_schema(task: TaskFile) -> dict[str, object]:
    """What the teacher must write: every field, and the answer too where the task has no labels to draw it from."""
    names = [*task.fields, *([answer_name(task)] if task.free else [])]
    return {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": names}
