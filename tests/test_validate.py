"""Suites that prove themselves, and planted faults that are found."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.commands.validate import CONTEXT, Problem, _not_wrong, validate_suites
from harness.config.load import load_run, load_suites
from harness.config.run import Run
from harness.core.terminal import Terminal
from harness.data.examples import Shape
from harness.errors import UsageError
from harness.metrics.answers import TextAnswer
from harness.metrics.json_answers import JsonAnswer
from harness.records import Item, Message, Pair, Score
from harness.suites.answers import AnswersSuite
from harness.suites.benchmark import BenchmarkSuite
from harness.suites.choice import ChoiceSuite
from harness.suites.generate import continuation_pair
from harness.suites.kinds import load_suite
from harness.suites.labels import LabelsSuite
from harness.suites.open_ended import OpenEndedSuite
from harness.suites.oracle import Gold, Oracle, read
from harness.suites.suite import Suite
from harness.suites.unanswerable import UnanswerableSuite
from tests.needs import required

ROOT = Path(__file__).parent.parent
NOTED = {"changes": {"1": "2026-01-31: first version"}}
COLOURS = ("red", "green", "blue")


def problems(suite: Suite, run: Run | None = None) -> list[Problem]:
    return validate_suites({suite.name: suite}, run, Terminal())


def labels_suite(items: Sequence[Item], **spec: Any) -> Suite:
    return Suite(
        "shop", LabelsSuite.model_validate({"kind": "labels", "items": "x.jsonl", **NOTED, **spec}), tuple(items)
    )


def labelled(text: str, gold: int = 0) -> Item:
    return Item(text=text, choices=COLOURS, gold=gold)


def with_student(run: Run, folder: Path) -> Run:
    train = run.file.train.model_copy(update={"students": (str(folder),)})
    return replace(run, file=run.file.model_copy(update={"train": train, "ship": None}))


@pytest.fixture(scope="module")
def run() -> Run:
    return load_run(ROOT / "runs/helpdesk.yaml")


# --- what is shipped ------------------------------------------------------------------------------------------


def test_every_shipped_suite_proves_itself(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HARNESS_BENCHMARKS", raising=False)
    suites = load_suites(ROOT)
    found = validate_suites(suites, None, Terminal())
    assert [str(problem) for problem in found if problem.wrong] == []
    unproven = {problem.suite for problem in found}
    assert unproven == {name for name, suite in suites.items() if isinstance(suite.spec, BenchmarkSuite)}
    printed = capsys.readouterr().out
    assert all(f"{name}: " in printed for name in suites)
    assert "arc_challenge: up to 100 documents, not proven\n" in printed
    assert "arc_challenge: not proven: " in printed


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # what the library's own tasks warn of is not ours
def test_every_shipped_suite_with_its_prompts_tokenizer_and_benchmarks(run: Run, bundled_model: Path) -> None:
    found = validate_suites(load_suites(ROOT), with_student(run, bundled_model), Terminal())
    assert [str(problem) for problem in found if problem.wrong] == []
    rows = os.environ.get("HARNESS_BENCHMARKS")
    assert rows or not required("benchmarks"), "they must be there"
    unproven = {problem.suite for problem in found}
    assert unproven == (
        set() if rows else {n for n, s in load_suites(ROOT).items() if isinstance(s.spec, BenchmarkSuite)}
    )


def test_the_tasks_prompts_and_a_real_tokenizer(run: Run, tiny_model: Path) -> None:
    suites = {"helpdesk": replace(run.suites["helpdesk"], items=run.suites["helpdesk"].items[:60])}
    assert validate_suites(suites, with_student(run, tiny_model), Terminal()) == []
    spec = suites["helpdesk"].spec
    assert isinstance(spec, LabelsSuite)
    short = replace(suites["helpdesk"], spec=spec.model_copy(update={"max_tokens": 1}))
    found = problems(short, with_student(run, tiny_model))
    assert len(found) == 3 * len(short.items)  # each item as a student is asked, as a completion and as a chat
    assert "prompts/helpdesk/student.j2: " in str(found[0])
    assert str(found[0]).endswith("tokens and max_tokens is 1")


def test_a_student_that_cannot_be_had_is_said(run: Run, tmp_path: Path) -> None:
    found = problems(run.suites["helpdesk"], with_student(run, tmp_path / "nowhere"))
    assert [problem.wrong for problem in found] == [False]
    assert "lengths were estimated" in found[0].what


# --- planted faults -------------------------------------------------------------------------------------------


def test_a_sound_suite_has_no_problem() -> None:
    assert problems(labels_suite([labelled("one", 0), labelled("two", 1), labelled("three", 2)])) == []


@pytest.mark.parametrize(
    ("spec", "lines"),
    [
        ({"kind": "choice"}, [{"question": "q", "choices": ["a", "b"], "answer": 2}]),
        ({"kind": "choice"}, [{"question": "q", "choices": ["a", "b"], "answer": -1}]),
        ({"kind": "choice"}, [{"question": "q", "choices": ["a", "b"]}]),
        ({"kind": "labels"}, [{"text": "q"}]),
        ({"kind": "labels"}, [{"text": "q", "label": "no such"}]),
        ({"kind": "answers"}, [{"question": "q"}]),
        ({"kind": "answers"}, [{"question": "q", "answers": []}]),
        ({"kind": "answers", "answer": {"kind": "number"}}, [{"question": "q", "answers": ["3", "plenty"]}]),
        ({"kind": "facts", "documents": "d.jsonl"}, [{"question": "q", "answer": ""}]),
        *(({"kind": kind}, [line] * 2) for kind, line in (
            ("unanswerable", {"question": "q"}), ("open_ended", {"prompt": "q"}),
            ("labels", {"text": "q", "label": "red"}),
            ("choice", {"question": "q", "choices": ["a", "b"], "answer": 0}),
        )),
    ],
)  # fmt: skip
def test_what_no_suite_can_be_loaded_with(tmp_path: Path, spec: dict[str, Any], lines: list[dict[str, Any]]) -> None:
    """A suite is loaded before it is proven: a gold outside the choices, no usable answer, one item twice."""
    (tmp_path / "d.jsonl").write_text('{"text": "t"}\n')
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "s.yaml").write_text(json.dumps({"items": "items.jsonl", **spec}))
    with pytest.raises(UsageError, match=rf"items\.jsonl:{len(lines)}: "):
        load_suite(tmp_path / "s.yaml", tmp_path, Shape(labels=COLOURS))


def test_duplicates_also_by_normalised_text() -> None:
    items = [labelled("Where is it?"), labelled("where is  it"), labelled("Where is it now?")]
    assert [p.item for p in problems(labels_suite(items))] == [items[1].id]
    sums = [Item(text=f"What is 3 {o} 2?", choices=("5", "1", "6"), gold=g) for g, o in enumerate("+-*")]
    suite = Suite("sums", ChoiceSuite.model_validate({"kind": "choice", "items": "x.jsonl", **NOTED}), tuple(sums))
    assert problems(suite) == []
    again = replace(suite, items=(*sums, Item(text=sums[0].text, choices=("6", "5", "1"), gold=1)))
    assert [p.item for p in problems(again)] == [again.items[3].id]
    other = Item(text=sums[0].text, choices=("9", "5"), gold=1)  # among other choices it is another question
    assert problems(replace(suite, items=(*sums, other))) == []


@pytest.mark.parametrize(
    ("version", "changes", "said"),
    [
        (2, {"2": "2026-01-02: new"}, "version 1 of 2 has no change note"),
        (1, {"1": "first version"}, "'first version', is not"),
        (1, {"1": "2026-02-30: first"}, "is not"),
        (2, {"1": "2026-02-02: first", "2": "2026-01-02: second"}, "note of version 2 is dated before"),
        (1, {"1": "2026-01-02: first", "2": "2026-01-03: more"}, "a note for version '2'"),
    ],
)
def test_notes_are_dated_and_complete(version: int, changes: dict[str, str], said: str) -> None:
    found = problems(labels_suite([labelled("one")], version=version, changes=changes))
    assert len(found) == 1
    assert said in found[0].what
    assert found[0].item == ""


@given(st.integers(1, 5), st.dates(date(2020, 1, 1), date(2030, 1, 1)))
def test_a_note_for_every_version_is_enough(version: int, when: date) -> None:
    changes = {str(n): f"{when.isoformat()}: change {n}" for n in range(1, version + 1)}
    assert problems(labels_suite([labelled("one")], version=version, changes=changes)) == []


def test_items_that_are_too_long() -> None:
    long = labelled("word " * 2000)
    found = problems(labels_suite([long, labelled("short")]))
    assert [p.item for p in found] == [long.id]
    # 10,000 characters are 3,334 tokens at three characters each
    assert f"3334 tokens and 2 of the answer are longer than the context of {CONTEXT}" in found[0].what


def test_choices_that_read_the_same_and_empty_texts() -> None:
    alike = Item(text="which?", choices=("Red", "red ", "blue"), gold=2)
    suite = Suite("c", ChoiceSuite.model_validate({"kind": "choice", "items": "x", **NOTED}), (alike,))
    assert [p.what for p in problems(suite)] == ["two of its choices read the same: red "]
    assert [p.what for p in problems(labels_suite([labelled(" ")]))] == ["its text is empty"]


def test_a_template_that_fails_on_one_item(run: Run, tmp_path: Path, tiny_model: Path) -> None:
    picky = tmp_path / "student.j2"
    picky.write_text("{% if 'bad' in text %}{{ missing }}{% endif %}{{ text }} Topic:")
    task = run.task.model_copy(update={"prompt": str(picky)})
    items = [Item(text=t, choices=tuple(run.task.labels), gold=0) for t in ("a good one", "a bad one")]
    found = problems(labels_suite(items), replace(with_student(run, tiny_model), prompts=task.prompts(run.root)))
    assert [p.item for p in found] == [items[1].id]
    assert "it does not render" in found[0].what
    assert "'missing' is undefined" in found[0].what


def answers_suite(answer: Any, items: Sequence[Item], **spec: Any) -> Suite:
    made = AnswersSuite.model_validate({"kind": "answers", "items": "x", "answer": answer, **NOTED, **spec})
    return Suite("written", made, tuple(items))


def test_a_right_answer_that_no_student_could_give(run: Run) -> None:
    items = [Item(text="Say it.", answers=("one\ntwo",)), Item(text="Say another.", answers=("one", "two\nlines"))]
    suite = answers_suite(TextAnswer(match="exact"), items)
    assert problems(suite) == []
    # all that the task's seeds answer is a single line, so a plain text's answer is read as one
    task = run.task.model_copy(update={"labels": {}})
    found = problems(
        suite, replace(run, task=task, prompts=task.prompts(run.root), file=run.file.model_copy(update={"ship": None}))
    )
    assert [p.item for p in found] == [items[0].id, items[1].id]
    assert "the right answer 'two\\nlines' scores accuracy 0" in found[1].what
    assert problems(answers_suite(TextAnswer(match="exact"), items, asked="plain")) == []  # a chat has no such stop


def test_written_kinds_prove_themselves() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    records = [Item(text="Give n as 3.", answers=('{"n": 3}',)), Item(text="Give n as 4.", answers=('{"n": 4}',))]
    assert problems(answers_suite(JsonAnswer(json_schema=schema), records)) == []
    nobody = UnanswerableSuite.model_validate({"kind": "unanswerable", "items": "x", **NOTED})
    assert problems(Suite("nobody", nobody, (Item(text="What did I dream?"),))) == []
    talk = OpenEndedSuite.model_validate({"kind": "open_ended", "items": "x", **NOTED})
    assert problems(Suite("talk", talk, (Item(text="Say hello."),))) == []


def test_silence_that_scores_is_found() -> None:
    scores = [
        Score(item="a", split="test", status="scored", values={"accuracy": 1.0}),
        Score(item="b", split="test", status="scored", values={"accuracy": 0.0}),
        Score(item="c", split="test", status="failed", error="x"),
    ]
    found = list(_not_wrong("s", "raw", scores))
    assert [(p.item, p.what) for p in found] == [
        ("a", "raw: an empty answer, wrong choices preferred, scores accuracy 1")
    ]


def test_a_benchmark_whose_row_has_a_gold_that_is_no_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def row(number: int, key: str) -> dict[str, Any]:
        choices = {"text": [f"thing {number}", "stone", "river", "cloud"], "label": ["A", "B", "C", "D"]}
        return {"id": f"q{number}", "question": f"What is number {number}?", "choices": choices, "answerKey": key}

    monkeypatch.setenv("HARNESS_BENCHMARKS", str(tmp_path))
    spec = BenchmarkSuite.model_validate({"kind": "benchmark", "benchmark": "arc_challenge", **NOTED})
    suite = Suite("arc", spec, ())
    for keys, wrong in ((["A", "B", "D"], []), (["A", "E", "D"], [True])):
        rows = [json.dumps(row(number, key)) for number, key in enumerate(keys)]
        (tmp_path / "ARC-Challenge_test.jsonl").write_text("\n".join(rows) + "\n")
        found = problems(suite)
        assert [problem.wrong for problem in found] == wrong
        assert all("arc_challenge: it cannot be scored: the row does not fit its task" in p.what for p in found)


# --- the oracle -------------------------------------------------------------------------------------------------


@given(st.text(st.characters(codec="utf-8"), max_size=20), st.text("abc d", min_size=1, max_size=8))
def test_the_oracle_prefers_what_is_right_and_the_silent_one_what_is_wrong(prompt: str, right: str) -> None:
    known = {read(prompt): Gold(right, (right,))}
    oracle, silent = Oracle(known), Oracle(known, silent=True)
    pairs = [continuation_pair(oracle, prompt, f" {text}\n") for text in (right, f"{right}e")]
    good, bad = (m.logprob for m in oracle.loglikelihood(pairs))
    assert good > bad
    worse, better = (m.logprob for m in silent.loglikelihood(pairs))
    assert worse < better


def test_the_oracle_reads_chats_and_prompts_with_examples() -> None:
    chat = (Message(role="system", content="Sort."), Message(role="user", content="Where is it?"))
    known = {read(chat): Gold("red", ("red",))}
    oracle = Oracle(known)
    pair = Pair(context=oracle.prompt_ids(chat), continuation=oracle.answer_ids(chat, "red"))
    assert oracle.loglikelihood([pair])[0].logprob > -1
    assert oracle.lost == 0
    question = "Question: what colour is the sky?\nAnswer:"
    shown = Oracle({question: Gold("blue", ("blue",))}, endings=True)
    right = continuation_pair(shown, f"Question: and grass?\nAnswer: green\n\n{question}", " blue")
    assert shown.loglikelihood([right])[0].greedy
    assert shown.longest.endswith("Answer: blue")
    shown.loglikelihood([continuation_pair(shown, "Question: what else is there?\nAnswer:", " blue")])
    assert shown.lost == 1
