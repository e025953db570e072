"""Written answers: hand-computed values, what cannot be read, abstentions and both of their errors."""

# ruff: noqa: E501  (a table of mistakes, one to a line)
from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data.examples import Shape
from harness.engines.transformers import TransformersEngine
from harness.errors import UsageError
from harness.metrics.abstention import abstains
from harness.metrics.answers import (
    Abstention,
    AnswerScorer,
    Fact,
    NumberAnswer,
    TextAnswer,
    answer_tokens,
    contains,
    numbers,
    rouge_l,
    token_f1,
)
from harness.metrics.json_answers import JsonAnswer
from harness.metrics.table import METRICS, metric_of
from harness.records import Item
from harness.suites.answers import AnswersSuite
from harness.suites.facts import FactsSuite
from harness.suites.free_text import plain_prompt, score_written
from harness.suites.kinds import load_suite
from harness.suites.open_ended import OpenEndedSuite
from harness.suites.suite import Suite
from harness.suites.summary import LOWER_IS_BETTER, RATES
from harness.suites.unanswerable import ABSTENTION, UnanswerableSuite
from tests.fakes import FakeStudent, prompt_of

CAT = "the cat sat on the mat"


def item(*answers: str, text: str = "q?") -> Item:
    return Item(text=text, answers=answers)


# --- text ------------------------------------------------------------------------------------------------------


def test_squad_values_computed_by_hand() -> None:
    # without articles: cat sat on mat (4 words); "A cat sat." is cat sat: 2 shared, F1 = 2*2/(4+2)
    assert answer_tokens("A cat sat.") == ["cat", "sat"]
    assert token_f1("A cat sat.", CAT) == pytest.approx(4 / 6)
    assert token_f1("dog", CAT) == 0.0
    # repeats count as often as both have them: "cat cat" shares one cat
    assert token_f1("cat cat", CAT) == pytest.approx(2 / 6)
    # longest common subsequence of "the cat lay on a mat" (6) and CAT (6) is "the cat on mat": 4/6 each way
    assert rouge_l("the cat lay on a mat", CAT) == pytest.approx(4 / 6)


def test_text_values_and_which_one_is_the_accuracy() -> None:
    output, gold = "The answer: U.S. Mail!", item("US mail", "post")
    expected = {"exact": 0.0, "normalised": 0.0, "contains": 1.0, "token_f1": 2 * 2 / (3 + 2)}
    for match in ("exact", "normalised", "contains"):
        found = TextAnswer(match=match).score(output, gold)
        assert found is not None
        assert {name: found[name] for name in expected} == pytest.approx(expected)
        assert found["accuracy"] == expected[match]
    whole = TextAnswer().score("the us-mail", item("US Mail", "usmail"))
    assert whole is not None
    assert (whole["accuracy"], whole["exact"]) == (1.0, 0.0), "any accepted answer will do"


def test_harmless_differences_are_none() -> None:
    """As SQuAD: articles, case, the final stop, quotes; and typography."""
    for gold, outputs in {
        "The Eiffel Tower": ("eiffel tower.", "“the Eiffel Tower”", "EIFFEL TOWER!", "**the Eiffel Tower**"),
        "N'Djamena": ("N’Djamena", "n'djamena."),
        "e-mail": ("email", "E-Mail", "e mail"),
        "1,000 km": ("1000 km", "1\u2009000 km", "1\u202f000\u00a0km"),
        "−3 °C": ("-3 °C", "–3°C", "-3 ℃"),
        "½": ("1/2",),
        "vitamin A": ("Vitamin A", "the vitamin a"),
    }.items():
        for output in outputs:
            found = TextAnswer().score(output, item(gold))
            assert found is not None
            assert (found["accuracy"], found["token_f1"]) == (1.0, 1.0), (gold, output)
            assert contains(f"I think it is {output}", gold)


@pytest.mark.parametrize(
    ("output", "gold", "right", "held", "f1"),
    [
        ("答案是北京。", "北京", 0.0, 1.0, 4 / 7),
        ("北京大学", "北京 大学", 1.0, 1.0, 1.0),
        ("東京です", "京都", 0.0, 0.0, 1 / 3),
        ("B型", "A型", 0.0, 0.0, 1 / 2),  # the A is no article
        ("型", "A型", 0.0, 0.0, 2 / 3),
        ("十三日", "三日", 0.0, 0.0, 1 / 2),
        ("不是", "是", 0.0, 0.0, 2 / 3),  # one character is a part of too many words
        ("答: 是", "是", 0.0, 1.0, 2 / 3),
        ("气温是-5度", "气温是5度", 0.0, 0.0, 4 / 5),
        ("คำตอบคือกรุงเทพ", "กรุงเทพ", 0.0, 1.0, 14 / 22),
    ],
)
def test_answers_without_spaces_are_compared_by_characters(
    output: str, gold: str, right: float, held: float, f1: float
) -> None:
    found = TextAnswer().score(output, item(gold))
    assert found is not None
    assert (found["accuracy"], found["contains"]) == (right, held)
    assert found["token_f1"] == pytest.approx(f1)


DIFFERENT = [
    *[("15", "1.5"), ("3", "-3"), ("10", "1.0"), ("C", "C++"), ("< 5", "> 5"), ("10:30", "1030"), ("1/2", "12")],
    *[("10^3", "103"), ("10³", "103"), ("vitamin", "vitamin A"), ("5", "5%"), ("€5", "$5"), ("A-", "A"), ("ms", "m/s")],
]


@pytest.mark.parametrize(("output", "gold"), [*DIFFERENT, *((gold, output) for output, gold in DIFFERENT)])
def test_another_value_is_never_right(output: str, gold: str) -> None:
    for match in ("exact", "normalised"):
        found = TextAnswer(match=match).score(output, item(gold))
        assert found is not None
        assert found["accuracy"] == 0.0
        assert found["token_f1"] < 1
        assert found["rouge_l"] < 1


@pytest.mark.parametrize(
    ("output", "gold"),
    [("It is 25 degrees", "2.5"), ("It is -40", "40"), ("about 5%", "5"), ("Use C++", "C"), ("at 10:30", "30"),
     ("2.5 litres", "5 litres"), ("it cost $1,500", "500"), ("3-4 days", "4 days"), ("10^3", "3")],
)  # fmt: skip
def test_a_fact_does_not_stand_inside_another_value(output: str, gold: str) -> None:
    assert Fact().score(output, item(gold)) == Fact().unread


def test_rouge_reads_every_script_and_every_mark() -> None:
    assert rouge_l("-3 degrees", "3 degrees") == pytest.approx(0.5)
    assert rouge_l("Ελλάδα και Κύπρος", "Κύπρος και Ελλάδα") == pytest.approx(1 / 3)
    assert rouge_l("自転車", "自動車") == pytest.approx(2 / 3)


def test_symbols_and_articles_alone_are_answers() -> None:
    assert TextAnswer().score("+", item("-")) == pytest.approx(
        dict.fromkeys(("accuracy", "exact", "normalised", "contains", "token_f1", "rouge_l"), 0.0)
    )
    assert token_f1("The", "the") == 1.0
    assert not contains("117 days", "17 days")


@given(st.text(min_size=1), st.text(min_size=1))
def test_measures_are_shares_and_an_answer_is_like_itself(a: str, b: str) -> None:
    assert 0 <= token_f1(a, b) <= 1
    assert token_f1(a, b) == pytest.approx(token_f1(b, a))
    if a.strip():
        assert token_f1(a, a) == 1.0
        assert contains(a, a)


# --- numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1,234.5 euros", [1234.5]),
        ("-3 degrees", [-3]),
        ("\u22123", [-3]),
        ("3-4 days", [3, 4]),
        ("$1,000,000", [1e6]),
        ("48 + 20 = 68.", [48, 20, 68]),
        ("about .5", [0.5]),
        ("1e3 km", [1000]),
        ("5km on the A4", [5]),
        ("12,5", [12, 5]),
        ("v1.2.3", []),
        ("1e999 or none", []),
        ("9^99999 or 0^-1", []),
        ("\u20135 and \u2212 3", [-5, 3]),
        ("= \u2212 3", [-3]),
        ("2½ or 1/2, not 24/7/365", [2.5, 0.5, 24, 7, 365]),
        ("-1 1/2 cups", [-1.5]),
        ("10³ and 5², 10^-3", [1000, 25, 0.001]),
        ("5 m² and H₂O", [5]),
        ("1.5 × 10³ or 2*10^2", [1500, 200]),
        ("1 234 and 1\u202f234.5, 1'000", [1234, 1234.5, 1000]),
        ("at 10:30 on page 7", [7]),
        ("一共42元，是-5", [42, -5]),
        ("答えは42です", [42]),
        ("คำตอบคือ42", [42]),
        ("٣٫٥", [3.5]),
        ("twelve", []),
    ],
)
def test_numbers_in_a_text(text: str, found: list[float]) -> None:
    assert numbers(text) == found


def test_a_decimal_comma() -> None:
    assert numbers("1.234,5 Euro", "comma") == [1234.5]
    assert numbers("12,5", "comma") == [12.5]


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_a_number_that_is_written_is_read(value: float) -> None:
    assert numbers(f"it is {value!r} in all") == [value]


@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9))
def test_numbers_are_equal_by_value_in_any_typography(one: int, other: int) -> None:
    shown = [
        f"{one:,}",
        f"{one:,}".replace(",", "\u2009"),
        f"{one:,}".replace(",", " "),
        str(one).replace("-", "−"),
        f"{one}.0",
    ]
    assert [numbers(text) for text in shown] == [[float(one)]] * len(shown)
    for text in shown:
        found = NumberAnswer().score(text, item(str(other)))
        assert found == {"accuracy": float(one == other)}


def test_tolerances_and_which_number_counts() -> None:
    def right(output: str, gold: str = "50", **settings: Any) -> float | None:
        found = NumberAnswer(**settings).score(output, item(gold))
        return None if found is None else found["accuracy"]

    assert right("first 10, then 50") == 1.0
    assert right("50, not 10") == 0.0, "the last one counts"
    assert right("50, not 10", take="only") is None
    assert right("50 = 50.0", take="only") == 1.0
    assert [right(x, tolerance=2) for x in ("52", "52.1", "48")] == [1.0, 0.0, 1.0]
    assert [right(x, relative_tolerance=0.1) for x in ("55", "55.1")] == [1.0, 0.0]
    assert right("0.1", gold="0.3", tolerance=0.2) == 1.0, "no surprise from binary fractions"
    assert right("none") is None
    assert NumberAnswer().problem("about ten") == "'about ten' holds 0 numbers, where one is wanted (decimal point)"
    assert NumberAnswer().problem("1,234.5 euros") == ""


# --- JSON ------------------------------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "pet": {"type": "string"}},
    "required": ["name"],
}
GOLD = '{"name": "Ada", "age": 7}'


@pytest.mark.parametrize(
    ("output", "accuracy", "valid", "name", "age", "pet"),
    [
        (GOLD, 1, 1, 1, 1, 1),
        ('Sure!\n```json\n{"age": 7.0, "name": "ada."}\n```', 1, 1, 1, 1, 1),
        ('I think {"name": "Ada", "age": 8} is it', 0, 1, 1, 0, 1),
        ('{"name": "Ada", "age": "7"}', 0, 0, 1, 0, 1),
        ('{"name": "Ada", "age": 7, "pet": "cat"}', 0, 1, 1, 1, 0),
        ('{"name": "Ada"}', 0, 1, 1, 0, 1),
        ("[]", 0, 0, 0, 0, 0),
    ],
)
def test_json_by_field(output: str, accuracy: int, valid: int, name: int, age: int, pet: int) -> None:
    found = JsonAnswer(json_schema=SCHEMA).score(output, item(GOLD))
    expected = {"accuracy": accuracy, "valid": valid, "field_name": name, "field_age": age, "field_pet": pet}
    assert found == expected


@pytest.mark.parametrize(("output", "gold"), DIFFERENT)
def test_another_value_in_json_is_never_right(output: str, gold: str) -> None:
    scorer = JsonAnswer(json_schema={"properties": {"x": {"type": "string"}}})
    found = scorer.score(json.dumps({"x": output}), item(json.dumps({"x": gold})))
    assert found == {"accuracy": 0.0, "valid": 1.0, "field_x": 0.0}


@pytest.mark.parametrize("output", ["", "none", '{"name": NaN}', '{"name": "Ada"', "[" * 100_000, '{"a":' + "9" * 5000])
def test_what_is_no_json_cannot_be_read(output: str) -> None:
    assert JsonAnswer(json_schema=SCHEMA).score(output, item(GOLD)) is None


def test_true_is_not_one_and_the_best_accepted_answer_counts() -> None:
    scorer = JsonAnswer(json_schema={"properties": {"x": {}}})
    found = scorer.score('{"x": true}', item('{"x": 1}'))
    assert found is not None
    assert found["accuracy"] == 0.0
    found = scorer.score('{"x": 2}', item('{"x": 1}', '{"x": 2}'))
    assert found == {"accuracy": 1.0, "valid": 1.0, "field_x": 1.0}


# --- knowing and not knowing -----------------------------------------------------------------------------------

ABSTAINS = [
    "I don't know",
    "I don’t know.",
    "Sorry, I do not know the answer to that.",
    "I'm not sure about that.",
    "The handbook does not say.",
    "The text doesn't mention who the guard is.",
    "That is not stated in the handbook.",
    "This isn't specified.",
    "Not mentioned.",
    "Unknown",
    "N/A",
    "There is no information about it.",
    "No information given",
    "It cannot be determined from the passage.",
    "I cannot answer that question.",
    "I have no idea.",
    "I don't have any information about the company's bank.",
    "The handbook does not give any details.",
    "Not enough information.",
    "We really don't know.",
]
ANSWERS = [
    "Room B3",
    "The shop does not provide helmets.",
    "He does not say goodbye.",
    "You cannot tell your manager before Monday.",
    "Lunch is not included.",
    "No, dogs are not allowed.",
    "It cannot be returned after 11 days.",
    "the information desk",
    "No data stays on the lock.",
    "Mr Unknown Pleasures",
    "You know it: 27 days",
    "Nobody",
    "",
]
MISSED = ["Ask somebody else.", "Who could say?"]  # abstentions in words that no pattern has
MISTAKEN = ["No data is stored on the lock.", 'Answer with "I don\'t know" on the radio.']  # an answer that quotes one


@pytest.mark.parametrize("text", ABSTAINS + MISTAKEN)
def test_phrases_that_abstain(text: str) -> None:
    assert abstains(text)


@pytest.mark.parametrize("text", ANSWERS + MISSED)
def test_phrases_that_do_not(text: str) -> None:
    assert not abstains(text)


def test_a_fact_is_right_abstained_or_wrong_and_never_two_of_them() -> None:
    gold = item("27 days", "27")
    outcomes = {
        "The answer is 27 days.": (1, 0, 0),
        "I'm not sure, but I think 27.": (1, 0, 0),
        "I don't know.": (0, 1, 0),
        "127 days": (0, 0, 1),
    }
    for output, (right, silent, wrong) in outcomes.items():
        found = Fact().score(output, gold)
        assert found == {"accuracy": right, "abstained": silent, "wrong": wrong}
    assert Fact(match="normalised").score("The answer is 27 days.", gold) == Fact().unread
    assert Fact().score(" \n", gold) is None
    assert Abstention().score("I don't know", item()) == {"accuracy": 1.0, "abstained": 1.0, "made_up": 0.0}
    assert Abstention().score("42", item()) == {"accuracy": 0.0, "abstained": 0.0, "made_up": 1.0}


@pytest.mark.parametrize(
    ("scorer", "answered"),
    [
        (TextAnswer(), item("two words")),
        (NumberAnswer(), item("1,234.5")),
        (JsonAnswer(json_schema=SCHEMA), item(GOLD)),
        (Fact(), item("a brass bell")),
        (Abstention(), item()),
    ],
    ids=lambda v: type(v).__name__,
)
def test_the_reference_is_right_and_nothing_is_wrong(scorer: AnswerScorer, answered: Item) -> None:
    found = scorer.score(next(iter(answered.answers), ABSTENTION), answered)
    assert found is not None
    assert found["accuracy"] == 1.0
    assert found.keys() == scorer.unread.keys()
    assert scorer.score("", answered) is None
    assert scorer.unread["accuracy"] == 0.0
    assert all(not scorer.problem(answer) for answer in answered.answers)


# --- asking ----------------------------------------------------------------------------------------------------


def student_of(answers: dict[str, str], **more: Any) -> FakeStudent:
    """Answers from a table, with a context of 20 tokens."""
    return FakeStudent(lambda request: answers[prompt_of(request)], max_length=20, **more)


def test_every_item_gets_a_score_and_what_failed_is_not_wrong() -> None:
    student = student_of({"one": "yes", "two": " ", "three": "ERROR: out of memory", "four": "yes yes..."})
    items = [
        Item(text="one", answers=("yes", "ja"), tags=("t",), group="g", stratum="s"),
        *(Item(text=text, answers=("yes",)) for text in ("two", "three", "four", "longer than the context")),
    ]
    scores = score_written(items, plain_prompt, student, "m", 5, TextAnswer())
    assert [s.status for s in scores] == ["scored", "unparsed", "failed", "scored", "failed"]
    assert [s.item for s in scores] == [i.id for i in items]
    assert scores[0].values["accuracy"] == 1.0
    assert scores[0].values["gold_nll"] == pytest.approx(0.5 * len("yes\0"))
    assert (scores[0].tags, scores[0].group, scores[0].stratum) == (("t",), "g", "s")
    assert (scores[0].prompt_tokens, scores[0].answer_tokens, scores[0].gold) == (10, 1, "yes")
    assert [(s.values["accuracy"], s.values["empty"]) for s in scores[1:4:2]] == [(0.0, 1.0), (0.0, 0.0)]
    assert (scores[3].truncated, scores[3].values["stop_rate"], scores[3].values["words"]) == (True, 0.0, 2.0)
    assert scores[3].values["token_f1"] == pytest.approx(2 / 3)
    assert (scores[2].values, scores[2].error) == ({}, "out of memory")
    assert scores[4].error == "the prompt is 30 tokens, longer than the context"


def test_a_log_likelihood_that_is_no_number_fails_its_item() -> None:
    (score,) = score_written(
        [item("yes", text="one")],
        plain_prompt,
        student_of({"one": "yes"}, weigh=lambda *_: math.nan),
        "m",
        5,
        TextAnswer(),
    )
    assert (score.status, score.values) == ("failed", {})


def test_equal_prompts_are_asked_once_and_no_engine_stops_at_a_line() -> None:
    student = student_of({"same": "I don't know"})
    items = [Item(text="a"), Item(text="b")]
    scores = score_written(items, lambda text: "same", student, "m", 5, Abstention())
    assert [request.sampling.stop for request in student.requests] == [()]
    assert [s.values["accuracy"] for s in scores] == [1.0, 1.0]
    assert all("gold_nll" not in s.values for s in scores), "nothing is accepted, so nothing is measured"


def test_gold_nll_is_the_sum_over_the_answer_and_its_stop(tiny_model: Path) -> None:
    import torch

    engine = TransformersEngine(tiny_model, device="cpu", dtype="float32")
    (score,) = score_written([item("Room B3")], plain_prompt, engine, "tiny", 4, TextAnswer())
    context, answer = (
        engine.prompt_ids(plain_prompt(Item(text="q?"))),
        engine.answer_ids(plain_prompt(Item(text="q?")), "Room B3"),
    )
    with torch.no_grad():
        logs = engine.network(input_ids=torch.tensor([context + answer])).logits[0].float().log_softmax(-1)
    expected = -sum(float(logs[len(context) - 1 + i, token]) for i, token in enumerate(answer))
    assert score.values["gold_nll"] == pytest.approx(expected, abs=1e-3)
    assert (score.status, score.answer_tokens) == ("scored", 4)


# --- suites ----------------------------------------------------------------------------------------------------


def loaded(root: Path, spec: str, lines: list[dict[str, Any]], labels: tuple[str, ...] = ()) -> Suite:
    (root / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (root / "s.yaml").write_text(f"items: items.jsonl\n{spec}")
    return load_suite(root / "s.yaml", root, Shape(labels=labels))


def test_suites_know_whether_they_are_of_the_task(tmp_path: Path) -> None:
    lines = [{"question": f"how many of {i}?", "answer": 3} for i in range(12)]
    task = loaded(tmp_path, "kind: answers\nanswer: {kind: number, tolerance: 1}\n", lines)
    plain = loaded(tmp_path, "kind: answers\nasked: plain\n", lines)
    assert (task.of_task, plain.of_task, task.primary) == (True, False, "accuracy")
    assert isinstance(task.spec, AnswersSuite)
    assert task.spec.scorer == NumberAnswer(tolerance=1)
    assert task.digest != plain.digest
    asked = [{"question": f"how many of {i}?", "tags": ["x"]} for i in range(12)]
    silent = loaded(tmp_path, "kind: unanswerable\n", asked)
    assert isinstance(silent.spec, UnanswerableSuite)
    assert (silent.spec.scorer, silent.items[0]) == (Abstention(), Item(text="how many of 0?", tags=("x",)))


@pytest.mark.parametrize(
    ("answer", "primary"),
    [("北京大学", "accuracy"), ("北京大学在海淀区", "token_f1"), ("你可以在网上或者在任何一家分店里办理退货手续。", "rouge_l"),
     ("ใช่ครับ", "accuracy"), ("คุณสามารถขอเงินคืนได้", "token_f1")],
)  # fmt: skip
def test_so_it_does_where_words_have_no_spaces(tmp_path: Path, answer: str, primary: str) -> None:
    lines = [{"question": f"{i}?", "answer": f"{answer}{i}"} for i in range(12)]
    assert loaded(tmp_path, "kind: answers\n", lines).primary == primary


@pytest.mark.parametrize(
    ("words", "primary"),
    [((1, 2, 3), "accuracy"), ((3, 3, 50), "accuracy"), ((2, 3, 4, 5), "token_f1"), ((9, 10, 11), "token_f1"),
     ((11, 11, 1), "rouge_l"), ((48, 60), "rouge_l")],
)  # fmt: skip
def test_the_primary_metric_goes_by_the_length_of_the_references_in_words(
    tmp_path: Path, words: tuple[int, ...], primary: str
) -> None:
    lines = [{"question": f"{i}?", "answers": ["w " * words[i % len(words)], "w"]} for i in range(12)]
    assert loaded(tmp_path, "kind: answers\n", lines).primary == primary
    assert loaded(tmp_path, "kind: answers\nanswer: {kind: text, match: contains}\n", lines).primary == "accuracy"
    stated = loaded(tmp_path, "kind: answers\nprimary: exact\n", lines)
    assert stated.primary == "exact"
    assert stated.digest == loaded(tmp_path, "kind: answers\n", lines).digest, "it decides no score"


def test_a_primary_metric_is_one_of_every_item(tmp_path: Path) -> None:
    answered = {"answer": '{"age": 3}'}
    spec = "answer: {kind: json, json_schema: {properties: {age: {}}}}\n"
    for kind, line, wrong, near in (
        ("answers", answered, "rogue_l", "rouge_l"),
        ("answers", answered, "macro_f1", ""),
        ("facts\ndocuments: s.yaml", answered, "abstain", "abstained"),
        ("labels", {"label": "b"}, "macro_f1", ""),
        ("choice", {"answer": 0, "choices": ["a", "b"]}, "rouge_l", ""),
        ("open_ended", {"prompt": "p"}, "repeat_shar", "repeat_share"),
        (f"answers\n{spec}", answered, "field_aga", "field_age"),
    ):
        question = "text" if kind == "labels" else "prompt" if kind == "open_ended" else "question"
        lines = [{**line, question: f"{i}?"} for i in range(12)]
        with pytest.raises(UsageError, match=rf"s\.yaml:\d+: primary: '{wrong}'") as caught:
            loaded(tmp_path, f"kind: {kind}\nprimary: {wrong}\n", lines, ("b",) * (kind == "labels"))
        assert (f"did you mean {near!r}" in str(caught.value)) == bool(near)


def test_what_a_kind_computes_is_what_is_listed(tiny_model: Path) -> None:
    engine = TransformersEngine(tiny_model, device="cpu", dtype="float32")
    for scorer, answered in ((TextAnswer(), item("yes")), (NumberAnswer(), item("3")), (Fact(), item("yes"))):
        (score,) = score_written([answered], plain_prompt, engine, "tiny", 4, scorer)
        facts = FactsSuite(kind="facts", items="x", documents="x")
        spec = facts if isinstance(scorer, Fact) else AnswersSuite(kind="answers", items="x", answer=scorer)
        assert set(spec.item_metrics) == set(score.values)


def test_one_table_knows_every_metric() -> None:
    for spec in (
        AnswersSuite(kind="answers", items="x"),
        OpenEndedSuite(kind="open_ended", items="x"),
        UnanswerableSuite(kind="unanswerable", items="x"),
    ):
        assert set(spec.item_metrics) <= set(METRICS)
    assert {"accuracy", "choice_accuracy"} <= set(RATES)
    assert {"rep_3", "wrong", "gold_nll"} <= set(LOWER_IS_BETTER)
    assert metric_of("field_age").kind == "share"


BAD = [
    ("kind: answers\nanswer: {kind: number}\n", {"question": "q", "answer": "ten"}, "items.jsonl:1: answer: 'ten' holds 0 numbers"),
    ("kind: answers\n", {"question": "q", "answer": "a", "answers": ["b"]}, "items.jsonl:1: give either answer"),
    ("kind: answers\n", {"question": "q"}, "give either answer, or answers"),
    ("kind: answers\n", {"question": "q", "answers": [" "]}, "items.jsonl:1: answer: ' ' is empty"),
    ("kind: answers\nanswer: {kind: json, json_schema: {type: objct}}\n", {}, "s.yaml:3: answer.json_schema: not a JSON Schema: type: 'objct'"),
    ("kind: answers\nanswer: {kind: json, json_schema: {$ref: 'http://x/y'}}\n", {}, "a $ref may point inside the schema only"),
    ("kind: answers\nanswer: {kind: json, json_schema: none.json}\n", {}, "json_schema: there is no file none.json"),
    ("kind: answers\nanswer: {kind: json, json_schema: {type: object}}\n", {"question": "q", "answer": "[1]"}, "is not what the schema allows: [1] is not of type 'object'"),
    ("kind: answers\nanswer: {kind: json, json_schema: {type: object}}\n", {"question": "q", "answer": "{"}, "'{' is not JSON"),
    ("kind: answers\nanswer: {kind: txt}\n", {}, "s.yaml:3: answer: kind 'txt' is unknown (did you mean 'text'?); allowed: text, number, json"),
    ("kind: answers\nanswer: {match: exakt}\n", {}, "kind"),
    ("kind: answers\nasked: tsk\n", {}, "'task'"),
    ("kind: labels\n", {"text": "a", "label": "b"}, "s.yaml:2: kind: the task has no labels; its own suites are of kind answers"),
    ("kind: facts\ndocuments: d.jsonl\n", {}, "s.yaml:3: documents: there is no file d.jsonl"),
    ("kind: unanswerable\n", {"question": "q", "answer": "a"}, "items.jsonl:1: answer: unknown column"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "line", "expected"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_bad_suites_are_refused(tmp_path: Path, spec: str, line: dict[str, Any], expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        loaded(tmp_path, spec, [line])
    assert expected in str(caught.value)


def test_a_schema_in_a_file_is_the_schema(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    lines = [{"question": f"who is {i}?", "answer": json.loads(GOLD)} for i in range(12)]
    spec = "kind: answers\nanswer: {{kind: json, json_schema: {}}}\n"
    by_file = loaded(tmp_path, spec.format("schema.json"), lines)
    inline = loaded(tmp_path, spec.format(json.dumps(SCHEMA)), lines)
    assert by_file.digest == inline.digest
    for suite in (by_file, inline):
        assert isinstance(suite.spec, AnswersSuite)
        assert suite.spec.scorer == JsonAnswer(json_schema=SCHEMA)


def test_facts_that_stand_in_no_document_are_listed(tmp_path: Path) -> None:
    documents = [
        {"text": "How long is leave?", "answer": "The 27 days!"},
        {"messages": [{"role": "user", "content": "Where? In Room B-3."}]},
    ]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(d) + "\n" for d in documents))
    lines = [
        {"question": "Leave?", "answers": ["27 days"]},
        {"question": "Where?", "answers": ["cellar", "room B3"]},
        {"question": "Who?", "answers": ["Ada", "27 days off"]},
    ]
    suite = loaded(tmp_path, "kind: facts\ndocuments: d.jsonl\n", lines)
    assert suite.spec.extras.problems(suite.items, tmp_path) == [
        "'Who?': 'Ada' or '27 days off' stands in no line of d.jsonl"
    ]
