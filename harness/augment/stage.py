"""The augment stage: a teacher writes rows, filters judge them, the funnel tells what became of each.

    seeds + templates -> requests -> completions -> rows -> verdicts -> train.jsonl, rejected.jsonl, funnel.json

Rows are a pure function of the completions in request order, whatever order they arrived in. Every filter
judges every row, so that changing one filter asks the teacher nothing.
"""

from __future__ import annotations

import functools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import ceil

from harness.augment.funnel import Funnel, count_drops
from harness.augment.parse import Parsed, answer_name, parse
from harness.augment.rows import DROPPED, KEPT, Judged, Lost, own_rows
from harness.augment.summary import tell, too_few
from harness.config.inputs import guarded_suites, rows_source, still_guarded
from harness.config.run import Run, TemplateUse
from harness.core import templates
from harness.core.environment import environment
from harness.core.record import digest
from harness.core.store import Manifest, finished, read_manifest, unseal, write_json, write_jsonl, write_manifest
from harness.core.templates import Template
from harness.core.terminal import Stop, Terminal
from harness.engines.call_cache import CallCache, cached
from harness.engines.protocols import Generator
from harness.errors import Interrupted, MachineError
from harness.filters import Context, Judge, Protected
from harness.filters.judge import Calibration
from harness.records import PROBES, Completion, Example, Message, Origin, Request, Row, Verdict, lack_logprobs
from harness.suites import benchmarks

STAGE_VERSION = 2
BLOCK = 256  # requests asked before their rows are judged, at least
HOPELESS = 64  # requests without a single row after which no more are asked


def augment(run: Run, teacher: str, engine: Callable[[], Generator], terminal: Terminal, stop: Stop) -> Funnel | None:
    """Make the run's rows; None when there was nothing to do.

    `teacher` is name@revision; `engine` builds the teacher's engine, and is called only if a call is missing.
    Raises Interrupted after writing what there is, MachineError when every call fails. Raises after writing, too, when
    no training could use what is kept: see `augment_summary.too_few`.
    """
    folder = run.folder / "augment"
    manifest, gone = finished_rows(run, teacher)
    if manifest:
        for name in gone:
            terminal.say(f"augment: the rows of {name} are not at hand now; what was checked against them stands")
        terminal.say(f"augment: nothing to do ({manifest.summary}; same seeds, templates, filters and teacher)")
        return None

    own = own_rows(run)  # a mistake in them, or in a filter, is found before a teacher is paid
    if own:
        terminal.say(f"augment: {len(own)} own rows, read as: {own[0].provenance.format}")
    for filter_ in run.file.augment.filters:
        if filter_.kind == "python":
            filter_.check(run.root)
    context = filter_context(run, teacher, terminal)
    cache = CallCache(run.cache / "calls.sqlite", terminal.say)
    ask = Asker(cache, functools.cache(engine), stop)
    try:
        calibrations = calibrate_judges(run, context, ask, terminal)
        rows, lost, funnel = _rounds(run, teacher, own, context, calibrations, ask, terminal)
    finally:
        cache.close()

    kept = [r.row for r in rows if r.kept]
    rejected = [r for r in rows if not r.kept]
    unseal(folder)
    write_jsonl(folder / KEPT, kept)
    write_jsonl(folder / DROPPED, [*rejected, *(one for one in lost if one.lost != "failed")])
    write_json(folder / "funnel.json", funnel.model_dump())
    problem = too_few(run, funnel, rejected, lost)
    # failures are asked again
    partial = ask.cut_short or problem is not None or (bool(funnel.failed) and funnel.kept < funnel.wanted)
    guarded = guarded_suites(run)
    write_manifest(
        folder,
        Manifest(
            stage="augment",
            inputs=inputs_digest(run, teacher, guarded),
            settings=rows_source(run),
            suites=guarded,
            partial=partial,
            summary=f"{funnel.kept} rows kept of {funnel.requested} asked",
            environment=environment(run.root),
        ),
        [folder / name for name in (KEPT, DROPPED, "funnel.json")],
    )
    tell(run, funnel, kept, rejected, lost, terminal)
    if stop():
        raise Interrupted(
            f"stopped: {funnel.kept} of {funnel.wanted} rows are in {folder.relative_to(run.root)}/train.jsonl;"
            f" every finished call is kept{f'; go on with: make augment RUN={run.name}' if partial else ''}"
        )
    if problem is not None:
        raise problem
    return funnel


@dataclass
class Asker:
    """Answers requests from the cache or the engine, each once, and keeps count of what that took."""

    cache: CallCache
    engine: Callable[[], Generator]  # builds it at most once
    stop: Stop
    answers: dict[str, Completion] = field(default_factory=dict)  # by request key
    paid: int = 0
    fresh_tokens: int = 0  # generated now
    seconds: float = 0.0  # spent generating now
    cut_short: bool = False  # whether the stop left something unasked

    def __call__(
        self, requests: Sequence[Request], tick: Callable[[int], None] = lambda answered: None
    ) -> dict[str, Completion]:
        """Completions by request key; those missing at the end were stopped. `tick` hears of each answer."""
        new = {r.key: r for r in requests if r.key not in self.answers}
        started, paid_before = time.monotonic(), self.paid
        for completion, paid in cached(list(new.values()), self.cache, self.engine, self.stop):
            self.answers[completion.request] = completion
            self.paid += paid
            self.fresh_tokens += completion.completion_tokens * paid
            tick(len(self.answers))
            if self.stop.overdue:
                break
        if self.paid > paid_before:
            self.seconds += time.monotonic() - started
        found = {r.key: self.answers[r.key] for r in requests if r.key in self.answers}
        self.cut_short |= any(key not in found for key in new)
        failed = [c for c in self.answers.values() if c.finish_reason == "error"]
        if failed and len(failed) == len(self.answers):
            raise MachineError(f"all {len(failed)} calls to the teacher failed; the first said: {failed[0].error}")
        return found


def finished_rows(run: Run, teacher: str) -> tuple[Manifest | None, list[str]]:
    """The manifest where the stored rows are those of the run as it is now; benchmarks that are no longer at hand."""
    folder = run.folder / "augment"
    before = read_manifest(folder)
    guarded, gone = still_guarded(run, before.suites if before else {})
    return finished(folder, inputs_digest(run, teacher, guarded)), gone


def inputs_digest(run: Run, teacher: str, guarded: Mapping[str, str]) -> str:
    """All that could change the rows: 64 hex digits. `guarded`: the suites that they are checked against."""
    return digest("augment", STAGE_VERSION, teacher, rows_source(run), dict(guarded))


def filter_context(run: Run, teacher: str, terminal: Terminal) -> Context:
    """What filters may look at: seeds, labels, and every text of every suite."""
    protected: list[Protected] = []
    for suite in run.suites.values():
        try:
            protected += [Protected(suite.name, item, text) for item, text in suite.spec.texts(suite.items)]
        except benchmarks.NotReachable as why:
            terminal.say(f"augment: rows are not checked against {suite.name}: {why}")
    return Context(root=run.root, seeds=run.seeds, labels=run.task.labels, protected=tuple(protected), teacher=teacher)


# --- asking ---------------------------------------------------------------------------------------------


def requests_for(run: Run, teacher: str, count: dict[str, int]) -> Iterator[Request]:
    """The teacher's requests for `count` rows of each label, in the order that decides everything after.

    The j-th request of a label depends on nothing but the run file, the label and j: asking for more
    later leaves the earlier ones as they were. Each is made when it is wanted.
    """
    loaded = [(use, templates.load(run.root / use.path)) for use in run.file.augment.templates]
    for j in range(max(count.values())):
        for label in asked_labels(run):
            if j < count.get(label, 0):
                yield _request(run, teacher, *loaded[j % len(loaded)], label, j)


def _request(run: Run, teacher: str, use: TemplateUse, template: Template, label: str, j: int) -> Request:
    draw = random.Random(digest("shots", run.file.random_seed, label, j))
    own = [seed for seed in run.seeds if seed.answer == label or run.task.free]
    shots: list[Example] = draw.sample(own, min(use.shots, len(own)))
    text = template.render(
        label=label,
        description=run.task.labels.get(label, ""),
        labels=run.task.labels,
        shots=[shot.shown for shot in shots],
        index=j,
    )
    sampling = use.sampling
    if use.output != "text":
        schema = _row_schema(run) if use.output == "json" else CONVERSATION
        sampling = sampling.model_copy(update={"json_schema": schema})
    return Request(
        model=teacher,
        prompt=text if use.form == "completion" else "",
        messages=(Message(role="user", content=text),) if use.form == "chat" else (),
        sampling=sampling,
        template_digest=template.digest,
        sample_index=j,
        origin=Origin(purpose="generate", template=use.path, label=label, seeds=tuple(seed.id for seed in shots)),
    )


TURN = {
    "type": "object",
    "properties": {"role": {"enum": ["user", "assistant"]}, "content": {"type": "string"}},
    "required": ["role", "content"],
}
CONVERSATION = {
    "type": "object",
    "properties": {"messages": {"type": "array", "items": TURN, "minItems": 2}},
    "required": ["messages"],
}


def _row_schema(run: Run) -> dict[str, object]:
    """What the teacher must write: every field, and the answer too where the task has no labels to draw it from."""
    wanted = [*run.task.fields, *([answer_name(run.task)] if run.task.free else [])]
    return {"type": "object", "properties": {name: {"type": "string"} for name in wanted}, "required": wanted}


def asked_labels(run: Run) -> tuple[str, ...]:
    """The labels that rows are asked for in turn; one without a name where answers are free."""
    return tuple(run.task.labels) or ("",)


def first_round(run: Run) -> dict[str, int]:
    """Requests per label of the first round: `requests_per_row` for every row wanted."""
    labels = asked_labels(run)
    each = ceil(run.file.augment.rows * run.file.augment.requests_per_row / len(labels))
    return dict.fromkeys(labels, each)


def next_round(run: Run, asked: dict[str, int], kept: Counter[str]) -> dict[str, int] | None:
    """Requests per label so far plus what is still missing, by each label's own keep rate; None when done."""
    wanted = run.file.augment.rows
    room = int(wanted * run.file.augment.max_requests_per_row) - sum(asked.values())
    hopeless = not sum(kept.values()) and sum(asked.values()) >= HOPELESS
    if sum(kept.values()) >= wanted or room <= 0 or hopeless:
        return None
    target = ceil(wanted / len(asked))
    more: dict[str, int] = {}
    for label, n in asked.items():
        rate = max(kept[label] / n, 0.05)
        short = max(0, target - kept[label])
        more[label] = min(ceil(short / rate), room)
        room -= more[label]
    return {label: n + more[label] for label, n in asked.items()}


def calibrate_judges(run: Run, context: Context, ask: Asker, terminal: Terminal) -> dict[int, Calibration]:
    """Measure every judge on the seeds, right label against wrong ones; by position among the filters."""
    calibrations: dict[int, Calibration] = {}
    for i, filter_ in enumerate(run.file.augment.filters):
        if not isinstance(filter_, Judge):
            continue
        rows = filter_.calibration_rows(context)
        answers = _asked_of_judge(filter_.ask(rows, context, purpose="calibrate"), ask, terminal)
        if lack_logprobs(answers):
            terminal.say("judge: the teacher gives no log-probabilities, so its written choice is read, as 0 or 1")
            requests = filter_.ask(rows, context, purpose="calibrate", written=True)
            answers = _asked_of_judge(requests, ask, terminal)
        calibrations[i] = filter_.calibrate(rows, answers, context, random_seed=run.file.random_seed)
        terminal.say(calibrations[i].sentence())
    return calibrations


def _asked_of_judge(requests: Sequence[Request], ask: Asker, terminal: Terminal) -> list[Completion]:
    """One completion per request; only those of the first few where these show that no log-probabilities come."""
    wanted = len({r.key for r in requests})
    with terminal.progress("calibrating the judge", wanted) as advance:
        before = len(ask.answers)
        found = ask(requests[:PROBES], lambda answered: advance(answered - before, ""))
        if not (requests and requests[0].sampling.logprobs and lack_logprobs(list(found.values()))):
            found = ask(requests, lambda answered: advance(answered - before, ""))
    return [found.get(request.key, missing(request)) for request in requests]


def missing(request: Request) -> Completion:
    """What stands for a call that was stopped before it was made."""
    return Completion(request=request.key, finish_reason="error", error="stopped")


# --- from completions to rows -----------------------------------------------------------------------------


def _rounds(
    run: Run,
    teacher: str,
    own: Sequence[Row],
    context: Context,
    calibrations: dict[int, Calibration],
    ask: Asker,
    terminal: Terminal,
) -> tuple[list[Judged], tuple[Lost, ...], Funnel]:
    """Ask, filter, and ask again for what is missing."""
    if own:
        judged = judge_rows(run, list(own), context, calibrations, ask)
        return judged, (), _funnel(run, judged, Parsed(list(own)), len(own), calibrations, ask)
    count: dict[str, int] | None = first_round(run)
    while count is not None:
        total = sum(count.values())
        requests = requests_for(run, teacher, count)
        parsed, judged, requested = _round(run, requests, total, context, calibrations, ask, terminal)
        kept = Counter("" if run.task.free else r.row.answer for r in judged if r.kept)
        count = next_round(run, count, kept)
        if ask.stop():
            ask.cut_short |= count is not None
            break
        if count is not None:
            more = sum(count.values()) - total
            terminal.say(f"{sum(kept.values())} of {run.file.augment.rows} rows so far; asking {more} more")
    return judged, parsed.lost, _funnel(run, judged, parsed, requested, calibrations, ask)


def _round(
    run: Run,
    requests: Iterator[Request],
    total: int,
    context: Context,
    calibrations: dict[int, Calibration],
    ask: Asker,
    terminal: Terminal,
) -> tuple[Parsed, list[Judged], int]:
    """Ask and judge block by block, so that progress shows kept rows and a stopped run has judged ones.

    The number is that of the requests: fewer than all where whole blocks give not a single row.
    """
    judges = sum(c.usable for c in calibrations.values())
    asked: list[Request] = []
    before, kept, started, tokens = len(ask.answers), 0, time.monotonic(), ask.fresh_tokens
    with terminal.progress("augment", total * (1 + judges)) as advance:

        def tick(answered: int) -> None:
            speed = (ask.fresh_tokens - tokens) / max(time.monotonic() - started, 1e-9)
            advance(answered - before, f"rows kept {kept}/{run.file.augment.rows}, {speed:.0f} tokens/s")

        while len(asked) < total:
            # never more than was asked so far: memory grows with the work that is done
            block = list(islice(requests, max(BLOCK, min(total // 16, len(asked)))))
            asked += block
            ask(block, tick)
            parsed = parse(run, asked, ask.answers)
            judged = judge_rows(run, parsed.rows, context, calibrations, ask, tick)
            kept = sum(r.kept for r in judged)
            if ask.stop():
                ask.cut_short |= len(asked) < total
                break
            if not kept:
                return parsed, judged, len(asked)
    return parsed, judged, total


def judge_rows(
    run: Run,
    rows: list[Row],
    context: Context,
    calibrations: dict[int, Calibration],
    ask: Asker,
    tick: Callable[[int], None] = lambda answered: None,
) -> list[Judged]:
    """Every filter's verdict on every row."""
    columns: list[list[Verdict]] = []
    for i, filter_ in enumerate(run.file.augment.filters):
        if not isinstance(filter_, Judge):
            columns.append(filter_.verdicts(rows, context))
            continue
        answers: list[Completion] = []
        if calibrations[i].usable:
            requests = filter_.ask(rows, context, written=calibrations[i].written)
            found = ask(requests, tick)
            answers = [found.get(request.key, missing(request)) for request in requests]
        columns.append(filter_.verdicts(rows, answers, context, calibrations[i]))
    return [Judged(row=row, verdicts=verdicts) for row, *verdicts in zip(rows, *columns, strict=True)]


def _funnel(
    run: Run,
    judged: list[Judged],
    parsed: Parsed,
    requested: int,
    calibrations: dict[int, Calibration],
    ask: Asker,
) -> Funnel:
    rejected = [r for r in judged if not r.kept]
    kept = Counter(r.row.answer for r in judged if r.kept)
    lost = Counter(one.lost for one in parsed.lost)
    dropped, would_drop = count_drops(rejected, [f.kind for f in run.file.augment.filters])
    teacher, answers = run.file.teacher, ask.answers.values()
    prompt_tokens = sum(c.prompt_tokens for c in answers)
    completion_tokens = sum(c.completion_tokens for c in answers)
    cost = None
    if teacher and (teacher.prompt_price is not None or teacher.completion_price is not None):
        prices = teacher.prompt_price or 0.0, teacher.completion_price or 0.0
        cost = (prompt_tokens * prices[0] + completion_tokens * prices[1]) / 1e6
    return Funnel(
        wanted=requested if run.file.augment.rows_file else run.file.augment.rows,
        requested=requested,
        pending=requested - len(parsed.rows) - len(parsed.lost),
        failed=lost["failed"],
        no_answer=lost["no answer"],
        unparsed=lost["unparsed"],
        dropped=dropped,
        would_drop=would_drop,
        kept=sum(kept.values()),
        kept_by_label={label: kept[label] for label in run.task.labels} or {"": kept.total()},
        notes=tuple(c.sentence() for c in calibrations.values()),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        calls_paid=ask.paid,
        calls_cached=len(ask.answers) - ask.paid,
        seconds=round(ask.seconds, 1),
        cost=cost,
    )
