"""What the kept rows are like: lengths, balance, variety, how near they are to each other, and some of them to read.

Of many rows a sample is looked at, so that the report of a million takes seconds. It says where it does.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from harness.augment.funnel import facets_of_row
from harness.config.run import Run
from harness.core.markdown import escaped, fenced, table
from harness.core.neighbours import Shingled, Twin
from harness.core.store import write_atomic
from harness.core.terminal import Terminal
from harness.core.text import ngrams, words
from harness.errors import HarnessError
from harness.models.resolve import ready, resolve
from harness.models.token_count import Count, by_characters, chat_tokens, fast_tokenizer
from harness.records import Example, Row
from harness.stats.rates import quantile, wilson_ends

REPORT = "data.md"
COUNTED = 2_000  # rows whose tokens are counted
LONGEST = 200  # and so many of the longest
SAMPLE = 1_000  # rows that the variety is measured on: the measure falls with their number, so runs have the same
COMPARED = 2_000_000  # characters of rows that others are compared with
NEAR = (0.5, 0.7)  # Jaccard indices above which two texts are called near
ORDERS = (1, 2, 3)  # words of an n-gram
QUANTILES = (0.05, 0.5, 0.95)
VALUES = 8  # of a facet that are listed
LEAST_EVEN = 4  # facets that the short form names
READ = 3  # rows drawn at random to be read
REPEATS = 0.5  # a field of fewer distinct values per row, such as a shared document, makes no row a neighbour


@dataclass(frozen=True)
class Lengths:
    """Tokens of rows as one student counts them."""

    student: str
    exact: bool  # by its own tokenizer; else estimated from characters
    counted: int  # rows
    quantiles: tuple[float, ...]
    longest: int
    too_long: int  # rows above train.max_length, of those counted and of the longest

    @property
    def words(self) -> str:
        """On one line."""
        low, middle, high = (f"{value:.0f}" for value in self.quantiles)
        how = "" if self.exact else ", estimated from characters"
        return f"{low} / {middle} / {high} tokens (5%, half, 95% of the rows), {self.longest} at most{how}"


@dataclass(frozen=True)
class Near:
    """How many of the rows looked at have a near neighbour."""

    among: str
    looked_at: int
    rows: int  # of which these were drawn
    compared_with: int
    shares: tuple[float, ...]  # for each of NEAR
    pair: tuple[int, int, float] | None  # (row, its neighbour, Jaccard) of the nearest

    @property
    def words(self) -> str:
        """On one line."""
        if not self.looked_at:
            return "none to compare with"
        z = quantile(0.95)
        parts = []
        for threshold, share in zip(NEAR, self.shares, strict=True):
            low, high = wilson_ends(share, self.looked_at, z)
            interval = f" [{low:.0%}, {high:.0%}]" if self.looked_at < self.rows else ""
            parts.append(f"above {threshold:g} for {share:.0%}{interval}")
        return ", ".join(parts)


@dataclass(frozen=True)
class DataReport:
    """The numbers, and the rows to read."""

    rows: Sequence[Row]
    seeds: Sequence[Example]
    max_length: int
    lengths: tuple[Lengths, ...]
    balance: Mapping[str, Counter[str]]  # label, template, teacher, document, attributes -> rows of each value
    variety: Mapping[str, tuple[float | None, ...]]  # input, answer -> distinct-1, -2, -3
    near: tuple[Near, ...]
    to_read: Mapping[str, tuple[int, ...]]  # why -> rows

    def lines(self) -> list[str]:
        """The short form."""
        out = [f"lengths: {length.words}" for length in self.lengths[:1]]
        out += [f"variety of the {part}s: {_distinct(values)}" for part, values in self.variety.items()]
        out += [f"nearest {near.among}: {near.words}" for near in self.near if near.looked_at]
        even = sorted((evenness(counts), name) for name, counts in self.balance.items())[:LEAST_EVEN]
        if even:
            out.append(f"least even (1: as many rows of each): {', '.join(f'{name} {e:.2f}' for e, name in even)}")
        return out + [
            f"warning: {length.too_long} rows are longer than train.max_length ({self.max_length}) to {length.student}:"
            " training refuses them; raise it, or drop them by a `length` filter"
            for length in self.lengths
            if length.too_long
        ]

    def markdown(self) -> str:
        """The whole of it."""
        parts = [f"# {len(self.rows)} rows", self._lengths(), self._balance(), self._variety(), self._near()]
        return "\n\n".join([*parts, *self._reading()]) + "\n"

    def _lengths(self) -> str:
        rows = [(length.student, length.words, str(length.too_long), str(length.counted)) for length in self.lengths]
        heads = (
            "student",
            "whole rows, the chat template by a rule of thumb",
            "above train.max_length",
            "rows counted",
        )
        return "## Lengths\n\n" + table(heads, rows)

    def _balance(self) -> str:
        lines = [
            (name, str(len(counts)), f"{evenness(counts):.2f}", _most(counts)) for name, counts in self.balance.items()
        ]
        if not lines:
            return "## Balance\n\nEvery row has the same label, template and attributes, or none."
        about = "Evenness is the entropy over its largest value (Pielou): 1 where every value has as many rows."
        return f"## Balance\n\n{table(('of', 'values', 'evenness', 'rows of the commonest'), lines)}\n\n{about}"

    def _variety(self) -> str:
        lines = [(part, *map(_decimals, values)) for part, values in self.variety.items()]
        about = (
            f"Distinct n-grams of words over all of them (Li et al. 2016), on {min(SAMPLE, len(self.rows))} rows."
            " The measure falls with the number of rows: compare runs of as many."
        )
        return f"## Variety\n\n{table(('part', *(f'distinct-{n}' for n in ORDERS)), lines)}\n\n{about}"

    def _near(self) -> str:
        lines = [(near.among, near.words, str(near.looked_at), str(near.compared_with)) for near in self.near]
        about = (
            "Jaccard index of character 4-grams of the inputs. A field that many rows share, such as a document, is"
            " left out. Where rows were drawn, the interval is of 95%."
        )
        heads = ("nearest", "Jaccard index", "rows looked at", "compared with")
        return f"## Neighbours\n\n{table(heads, lines)}\n\n{about}"

    def _reading(self) -> list[str]:
        parts = ["## Rows to read"]
        for why, places in self.to_read.items():
            for place in places:
                parts.append(f"{escaped(why)}, row {place + 1}:")
                parts.append(fenced(_shown(self.rows[place].example)))
        if (near := self.near[-1]).pair:
            place, seed, score = near.pair
            parts.append(f"The nearest to a seed (Jaccard {score:.2f}), row {place + 1}, and that seed:")
            parts += [fenced(_shown(self.rows[place].example)), fenced(_shown(self.seeds[seed]))]
        return parts


def write_data_report(run: Run, rows: Sequence[Row], terminal: Terminal) -> None:
    """Write augment/data.md and say its short form. Whatever goes wrong with it is said, and costs no row."""
    path = run.folder / "augment" / REPORT
    settings = run.file.train
    try:
        path.unlink(missing_ok=True)
        if not rows:
            return
        tokenizers = {student: _tokenizer(student, run) for student in settings.students}
        report = data_report(rows, run.seeds, settings.max_length, tokenizers, run.file.random_seed)
        write_atomic(path, report.markdown())
    except Exception as error:  # noqa: BLE001  # the rows are stored, and no fault of ours here may end the command
        terminal.warn(f"the rows are stored, and the report on them failed: {type(error).__name__}: {error}")
        return
    terminal.say(f"\nwhat the rows are like (all of it in {path.relative_to(run.root)}):")
    for line in report.lines():
        terminal.say(f"  {line}")


def _tokenizer(student: str, run: Run) -> Count | None:
    """Counts a student's tokens where that needs neither the hub nor a conversion."""
    with suppress(HarnessError):  # train says what is wrong with the model
        if ready(student, run.cache, run.root):
            return fast_tokenizer(resolve(student, run.cache, root=run.root).folder)
    return None


def data_report(
    rows: Sequence[Row],
    seeds: Sequence[Example],
    max_length: int,
    tokenizers: Mapping[str, Count | None],
    random_seed: int,
) -> DataReport:
    """What at least one row is like. `tokenizers` has each student's, or None where it is not at hand."""
    draw = random.Random(random_seed)
    by_length = sorted(range(len(rows)), key=lambda i: sum(len(message.content) for message in rows[i].messages))
    counted = _drawn(range(len(rows)), COUNTED, draw)
    lengths = tuple(
        _lengths(name, count, [rows[i] for i in counted], [rows[i] for i in by_length[-LONGEST:]], max_length)
        for name, count in tokenizers.items()
    )
    sample = [rows[i] for i in _drawn(range(len(rows)), SAMPLE, draw)]
    free = [row.answer for row in sample if row.example.label is None]
    varying = _varying([row.example for row in rows])
    parts = {"input": [varying(row.example) for row in sample], "answer": free}
    variety = {part: tuple(distinct(texts, n) for n in ORDERS) for part, texts in parts.items() if texts}
    near = _neighbours([varying(row.example) for row in rows], [varying(seed) for seed in seeds], draw)
    to_read = {"Drawn at random": tuple(_drawn(range(len(rows)), READ, draw))}
    if len(rows) > READ:
        to_read |= {"The longest": (by_length[-1],), "The shortest": (by_length[0],)}
    if pair := near[0].pair:
        to_read[f"The nearest pair (Jaccard {pair[2]:.2f})"] = pair[:2]
    return DataReport(rows, seeds, max_length, lengths, balance(rows), variety, near, to_read)


def distinct(texts: Sequence[str], n: int) -> float | None:
    """Distinct n-grams of words over all of them, 0 to 1 (Li et al. 2016, "A Diversity-Promoting Objective Function for
    Neural Conversation Models"). None where no text has n words.
    """
    grams = [gram for text in texts for gram in ngrams(words(text), n)]
    return len(set(grams)) / len(grams) if grams else None


def balance(rows: Sequence[Row]) -> dict[str, Counter[str]]:
    """Rows of each label, template, teacher, piece of a document and attribute that has more than one value."""
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        for name, value in facets_of_row(row).items():
            if value:
                counts.setdefault(name, Counter())[value] += 1
    return {name: values for name, values in counts.items() if len(values) > 1}


def evenness(counts: Counter[str]) -> float:
    """Pielou's evenness of at least two values: Shannon's entropy over its largest value, 0 to 1."""
    total = counts.total()
    return -sum(n / total * math.log(n / total) for n in counts.values()) / math.log(len(counts))


def _lengths(
    student: str, count: Count | None, counted: Sequence[Row], longest: Sequence[Row], max_length: int
) -> Lengths:
    known: dict[str, int] = {}  # a system message is counted once

    def cached(text: str) -> int:
        if text not in known:
            known[text] = (count or by_characters)(text)
        return known[text]

    tokens = [chat_tokens(row.messages, cached) for row in counted]
    ends = {row.id: chat_tokens(row.messages, cached) for row in (*counted, *longest)}.values()
    quantiles = tuple(float(value) for value in np.quantile(tokens, QUANTILES))
    too_long = sum(length > max_length for length in ends)
    return Lengths(student, count is not None, len(counted), quantiles, max(ends), too_long)


def _neighbours(rows: Sequence[str], seeds: Sequence[str], draw: random.Random) -> tuple[Near, Near]:
    """How near rows are to other rows, and to seeds."""
    texts = [*rows, *seeds]
    mean = max(sum(map(len, rows)) / len(rows), 1)
    compared = _drawn(range(len(rows)), int(COMPARED / mean), draw)
    places = [*compared, *range(len(rows), len(texts))]  # only these are read
    shingled = Shingled.of([texts[i] for i in places])
    queries = _drawn(range(len(compared)), SAMPLE, draw)
    among_seeds = range(len(compared), len(places))
    nearest_seeds = [
        twin and Twin(twin.index - len(compared), twin.score) for twin in shingled.nearest(queries, among_seeds)
    ]
    nearest_rows = [
        twin and Twin(compared[twin.index], twin.score) for twin in shingled.nearest(queries, range(len(compared)))
    ]
    looked_at = [compared[i] for i in queries]
    return (
        _summed_up("row", looked_at, nearest_rows, len(rows), len(compared)),
        _summed_up("seed", looked_at, nearest_seeds, len(rows), len(seeds)),
    )


def _summed_up(among: str, places: Sequence[int], twins: Sequence[Twin | None], rows: int, compared_with: int) -> Near:
    found = [(place, twin) for place, twin in zip(places, twins, strict=True) if twin is not None]
    shares = tuple(sum(twin.score > limit for _, twin in found) / max(len(found), 1) for limit in NEAR)
    best = max(found, key=lambda pair: pair[1].score, default=None)
    pair = (best[0], best[1].index, best[1].score) if best else None
    return Near(among, len(found), rows, compared_with, shares, pair)


def _varying(examples: Sequence[Example]) -> Callable[[Example], str]:
    """What tells rows apart: earlier turns, and the fields of which most rows have a value of their own."""
    names = list(examples[0].fields)
    varied = [name for name in names if len({e.fields.get(name) for e in examples}) >= REPEATS * len(examples)]
    return lambda e: "\n\n".join([*(m.content for m in e.turns), *(e.fields.get(name, "") for name in varied or names)])


def _drawn(places: Sequence[int], most: int, draw: random.Random) -> list[int]:
    """So many of them at random, in their order."""
    return list(places) if len(places) <= most else sorted(draw.sample(places, most))


def _distinct(values: Sequence[float | None]) -> str:
    return ", ".join(f"distinct-{n} {_decimals(value)}" for n, value in zip(ORDERS, values, strict=True))


def _decimals(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


def _most(counts: Counter[str]) -> str:
    shown = ", ".join(f"{value} ({count})" for value, count in counts.most_common(VALUES))
    return shown + (f", and {len(counts) - VALUES} more" if len(counts) > VALUES else "")


def _shown(example: Example) -> str:
    return f"{example.text}\n→ {example.answer}"
