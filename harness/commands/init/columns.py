"""Which columns of a table are the input and which is the answer: by their names, else by what they hold."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from harness.commands.init.choices import Choices, choices_of, first_number, is_choice, lettered
from harness.commands.init.source import Table
from harness.config.task import GIVEN, WORDS
from harness.core.json_file import as_text
from harness.data.examples import Shape, example_of
from harness.errors import UsageError, nearest
from harness.records import Example

INPUTS = (
    "text", "question", "instruction", "prompt", "message", "query", "input", "sentence", "utterance", "review",
    "content", "request", "comment", "tweet", "post", "body", "article", "document", "ctx",
)  # fmt: skip
ANSWERS = (
    "answer", "label", "output", "response", "completion", "reply", "target", "category", "class", "intent",
    "sentiment", "topic", "summary", "translation", "answerkey",
)  # fmt: skip
PASSAGES = ("document", "context", "passage")  # what a question may be about
IDS = re.compile(r"^(_?id|idx|index|row|uuid|no|nr|unnamed: \d+|.*_id|)$")
SOME_ROWS = 200  # that show what a column holds
MOSTLY = 0.8  # share of the rows, from which on a column names choices: some may be wrong
CONVERSATIONS = ("messages", "conversations")


@dataclass(frozen=True)
class Columns:
    """How a row becomes an example."""

    fields: tuple[str, ...]  # of the task
    read: Callable[[dict[str, Any], str], Example]  # raises UsageError for a row without words
    why: str  # one line for people
    optional: tuple[str, ...] = ()
    labels: bool | None = None  # whether the answers are labels, where a person said so
    passage: str = ""  # the field that several questions may share
    conversation: bool = False
    choices: bool = False  # whether an answer is the letter of a choice that the text lists
    unused: tuple[str, ...] = ()


class Undecided(UsageError):
    """Neither names nor contents say which column is which: a person must."""


def choose_columns(table: Table, texts: Sequence[str], answer: str | None, label: str | None, place: str) -> Columns:
    """The columns of a table. `texts`, `answer`, `label` are those that a person named.

    Raises UsageError naming the columns there are, Undecided where neither names nor contents say which is which.
    """
    columns = table.columns
    for flag, name in (*(("--text", text) for text in texts), ("--answer", answer), ("--label", label)):
        if name is not None and name not in columns:
            raise UsageError(f"{flag} {name}: no such column{nearest(name, columns)}; {_listed(columns, place)}")
    if answer and label:
        raise UsageError(f"--answer {answer} and --label {label}: give one of them: an answer is free, a label chosen")
    if not (texts or answer or label):
        turns = next((name for name in CONVERSATIONS if name in columns), None)
        if turns:
            return _conversations(columns, turns)
        first = next(row for _, row in table.rows)
        if {"prompt", "completion"} <= first.keys() and not isinstance(first["prompt"], str):
            return _conversations(columns, "prompt")
    choices = choices_of(columns, [row for _, row in table.rows[:SOME_ROWS]])
    if choices and len(choices.columns) > 1 and not _name_choices(table, choices):
        choices = None  # columns that happen to be called A and B
    listed = choices.columns if choices else ()
    usable = [name for name in columns if name not in listed and _holds_text(table, name)]
    stated = answer or label
    inputs = tuple(texts) or _inputs(usable, stated, table, place)
    target = stated or _answer(usable, inputs, table, place)
    if target in inputs:
        raise UsageError(f"{place}: the column {target!r} cannot be input and answer at once")
    if choices and not set(listed) & {*inputs, target}:
        return _columns(table, inputs, target, True, choices)
    return _columns(table, inputs, target, labels=True if label else False if answer else None)


def _name_choices(table: Table, choices: Choices) -> bool:
    """Whether some column of the table says in nearly every row which choice is right."""
    some = [row for _, row in table.rows[:SOME_ROWS]]
    others = [name for name in table.columns if name not in choices.columns]
    named = (sum(is_choice(choices.of(row), row.get(name)) for row in some) for name in others)
    return max(named, default=0) >= MOSTLY * len(some)


def _listed(columns: Sequence[str], place: str) -> str:
    return f"the columns of {place} are: {', '.join(map(repr, columns))}"


def _holds_text(table: Table, name: str) -> bool:
    """Whether a column holds texts or numbers, and is no mere number of the row."""
    if IDS.match(str(name).strip().casefold()):
        return False
    values = [row[name] for _, row in table.rows[:SOME_ROWS] if row.get(name) is not None]
    return bool(values) and all(isinstance(value, str | int | float) for value in values)


def _inputs(usable: Sequence[str], target: str | None, table: Table, place: str) -> tuple[str, ...]:
    by_name = {name.strip().casefold(): name for name in usable if name != target}
    if "instruction" in by_name and "input" in by_name:
        return by_name["instruction"], by_name["input"]
    passage = next((by_name[name] for name in PASSAGES if name in by_name), None)
    if passage and "question" in by_name:
        return passage, by_name["question"]
    named = next((by_name[name] for name in INPUTS if name in by_name), None)
    if named:
        return (named,)
    others = [name for name in usable if name != target and not _is_answer(name)]
    if len(others) == 1:
        return (others[0],)
    if target is None and len(usable) == 2:  # the answer is the shorter one
        return (max(usable, key=lambda name: (_length(table, name), name)),)
    raise Undecided(_undecided("the input", "--text COLUMN (several make several fields)", table.columns, place))


def _answer(usable: Sequence[str], inputs: Sequence[str], table: Table, place: str) -> str:
    others = [name for name in usable if name not in inputs]
    named = [name for name in others if _is_answer(name)]
    if len(named) == 1 or (not named and len(others) == 1):
        return (named or others)[0]
    if len(table.columns) == 1:
        raise UsageError(
            f"{place}: it has one column, {table.columns[0]!r}: an example has an input and an answer. Texts without"
            " answers are documents: name a folder of them, or JSON lines with a column 'text' alone"
        )
    raise Undecided(_undecided("the answer", "--label COLUMN or --answer COLUMN", table.columns, place))


def _is_answer(column: str) -> bool:
    """Whether a column is called like an answer: label, best_answer."""
    name = column.strip().casefold()
    return name in ANSWERS or bool(set(re.split(r"[^a-z]+", name)) & set(ANSWERS))


def _undecided(what: str, remedy: str, columns: Sequence[str], place: str) -> str:
    return f"{place}: which column is {what}? Say it with {remedy}; {_listed(columns, place)}"


def _length(table: Table, name: str) -> float:
    return mean(len(str(row.get(name) or "")) for _, row in table.rows)


def _conversations(columns: Sequence[str], turns: str) -> Columns:
    shape = Shape(("text",))
    return Columns(
        ("text",),
        lambda row, where: example_of(row, shape, where),
        f"conversations, in {turns!r}: the last turn is the answer",
        conversation=True,
        unused=tuple(name for name in columns if name not in (turns, "completion")),
    )


def _columns(
    table: Table, inputs: Sequence[str], target: str, labels: bool | None, choices: Choices | None = None
) -> Columns:
    """With `choices`, these stand after the last input, and the answer is the letter of the right one."""
    single = len(inputs) == 1
    field_by_column = {column: "text" if single else _field(column, i) for i, column in enumerate(inputs)}
    if len(set(field_by_column.values())) < len(inputs):
        field_by_column = {column: f"field_{i + 1}" for i, column in enumerate(inputs)}
    optional = [] if single else [column for column in inputs if _sometimes_empty(table, column)]
    if len(optional) == len(inputs):
        optional = optional[1:]
    shape = Shape(tuple(field_by_column.values()), (), tuple(field_by_column[column] for column in optional))
    first = first_number([(choices.of(row), row.get(target)) for _, row in table.rows]) if choices else None

    def read(row: Mapping[str, Any], where: str) -> Example:
        texts = {field: _text(row.get(column), where, column) for column, field in field_by_column.items()}
        if choices is None:
            return shape.example(texts, (), _text(row.get(target), where, target), where)
        *_, last = texts
        if texts[last]:
            texts[last], answer = lettered(texts[last], choices.of(row), row.get(target), first, where)
        return shape.example(texts, (), answer if texts[last] else "", where)

    passage = "" if single or inputs[0].strip().casefold() not in PASSAGES else field_by_column[inputs[0]]
    listed = choices.columns if choices else ()
    unused = tuple(name for name in table.columns if name not in (*inputs, *listed, target))
    held = f" with the choices in {choices.title}; answer: the letter of" if choices else "; answer:"
    why = f"input: {' and '.join(map(repr, inputs))}{held} {target!r}"
    return Columns(shape.fields, read, why, shape.optional, labels, passage, choices=choices is not None, unused=unused)


def _sometimes_empty(table: Table, column: str) -> bool:
    return any(not str(row.get(column) or "").strip() for _, row in table.rows)


def _field(column: str, place: int) -> str:
    """A column's name as a template can write it."""
    name = re.sub(r"[^a-z0-9]+", "_", column.strip().casefold()).strip("_")
    if re.fullmatch(r"[a-z][a-z0-9_]*", name) and name not in (*GIVEN, *WORDS):
        return "document" if name in PASSAGES else name
    return f"field_{place + 1}"


def _text(value: Any, where: str, column: str) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):  # what other tools write for nothing
        return ""
    text = as_text(value)
    if not isinstance(text, str):
        raise UsageError(f"{where}: {column}: {value!r} is no text")
    return text.strip()
