"""The augment stage: a teacher writes rows, filters judge them, the funnel tells what became of each.

    seeds + templates -> requests -> completions -> rows -> verdicts -> train.jsonl, rejected.jsonl, funnel.json

Beside them lie verdicts.jsonl, what every filter said of each kept row, and prompts.jsonl, what the teacher was sent.

Rows are a pure function of the completions in request order, whatever order they arrived in. Every filter
judges every row, so that changing one filter asks the teacher nothing.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.augment.ask import Asker
from harness.augment.current import FUNNEL, finished_rows, inputs_digest
from harness.augment.data_report import REPORT, write_data_report
from harness.augment.forecast import read_forecast
from harness.augment.funnel import (
    Calls,
    Funnel,
    breakdown,
    count_drops,
    count_facets,
    ordered_rows,
    short_of,
    shortfall,
)
from harness.augment.plan import Plan
from harness.augment.rows import DROPPED, KEPT, VERDICTS, Judged, Lost, Said
from harness.augment.scheduler import Scheduler
from harness.augment.sent import recording
from harness.augment.summary import ended_by_cap, tell, too_few
from harness.augment.work import Students, at_work, no_students, progress
from harness.config.inputs import guarded_suites, rows_source
from harness.config.run import Run
from harness.core.environment import environment
from harness.core.json_file import read_jsonl
from harness.core.store import Manifest, unseal, write_json, write_jsonl, write_manifest
from harness.core.terminal import Stop, Terminal
from harness.engines.protocols import Generator
from harness.errors import Interrupted
from harness.filters import Rule, filter_names
from harness.models.teachers import Teachers
from harness.records import Row


def augment(
    run: Run,
    teachers: Teachers,
    engine: Callable[[], Generator],
    terminal: Terminal,
    stop: Stop,
    students: Students = no_students,
) -> Funnel | None:
    """Make the run's rows and return their funnel, or None when there was nothing to do.

    `engine` builds what answers for the teachers, and is called only if a call is missing.
    `students` loads a model by which a step picks.
    Raises Interrupted after writing what there is, MachineError when every call fails. Raises after writing, too, when
    no training could use what is kept: see `summary.too_few`.
    """
    folder = run.folder / "augment"
    manifest, unavailable = finished_rows(run, teachers)
    if manifest:
        for name in unavailable:
            terminal.say(f"augment: the rows of {name} are not at hand now; what was checked against them stands")
        terminal.say(f"augment: nothing to do ({manifest.summary}; same seeds, templates, filters and teacher)")
        if not (folder / REPORT).is_file():
            write_data_report(run, [row for _, row in read_jsonl(folder / KEPT, Row)], terminal)
        return None

    with recording(folder) as sent, at_work(run, teachers, engine, terminal, stop, students, sent) as work:
        plan, rules, ask = work.plan, work.rules, work.ask
        judged, lost, requested = make_rows(plan, work.scheduler, terminal)
        unseal(folder)  # what is written from here on is whole when the manifest is back
        files = sent.keep()

    kept = [row for row in judged if row.kept]
    rows = [row.row for row in kept]
    rejected = [row for row in judged if not row.kept]
    funnel = funnel_of(plan, rules, judged, lost, requested, ask)
    problem = too_few(f"runs/{run.name}.yaml: augment", run.file.train, funnel, rejected, lost, bool(plan.chains))
    # failures, a judge's too, are asked again
    failures = any(answer.finish_reason == "error" for answer in ask.answers.values())
    partial = ask.cut_short or problem is not None or (failures and not funnel.complete)
    dropped: list[Judged | Lost] = [*rejected, *(line for line in lost if line.lost != "failed")]
    _store(run, teachers, kept, dropped, funnel, files, partial=partial)
    write_data_report(run, () if stop() else rows, terminal)
    most = plan.settings.max_requests_per_row if plan.chains else None
    tell(funnel, rows, rejected, lost, terminal, random.Random(plan.random_seed), most)
    if not partial and plan.chains and (expected := read_forecast(folder)):
        came = (funnel.requested, funnel.kept, funnel.prompt_tokens + funnel.completion_tokens)
        terminal.say(f"  the preview expected {expected.compared(*came)}")
    if stop():
        raise Interrupted(
            f"stopped: {funnel.kept} of {funnel.wanted} rows are in {folder.relative_to(run.root)}/train.jsonl;"
            " every finished call is kept" + (f"; go on with: {run.command('augment')}" if partial else "")
        )
    if ask.cap and not funnel.complete:
        terminal.say(f"  {ended_by_cap(ask.cap, funnel, rejected, lost)}")
    if problem is not None:
        raise problem
    return funnel


def _store(
    run: Run,
    teachers: Teachers,
    kept: Sequence[Judged],
    dropped: Sequence[Judged | Lost],
    funnel: Funnel,
    files: Sequence[Path],
    *,
    partial: bool,
) -> None:
    """Write what came of the work, and the manifest that says what it is of. `files` are there already."""
    folder, guarded = run.folder / "augment", guarded_suites(run.file.augment.filters, run.suites)
    write_jsonl(folder / KEPT, (judged.row for judged in kept))
    write_jsonl(folder / VERDICTS, (Said(verdicts=judged.verdicts) for judged in kept), defaults=False)
    write_jsonl(folder / DROPPED, dropped)
    write_json(folder / FUNNEL, funnel.model_dump())
    manifest = Manifest(
        stage="augment",
        inputs=inputs_digest(teachers, rows_source(run), guarded),
        settings=rows_source(run),
        suites=guarded,
        partial=partial,
        summary=f"{funnel.kept} rows kept of {funnel.requested} asked{shortfall(funnel.short)}",
        environment=environment(run.root),
    )
    write_manifest(folder, manifest, [*(folder / name for name in (KEPT, DROPPED, VERDICTS, FUNNEL)), *files])


def make_rows(plan: Plan, scheduler: Scheduler, terminal: Terminal) -> tuple[list[Judged], list[Lost], int]:
    """Have the rows written and judged, round by round, until enough are kept.

    Returns rows with their verdicts, what gave no row, and the number of rows begun.
    """
    if plan.own:
        with progress(plan, scheduler, len(plan.own), terminal) as tick:
            scheduler.judge(plan.own, tick)
        if not plan.chains or scheduler.ask.ended():
            return *scheduler.outcome(), len(plan.own)
    own_kept = by_label_of(plan, scheduler.outcome()[0])
    count, begun = plan.first_round(), 0
    while True:
        with progress(plan, scheduler, sum(count.values()) - begun, terminal) as tick:
            scheduler.write(plan.places(count), plan, tick)
        judged, lost = scheduler.outcome()
        by_label = by_label_of(plan, judged)
        requested = len(scheduler.order) if scheduler.fruitless else len(plan.own) + sum(count.values())
        seen = count_facets(judged, lost) if plan.settings.quotas else {}
        more = plan.next_round(count, by_label, own_kept, seen)
        scheduler.ask.cut_short |= more is not None and scheduler.ask.ended()
        if more is None or scheduler.ask.ended():
            return judged, lost, requested
        begun = sum(count.values())
        missing = sum(more.count.values()) - begun
        so_far = f"{by_label.total()} of {plan.settings.rows} rows so far"
        so_far += shortfall(short_of(ordered_rows(plan.settings.quotas, seen)))
        terminal.say(f"{so_far}; asking {missing} more")
        count, plan = more.count, plan.in_round(more, tuple(row.row for row in judged if row.kept))


def by_label_of(plan: Plan, judged: Sequence[Judged]) -> Counter[str]:
    """Kept rows of each label. A task without labels has one, the empty name."""
    return Counter("" if plan.task.free else row.row.answer for row in judged if row.kept)


def in_steps(plan: Plan, lost: Sequence[Lost]) -> dict[str, Any]:
    """What the funnel says of a chain's steps. Of chains of one step it says nothing more."""
    filtered = Counter(f"{line.step}: {line.filter}" if line.step else line.filter for line in lost if line.filter)
    names = [planned.step.name or "" for planned in plan.chains[0]] if plan.chains else []
    if len(names) < 2:
        return {"filtered": dict(filtered)}
    ended = Counter(line.step for line in lost if not line.filter)
    calls = [planned.step.samples for planned in plan.chains[0]]
    saved = sum(sum(calls[names.index(line.step) + 1 :]) for line in lost if line.filter)
    return {
        "filtered": dict(filtered),
        "ended_at": {name: ended[name] for name in names if ended[name]},
        "calls_saved": saved,
    }


def funnel_of(
    plan: Plan,
    rules: Sequence[Rule],
    judged: Sequence[Judged],
    lost: Sequence[Lost],
    requested: int,
    ask: Asker,
) -> Funnel:
    """What became of each request, and what it took."""
    rejected = [row for row in judged if not row.kept]
    by_label = Counter(row.row.answer for row in judged if row.kept)
    steps = Counter(line.lost for line in lost)
    dropped, would_drop = count_drops(rejected, filter_names(plan.settings.filters))
    spent, counts = ask.spent, count_facets(judged, lost)
    return Funnel(
        wanted=plan.settings.rows if plan.chains else requested,
        requested=requested,
        pending=requested - len(judged) - len(lost),
        failed=steps["failed"],
        no_answer=steps["no answer"],
        unparsed=steps["unparsed"],
        not_picked=steps["not picked"],
        **in_steps(plan, lost),
        dropped=dropped,
        would_drop=would_drop,
        kept=by_label.total(),
        kept_by_label={label: by_label[label] for label in plan.task.labels} or {"": by_label.total()},
        by=breakdown(counts),
        quotas=ordered_rows(plan.settings.quotas, counts),
        notes=tuple(rule.note for rule in rules if rule.note),
        prompt_tokens=spent.prompt_tokens,
        completion_tokens=spent.completion_tokens,
        calls_paid=ask.paid,
        calls_cached=len(ask.answers) - ask.paid,
        calls=tuple(
            Calls(purpose=purpose, template=template, teacher=model, calls=asked.calls, money=asked.money)
            for (purpose, template, model), asked in sorted(ask.asked.items())
        ),
        seconds=round(spent.seconds, 1),
        cost=spent.money,
        unpriced=tuple(sorted(ask.unpriced)) if spent.money is not None else (),
    )
