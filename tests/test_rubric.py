"""The rubric judge: both positions, no parsing, and a measure of the judge itself."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.engines.protocols import PROBES
from harness.engines.scripted import ScriptedEngine
from harness.errors import UsageError
from harness.records import Completion, Item, Request
from harness.suites.rubric import Rubric

RUBRIC = Rubric(rubric="answers the instruction and says nothing else")
TOPICS = ("rain", "bread", "snow", "chess", "tea", "glass", "salt", "wool", "tin", "maps", "oak", "ink")
ITEMS = [Item(text=f"Say what {t} is.", answers=(f"A thing called {t}.",)) for t in TOPICS]
REFERENCES = [item.answers[0] for item in ITEMS]
Judging = Callable[[str, str, str], float]  # instruction, answer A, answer B -> probability of A


def parts(request: Request) -> tuple[str, str, str]:
    text = request.messages[0].content if request.messages else request.prompt
    found = re.search(r"Instruction: (.*?)\n\nAnswer A:\n(.*?)\n\nAnswer B:\n(.*?)\n\nWhich", text, re.DOTALL)
    assert found
    return found[1], found[2], found[3]


def judge(judging: Judging) -> ScriptedEngine:
    def answer(request: Request) -> Completion:
        chance = judging(*parts(request))
        logprobs = {"A": math.log(chance / 2), " a": math.log(chance / 2), "B": math.log(1 - chance), "the": -9.0}
        return Completion(request=request.key, text="A", finish_reason="stop", first_logprobs=logprobs)

    return ScriptedEngine(answer)


def knows(question: str, a: str, b: str) -> float:
    """A judge that reads: what names the thing asked about is better, and more of it better still."""
    topic = question.split()[2]
    good = [text.count(topic) for text in (a, b)]
    return 0.9 if good[0] > good[1] else 0.1 if good[0] < good[1] else 0.6


def first_always(question: str, a: str, b: str) -> float:
    return 0.8


def judged(
    outputs: Sequence[str], judging: Judging, rubric: Rubric = RUBRIC, teacher: str = "teacher@1"
) -> tuple[list[dict[str, float]], tuple[str, ...]]:
    completions = list(judge(judging).generate(rubric.ask(ITEMS, outputs, "judge@1")))
    notes = rubric.judge_notes(ITEMS, outputs, completions, "judge@1", ["other@1", teacher])
    return rubric.values(ITEMS, outputs, completions, "judge@1"), notes


def test_better_worse_and_as_good_by_hand() -> None:
    outputs = ["rain, rain and rain", "no idea", "one snow", *REFERENCES[3:]]
    values, _ = judged(outputs, knows)
    assert values[0] == pytest.approx({"preferred": 1.0, "preference": 0.9, "agreement": 1.0})
    assert values[1] == pytest.approx({"preferred": 0.0, "preference": 0.1, "agreement": 1.0})
    # equally good, and the judge leans to A: it contradicts itself, which is a tie
    assert values[2] == pytest.approx({"preferred": 0.5, "preference": 0.5, "agreement": 0.0})
    assert values[3] == {"preferred": 0.5, "preference": 0.5}  # the reference itself is not asked about


def test_an_empty_answer_loses_unasked() -> None:
    requests = RUBRIC.ask(ITEMS, [" "] * len(ITEMS), "judge@1")
    assert len(requests) == 2 * len(ITEMS)  # the planted pairs only
    values = RUBRIC.values(ITEMS, [" "] * len(ITEMS), [], "judge@1")
    assert values == [{"preferred": 0.0, "preference": 0.0}] * len(ITEMS)


def test_both_orders_are_asked_as_a_choice_of_two_letters() -> None:
    requests = RUBRIC.ask(ITEMS[:1], ["something"], "judge@1")
    assert [parts(r)[1:] for r in requests] == [("something", REFERENCES[0]), (REFERENCES[0], "something")]
    assert {r.sampling.choices for r in requests} == {("A", "B")}
    assert {(r.sampling.max_tokens, r.sampling.temperature, r.origin.purpose) for r in requests} == {(1, 0, "judge")}
    plain = Rubric(rubric="short", form="completion").ask(ITEMS[:1], ["something"], "judge@1")
    assert {r.sampling.choices for r in plain} == {(" A", " B")}
    assert all(r.prompt.endswith("only.") and not r.messages for r in plain)


def test_a_judge_that_reads_is_found_to_agree_with_gold_and_with_itself() -> None:
    outputs = [f"{t} {t}" for t in TOPICS]
    values, notes = judged(outputs, knows)
    assert {v["agreement"] for v in values} == {1.0}
    assert notes == (), "12 of 12 planted pairs, of which Wilson's interval begins at 76%"


def test_a_judge_that_looks_at_positions_only_is_no_better_than_chance() -> None:
    outputs = [f"{t} {t}" for t in TOPICS]
    values, notes = judged(outputs, first_always)
    assert {v["preferred"] for v in values} == {0.5}
    assert {v["agreement"] for v in values} == {0.0}
    assert "no better than chance: it finds 0% of 12 planted pairs" in notes[0]


def test_the_rows_teacher_as_judge_is_said() -> None:
    _, notes = judged(["a"] * len(ITEMS), knows, teacher="judge@1")
    assert "also wrote the training rows" in notes[0]


def test_a_silent_judge_gives_no_value_and_is_counted() -> None:
    outputs = ["a"] * len(ITEMS)
    requests = RUBRIC.ask(ITEMS, outputs, "judge@1")
    completions = [Completion(request=r.key, finish_reason="error", error="gone") for r in requests]
    assert RUBRIC.values(ITEMS, outputs, completions, "judge@1") == [{}] * len(ITEMS)
    notes = RUBRIC.judge_notes(ITEMS, outputs, completions, "judge@1", ["teacher@1"])
    assert any("finds 0% of 12 planted pairs" in note for note in notes), "the denominator stays"
    assert "did not answer 12 of 12" in notes[0]


@pytest.mark.parametrize("form", ["{}", "**{}**", "Answer {}: it is better.", "<think>A or B?</think>{}."])
def test_without_log_probabilities_the_written_letter_is_read(form: str) -> None:
    outputs = [f"{t} {t}" for t in TOPICS]

    def answer(request: Request) -> Completion:
        letter = "A" if knows(*parts(request)) > 0.5 else "B"
        return Completion(request=request.key, text=form.format(letter), finish_reason="stop")

    asked: list[Request] = []

    def answers(requests: Sequence[Request]) -> list[Completion]:
        asked.extend(requests)
        return [answer(request) for request in requests]

    completions = RUBRIC.answers(ITEMS, outputs, "judge@1", answers)
    assert sum(r.sampling.logprobs > 0 for r in asked) == PROBES
    assert {completion.request for completion in completions} == {r.key for r in asked[PROBES:]}
    notes = RUBRIC.judge_notes(ITEMS, outputs, completions, "judge@1", ["teacher@1"])
    assert notes == ("the judge gives no log-probabilities: the letter it writes is read",)
    values = RUBRIC.values(ITEMS, outputs, completions, "judge@1")
    assert all((v["preferred"], v["agreement"]) == (1.0, 1.0) for v in values)


@pytest.mark.parametrize("text", ["", "A better answer is B", "neither", "I cannot say which"])
def test_a_letter_that_cannot_be_told_is_no_answer(text: str) -> None:
    requests = RUBRIC.ask(ITEMS[:1], ["x"], "judge@1", written=True)
    completions = [Completion(request=r.key, text=text, finish_reason="stop") for r in requests]
    assert RUBRIC.values(ITEMS[:1], ["x"], completions, "judge@1") == [{}]


def test_planted_pairs_are_the_same_for_every_student_and_capped() -> None:
    few = Rubric(rubric="x", planted=3)
    one = {r.key for r in few.ask(ITEMS, ["a"] * len(ITEMS), "judge@1")}
    other = {r.key for r in few.ask(ITEMS, ["b"] * len(ITEMS), "judge@1")}
    assert len(one & other) == 6
    notes = RUBRIC.judge_notes(ITEMS[:1], ["a"], [], "judge@1", ["teacher@1"])
    assert any("no two references of this suite differ" in note for note in notes)


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(UsageError, match="the item has no answers"):
        RUBRIC.ask([Item(text="Say hello.")], ["hello"], "judge@1")
    with pytest.raises(ValidationError, match="prompt:1: 'quetion' is undefined"):
        Rubric(rubric="x", prompt="{{ quetion }}")
    with pytest.raises(ValidationError, match="Extra inputs"):
        Rubric.model_validate({"rubric": "x", "judges": "one"})


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["", "rain", "no", "A is better", *REFERENCES]), min_size=12, max_size=12),
    st.floats(0.01, 0.99),
)
def test_values_stay_in_range_and_order_of_completions_does_not_matter(outputs: list[str], chance: float) -> None:
    completions = list(judge(lambda q, a, b: chance).generate(RUBRIC.ask(ITEMS, outputs, "judge@1")))
    values = RUBRIC.values(ITEMS, outputs, completions, "judge@1")
    assert values == RUBRIC.values(ITEMS, outputs, completions[::-1], "judge@1")
    for value in values:
        assert value["preferred"] in (0.0, 0.5, 1.0)
        assert 0 <= value["preference"] <= 1
        assert value["preferred"] in (0.0, 0.5)  # a fixed lean never makes a winner
