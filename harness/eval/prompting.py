"""How a model is asked the task: a tuned one with its own prompt, an untuned one in one of several forms.

    completion  the untuned template, with worked examples, as a plain text that the model continues
    chat        the same text as the only user turn
    turns       what the template says before its examples as system message, the examples as earlier turns
    student     the very prompt a student is tuned on, the examples as earlier turns

Which of them does best depends on the model and the task: `harness.eval.prompt_search` tries them on the dev items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from harness.augment.rows import student_prompt
from harness.config.task import TaskFile, TaskPrompts
from harness.core.templates import Template
from harness.engines.protocols import Embedder, StudentEngine
from harness.errors import UsageError
from harness.records import Example, Form, Item, Message, Row, Way
from harness.suites.generate import Ending, Prompt, RenderedPrompt, context_ids
from harness.train.sizes import nested

MOST_SHOTS = 64  # rows that few-shot may show where there are no seeds
ANSWER_ROOM = 64  # tokens that a prompt leaves free at least: the longest item is found by characters

Fits = Callable[[Sequence[Example]], bool]
Lookup = Callable[[Sequence[str]], dict[str, tuple[Example, ...]]]


@dataclass(frozen=True)
class Shots:
    """The worked examples that an untuned model may be shown."""

    pool: tuple[Example, ...]  # few_shot draws from these: the seeds, or rows that augment kept
    most: int  # few_shot shows at most so many
    rows: tuple[Row, ...]  # retrieval looks these up: the rows of the largest student
    retrieved: int  # so many of them


def shots_from(
    seeds: tuple[Example, ...], kept: Sequence[Row], random_seed: int, rows: tuple[Row, ...], retrieved: int
) -> Shots:
    """What prompts may show: for few-shot the seeds, or without any a draw from `kept` rows, for retrieval `rows`."""
    drawn = () if seeds else nested(kept, min(MOST_SHOTS, len(kept)), random_seed)
    return Shots(seeds or tuple(row.example for row in drawn), len(seeds) or MOST_SHOTS, rows, retrieved)


@dataclass(frozen=True)
class PromptForms:
    """A task's prompts: the one a student is tuned on, and those for an untuned model in every form."""

    task: TaskFile
    student: Template
    template: Template  # of an untuned model
    preface: str  # what the untuned template says before its examples
    ending: Ending  # of an answer where the untuned template is continued as a plain text

    def tuned(self, item: Item) -> RenderedPrompt:
        """The prompt of a tuned student."""
        return student_prompt(self.task, self.student, item.question)

    def prompt(self, form: Form, question: Example, shots: Sequence[Example]) -> RenderedPrompt:
        """One question's prompt, `shots` worked out in it."""
        if form in ("completion", "chat"):
            system = self.task.system if form == "completion" else ""  # a chat has it as a turn of its own
            written = self.template.render(
                **question.input,
                turns=question.turns,
                labels=self.task.labels,
                shots=[shot.shown for shot in shots],
                system=system,
            ).rstrip(" ")
            if form == "completion":
                return written
            return (Message(role="system", content=self.task.system), Message(role="user", content=written))
        system_turn, *turns = student_prompt(self.task, self.student, question)
        if form == "turns" and self.preface:
            system_turn = Message(role="system", content=f"{system_turn.content}\n\n{self.preface}")
        examples: list[Message] = []
        for shot in shots:
            examples += student_prompt(self.task, self.student, shot)[1:]
            examples += [Message(role="assistant", content=shot.answer)]
        return (system_turn, *examples, *turns)


def prompt_forms(
    task: TaskFile, templates: TaskPrompts, single_lines: bool = True, *, guided: bool = False
) -> PromptForms:
    """A task's prompts. `single_lines`: every answer that a model could copy is one line.

    `guided`: JSON answers are written by the suite's schema.
    """
    preface, ending = _parts(templates.untuned, task)
    ending = replace(ending, one_line=single_lines, guided=guided)
    return PromptForms(task, templates.student, templates.untuned, preface, ending)


def one_line(answers: Iterable[str]) -> bool:
    """Whether every answer that a student or a prompt was given is a single line."""
    return all("\n" not in answer.strip() for answer in answers)


def _parts(template: Template, task: TaskFile) -> tuple[str, Ending]:
    """What a template says before its examples, and what stands between two of them, read off a rendered prompt.

    A template that shows no examples, or not as they are, has no such part: then all before the text is preface.
    """
    first_field = task.fields[0]
    texts = [f"example {first_field} number {n}" for n in ("one", "two", "three")]
    rest = {name: f"its {name}" for name in task.fields[1:]}
    answer = next(iter(task.labels), "its own answer")
    examples = [Example(fields={first_field: text, **rest}, answer=answer) for text in texts]
    question = examples[2].input
    shots = [example.shown for example in examples[:2]]
    rendered, without_shots = (
        template.render(**question, turns=[], labels=task.labels, shots=shown, system="") for shown in (shots, [])
    )
    first, second, _ = rendered.partition(texts[0])[2].partition(texts[1])
    between = first.rpartition(answer)[2] if second and answer in first else ""
    preface = without_shots.partition(texts[2])[0].removesuffix(between.lstrip()).strip()
    if not between:
        return preface, Ending()
    bare = between.lstrip()
    space = between[: len(between) - len(bare)]
    mark = "\n" if "\n" in space else space  # however many empty lines the model leaves
    return preface, Ending(after=between + texts[1], next_example=mark + bare.rstrip() if bare else between)


@dataclass(frozen=True)
class Asker:
    """What an untuned model is shown under one prompting, for all items of a suite."""

    prompts: PromptForms
    prompting: str
    items: Sequence[Item]
    engine: StudentEngine
    room: int  # tokens of the context that examples leave free for the answer
    pool: Sequence[Example]  # few_shot takes examples from these
    lookup: Lookup  # retrieval finds them by this

    def way(self, form: Form, number: int) -> Way:
        """A form with `number` examples, or with as many of them as fit the context for few_shot."""
        return Way(form=form, shots=len(self._few(form, number)) if self.prompting == "few_shot" else number)

    def prompt(self, way: Way) -> Prompt:
        """The prompt of an item."""
        form = way.form
        if self.prompting == "few_shot":
            few = self._few(form, way.shots)
            return lambda item: self.prompts.prompt(form, item.question, few)
        if self.prompting == "retrieval":
            near = self._near

            def retrieved(item: Item) -> RenderedPrompt:
                shots = nearest_that_fit(near[item.text], self._fits(form, item.question))
                return self.prompts.prompt(form, item.question, shots)

            return retrieved
        return lambda item: self.prompts.prompt(form, item.question, ())

    @cached_property
    def _near(self) -> dict[str, tuple[Example, ...]]:
        return self.lookup([item.text for item in self.items])

    def _few(self, form: Form, number: int) -> tuple[Example, ...]:
        longest = max(self.items, key=lambda item: len(item.text)).question
        return even_shots(self.pool, number, self._fits(form, longest), self.prompts.task.free)

    def _fits(self, form: Form, question: Example) -> Fits:
        room = self.engine.max_length - self.room

        def within(shots: Sequence[Example]) -> bool:
            if sum(len(shot.text) for shot in shots) > 20 * room:  # no tokenizer packs twenty characters a token
                return False
            return len(context_ids(self.engine, self.prompts.prompt(form, question, shots))) <= room

        return within


def asker_for(
    prompts: PromptForms,
    shots: Shots,
    prompting: str,
    items: Sequence[Item],
    engine: StudentEngine,
    embedder: Callable[[], Embedder],
    max_tokens: int = ANSWER_ROOM,
) -> Asker:
    """How an untuned model may be asked about some items and answer in `max_tokens`.

    Raises UsageError for retrieval without rows.
    """
    if prompting == "retrieval" and not shots.rows:
        raise UsageError("eval.prompting: retrieval needs rows to look up, and the run has no tuned student")
    lookup = nearest_rows(shots.rows, shots.retrieved, embedder)
    room = answer_room(items, engine, max_tokens)
    return Asker(prompts, prompting, items, engine, room, shots.pool, lookup)


def tuned_prompt(
    prompts: PromptForms, shots: Shots, prompting: str, items: Sequence[Item], engine: StudentEngine,
    embedder: Callable[[], Embedder], max_tokens: int = ANSWER_ROOM,
) -> Prompt:  # fmt: skip
    """How a tuned student is asked: with the prompt it was tuned on, for retrieval after the nearest rows as turns.

    Raises UsageError for retrieval without rows.
    """
    if prompting == "zero_shot":
        return prompts.tuned
    asker = asker_for(prompts, shots, prompting, items, engine, embedder, max_tokens)
    return asker.prompt(Way(form="student", shots=shots.retrieved))


def answer_room(items: Sequence[Item], engine: StudentEngine, max_tokens: int) -> int:
    """Tokens that a prompt leaves free, so that neither a written nor an accepted answer is cut by the examples."""
    accepted = (len(engine.text_ids(f"{answer}\n")) for item in items for answer in (*item.answers[:1], *item.choices))
    return max(ANSWER_ROOM, max_tokens, *accepted)


def even_shots(pool: Sequence[Example], number: int, fits: Fits, free: bool = False) -> tuple[Example, ...]:
    """At most `number` examples that fit, but one of every label: evenly over labels and with labels mixed.

    The first ones where answers are free.
    """
    by_label: dict[str, list[Example]] = {}
    for shot in pool:
        by_label.setdefault("" if free else shot.answer, []).append(shot)
    for each in range(max(map(len, by_label.values()), default=0), 0, -1):
        shots = tuple(examples[i] for i in range(each) for examples in by_label.values() if i < len(examples))
        if (each == 1 or len(shots) <= number) and fits(shots):
            return shots
    return ()


def nearest_rows(rows: Sequence[Row], k: int, embedder: Callable[[], Embedder]) -> Lookup:
    """A lookup of the `k` rows nearest in meaning to a text, the nearest last: right before the question.

    Cosine similarity of sentence embeddings, the retrieval baseline of Liu et al. 2022 (What makes good
    in-context examples for GPT-3?). Rows are embedded at the first call, texts once.
    """

    def lookup(texts: Sequence[str]) -> dict[str, tuple[Example, ...]]:
        engine = embedder()
        places = engine.embed([row.text for row in rows])
        likeness = engine.embed(texts) @ places.T
        order = (-likeness).argsort(axis=1, kind="stable")[:, :k]
        return {text: tuple(rows[j].example for j in reversed(near)) for text, near in zip(texts, order, strict=True)}

    return lookup


def nearest_that_fit(shots: Sequence[Example], fits: Fits) -> tuple[Example, ...]:
    """The shots without the farthest ones that leave no room."""
    fitting = tuple(shots)
    while fitting and not fits(fitting):
        fitting = fitting[1:]
    return fitting
