"""The eval stage: every student, the base and the cheap reference, on every suite that applies.

    cells.json + suites -> one scorecard per subject and suite -> scorecards.json and per-item scores

A subject is a student under one prompting. Its card is named by a digest of the weights, the suite, the
prompts and this stage's version; one that is stored is not scored again, whichever run asked for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import prompts
from harness.config import Run
from harness.environment import environment
from harness.errors import Interrupted, UsageError
from harness.records import Cell, Item, Row, Score, Scorecard, Seed, digest
from harness.rows import rows_of_data, student_prompt, untuned_prompt
from harness.scoring import benchmarks, reference
from harness.scoring.base import StudentEngine
from harness.scoring.choices import score_choices
from harness.scoring.labels import Prompt, context_ids, score_labels
from harness.scoring.open_ended import score_open_ended
from harness.scoring.suites import BenchmarkSuite, ChoiceSuite, LabelsSuite, OpenEndedSuite, Suite
from harness.scoring.summary import summarise
from harness.store import (
    Manifest,
    locked,
    read_json,
    read_manifest,
    unseal,
    write_atomic,
    write_json,
    write_jsonl,
    write_manifest,
)
from harness.terminal import Stop, Terminal
from harness.training.grid import expand
from harness.training.subsets import nested

STAGE_VERSION = 1


@dataclass(frozen=True)
class Subject:
    """Who is scored: a student (or its base), and how it is asked."""

    cell: Cell
    key: str  # digest of what its answers depend on: base weights, and for a cell its training
    base: Path
    adapter: Path | None
    prompting: str

    @property
    def title(self) -> str:
        """What people read."""
        return f"{self.cell.name} ({self.prompting})"


Opener = Callable[[Path, Path | None], StudentEngine]  # base folder, adapter folder -> a loaded student


def evaluate(run: Run, open_student: Opener, terminal: Terminal, stop: Stop) -> dict[str, Any] | None:
    """Score everything that is not scored yet; None when nothing was to do. Raises Interrupted."""
    folder = run.folder / "eval"
    subjects, cells = read_subjects(run)
    inputs = inputs_digest(run, subjects, cells)
    manifest = read_manifest(folder)
    if manifest and manifest.inputs == inputs and not manifest.partial:
        terminal.say(f"eval: nothing to do ({manifest.summary}; same students, suites and prompts)")
        return None
    with locked(folder, f"eval of {run.name}"):
        cards, not_run = _score_all(run, subjects, open_student, terminal, stop)
        cards += score_references(run, cells)
        unseal(folder)
        for card in cards:
            source = run.cache / "scores" / f"{card.key}.jsonl"
            write_atomic(folder / "scores" / source.name, source.read_bytes())
        result = {
            "digest": inputs[:16],
            "partial": stop(),
            "not_run": not_run,
            "cards": [card.model_dump() for card in cards],
        }
        write_json(folder / "scorecards.json", result)
        missing = f", {len(not_run)} suites not run" if not_run else ""
        summary = f"{len(cards)} scorecards{missing}"
        # a suite that could not run, and items that failed, are tried again next time
        partial = stop() or bool(not_run) or not all(card.complete for card in cards)
        write_manifest(
            folder,
            Manifest(
                stage="eval",
                inputs=inputs,
                partial=partial,
                summary=summary,
                environment=environment(run.root),
            ),
        )
    for name, why in not_run.items():
        terminal.say(f"eval: the suite {name} was not run: {why}")
    if stop():
        raise Interrupted(f"stopped: {summary} are stored; go on with: make eval RUN={run.name}")
    return result


def read_subjects(run: Run) -> tuple[list[Subject], list[dict[str, Any]]]:
    """The subjects of a trained run, and its cells as train wrote them."""
    path = run.folder / "train" / "cells.json"
    if not path.is_file():
        raise UsageError(f"{path.relative_to(run.root)} is not there: train first (make train RUN={run.name})")
    cells: list[dict[str, Any]] = read_json(path)["cells"]
    if {cell["key"] for cell in cells} != {planned.key for planned in expand(run)}:
        raise UsageError(
            f"{path.relative_to(run.root)} is of other rows, students or settings than {run.name} has now, or was"
            f" stopped: train first (make train RUN={run.name})"
        )
    subjects: list[Subject] = []
    for cell in cells:
        adapter = run.root / cell["folder"] if cell["folder"] else None
        ways = ("zero_shot",) if adapter else run.file.eval.prompting
        subjects += [Subject(cell_of(cell), cell["key"], run.root / cell["base"], adapter, way) for way in ways]
    return subjects, cells


def cell_of(stored: dict[str, Any], student: str | None = None) -> Cell:
    """A line of cells.json as a record; `student` replaces the model's name for a reference on its rows."""
    return Cell(
        student=student or stored["student"],
        data=stored["data"],
        size=stored["size"],
        random_seed=stored["random_seed"],
    )


def inputs_digest(run: Run, subjects: Sequence[Subject], cells: Sequence[dict[str, Any]]) -> str:
    """All that could change the scores: 64 hex digits."""
    wanted = [
        card_key(run, subject, suite)
        for subject in subjects
        for suite in run.suites.values()
        if applies(suite, subject)
    ]
    return digest("eval", STAGE_VERSION, wanted, [cell["key"] for cell in cells], run.file.eval.reference)


def applies(suite: Suite, subject: Subject) -> bool:
    """Few-shot prompting is for the task's own items; the other suites have one form."""
    return subject.prompting == "zero_shot" or isinstance(suite.spec, LabelsSuite)


def card_key(run: Run, subject: Subject, suite: Suite) -> str:
    """32 hex digits over what a card's numbers depend on."""
    parts: list[Any] = ["card", STAGE_VERSION, subject.key, subject.prompting, suite.name, suite.digest]
    if isinstance(suite.spec, LabelsSuite):
        path = run.task.prompt if subject.adapter else run.task.untuned_prompt
        parts += [run.task.system, run.task.labels, prompts.load(run.root / path).digest]
        if not subject.adapter:
            parts.append(run.task.untuned_form)
        if subject.prompting == "few_shot":
            parts.append([seed.id for seed in run.seeds])
    if isinstance(suite.spec, OpenEndedSuite):
        parts.append(list(run.task.labels))
    if isinstance(suite.spec, BenchmarkSuite):
        parts.append(benchmarks.fingerprint())
    return digest(*parts)[:32]


def _score_all(
    run: Run, subjects: Sequence[Subject], open_student: Opener, terminal: Terminal, stop: Stop
) -> tuple[list[Scorecard], dict[str, str]]:
    """Cards of all subjects, stored or new, and why a suite could not be run."""
    cards: list[Scorecard] = []
    not_run: dict[str, str] = {}
    tasks: dict[str, list[Any]] = {}
    for name, suite in run.suites.items():
        if isinstance(suite.spec, BenchmarkSuite) and not _all_stored(run, subjects, suite):
            try:
                tasks[name] = benchmarks.benchmark_tasks(suite.spec)
            except benchmarks.NotReachable as why:
                not_run[name] = str(why)
    todo = [(s, suite) for s in subjects for suite in run.suites.values() if applies(suite, s)]
    engine: StudentEngine | None = None
    loaded: tuple[Path, Path | None] | None = None
    with terminal.progress("eval", len(todo)) as advance:
        for done, (subject, suite) in enumerate(todo):
            key = card_key(run, subject, suite)
            card = stored_card(run, key)
            if card is None and suite.name in not_run:
                continue
            if card is None:
                if stop():
                    break
                advance(done, f"{subject.title}: {suite.name}")
                if engine is None or loaded != (subject.base, subject.adapter):
                    engine = None  # let go of the last one before the next is loaded
                    engine = open_student(subject.base, subject.adapter)
                    loaded = (subject.base, subject.adapter)
                    for note in engine.notes:
                        terminal.say(f"eval: {subject.cell.name}: {note}")
                started = time.monotonic()
                scores = score_suite(run, subject, suite, engine, tasks.get(suite.name, []))
                card = _store(run, key, subject, suite, scores, time.monotonic() - started)
            # a card may come from another run, where the same weights had another name
            cards.append(card.model_copy(update={"student": subject.cell.name, "cell": subject.cell}))
            advance(done + 1, f"{subject.title}: {suite.name}")
    return cards, not_run


def _all_stored(run: Run, subjects: Sequence[Subject], suite: Suite) -> bool:
    return all(stored_card(run, card_key(run, s, suite)) for s in subjects if applies(suite, s))


def score_suite(run: Run, subject: Subject, suite: Suite, engine: StudentEngine, tasks: Sequence[Any]) -> list[Score]:
    """Per-item scores of one subject on one suite, by the suite's kind."""
    spec = suite.spec
    if isinstance(spec, LabelsSuite):
        prompt = asked_with(run, subject, suite.items, engine)
        return score_labels(suite.items, prompt, engine, subject.key, spec.max_tokens)
    if isinstance(spec, ChoiceSuite):
        return score_choices(suite.items, spec, engine)
    if isinstance(spec, OpenEndedSuite):
        return score_open_ended(suite.items, engine, subject.key, spec.max_tokens, list(run.task.labels))
    return benchmarks.score_benchmark(spec, tasks, engine)


def asked_with(run: Run, subject: Subject, items: Sequence[Item], engine: StudentEngine) -> Prompt:
    """How this subject is asked the task: a tuned one with its own prompt, an untuned one with labels explained."""
    if subject.adapter:
        template = prompts.load(run.root / run.task.prompt)
        return lambda text: student_prompt(run.task, template, text)
    template = prompts.load(run.root / run.task.untuned_prompt)
    shots: tuple[Seed, ...] = ()
    if subject.prompting == "few_shot":
        longest = max((item.text for item in items), key=len)
        room = engine.max_length - 64  # for the answer and for a longest item by tokens, not characters

        def fits(shots: tuple[Seed, ...]) -> bool:
            if sum(len(seed.text) for seed in shots) > 20 * room:  # no tokenizer packs twenty characters a token
                return False
            return len(context_ids(engine, untuned_prompt(run.task, template, longest, shots))) <= room

        shots = most_shots(run.seeds, fits)
    return lambda text: untuned_prompt(run.task, template, text, shots)


def most_shots(seeds: Sequence[Seed], fits: Callable[[tuple[Seed, ...]], bool]) -> tuple[Seed, ...]:
    """As many seeds as fit, evenly over labels and with labels mixed."""
    by_label: dict[str, list[Seed]] = {}
    for seed in seeds:
        by_label.setdefault(seed.label, []).append(seed)
    deepest = max(map(len, by_label.values()))
    for each in range(deepest, 0, -1):
        shots = tuple(own[i] for i in range(each) for own in by_label.values() if i < len(own))
        if fits(shots):
            return shots
    return ()


# --- the cheap reference ------------------------------------------------------------------------------------


def score_references(run: Run, cells: Sequence[dict[str, Any]]) -> list[Scorecard]:
    """TF-IDF and logistic regression on the same rows as every cell, on the task's own items."""
    if run.file.eval.reference is None:
        return []
    cards: list[Scorecard] = []
    done: set[str] = set()
    rows_of = rows_by_data(run)
    for suite in (s for s in run.suites.values() if isinstance(s.spec, LabelsSuite)):
        for cell in cells:
            if not cell["size"]:
                continue
            known = cell_of(cell, reference.NAME)
            rows = nested(rows_of[known.data], known.size, known.random_seed)
            key = digest("reference", STAGE_VERSION, suite.digest, [[r.text, r.label] for r in rows])[:32]
            if known.name in done:
                continue
            done.add(known.name)
            card = stored_card(run, key)
            if card is None:
                started = time.monotonic()
                scores = reference.score_reference(rows, suite.items, known.random_seed)
                subject = Subject(known, key, run.root, None, "trained")
                card = _store(run, key, subject, suite, scores, time.monotonic() - started)
            cards.append(card.model_copy(update={"student": known.name, "cell": known}))
    return cards


def rows_by_data(run: Run) -> dict[str, tuple[Row, ...]]:
    """The rows each kind of data draws from, read from augment's files."""
    return {data: rows_of_data(run, data) for data in run.file.train.data}


# --- cards on disk --------------------------------------------------------------------------------------------


def stored_card(run: Run, key: str) -> Scorecard | None:
    """A card that an earlier command stored whole; one with failed items is scored again."""
    path = run.cache / "scores" / f"{key}.json"
    if not path.is_file():
        return None
    card = Scorecard.model_validate(read_json(path))
    return card if card.complete else None


def _store(run: Run, key: str, subject: Subject, suite: Suite, scores: Sequence[Score], seconds: float) -> Scorecard:
    card = Scorecard(
        key=key,
        suite=suite.name,
        suite_digest=suite.digest,
        student=subject.cell.name,
        cell=subject.cell,
        student_key=subject.key,
        prompting=subject.prompting,
        items=len(scores),
        scored=sum(s.status == "scored" for s in scores),
        unparsed=sum(s.status == "unparsed" for s in scores),
        failed=sum(s.status == "failed" for s in scores),
        cut=sum(s.cut for s in scores),
        metrics=summarise(scores, suite),
        seconds=round(seconds, 2),
    )
    write_jsonl(run.cache / "scores" / f"{key}.jsonl", scores)
    write_json(run.cache / "scores" / f"{key}.json", card.model_dump())
    return card
