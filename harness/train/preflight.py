"""Checks before any cell is trained, free of charge. Each finds a fault that would make a worse student, or none.

Nothing here loads weights: rows are tokenized, and sizes are read from the headers of the base's files.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from harness.augment.rows import student_prompt
from harness.config.run import Run, Train
from harness.config.task import TaskFile
from harness.core.store import existing_parent
from harness.core.templates import Template
from harness.core.text import one_line, words
from harness.errors import MachineError, UsageError
from harness.filters.base import part_of
from harness.models.chat_template import (
    Chat,
    TokenizedRow,
    context_length,
    left_out,
    load_chat,
    prompt_ids,
    template_digest,
    tokenize_chat,
    tokenize_row,
)
from harness.models.resolve import Model
from harness.records import Message, Row
from harness.train.footprint import Footprint, architecture, footprint, size
from harness.train.four_bits import require_four_bits
from harness.train.grid import GridCell
from harness.train.pretraining import tokenized_texts
from harness.train.validation import dev_items, tokenized_items

REPLAYED = "replay"  # the source of general rows, which are no examples of the task
NAMED = 3  # rows that a message names
QUOTED = 50  # characters of each
MOST_OTHERS = 0.1  # of the rows: a filter that would drop more than that beside the long ones is not suggested


@dataclass(frozen=True)
class Prepared:
    """A student's rows and dev items as it reads them, and which chat template wrote them."""

    examples: Mapping[str, TokenizedRow]  # by row id
    dev_items: Sequence[TokenizedRow]  # of the validation, where there is one
    chat_template: str  # 16 hex digits


def check_students(run: Run, missing: Sequence[GridCell], say: Callable[[str], None]) -> dict[Model, Prepared]:
    """Check all that the missing cells need before the first of them is trained, and say what was found.

    Raises UsageError naming a row that would spoil a student, MachineError where the disk has not enough room, and
    where a base in 4 bits cannot be loaded.
    """
    if any(planned.method.kind == "qlora" for planned in missing):
        from harness.models.device import device_of

        require_four_bits(missing, device_of("auto"), find_spec("bitsandbytes") is not None)
    cells_of: dict[Model, list[GridCell]] = {}
    for planned in missing:
        cells_of.setdefault(planned.model, []).append(planned)
    prepared = {model: _prepare(run, model, cells, say) for model, cells in cells_of.items()}
    digests = {model.name: student.chat_template for model, student in prepared.items()}
    if len(set(digests.values())) > 1:
        listed = ", ".join(f"{name} {digest}" for name, digest in digests.items())
        say(f"train: the students have different chat templates ({listed}): the same row is another text to each")
    _check_machine(cells_of, prepared, run.file.train, run.cache / "students", say)
    return prepared


def _prepare(run: Run, model: Model, cells: Sequence[GridCell], say: Callable[[str], None]) -> Prepared:
    texts = [row for planned in cells if planned.is_pretraining for row in planned.rows]
    rows = list({row.id: row for planned in cells if not planned.is_pretraining for row in planned.rows}.values())
    chat = load_chat(model.name, model.folder)
    context = context_length(model.name, model.folder)
    raw = tokenized_texts(chat, texts, run.file.train.max_length, context)
    if raw:
        tokens = sum(len(example.ids) for example in raw.values())
        say(f"train: {chat.name}: {len(raw)} pieces of raw text, {tokens} tokens, all of them carry loss")
    if not rows:
        return Prepared(raw, (), template_digest(chat))
    of_task = next((row for row in rows if row.provenance.source != REPLAYED), rows[0])
    for note in left_out(chat, of_task.messages[:-1]):
        say(f"train: {note}")
    examples = preflight(chat, rows, run.file.train, context)
    check_asked_alike(chat, run.task, run.prompts.student, rows, examples)
    say(f"train: {summary(chat, examples, run.file.train, context)}")
    return Prepared({**raw, **examples}, tokenized_items(chat, dev_items(run), context), template_digest(chat))


def _check_machine(
    cells_of: Mapping[Model, Sequence[GridCell]],
    prepared: Mapping[Model, Prepared],
    settings: Train,
    folder: Path,
    say: Callable[[str], None],
) -> None:
    """Say what training takes of disk and memory. Raises MachineError for a disk that has not enough room."""
    needed, lines = 0, []
    for model, cells in cells_of.items():
        student = architecture(model.name, model.folder)
        if student is None:
            continue
        from harness.models.device import device_of, dtype_of, free_memory

        device = device_of("auto")
        examples = prepared[model].examples.values()
        lengths, learned = [len(e.ids) for e in examples], [e.learned_tokens for e in examples]
        methods = [planned.method for planned in cells]
        on_cpu = device == "cpu"
        disk, peak = footprint(student, settings, methods, lengths, learned, dtype_of(device).itemsize, on_cpu)
        needed += disk
        lines.append(memory_note(model.name, peak, free_memory(device), settings.micro_batch_tokens))
    if not lines:
        return
    free = shutil.disk_usage(existing_parent(folder)).free
    cells_in_all = sum(map(len, cells_of.values()))
    check_disk(cells_in_all, needed, free, folder)
    say(f"train: {cells_in_all} cells take about {size(needed)} of disk with their checkpoints, {size(free)} are free")
    for line in lines:
        say(f"train: {line}")


def memory_note(name: str, peak: Footprint, free: int | None, micro_batch_tokens: int) -> str:
    """What is estimated to be taken of the memory, and what is free of it. A warning where that is less."""
    said = f"{name}: about {peak.words} of memory at the peak, an estimate"
    if free is None:
        return f"{said}; how much is free is not known here"
    if peak.total > free:
        return (
            f"warning: {said}; {size(free)} are free: lower train.micro_batch_tokens ({micro_batch_tokens} now), or"
            " leave out the longest rows"
        )
    return f"{said}; {size(free)} are free"


def preflight(chat: Chat, rows: Sequence[Row], settings: Train, context: int | None = None) -> dict[str, TokenizedRow]:
    """Tokenize every row with the student's own template. Returns the examples by row id.

    `context` is the number of tokens that the student can read. Raises UsageError naming the row when the template
    drops the stop token or changes the prompt (see `tokenize_row`), when rows are longer than train.max_length or the
    context, and when two labels have the same tokens.
    """
    examples: dict[str, TokenizedRow] = {}
    answers: dict[tuple[int, ...], tuple[str, str]] = {}  # tokens -> (label, row)
    for row in rows:
        if row.id in examples:
            continue
        example = tokenize_row(chat, row)
        label, first = answers.setdefault(example.ids[example.answer_start :], (row.answer, row.id))
        if label != row.answer and row.example.label is not None:
            raise UsageError(
                f"{chat.name}: the labels {label!r} (row {first}) and {row.answer!r} (row {row.id}) are"
                f" the same tokens to this student; rename one"
            )
        examples[row.id] = example
    check_lengths(chat.name, rows, examples, settings.max_length, context)
    return examples


def check_lengths(
    name: str, rows: Sequence[Row], examples: Mapping[str, TokenizedRow], max_length: int, context: int | None
) -> None:
    """Raises UsageError where a row is longer than max_length or the context. No share of them is let pass.

    A row is never cut, and none is left out here: what drops rows is a filter, which says why and is counted.
    """
    length = {row.id: len(examples[row.id].ids) for row in rows}
    longest = sorted({row.id: row for row in rows}.values(), key=lambda row: -length[row.id])
    most = min(max_length, context or max_length)
    over = [row for row in longest if length[row.id] > most]
    if not over:
        return
    named = ", ".join(f"row {row.id} ({length[row.id]} tokens: {_quoted(row)})" for row in over[:NAMED])
    limit = f"train.max_length ({max_length})" if most == max_length else f"the model's context ({context} tokens)"
    remedy = f"train.max_length: {length[over[0].id]} fits them all"
    if context and length[over[0].id] > context:
        beyond = sum(length[row.id] > context for row in over)
        remedy = f"the model's context holds {context} tokens, so that no setting fits {beyond} of them"
    raise UsageError(
        f"{name}: {len(over)} of {len(length)} rows ({len(over) / len(length):.2%}) are longer than {limit}, and rows"
        f" are never cut: {named}{', ...' * (len(over) > NAMED)}. {remedy}; {_filter_for(over, longest[len(over) :])}"
    )


def check_asked_alike(
    chat: Chat, task: TaskFile, template: Template, rows: Sequence[Row], examples: Mapping[str, TokenizedRow]
) -> None:
    """Raises UsageError where eval would ask for an answer otherwise than the student is tuned to give it.

    Eval asks with the task's prompt, and measures one sequence of tokens for each label. So each row of a label must
    end in that sequence, and the first row of each label (the first of all where answers are free) must begin with
    that prompt. General rows of a replay are not of the task.
    """
    measured: dict[str | None, tuple[int, ...]] = {}
    for row in (row for row in rows if row.provenance.source != REPLAYED):
        example, label = examples[row.id], row.example.label
        prompt, answer = example.ids[: example.answer_start], example.ids[example.answer_start :]
        if label not in measured:
            asked = student_prompt(task, template, row.example)
            if prompt_ids(chat, asked) != prompt:
                raise UsageError(
                    f"{chat.name}: row {row.id} is not asked as eval asks the task: it begins with"
                    f" {chat.tokenizer.decode(prompt)[:QUOTED]!r}, and eval's prompt is another; augment again"
                )
            turns = (*asked, Message(role="assistant", content=label or row.answer))
            ids, start = tokenize_chat(chat, turns, f"the label {label!r}")
            measured[label] = ids[start:]
        if label is not None and answer != measured[label]:
            trained, scored = (chat.tokenizer.decode(ids) for ids in (answer, measured[label]))
            raise UsageError(
                f"{chat.name}: row {row.id} teaches {trained!r} (tokens {_listed(answer)}), and eval measures the label"
                f" {label!r} as {scored!r} (tokens {_listed(measured[label])}): the student would be scored on what it"
                " was not tuned to write"
            )


def check_disk(cells: int, needed: int, free: int, folder: Path) -> None:
    """Raises MachineError where all missing cells and their checkpoints do not fit the disk."""
    if needed > free:
        raise MachineError(
            f"{folder}: {cells} cells take about {size(needed)} with their checkpoints, and {size(free)} are free: free"
            " some, or train fewer cells (train.sizes, train.random_seeds) or a smaller train.lora.r"
        )


def summary(chat: Chat, examples: Mapping[str, TokenizedRow], settings: Train, context: int | None) -> str:
    """What was found of a student's rows, on one line."""
    lengths = [len(example.ids) for example in examples.values()]
    learned = sum(example.learned_tokens for example in examples.values())
    ends = {example.ids[-1] for example in examples.values()}
    stop = ", ".join(repr(chat.tokenizer.decode([token])) for token in sorted(ends))
    known = f", context {context}" if context else ""
    return (
        f"{chat.name}: {len(lengths)} rows of {min(lengths)} to {max(lengths)} tokens (train.max_length"
        f" {settings.max_length}{known}), none cut; {learned / sum(lengths):.1%} of the tokens carry loss, each"
        f" answer's end {stop} among them; chat template {template_digest(chat)}"
    )


def _listed(ids: Sequence[int]) -> str:
    return " ".join(map(str, ids[:8])) + (" ..." if len(ids) > 8 else "")


def _quoted(row: Row) -> str:
    return repr(one_line(row.text)[:QUOTED])


def _filter_for(long: Sequence[Row], others: Sequence[Row]) -> str:
    """The `length` filter that drops the long rows and the fewest others, in words."""
    best: tuple[int, str] | None = None
    for part in ("input", "answer"):
        most = min(len(words(part_of(row.example, part))) for row in long) - 1
        dropped = sum(len(words(part_of(row.example, part))) > most for row in others)
        if most >= 1 and (best is None or dropped < best[0]):
            also = f"and {dropped} others" if dropped else "and no other"
            best = dropped, f"or the filter {{kind: length, max_words: {most}, on: {part}}} drops them {also}"
    if best is None or best[0] > MOST_OTHERS * (len(long) + len(others)):
        return "or drop them by a filter"
    return best[1]
