"""`harness show-batch`: what each student reads and learns first, before anything is trained.

Rows are tokenized, drawn, batched and packed by the very functions that train calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from harness.commands.dry_run import rows_are_made, sample_rows
from harness.config.run import Run, Train
from harness.core.aligned import aligned
from harness.core.terminal import BRACKETS, Marked, Terminal
from harness.data.examples import path_of
from harness.errors import MachineError, UsageError
from harness.models.chat_template import Chat, TokenizedRow, context_length, load_chat, template_digest, tokenize_row
from harness.models.resolve import Model, resolve
from harness.records import Cell, Row
from harness.report.page.samples import Sample, store_samples
from harness.train.grid import outline_training, steps_of
from harness.train.sizes import batches, nested

SAMPLE = 10_000  # rows whose lengths are counted
BATCHES = 4  # listed one by one
ALL_BATCHES = 256  # counted together
NEAR = 0.9  # of train.max_length
SAMPLED = 4  # rows of each student in a report
SHOWN = 600  # characters of a prompt or an answer
NAMED = 12  # tokens of an answer listed one by one
QUANTILES = (0.05, 0.5, 0.95, 1.0)


@dataclass(frozen=True)
class Drawn:
    """The cell of a student whose rows are looked at: its largest one, of the first kind of data and random seed."""

    model: Model
    cell: Cell
    rows: tuple[Row, ...]
    steps: int
    source: str  # where its rows come from, in words


@dataclass(frozen=True)
class Batch:
    """The rows of one optimizer step, in tokens."""

    rows: int
    tokens: int
    learned: int  # tokens that carry loss
    longest: int  # tokens of its longest row
    packed: int  # tokens that train computes for it, what is left of padding included
    passes: int  # forward passes, each of train.micro_batch_tokens at most

    @property
    def padded(self) -> int:
        """Tokens of the batch if every row were padded to the longest."""
        return self.rows * self.longest


def show_batch(run: Run, terminal: Terminal, rows: int) -> None:
    """Print the first `rows` rows that each student is tuned on, and what its batches and lengths are like.

    Raises UsageError for a run without rows or seeds, and naming a row that cannot be tokenized.
    """
    digests: dict[str, list[str]] = {}
    for drawn in drawn_cells(run):
        chat = load_chat(drawn.model.name, drawn.model.folder)
        digests.setdefault(template_digest(chat), []).append(drawn.model.name)
        _show(chat, drawn, run.file.train, rows, terminal)
    if len(digests) > 1:
        terminal.say("\nThe students have different chat templates: the same row is another text to each of them.")


def store_rows(run: Run, rows: int = SAMPLED) -> None:
    """Keep the first `rows` rows of each student's largest cell for the page of the report.

    None where they cannot be drawn any more.
    """
    store_samples(run.folder / "eval", _sampled(run, rows))


def _sampled(run: Run, rows: int) -> list[Sample]:
    try:
        return [
            _sample(load_chat(drawn.model.name, drawn.model.folder), drawn, run, rows) for drawn in drawn_cells(run)
        ]
    except (UsageError, MachineError):
        return []


def _sample(chat: Chat, drawn: Drawn, run: Run, rows: int) -> Sample:
    tokenized = _tokenizer(chat)
    sample = [tokenized(row) for row in drawn.rows[:SAMPLE]]
    return Sample(
        student=drawn.model.identity,
        source=drawn.source,
        rows=tuple((head(chat, example), tuple(parts(chat, example))) for example in sample[:rows]),
        lengths=length_table(sample, len(drawn.rows)),
        limits=tuple(limits(sample, run.file.train.max_length, context_length(chat.name, drawn.model.folder))),
    )


def drawn_cells(run: Run) -> list[Drawn]:
    """What each student's largest cell draws. Before augment the rows are those of its rows_file, or the seeds."""
    settings = run.file.train
    if not rows_are_made(run):
        return _before_augment(run)
    plan, unmeasured = outline_training(run)
    planned = [planned for planned in plan.cells if planned.rows]
    largest = []
    for student in settings.students:
        cells = [p for p in planned if p.cell.student == student]
        if not cells:
            why = "; ".join(missing.words for missing in unmeasured) or "no size has rows to show"
            raise UsageError(f"runs/{run.name}.yaml: train.sizes {list(settings.sizes)}: {why}")
        first = [p for p in cells if p.cell.data == cells[0].cell.data]
        p = max(first, key=lambda p: (p.cell.size, -settings.random_seeds.index(p.cell.random_seed)))
        source = f"{p.cell.size} of {p.available} rows of data {p.cell.data}"
        largest.append(Drawn(p.model, p.cell, p.rows, p.steps, source))
    return largest


def _before_augment(run: Run) -> list[Drawn]:
    settings, random_seed = run.file.train, run.file.train.random_seeds[0]
    rows = sample_rows(run)
    if not rows:
        raise UsageError(f"runs/{run.name}.yaml: no rows yet, and no seeds: augment first ({run.command('augment')})")
    file = run.file.augment.rows_file
    what = f"rows of {path_of(file)}, before any filter" if file else "seeds, in place of the rows"
    drawn = nested(rows, min(max(settings.sizes) or len(rows), len(rows)), random_seed)
    source = f"{len(drawn)} of {len(rows)} {what}: augment has not run yet"
    cells = [
        Cell(student=name, data="filtered", size=len(drawn), random_seed=random_seed) for name in settings.students
    ]
    return [
        Drawn(resolve(cell.student, run.cache, root=run.root), cell, drawn, steps_of(cell, settings), source)
        for cell in cells
    ]


def _show(chat: Chat, drawn: Drawn, settings: Train, rows: int, terminal: Terminal) -> None:
    tokenized = _tokenizer(chat)
    steps = batches(drawn.rows, drawn.steps, settings.batch_size, drawn.cell.random_seed)
    first = [[tokenized(row) for row in batch] for batch in islice(steps, ALL_BATCHES)]
    shown = [
        (f"batch {number}, row {place} of {len(batch)}", example)
        for number, batch in enumerate(first, start=1)
        for place, example in enumerate(batch, start=1)
    ][:rows]
    texts = [list(parts(chat, example)) for _, example in shown]
    brackets = _brackets(text for pieces in texts for text, _ in pieces)
    how = "in colour" if terminal.colours else f"in {brackets[0]}brackets{brackets[1]}"
    terminal.say(
        f"{drawn.model.identity}: {drawn.source}\n"
        f"  {drawn.steps} steps of {settings.batch_size} rows, random seed {drawn.cell.random_seed};"
        f" chat template {template_digest(chat)}\n"
        f"  Each row as the student reads it. What it learns (the tokens that carry loss) stands {how}.\n"
    )
    for (title, example), pieces in zip(shown, texts, strict=True):
        terminal.say(f"{title}: {head(chat, example)}")
        terminal.say_marked(
            [("    ", False), *((text.replace("\n", "\n    "), mark) for text, mark in pieces)], brackets
        )
        terminal.say()
    terminal.say(batch_table([measured(batch, settings.micro_batch_tokens) for batch in first], drawn.steps))
    terminal.say(
        "Computed: tokens that the model goes through, were each row padded to the longest of its batch, and as train"
        f" packs rows into passes of {settings.micro_batch_tokens} tokens (train.micro_batch_tokens)."
    )
    sample = [tokenized(row) for row in drawn.rows[:SAMPLE]]
    terminal.say(f"\n{length_table(sample, len(drawn.rows))}")
    for line in limits(sample, settings.max_length, context_length(chat.name, drawn.model.folder)):
        terminal.say(line)


def _tokenizer(chat: Chat) -> Callable[[Row], TokenizedRow]:
    """Tokenizes a row once."""
    known: dict[str, TokenizedRow] = {}

    def tokenized(row: Row) -> TokenizedRow:
        if row.id not in known:
            known[row.id] = tokenize_row(chat, row)
        return known[row.id]

    return tokenized


# --- one row


def parts(chat: Chat, example: TokenizedRow) -> Iterator[Marked]:
    """The row's text as (text, whether it carries loss), in order. Long parts are shown without their middle."""
    end = 0
    for first, last in example.learned:
        yield _shortened(_decoded(chat, example.ids[end:first])), False
        yield _shortened(_decoded(chat, example.ids[first:last])), True
        end = last


def head(chat: Chat, example: TokenizedRow) -> str:
    """A row's tokens in numbers, and the last ones that it teaches by name."""
    first, last = example.learned[-1]
    names = [repr(_decoded(chat, [token])) for token in example.ids[first:last]]
    listed = " ".join(names if len(names) <= NAMED else [*names[: NAMED - 2], "...", names[-1]])
    answers = f" in {len(example.learned)} answers" if len(example.learned) > 1 else ""
    return (
        f"{len(example.ids)} tokens, {example.learned_tokens} of them learned{answers}"
        f" (row {example.row})\n  the{' last' * bool(answers)} answer's tokens: {listed}"
    )


def _decoded(chat: Chat, ids: Sequence[int]) -> str:
    return str(chat.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _shortened(text: str) -> str:
    half = SHOWN // 2
    if len(text) <= SHOWN:
        return text
    return f"{text[:half]}\n... {len(text) - SHOWN} characters are not shown here ...\n{text[-half:]}"


def _brackets(texts: Iterable[str]) -> tuple[str, str]:
    """The first pair of brackets that stands in none of the texts, or the last pair."""
    whole = "".join(texts)
    return next((pair for pair in BRACKETS if not set("".join(pair)) & set(whole)), BRACKETS[-1])


# --- batches and lengths


def measured(batch: Sequence[TokenizedRow], micro_batch_tokens: int) -> Batch:
    """What a step's rows take, packed as train packs them."""
    from harness.train.packing import micro_batches, tokens_together

    packed = passes = 0
    for (piece,) in micro_batches([batch], micro_batch_tokens):
        packed += tokens_together(piece) + len(piece)  # a row's last token is predicted, never read
        passes += 1
    lengths = [len(example.ids) for example in batch]
    learned = sum(example.learned_tokens for example in batch)
    return Batch(len(batch), sum(lengths), learned, max(lengths), packed, passes)


def batch_table(counted: Sequence[Batch], steps: int) -> str:
    """The first batches one by one, then all that were counted: their tokens, and those that a model computes."""
    heads = ("", "rows", "tokens", "learned", "longest row", "computed, if padded", "computed, as packed", "passes")
    lines = [_batch_line(f"batch {n}", [batch]) for n, batch in enumerate(counted[:BATCHES], start=1)]
    which = f"all {steps} batches" if len(counted) == steps else f"first {len(counted)} of {steps} batches"
    return aligned([heads, *lines, _batch_line(which, counted)], right=range(1, 8))


def _batch_line(name: str, counted: Sequence[Batch]) -> tuple[str, ...]:
    rows, tokens, learned, padded, packed, passes = (
        sum(column)
        for column in zip(*((b.rows, b.tokens, b.learned, b.padded, b.packed, b.passes) for b in counted), strict=True)
    )
    computed = (f"{count} ({count / tokens - 1:+.0%})" for count in (padded, packed))
    longest = max(batch.longest for batch in counted)
    return (name, *map(str, (rows, tokens, learned, longest)), *computed, str(passes))


def length_table(sample: Sequence[TokenizedRow], rows: int) -> str:
    """Quantiles of the lengths in tokens, and the share that carries loss."""
    parts_of_rows = {
        "whole row": [len(example.ids) for example in sample],
        "read only": [len(example.ids) - example.learned_tokens for example in sample],
        "learned": [example.learned_tokens for example in sample],
    }
    which = f"all {rows} rows" if len(sample) == rows else f"{len(sample)} of {rows} rows"
    heads = (f"tokens of {which}", "5%", "half", "95%", "at most", "in all", "share")
    total = sum(parts_of_rows["whole row"])
    lines = [
        (
            name,
            *(f"{value:.0f}" for value in np.quantile(lengths, QUANTILES)),
            str(sum(lengths)),
            f"{sum(lengths) / total:.1%}",
        )
        for name, lengths in parts_of_rows.items()
    ]
    return aligned([heads, *lines], right=range(1, 7))


def limits(sample: Sequence[TokenizedRow], max_length: int, context: int | None) -> list[str]:
    """How many rows are near or over train.max_length: no row is ever cut, train refuses a longer one."""
    longest = max(sample, key=lambda example: len(example.ids))
    over = sum(len(example.ids) > max_length for example in sample)
    near = sum(NEAR * max_length < len(example.ids) <= max_length for example in sample)
    known = f"; the model's context: {context}" if context else ""
    within = f"{near} within {1 - NEAR:.0%} of it"
    lines = [f"No row is cut. train.max_length {max_length}: {over} rows are longer, {within}{known}."]
    if over:
        lines.append(
            f"warning: train refuses the longer ones, {len(longest.ids)} tokens at most (row {longest.row}): raise"
            " train.max_length, or drop them by a `length` filter"
        )
    return lines
