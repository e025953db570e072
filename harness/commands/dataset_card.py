"""The card of exported rows: what the hub reads (YAML), and for people the recipe, the funnel and what is not known."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import yaml

from harness.augment.funnel import Funnel
from harness.augment.rows import writers
from harness.commands.card import stamp
from harness.config.run import Augment, Run
from harness.config.steps import Step
from harness.config.task import TaskFile
from harness.core.markdown import escaped, fenced, table
from harness.core.store import read_manifest
from harness.data.writing import CONVERSATIONS, Line, Target
from harness.filters import AnyFilter, AnyPick, filter_names
from harness.records import Row

SIZES = (  # as the hub names them
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
LARGEST = "10M<n<100M"


@dataclass(frozen=True)
class Card:
    """What the card says beside what the run does."""

    file: str  # of the rows, beside the card
    which: str  # kept or dropped
    prompts: bool
    licence: str
    languages: tuple[str, ...]
    target: Target


def dataset_card(run: Run, rows: Sequence[Row], lines: Sequence[Line], funnel: Funnel, card: Card) -> str:
    """README.md of a dataset. `lines` are the rows as they stand in the file."""
    limits = [
        *limits_of_rows(run, rows, funnel),
        "How good a model becomes by it depends on the model: the run's report says it for the models it names.",
    ]
    if card.target in CONVERSATIONS and not card.prompts and run.task.labels:
        limits.append("The labels are explained in this card alone, and in no row.")
    front = front_matter(run.name, run.task.free, rows, card)
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n{stamp('export', [card.file])}",
        f"# {escaped(run.name)}",
        _summary(rows, card),
        f"## Task\n\n{_task(run.task, card)}",
        f"## A row\n\n{fenced(json.dumps(lines[0], indent=1, ensure_ascii=False))}",
        f"## Recipe\n\n{recipe_of_rows(run, rows)}",
        f"## What became of {funnel.requested} requests\n\n{funnel_text(funnel)}",
        "## Known limits\n\n" + "\n".join(f"- {escaped(limit)}" for limit in limits),
    ]
    return "\n\n".join(parts) + "\n"


def front_matter(name: str, free: bool, rows: Sequence[Row], card: Card) -> dict[str, Any]:
    """What the hub reads of a card, by its names. `free`: answers are free text."""
    size = next((words for most, words in SIZES if len(rows) < most), LARGEST)
    written = any(row.provenance.source == "teacher" for row in rows)
    split = {"split": card.file.split(".")[0], "path": card.file}
    return {
        "pretty_name": name,
        "license": card.licence or "unknown",
        **({"language": list(card.languages)} if card.languages else {}),
        "task_categories": ["text-generation" if free else "text-classification"],
        "tags": [*(["synthetic"] if written else []), "instruction-data", "harness"],
        "size_categories": [size],
        "configs": [{"config_name": "default", "data_files": [split]}],
    }


def _summary(rows: Sequence[Row], card: Card) -> str:
    sources = Counter(row.provenance.source for row in rows)
    who = []
    if sources["teacher"]:
        teachers = ", ".join(sorted({name for row in rows for name in writers(row)}))
        who.append(
            f"{sources['teacher']} were written by a model ({escaped(teachers)}), and no person has read them all"
        )
    if sources["own"]:
        formats = sorted({row.provenance.format for row in rows if row.provenance.format})
        who.append(f"{sources['own']} are a person's own, read as {escaped(' and '.join(formats))}")
    which = "" if card.which == "kept" else " These are the rows that the filters dropped: they are no training data."
    content = "the prompts that a student is tuned on" if card.prompts else "the examples alone, without prompts"
    return (
        f"{len(rows)} examples for tuning a small language model: {'; '.join(who)}. The columns are those of"
        f" `{card.target}`, and hold {content}.{which}"
    )


def _task(task: TaskFile, card: Card) -> str:
    held = "every row has it" if card.prompts else "no row has it"
    parts = [f"System message ({held}):", fenced(task.system)]
    parts.append(f"An example has the fields {escaped(', '.join(task.fields))}, and an answer.")
    if task.labels:
        parts.append(table(("label", "meaning"), list(task.labels.items())))
    if task.loss == "all":
        parts.append("Every turn of the assistant is learned.")
    return "\n\n".join(parts)


def recipe_of_rows(run: Run, rows: Sequence[Row]) -> str:
    """How rows were made: steps, sampling, teachers, filters, in Markdown."""
    parts, augment, facts = [], run.file.augment, [f"random seed {run.file.random_seed}"]
    if run.seeds:
        facts.append(f"{len(run.seeds)} seeds, which are not in it")
    if used := _templates(rows):
        parts += [table(("step", "template", "digest", "rows"), used)]
        parts += [table(("step", "sampling"), [(_name(step), _sampling(step)) for _, step in augment.asked_in()])]
        teachers = sorted({name for row in rows for name in writers(row)})
        links = [name for name in teachers if name.count("/") == 1]
        pages = "".join(f" (huggingface.co/{escaped(name.split('@')[0])})" for name in links)
        parts.append(
            f"Teacher, with its revision: {escaped(', '.join(teachers))}{pages}. Its licence and terms of use bind what"
            " its answers may be used for, training other models among it. Read them before you share these rows."
        )
    if augment.documents:
        facts.append(f"documents in {augment.documents.path}, in pieces of {augment.documents.words} words at most")
    facts += [f"attribute {name}" for name in augment.attributes]
    facts += [f"at least {n} rows of {name} {value}" for name, of in augment.quotas.items() for value, n in of.items()]
    if augment.pool_every:
        facts.append(f"rows that were kept before are shown in prompts, from {augment.pool_every} on")
    parts.append(f"Made by harness {version('harness')} with: {escaped('; '.join(facts))}.")
    if filters := _filters(augment):
        parts.append(table(("filter", "settings"), [(name, _settings(filter_)) for name, filter_ in filters]))
    return "\n\n".join(parts)


def _templates(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """(step, template, its digest, rows) of everything that wrote rows, in the order of use."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for row in rows:
        made = row.provenance
        steps = [(step.name, step.template, step.template_digest) for step in made.steps]
        counts.update(steps or ([("", made.template, made.template_digest)] if made.template else []))
    return [(step, path, digest[:16], str(count)) for (step, path, digest), count in counts.items()]


def _name(step: Step) -> str:
    return step.name or step.path


def _sampling(step: Step) -> str:
    settings = step.sampling.model_dump(mode="json", exclude={"json_schema", "logprobs"})
    settings |= step.model_dump(include={"shots", "samples", "form"})
    shown = {name: value for name, value in settings.items() if value not in ([], None)}
    guided = ["JSON by a schema"] if step.sampling.json_schema else []
    picked = [f"picked {_settings(step.pick)}"] if step.pick else []
    return ", ".join([*(f"{name} {value}" for name, value in shown.items()), *guided, *picked])


def _filters(augment: Augment) -> list[tuple[str, AnyFilter]]:
    """Every filter with what the card calls it: those of steps after their step."""
    steps = [step for _, step in augment.asked_in()]
    of_steps = [(f"{_name(step)}: {filter_.kind}", filter_) for step in steps for filter_ in step.filters]
    return [*of_steps, *zip(filter_names(augment.filters), augment.filters, strict=True)]


def _settings(filter_: AnyFilter | AnyPick) -> str:
    settings = filter_.model_dump(mode="json", exclude={"kind"})
    return ", ".join(f"{name}: {value}" for name, value in settings.items() if value not in (None, "", []))


def funnel_text(funnel: Funnel) -> str:
    """What became of all requests, in Markdown."""
    lines = [("requested", str(funnel.requested), "")]
    lines += [(name, str(left), str(lost)) for name, left, lost in funnel.steps()]
    parts = [table(("", "rows left", "lost here"), [*lines, ("kept", str(funnel.kept), "")])]
    if set(funnel.kept_by_label) != {""}:
        kept = [(label, str(count)) for label, count in funnel.kept_by_label.items()]
        parts.append(table(("label", "rows kept"), kept))
    parts += [escaped(note) for note in funnel.notes]
    return "\n\n".join(parts)


def limits_of_rows(run: Run, rows: Sequence[Row], funnel: Funnel) -> Iterator[str]:
    """A sentence for each thing that is not known of rows, or was not done to them."""
    filters = {filter_.kind for _, filter_ in _filters(run.file.augment)}
    if any(row.provenance.source == "teacher" for row in rows):
        yield "A model wrote it: it can be wrong, one-sided, or close to a text that the model was trained on."
        if "judge" not in filters:
            yield "No judge has looked whether the answers are right."
        if "personal_data" not in filters:
            yield "It was not searched for personal data."
    if "near_duplicate" not in filters:
        yield "Near duplicates were not looked for."
    if "contamination" in filters:
        manifest = read_manifest(run.folder / "augment")
        reached = [name for name, digest in (manifest.suites if manifest else {}).items() if digest]
        yield f"It was compared with the items of these suites and no others, by shared words: {', '.join(reached)}."
        if missed := [name for name in run.suites if name not in reached]:
            yield f"It was not compared with {', '.join(missed)}: their items were not at hand."
    else:
        yield "It was compared with no test set: what is in it may be an item of one."
    if funnel.kept < funnel.wanted:
        yield f"{funnel.wanted} rows were wanted, and {funnel.kept} are there."
    for name, value, ordered in funnel.short:
        yield f"{ordered.wanted} rows of {name} {value} were ordered, and {ordered.kept} were kept."
