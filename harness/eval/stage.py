"""The eval stage: every student, its base, other models and the cheap reference, on every suite that applies.

    cells.json + suites -> one scorecard per subject and suite -> scorecards.json and per-item scores

A subject is a student under one prompting. Its card is named by a digest of the weights, the suite, the
prompts and this stage's version; one that is stored is not scored again, whichever run asked for it. What a
model has answered for a card that is not finished is kept too, so that after a kill only the rest is asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from pydantic import ValidationError

from harness.config.inputs import scores_source, suite_source
from harness.config.run import Run
from harness.core.environment import environment
from harness.core.json_file import read_json, read_jsonl
from harness.core.record import digest
from harness.core.store import Manifest, finished, locked, unseal, write_json, write_jsonl, write_manifest
from harness.core.terminal import Stop, Terminal
from harness.errors import Interrupted, UsageError
from harness.eval.candidates import Cast, Subject, applies, read_cast
from harness.eval.results import WANTED
from harness.eval.runner import STAGE_VERSION, Examiner, Openers, card_key, score_suite
from harness.metrics.unread import unread
from harness.records import Cell, Row, Score, Scorecard, scores_digest
from harness.suites import benchmarks, forgetting, reference
from harness.suites.outcome import Outcome
from harness.suites.resume import Remembered
from harness.suites.suite import Suite, chance
from harness.suites.summary import disagreement, summarise


def evaluate(run: Run, openers: Openers, terminal: Terminal, stop: Stop) -> dict[str, Any] | None:
    """Score everything that is not scored yet; None when nothing was to do. Raises Interrupted."""
    folder = run.folder / "eval"
    cast = read_cast(run)
    inputs = inputs_digest(run, cast)
    manifest = finished(folder, inputs)
    if cast.benchmarks and not benchmarks.fingerprint():
        terminal.say("eval: the rows of public benchmarks are not at hand now; what was scored with them stands")
    if manifest:
        terminal.say(f"eval: nothing to do ({manifest.summary}; same students, suites and prompts)")
        return None
    with locked(folder, f"eval of {run.name}"):
        write_json(folder / WANTED, wanted_cards(run, cast))
        cards, not_run = _score_all(Examiner(run, cast, openers, terminal, stop))
        cards += score_references(run, cast)
        unseal(folder)
        for card in cards:
            write_jsonl(folder / "scores" / f"{card.key}.jsonl", _about_items(run, card))
        result = {
            "digest": inputs[:16],
            "partial": stop(),
            "not_run": not_run,
            "notes": list(cast.notes),
            "benchmarks": cast.benchmarks,
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
                settings=scores_source(run),
                suites={name: suite_source(suite, run.root) for name, suite in run.suites.items()},
                partial=partial,
                summary=summary,
                environment=environment(run.root),
            ),
            [folder / "scorecards.json", *(folder / "scores" / f"{card.key}.jsonl" for card in cards)],
        )
    for note in cast.notes:
        terminal.say(f"eval: {note}")
    for name, why in not_run.items():
        terminal.say(f"eval: the suite {name} was not run: {why}")
    if stop():
        raise Interrupted(f"stopped: {summary} are stored; go on with: make eval RUN={run.name}")
    return result


def _about_items(run: Run, card: Scorecard) -> list[Score]:
    """A card's scores with the tags, groups and strata that its items have now: they decide no score."""
    known = {item.id: item for item in run.suites[card.suite].items}
    scores = [score for _, score in read_jsonl(run.cache / "scores" / f"{card.key}.jsonl", Score)]
    return [
        score.model_copy(update={"tags": item.tags, "group": item.group, "stratum": item.stratum})
        if (item := known.get(score.item))
        else score
        for score in scores
    ]


def wanted_cards(run: Run, cast: Cast) -> list[str]:
    """The keys of the cards of all subjects; the cheap reference has its own."""
    return [
        card_key(run, cast, subject, suite)
        for subject in cast.subjects
        for suite in run.suites.values()
        if applies(suite, subject)
    ]


def inputs_digest(run: Run, cast: Cast) -> str:
    """All that could change what eval writes: 64 hex digits."""
    about = [[[i.tags, i.group, i.stratum] for i in suite.items] for suite in run.suites.values()]
    cells = [cell.key for cell in cast.cells]
    return digest("eval", STAGE_VERSION, wanted_cards(run, cast), cells, run.file.eval.reference, about)


# --- scoring what is missing --------------------------------------------------------------------------------


def _score_all(examiner: Examiner) -> tuple[list[Scorecard], dict[str, str]]:
    """Cards of all subjects, stored or new, and why a suite could not be run."""
    run, cast = examiner.run, examiner.cast
    cards: list[Scorecard] = []
    not_run: dict[str, str] = {}
    for name, suite in run.suites.items():
        if _all_stored(run, cast, suite):
            continue
        try:  # a mistake in what a suite names is found before hours of work
            suite.spec.extras.prepare(examiner.resources)
        except benchmarks.NotReachable as why:
            not_run[name] = str(why)
    todo = [(s, suite) for s in cast.subjects for suite in run.suites.values() if applies(suite, s)]
    with examiner.terminal.progress("eval", len(todo)) as advance, suppress(Interrupted):
        for done, (subject, suite) in enumerate(todo):
            key = card_key(run, cast, subject, suite)
            card = stored_card(run, key, suite)
            if card is None and suite.name in not_run:
                continue
            if card is None:
                if examiner.stop():
                    break
                if (run.cache / "scores" / f"{key}.json").is_file():
                    what = "items failed before, or the stored scores were edited or damaged: scored again"
                    examiner.terminal.say(f"eval: {subject.title} on {suite.name}: {what}")
                advance(done, f"{subject.title}: {suite.name}")
                card = _score_one(examiner, key, subject, suite, partial(advance, done))
                if card.warning:
                    examiner.terminal.say(f"eval: {subject.title}: {suite.name}: {card.warning}")
            # a card may come from another run, where the same weights had another name
            cards.append(card.model_copy(update={"student": subject.cell.name, "cell": subject.cell}))
            advance(done + 1, f"{subject.title}: {suite.name}")
    return cards, not_run


def _all_stored(run: Run, cast: Cast, suite: Suite) -> bool:
    return all(stored_card(run, card_key(run, cast, s, suite), suite) for s in cast.subjects if applies(suite, s))


def _score_one(examiner: Examiner, key: str, subject: Subject, suite: Suite, note: Callable[[str], None]) -> Scorecard:
    """A new card. What the model answers is remembered beside it until the card is whole; `note` shows progress."""
    part = examiner.run.cache / "scores" / f"{key}.part.jsonl"
    title = doing = f"{subject.title}: {suite.name}"

    def step(what: str) -> None:
        nonlocal doing
        doing = f"{title}, {what}"
        note(doing)

    engine = Remembered(
        lambda: examiner.engine(subject), part, examiner.stop, lambda done, total: note(f"{doing}, {done} of {total}")
    )
    outcome = score_suite(examiner, subject, suite, engine, step)
    card = _store(examiner.run, key, subject, suite, outcome, engine.seconds)
    if card.complete:  # what was answered of an incomplete card is not asked again
        part.unlink(missing_ok=True)
    return card


# --- the cheap reference ------------------------------------------------------------------------------------


def score_references(run: Run, cast: Cast) -> list[Scorecard]:
    """TF-IDF and logistic regression on the same rows as every cell, on the task's own items."""
    if run.file.eval.reference is None:
        return []
    cards: list[Scorecard] = []
    done: set[tuple[str, str]] = set()
    for suite in (s for s in run.suites.values() if s.choices):
        for cell in cast.cells:
            known = cell.cell.model_copy(update={"student": reference.NAME})
            if not cell.tuned or (suite.name, known.name) in done:
                continue
            done.add((suite.name, known.name))
            card = _reference_card(run, suite, known, cast.rows_of(known))
            cards.append(card.model_copy(update={"student": known.name, "cell": known}))
    return cards


def _reference_card(run: Run, suite: Suite, cell: Cell, rows: Sequence[Row]) -> Scorecard:
    key = digest("reference", STAGE_VERSION, suite.digest, [[r.text, r.answer] for r in rows])[:32]
    card = stored_card(run, key, suite)
    if card is not None:
        return card
    started = time.monotonic()
    scores = reference.score_reference(rows, suite.items, cell.random_seed)
    subject = Subject(cell, key, run.root, None, "trained", tuned=True)
    return _store(run, key, subject, suite, Outcome(tuple(scores), chance(suite.items)), time.monotonic() - started)


# --- cards on disk --------------------------------------------------------------------------------------------


def stored_card(run: Run, key: str, suite: Suite) -> Scorecard | None:
    """A card that an earlier command stored whole; one that was edited, damaged or has failed items is made again."""
    path = run.cache / "scores" / f"{key}.json"
    try:
        card = Scorecard.model_validate(read_json(path))
        scores = [score for _, score in read_jsonl(path.with_suffix(".jsonl"), Score)]
    except (UsageError, ValidationError):
        return None
    own = (card.key, card.suite_digest, card.scores) == (key, suite.digest, scores_digest(scores))
    if not own or not card.complete or disagreement(card, scores, suite):
        return None
    # students are measured by what their untuned base expects, which is stored beside its card
    untuned = suite.spec.extras.reads_base and card.cell is not None and not card.cell.size
    return None if untuned and not forgetting.is_whole(path.with_suffix(".expected.npz")) else card


def _store(run: Run, key: str, subject: Subject, suite: Suite, outcome: Outcome, seconds: float) -> Scorecard:
    scores = outcome.scores
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
        truncated=sum(s.truncated for s in scores),
        metrics=summarise(scores, suite),
        scores=scores_digest(scores),
        chance=outcome.chance,
        notes=outcome.notes,
        choice=outcome.choice,
        warning=unread(scores, outcome.choice),
        seconds=round(seconds, 2),
        prompt_tokens=sum(s.prompt_tokens for s in scores),
        answer_tokens=sum(s.answer_tokens for s in scores),
    )
    write_jsonl(run.cache / "scores" / f"{key}.jsonl", scores)
    write_json(run.cache / "scores" / f"{key}.json", card.model_dump())
    return card
