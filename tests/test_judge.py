"""The judge: what it asks, how its answers are read, and when it is not used."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.errors import UsageError
from harness.filters import Context, Judge
from harness.filters.calibration import Calibration, calibrate, prior_of, threshold_keeping, weigh
from harness.filters.judge import SILENT, UNUSED, choice_probabilities
from harness.models.teachers import Teachers
from harness.records import Completion, Example, Message, Request, Row
from tests.project import TOPICS, context, labelled, row

SURE = Calibration(auc=0.9, low=0.8, high=1.0, threshold=0.4, seeds=64)


def seeds(each: int = 8) -> list[Example]:
    return [labelled(f"{label} message number {i}", label) for i in range(each) for label in TOPICS]


def completion(request: Request, chances: Mapping[str, float]) -> Completion:
    logs = {token: math.log(chance) for token, chance in chances.items()}
    return Completion(request=request.key, text="", finish_reason="length", first_logprobs=logs)


def judge(folder: Path, template: str = "{{ text }} {{ label }}", **fields: object) -> Judge:
    (folder / "j.j2").write_text(template, encoding="utf-8")
    return Judge.model_validate({"template": "j.j2", **fields})


def probabilities(chances: Mapping[str, float], choices: Sequence[str]) -> dict[str, float]:
    request = Request.model_validate({"model": "m", "prompt": "p", "sampling": {}, "origin": {"purpose": "judge"}})
    return choice_probabilities(completion(request, chances), choices)


def test_probabilities_are_renormalised_over_the_choices() -> None:
    found = probabilities({" yes": 0.3, "Yes": 0.1, "no": 0.1, "maybe": 0.4, "\n": 0.05}, ["yes", "no"])
    assert found == {"yes": pytest.approx(0.8), "no": pytest.approx(0.2)}


def test_pieces_count_for_the_one_choice_they_begin() -> None:
    # "b" begins two choices and is left out; the unseen one gets the smallest reported probability
    found = probabilities({"bil": 0.5, "b": 0.2, "re": 0.2, "x": 0.1}, ["billing", "battery", "repair"])
    assert found == {
        "billing": pytest.approx(0.625),
        "battery": pytest.approx(0.125),
        "repair": pytest.approx(0.25),
    }


@pytest.mark.parametrize("chances", [{}, {"maybe": 0.9}, {"b": 0.5, "bil": 0.1}])
def test_a_completion_that_cannot_tell_gives_nothing(chances: dict[str, float]) -> None:
    assert probabilities(chances, ["billing", "battery"]) == {}


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["yes", " y", "no", "n", "x", ""]), st.floats(-20, 0), max_size=6))
def test_probabilities_sum_to_one_or_there_are_none(logs: dict[str, float]) -> None:
    answer = Completion(request="r", finish_reason="stop", first_logprobs=logs)
    found = choice_probabilities(answer, ["yes", "no"])
    assert not found or sum(found.values()) == pytest.approx(1)


def test_the_judge_asks_for_one_guided_token_and_never_shows_the_row_itself(tmp_path: Path) -> None:
    rule = judge(tmp_path, "{% for s in shots %}{{ s.text }}={{ s.label }};{% endfor %}|{{ text }}", shots=2)
    given_seeds = seeds(3)
    rows = [row(given_seeds[0].text), row("something else")]
    requests = rule.ask(rows, context(tmp_path, given_seeds))
    shown = requests[0].prompt.split("|")[0]
    assert given_seeds[0].text not in shown
    assert given_seeds[0].text in requests[1].prompt
    assert all(request.prompt.count("=") == 6 for request in requests)
    sampling = requests[0].sampling
    spaced = tuple(f" {label}" for label in TOPICS)  # the prompt ends in a word, so the next begins with a space
    assert (sampling.temperature, sampling.choices, sampling.logprobs) == (0, spaced, 20)
    assert requests[0].origin.row == rows[0].id


def test_no_label_is_one_shot_short_when_seeds_are_few(tmp_path: Path) -> None:
    rule = judge(tmp_path, "{% for s in shots %}{{ s.label }} {% endfor %}", shots=5)
    given_seeds = seeds(2)
    for request in rule.ask(rule.calibration_rows(context(tmp_path, given_seeds)), context(tmp_path, given_seeds)):
        assert request.prompt.split() == list(TOPICS)


def test_a_prompt_without_the_label_is_asked_once_per_text(tmp_path: Path) -> None:
    where = context(tmp_path, seeds(2))
    rule = judge(tmp_path, "{{ text }}")
    rows = rule.calibration_rows(where)
    assert len(rows) == 6 * 3
    assert len({request.key for request in rule.ask(rows, where)}) == 6
    assert len({request.key for request in judge(tmp_path).ask(rows, where)}) == 18


def test_a_chat_judge_asks_by_message(tmp_path: Path) -> None:
    request = judge(tmp_path, form="chat").ask([row("hello")], context(tmp_path, seeds(2)))[0]
    assert request.messages == (Message(role="user", content="hello repair"),)


def test_an_undefined_variable_in_the_judges_template_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"did you mean 'label'"):
        judge(tmp_path, "{{ lable }}").ask([row("hello")], context(tmp_path, seeds(2)))


def test_verdicts_of_the_judge(tmp_path: Path) -> None:
    where = context(tmp_path, seeds(2))
    rule = judge(tmp_path)
    rows = [row("a"), row("b"), row("c")]
    requests = rule.ask(rows, where)
    answers = [
        completion(requests[0], {"repair": 0.6, "billing": 0.2, "delivery": 0.2}),
        completion(requests[1], {"repair": 0.1, "billing": 0.7, "delivery": 0.2}),
        Completion(request=requests[2].key, finish_reason="error", error="refused"),
    ]
    verdicts = rule.verdicts(rows, answers, where, SURE)
    assert [v.keep for v in verdicts] == [True, False, False]
    assert [v.score for v in verdicts] == [pytest.approx(0.6), pytest.approx(0.1), None]
    assert verdicts[1].reason == "the judge gives 'repair' 0.100, below 0.400"
    assert verdicts[1].against == "billing"
    assert verdicts[2].reason == SILENT


def test_a_judge_no_better_than_chance_is_not_used(tmp_path: Path) -> None:
    chance = Calibration(auc=0.52, low=0.44, high=0.6, threshold=0.1, seeds=64)
    verdicts = judge(tmp_path).verdicts([row("a")], [], context(tmp_path), chance)
    assert [(v.keep, v.reason) for v in verdicts] == [(True, UNUSED)]


def scripted(rule: Judge, where: Context, score: Callable[[Row, bool], float], random_seed: int = 0) -> Calibration:
    """The calibration of a yes-or-no judge whose sureness of yes is `score(row, whether it is right)`."""
    right = {seed.text: seed.answer for seed in where.seeds}
    rows = rule.calibration_rows(where)
    answers = []
    for asked, request in zip(rows, rule.ask(rows, where, purpose="calibrate"), strict=True):
        chance = score(asked, right[asked.text] == asked.answer)
        answers.append(completion(request, {"yes": chance, "no": 1 - chance}))
    return rule.calibrate(rows, answers, where, random_seed=random_seed)


def test_a_judge_that_says_the_same_of_everything_is_told_so(tmp_path: Path) -> None:
    rule = judge(tmp_path, choices=("yes", "no"), accept="yes")
    same = scripted(rule, context(tmp_path, seeds(10)), lambda row, right: 0.7)
    assert not same.usable
    assert same.sentence().endswith("no better than chance, since it says the same of every answer; not used")


def test_a_perfect_judge_is_used_and_keeps_nine_seeds_of_ten(tmp_path: Path) -> None:
    where = context(tmp_path, seeds(10))
    rule = judge(tmp_path, choices=["yes", "no"], accept="yes")
    found = scripted(rule, where, lambda asked, right: 0.6 + len(asked.text) / 1000 if right else 0.3)
    assert (found.auc, found.low, found.high, found.usable) == (1, 1, 1, True)
    assert found.seeds == 30
    assert found.sentence() == f"judge: AUC 1.00 [1.00, 1.00] on 30 seeds; drops below {found.threshold:.3g}"


def test_a_random_judge_is_not_used_but_for_one_time_in_twenty(tmp_path: Path) -> None:
    where = context(tmp_path, seeds(10))
    rule = judge(tmp_path, choices=["yes", "no"], accept="yes")
    used = 0
    for attempt in range(20):
        draw = random.Random(attempt)
        found = scripted(rule, where, lambda asked, right, draw=draw: draw.uniform(0.01, 0.99))  # type: ignore[misc]
        used += found.usable
        assert found.usable or "no better than chance; not used" in found.sentence()
    assert used <= 2


def test_silent_judgements_are_counted(tmp_path: Path) -> None:
    where = context(tmp_path, seeds(4))
    rule = judge(tmp_path)
    rows = rule.calibration_rows(where)
    failed = [Completion(request=r.key, finish_reason="error", error="down") for r in rule.ask(rows, where)]
    found = rule.calibrate(rows, failed, where)
    assert not found.usable
    assert "not used" in found.sentence()
    assert "36 judgements had no usable answer, the first: down" in found.sentence()


@pytest.mark.parametrize("wrongly", [0, 8])
def test_without_log_probabilities_the_written_choice_is_measured_and_read(tmp_path: Path, wrongly: int) -> None:
    where = context(tmp_path, seeds(16))
    rule = judge(tmp_path, "{{ text }}", form="chat")
    rows = rule.calibration_rows(where)
    requests = rule.ask(rows, where, written=True)
    assert {(r.sampling.logprobs, r.sampling.max_tokens > 64) for r in requests} == {(0, True)}
    first = {row.text for row in rows[: wrongly * 3 : 3]}

    def says(row: Row) -> Completion:
        topic = row.text.split()[0] if row.text not in first else "none of them"
        return Completion(request="r", text=f"<think>hm</think>The topic is **{topic}**.", finish_reason="stop")

    found = rule.calibrate(rows, [says(row) for row in rows], where)
    assert found.written
    assert found.usable
    assert "by its written choice" in found.sentence()
    assert found.unanswered == wrongly * 3
    good, bad, silent = (row("repair message 1"), row("repair message 2", "billing"), row("nothing"))
    texts = ("repair", "Repair!", "no idea")
    answers = [Completion(request="r", text=text, finish_reason="stop") for text in texts]
    verdicts = rule.verdicts([good, bad, silent], answers, where, found)
    assert [(v.keep, v.score) for v in verdicts] == [(True, 1.0), (False, 0.0), (False, None)]


def test_of_written_choices_the_threshold_lies_between_and_what_it_costs_is_said() -> None:
    found = calibrate([1.0] * 15 + [0.0] * 5, [[0.0]] * 20, 0.9, written=True)
    assert (found.threshold, found.kept, found.usable) == (0.5, 0.75, True)
    assert "25% of the rightly labelled seeds" in found.sentence()


def test_where_the_task_has_no_labels_other_seeds_answers_are_the_wrong_ones(tmp_path: Path) -> None:
    given_seeds = tuple(labelled(f"question {i}", f"answer {i}") for i in range(9))
    where = Context(root=tmp_path, seeds=given_seeds, labels={}, protected=(), teachers=Teachers(own="t@1"))
    rule = judge(tmp_path, choices=["yes", "no"], accept="yes", wrong_labels=2)
    rows = rule.calibration_rows(where)
    assert len(rows) == 27
    fits = [row.text.split()[1] == row.answer.split()[1] for row in rows]
    texts = ["yes" if fit else "no" for fit in fits]
    answers = [Completion(request="r", text=text, finish_reason="stop") for text in texts]
    assert sum(fits) == 9
    assert rule.calibrate(rows, answers, where).auc == 1.0


def test_many_seeds_are_sampled_evenly(tmp_path: Path) -> None:
    rule = judge(tmp_path, calibration_seeds=9, wrong_labels=1)
    rows = rule.calibration_rows(context(tmp_path, seeds(40)))
    right = [r for r in rows if r.text.startswith(r.answer)]
    assert len(rows) == 18
    assert sorted(r.answer for r in right) == ["billing"] * 3 + ["delivery"] * 3 + ["repair"] * 3


def test_the_calibration_is_the_auc_over_seeds() -> None:
    # right 0.9 beats 0.1, 0.5, 0.7; right 0.5 beats 0.1, ties 0.5, loses to 0.7: 4.5 of 6
    found = calibrate([0.9, 0.5], [[0.1, 0.5], [0.7]], 0.9)
    assert found.auc == 4.5 / 6
    assert (found.low, found.high) == (0, 1)  # two seeds: nothing is claimed
    assert not found.usable


def test_threshold_by_hand() -> None:
    scores = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert threshold_keeping(scores, 0.9) == 0.2
    assert threshold_keeping(scores, 1.0) == 0.1
    assert threshold_keeping(scores, 0.95) == 0.1


def test_a_few_seeds_prove_nothing() -> None:
    found = calibrate([0.9] * 4, [[0.1]] * 4, 0.9)
    assert not found.usable
    assert "too few to tell, 8 are needed" in found.sentence()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"accept": "yes"}, 'must be "label"'),
        ({"choices": ["yes", "no"], "accept": "yess"}, "did you mean 'yes'"),
        ({"choices": ["yes", " Yes"], "accept": "yes"}, "two or more different words"),
    ],
)
def test_a_judge_that_cannot_choose_is_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Judge.model_validate({"template": "j.j2", **fields})


def test_a_preference_for_a_word_is_divided_out() -> None:
    answers = [{"a": 0.8, "b": 0.2}, {"a": 0.2, "b": 0.8}, {"a": 0.8, "b": 0.2}, {"a": 0.8, "b": 0.2}]
    prior = prior_of(answers)
    assert prior["a"] / prior["b"] == pytest.approx(4**0.5)  # geometric mean of the odds 4, 1/4, 4, 4
    assert weigh({"a": 0.8, "b": 0.2}, prior)["a"] == pytest.approx(2 / 3)
    assert weigh({"a": 0.8, "b": 0.2}, {}) == {"a": 0.8, "b": 0.2}
    assert weigh({}, prior) == {}
