"""Examples that people wrote, seeds and rows they already have, in the formats that people have them in.

The columns of a file tell its format, and every line must have the same:

    the task's fields, label or answer     {"instruction": ..., "input": ..., "answer": ...}
    text, label or answer                  {"text": ..., "label": ...}
    question, answer                       {"question": ..., "answer": ...}
    messages (OpenAI)                      {"messages": [{"role": "user", "content": ...}, ...]}
    conversations (ShareGPT)               {"conversations": [{"from": "human", "value": ...}, ...]}
    instruction, input, output (Alpaca)    {"instruction": ..., "input": ..., "output": ...}
    prompt, completion (TRL)               {"prompt": ..., "completion": ...}, texts or lists of messages

`fields: {FIELD: COLUMN}` maps columns of any other name. The formats of other tools may have more columns, which are
left alone. A conversation ends with the assistant's turn: that is the answer, the user's turn before it is the input,
and what comes before that are earlier turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Discriminator, Tag, model_validator

from harness.core.json_file import as_text, check_values
from harness.core.record import Record
from harness.data.columns import HubItems, column_at, locate, title, written_as
from harness.data.lines import Text, check_label
from harness.errors import Mistakes, UsageError, nearest
from harness.records import Example, Message

SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
ANSWERS = ("answer", "label")  # our two names of what should be answered
QUESTION, TEXT = "question", "text"


class ExampleFile(Record):
    """A file or a hub dataset of examples, and what its columns are called."""

    path: Text | None = None  # a file of the project
    hub: Text | None = None  # or a dataset on the Hugging Face hub: owner/name
    config: str | None = None
    split: str = "train"
    revision: str | None = None  # commit or tag; without it the examples may change from day to day
    fields: dict[str, str] = {}  # a field of the task, or label, or answer -> column; dots lead into nested columns

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give either path, a file of the project, or hub, a dataset")
        return self

    @property
    def source(self) -> str | HubItems:
        """Where the examples are."""
        if self.hub is None:
            return str(self.path)
        return HubItems(hub=self.hub, config=self.config, split=self.split, revision=self.revision)


Examples = Annotated[  # a file, or where the examples are and what their columns are called
    Annotated[Text, Tag("file")] | Annotated[ExampleFile, Tag("mapping")], Discriminator(written_as)
]
AnySource = str | ExampleFile


@dataclass(frozen=True)
class Shape:
    """What the examples of a task look like."""

    fields: tuple[str, ...] = (TEXT,)
    labels: tuple[str, ...] = ()  # empty where answers are free
    optional: tuple[str, ...] = ()  # fields that may be empty

    @property
    def answer_name(self) -> str:
        """What the answer is called: a label where the task has labels."""
        return "label" if self.labels else "answer"

    def example(self, texts: Mapping[str, str], turns: Sequence[Message], answer: str, where: str) -> Example:
        """An example of texts by field, each stripped. Raises UsageError for one without words or a strange label."""
        fields = {name: texts.get(name, "").strip() for name in self.fields}
        empty = next((name for name, text in fields.items() if not text and name not in self.optional), None)
        if empty or not any(fields.values()):
            raise UsageError(f"{where}: {empty or ' and '.join(fields)}: it is empty")
        answer = answer.strip()
        if not answer:
            raise UsageError(f"{where}: {self.answer_name}: it is empty")
        if self.labels:
            check_label(where, answer, self.labels)
        return Example(fields=fields, turns=tuple(turns), answer=answer, label=answer if self.labels else None)


@dataclass(frozen=True)
class Read:
    """The examples of a file in order, and the format that they were read as."""

    examples: tuple[Example, ...]
    format: str


def path_of(file: AnySource) -> str:
    """What messages call a source of examples."""
    return title(_source_of(file))


def local_path(file: AnySource) -> str | None:
    """The path of a source that is a file of the project, or None for a hub dataset."""
    source = _source_of(file)
    return source if isinstance(source, str) else None


def _source_of(file: AnySource) -> str | HubItems:
    return file.source if isinstance(file, ExampleFile) else file


def read_examples(file: AnySource, root: Path, shape: Shape, place: str) -> Read:
    """The examples of a JSONL, JSON, CSV or Parquet file, or of a hub dataset.

    `place` says where the file is named, and as what. Raises UsageError naming every line that is wrong.
    """
    source = _source_of(file)
    mapping = file.fields if isinstance(file, ExampleFile) else {}
    _check_mapping(mapping, shape, place)
    written = f"{{path: {title(source)}, fields: {{FIELD: COLUMN}}}}"
    mistakes = Mistakes()
    examples: list[Example] = []
    chosen: Format | None = None
    for where, row in locate(source, root, place, mistakes):
        with mistakes.noted():
            columns = _mapped(row, mapping, where)
            check_values(columns, where)
            chosen = chosen or _format_of(columns, shape, where, written)
            examples.append(chosen.read(columns, shape, where))
    mistakes.check()
    return Read(tuple(examples), chosen.name if chosen else "nothing")


def read_seeds(file: AnySource, root: Path, shape: Shape, place: str) -> tuple[Example, ...]:
    """The seeds: at least one, and where the task has labels, one of each. Raises UsageError."""
    seeds = read_examples(file, root, shape, place).examples
    where = root / path_of(file)
    if not seeds:
        raise UsageError(
            f"{where}: there are no seeds in it; write at least one line{' per label' * bool(shape.labels)}"
        )
    bare = [label for label in shape.labels if label not in {seed.label for seed in seeds}]
    if bare:
        raise UsageError(
            f"{where}: no seed has the label {', '.join(map(repr, bare))}; every label of the task needs one"
        )
    return seeds


def _check_mapping(mapping: Mapping[str, str], shape: Shape, place: str) -> None:
    allowed = (*shape.fields, *ANSWERS, *((QUESTION,) if shape.fields == (TEXT,) else ()))
    strange = next((name for name in mapping if name not in allowed), None)
    if strange is not None:
        raise UsageError(
            f"{place}: fields: {strange!r} is no field of the task{nearest(strange, allowed)};"
            f" allowed: {', '.join(allowed)}"
        )


# --- formats ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Format:
    """One way that people write examples down."""

    name: str
    fits: Callable[[Iterable[str], Shape], bool]  # whether a line has these columns
    read: Callable[[Mapping[str, Any], Shape, str], Example]


def _format_of(columns: Mapping[str, Any], shape: Shape, where: str, mapping: str) -> Format:
    for form in FORMATS:
        if form.fits(columns, shape):
            return form
    names = [*shape.fields, shape.answer_name]
    missing = next((name for name in names if name not in columns), names[-1])
    raise UsageError(
        f"{where}: {missing}: there is no value{nearest(missing, [str(name) for name in columns])}; the columns are:"
        f" {', '.join(map(str, columns))}; known are: {' and '.join(names)}; messages; conversations; instruction and"
        f" output; prompt and completion; question and answer; or name a column: {mapping.replace('FIELD', missing)}"
    )


def example_of(columns: Mapping[str, Any], shape: Shape, where: str) -> Example:
    """The example in a row of any format. Raises UsageError naming where the row stands and what is wrong."""
    check_values(columns, where)
    return _format_of(columns, shape, where, "fields: {FIELD: COLUMN}").read(columns, shape, where)


def _mapped(row: Mapping[str, Any], mapping: Mapping[str, str], where: str) -> Mapping[str, Any]:
    """A row with its columns called as `mapping` says. Columns that it does not name are left out."""
    if not mapping:
        return row
    named = {name: column_at(row, column, f"{where}: {name}") for name, column in mapping.items()}
    return {name: row[name] for name in ANSWERS if name in row and not set(ANSWERS) & set(named)} | named


def _word(columns: Mapping[str, Any], name: str, where: str) -> str:
    value = columns.get(name)
    if value is None:
        return ""
    text = as_text(value)
    if not isinstance(text, str):
        raise UsageError(f"{where}: {name}: {value!r} is no text")
    return text


def _answer_of(columns: Mapping[str, Any], where: str) -> str:
    return next((word for name in ANSWERS if (word := _word(columns, name, where))), "")


def _only(columns: Iterable[str], fields: Sequence[str], shape: Shape, where: str) -> None:
    """Raises UsageError for a column beside the fields and the answer, which may have either of its names, not both."""
    allowed = (*fields, *((shape.answer_name,) if set(ANSWERS) <= set(columns) else ANSWERS))
    strange = next((name for name in columns if name not in allowed), None)
    if strange is not None:
        raise UsageError(
            f"{where}: {strange}: unknown column{nearest(strange, allowed)}; allowed: {', '.join(allowed)};"
            " or say which columns to read with fields: {FIELD: COLUMN}"
        )


def _of_task(columns: Mapping[str, Any], shape: Shape, where: str) -> Example:
    _only(columns, shape.fields, shape, where)
    texts = {name: _word(columns, name, where) for name in shape.fields}
    return shape.example(texts, (), _answer_of(columns, where), where)


def _of_text(columns: Mapping[str, Any], shape: Shape, where: str) -> Example:
    _only(columns, (TEXT, QUESTION), shape, where)
    text = _word(columns, TEXT, where) or _word(columns, QUESTION, where)
    return shape.example(_last_field(shape, text), (), _answer_of(columns, where), where)


def _last_field(shape: Shape, text: str) -> dict[str, str]:
    """A text that stands alone as the field that varies: `text`, `question`, or the last one of the task."""
    name = next((name for name in (TEXT, QUESTION, "instruction") if name in shape.fields), shape.fields[-1])
    return {name: text}


def _of_alpaca(columns: Mapping[str, Any], shape: Shape, where: str) -> Example:
    texts = {"instruction": _word(columns, "instruction", where), "input": _word(columns, "input", where)}
    if "instruction" not in shape.fields:
        texts = _last_field(shape, "\n\n".join(filter(None, texts.values())))
    elif "input" not in shape.fields and texts["input"]:
        texts = {"instruction": "\n\n".join(texts.values())}
    return shape.example(texts, (), _word(columns, "output", where), where)


def _of_trl(columns: Mapping[str, Any], shape: Shape, where: str) -> Example:
    prompt, completion = columns["prompt"], columns["completion"]
    if isinstance(prompt, str) and isinstance(completion, str):
        return shape.example(_last_field(shape, prompt), (), completion, where)
    turns = [
        *_turns(prompt, "role", "content", f"{where}: prompt"),
        *_turns(completion, "role", "content", f"{where}: completion"),
    ]
    return _of_turns(turns, shape, where)


def conversation(columns: Mapping[str, Any], shape: Shape, where: str) -> Example:
    """The example in `messages` as OpenAI writes them. Raises UsageError for turns that are none, or out of order."""
    return _of_turns(_turns(columns["messages"], "role", "content", f"{where}: messages"), shape, where)


def _of_sharegpt(columns: Mapping[str, Any], shape: Shape, where: str) -> Example:
    return _of_turns(_turns(columns["conversations"], "from", "value", f"{where}: conversations"), shape, where)


def _turns(value: Any, speaker: str, words: str, where: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise UsageError(f"{where}: a list of turns is wanted, such as [{{{speaker!r}: 'user', {words!r}: ...}}, ...]")
    turns: list[Message] = []
    for number, turn in enumerate(value, start=1):
        if not isinstance(turn, Mapping) or not isinstance(turn.get(words), str):
            raise UsageError(f"{where}: turn {number}: {turn!r} has no text {words!r}")
        role = SPEAKERS.get(str(turn.get(speaker)))
        if role is None:
            raise UsageError(
                f"{where}: turn {number}: {speaker}: {turn.get(speaker)!r}{nearest(str(turn.get(speaker)), SPEAKERS)};"
                f" allowed: {', '.join(SPEAKERS)}"
            )
        turns.append(Message.model_validate({"role": role, "content": turn[words].strip()}))
    return turns


def _of_turns(turns: Sequence[Message], shape: Shape, where: str) -> Example:
    """A conversation whose last turn is the answer. Raises UsageError for turns out of order."""
    roles = [turn.role for turn in turns]
    expected = ["user", "assistant"] * (len(roles) // 2)
    if roles[:1] == ["system"]:
        expected = ["system", *["user", "assistant"] * ((len(roles) - 1) // 2)]
    if roles != expected or len(roles) < 2:
        raise UsageError(
            f"{where}: its turns are {', '.join(roles)}; wanted: user and assistant in turn, the assistant last, and at"
            " most one system message before them"
        )
    return shape.example(_last_field(shape, turns[-2].content), turns[:-2], turns[-1].content, where)


def _has(*names: str) -> Callable[[Iterable[str], Shape], bool]:
    return lambda columns, shape: set(names) <= set(columns)


FORMATS = (  # of several that fit, the first is taken
    Format(
        "the task's own fields",
        lambda columns, shape: set(shape.fields) <= set(columns) and bool(set(ANSWERS) & set(columns)),
        _of_task,
    ),
    Format("messages (OpenAI)", _has("messages"), conversation),
    Format("conversations (ShareGPT)", _has("conversations"), _of_sharegpt),
    Format("instruction, input, output (Alpaca)", _has("instruction", "output"), _of_alpaca),
    Format("prompt, completion (TRL)", _has("prompt", "completion"), _of_trl),
    Format(
        "question or text, answer or label",
        lambda columns, shape: bool({TEXT, QUESTION} & set(columns)) and bool(set(ANSWERS) & set(columns)),
        _of_text,
    ),
)
