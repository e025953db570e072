"""The records that travel between stages. Frozen; stored ones carry a format number.

    Example -> Request -> Completion -> Row -> Verdict -> Cell -> Score -> Scorecard

A digest is taken over an explicit list of identity fields and a format number, never over whatever a
record happens to hold, so that adding a field for people to read changes no key (golden tests pin them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from harness.core.completions import without_thinking
from harness.core.record import FORMAT, Record, canonical, digest, digest_of_json

THINKING_KEPT = 300  # characters


class Message(Record):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


class Example(Record):
    """One example of a task: a seed, a person's row, a parsed completion, the question of an item.

    `fields` has the task's own names, such as {"text": ...} or {"instruction": ..., "input": ...}.
    """

    fields: Annotated[dict[str, str], Field(min_length=1)]
    turns: tuple[Message, ...] = ()  # what was said before, where the example is a conversation
    answer: str = ""  # what the student should say; empty for a question that is only asked
    label: str | None = None  # only where the task has labels: then it is the answer

    @property
    def id(self) -> str:
        """16 hex digits that name this example."""
        return self._named_once(self._digest)

    def _digest(self) -> str:
        if self.turns or self.fields.keys() != {"text"}:
            return digest("example", FORMAT, self.fields, [[m.role, m.content] for m in self.turns], self.answer)[:16]
        return digest("seed", FORMAT, self.fields["text"], self.answer)[:16]

    @property
    def text(self) -> str:
        """All of the input as one text: earlier turns, then the fields in their order, empty ones left out."""
        if len(self.fields) == 1 and not self.turns:  # asked for often
            return next(iter(self.fields.values()))
        return "\n\n".join(filter(None, [*(m.content for m in self.turns), *self.fields.values()]))

    @property
    def input(self) -> dict[str, str]:
        """What a template is given of the input: its fields, and all of it as `text` where no field is called so."""
        return {"text": self.text, **self.fields}

    @property
    def shown(self) -> dict[str, Any]:
        """What a template sees of it as a shot: its fields, all of its input as `text`, its answer, also as `label`."""
        turns = [{"role": turn.role, "content": turn.content} for turn in self.turns]
        return {"label": self.answer, "answer": self.answer, "turns": turns, **self.input}


class Sampling(Record):
    """How an engine picks tokens."""

    temperature: Annotated[float, Field(ge=0, le=5)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_tokens: Annotated[int, Field(ge=1)] = 64  # tokens of one completion
    stop: tuple[str, ...] = ()  # the completion ends before the first of these
    choices: tuple[str, ...] = ()  # guided decoding: the completion is one of these
    json_schema: dict[str, Any] | None = None  # guided decoding: the completion is JSON of this form
    logprobs: Annotated[int, Field(ge=0, le=20)] = 0  # alternatives reported for the first token


class Origin(Record):
    """Where a request came from, for people and provenance; not part of its identity."""

    purpose: Literal["generate", "calibrate", "judge", "answer"]
    template: str = ""  # the path as the run file writes it
    label: str = ""
    step: str = ""  # of a chain
    seeds: tuple[str, ...] = ()  # ids of the seeds shown in the prompt
    row: str = ""  # id of the row (or seed, or item) the request is about


class Request(Record):
    """One thing asked of an engine: a plain prompt or a chat, never both."""

    model: str  # name@revision of the weights that answer; never an address or a key
    prompt: str = ""
    messages: tuple[Message, ...] = ()
    sampling: Sampling
    template_digest: str = ""
    sample_index: Annotated[int, Field(ge=0)] = 0  # tells apart repeated askings of the same prompt
    origin: Origin

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if bool(self.prompt) == bool(self.messages):
            raise ValueError("a request has either a prompt or messages")
        return self

    @property
    def key(self) -> str:
        """The call's name in the cache: 64 hex digits over what was asked, not why or where."""
        return self._named_once(lambda: digest_of_json(f'["request",{FORMAT},{canonical(self, ("origin",))}]'))


def in_form(form: Literal["completion", "chat"], text: str) -> dict[str, Any]:
    """What a request holds of a text: a plain prompt to continue, or the only turn of a chat."""
    return {"prompt": text} if form == "completion" else {"messages": (Message(role="user", content=text),)}


class Completion(Record):
    """What an engine returned for one request; a failure is a status, not an exception.

    Whatever builds one, `text` is the answer alone: thinking is taken out of it, and its beginning kept beside it.
    """

    request: str  # key of the request it answers
    text: str = ""
    finish_reason: Literal["stop", "length", "error"]
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_logprobs: dict[str, float] = {}  # token text -> raw log-probability at the first position (nats)
    error: str = ""  # why, when finish_reason is "error"
    thinking: str = ""  # the beginning of what a reasoning model thought, for people
    withheld: str = ""  # why an endpoint gave no text: a refusal in its own words, a content filter

    @model_validator(mode="before")
    @classmethod
    def _answer_alone(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(text := data.get("text"), str):
            return data
        if (answer := without_thinking(text)) == text:
            return data
        return {**data, "text": answer, "thinking": (data.get("thinking") or text)[:THINKING_KEPT]}

    @property
    def no_answer(self) -> str:
        """Why a call that did not fail has no answer, or ''."""
        if self.finish_reason == "error" or self.text.strip():
            return ""
        if self.thinking and not self.withheld:
            limit = ", up to the limit of tokens (sampling.max_tokens)" if self.finish_reason == "length" else ""
            return f"it is only thinking{limit}"
        return self.withheld or "it is empty"


class StepWritten(Record):
    """What one step of a chain wrote on the way to a row."""

    name: str
    request: str  # key of the request whose completion was taken
    template: str
    template_digest: str
    teacher: str
    text: str  # an object as JSON


class Provenance(Record):
    """Everything needed to say where a row came from."""

    source: Literal["teacher", "seed", "own", "replay", "document"]  # the last two: general rows, raw text
    format: str = ""  # of own and general rows: what their file was read as
    document: str = ""  # id of the piece of a document that it was written about
    attributes: dict[str, str] = {}  # what was drawn and computed for it
    steps: tuple[StepWritten, ...] = ()  # where several calls made it; the last one is also in the fields below
    request: str = ""
    template: str = ""
    template_digest: str = ""
    teacher: str = ""
    seeds: tuple[str, ...] = ()
    finish_reason: str = ""
    completion_tokens: int = 0


Split = Literal["dev", "test"]  # of items: what chooses, and what claims are made on
Loss = Literal["last", "all"]  # the assistant's turns that a student learns


class Row(Record):
    """One training example in `messages` form; the last message is the assistant's."""

    messages: tuple[Message, ...]
    example: Example
    provenance: Provenance
    loss: Loss = "last"

    @property
    def id(self) -> str:
        """16 hex digits over what the student sees and learns, so equal examples have one id."""
        learned = [] if self.loss == "last" else [self.loss]
        return self._named_once(
            lambda: digest("row", FORMAT, [[m.role, m.content] for m in self.messages], *learned)[:16]
        )

    @property
    def text(self) -> str:
        """All of the example's input as one text."""
        return self.example.text

    @property
    def answer(self) -> str:
        """What the student should say."""
        return self.example.answer


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Verdict:
    """A filter's answer about one row. Every row has several, so that it is a tenth of a record in memory."""

    row: str
    filter: str  # the filter's kind
    keep: bool
    reason: str = ""  # why it is dropped
    score: float | None = None  # in the filter's own unit
    against: str = ""  # what it was compared with: a twin's text, an item's id


class Cell(Record):
    """One point of the training grid: which student, which rows, how many, which random seed, tuned by which method."""

    student: str  # the model's name as the run file writes it
    data: str
    size: Annotated[int, Field(ge=0)]  # rows; 0 is the base
    random_seed: int
    method: str = ""  # by its name in the run file, where the run has several

    @property
    def name(self) -> str:
        """What people read, also a safe file name: student, data, size, method where there are several, random seed."""
        safe, method = self.student.strip("/").replace("/", "--"), f".{self.method}" if self.method else ""
        return f"{safe}.{self.data}.{self.size}{method}.s{self.random_seed}" if self.size else f"{safe}.base"

    @property
    def seedless_name(self) -> str:
        """What the names of its random seeds have in common."""
        return self.name.removesuffix(f".s{self.random_seed}")


class Item(Record):
    """One question of a suite: `choices` and `gold` where one is picked, `answers` where text is written."""

    text: str  # all that is asked, as one text
    fields: dict[str, str] = {}  # the same by the task's own fields; empty where the text is the only one
    turns: tuple[Message, ...] = ()  # what was said before, where it is a conversation
    choices: tuple[str, ...] = ()
    gold: int | None = None  # index into choices
    answers: tuple[str, ...] = ()  # every answer that is right, the reference first
    variants: tuple[str, ...] = ()  # the same question in other words
    tags: tuple[str, ...] = ()  # what results are broken down by
    group: str = ""  # items that share a passage have one group: they are not independent
    stratum: str = ""  # a fixed part of the suite, such as a subject: its share is not left to chance
    stated_split: Split | None = None  # as its file says; None: by digest

    @property
    def id(self) -> str:
        """16 hex digits over what is asked and what is right."""
        written = [list(self.answers)] if self.answers else []
        turns = [[m.role, m.content] for m in self.turns]
        parts = [self.fields, turns] if self.fields or turns else []
        return digest("item", FORMAT, self.text, list(self.choices), self.gold, *written, *parts)[:16]

    @property
    def question(self) -> Example:
        """What is asked, as an example without an answer."""
        return Example(fields=self.fields or {"text": self.text}, turns=self.turns)

    @property
    def split(self) -> Split:
        """Choices are made on dev, claims on test. Where its file does not say, a quarter is dev, by digest."""
        return self.stated_split or ("dev" if int(self.id[:8], 16) % 4 == 0 else "test")

    @property
    def facts(self) -> dict[str, Any]:
        """What its score says of it, by the score's field names."""
        return {
            "item": self.id,
            "split": self.split,
            "tags": self.tags,
            "group": self.group,
            "stratum": self.stratum,
        }


class Score(Record):
    """One item's result. `values` holds what could be computed; a missing one is absent, never 0."""

    item: str  # the item's id
    split: Split
    status: Literal["scored", "unparsed", "failed"]
    values: dict[str, float] = {}
    gold: str = ""
    # the choice with the highest log-likelihood; files of earlier versions call it "picked"
    top_choice: Annotated[str, Field(validation_alias=AliasChoices("top_choice", "picked"))] = ""
    output: str = ""  # the freely generated answer
    # the answer hit the limit of tokens; files of earlier versions call it "cut"
    truncated: Annotated[bool, Field(validation_alias=AliasChoices("truncated", "cut"))] = False
    error: str = ""
    tags: tuple[str, ...] = ()  # these three are the item's
    group: str = ""
    stratum: str = ""
    prompt_tokens: int = 0  # what the answer cost
    answer_tokens: int = 0

    @classmethod
    def failed(cls, error: str, **fields: Any) -> Self:
        """The score of an item that could not be asked or measured, and why. `fields` are its other fields."""
        return cls(status="failed", error=error, **fields)

    @classmethod
    def scored(cls, values: Mapping[str, float], *, read: bool = True, **fields: Any) -> Self:
        """The score of an answer. `read` is false for one that cannot be read, whose values are those of a miss."""
        return cls(status="scored" if read else "unparsed", values=dict(values), **fields)

    def with_values(self, values: Mapping[str, float]) -> Self:
        """The same score with more values."""
        return type(self)(**(dict(self) | {"values": self.values | dict(values)}))


Form = Literal["completion", "chat", "turns", "student"]
FORMS: dict[Form, str] = {  # how an untuned model may be asked; of equals the first is taken
    "completion": "a completion",  # the untuned template as a plain text that the model continues
    "chat": "a chat",  # the untuned template as the only user turn
    "turns": "a chat with examples as turns",  # what stands before its examples as system message, examples as turns
    "student": "a chat in the student's own prompt",  # the very prompt a student is tuned on, examples as turns
}


class Way(Record):
    """One way to ask an untuned model: a form, and how many examples the prompt shows."""

    form: Form
    shots: Annotated[int, Field(ge=0)] = 0

    @property
    def words(self) -> str:
        """What people read."""
        examples = f", {self.shots} example{'s' if self.shots > 1 else ''}" if self.shots else ""
        return f"{FORMS[self.form]}{examples}"


class Trial(Record):
    """What one way to ask was worth on the dev items."""

    way: Way
    items: int | None = None  # of the dev items so many, the first ones; None in older files: all of them
    value: float | None  # the best of the choice's metrics; None where no item has one
    gold_nll: float | None = None  # of the accepted answers, in nats: decides between equal values
    failed: int = 0  # dev items that could not be asked this way


class Choice(Record):
    """How an untuned model was asked, and what else was tried on the dev items before the others were scored."""

    way: Way
    metrics: tuple[str, ...] = ()  # what was compared: the best of these counts
    items: int = 0  # dev items
    tried: tuple[Trial, ...] = ()  # in the order of trial; empty where there was nothing to choose

    @property
    def sentence(self) -> str:
        """The choice in words."""
        if len(self.tried) < 2:
            return f"asked as {self.way.words}"
        values = "; ".join(f"{trial.way.words} {_decimals(trial, self.items)}" for trial in self.tried)
        by = " or ".join(self.metrics)
        return f"asked as {self.way.words}: chosen on {self.items} dev items by {by} among: {values}"


def _decimals(trial: Trial, items: int) -> str:
    """A way's value, and on how many items it was tried where that is not all."""
    value = f"{trial.value:.3f}" if trial.value is not None else "without a value"
    fewer = f" on {trial.items}" if trial.items not in (None, items) else ""
    return value + fewer + (f" ({trial.failed} failed)" if trial.failed else "")


def scores_digest(scores: Sequence[Score]) -> str:
    """16 hex digits over what was scored, for a card to know its own scores by."""
    return digest("scores", FORMAT, [[s.item, s.split, s.status, s.values, s.output] for s in scores])[:16]


class Scorecard(Record):
    """A suite's result for one student under one prompting; refuses to exist unless its counts add up."""

    format: int = FORMAT
    key: str  # names the scores it sums up: digest of student, suite, prompting and engine
    suite: str
    suite_digest: str
    student: str  # Cell.name; for a reference a cell whose student is the reference's name
    cell: Cell | None = None  # the same, in fields
    student_key: str
    prompting: str
    items: int
    scored: int
    unparsed: int
    failed: int
    truncated: Annotated[int, Field(validation_alias=AliasChoices("truncated", "cut"))] = 0
    metrics: dict[str, float]  # over test items; rates divide by all of them
    scores: str = ""  # scores_digest of them; empty in cards of tests
    chance: float | None = None  # what guessing gets, where items are choices
    notes: tuple[str, ...] = ()  # what a reader must know of how it was asked
    choice: Choice | None = None  # how an untuned model was asked the task, and what else was tried
    warning: str = ""  # most answers are empty or cannot be read, and the likely cause
    seconds: float = 0.0  # of the model's work, over all commands that shared it
    prompt_tokens: int = 0
    answer_tokens: int = 0

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.scored + self.unparsed + self.failed != self.items:
            raise ValueError(
                f"{self.suite}: {self.scored} scored + {self.unparsed} unparsed + {self.failed} failed"
                f" is not {self.items} items"
            )
        return self

    @property
    def complete(self) -> bool:
        """Whether every item was really asked and answered."""
        return self.failed == 0

    @property
    def asked(self) -> tuple[str, ...]:
        """How its items were asked: two cards that differ here answered different questions."""
        return self.notes if self.choice is None else (*self.notes, f"asked as {self.choice.way.words}")


class Pair(Record):
    """A context and a continuation whose log-likelihood is wanted, as token ids."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


class Loglikelihood(Record):
    """Sum of log-probabilities of a continuation (nats), and whether greedy decoding would have written it."""

    logprob: float
    tokens: int
    greedy: bool
