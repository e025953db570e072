"""How a model is asked the task: a tuned one with its own prompt, an untuned one in one of several forms.

    completion  the untuned template, with worked examples, as a plain text that the model continues
    chat        the same text as the only user turn
    turns       what the template says before its examples as system message, the examples as earlier turns
    student     the very prompt a student is tuned on, the examples as earlier turns

Which of them does best depends on the model and the task: `harness.eval.prompt_search` tries them on the dev items.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from harness.augment.rows import student_prompt
from harness.config.run import Run, TaskFile
from harness.core.templates import Template
from harness.engines.protocols import Embedder, StudentEngine
from harness.errors import UsageError
from harness.eval.candidates import Cast, Shot, Subject, shot_pool
from harness.records import Form, Item, Message, Row, Way
from harness.suites.generate import Asked, Ending, Prompt, context_ids

ANSWER_ROOM = 64  # tokens that a prompt leaves free at least: the longest item is found by characters

Fits = Callable[[Sequence[Shot]], bool]
Lookup = Callable[[Sequence[str]], dict[str, tuple[Row, ...]]]


def tuned_prompt(run: Run) -> Prompt:
    """The prompt of a tuned student."""
    template = run.task.student_template(run.root)
    return lambda text: student_prompt(run.task, template, text)


@dataclass(frozen=True)
class Untuned:
    """A task's prompts for a model that was not tuned on it, in every form."""

    task: TaskFile
    student: Template
    template: Template
    preface: str  # what the template says before its examples
    ending: Ending  # of an answer where the template is continued as a plain text

    def prompt(self, form: Form, text: str, shots: Sequence[Shot]) -> Asked:
        """One item's prompt, `shots` worked out in it."""
        if form in ("completion", "chat"):
            said = self.task.system if form == "completion" else ""  # a chat has it as a turn of its own
            examples = [{"text": shot.text, "label": shot.label} for shot in shots]
            labels = self.task.labels
            written = self.template.render(text=text, labels=labels, shots=examples, system=said).rstrip(" ")
            if form == "completion":
                return written
            return (Message(role="system", content=self.task.system), Message(role="user", content=written))
        system, *_, asked = student_prompt(self.task, self.student, text)
        if form == "turns" and self.preface:
            system = Message(role="system", content=f"{system.content}\n\n{self.preface}")
        turns = []
        for shot in shots:
            turns += [student_prompt(self.task, self.student, shot.text)[-1]]
            turns += [Message(role="assistant", content=shot.label)]
        return (system, *turns, asked)


def untuned(task: TaskFile, root: Path, single_lines: bool = True) -> Untuned:
    """A task's untuned prompts. `single_lines`: every answer that a model could copy is one line."""
    template = task.untuned_template(root)
    preface, ending = _parts(template, task)
    return Untuned(task, task.student_template(root), template, preface, replace(ending, one_line=single_lines))


def one_line(run: Run, rows: Sequence[Row]) -> bool:
    """Whether every answer that a student or a prompt was given is a single line."""
    examples: tuple[Shot, ...] = (*run.seeds, *rows)
    return all("\n" not in example.label.strip() for example in examples)


def _parts(template: Template, task: TaskFile) -> tuple[str, Ending]:
    """What a template says before its examples, and what stands between two of them, read off a rendered prompt.

    A template that shows no examples, or not as they are, has no such part: then all before the text is preface.
    """
    texts = [f"example text number {n}" for n in ("one", "two", "three")]
    answer = next(iter(task.labels), "its own answer")
    shots = [{"text": text, "label": answer} for text in texts[:2]]
    shown, alone = (
        template.render(text=texts[2], labels=task.labels, shots=examples, system="") for examples in (shots, [])
    )
    first, found, _ = shown.partition(texts[0])[2].partition(texts[1])
    between = first.rpartition(answer)[2] if found and answer in first else ""
    preface = alone.partition(texts[2])[0].removesuffix(between.lstrip()).strip()
    if not between:
        return preface, Ending()
    bare = between.lstrip()
    space = between[: len(between) - len(bare)]
    mark = "\n" if "\n" in space else space  # however many empty lines the model leaves
    return preface, Ending(after=between + texts[1], next_example=mark + bare.rstrip() if bare else between)


@dataclass(frozen=True)
class Asker:
    """What an untuned model is shown under one prompting, for all items of a suite."""

    prompts: Untuned
    prompting: str
    items: Sequence[Item]
    engine: StudentEngine
    room: int  # tokens of the context that examples leave free for the answer
    pool: Sequence[Shot]  # few_shot takes examples from these
    lookup: Lookup  # retrieval finds them by this

    def way(self, form: Form, number: int) -> Way:
        """`number` examples in a form, or as many as fit; none for zero_shot, what is found for retrieval."""
        return Way(form=form, shots=len(self._few(form, number)) if self.prompting == "few_shot" else number)

    def prompt(self, way: Way) -> Prompt:
        """The prompt of an item's text."""
        form = way.form
        if self.prompting == "few_shot":
            few = self._few(form, way.shots)
            return lambda text: self.prompts.prompt(form, text, few)
        if self.prompting == "retrieval":
            near = self._near
            return lambda text: self.prompts.prompt(form, text, nearest_that_fit(near[text], self._fits(form, text)))
        return lambda text: self.prompts.prompt(form, text, ())

    @cached_property
    def _near(self) -> dict[str, tuple[Row, ...]]:
        return self.lookup([item.text for item in self.items])

    def _few(self, form: Form, number: int) -> tuple[Shot, ...]:
        longest = max((item.text for item in self.items), key=len)
        return even_shots(self.pool, number, self._fits(form, longest), self.prompts.task.free)

    def _fits(self, form: Form, text: str) -> Fits:
        room = self.engine.max_length - self.room

        def within(shots: Sequence[Shot]) -> bool:
            if sum(len(shot.text) for shot in shots) > 20 * room:  # no tokenizer packs twenty characters a token
                return False
            return len(context_ids(self.engine, self.prompts.prompt(form, text, shots))) <= room

        return within


def asker_for(
    run: Run,
    cast: Cast,
    subject: Subject,
    items: Sequence[Item],
    engine: StudentEngine,
    embedder: Callable[[], Embedder],
    max_tokens: int = ANSWER_ROOM,
) -> Asker:
    """How an untuned model may be asked about some items and answer in `max_tokens`.

    Raises UsageError for retrieval without rows.
    """
    rows = cast.largest
    if subject.prompting == "retrieval" and not rows:
        raise UsageError(f"{subject.title}: retrieval needs rows to look up, and the run has no tuned student")
    lookup = nearest_rows(rows, run.file.eval.retrieved, embedder)
    shown = untuned(run.task, run.root, one_line(run, rows))
    pool = shot_pool(run) if subject.prompting == "few_shot" else ()
    return Asker(shown, subject.prompting, items, engine, answer_room(items, engine, max_tokens), pool, lookup)


def answer_room(items: Sequence[Item], engine: StudentEngine, max_tokens: int) -> int:
    """Tokens that a prompt leaves free, so that neither a written nor an accepted answer is cut by the examples."""
    accepted = (len(engine.text_ids(f"{answer}\n")) for item in items for answer in (*item.answers[:1], *item.choices))
    return max(ANSWER_ROOM, max_tokens, *accepted)


def even_shots(pool: Sequence[Shot], number: int, fits: Fits, free: bool = False) -> tuple[Shot, ...]:
    """At most `number` examples that fit, but one of every label: evenly over labels and with labels mixed.

    The first ones where answers are free.
    """
    by_label: dict[str, list[Shot]] = {}
    for shot in pool:
        by_label.setdefault("" if free else shot.label, []).append(shot)
    for each in range(max(map(len, by_label.values()), default=0), 0, -1):
        shots = tuple(own[i] for i in range(each) for own in by_label.values() if i < len(own))
        if (each == 1 or len(shots) <= number) and fits(shots):
            return shots
    return ()


def nearest_rows(rows: Sequence[Row], k: int, embedder: Callable[[], Embedder]) -> Lookup:
    """A lookup of the `k` rows nearest in meaning to a text, the nearest last: right before the question.

    Cosine similarity of sentence embeddings; the retrieval baseline of Liu et al. 2022 (What makes good
    in-context examples for GPT-3?). Rows are embedded at the first call, texts once.
    """

    def lookup(texts: Sequence[str]) -> dict[str, tuple[Row, ...]]:
        engine = embedder()
        places = engine.embed([row.text for row in rows])
        likeness = engine.embed(texts) @ places.T
        order = (-likeness).argsort(axis=1, kind="stable")[:, :k]
        return {text: tuple(rows[j] for j in reversed(near)) for text, near in zip(texts, order, strict=True)}

    return lookup


def nearest_that_fit(shots: Sequence[Row], fits: Fits) -> tuple[Row, ...]:
    """The shots without the farthest ones that leave no room."""
    kept = tuple(shots)
    while kept and not fits(kept):
        kept = kept[1:]
    return kept
