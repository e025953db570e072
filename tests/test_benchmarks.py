"""Public benchmarks on small rows of our own in the hub's form, and questions with choices."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from harness.data.examples import Shape
from harness.engines.transformers import TransformersEngine
from harness.errors import Interrupted, MachineError, UsageError
from harness.records import Item, Message, Pair, Score
from harness.suites.benchmark import BenchmarkSuite
from harness.suites.benchmarks import (
    NotReachable,
    benchmark_tasks,
    chosen_documents,
    fingerprint,
    questions,
    score_benchmark,
)
from harness.suites.choice import ChoiceSuite, score_choices
from harness.suites.generate import continuation_pair, shares
from harness.suites.kinds import load_suite
from harness.suites.outcome import Outcome
from tests.fakes import ASSISTANT, FakeStudent, Weigh, prompt_of

ROOT = Path(__file__).parent.parent


def arc_row(
    n: int, answer: str = "B", choices: Sequence[str] = ("a red cart", "a lamp", "wet sand", "old bread")
) -> Any:
    return {
        "id": f"own_{n}",
        "question": f"Which thing number {n} gives light?",
        "choices": {"text": list(choices), "label": list("ABCD"[: len(choices)])},
        "answerKey": answer,
    }


def write_rows(folder: Path, name: str, rows: Iterable[Any]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def arc(folder: Path, rows: Sequence[Any]) -> None:
    for split, found in (
        ("test", rows),
        ("train", [arc_row(100 + n) for n in range(6)]),
        ("validation", [arc_row(50)]),
    ):
        write_rows(folder, f"ARC-Challenge_{split}.jsonl", found)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of benchmark rows."""
    monkeypatch.setenv("HARNESS_BENCHMARKS", str(tmp_path / "rows"))
    return tmp_path / "rows"


def spec(benchmark: str, **settings: Any) -> BenchmarkSuite:
    return BenchmarkSuite(kind="benchmark", benchmark=benchmark, **settings)


def scored(engine: Any, benchmark: str, **settings: Any) -> Outcome:
    suite = spec(benchmark, **settings)
    return score_benchmark(suite, benchmark_tasks(suite), engine)


# --- choices, measured ----------------------------------------------------------------------------------------


def test_values_are_those_worked_out_by_hand(folder: Path) -> None:
    arc(folder, [arc_row(0)])
    table = {" a red cart": -4.0, " a lamp": -3.9, " wet sand": -6.0, " old bread": -9.0}
    outcome = scored(FakeStudent(weigh=lambda context, choice: table[choice]), "arc_challenge")
    [score] = outcome.scores
    # by letters of the choice: -0.4, -0.65, -0.75, -1.0: the first wins by length, the second (gold) by sum
    assert score.values["acc"] == 1.0
    assert score.values["acc_norm"] == score.values["accuracy"] == 0.0
    total = sum(math.exp(value) for value in table.values())
    assert score.values["gold_probability"] == pytest.approx(math.exp(-3.9) / total)
    assert score.values["gold_nll"] == pytest.approx(3.9)
    assert (score.gold, score.top_choice, score.status) == ("a lamp", "a red cart", "scored")
    assert score.prompt_tokens == len("Question: Which thing number 0 gives light?\nAnswer:")
    assert score.answer_tokens == sum(map(len, table))
    assert outcome.chance == 0.25
    assert outcome.notes == ()


def test_a_subset_gives_each_document_its_own_score(folder: Path) -> None:
    arc(folder, [arc_row(n, "ABCD"[n % 4]) for n in range(20)])
    suite = spec("arc_challenge", limit=7)
    tasks = benchmark_tasks(suite)
    chosen = chosen_documents(tasks, 7)
    assert [name for *_, name in chosen] == [name for *_, name in chosen_documents(tasks, None)][:7]
    assert [index for _, index, _ in chosen] != sorted(index for _, index, _ in chosen), "else this shows nothing"

    def right(context: str, choice: str) -> float:  # knows the answers to even numbers
        number = int(context.split("number ")[1].split()[0])
        gold = arc_row(0)["choices"]["text"][number % 4]
        return 0.0 if number % 2 == 0 and choice == f" {gold}" else -1000.0 - len(choice)

    outcome = score_benchmark(suite, tasks, FakeStudent(weigh=right))
    for (_, index, name), score in zip(chosen, outcome.scores, strict=True):
        assert score.item == name
        assert score.gold == arc_row(0)["choices"]["text"][index % 4]
        if index % 2 == 0:
            assert score.values["accuracy"] == 1.0


def test_the_tiny_model_is_asked_what_the_task_asks(folder: Path, tiny_model: Path) -> None:
    arc(folder, [arc_row(n) for n in range(3)])
    engine = TransformersEngine(tiny_model, device="cpu", dtype="float32")
    suite = spec("arc_challenge", num_fewshot=2)
    tasks = benchmark_tasks(suite)
    scores = {score.item: score for score in score_benchmark(suite, tasks, engine).scores}
    tasks[0].set_fewshot_seed(1234)
    for index, name in sorted((index, name) for _, index, name in chosen_documents(tasks, None)):
        context = tasks[0].fewshot_context(tasks[0].task_docs[index], num_fewshot=2)
        assert context.count("Question:") == 3
        pairs = [continuation_pair(engine, context, f" {c}") for c in arc_row(index)["choices"]["text"]]
        by_hand = [m.logprob for m in engine.loglikelihood(pairs)]
        assert scores[name].values["gold_nll"] == pytest.approx(-by_hand[1], abs=1e-4)
        assert scores[name].values["gold_probability"] == pytest.approx(shares(by_hand)[1], abs=1e-4)


def test_every_student_is_asked_with_the_same_examples(folder: Path) -> None:
    arc(folder, [arc_row(n) for n in range(6)])
    suite = spec("arc_challenge", num_fewshot=3)
    tasks = benchmark_tasks(suite)
    engines = FakeStudent(), FakeStudent()
    first, second = (score_benchmark(suite, tasks, engine) for engine in engines)
    assert first == second
    assert engines[0].measured == engines[1].measured
    assert len({context for context, _ in engines[0].measured}) == 6


@given(st.lists(st.floats(-1e6, 0), min_size=1, max_size=8))
def test_shares_are_probabilities(logprobs: list[float]) -> None:
    found = shares(logprobs)
    assert sum(found) == pytest.approx(1.0)
    assert found[logprobs.index(max(logprobs))] == max(found)


SUBJECTS = 57


def mmlu(folder: Path, tests: int) -> None:
    import lm_eval.tasks

    home = Path(str(lm_eval.tasks.__file__)).parent / "mmlu" / "default"
    subjects = sorted(yaml.safe_load(file.read_text())["dataset_name"] for file in home.glob("mmlu_*.yaml"))
    assert len(subjects) == SUBJECTS
    for split, count in (("dev", 5), ("test", tests)):
        rows = [
            {"question": f"The {split} thing {n} of {s}?", "subject": s, "choices": list("wxyz"), "answer": n % 4}
            for s in subjects
            for n in range(count)
        ]
        write_rows(folder, f"mmlu_{split}.jsonl", rows)


def test_mmlu_reaches_every_subject_with_that_subjects_examples(folder: Path) -> None:
    mmlu(folder, 3)
    engine = FakeStudent()
    outcome = scored(engine, "mmlu", num_fewshot=5, limit=2 * SUBJECTS)
    strata = [score.stratum for score in outcome.scores]
    assert {strata.count(s) for s in strata} == {2}
    assert len(set(strata)) == SUBJECTS
    assert {"anatomy", "high_school_us_history"} <= set(strata)
    anatomy = [
        context for context, _ in engine.measured if context.endswith("of anatomy?\nA. w\nB. x\nC. y\nD. z\nAnswer:")
    ]
    assert len(anatomy) == 2 * 4
    for context in anatomy:
        assert context.count("of anatomy?") == 6, "five examples and the question"
        assert context.count(" thing ") == 6
    assert {"acc", "accuracy", "gold_nll", "gold_probability"} == set(outcome.scores[0].values)


def test_truthfulqa_is_the_share_of_true_answers(folder: Path) -> None:
    row = {
        "question": "What do lamps eat?",
        "mc1_targets": {"choices": ["Nothing", "Moths"], "labels": [1, 0]},
        "mc2_targets": {"choices": ["Nothing", "No food", "Moths"], "labels": [1, 1, 0]},
    }
    write_rows(folder, "truthfulqa_multiple_choice_validation.jsonl", [row])
    table = {" Nothing": -1.0, " No food": -2.0, " Moths": -1.5}
    engine = FakeStudent(weigh=lambda context, choice: table[choice])
    true, all_ = math.exp(-1) + math.exp(-2), sum(map(math.exp, table.values()))
    several = scored(engine, "truthfulqa_mc2")
    assert several.scores[0].values["accuracy"] == pytest.approx(true / all_)
    assert several.scores[0].values["gold_probability"] == pytest.approx(true / all_)
    assert several.scores[0].values["gold_nll"] == pytest.approx(-math.log(true))
    assert several.chance == pytest.approx(2 / 3)
    one = scored(engine, "truthfulqa_mc1")
    assert one.scores[0].values["accuracy"] == 1.0
    assert one.scores[0].values["gold_probability"] == pytest.approx(1 / (1 + math.exp(-0.5)))
    assert one.chance == 0.5


def hellaswag_row(n: int) -> dict[str, Any]:
    return {
        "ind": n, "activity_label": "Mending", "ctx_a": f"Person {n} takes a needle.", "ctx_b": "then they",
        "ctx": f"Person {n} takes a needle. then they", "endings": ["sew.", "swim away.", "melt.", "ring."],
        "source_id": "own", "split": "val", "split_type": "indomain", "label": "0",
    }  # fmt: skip


def test_fewer_examples_where_their_rows_are_absent_are_named(folder: Path) -> None:
    write_rows(folder, "hellaswag_validation.jsonl", [hellaswag_row(n) for n in range(4)])
    with pytest.raises(NotReachable, match=r"no rows .* of the train split, which its 10 examples come from"):
        benchmark_tasks(spec("hellaswag", num_fewshot=10))
    outcome = scored(FakeStudent(), "hellaswag", num_fewshot=10, num_fewshot_without_rows=0)
    assert [s.status for s in outcome.scores] == ["scored"] * 4
    assert outcome.notes == ("0 examples instead of 10: the rows that examples come from are not there",)
    write_rows(folder, "hellaswag_train.jsonl", [hellaswag_row(100 + n) for n in range(12)])
    engine = FakeStudent()
    with_rows = scored(engine, "hellaswag", num_fewshot=10, num_fewshot_without_rows=0)
    assert with_rows.notes == ()
    assert {context.count("Mending") for context, _ in engine.measured} == {11}
    assert len(fingerprint()) == 2


# --- the chat form --------------------------------------------------------------------------------------------


def test_the_chat_form_asks_in_turns_and_measures_the_answer(folder: Path) -> None:
    arc(folder, [arc_row(0)])
    engine = FakeStudent()
    outcome = scored(engine, "arc_challenge", form="chat", num_fewshot=1)
    assert outcome.scores[0].status == "scored"
    assert outcome.notes == ("asked in the model's chat template",)
    [context] = {context for context, _ in engine.measured}
    first, last = context.split("<assistant>a lamp")
    assert first.startswith("<user>Question: Which thing number 1")
    assert last == "<user>Question: Which thing number 0 gives light?\nAnswer:" + chr(ASSISTANT)
    assert sorted(choice for _, choice in engine.measured) == ["a lamp", "a red cart", "old bread", "wet sand"]


def test_the_chat_form_with_a_real_template(folder: Path, tiny_model: Path) -> None:
    arc(folder, [arc_row(0)])
    engine = TransformersEngine(tiny_model, device="cpu", dtype="float32")
    [score] = scored(engine, "arc_challenge", form="chat").scores
    question = (Message(role="user", content="Question: Which thing number 0 gives light?\nAnswer:"),)
    pair = Pair(context=engine.prompt_ids(question), continuation=engine.answer_ids(question, "a lamp")[:-1])
    assert score.values["gold_nll"] == pytest.approx(-engine.loglikelihood([pair])[0].logprob, abs=1e-4)
    raw = scored(engine, "arc_challenge").scores[0]
    assert raw.item == score.item
    assert raw.values["gold_nll"] != pytest.approx(score.values["gold_nll"])


# --- written answers and measured texts -----------------------------------------------------------------------


def gsm8k(folder: Path, count: int) -> None:
    rows = [
        {"question": f"Anna has {n} lamps and buys one.", "answer": f"One more.\n#### {n + 1}"} for n in range(count)
    ]
    write_rows(folder, "gsm8k_test.jsonl", rows)
    write_rows(folder, "gsm8k_train.jsonl", [{"question": "Two and two?", "answer": "Both.\n#### 4"}] * 6)


def test_written_answers_are_judged_by_the_tasks_own_patterns(folder: Path) -> None:
    gsm8k(folder, 6)
    says = {0: "So #### 1", 1: "That makes 2", 2: "no idea", 3: "", 4: "ERROR: the engine broke", 5: "~ 5 or 6..."}

    def write(prompt: str) -> str:
        return says[int(prompt.rsplit("Anna has ")[-1].split()[0])]

    engine = FakeStudent(lambda request: write(prompt_of(request)))
    suite = spec("gsm8k", num_fewshot=2)
    tasks = benchmark_tasks(suite)
    outcome = score_benchmark(suite, tasks, engine, model="weights@1")
    by_index = {
        index: score for (_, index, _), score in zip(chosen_documents(tasks, None), outcome.scores, strict=True)
    }
    assert outcome.chance is None
    strict, lenient = "exact_match_strict_match", "exact_match_flexible_extract"
    assert by_index[0].values == {strict: 1.0, lenient: 1.0, "accuracy": 1.0}
    assert by_index[1].values == {strict: 0.0, lenient: 1.0, "accuracy": 1.0}
    assert [by_index[n].status for n in range(6)] == ["scored", "scored", "unparsed", "unparsed", "failed", "scored"]
    assert by_index[2].values["accuracy"] == 0.0
    assert by_index[4].error == "the engine broke"
    assert [n for n in range(6) if by_index[n].truncated] == [5]
    assert (by_index[0].output, by_index[0].prompt_tokens, by_index[0].answer_tokens) == ("So #### 1", 25, 3)
    assert by_index[0].gold.endswith("#### 1")
    request = engine.requests[0]
    assert request.model == "weights@1"
    assert request.prompt.count("Question:") == 3
    assert (request.sampling.temperature, request.sampling.max_tokens) == (0.0, 256)
    assert "Question:" in request.sampling.stop


def test_written_answers_in_the_chat_form(folder: Path) -> None:
    gsm8k(folder, 1)
    engine = FakeStudent(lambda request: "1")
    [score] = scored(engine, "gsm8k", num_fewshot=1, form="chat").scores
    assert [message.role for message in engine.requests[0].messages] == ["user", "assistant", "user"]
    assert score.values["accuracy"] == 1.0


def test_a_prompt_without_room_fails_by_name(folder: Path, tiny_model: Path) -> None:
    write_rows(folder, "gsm8k_train.jsonl", [{"question": "Two?", "answer": "#### 2"}] * 3)
    write_rows(folder, "gsm8k_test.jsonl", [{"question": "long " * 3000, "answer": "#### 2"}])
    engine = TransformersEngine(tiny_model, device="cpu")
    [score] = scored(engine, "gsm8k", num_fewshot=1).scores
    assert score.status == "failed"
    assert "the model's context has 2048" in score.error


@pytest.mark.parametrize("context", [10_000, 16])
def test_whole_texts_are_measured_in_windows(folder: Path, context: int) -> None:
    pages = ["A lamp stood in the hall , and nobody lit it .", "Bread rises ."]
    write_rows(folder, "wikitext-2-raw-v1_test.jsonl", [{"page": page} for page in pages])
    outcome = scored(FakeStudent(max_length=context), "wikitext")
    texts = [page.replace(" , ", ", ") for page in pages]
    found = sorted(score.values["bits_per_byte"] for score in outcome.scores)
    bits = sorted(0.5 * len(t) / len(p) / math.log(2) for t, p in zip(texts, pages, strict=True))
    assert found == pytest.approx(bits), "every letter counts once, however long the window"
    assert outcome.chance is None
    assert "accuracy" not in outcome.scores[0].values
    whole = 0.5 * sum(map(len, texts)) / sum(map(len, pages)) / math.log(2)
    assert f"bits_per_byte over all 2 documents together: {whole:.4g}" in outcome.notes
    assert len(questions(benchmark_tasks(spec("wikitext")))[0][1]) > 5, "a text that is measured is protected too"


# --- what goes wrong is named and counted ---------------------------------------------------------------------


def failing(outcome: Outcome) -> dict[str, str]:
    assert all(not score.values for score in outcome.scores if score.status == "failed")
    return {score.item: score.error for score in outcome.scores if score.status == "failed"}


def test_an_item_longer_than_the_context_is_failed_and_the_rest_is_scored(folder: Path) -> None:
    arc(folder, [arc_row(0), arc_row(1) | {"question": "long " * 100}])
    outcome = scored(FakeStudent(max_length=200), "arc_challenge")
    assert len(outcome.scores) == 2
    [why] = failing(outcome).values()
    assert why.startswith("longer than the context: 5")
    assert "the context holds 200" in why


def test_a_pair_that_just_fits_is_measured(folder: Path) -> None:
    arc(folder, [arc_row(0)])
    needed = len("Question: Which thing number 0 gives light?\nAnswer:") + len(" a red cart") - 1
    assert not failing(scored(FakeStudent(max_length=needed), "arc_challenge"))
    assert failing(scored(FakeStudent(max_length=needed - 1), "arc_challenge"))


def test_not_a_number_fails_the_item(folder: Path) -> None:
    arc(folder, [arc_row(0), arc_row(1)])
    engine = FakeStudent(weigh=lambda context, choice: math.nan if "number 1" in context and "sand" in choice else -1.0)
    assert list(failing(scored(engine, "arc_challenge")).values()) == ["a log-likelihood is not a number"]


def test_bad_rows_fail_by_name_and_the_denominator_stays(folder: Path) -> None:
    good = [arc_row(n) for n in range(2)]
    outside, empty = arc_row(2, answer="Z"), arc_row(3, choices=("a red cart", " ", "wet sand", "old bread"))
    arc(folder, [*good, outside, empty])
    outcome = scored(FakeStudent(), "arc_challenge")
    assert len(outcome.scores) == 4
    reasons = sorted(failing(outcome).values())
    assert len(reasons) == 2
    assert "the choice '  ' is empty" in reasons[0]
    assert "the row does not fit its task" in reasons[1]


def test_a_gold_label_outside_the_choices_is_never_a_wrong_answer(folder: Path) -> None:
    write_rows(folder, "hellaswag_validation.jsonl", [hellaswag_row(0), hellaswag_row(1) | {"label": "7"}])
    outcome = scored(FakeStudent(), "hellaswag")
    assert list(failing(outcome).values()) == [
        "the row does not fit its task: the gold label 7 is outside its 4 choices"
    ]


def test_choices_of_the_same_tokens_are_counted(folder: Path) -> None:
    arc(folder, [arc_row(0), arc_row(1, choices=("a lamp", "a lámp", "sand", "bread"))])
    outcome = scored(FakeStudent(merged="aá"), "arc_challenge")
    assert not failing(outcome)
    assert outcome.notes == (
        "1 documents have choices that are the same tokens to this model: the first of them is picked",
    )


def raising(error: Exception) -> Weigh:
    def weigh(context: str, choice: str) -> float:
        raise error

    return weigh


def test_an_engine_failure_fails_items_and_other_errors_pass(folder: Path) -> None:
    arc(folder, [arc_row(n) for n in range(3)])
    outcome = scored(FakeStudent(weigh=raising(MachineError("memory ran out"))), "arc_challenge")
    assert list(failing(outcome).values()) == ["memory ran out"] * 3
    for error in (UsageError("no template"), Interrupted("stopped")):
        with pytest.raises(type(error)):
            scored(FakeStudent(weigh=raising(error)), "arc_challenge")


def test_a_row_that_stands_twice_has_two_names(folder: Path) -> None:
    arc(folder, [arc_row(0), arc_row(0), arc_row(1)])
    scores = scored(FakeStudent(), "arc_challenge").scores
    assert len({score.item for score in scores}) == 3


def test_rows_that_are_no_json_or_fit_no_task_are_named(folder: Path) -> None:
    arc(folder, [arc_row(0)])
    with (folder / "ARC-Challenge_test.jsonl").open("a") as file:
        file.write("{half\n")
    with pytest.raises(UsageError, match=r"ARC-Challenge_test.jsonl:2: not valid JSON"):
        benchmark_tasks(spec("arc_challenge"))
    arc(folder, [{"something": "else"}])
    with pytest.raises(UsageError, match="arc_challenge"):
        benchmark_tasks(spec("arc_challenge"))


def test_line_separators_inside_a_row_do_not_split_it(folder: Path) -> None:
    arc(folder, [arc_row(0) | {"question": "Which line\u2028or which\x85light?"}])
    assert len(scored(FakeStudent(), "arc_challenge").scores) == 1


def test_a_name_nobody_has_is_answered_with_near_ones() -> None:
    with pytest.raises(UsageError, match="did you mean 'arc_challenge'"):
        benchmark_tasks(spec("arc_chalenge"))


def test_a_hub_that_cannot_be_reached_says_so() -> None:
    code = "from harness.suites.benchmark_rows import _hub_closed; print(_hub_closed())"
    proxies = {"HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"}
    environment = {name: value for name, value in os.environ.items() if name not in proxies}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.startswith("the hub cannot be reached")


def test_no_rows_and_no_hub_is_not_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARNESS_BENCHMARKS", raising=False)
    with pytest.raises(NotReachable, match="allenai/ai2_arc: HARNESS_BENCHMARKS"):
        benchmark_tasks(spec("arc_challenge"))


# --- the shipped suites ---------------------------------------------------------------------------------------

FULL = ("arc_challenge", "arc_easy", "hellaswag", "mmlu", "truthfulqa_mc1", "truthfulqa_mc2", "gsm8k")


@pytest.mark.parametrize("name", FULL)
def test_every_benchmark_ships_in_full_and_short(name: str) -> None:
    full = load_suite(ROOT / f"suites/{name}.yaml", ROOT, Shape()).spec
    short = load_suite(ROOT / f"suites/{name}_short.yaml", ROOT, Shape()).spec
    assert isinstance(full, BenchmarkSuite)
    assert isinstance(short, BenchmarkSuite)
    assert full.limit is None
    assert short.limit is not None
    assert short.limit >= (2 * SUBJECTS if name == "mmlu" else 50)
    for suite in (full, short):
        assert suite.benchmark == name
        assert suite.limits
        assert "2026-" in suite.changes[str(suite.version)]


def test_the_chat_form_is_another_suite() -> None:
    raw = load_suite(ROOT / "suites/arc_challenge_short.yaml", ROOT, Shape())
    chat = load_suite(ROOT / "suites/arc_challenge_short_chat.yaml", ROOT, Shape())
    assert isinstance(raw.spec, BenchmarkSuite)
    assert isinstance(chat.spec, BenchmarkSuite)
    assert chat.spec.model_dump(exclude={"form"}) == raw.spec.model_dump(exclude={"form"})
    assert (raw.spec.form, chat.spec.form) == ("raw", "chat")
    assert chat.digest != raw.digest


# --- the task's own questions with choices --------------------------------------------------------------------

CHOICE = ChoiceSuite(kind="choice", items="x.jsonl")


def item(n: int, *choices: str, **more: Any) -> Item:
    return Item(text=f"Which number {n} gives light?", choices=choices or ("a red cart", "a lamp"), gold=1, **more)


def test_a_choice_carries_what_the_item_says_and_what_it_cost() -> None:
    asked = item(0, tags=("light",), group="passage-1", stratum="homes")
    [score] = score_choices([asked], CHOICE, FakeStudent(weigh=lambda c, choice: -2.0 if "lamp" in choice else -4.0))
    # per byte: -4 / 10 = -0.4 against -2 / 6 = -0.33
    assert score.top_choice == "a lamp"
    assert score.values["accuracy"] == 1.0
    assert score.values["gold_nll"] == 2.0
    assert score.values["gold_probability"] == pytest.approx(1 / (1 + math.exp(-2)))
    assert (score.tags, score.group, score.stratum) == (("light",), "passage-1", "homes")
    assert score.prompt_tokens == len("Question: Which number 0 gives light?\nAnswer:")
    assert score.answer_tokens == len(" a red cart" + " a lamp")


@given(st.lists(st.floats(-30, 0), min_size=2, max_size=2), st.lists(st.floats(-20, 20), min_size=2, max_size=2))
def test_by_pmi_how_likely_a_choice_is_by_itself_decides_nothing(
    given_question: list[float], alone: list[float]
) -> None:
    """Only what the question adds counts, whatever the words, their number and how common they are."""
    pmi = CHOICE.model_copy(update={"normalise": "pmi"})
    assert pmi.premise == "Answer:"
    choices = ("a red cart", "a lamp")

    def weigh(context: str, choice: str) -> float:
        k = choices.index(choice.strip())
        return alone[k] + (given_question[k] if "Question" in context else 0.0)

    [score] = score_choices([item(0)], pmi, FakeStudent(weigh=weigh))
    gap = given_question[1] - given_question[0]
    if abs(gap) > 1e-6:
        assert score.values["accuracy"] == float(gap > 0)
    assert score.values["gold_probability"] == pytest.approx(1 / (1 + math.exp(-gap)))
    assert score.values["gold_nll"] == pytest.approx(-given_question[1] - alone[1])


def test_pmi_needs_a_premise(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("kind: choice\nitems: x.jsonl\nnormalise: pmi\ncontext: '{question}'\n")
    with pytest.raises(UsageError, match=r"s\.yaml:\d+: .*pmi"):
        load_suite(tmp_path / "s.yaml", tmp_path, Shape())


def test_choices_that_cannot_be_measured_fail_by_name() -> None:
    items = [item(0), item(1, "a lamp", "a lámp"), item(2, "a lamp", " "), item(3), item(4)]
    items[3] = items[3].model_copy(update={"text": "long " * 100})

    def weigh(context: str, choice: str) -> float:
        return math.nan if "number 4" in context else -1.0 * len(choice)

    found = score_choices(items, CHOICE, FakeStudent(weigh=weigh, max_length=200, merged="aá"))
    assert [score.status for score in found] == ["scored"] + ["failed"] * 4
    assert [score.item for score in found] == [each.id for each in items]
    reasons = [score.error for score in found[1:]]
    assert reasons[0] == "the choices 'a lamp' and 'a lámp' are the same tokens to this model"
    assert reasons[1] == "the choice ' ' is empty"
    assert reasons[2].startswith("longer than the context: 5")
    assert reasons[3] == "a log-likelihood is not a number"


def test_an_engine_failure_fails_every_choice() -> None:
    broken: list[Score] = score_choices(
        [item(0), item(1)], CHOICE, FakeStudent(weigh=raising(MachineError("memory ran out")))
    )
    assert [(s.status, s.error) for s in broken] == [("failed", "memory ran out")] * 2
    assert all(not s.values for s in broken)
