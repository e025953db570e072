"""What augment will ask: a plan that the dry run prints and the stage carries out."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from math import ceil
from pathlib import Path
from typing import Any

from harness.augment.chain import Chain, Place, PlannedStep, go_on, pick_one, read_step, row_of
from harness.augment.funnel import Counts
from harness.augment.quotas import (
    LOWEST_RATE,
    Demand,
    Weights,
    allot,
    draw_weights,
    label_targets,
    most_to_begin,
    rows_to_begin,
)
from harness.augment.rows import Lost, own_rows
from harness.config.attributes import computed, draw_attributes
from harness.config.quotas import LABEL, Quota
from harness.config.run import Augment, Run
from harness.config.steps import Step
from harness.config.task import TaskFile
from harness.core import templates
from harness.core.record import digest
from harness.core.templates import Template
from harness.data.documents import Piece, read_documents
from harness.filters import Context
from harness.models.teachers import Teachers
from harness.records import Completion, Example, Origin, Request, Row, in_form

HOPELESS = 64  # requests without a single row after which no further round is asked
ASKED_AGAIN = 10_000_000  # between the sample indices of two completions that are asked for in the same words

Shot = tuple[Example, dict[str, Any]]  # an example, and what a template is shown of it

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
class Round:
    """What a round begins."""

    count: dict[str, int]  # rows of each label, those of earlier rounds among them
    weights: Weights  # of attributes whose values are ordered, for the rows that are new in it


@dataclass(frozen=True)
class Plan:
    """A run's own rows, or the chains of requests that make its rows, in the order that decides everything after."""

    teachers: Teachers
    random_seed: int
    task: TaskFile
    settings: Augment
    seeds: tuple[Example, ...]
    shots: tuple[Example, ...]  # shown in place of the seeds, where a label has any
    chains: tuple[tuple[PlannedStep, ...], ...]  # taken in turn; each makes a row in one call or in several
    computed: dict[str, Template]  # of attributes
    documents: tuple[Piece, ...]
    student: Template  # of a student's prompt
    own: tuple[Row, ...]  # that a user has
    pool: tuple[Row, ...] = ()  # rows kept so far, where later rows may be shown them
    weights: Weights = field(default_factory=dict)  # of attributes in this round, in place of their own

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that rows are asked for in turn. A task without labels has one, the empty name."""
        return tuple(self.task.labels) or ("",)

    def places(self, count: dict[str, int]) -> Iterator[Place]:
        """The rows to be made when `count` of each label are: a label, and a number from 0 on.

        The j-th row of a label depends on nothing but the run file, the label, j, and the pool and the weights of the
        round that begins it: asking for more later leaves the earlier ones as they were.
        """
        for j in range(max(count.values())):
            for label in self.labels:
                if j < count.get(label, 0):
                    yield label, j

    @property
    def to_write(self) -> int:
        """Rows of `rows` that nobody has."""
        return max(self.settings.rows - len(self.own), 0)

    @property
    def most(self) -> int:
        """Rows that may be begun in all rounds."""
        return int(self.settings.rows * self.settings.max_requests_per_row)

    @property
    def label_quota(self) -> Quota:
        """Rows that are ordered of labels."""
        return self.settings.quotas.get(LABEL, {})

    def first_round(self) -> dict[str, int]:
        """Rows per label that the first round begins: `requests_per_row` for every row of `rows` that nobody has.

        With a pool a round is as long as the pool stands still.
        """
        begin, shares = self._opening()
        begin = min(begin, self.settings.pool_every or begin)
        return {label: -(-begin * share // sum(shares.values())) for label, share in shares.items()}

    def _opening(self) -> tuple[int, dict[str, int]]:
        """(Rows that the first round begins without a pool, the share of each label). Quotas may take more rows."""
        shares, missing = label_targets(self.labels, self.settings.rows, self.label_quota), self.to_write
        if self.label_quota:
            own = Counter(row.answer for row in self.own)
            lacking = {label: max(target - own[label], 0) for label, target in shares.items()}
            shares, missing = lacking if any(lacking.values()) else shares, max(missing, sum(lacking.values()))
        ordered = min(most_to_begin(self._demand({}, 1 / self.settings.requests_per_row, 0)), self.most)
        return max(ceil(missing * self.settings.requests_per_row), ordered), shares

    def _demand(self, seen: Counts, rate: float, begun: int) -> Demand:
        return rows_to_begin(self.settings.attributes, self.settings.quotas, seen, rate, begun)

    def _weights(self, demand: Demand, begin: int) -> Weights:
        return draw_weights(self.settings.attributes, self.settings.quotas, demand, self.to_write, begin)

    def first_weights(self) -> Weights:
        """How the first round draws attributes whose values are ordered."""
        return self._weights(self._demand({}, 1 / self.settings.requests_per_row, 0), self._opening()[0])

    def next_round(
        self, requested: dict[str, int], rows: Counter[str], own: Counter[str], seen: Counts
    ) -> Round | None:
        """The next round, or None when nothing more is to be asked.

        `requested` counts the rows of each label that are begun, `rows` those kept, `own` those among them that no
        teacher wrote. `seen` counts rows by the values of attributes. What is missing is asked for at each label's,
        and each ordered value's, own keep rate.
        """
        begun = sum(requested.values())
        room, enough = self.most - begun, rows.total() >= self.settings.rows
        hopeless = not rows.total() and begun >= HOPELESS
        targets = label_targets(list(requested), self.settings.rows, self.label_quota)
        rate = max((rows.total() - own.total()) / max(begun, 1), LOWEST_RATE)
        demand = self._demand(seen, rate, begun)
        needed: dict[str, int] = {}
        for label, n in requested.items():
            rate_of_label = max((rows[label] - own[label]) / max(n, 1), LOWEST_RATE)
            counts = not enough or label in self.label_quota
            needed[label] = ceil(max(0, targets[label] - rows[label]) / rate_of_label) if counts else 0
        beyond = max(most_to_begin(demand) - sum(needed.values()), 0)
        if room <= 0 or hopeless or not (any(needed.values()) or beyond):
            return None
        needed = {label: n - (-beyond * targets[label] // sum(targets.values())) for label, n in needed.items()}
        weights = self._weights(demand, min(sum(needed.values()), room))
        room = min(room, self.settings.pool_every or room)
        more = allot(needed, room, cheapest_first=bool(self.settings.quotas))
        return Round({label: n + more[label] for label, n in requested.items()}, weights)

    def in_round(self, next_round: Round, rows: tuple[Row, ...]) -> Plan:
        """The same plan for the next round, whose rows may be shown these."""
        return replace(self, weights=next_round.weights, pool=rows if self.settings.pool_every else ())

    def prepared(self, context: Context) -> Plan:
        """The same plan with the filters and the ways to pick of its steps made ready."""
        chains = tuple(tuple(planned.prepared(context) for planned in steps) for steps in self.chains)
        return replace(self, chains=chains)

    def begin(self, place: Place) -> Chain:
        """A row in the making, of which nothing is written yet."""
        label, j = place
        attributes: dict[str, str | int] = {}
        if self.settings.attributes:
            draw = random.Random(digest("attributes", self.random_seed, label, j))
            attributes = draw_attributes(self.settings.attributes, self.computed, draw, self.weights)
        document = None
        if self.documents:  # all of them in turn, in an order of the run's own
            turn, at = divmod(j * len(self.labels) + self.labels.index(label), len(self.documents))
            document = self.documents[_order(self.random_seed, turn, len(self.documents))[at]]
        return Chain(place, self.chains[j % len(self.chains)], attributes, document)

    def requests(self, chain: Chain) -> tuple[Request, ...]:
        """What is asked next: the completions of a step, or what its way to pick asks about them."""
        planned = chain.step
        variables = self._variables(chain)
        if chain.candidates:
            return planned.picker.requests(chain.texts, variables) if planned.picker else ()
        shots = self._shots(planned.step, *chain.place)
        text = planned.template.render_plain({**variables, "shots": [shown for _, shown in shots]})
        first = self._request(chain, text, tuple(shot.id for shot, _ in shots))
        more = (
            first.model_copy(update={"sample_index": first.sample_index + ASKED_AGAIN * 16 * sample})
            for sample in range(1, planned.step.samples)
        )
        return (first, *more)

    def take(self, chain: Chain, requests: Sequence[Request], answers: Sequence[Completion]) -> Chain | Row | Lost:
        """The chain after the answers to what it asked: further on its way, at its end as a row, or lost."""
        after = self._take(chain, requests, answers)
        return chain.lost(after) if isinstance(after, Lost) else after

    def _take(self, chain: Chain, requests: Sequence[Request], answers: Sequence[Completion]) -> Chain | Row | Lost:
        if not chain.candidates:
            read = read_step(chain, requests, answers, self.task, self.settings.row)
            if isinstance(read, Lost):
                return chain.again(read)
            chain, answers = read, ()
            if asks_judge(chain.step.step):
                return chain
        candidate = pick_one(chain, self._variables, answers)
        if isinstance(candidate, Lost):
            return chain.again(candidate)
        written = go_on(chain, candidate)
        if isinstance(written, Lost) or not written.complete:
            return written
        return row_of(written, candidate, self.task, self.student, self.settings.row)

    def _variables(self, chain: Chain) -> dict[str, Any]:
        """What templates are given of a row in the making, as plain data."""
        label, j = chain.place
        return {
            "label": label,
            "description": self.task.labels.get(label, ""),
            "labels": self._labels_shown,
            "index": j,
            **templates.plain(chain.variables),
        }

    @cached_property
    def _labels_shown(self) -> Any:
        return templates.plain(self.task.labels)

    @cached_property
    def _examples(self) -> dict[str, list[Shot]]:
        """What prompts may show of each label: its shots, or its seeds where it has none."""
        return {label: self._of(label, self.shots) or self._of(label, self.seeds) for label in self.labels}

    @cached_property
    def _pooled(self) -> dict[str, list[Shot]]:
        """What prompts may show of the pool, by label."""
        return {label: self._of(label, [row.example for row in self.pool]) for label in self.labels}

    def _of(self, label: str, examples: Sequence[Example]) -> list[Shot]:
        """The examples of a label, each with what a template is shown of it."""
        chosen = (example for example in examples if example.answer == label or self.task.free)
        return [(example, templates.plain(example.shown)) for example in chosen]

    def _shots(self, step: Step, label: str, j: int) -> list[Shot]:
        if not (step.shots or step.pool_shots):
            return []
        draw = random.Random(digest("shots", self.random_seed, label, j))
        eligible = self._examples[label]
        shots = draw.sample(eligible, min(step.shots, len(eligible)))
        if step.pool_shots and self.pool:
            pool = self._pooled[label]
            shots += draw.sample(pool, min(step.pool_shots, len(pool)))
        return shots

    def _teacher(self, step: Step, label: str, j: int) -> str:
        """Who writes a step of a row. Steps with the same weights have the same teacher in a row."""
        if isinstance(step.teacher, str):
            return step.teacher
        names, weights = list(step.teacher), list(step.teacher.values())
        return random.Random(digest("teacher", self.random_seed, label, j)).choices(names, weights)[0]

    def _request(self, chain: Chain, text: str, shown: tuple[str, ...]) -> Request:
        """The first of the equal requests of a step, whose prompt shows the examples with these ids."""
        step, template = chain.step.step, chain.step.template
        label, j = chain.place
        sampling = step.sampling
        if step.output != "text" and sampling.json_schema is None:
            schema = _row_schema(self.task) if step.output == "json" else CONVERSATION
            sampling = sampling.model_copy(update={"json_schema": schema})
        return Request(
            model=self.teachers.model(self._teacher(step, label, j)),
            **in_form(step.form, text),
            sampling=sampling,
            template_digest=template.digest,
            sample_index=j + ASKED_AGAIN * chain.attempt,
            origin=Origin(
                purpose="generate",
                template=step.path,
                label=label,
                step=step.name or "",
                seeds=shown,
            ),
        )


def asks_judge(step: Step) -> bool:
    """Whether the step's way to pick asks the teacher about each completion."""
    return step.pick is not None and bool(step.pick.needs.teachers)


@cache
def _order(random_seed: int, turn: int, count: int) -> list[int]:
    """The order in which documents are taken the `turn`-th time."""
    return random.Random(digest("documents", random_seed, turn)).sample(range(count), count)


def planned_chains(augment: Augment, root: Path) -> tuple[tuple[PlannedStep, ...], ...]:
    """The chains of a run: its steps as one, or each of its templates as one of a single step."""
    alternatives = (augment.steps,) if augment.steps else tuple((template,) for template in augment.templates)
    return tuple(tuple(PlannedStep(step, templates.load(root / step.path)) for step in steps) for steps in alternatives)


def plan_rows(run: Run, teachers: Teachers, say: Callable[[str], None] = lambda text: None) -> Plan:
    """The plan of a run's rows. `say` hears of documents that are left out.

    Raises UsageError naming every line of a user's own rows that is wrong.
    """
    augment, place = run.file.augment, f"runs/{run.name}.yaml"
    plan = Plan(
        teachers,
        run.file.random_seed,
        run.task,
        augment,
        run.seeds,
        run.shots,
        planned_chains(augment, run.root),
        computed(augment.attributes, f"{place}: augment"),
        read_documents(augment.documents, run.root, f"{place}: augment.documents", say) if augment.documents else (),
        run.prompts.student,
        own_rows(run.task, run.prompts.student, augment.rows_file, run.root, place),
    )
    return replace(plan, weights=plan.first_weights())


def _row_schema(task: TaskFile) -> dict[str, object]:
    """What the teacher must write: every field, and the answer too where the task has no labels to draw it from."""
    names = [*task.fields, *(["answer"] if task.free else [])]
    return {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": names}
