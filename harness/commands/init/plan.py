"""What init decides: which examples are items, rows and seeds, how answers are scored, and which sizes there are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Literal

from harness.augment.rows import make_row
from harness.commands.init.columns import Columns
from harness.commands.init.examples import MOST_TOKENS, Examples, Known, tokens_bound
from harness.commands.init.split import Units, hold_out, units_of
from harness.config.task import TaskFile
from harness.core.record import digest
from harness.data.examples import QUESTION
from harness.errors import UsageError
from harness.filters import Contamination, Duplicate
from harness.filters.base import Context, Filter, Protected
from harness.metrics.answers import numbers
from harness.metrics.table import by_length
from harness.models.teachers import NOBODY, Teachers
from harness.records import Example, Item, Provenance, Row
from harness.stats.intervals import minimum_detectable_difference
from harness.suites.kinds import load_suite
from harness.suites.shaped import located

FEWEST = 12  # examples: fewer cannot be split into rows, dev items and test items
FEW_ROWS = 100  # rows, below which a teacher writes more
SUITE = 400  # items wanted: of 300 test items, two students that differ on a fifth show a difference of 7 points
SHARES = ((150, 1 / 3), (1600, 1 / 4))  # (fewer examples than, share of them that is held out)
FLIPS = 0.2  # share of items on which two students differ, for what so many items can show
SEEDS_OF_LABEL, MOST_SEEDS = 4, 32
TRAIN_TOKENS = 100_000  # of the largest size, in one epoch: more costs two cores their time; sizes may be raised
SMALLEST_LARGEST = 32  # rows of the largest size, however long they are
CHARACTERS = 4  # of a token, where they are ASCII
SOME_ROWS = 1_000  # rows that tell whether the contamination filter suits a file
CONTAMINATED = 0.1  # share of rows, above which the filter finds the file's own phrases and no copies
ALSO = ("open_ended", "general_knowledge")  # what tuning breaks, where the project has these suites
FINAL = re.compile(r"####\s*(\S+)\s*$")  # how sums end in GSM8K and what is made like it

Source = Literal["own", "own and teacher", "teacher"]
Scored = Literal["labels", "number", "text"]


@dataclass(frozen=True)
class Wishes:
    """What a person asked for on the command line."""

    name: str
    system: str | None = None  # what the student is to do, in one sentence
    student: str = "smollm2-135m-instruct"
    teacher: str | None = None
    base_url: str | None = None
    items: int | None = None
    sizes: tuple[int, ...] = ()  # rows that students see. Empty: as many as make sense

    def __post_init__(self) -> None:
        if self.items is not None and self.items < 1:
            raise UsageError(f"--items {self.items}: a number of examples to hold out, 1 at least")

    @property
    def stated_sizes(self) -> tuple[int, ...]:
        """The sizes that were asked for, with the untuned model's. Empty where none were. Raises UsageError."""
        if any(size < 0 for size in self.sizes) or (self.sizes and not any(self.sizes)):
            raise UsageError(f"--sizes {' '.join(map(str, self.sizes))}: numbers of rows, the largest at least 1")
        return tuple(sorted({0, *self.sizes})) if self.sizes else ()


def sizes_in(written: Sequence[str]) -> tuple[int, ...]:
    """The sizes of a command line: `--sizes 16,64` and `--sizes 16 --sizes 64` are the same. Raises UsageError."""
    try:
        return tuple(int(size) for text in written for size in text.split(","))
    except ValueError:
        raise UsageError(f"--sizes {' '.join(written)}: numbers of rows, such as 16,64") from None


@dataclass(frozen=True)
class Plan:
    """All that the files say."""

    wishes: Wishes
    task: TaskFile
    conversation: bool
    choices: bool  # whether an answer is the letter of a choice that the text lists
    items: tuple[Known, ...]  # of the suite, each with what is right
    rows: tuple[Example, ...]  # those that are not held out
    seeds: tuple[Example, ...]  # a handful of them, or all where a teacher writes the rows
    source: Source
    kept: int  # rows that the filters keep
    sizes: tuple[int, ...]
    all_kept: bool  # whether the largest size is all of them
    scored: Scored
    primary: str
    guarded: int | None  # rows the contamination filter drops. None: too many, it is left out
    also: tuple[str, ...]  # further suites

    @property
    def tests(self) -> int:
        """Items that claims are made on."""
        return sum(item_of(held, self.task, self.scored).split == "test" for held in self.items)


def detectable(tests: int) -> float | None:
    """The smallest difference that so many items show, where two students differ on FLIPS of them."""
    return minimum_detectable_difference(tests, FLIPS) if tests else None


def item_of(held: Known, task: TaskFile, scored: Scored) -> Item:
    """An item as the suite will read it."""
    if scored == "labels":
        labels = tuple(task.labels)
        return located("", held.example, choices=labels, gold=labels.index(held.answers[0]), group=held.group)[1]
    return located("", held.example, answers=held.answers, group=held.group)[1]


def decide(
    wishes: Wishes,
    examples: Examples,
    columns: Columns,
    root: Path,
    say: Callable[[str], None],
) -> Plan:
    """Everything, from the examples of a table. Raises UsageError where they are too few to be split."""
    known = examples.known
    if len(known) < FEWEST:
        raise UsageError(
            f"{len(known)} examples are too few: {FEWEST} at least, for some are held out as questions. Write more, or"
            " start from prompts/helpdesk and its run, where a teacher writes rows from a handful of seeds"
        )
    task = TaskFile(
        fields=columns.fields,
        optional=columns.optional,
        labels={
            label: f"choice {label} is right" if columns.choices else label.replace("_", " ")
            for label in examples.labels
        },
        system=wishes.system or default_system(columns, examples),
    )
    scored, reference = scoring(examples)
    items, rows = split(wishes, known, task, scored, reference, say)
    stated = wishes.stated_sizes
    few = len(rows) < (stated[-1] if stated and (wishes.teacher or len(rows) < FEW_ROWS) else FEW_ROWS)
    source: Source = "teacher" if few else "own and teacher" if wishes.teacher else "own"
    seeds = rows if few else seeds_of(rows, tuple(task.labels))
    if source == "own and teacher":
        seed_ids = {seed.id for seed in seeds}
        rows = tuple(row for row in rows if row.id not in seed_ids)
    also = tuple(name for name in ALSO if (root / f"suites/{name}.yaml").is_file())
    kept, guarded = kept_by_filters(rows, items, task, scored, wishes.name, also, root)
    sizes, all_kept = sizes_for(source, kept, rows, bool(wishes.teacher), stated)
    primary = "accuracy" if scored != "text" else by_length(held.answers[0] for held in items)
    return Plan(
        wishes, task, columns.conversation, columns.choices, items, rows, seeds, source, kept, sizes, all_kept, scored,
        primary, guarded, also,
    )  # fmt: skip


def default_system(columns: Columns, examples: Examples) -> str:
    """The system message where nobody wrote one."""
    fields = columns.fields
    if columns.choices:
        return "Answer with the letter of the right choice."
    if examples.labels:
        named = list(examples.labels)
        return f"Say which label the text has: {', '.join(named)}." if len(named) <= 12 else "Say which label it has."
    if columns.conversation:
        return "You are a helpful assistant."
    if "instruction" in fields:
        return "Do what the instruction says."
    if "document" in fields and QUESTION in fields:
        return "Answer the question from the document."
    return "Answer the question." if len(fields) == 1 else "Answer from what is given."


def scoring(examples: Examples) -> tuple[Scored, Callable[[str], str]]:
    """How answers are scored, and what of an answer is the reference: all of it, or the number that it ends with."""
    if examples.labels:
        return "labels", lambda answer: answer
    answers = [answer for one in examples.known for answer in one.answers]
    if all(len(numbers(_final(answer))) == 1 for answer in answers):
        return "number", _final
    if all(len(numbers(answer)) == 1 and not re.search(r"[^\W\d_]", answer) for answer in answers):
        return "number", lambda answer: answer
    return "text", lambda answer: answer


def _final(answer: str) -> str:
    """What an answer ends with after its reasoning. Empty where it does not say so."""
    final = FINAL.search(answer)
    return final[1] if final else ""


def split(
    wishes: Wishes,
    known: Sequence[Known],
    task: TaskFile,
    scored: Scored,
    reference: Callable[[str], str],
    say: Callable[[str], None],
) -> tuple[tuple[Known, ...], tuple[Example, ...]]:
    """(items, rows). Raises UsageError where groups are too large, and where dev or test would be empty."""
    share = next((share for fewer, share in SHARES if len(known) < fewer), 1.0)
    wanted = wishes.items or min(SUITE, int(len(known) * share))
    if wanted > len(known) // 2:
        raise UsageError(f"--items {wanted}: at most half of the {len(known)} examples: {len(known) // 2}")
    units = units_of([one.example.text for one in known], [one.group for one in known])
    _say_units(units, known, say)
    strata = [one.answers[0] if scored == "labels" else "" for one in known]
    digests = [digest("held out", one.example.id) for one in known]
    for count in range(wanted, len(known) // 2 + 1):  # of a few items none may fall to one split: take more then
        held = hold_out(units.members, digests, strata, count)
        items = tuple(_held(known[place], unit, known, reference) for unit in held for place in unit)
        splits = {item_of(item, task, scored).split for item in items}
        if splits == {"dev", "test"}:
            break
    if count > wanted:
        say(f"more items than the {wanted} that were wanted: a quarter, by digest, is for choosing (dev)")
    if splits != {"dev", "test"}:
        largest = max(map(len, units.members))
        raise UsageError(
            f"{len(items)} items can be held out of {len(known)} examples, and a quarter of them, by digest, must be"
            f" left for choosing (dev): write more examples (the largest group of alike ones has {largest})"
        )
    if scored == "labels" and (bare := sorted(set(strata) - {item.answers[0] for item in items})):
        say(f"no item has the label {', '.join(map(repr, bare[:5]))}: too few of its rows")
    taken = {place for unit in held for place in unit}
    return items, tuple(one.example for place, one in enumerate(known) if place not in taken)


def _held(one: Known, unit: Sequence[int], known: Sequence[Known], reference: Callable[[str], str]) -> Known:
    group = digest("group", sorted(known[place].example.id for place in unit))[:8] if len(unit) > 1 else ""
    return Known(one.example, tuple(dict.fromkeys(map(reference, one.answers))), group)


def _say_units(units: Units, known: Sequence[Known], say: Callable[[str], None]) -> None:
    if units.threshold is None:
        say("nearly all texts are alike, so that only equal ones are held to be duplicates: an item may have a twin")
        return
    joined = sum(len(unit) for unit in units.members if len(unit) > 1)
    if joined:
        grouped = ", or of one group," if any(one.group for one in known) else ""
        say(f"{joined} examples are nearly alike{grouped} (Jaccard {units.threshold:g}): each such unit is on one side")


def seeds_of(rows: Sequence[Example], labels: Sequence[str]) -> tuple[Example, ...]:
    """A handful of rows to show to a teacher: the first by digest, of each label some."""
    ordered = sorted(rows, key=lambda row: digest("seed of init", row.id))
    if not labels:
        return tuple(ordered[: SEEDS_OF_LABEL * 4])
    each = max(1, min(SEEDS_OF_LABEL, MOST_SEEDS // len(labels)))
    return tuple(row for label in labels for row in [row for row in ordered if row.answer == label][:each])


def kept_by_filters(
    rows: Sequence[Example],
    items: Sequence[Known],
    task: TaskFile,
    scored: Scored,
    name: str,
    also: Sequence[str],
    root: Path,
) -> tuple[int, int | None]:
    """(rows that the run's filters keep, those of the rest that the contamination filter drops).

    None for the second where it would drop more than a tenth, or most rows of a label: the texts then share phrases,
    and it is left out.
    """
    texts = [(name, item_of(held, task, scored)) for held in items]
    texts += [(other, item) for other in also for item in load_suite(root / f"suites/{other}.yaml", root, None).items]
    protected = tuple(Protected(suite, item.id, text) for suite, item in texts for text in (item.text, *item.variants))
    context = Context(root, (), task.labels, protected, Teachers(own=NOBODY))
    template = task.prompts(root).student
    made = [make_row(task, template, row, Provenance(source="own")) for row in rows]
    unlike = [row for row, keep in zip(made, _keeps(Duplicate(), made, context), strict=True) if keep]
    some = unlike[:SOME_ROWS]  # where phrases are common, all rows would take minutes
    if len(some) - sum(_keeps(Contamination(), some, context)) > CONTAMINATED * len(some):
        return len(unlike), None
    keeps = _keeps(Contamination(), unlike, context)
    if task.labels and _loses_a_label(unlike, keeps):
        return len(unlike), None
    return sum(keeps), len(unlike) - sum(keeps)


def _loses_a_label(rows: Sequence[Row], keeps: Sequence[bool]) -> bool:
    """Whether most rows of a label are dropped: then they share a phrase that is the label's."""
    before = Counter(row.answer for row in rows)
    after = Counter(row.answer for row, keep in zip(rows, keeps, strict=True) if keep)
    return any(after[label] * 2 < count for label, count in before.items())


def _keeps(rule: Filter, rows: Sequence[Row], context: Context) -> list[bool]:
    return [verdict.keep for verdict in rule.prepare(context).verdicts(rows, [()] * len(rows))]


def sizes_for(
    source: Source, kept: int, rows: Sequence[Example], strong: bool, stated: tuple[int, ...] = ()
) -> tuple[tuple[int, ...], bool]:
    """(sizes, whether the largest is all rows): those that were asked for, else 0 and three that grow about fourfold.

    Raises UsageError for a size that the rows do not suffice for.
    """
    if stated:
        most = {"own": kept, "own and teacher": kept // 2, "teacher": stated[-1]}[source]
        if stated[-1] > most:
            more = "" if strong else ". Name a teacher that writes more (--teacher MODEL), or smaller sizes"
            raise UsageError(
                f"--sizes {stated[-1]}: at most {most} rows of each kind are there after the filters{more}"
            )
        return stated, stated[-1] == kept
    if source == "teacher":
        return ((0, 16, 64, 256) if strong else (0, 16, 64)), False
    tokens = mean(_about_tokens(f"{row.text}{row.answer}") for row in rows)
    most = max(SMALLEST_LARGEST, int(TRAIN_TOKENS / tokens))
    if source == "own and teacher":
        most = min(most, kept // 2)  # of the arms each must have as many rows, also what the teacher wrote
    largest = kept if kept <= most else power_of_two(most)
    middle = power_of_two(max(largest // 3, 4))
    return tuple(sorted({0, max(middle // 4, 2), middle, largest})), largest == kept


def _about_tokens(text: str) -> float:
    """About how many tokens a text has: a character beyond ASCII is one or more."""
    ascii_only = sum(map(str.isascii, text))
    return ascii_only / CHARACTERS + len(text) - ascii_only + 1


def power_of_two(most: int) -> int:
    """The largest power of two up to `most`."""
    return 1 << (most.bit_length() - 1)


def length_bounds(plan: Plan) -> tuple[int, int]:
    """(train.max_length, tokens of one answer at most) that no row and no accepted answer exceeds."""
    longest = max(len(f"{row.text}{row.answer}".encode()) for row in (*plan.rows, *plan.seeds))
    frame = len(plan.task.system.encode()) + 64
    answers = [answer for held in plan.items for answer in held.answers] + [row.answer for row in plan.rows]
    written = max(map(tokens_bound, answers))
    return min(max(512, 2 * power_of_two(longest + frame)), 8192), min(max(16, power_of_two(written) * 2), MOST_TOKENS)
