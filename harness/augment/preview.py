"""A look before the whole work: a few rows made for real, shown step by step, and what a whole run would take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from harness.augment.ask import Asker
from harness.augment.chain import Chain, Place
from harness.augment.forecast import FILE, LEVEL, Forecast, Part, Tried, forecast
from harness.augment.plan import Plan
from harness.augment.rows import Judged, Lost
from harness.augment.summary import always_the_same
from harness.augment.work import Students, Work, at_work, no_students, progress
from harness.config.quotas import LABEL
from harness.config.run import Run
from harness.config.teacher import beside_money
from harness.core.aligned import aligned
from harness.core.store import write_json
from harness.core.terminal import Stop, Terminal
from harness.core.text import printable
from harness.engines.protocols import Generator
from harness.errors import Interrupted, UsageError
from harness.models.teachers import Teachers
from harness.records import Completion, Request, Row


def preview(
    run: Run,
    teachers: Teachers,
    engine: Callable[[], Generator],
    terminal: Terminal,
    stop: Stop,
    rows: int,
    students: Students = no_students,
) -> Forecast:
    """Make the first `rows` rows of a run, show how each came about, and forecast the rest.

    The calls are stored: augment asks none of them again. Raises UsageError where no teacher writes or a cap ends the
    work, Interrupted when it was stopped.
    """
    if not run.file.augment.teacher_writes:
        raise UsageError(f"runs/{run.name}.yaml: augment.rows_file: these rows are there: there is nothing to preview")
    with at_work(run, teachers, engine, terminal, stop, students) as work:
        places = list(islice(work.plan.places(work.plan.first_round()), rows))
        with progress(work.plan, work.scheduler, len(places), terminal) as tick:
            work.scheduler.write(iter(places), work.plan, tick)
        if stop():
            raise Interrupted("stopped: every finished call is kept")
        if work.ask.cut_short:  # what is not finished says nothing of the rest
            raise UsageError(
                f"runs/{run.name}.yaml: augment.{work.ask.cap} before {len(places)} rows were made: raise it, or ask"
                " for fewer rows; every finished call is kept"
            )
        judged, lost = work.scheduler.outcome()
        verdicts = iter(judged)
        tried: list[Tried] = []
        for number, place in enumerate(places, start=1):
            made = follow(work.plan, work.ask, place)
            row = next(verdicts) if isinstance(made.end, Row) else made.end
            terminal.say(f"\n{_title(number, len(places), place)}\n{_shown(made, row)}")
            tried.append(_tried(work, made, row))
    kept, rejected = [row.row for row in judged if row.kept], [row for row in judged if not row.kept]
    for remark in always_the_same(kept, rejected, lost, run.task.free):
        terminal.say(f"\n{remark}")
    first = sum(work.plan.first_round().values())
    quotas = [parts_of(work.plan, name, places, tried) for name in run.file.augment.quotas]
    expected = forecast(tried, run.file.augment.rows, first, max(first, work.plan.most), run.file.random_seed, quotas)
    write_json(run.folder / "augment" / FILE, expected.model_dump(mode="json"))
    terminal.say(told(expected, run.file.augment.rows, run.name, sorted(work.ask.unpriced)))
    return expected


def parts_of(plan: Plan, name: str, places: Sequence[Place], tried: Sequence[Tried]) -> list[Part]:
    """The rows of each value that the quota of this name orders, then all others, with what was tried of each."""
    quota, count = plan.settings.quotas[name], plan.first_round()
    weights: dict[str, float] = {**count} if name == LABEL else plan.weights[name]
    drawn = [place[0] if name == LABEL else str(plan.begin(place).attributes[name]) for place in places]
    begin, holds = sum(count.values()), sum(value != "" for value in drawn) / len(drawn)
    parts: list[Part] = []
    for value, ordered in quota.items():
        kept = [row.kept for row, of_row in zip(tried, drawn, strict=True) if of_row == value]
        first = round(begin * holds * weights[value] / sum(weights.values()))
        parts.append(Part(ordered, first, len(kept), sum(kept)))
    kept = [row.kept for row, of_row in zip(tried, drawn, strict=True) if of_row not in quota]
    others = max(begin - sum(part.first for part in parts), 0)
    return [*parts, Part(0, others, len(kept), sum(kept))] if kept or others else parts


@dataclass(frozen=True)
class Made:
    """How a row came about: what was asked and answered at each step, and what it ended as."""

    asked: tuple[tuple[str, Request, Completion], ...]  # (step, request, completion)
    end: Row | Lost


def follow(plan: Plan, ask: Asker, place: Place) -> Made:
    """The course of a row whose calls are all answered."""
    chain: Chain | Row | Lost = plan.begin(place)
    asked: list[tuple[str, Request, Completion]] = []
    while isinstance(chain, Chain):
        requests = plan.requests(chain)
        answers = [ask.of(request.key) for request in requests]
        name = chain.step.step.name or "the row"
        asked += [
            (f"{name}, judged" if chain.candidates else name, *pair) for pair in zip(requests, answers, strict=True)
        ]
        chain = plan.take(chain, requests, answers)
    return Made(tuple(asked), chain)


def told(expected: Forecast, wanted: int, name: str, unpriced: Sequence[str] = ()) -> str:
    """A forecast in words. `unpriced`: teachers whose calls are not in its money."""
    lines = [
        ("rows begun", expected.begun.shown()),
        ("rows kept", f"{expected.rows.shown()}   ({wanted} wanted)"),
        ("requests", expected.requests.shown()),
        ("tokens", expected.tokens.shown()),
    ]
    if expected.money.high:
        lines.append(("money", expected.money.shown(4) + beside_money(unpriced)))
    return (
        f"\n{expected.kept} of these {expected.tried} rows are kept. make augment RUN={name} is expected to take"
        f" ({LEVEL:.0%} intervals):\n{aligned(lines, indent='  ')}\n"
        "  Filters that compare rows drop more of many rows than of few: the rows kept are an upper bound then."
    )


def _title(number: int, count: int, place: Place) -> str:
    label = f", {place[0]}" if place[0] else ""
    return f"--- row {number} of {count}{label} "


def _shown(made: Made, end: Judged | Lost) -> str:
    lines: list[str] = []
    for step, request, completion in made.asked:
        prompt = request.prompt or "\n".join(f"<{turn.role}> {turn.content}" for turn in request.messages)
        lines += [f"[{step}] prompt:", _indented(prompt), f"[{step}] completion ({_ending(completion)}):"]
        lines.append(_indented(completion.text or completion.error or "(nothing)"))
    if isinstance(end, Lost):
        return "\n".join([*lines, f"no row: {end.lost}{f' by {end.filter}' if end.filter else ''}: {end.reason}"])
    for verdict in end.verdicts:
        state = "keeps it" if verdict.keep else f"drops it: {verdict.reason}"
        lines.append(f"{verdict.filter}: {state}")
    return "\n".join([*lines, "kept" if end.kept else "dropped"])


def _ending(completion: Completion) -> str:
    ends = {"stop": "ended by itself", "length": "cut at sampling.max_tokens", "error": "failed"}
    return f"{ends[completion.finish_reason]}, {completion.completion_tokens} tokens"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in printable(text).splitlines())


def _tried(work: Work, made: Made, end: Judged | Lost) -> Tried:
    """What a row took, with what the filters asked about it."""
    asked = [request for _, request, _ in made.asked]
    if isinstance(made.end, Row):
        asked += [request for rule in work.rules for request in rule.requests(made.end)]
    answers = [(request.model, work.ask.of(request.key)) for request in asked]
    return Tried(
        kept=isinstance(end, Judged) and end.kept,
        requests=len(answers),
        tokens=sum(answer.prompt_tokens + answer.completion_tokens for _, answer in answers),
        money=sum(work.ask.price(model, answer) or 0.0 for model, answer in answers),
    )
