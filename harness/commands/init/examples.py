"""Rows become examples: what cannot be used is left out and counted, equal ones are one, labels are told apart."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import isnan
from typing import Any

from harness.commands.init.columns import Columns
from harness.commands.init.source import Table
from harness.core.text import normalise
from harness.errors import UsageError
from harness.records import Example

MOST_LABELS = 100
LABEL_ROWS = 4  # rows of a label on average, below which answers are free
LABEL_WORDS, LABEL_CHARACTERS = 5, 60  # of the longest label
MOST_TOKENS = 2048  # of one row: a longer one costs a small student minutes
_LETTERS = re.compile(" ?[A-Za-z]+")
SHOWN = 3  # rows that a remark names
COMMON = 0.8  # share of one label that is worth a word

Say = Callable[[str], None]


@dataclass(frozen=True)
class Known:
    """One thing to learn: an example, every answer that rows give to its question, and the group it belongs to."""

    example: Example
    answers: tuple[str, ...]
    group: str = ""


@dataclass(frozen=True)
class Examples:
    """What a table holds, each question once."""

    known: tuple[Known, ...]
    labels: dict[str, int] = field(default_factory=dict)  # label -> rows. Empty where answers are free


def tokens_bound(text: str) -> int:
    """About how many tokens a text has at most: all but letters, and a space before them, may be one a byte."""
    letters = sum(map(len, _LETTERS.findall(text)))
    return letters // 3 + len(text.encode("utf-8", "replace")) - letters + 1


def read_known(table: Table, columns: Columns, group: str | None, say: Say, place: str) -> Examples:
    """The examples of a table. `say` hears what was left out, and why.

    Raises UsageError where most rows cannot be used, where all answers are one, and for labels that cannot be told
    from answers although a person said that they are labels.
    """
    read, wrong = _read(table, columns, group)
    if len(wrong) > len(table.rows) / 2:
        raise UsageError(f"{place}: {len(wrong)} of {len(table.rows)} rows cannot be used, the first: {wrong[0]}")
    if wrong:
        say(f"left out: {len(wrong)} rows, such as {wrong[0]}")
    short = [one for one in read if _tokens(one[0]) <= MOST_TOKENS]
    if len(short) < len(read):
        say(f"left out: {len(read) - len(short)} rows of more than about {MOST_TOKENS} tokens")
    if not short:
        raise UsageError(f"{place}: every row is longer than about {MOST_TOKENS} tokens: cut the texts first")
    spelling = None if columns.labels is False else label_spellings([e.answer for e, _ in short], columns.labels)
    if columns.labels and spelling is None:
        raise UsageError(f"{place}: --label: {len({e.answer for e, _ in short})} different answers are no labels")
    if spelling:
        short = [(example.model_copy(update={"answer": spelling[example.answer]}), of) for example, of in short]
        if len(merged := [name for name in spelling if spelling[name] != name]):
            said = ", ".join(f"{name!r} as {spelling[name]!r}" for name in merged[:SHOWN])
            say(f"labels that differ by case, spaces or marks alone are one: {said}{' ...' * (len(merged) > SHOWN)}")
    return _each_once(short, spelling is not None, say, place)


def _tokens(example: Example) -> int:
    return tokens_bound(example.text) + tokens_bound(example.answer)


def _read(table: Table, columns: Columns, group: str | None) -> tuple[list[tuple[Example, str]], list[str]]:
    """(example, group) of every row that can be used, and what is wrong with each other one."""
    read: list[tuple[Example, str]] = []
    wrong: list[str] = []
    for where, row in table.rows:
        try:
            example = columns.read(row, where)
            of = _group(row.get(group)) if group else ""
        except UsageError as error:
            wrong.append(str(error).splitlines()[0])
            continue
        if not of and columns.passage:
            of = example.fields[columns.passage]
        read.append((example, of))
    return read, sorted(wrong)


def _group(value: Any) -> str:
    """The name of a group. Empty where a row has none, and so stands alone."""
    missing = value is None or (isinstance(value, float) and isnan(value))
    return "" if missing else str(value).strip()


def label_spellings(answers: Sequence[str], stated: bool | None = None) -> dict[str, str] | None:
    """Answer -> label, where the answers are labels: few short ones for so many rows. None where they are free.

    Answers that read alike are one label, spelt as most rows spell it. `stated`: a person said that they are labels.
    """
    counts = Counter(answers)
    by_words: dict[str, list[str]] = {}
    for answer in sorted(counts, key=lambda name: (-counts[name], name)):
        by_words.setdefault(normalise(answer), []).append(answer)
    most = MOST_LABELS if stated else min(MOST_LABELS, len(answers) // LABEL_ROWS)
    longest = max(by_words, key=len)
    if len(by_words) > most or len(longest.split()) > LABEL_WORDS or len(longest) > LABEL_CHARACTERS:
        return None
    return {answer: alike[0] for alike in by_words.values() for answer in alike}


def _each_once(read: Sequence[tuple[Example, str]], labelled: bool, say: Say, place: str) -> Examples:
    """Every question once. Equal texts with several labels are left out. Free answers are all right."""
    by_question: dict[str, list[tuple[Example, str]]] = {}
    for example, of in sorted(read, key=lambda one: (one[0].id, one[1])):
        by_question.setdefault(normalise(example.text), []).append((example, of))
    known: list[Known] = []
    torn: list[list[tuple[Example, str]]] = []
    for alike in by_question.values():
        example, of = alike[0]
        answers = tuple(dict.fromkeys(other.answer for other, _ in alike))
        if labelled and len(answers) > 1:
            torn.append(alike)
        else:
            known.append(Known(example, answers, of))
    if torn:
        example = torn[0][0][0]
        both = " and ".join(dict.fromkeys(repr(other.answer) for other, _ in torn[0]))
        said = f"{example.text[:60]!r} is {both}"
        say(f"left out: {len(torn)} texts that stand there with several labels: {said}. See which one is right")
    if again := len(read) - sum(map(len, torn)) - len(known):
        say(f"left out: {again} rows whose text is that of another one")
    counts = Counter(one.example.answer for one in known)
    if len(counts) < 2:
        only = f"{next(iter(counts))[:60]!r} is the answer of every row" if counts else "no row can be used"
        raise UsageError(f"{place}: {only}: there is nothing to learn")
    if not labelled:
        return Examples(tuple(known))
    labelled_known = tuple(replace(one, example=_labelled(one.example)) for one in known)
    common, rows = counts.most_common(1)[0]
    if rows > COMMON * len(known):
        say(f"{common!r} is the label of {rows / len(known):.0%} of the rows: who always says it is as often right, so"
            " look at macro-F1 beside accuracy")  # fmt: skip
    return Examples(labelled_known, dict(sorted(counts.items(), key=lambda one: (-one[1], one[0]))))


def _labelled(example: Example) -> Example:
    return example.model_copy(update={"label": example.answer})
