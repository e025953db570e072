"""Several teachers in one run: who writes what, what each of them costs, and what is refused before any is asked."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.augment.plan import plan_rows
from harness.augment.preview import preview
from harness.augment.rows import writers
from harness.augment.stage import augment
from harness.builders import teachers_of
from harness.commands.dry_run import describe_augment, unresolved
from harness.config.inputs import rows_source
from harness.config.load import load_run
from harness.config.run import Run
from harness.core.terminal import Stop
from harness.engines.call_cache import CallCache
from harness.errors import UsageError
from harness.models.teachers import NOBODY, Teachers
from harness.records import Request
from tests.fakes import FakeGenerator, Passing, Quiet
from tests.http_server import Endpoint, serving
from tests.test_steps import ANSWER, ASK, project, rows_of, say

TEACHERS = Teachers(own="t@1", named={"strong": "s@2"})
STRONG = {"engine": "openai", "model": "s", "base_url": "http://127.0.0.1:9/v1"}
MIXED = {"teacher": 3, "strong": 1}


def with_teachers(run: Run, teachers: dict[str, Any] | None = None, **own: Any) -> Run:
    path = run.root / "runs/q.yaml"
    written = yaml.safe_load(path.read_text())
    written["teacher"] |= own
    written["teachers"] = {"strong": STRONG} if teachers is None else teachers
    path.write_text(yaml.safe_dump(written, sort_keys=False))
    return load_run(path)


def made(root: Path, steps: list[dict[str, Any]], **changes: Any) -> Run:
    """The run as it is written before it has its further teachers: until then a step that names one is refused."""
    run = project(root, [ASK, ANSWER], **changes)
    path = root / "runs/q.yaml"
    written = yaml.safe_load(path.read_text())
    written["augment"]["steps"] = steps
    path.write_text(yaml.safe_dump(written, sort_keys=False))
    return run


def asked(run: Run) -> list[Request]:
    engine = Passing(FakeGenerator(lambda request: "yes" if request.origin.purpose == "judge" else say(request)))
    augment(run, TEACHERS, lambda: engine, Quiet(), Stop())
    return engine.requests


def test_another_teacher_writes_another_step(tmp_path: Path) -> None:
    run = with_teachers(made(tmp_path, [ASK, ANSWER | {"teacher": "strong"}]))
    assert Counter((r.origin.step, r.model) for r in asked(run)) == {("question", "t@1"): 20, ("answer", "s@2"): 20}
    row = rows_of(run)[0]
    assert [step.teacher for step in row.provenance.steps] == ["t@1", "s@2"]
    assert row.provenance.teacher == "s@2", "who wrote the last step"
    assert writers(row) == {"t@1", "s@2"}, "a judge among them may favour what sounds like it"


def test_weights_deal_rows_out_and_the_funnel_counts_each_teachers(tmp_path: Path) -> None:
    run = with_teachers(made(tmp_path, [ASK | {"teacher": MIXED}, ANSWER | {"teacher": MIXED}], rows=200))
    engine = Passing(FakeGenerator(say))
    funnel = augment(run, TEACHERS, lambda: engine, Quiet(), Stop())
    rows = rows_of(run)
    writers = Counter(tuple(step.teacher for step in row.provenance.steps) for row in rows)
    assert writers.keys() == {("t@1", "t@1"), ("s@2", "s@2")}, "steps with the same weights have one teacher in a row"
    assert 30 <= writers[("s@2", "s@2")] <= 70
    assert funnel is not None
    for step in ("question", "answer"):
        begun = {name: count for name, (count, _) in funnel.by[f"teacher of {step}"].items()}
        assert begun == {"t@1": writers[("t@1", "t@1")], "s@2": writers[("s@2", "s@2")]}
    assert augment(run, TEACHERS, lambda: pytest.fail("asked again"), Quiet(), Stop()) is None


def test_a_row_counts_for_who_wrote_each_step_and_one_that_is_lost_for_whom_it_came_to(tmp_path: Path) -> None:
    """The other teacher writes all answers: that says nothing of the teachers between whom the questions are dealt."""
    run = with_teachers(made(tmp_path, [ASK | {"teacher": MIXED}, ANSWER | {"teacher": "strong"}], rows=100))

    def says(request: Request) -> str:
        late = request.origin.step == "answer" and request.sample_index % 5 == 0
        return "" if late or (request.model == "t@1" and request.sample_index % 2) else say(request)

    funnel = augment(run, TEACHERS, lambda: Passing(FakeGenerator(says)), Quiet(), Stop())
    assert funnel is not None
    kept = Counter(row.provenance.steps[0].teacher for row in rows_of(run))
    plan = plan_rows(run, TEACHERS)
    begun = Counter(plan.requests(plan.begin(place))[0].model for place in plan.places({"": funnel.requested}))
    assert funnel.by == {"teacher of question": {name: (begun[name], kept[name]) for name in begun}}
    assert 0 < kept["t@1"] < begun["t@1"] / 2
    assert 0 < kept["s@2"] < begun["s@2"]
    assert "kept by teacher of question: t@1" in funnel.table()


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.floats(0.1, 9), st.floats(0.1, 9))
def test_who_writes_a_row_depends_on_the_row_alone(
    tmp_path_factory: pytest.TempPathFactory, random_seed: int, first: float, second: float
) -> None:
    root = tmp_path_factory.mktemp("weights")
    run = made(root, [ASK | {"teacher": {"teacher": first, "strong": second}}, ANSWER])
    with_teachers(run)
    run = load_run(root / "runs/q.yaml", [f"random_seed={random_seed}"])
    plan = plan_rows(run, TEACHERS)
    few, many = ([plan.requests(plan.begin(p))[0].model for p in plan.places({"": n})] for n in (20, 400))
    assert many[:20] == few
    share = first / (first + second)
    assert abs(many.count("t@1") - 400 * share) <= 5 * (400 * share * (1 - share)) ** 0.5 + 1


def test_each_teachers_tokens_cost_its_own_price(tmp_path: Path) -> None:
    run = made(tmp_path, [ASK, ANSWER | {"teacher": "strong"}])
    prices = {"strong": STRONG | {"prompt_price": 100, "completion_price": 100}}
    run = with_teachers(run, prices, prompt_price=1, completion_price=1)
    engine = Passing(FakeGenerator(say))
    funnel = augment(run, TEACHERS, lambda: engine, Quiet(), Stop())
    assert funnel is not None
    assert funnel.cost is not None
    spent: Counter[str] = Counter()
    model_of = {request.key: request.model for request in engine.requests}
    cache = CallCache(run.cache / "calls.sqlite")
    for key, completion in cache.get(list(model_of)).items():
        spent[model_of[key]] += completion.prompt_tokens + completion.completion_tokens
    cache.close()
    assert funnel.cost == pytest.approx((spent["t@1"] + 100 * spent["s@2"]) / 1e6)
    planned = describe_augment(load_run(run.root / "runs/q.yaml", ["augment.rows=30"]), TEACHERS, len)
    assert "(teachers t@1, s@2)" in planned
    assert "in money" in planned


def test_another_teacher_judges(tmp_path: Path) -> None:
    (tmp_path / "prompts/q").mkdir(parents=True)
    (tmp_path / "prompts/q/judge.j2").write_text("Is {{ candidate }} good?")
    pick = {"by": "judge", "template": "prompts/q/judge.j2", "teacher": "strong"}
    run = with_teachers(made(tmp_path, [ASK, ANSWER | {"samples": 2, "pick": pick, "sampling": {"temperature": 1}}]))
    models = {(r.origin.purpose, r.model) for r in asked(run)}
    assert models == {("generate", "t@1"), ("judge", "s@2")}


def lines_of(planned: str) -> dict[str, tuple[int, int]]:
    """Line of a plan -> (requests, tokens)."""
    found = re.findall(r"^  (\S.*?) +(\d+) requests +(\d+) tokens$", planned, re.M)
    assert len({name for name, *_ in found}) == len(found)
    return {name: (int(requests), int(tokens)) for name, requests, tokens in found}


def test_a_plan_takes_each_judges_price_and_counts_once_what_is_asked_once(tmp_path: Path) -> None:
    files = {"fair": "{{ text }}: {{ answer }}", "pick": "Is {{ candidate }} good?"}
    asks = {"template": "prompts/q/fair.j2", "choices": ["yes", "no"], "accept": "yes"}
    filters = [
        {"kind": "judge", "teacher": "strong", **asks},
        {"kind": "agreement", "teachers": ["teacher", "strong"], **asks},
    ]
    pick = {"by": "judge", "template": "prompts/q/pick.j2", "teacher": "strong"}
    steps = [ASK, ANSWER | {"samples": 2, "pick": pick}]
    run = with_teachers(made(tmp_path, steps, files=files), {"strong": STRONG | {"prompt_price": 1e6}})
    planned = describe_augment(run, TEACHERS, len)
    lines = lines_of(planned)
    assert lines["answer: judge"][0] == 40
    assert f"about {lines['answer: judge'][1]}.0000 in money" in planned, "the writer costs nothing, its judge does"
    path = run.root / "runs/q.yaml"
    path.write_text(path.read_text().replace("  steps:", f"  filters: {filters}\n  steps:"))
    lines = lines_of(describe_augment(load_run(path), TEACHERS, len))
    assert lines["calibrate the judge strong"] == lines["calibrate the judge teacher"]
    assert lines["calibrate the judge strong"][0] == 36
    assert lines["judge strong"][0] == lines["judge teacher"][0] == 20
    assert lines["in all"][0] == 20 + 40 + 40 + 2 * (36 + 20)


def test_a_plan_of_models_that_are_not_there_yet_tells_their_revisions_apart(tmp_path: Path) -> None:
    run = made(tmp_path, [ASK, ANSWER | {"teacher": "strong"}])
    strong = {"engine": "transformers", "model": "a/b", "revision": "r2"}
    run = with_teachers(run, {"strong": strong}, engine="openai")
    assert unresolved(run) == Teachers(own="t@newest", named={"strong": "a/b@r2"})


def test_other_teachers_make_other_rows_and_an_address_does_not(tmp_path: Path) -> None:
    run = with_teachers(made(tmp_path, [ASK, ANSWER | {"teacher": "strong"}]))
    elsewhere = with_teachers(
        run, {"strong": STRONG | {"base_url": ["http://127.0.0.1:9/v1", "http://127.0.0.1:8/v1"]}}
    )
    assert rows_source(run) == rows_source(elsewhere)
    assert rows_source(run) != rows_source(with_teachers(run, {"strong": STRONG | {"model": "z"}}))
    _, build = teachers_of(elsewhere, Quiet())
    assert type(build()).__name__ == "SeveralEngines"


WRONG: list[tuple[dict[str, Any], dict[str, Any] | None, str]] = [
    ({"teacher": "strnog"}, None, "augment.steps.1.teacher: there is no teacher 'strnog' (did you mean 'strong'?)"),
    ({"teacher": {"strong": 0}}, None, "augment.steps.1.teacher.strong: 0: input should be greater than 0"),
    ({"teacher": {"teacher": 1e308, "strong": 1e308}}, None, "less than or equal to 1000000000"),
    ({"teacher": ["strong"]}, None, "augment.steps.1.teacher: list: input should be a mapping of keys to values"),
    ({"teacher": {}}, None, "augment.steps.1.teacher"),
    ({}, None, "teachers.strong: no step and no judge names it"),
    ({"teacher": "strong"}, {"teacher": STRONG, "strong": STRONG}, "teachers.teacher: this is the run's own teacher"),
    ({"teacher": "strong"}, {"strong": STRONG | {"base_url": []}}, "base_url names no address"),
    ({"teacher": "strong"}, {"strong": STRONG | {"base_url": ["http://h/v1", "http://h/v1/"]}}, "repeats an address"),
    ({"teacher": "strong"}, {"strong": STRONG | {"base_url": [1]}}, "teachers.strong.base_url.0: 1: input should"),
]


@pytest.mark.parametrize(("step", "teachers", "problem"), WRONG, ids=[str(i) for i in range(len(WRONG))])
def test_a_mistake_is_said_before_anybody_is_asked(
    tmp_path: Path, step: dict[str, Any], teachers: dict[str, Any] | None, problem: str
) -> None:
    run = made(tmp_path, [ASK, ANSWER | step])
    with pytest.raises(UsageError) as error:
        with_teachers(run, teachers)
    assert problem in str(error.value)


def test_a_mistake_inside_is_not_told_as_one_of_the_whole(tmp_path: Path) -> None:
    run = made(tmp_path, [ASK, ANSWER | {"teacher": {"strong": -1}}])
    with pytest.raises(UsageError) as error:
        with_teachers(run)
    assert str(error.value).count("\n") == 0, "that a text could stand there, too, is no help"


def test_two_that_vllm_runs_here_fit_on_a_gpu_together(tmp_path: Path) -> None:
    run = made(tmp_path, [ASK, ANSWER | {"teacher": "strong"}])
    local = {"engine": "vllm", "model": "a/b"}
    assert with_teachers(run, {"strong": local}).file.teachers["strong"].engine == "vllm"
    path = run.root / "runs/q.yaml"
    path.write_text(
        path.read_text().replace("engine: openai\n  model: t\n  base_url: http://127.0.0.1:9/v1", "model: c/d")
    )
    with pytest.raises(UsageError, match=r"2 of them run in vLLM here, .* gpu_memory_utilization is 1\.7 in all"):
        load_run(path)
    load_run(path, [f"{name}.gpu_memory_utilization=0.45" for name in ("teacher", "teachers.strong")])


def test_what_is_wrong_with_an_endpoint_names_its_teacher(tmp_path: Path) -> None:
    with serving(Endpoint(models=("other",))) as endpoint:
        strong = {"strong": STRONG | {"base_url": endpoint.base_url}}
        run = with_teachers(made(tmp_path, [ASK, ANSWER | {"teacher": "strong"}]), strong)
        teachers, build = teachers_of(run, Quiet())
        plan = plan_rows(run, teachers)
        (request,) = plan.requests(plan.begin(("", 0)))
        engine: Any = build()
        with closing(engine), pytest.raises(UsageError, match=r"^teachers\.strong\.model: .* serves no model 's'"):
            list(engine.generate([request.model_copy(update={"model": teachers.named["strong"]})]))


def test_a_cap_of_money_needs_the_price_of_every_teacher(tmp_path: Path) -> None:
    run = made(tmp_path, [ASK, ANSWER | {"teacher": "strong"}])
    with_teachers(run, prompt_price=1)
    with pytest.raises(UsageError, match=r"teachers\.strong: augment\.caps\.money needs its price"):
        load_run(run.root / "runs/q.yaml", ["augment.caps.money=1"])


def test_money_names_the_teachers_that_it_leaves_out(tmp_path: Path) -> None:
    run = with_teachers(made(tmp_path, [ASK, ANSWER | {"teacher": "strong"}]), prompt_price=1, completion_price=1)
    said = "(without s@2: no price is given)"
    assert describe_augment(run, TEACHERS, len).endswith(said)
    terminal = Quiet()
    funnel = augment(run, TEACHERS, lambda: Passing(FakeGenerator(say)), terminal, Stop())
    assert funnel is not None
    assert funnel.unpriced == ("s@2",)
    assert f"in money {said}" in terminal.text
    terminal = Quiet()
    preview(run, TEACHERS, lambda: pytest.fail("asked again"), terminal, Stop(), 4)
    assert f"] {said}" in terminal.text


def test_a_run_in_which_others_do_everything_needs_no_teacher_of_its_own(tmp_path: Path) -> None:
    run = with_teachers(made(tmp_path, [ASK | {"teacher": "strong"}, ANSWER | {"teacher": "strong"}]))
    path = run.root / "runs/q.yaml"
    written = yaml.safe_load(path.read_text())
    del written["teacher"]
    path.write_text(yaml.safe_dump(written, sort_keys=False))
    run = load_run(path)
    teachers, _ = teachers_of(run, Quiet())
    assert (teachers.own, teachers.words) == (NOBODY, "s@endpoint")
    assert unresolved(run).words == "s@newest"
    assert "(teachers s@endpoint)" in describe_augment(run, teachers, len)
    funnel = augment(run, teachers, lambda: Passing(FakeGenerator(say)), Quiet(), Stop())
    assert funnel is not None
    assert funnel.kept == 20
    del written["augment"]["steps"][0]["teacher"]
    path.write_text(yaml.safe_dump(written, sort_keys=False))
    with pytest.raises(UsageError, match="teacher: this key is missing, and steps needs one"):
        load_run(path)


def test_two_names_of_one_model_are_refused(tmp_path: Path) -> None:
    run = with_teachers(made(tmp_path, [ASK, ANSWER | {"teacher": "strong"}]), {"strong": STRONG | {"model": "t"}})
    with pytest.raises(UsageError, match=r"teachers\.strong is t@endpoint, as teacher is.*base_url"):
        teachers_of(run, Quiet())
