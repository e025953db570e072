"""Two judges who must agree, and the number that a step gave a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from harness.errors import UsageError
from harness.filters import Agreement, Context, Score, judges_of
from harness.filters.judge import SILENT, UNUSED
from harness.models.teachers import Teachers
from harness.records import Completion, Request, Row, StepWritten, Verdict
from tests.project import TOPICS, context, labelled, row
from tests.test_several_teachers import made, with_teachers
from tests.test_steps import ANSWER, ASK, project, run_it

SEEDS = [labelled(f"{label} message number {i}", label) for i in range(8) for label in TOPICS]
Says = Callable[[str], str]  # the text of a row -> the label that a judge picks


def knows(text: str) -> str:
    return next(label for label in TOPICS if label in text)


def agreement(folder: Path, first: Says, second: Says) -> tuple[Agreement, Context, list[Request]]:
    """The filter over two judges that say this, what it may look at, and a list of all that is asked."""
    (folder / "j.j2").write_text("{{ text }}", encoding="utf-8")
    asked: list[Request] = []
    says = {"t@1": first, "s@2": second}

    def answers(requests: Sequence[Request]) -> list[Completion]:
        asked.extend(requests)
        return [answer(request, says[request.model]) for request in requests]

    teachers = Teachers(own="t@1", named={"strong": "s@2"})
    where = replace(context(folder, SEEDS), teachers=teachers, ask=answers)
    return Agreement(template="j.j2", teachers=("teacher", "strong"), shots=0), where, asked


def answer(request: Request, says: Says) -> Completion:
    text = says(request.prompt)
    if not text:
        return Completion(request=request.key, finish_reason="error", error="gone")
    return Completion(request=request.key, text=f" {text}", finish_reason="stop")


def judged(folder: Path, first: Says, second: Says, rows: Sequence[Row]) -> tuple[list[Verdict], str]:
    rule_of, where, _ = agreement(folder, first, second)
    rule = rule_of.prepare(where)
    return rule.verdicts(rows, [where.ask(rule.requests(one)) for one in rows]), rule.note


ROWS = [row("a billing question", "billing"), row("a repair question", "repair"), row("repair, he said", "billing")]


def test_rows_of_which_two_judges_say_different_things_are_dropped(tmp_path: Path) -> None:
    def misled(text: str) -> str:
        return "delivery" if "repair question" in text else knows(text)

    found, note = judged(tmp_path, knows, misled, ROWS)
    assert [verdict.keep for verdict in found] == [True, False, True], "a wrong label on which they agree is no dispute"
    assert found[1].reason == "the judges differ: teacher 'repair' and strong 'delivery'"
    assert "teacher as judge" in note
    assert "strong as judge" in note
    assert note.count("AUC 1.00") == 2


def test_a_judge_no_better_than_chance_ends_the_filter_and_a_silent_one_drops(tmp_path: Path) -> None:
    found, note = judged(tmp_path, knows, lambda text: "billing", ROWS)
    assert {(verdict.keep, verdict.reason) for verdict in found} == {(True, UNUSED)}
    assert "not used" in note
    found, _ = judged(tmp_path, knows, lambda text: "" if "he said" in text else knows(text), ROWS)
    assert [(v.keep, v.reason) for v in found] == [(True, ""), (True, ""), (False, SILENT)]


def test_each_judge_is_asked_once_about_a_row(tmp_path: Path) -> None:
    rule_of, where, asked = agreement(tmp_path, knows, knows)
    rule = rule_of.prepare(where)
    before = len(asked)
    where.ask(rule.requests(ROWS[0]))
    assert [request.model for request in asked[before:]] == ["t@1", "s@2"]
    assert {request.model for request in asked[:before]} == {"t@1", "s@2"}
    assert [judge.teacher for judge in judges_of([rule_of])] == ["teacher", "strong"]


def test_where_one_judge_is_not_used_neither_is_asked_about_rows(tmp_path: Path) -> None:
    rule_of, where, _ = agreement(tmp_path, knows, lambda text: "billing")
    rule = rule_of.prepare(where)
    assert [rule.requests(one) for one in ROWS] == [(), (), ()], "an answer that decides nothing would be paid for"


def test_two_judges_are_two(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="a judge always agrees with itself"):
        Agreement(template="j.j2", teachers=("strong", "strong"))
    with pytest.raises(ValidationError, match="accept"):
        Agreement(template="j.j2", teachers=("teacher", "strong"), choices=("yes", "no"), accept="yse")


RATE: dict[str, Any] = {"path": "prompts/q/rate.j2", "name": "rating", "shots": 0, "sampling": {"max_tokens": 4}}
RATED = {"rate": "Rate {{ answer }} from 1 to 10"}


def rated(text: str, **limits: float) -> Verdict:
    step = StepWritten(name="rating", request="r", template="t", template_digest="d", teacher="t@1", text=text)
    one = row("a text")
    one = one.model_copy(update={"provenance": one.provenance.model_copy(update={"steps": (step,)})})
    of = "rating.stars" if text.startswith("{") else "rating"
    (verdict,) = Score(of=of, **limits).prepare(context()).verdicts([one], [()])
    return verdict


@pytest.mark.parametrize(
    ("text", "limits", "keep", "score"),
    [
        ("7", {"min": 7}, True, 7),
        ("I give it 6.5 of 10.", {"min": 7}, False, 6.5),
        ("8", {"min": 2, "max": 5}, False, 8),
        ('{"stars": 4}', {"min": 4}, True, 4),
        ('{"stars": "4 of 5"}', {"max": 3}, False, 4),
        ("good", {"min": 1}, False, None),
        ('{"moons": 4}', {"min": 1}, False, None),
    ],
)
def test_a_steps_number_decides(text: str, limits: dict[str, float], keep: bool, score: float | None) -> None:
    verdict = rated(text, **limits)
    assert (verdict.keep, verdict.score) == (keep, score)
    assert bool(verdict.reason) == (not keep)


def test_a_score_in_a_step_ends_a_row_and_under_filters_it_drops_one(tmp_path: Path) -> None:
    def says(request: Request) -> str:
        if request.origin.step == "rating":
            return str(request.sample_index % 10)
        return f"{request.origin.step} {request.sample_index}"

    last = {"kind": "score", "of": "rating", "min": 5}
    run = project(tmp_path, [ASK, ANSWER, RATE], files=RATED, filters=[last])
    _, funnel = run_it(run, says)
    assert funnel.dropped == {"score": funnel.requested // 2}
    within = project(tmp_path, [ASK, ANSWER, RATE | {"filters": [last]}], files=RATED)
    _, funnel = run_it(within, says)
    assert funnel.filtered == {"rating: score": funnel.requested // 2}


def test_a_row_that_no_step_wrote_has_no_score_to_fall_short_of() -> None:
    own = row("a text", source="own")
    (verdict,) = Score(of="rating", min=5).prepare(context()).verdicts([own], [()])
    assert verdict.keep


SCHEMA = {"type": "object", "properties": {"question": {"type": "string"}, "stars": {"type": "integer"}}}
WHOLE = {
    "path": "prompts/q/rate.j2",
    "name": "whole",
    "shots": 0,
    "output": "json",
    "sampling": {"json_schema": SCHEMA},
}
AS_ROW = {"kind": "score", "of": "whole.stars", "min": 3}


@pytest.mark.parametrize(
    ("steps", "row_of", "filters", "problem"),
    [
        (
            [WHOLE],
            {"question": "whole.question", "answer": "whole.stars"},
            [AS_ROW],
            "filters.0.of: 'whole.stars': rows do not",
        ),
        ([WHOLE], {}, [AS_ROW], "filters.0.of: 'whole.stars': rows do not hold this"),
        ([ASK, WHOLE], {}, [AS_ROW], "filters.0.of: 'whole.stars': rows do not hold this"),
        ([ASK, WHOLE | {"filters": [AS_ROW | {"of": "stars"}]}], {}, [], "steps.1.filters.0.of: 'stars'"),
        ([ASK, WHOLE | {"filters": [{"kind": "length", "on": "stars"}]}], {}, [], "steps.1.filters.0.on: 'stars'"),
        ([ASK | {"filters": [AS_ROW | {"of": "input"}]}, ANSWER], None, [], "steps.0.filters.0.of: 'input'"),
        (
            [ASK | {"filters": [{"kind": "judge", "template": "x.j2"}]}, ANSWER],
            None,
            [],
            "it belongs in augment.filters",
        ),
    ],
)
def test_what_a_row_or_a_step_does_not_hold_is_said_at_load(
    tmp_path: Path,
    steps: list[dict[str, Any]],
    row_of: dict[str, str] | None,
    filters: list[dict[str, Any]],
    problem: str,
) -> None:
    changes = {} if row_of is None else {"row": row_of}
    with pytest.raises(UsageError) as error:
        project(tmp_path, steps, files={"rate": "Rate it"}, filters=filters, **changes)
    assert problem in str(error.value)


@pytest.mark.parametrize(
    ("filters", "problem"),
    [
        (
            [{"kind": "score", "of": "ratnig", "min": 1}],
            "filters.0.of: there is no step 'ratnig' (did you mean 'rating'?)",
        ),
        ([{"kind": "score", "of": "rating"}], "give min or max"),
        ([{"kind": "score", "of": "rating", "min": 3, "max": 2}], "no row could pass"),
    ],
)
def test_a_mistake_is_said_at_load(tmp_path: Path, filters: list[dict[str, Any]], problem: str) -> None:
    with pytest.raises(UsageError) as error:
        project(tmp_path, [ASK, ANSWER, RATE], files=RATED, filters=filters)
    assert problem in str(error.value)


def test_an_agreement_in_a_run_names_teachers_that_it_has(tmp_path: Path) -> None:
    chosen = {"choices": ["yes", "no"], "accept": "yes"}
    filters = [{"kind": "agreement", "template": "prompts/q/fair.j2", "teachers": ["teacher", "strong"], **chosen}]
    files = {"fair": "Is {{ answer }} right of {{ text }}?"}
    with pytest.raises(UsageError, match=r"augment\.filters\.0\.teachers: there is no teacher 'strong'"):
        project(tmp_path, [ASK, ANSWER], files=files, filters=filters)
    run = made(tmp_path, [ASK, ANSWER], files=files)
    path = run.root / "runs/q.yaml"
    path.write_text(path.read_text().replace("  steps:", f"  filters: {filters}\n  steps:"))
    assert with_teachers(run).file.teachers.keys() == {"strong"}
