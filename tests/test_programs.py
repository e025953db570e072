"""Programs of a person's own that answer the task's items: rules by hand, a classifier on the same rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.config.load import load_run
from harness.config.programs import Program
from harness.config.run import Run
from harness.errors import UsageError
from harness.eval.prompting import prompt_forms
from harness.eval.results import resolve_student
from harness.records import Row, Score
from harness.suites.reference import is_program, is_reference, program_name, reference_title, score_program
from tests.project import rows_of_seeds, write_project

ROOT = Path(__file__).parent.parent


def scored(run: Run, suite: str, program: Program, rows: tuple[Row, ...]) -> list[Score]:
    prompt = prompt_forms(run.task, run.prompts).tuned
    return score_program(program.load(run.root), run.root, rows, run.suites[suite], prompt)


def shop(root: Path, source: str) -> tuple[Run, Program]:
    """A project with labels, and a program of that source."""
    run = load_run(write_project(root, "tiny", eval={"suites": ["shop"]}))
    (root / "mine.py").write_text(source)
    return run, Program(file="mine.py")


def test_what_a_program_answers_is_scored_field_by_field_without_what_a_model_expects() -> None:
    run = load_run(ROOT / "runs/orders.yaml")
    program = run.file.eval.programs["rules"]
    scores = scored(run, "orders", program, ())
    assert [score.item for score in scores] == [item.id for item in run.suites["orders"].items]
    assert {score.status for score in scores} == {"scored"}
    for score in scores:
        gold, answer = json.loads(score.gold), json.loads(score.output)
        assert score.values["field_order"] == float(gold["order"] == answer["order"])
        assert score.values["accuracy"] == float(gold == answer)
        assert not {"gold_nll", "choice_accuracy", "gold_probability"} & score.values.keys()


def test_a_program_is_given_the_rows_and_no_answer_of_an_item(tmp_path: Path) -> None:
    source = """
def answers(rows, questions):
    assert all(set(row) == {"text", "answer", "label", "turns"} for row in rows), rows[0]
    assert all(set(question) == {"text", "turns"} for question in questions), questions[0]
    return [rows[0]["answer"]] * len(questions)
"""
    run, program = shop(tmp_path, source)
    rows = rows_of_seeds(run)
    scores = scored(run, "shop", program, rows)
    assert {score.output for score in scores} == {rows[0].answer}
    right = sum(score.values["accuracy"] for score in scores)
    assert right == sum(score.gold == rows[0].answer for score in scores) > 0


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def answers(rows, questions):\n    return ['a']\n", "returned a list of 1; it must be a list of"),
        ("def answers(rows, questions):\n    return 'a'\n", "returned 'a'; it must be a list of"),
        (
            "def answers(rows, questions):\n    return [None] * len(questions)\n",
            "returned the answer None; each must",
        ),
        ("def answers(rows, questions):\n    return [1] * len(questions)\n", "returned the answer 1; each must"),
        ("def answers(rows, questions):\n    return rows[10**6]\n", "mine.py:2: answers failed on the text '"),
        ("def answers(rows):\n    return []\n", "takes 1 positional argument"),
        ("def answer(rows, questions):\n    return []\n", "there is no function 'answers' (did you mean 'answer'?)"),
    ],
)
def test_a_mistake_in_a_program_is_named(tmp_path: Path, source: str, expected: str) -> None:
    run, program = shop(tmp_path, source)
    with pytest.raises(UsageError) as caught:
        scored(run, "shop", program, ())
    assert expected in str(caught.value)


def test_a_program_that_is_not_there_is_named_when_the_run_is_loaded(tmp_path: Path) -> None:
    path = write_project(tmp_path, "tiny", eval={"suites": ["shop"], "programs": {"rules": {"file": "rules.py"}}})
    with pytest.raises(UsageError, match=r"eval\.programs\.rules\.file: .*rules\.py"):
        load_run(path)


def test_models_are_guided_only_where_a_schema_can_guide(tmp_path: Path) -> None:
    path = write_project(tmp_path, "tiny", eval={"suites": ["shop"], "guided": True})
    with pytest.raises(UsageError, match=r"eval\.guided: true: no suite of the task's own has JSON answers"):
        load_run(path)


def test_a_program_stands_apart_from_students() -> None:
    name = program_name("my_rules")
    assert is_program(name)
    assert is_reference(f"{name}.filtered.16.s0")
    assert is_reference("tfidf_logistic_regression.filtered.16.s0")
    assert not is_reference("tfidf_logistic_regression_2")
    assert reference_title(name) == "my rules (a program)"
    students = ["tiny.filtered.16.s0", f"{name}.filtered.16.s0"]
    assert resolve_student("filtered.16", students) == students[0]
    assert resolve_student("my_rules", students) == students[1]
