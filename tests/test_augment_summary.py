"""When the teacher gives no rows, or filters keep none: what is kept of it, what is said, and how augment ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.augment.current import dropped_rows, kept_rows
from harness.augment.funnel import Funnel
from harness.augment.rows import Judged, Lost, read_rejected
from harness.augment.scheduler import FRUITLESS
from harness.augment.stage import augment
from harness.augment.summary import MANY_ROWS, always_the_same, cause
from harness.config.load import load_run
from harness.config.run import Run
from harness.core.json_file import read_jsonl
from harness.core.terminal import Stop
from harness.engines.openai import OpenAIEngine
from harness.engines.protocols import PROBES
from harness.engines.scripted import ScriptedEngine
from harness.errors import HarnessError, MachineError, UsageError
from harness.models.teachers import Teachers
from harness.records import Completion, Provenance, Request, Row, StepWritten, Verdict
from tests.fakes import FakeGenerator, Quiet
from tests.http_server import Endpoint, serving
from tests.project import row, write_project
from tests.test_steps import ANSWER, ASK
from tests.test_steps import project as chain_project

TEACHERS = Teachers(own="teacher@1")
JSON = {"path": "prompts/shop/list.j2", "form": "chat", "output": "json", "shots": 2, "sampling": {"max_tokens": 32}}
Saying = Callable[[Request], dict[str, Any]]


def project(root: Path, template: dict[str, Any] = JSON, filters: list[dict[str, Any]] | None = None) -> Run:
    path = write_project(root, "nobody")
    changes = [f"augment.templates={json.dumps([template])}", f"augment.filters={json.dumps(filters or [])}"]
    return load_run(path, changes)


def sentence(request: Request) -> str:
    return f"my {request.origin.label} number {request.key[:9]} is late again"


def run_it(run: Run, saying: Saying) -> tuple[Quiet, Funnel | None, HarnessError | None, int]:
    asked: list[str] = []

    def answer(request: Request) -> Completion:
        asked.append(request.key)
        return Completion.model_validate({"request": request.key, "finish_reason": "stop", **saying(request)})

    terminal = Quiet()
    try:
        funnel = augment(run, TEACHERS, lambda: ScriptedEngine(answer), terminal, Stop())
    except HarnessError as error:
        return terminal, None, error, len(asked)
    return terminal, funnel, None, len(asked)


def stored(run: Run) -> tuple[list[Row], tuple[Lost, ...], Funnel]:
    folder = run.folder / "augment"
    rows = [row for _, row in read_jsonl(folder / "train.jsonl", Row)]
    funnel = Funnel.model_validate_json((folder / "funnel.json").read_text())
    return rows, read_rejected(folder / "rejected.jsonl")[1], funnel


@pytest.mark.parametrize(
    "wrapping", ["{}", "```json\n{}\n```", "Sure! Here it is: {} Anything else?", "<think>{{so}}</think>{}"]
)
def test_json_is_read_whatever_stands_around_it(tmp_path: Path, wrapping: str) -> None:
    run = project(tmp_path)
    _, funnel, error, _ = run_it(run, lambda r: {"text": wrapping.format(json.dumps({"text": sentence(r)}))})
    assert error is None
    assert funnel is not None
    assert funnel.kept == funnel.requested
    assert all(row.text.startswith(f"my {row.answer}") for row in stored(run)[0])


@pytest.mark.parametrize(
    ("saying", "step", "why"),
    [
        ({"text": "I will not write JSON."}, "unparsed", "there is no JSON in it"),
        ({"text": '{"text": "and it was', "finish_reason": "length"}, "unparsed", "cut at sampling.max_tokens"),
        ({"text": '{"txt": "hello"}'}, "unparsed", "its JSON has no 'text'"),
        ({"text": '{"text": 3}'}, "unparsed", "'text' in its JSON is no text"),
        ({"text": '{"text": "\\u003cthink\\u003eso"}'}, "unparsed", "'text' in its JSON is empty"),
        ({"text": "[1]"}, "unparsed", "is no object"),
        ({"text": ""}, "no answer", "it is empty"),
        ({"text": "<think>I should"}, "no answer", "only thinking"),
        ({"text": "", "withheld": "the model refused: no"}, "no answer", "the model refused: no"),
    ],
)
def test_what_gives_no_row_is_kept_shown_and_ends_as_the_teachers_failure(
    tmp_path: Path, saying: dict[str, Any], step: str, why: str
) -> None:
    run = project(tmp_path)
    terminal, _, error, asked = run_it(run, lambda r: saying)
    assert isinstance(error, MachineError)
    assert why in str(error)
    rows, lost, funnel = stored(run)
    assert (rows, funnel.kept, len(lost)) == ([], 0, asked)
    assert {(one.lost, why in one.reason) for one in lost} == {(step, True)}
    assert getattr(funnel, step.replace(" ", "_")) == asked
    assert sum(f"{step}: " in line and why in line for line in terminal.said) == 3
    assert (kept_rows(run), dropped_rows(run)) == ((), ())
    again = run_it(run, lambda r: saying)
    assert isinstance(again[2], MachineError), "what ended with an error is not taken for done"
    assert again[3] == 0, "and nothing is paid for again"


def test_text_output_never_gives_an_empty_row(tmp_path: Path) -> None:
    run = project(tmp_path, JSON | {"output": "text"})
    texts = ("", '""', " \n", "<think>so</think>")
    _, _, error, _ = run_it(
        run, lambda r: {"text": sentence(r) if r.sample_index % 2 else texts[r.sample_index // 2 % 4]}
    )
    assert error is None
    rows, lost, funnel = stored(run)
    assert all(row.text for row in rows)
    assert funnel.no_answer
    assert funnel.unparsed
    assert len(lost) == funnel.no_answer + funnel.unparsed


def test_filters_that_keep_nothing_are_the_settings_fault_and_named(tmp_path: Path) -> None:
    filters: list[dict[str, Any]] = [{"kind": "finished"}, {"kind": "length", "min_words": 30, "max_words": 40}]
    run = project(tmp_path, filters=filters)
    terminal, _, error, _ = run_it(run, lambda r: {"text": json.dumps({"text": sentence(r)})})
    assert isinstance(error, UsageError)
    assert "the filter length drops" in str(error)
    assert "no row is kept" in str(error) or "0 rows are kept" in str(error)
    assert any("length drops" in said and "max_requests_per_row" not in said for said in terminal.said[-1:])


def test_fewer_rows_than_the_smallest_size_are_too_few(tmp_path: Path) -> None:
    run = project(tmp_path)  # the smallest size is 4
    good: set[str] = set()

    def mostly_nothing(request: Request) -> dict[str, Any]:
        if len(good) < 3 or request.key in good:
            good.add(request.key)
            return {"text": json.dumps({"text": sentence(request)})}
        return {"text": "no"}

    _, _, error, _ = run_it(run, mostly_nothing)
    assert isinstance(error, MachineError)
    assert "3 rows are kept" in str(error)
    assert "train.sizes (4)" in str(error)


def test_hopeless_requests_are_not_all_made(tmp_path: Path) -> None:
    path = write_project(tmp_path, "nobody")
    run = load_run(path, ["augment.rows=2000", "augment.filters=[]", f"augment.templates={json.dumps([JSON])}"])
    _, _, error, asked = run_it(run, lambda r: {"text": "no"})
    assert isinstance(error, MachineError)
    assert stored(run)[2].requested == FRUITLESS <= asked < 500, (
        "what was in flight then is stored, and no row of it is taken"
    )


def test_what_is_the_same_in_every_row_is_said(tmp_path: Path) -> None:
    def all_alike(request: Request) -> str:
        return "Nothing." if request.origin.step == "answer" else f"question {request.sample_index}"

    terminal = Quiet()
    augment(chain_project(tmp_path, [ASK, ANSWER]), TEACHERS, lambda: FakeGenerator(all_alike), terminal, Stop())
    assert "the answer of all 20 kept rows is the same: 'Nothing.'" in terminal.text
    assert terminal.text.count("is the same") == 1, "the answer is what the step wrote"
    assert "step question of all" not in terminal.text


def test_the_cause_is_where_most_ended() -> None:
    lost = [Lost(lost="failed", reason=f"HTTP 400: request {i} is odd", request="r") for i in range(3)]
    lost += [Lost(lost="unparsed", reason="there is no JSON in it", request="r")]
    assert cause(4, 0, (), lost).startswith("3 of 4 calls failed")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"row": {}, "verdicts": []}', "row.messages: Field required; each line is a JSON object with row, verdicts"),
        ('{"verdict": []}', "each line is a JSON object with row, verdicts"),
        ('{"lost": "failed", "reason": "x"}', "request: Field required; each line is a JSON object with lost, reason"),
        ('{"lost": "gone", "reason": "x", "request": "k"}', "lost: Input should be 'failed'"),
    ],
)
def test_a_line_of_another_version_is_told_by_its_field(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "rejected.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UsageError) as caught:
        read_rejected(path)
    assert str(caught.value).startswith(f"{path}:1: ")
    assert said in str(caught.value)


def test_a_judge_behind_an_endpoint_without_log_probabilities_judges_by_what_it_writes(tmp_path: Path) -> None:
    write_project(tmp_path, "nobody")
    endpoint, terminal = Endpoint(no_logprobs=True), Quiet()
    with serving(endpoint):
        teacher = f"teacher={{model: teacher, engine: openai, base_url: '{endpoint.base_url}'}}"
        run = load_run(tmp_path / "runs/shop.yaml", [teacher, "augment.rows=12"])
        engine = OpenAIEngine(endpoint.base_url, None)
        augment(run, TEACHERS, lambda: engine, terminal, Stop())
        engine.close()
    said = next(line for line in terminal.said if line.startswith("judge") and "AUC" in line)
    assert "written choice (it gives no log-probabilities): AUC" in said
    probes = sum("logprobs" in post for post in endpoint.posts)
    assert 0 < probes <= PROBES, "equal prompts are asked once"
    assert not any("logprobs" in post for post in endpoint.posts[probes:])


@pytest.mark.parametrize(
    ("written", "said"), [(MANY_ROWS - 1, []), (MANY_ROWS, [f"all {MANY_ROWS} kept rows that have one"])]
)
def test_of_rows_that_steps_wrote_few_are_no_pattern(written: int, said: list[str]) -> None:
    step = StepWritten(name="check", request="r", template="t", template_digest="d", teacher="t@1", text="Yes.")
    provenance = Provenance(source="teacher", steps=(step,))
    steps = [row(f"text {i}").model_copy(update={"provenance": provenance}) for i in range(written)]
    own = [row(f"own {i}", source="own") for i in range(20)]
    found = always_the_same([*own, *steps], (), (), free=False)
    assert len(found) == len(said)
    assert all(part in remark for part, remark in zip(said, found, strict=True))


def test_what_a_filter_demands_of_a_step_is_no_pattern(tmp_path: Path) -> None:
    """A verdict is there to be told apart: all rows that are kept have the one that the filter wants."""
    check = {"path": "prompts/q/check.j2", "name": "critique", "shots": 0, "sampling": {}}
    check["filters"] = [{"kind": "format", "match": "good", "on": "critique"}]
    run = chain_project(tmp_path, [ASK, ANSWER, check])
    terminal = Quiet()

    def says(request: Request) -> str:
        if request.origin.step == "critique":
            return "good" if request.sample_index % 3 else "bad"
        return f"{request.origin.step} {request.sample_index}"

    augment(run, Teachers(own="t@1"), lambda: FakeGenerator(says), terminal, Stop())
    assert "is the same" not in terminal.text
    always = load_run(tmp_path / "runs/q.yaml", ["augment.rows=12"])
    terminal = Quiet()
    says_good = FakeGenerator(lambda request: "good" if request.origin.step == "critique" else says(request))
    for path in always.cache.glob("calls.sqlite*"):
        path.unlink()
    augment(always, Teachers(own="t@1"), lambda: says_good, terminal, Stop())
    assert "the text of the step critique of all 12 kept rows is the same: 'good'" in terminal.text


def test_answers_that_are_all_the_same_are_said_whatever_was_dropped() -> None:
    rows = [row(f"text {i}") for i in range(MANY_ROWS)]
    other = row("text", "billing")
    dropped = Judged(row=other, verdicts=(Verdict(row=other.id, filter="length", keep=False),))
    assert always_the_same(rows, [dropped], (), free=True)[0].endswith("'repair': filters dropped every other")
    assert always_the_same(rows, [], (), free=True)[0].endswith("look at the examples in its template")
