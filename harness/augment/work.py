"""Everything that making rows needs, ready to work: the plan, the filters as rules, the calls, the scheduler."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from harness.augment.ask import Asker, about_seeds, over_cap
from harness.augment.chain import example_of
from harness.augment.plan import Plan, plan_rows
from harness.augment.preflight import require_pieces_fit
from harness.augment.rows import student_prompt
from harness.augment.scheduler import Scheduler
from harness.augment.sent import Note, not_noted
from harness.config.run import Run
from harness.config.teacher import pricing
from harness.core.collector import collecting_rarely
from harness.core.terminal import Stop, Terminal
from harness.engines.call_place import calls_of
from harness.engines.protocols import Embedder, Generator, StudentEngine
from harness.errors import UsageError
from harness.filters import AnyFilter, Context, Protected, Rule, filter_names
from harness.models.teachers import Teachers
from harness.records import Pair
from harness.suites import benchmarks
from harness.suites.suite import Suite

TELL_S = 0.1  # between two movements of the bar: stored answers come by the thousand


@dataclass(frozen=True)
class Work:
    """A plan, and what carries it out."""

    plan: Plan
    rules: tuple[Rule, ...]
    ask: Asker
    scheduler: Scheduler


def bundled_embedder() -> Embedder:
    """The embedding model that comes with a package. Loading takes seconds. Raises MachineError where it is missing."""
    from harness.engines.embeddings import MiniLM, minilm_folder

    return MiniLM(minilm_folder())


Students = Callable[[str], StudentEngine]  # a model's name -> the model, loaded


def no_students(model: str) -> StudentEngine:
    """Where no step picks by a student. Raises UsageError."""
    raise UsageError(f"no student {model!r} is at hand")


def likelihoods(plan: Plan, students: Students) -> Callable[[str, Mapping[str, Any], Sequence[str]], list[float]]:
    """Measures answers under a student, asked as it is tuned: mean log-probability, in nats a token."""
    loaded = functools.cache(students)

    def measure(model: str, values: Mapping[str, Any], answers: Sequence[str]) -> list[float]:
        question = example_of(values, "", plan.settings.row, plan.task, answered=False)
        if isinstance(question, str):
            raise UsageError(
                f"augment.steps: a student is to pick an answer before its question is written: {question}"
            )
        engine, messages = loaded(model), student_prompt(plan.task, plan.student, question)
        prompt = engine.prompt_ids(messages)
        pairs = [Pair(context=prompt, continuation=engine.answer_ids(messages, answer)) for answer in answers]
        return [measured.logprob / measured.tokens for measured in engine.loglikelihood(pairs)]

    return measure


@contextmanager
def at_work(
    run: Run,
    teachers: Teachers,
    engine: Callable[[], Generator],
    terminal: Terminal,
    stop: Stop,
    students: Students = no_students,
    note: Note = not_noted,
) -> Iterator[Work]:
    """A run's plan with its filters prepared and its stored calls open. They are closed at the end.

    `note` hears of every request.
    A mistake in a user's rows, or in a filter, is found before a teacher is paid. Raises UsageError for it.
    """
    plan = plan_rows(run, teachers, terminal.say)
    if plan.own:
        terminal.say(f"augment: {len(plan.own)} own rows, read as: {plan.own[0].provenance.format}")
    by_name = run.file.all_teachers
    require_pieces_fit(plan, run)
    protected = protected_texts(run.suites, terminal)
    over = functools.partial(over_cap, run.file.augment.caps)
    price = pricing({teachers.model(name): one for name, one in by_name.items()})
    with collecting_rarely(), calls_of(run.cache, terminal.say) as cache:
        ask = Asker(cache, functools.cache(engine), stop, over=over, price=price, note=note)
        context = Context(
            run.root, run.seeds, run.task.labels, protected, teachers, about_seeds(ask, terminal), run.file.random_seed,
            documents={piece.id: f"{piece.title}\n{piece.text}" for piece in plan.documents}, say=terminal.say,
            likelihood=likelihoods(plan, students), embedder=bundled_embedder,
        )  # fmt: skip
        plan = plan.prepared(context)
        rules = tuple(prepare(run.file.augment.filters, context))
        for rule in rules:
            if rule.note:
                terminal.say(rule.note)
        yield Work(plan, rules, ask, Scheduler(rules, ask))


@contextmanager
def progress(plan: Plan, scheduler: Scheduler, rows: int, terminal: Terminal) -> Iterator[Callable[[], None]]:
    """A bar over the `rows` begun in one round: what is yielded moves it on after every answer.

    Rows are counted, not calls: how many of these a row takes is not known before, since a step may ask again.
    """
    ask = scheduler.ask
    before, tokens = scheduler.settled, ask.fresh_tokens
    started = told = time.monotonic()
    with terminal.progress("augment", rows) as advance:

        def tick() -> None:
            nonlocal told
            now, done = time.monotonic(), scheduler.settled - before
            if now - told < TELL_S and done < rows:
                return
            told = now
            speed = (ask.fresh_tokens - tokens) / max(now - started, 1e-9)
            passing = f"{scheduler.passing} rows pass, {plan.settings.rows} are the goal"
            advance(done, f"{passing}, {speed:.0f} tokens/s")

        yield tick


def protected_texts(suites: Mapping[str, Suite], terminal: Terminal) -> tuple[Protected, ...]:
    """Every text of every suite. Says which benchmarks are not at hand, so that nothing is checked against them."""
    protected: list[Protected] = []
    for suite in suites.values():
        try:
            protected += [Protected(suite.name, item, text) for item, text in suite.spec.extras.texts(suite.items)]
        except benchmarks.NotReachable as why:
            terminal.say(f"augment: rows are not checked against {suite.name}: {why}")
    return tuple(protected)


def prepare(filters: Sequence[AnyFilter], context: Context) -> list[Rule]:
    """Filters as rules. Those that ask nothing come first, so that a mistake in them is found before a call."""
    order = sorted(range(len(filters)), key=lambda i: bool(filters[i].needs.teachers))
    rules = {i: filters[i].prepare(context) for i in order}
    names = filter_names(filters)
    return [rules[i] if names[i] == filters[i].kind else rules[i].named(names[i]) for i in range(len(filters))]
