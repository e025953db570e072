"""The eval stage: every student, its base, other models and the cheap reference, on every suite that applies.

    cells.json + suites -> plan: candidates x suites -> one scorecard each -> scorecards.json and per-item scores

A candidate is a model under one prompting. Its card is named by a digest of the weights, the suite, the
prompts and this stage's version. One that is stored is not scored again, whichever run asked for it. What a
model has answered for a card that is not finished is kept too, so that after a kill only the rest is asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from harness.config.inputs import scores_source, suite_source
from harness.config.run import Run
from harness.core.environment import environment
from harness.core.json_file import read_jsonl
from harness.core.python_file import PythonFunction
from harness.core.store import Manifest, finished, locked, unseal, write_json, write_jsonl, write_manifest
from harness.core.terminal import Advance, Stop, Terminal
from harness.errors import Interrupted
from harness.eval.plan import PlannedCard, plan_scoring, stored_card
from harness.eval.results import CARDS, PLANNED, StoredCards
from harness.eval.runner import Openers, Scorer, score_suite
from harness.metrics.unread import unread
from harness.records import Score, Scorecard, scores_digest
from harness.suites import benchmarks, reference
from harness.suites.generate import Prompt
from harness.suites.outcome import Outcome
from harness.suites.resume import Remembered
from harness.suites.suite import Suite, chance
from harness.suites.summary import summarise

Elsewhere = Callable[[Sequence[PlannedCard]], None]  # scores cards, and stores them where this stage looks


def evaluate(
    run: Run, openers: Openers, terminal: Terminal, stop: Stop, elsewhere: Elsewhere | None = None
) -> StoredCards | None:
    """Score everything that is not scored yet. Returns None when nothing is missing. Raises Interrupted.

    `elsewhere` scores on other machines, where it is given; what it could not is scored here.
    """
    folder, scores = run.folder / "eval", run.cache / "scores"
    plan = plan_scoring(run)
    manifest = finished(folder, plan.inputs)
    if plan.benchmarks and not benchmarks.fingerprint():
        terminal.say("eval: the rows of public benchmarks are not at hand now; what was scored with them stands")
    if manifest:
        terminal.say(f"eval: nothing to do ({manifest.summary}; same students, suites and prompts)")
        return None
    named = run.file.eval.programs.items()
    programs = {reference.program_name(name): program.load(run.root) for name, program in named}
    with locked(folder, f"eval of {run.name}"):
        for function in programs.values():  # a mistake in one is found before hours of work
            function.answers([], [])
        write_json(folder / PLANNED, [card.key for card in plan.cards])
        cards, not_run = _score_all(Scorer(plan, run.root, run.cache, openers, terminal, stop), scores, elsewhere)
        cards += [_reference_card(card, scores, programs, run.root, plan.prompts.tuned) for card in plan.references]
        unseal(folder)
        for card in cards:
            write_jsonl(folder / "scores" / f"{card.key}.jsonl", _with_item_tags(card, run.suites[card.suite], scores))
        stored = StoredCards(
            digest=plan.inputs[:16],
            partial=stop(),
            not_run=not_run,
            notes=plan.notes,
            benchmarks=plan.benchmarks,
            cards=tuple(cards),
        )
        write_json(folder / CARDS, stored.model_dump())
        missing = f", {len(not_run)} suites not run" if not_run else ""
        summary = f"{len(cards)} scorecards{missing}"
        # a suite that could not run, and items that failed, are tried again next time
        partial = stop() or bool(not_run) or not all(card.complete for card in cards)
        write_manifest(
            folder,
            Manifest(
                stage="eval",
                inputs=plan.inputs,
                settings=scores_source(run),
                suites={name: suite_source(suite, run.root) for name, suite in run.suites.items()},
                partial=partial,
                summary=summary,
                environment=environment(run.root),
            ),
            [folder / CARDS, *(folder / "scores" / f"{card.key}.jsonl" for card in cards)],
        )
    for note in plan.notes:
        terminal.say(f"eval: {note}")
    for name, why in not_run.items():
        terminal.say(f"eval: the suite {name} was not run: {why}")
    if stop():
        raise Interrupted(f"stopped: {summary} are stored; go on with: {run.command('eval')}")
    return stored


def _with_item_tags(card: Scorecard, suite: Suite, scores: Path) -> list[Score]:
    """A card's scores with the tags, groups and strata that its items have now: they decide no score."""
    items = {item.id: item for item in suite.items}
    return [
        score.model_copy(update={"tags": item.tags, "group": item.group, "stratum": item.stratum})
        if (item := items.get(score.item))
        else score
        for _, score in read_jsonl(scores / f"{card.key}.jsonl", Score)
    ]


# --- scoring what is missing --------------------------------------------------------------------------------


def _score_all(scorer: Scorer, scores: Path, elsewhere: Elsewhere | None) -> tuple[list[Scorecard], dict[str, str]]:
    """The cards of a plan, stored or new, and why a suite could not be run."""
    plan, terminal = scorer.plan, scorer.terminal
    cards: list[Scorecard] = []
    not_run: dict[str, str] = {}
    stored = {planned.key: stored_card(planned, scores) for planned in plan.cards}
    missing = [planned.suite for planned in plan.cards if stored[planned.key] is None]
    for name, suite in {suite.name: suite for suite in missing}.items():
        try:  # a mistake in what a suite names is found before hours of work
            suite.spec.extras.prepare(scorer.resources)
        except benchmarks.NotReachable as why:
            not_run[name] = str(why)
    if elsewhere:
        elsewhere([card for card in plan.cards if stored[card.key] is None and card.suite.name not in not_run])
        stored = {planned.key: stored_card(planned, scores) for planned in plan.cards}
    to_score = [card for card in plan.cards if stored[card.key] is None and card.suite.name not in not_run]
    if len(to_score) < len(plan.cards) and to_score:
        terminal.say(f"eval: {len(to_score)} of {len(plan.cards)} cards are not stored yet")
    done = 0
    with terminal.progress("eval", len(to_score)) as advance, suppress(Interrupted):
        for planned in plan.cards:
            candidate, suite = planned.candidate, planned.suite
            card = stored[planned.key] or stored_card(planned, scores)  # another command may have stored it since
            if card is None and suite.name in not_run:
                continue
            if card is None:
                if scorer.stop():
                    break
                if (scores / f"{planned.key}.json").is_file():
                    what = "items failed before, or the stored scores were edited or damaged: scored again"
                    terminal.say(f"eval: {candidate.title} on {suite.name}: {what}")
                card = score_card(scorer, planned, scores, partial(_within, advance, done))
                done += 1
                advance(done, f"cards; {planned.title}")
                if card.warning:
                    terminal.say(f"eval: {planned.title}: {card.warning}")
            # a card may come from another run, where the same weights had another name
            cards.append(card.model_copy(update={"student": candidate.cell.name, "cell": candidate.cell}))
    return cards, not_run


def _within(advance: Advance, done: int, share: float, what: str) -> None:
    """Show how far the card is that follows `done` others."""
    advance(done + share, what)


def score_card(scorer: Scorer, planned: PlannedCard, scores: Path, note: Callable[[float, str], None]) -> Scorecard:
    """A new card. What the model answers is remembered beside it until the card is complete.

    `note` shows progress: which share of the card is done, and words.
    """
    part = scores / f"{planned.key}.part.jsonl"
    asked = planned.suite.spec.requests(planned.suite.items)
    expected = asked.loglikelihoods + asked.answers  # 0 where only the library that asks knows
    doing = planned.title
    before = latest = 0  # answers of this step: of earlier rounds of questions, and of the one that goes on

    def step(what: str) -> None:
        """What comes next. Choosing how to ask has steps, too, each with few of the card's questions."""
        nonlocal doing, before, latest
        doing, before, latest = f"{planned.title}, {what}", 0, 0
        note(0.0, f"cards; {doing}")

    def tick(done: int, total: int) -> None:
        nonlocal before, latest
        before, latest = before + (latest if done < latest else 0), done
        note((before + done) / max(expected, before + total, 1), f"cards; {doing}, {done} of {total}")

    engine = Remembered(lambda: scorer.engine(planned.candidate), part, scorer.stop, tick)
    outcome = score_suite(scorer, planned, engine, step)
    card = _store(planned, outcome, engine.seconds, scores)
    if card.complete:  # what was answered of an incomplete card is not asked again
        part.unlink(missing_ok=True)
    return card


def _reference_card(
    planned: PlannedCard, scores: Path, programs: Mapping[str, PythonFunction], root: Path, prompt: Prompt
) -> Scorecard:
    """A program, or TF-IDF and logistic regression, on the same rows as a cell, on the task's own items."""
    candidate, suite = planned.candidate, planned.suite
    card = stored_card(planned, scores)
    if card is None:
        started = time.monotonic()
        if program := programs.get(candidate.cell.student):
            answered = reference.score_program(program, root, candidate.rows, suite, prompt)
        else:
            answered = reference.score_reference(candidate.rows, suite.items, candidate.cell.random_seed)
        outcome = Outcome(tuple(answered), chance(suite.items))
        card = _store(planned, outcome, time.monotonic() - started, scores)
    return card.model_copy(update={"student": candidate.cell.name, "cell": candidate.cell})


# --- cards on disk --------------------------------------------------------------------------------------------


def _store(planned: PlannedCard, outcome: Outcome, seconds: float, folder: Path) -> Scorecard:
    candidate, suite, scores = planned.candidate, planned.suite, outcome.scores
    card = Scorecard(
        key=planned.key,
        suite=suite.name,
        suite_digest=suite.digest,
        student=candidate.cell.name,
        cell=candidate.cell,
        student_key=candidate.key,
        prompting=candidate.prompting,
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
    write_jsonl(folder / f"{card.key}.jsonl", scores)
    write_json(folder / f"{card.key}.json", card.model_dump())
    return card
