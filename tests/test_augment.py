"""Augment with a scripted teacher: sums, purity, resuming, dry run, the judge's use, what a person reads."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from harness.augment.current import kept_rows, made_rows
from harness.augment.funnel import Funnel
from harness.augment.plan import plan_rows
from harness.augment.rows import Judged
from harness.augment.sent import PROMPTS
from harness.augment.stage import augment
from harness.commands.dry_run import describe_augment
from harness.config.load import load_run
from harness.config.run import Run
from harness.core.json_file import read_jsonl
from harness.core.terminal import Stop
from harness.engines.scripted import ScriptedEngine
from harness.errors import Interrupted, MachineError, UsageError
from harness.models.teachers import Teachers
from harness.records import Completion, Request, Row
from tests.fakes import Passing, Pressed, Quiet
from tests.process import COMMAND, harness
from tests.project import write_project

TEACHERS = Teachers(own="script@1")


def load(root: Path, **changes: object) -> Run:
    return load_run(write_project(root, "nobody", **changes))


def scripted(run: Run, **settings: int) -> ScriptedEngine:
    return ScriptedEngine.from_file(run.root / "prompts/shop/teacher.json", **settings)


def run_it(run: Run, shuffle: int = 0, die_after: float = math.inf) -> tuple[Passing, Quiet, Funnel | None]:
    def die(completions: int) -> None:
        if completions > die_after:
            raise RuntimeError("killed")

    engine, terminal = Passing(scripted(run), die, random.Random(shuffle).shuffle), Quiet()
    return engine, terminal, augment(run, TEACHERS, lambda: engine, terminal, Stop())


def pressing(run: Run, at: int, **settings: int) -> tuple[Passing, Pressed]:
    """An engine during whose work Ctrl-C is pressed, at its nth completion."""
    stop = Pressed()
    return Passing(scripted(run, **settings), lambda completions: stop.press() if completions == at else None), stop


def files(run: Run) -> dict[str, bytes]:
    return {name: (run.folder / "augment" / name).read_bytes() for name in ("train.jsonl", "rejected.jsonl")}


def test_the_funnel_adds_up_and_every_row_has_every_verdict(tmp_path: Path) -> None:
    run = load(tmp_path)
    _, terminal, funnel = run_it(run)
    assert funnel is not None
    kept = [row for _, row in read_jsonl(run.folder / "augment" / "train.jsonl", Row)]
    rejected = [line for _, line in read_jsonl(run.folder / "augment" / "rejected.jsonl", Judged)]
    assert len(kept) == funnel.kept >= run.file.augment.rows
    assert len(kept) + len(rejected) == funnel.requested
    assert sum(funnel.dropped.values()) == len(rejected)
    kinds = [f.kind for f in run.file.augment.filters]
    assert rejected
    for line in rejected:
        assert [v.filter for v in line.verdicts] == kinds
        assert any(not v.keep and v.reason for v in line.verdicts)
    assert {row.messages[-1].content for row in kept} <= set(run.task.labels)
    assert all(row.provenance.request and row.provenance.template_digest for row in kept)
    assert any("funnel" in said and "kept" in said for said in terminal.said)


def test_what_filters_said_of_kept_rows_and_what_the_teacher_was_sent_lie_beside_them(tmp_path: Path) -> None:
    run = load(tmp_path)
    engine, _, _ = run_it(run)
    asked = {request.key: request.prompt for request in engine.requests if request.origin.purpose == "generate"}
    kept = kept_rows(run)
    made = made_rows(run)
    verdicts = made.verdicts
    assert made.kept == kept
    assert [[v.filter for v in said] for said in verdicts] == [[f.kind for f in run.file.augment.filters]] * len(kept)
    assert all(v.keep and v.row == row.id for row, said in zip(kept, verdicts, strict=True) for v in said)
    keys = {row.provenance.request for row in kept}
    prompts = made.prompts
    assert keys <= prompts.keys() == set(made.requests)
    assert all(prompts[key] == asked[key] for key in keys & asked.keys())
    assert keys & asked.keys()
    assert not list((run.folder / "augment").glob(".prompts*"))
    path = run.folder / "augment" / PROMPTS
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(UsageError, match=PROMPTS):
        made_rows(run)
    assert kept_rows(run) == kept  # training reads no prompts
    run_it(run)
    assert made_rows(run).prompts == prompts  # stored calls are written down again


def test_rows_do_not_depend_on_the_order_of_arrival(tmp_path: Path) -> None:
    first, second = load(tmp_path / "a"), load(tmp_path / "b")
    run_it(first, shuffle=1)
    run_it(second, shuffle=2)
    assert files(first) == files(second)


def test_killed_midway_it_goes_on_and_pays_only_what_was_not_committed(tmp_path: Path) -> None:
    whole, broken = load(tmp_path / "whole"), load(tmp_path / "broken")
    paid, _, _ = run_it(whole)
    with pytest.raises(RuntimeError, match="killed"):
        run_it(broken, die_after=40)
    assert not (broken.folder / "augment" / "manifest.json").exists()
    again, _, _ = run_it(broken)
    assert files(whole) == files(broken)
    assert len(again.completed) == len(paid.completed) - 40


def test_again_with_nothing_changed_asks_nothing(tmp_path: Path) -> None:
    run = load(tmp_path)
    run_it(run)
    engine, terminal, funnel = run_it(run)
    assert funnel is None
    assert not engine.completed
    assert "nothing to do" in terminal.said[0]


def test_a_changed_filter_asks_the_teacher_nothing(tmp_path: Path) -> None:
    run_it(load(tmp_path))
    augment_section = json.loads(json.dumps(load(tmp_path).file.model_dump(mode="json")["augment"]))
    augment_section["filters"][1]["max_words"] = 9
    engine, _, funnel = run_it(load(tmp_path, augment={**augment_section, "max_requests_per_row": 2.5}))
    assert funnel is not None
    assert not engine.completed
    assert funnel.calls_paid == 0


def test_more_rows_leave_the_earlier_requests_as_they_were(tmp_path: Path) -> None:
    run = load(tmp_path)
    plan = plan_rows(run, TEACHERS)
    few, many = (
        [r for place in plan.places(dict.fromkeys(run.task.labels, n)) for r in plan.requests(plan.begin(place))]
        for n in (5, 9)
    )
    assert [r.key for r in many][: len(few)] == [r.key for r in few]
    assert len({r.key for r in many}) == len(many)


def test_the_dry_run_counts_what_the_run_asks(tmp_path: Path) -> None:
    run = load(tmp_path)
    words = lambda text: len(text.split())  # noqa: E731
    planned = describe_augment(run, TEACHERS, words)
    engine, _, funnel = run_it(run)
    line = next(line for line in planned.splitlines() if line.strip().startswith("in all")).split()
    assert int(line[2]) == len(engine.completed)
    assert funnel is not None
    spent = funnel.prompt_tokens + funnel.completion_tokens
    assert abs(float(line[4]) - spent) < 0.2 * spent


def test_the_price_is_that_of_this_round_and_of_the_most_rows_that_may_be_requested(tmp_path: Path) -> None:
    path = write_project(tmp_path, "nobody")
    priced = ["teacher.prompt_price=500000", "teacher.completion_price=1000000"]  # one a token at the dearer

    def planned(*settings: str) -> tuple[list[float], list[float]]:
        """(tokens of each line, prices)."""
        text = describe_augment(load_run(path, [*priced, *settings]), TEACHERS, lambda text: len(text.split()))
        tokens = [float(n) for n in re.findall(r"requests +(\d+) tokens", text)]
        return tokens, [float(n) for n in re.findall(r"(\d+\.\d{4})", text)]

    (generate, calibrate, judge, total), prices = planned()
    furthest = calibrate + (generate + judge) * 96 / 60  # 24 rows: 2.5 requests each at first, 4 at most
    assert prices == pytest.approx([total, furthest], abs=2)
    (*_, total), prices = planned("augment.requests_per_row=4")
    assert prices == pytest.approx([total], abs=2), "nothing more may be asked"


def test_a_judge_that_cannot_tell_is_said_so_and_not_asked(tmp_path: Path) -> None:
    run = load(tmp_path, shuffle_labels=True)
    engine, terminal, funnel = run_it(run)
    assert any("not used" in said for said in terminal.said)
    assert funnel is not None
    assert funnel.dropped["judge"] == 0
    assert {request.origin.purpose for request in engine.requests} == {"generate", "calibrate"}


def test_too_few_rows_are_explained(tmp_path: Path) -> None:
    run = load(tmp_path)
    changed = load_run(
        tmp_path / "runs/shop.yaml", ["augment.filters.1.min_words=15", "train.sizes=[0,1]", "ship.size=1"]
    )
    assert run.name == changed.name
    _, terminal, funnel = run_it(changed)
    assert funnel is not None
    assert funnel.kept < funnel.wanted
    assert "max_requests_per_row" in terminal.said[-1]


def test_when_every_call_fails_nothing_is_written(tmp_path: Path) -> None:
    run = load(tmp_path)
    broken = ScriptedEngine(lambda r: Completion(request=r.key, finish_reason="error", error="no such model"))
    with pytest.raises(MachineError, match="no such model"):
        augment(run, TEACHERS, lambda: broken, Quiet(), Stop())
    assert not (run.folder / "augment" / "train.jsonl").exists()


def test_stopping_keeps_what_was_finished_and_says_how_to_go_on(tmp_path: Path) -> None:
    run = load(tmp_path)
    stopped, stop = pressing(run, 70, concurrency=8)
    with pytest.raises(Interrupted, match="go on with: make augment RUN=shop"):
        augment(run, TEACHERS, lambda: stopped, Quiet(), stop)
    funnel = Funnel.model_validate_json((run.folder / "augment" / "funnel.json").read_text())
    assert funnel.pending > 0
    engine, _, _ = run_it(run)
    whole = load(tmp_path / "whole")
    paid, _, _ = run_it(whole)
    assert files(run) == files(whole)
    assert len(engine.completed) == len(paid.completed) - len(stopped.completed)


def test_a_stop_after_the_last_call_leaves_nothing_to_go_on_with(tmp_path: Path) -> None:
    whole, run = load(tmp_path / "whole"), load(tmp_path)
    calls = len(run_it(whole)[0].completed)

    engine, stop = pressing(run, calls)
    with pytest.raises(Interrupted, match=r"every finished call is kept$"):
        augment(run, TEACHERS, lambda: engine, Quiet(), stop)
    assert files(run) == files(whole)
    assert run_it(run)[2] is None


def test_own_rows_need_no_teacher(tmp_path: Path) -> None:
    own = [{"text": f"my own text number {i} about it", "label": "parcel"} for i in range(9)]
    write_project(tmp_path, "nobody")
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in own))
    settings = ["augment.templates=[]", "augment.rows_file=mine.jsonl", "augment.filters=[{kind: duplicate}]"]
    run = load_run(tmp_path / "runs/shop.yaml", settings)
    engine, _, funnel = run_it(run)
    assert funnel is not None
    assert (funnel.kept, engine.completed) == (9, [])


def test_a_funnel_that_does_not_add_up_cannot_exist() -> None:
    with pytest.raises(ValidationError, match="does not add up"):
        Funnel(wanted=5, requested=10, kept=5, dropped={"length": 4}, kept_by_label={"a": 5})


def test_money_is_counted_when_prices_are_given(tmp_path: Path) -> None:
    run = load_run(write_project(tmp_path, "nobody"), ["teacher.prompt_price=2", "teacher.completion_price=4"])
    _, _, funnel = run_it(run)
    assert funnel is not None
    expected = (funnel.prompt_tokens * 2 + funnel.completion_tokens * 4) / 1e6
    assert funnel.cost == pytest.approx(expected)


def test_a_plan_takes_no_more_memory_for_more_rows(tmp_path: Path) -> None:
    write_project(tmp_path, "smollm2-135m-instruct")
    limit = 2 * 2**30  # bytes; the requests of so many rows would take a hundred times as much
    program = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))\n{COMMAND}"
    words = ["augment", "shop", "--dry-run", "--set", "augment.max_requests_per_row=2.5", "--set"]
    most = harness(tmp_path, *words, "augment.rows=10000000", program=program)
    assert most.returncode == 0, most.stderr
    assert "25000002 requests" in most.stdout
    more = harness(tmp_path, *words, "augment.rows=10000001", program=program)
    assert (more.returncode, "augment.rows" in more.stderr) == (2, True)
    assert "10000000" in more.stderr


def test_memory_grows_with_what_was_asked(tmp_path: Path) -> None:
    """A run of ten million rows that is stopped after its first answers has made few requests."""
    run = load_run(write_project(tmp_path, "nobody"), ["augment.rows=10000000", "augment.filters=[]"])
    engine, stop = pressing(run, 40)
    with pytest.raises(Interrupted, match="of 10000000 rows"):
        augment(run, TEACHERS, lambda: engine, Quiet(), stop)
    assert 40 <= len(engine.requests) < 100


def test_two_filters_of_a_kind_have_a_line_each(tmp_path: Path) -> None:
    filters = ["{kind: length, max_words: 9}", "{kind: length, max_words: 1, on: answer}", "{kind: duplicate}"]
    run = load_run(write_project(tmp_path, "nobody"), [f"augment.filters=[{', '.join(filters)}]"])
    _, _, funnel = run_it(run)
    assert funnel is not None
    first, second, third = funnel.would_drop
    assert (first, second, third) == ("length(max_words=9)", "length(max_words=1, on=answer)", "duplicate")
    rejected = [line for _, line in read_jsonl(run.folder / "augment" / "rejected.jsonl", Judged)]
    assert {v.filter for line in rejected for v in line.verdicts} == {first, second, third}
    assert funnel.would_drop[first] == sum(not line.verdicts[0].keep for line in rejected) > 0


def test_a_judge_that_failed_is_asked_again(tmp_path: Path) -> None:
    run = load(tmp_path)
    healthy = Passing(scripted(run))

    class Failing:
        def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
            for n, completion in enumerate(healthy.generate(requests)):
                key = completion.request
                judged = any(r.key == key and r.origin.purpose == "judge" for r in healthy.requests)
                failed = Completion(request=key, finish_reason="error", error="HTTP 503")
                yield failed if judged and n % 2 else completion

    augment(run, TEACHERS, Failing, Quiet(), Stop())
    engine, _, funnel = run_it(run)
    assert funnel is not None, "a row that a failed judge dropped is no reason to be done"
    assert {request.origin.purpose for request in engine.requests} == {"judge"}
    whole = load(tmp_path / "whole")
    run_it(whole)
    assert files(run) == files(whole)
