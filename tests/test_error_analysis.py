"""Wrong items by cause, from stored scores alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.commands.error_analysis import WrongItems, _plain, analyse_errors, study
from harness.config.load import load_run
from harness.config.run import Run
from harness.core.terminal import Terminal
from harness.data.examples import Shape
from harness.errors import UsageError
from harness.eval.results import load_results
from harness.records import Cell, Item, Score
from harness.report.causes import CAUSES, causes, is_wrong
from harness.suites.kinds import load_suite
from harness.suites.suite import Suite
from tests.project import write_project
from tests.stored import SHIP, write_cards
from tests.test_markdown import flat, inlines, seen

BASE = Cell(student="tiny", data="base", size=0, random_seed=0)
SMALL = Cell(student="tiny", data="filtered", size=4, random_seed=0)
SEEDS = Cell(student="tiny", data="seeds_only", size=12, random_seed=0)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return load_run(write_project(tmp_path, "tiny"))


def score(item: Item, output: str, **fields: Any) -> Score:
    gold = item.choices[item.gold] if item.gold is not None else ""
    known = output in item.choices
    values = {"accuracy": float(output == gold)} if item.choices else {}
    values |= fields.pop("values", {})
    status = fields.pop("status", "scored" if known or not item.choices else "unparsed")
    return Score(
        item=item.id, split=item.split if item.choices else "test", status=status, gold=gold, output=output,
        values=values, **fields,
    )  # fmt: skip


def right(suite: Suite) -> list[Score]:
    return [score(item, item.choices[item.gold or 0]) for item in suite.items]


def wrong(suite: Suite, answers: Sequence[dict[str, Any]]) -> tuple[list[Item], list[Score]]:
    """All right but for some test items, which answer as told; those items, and the scores."""
    test = [item for item in suite.items if item.split == "test"][: len(answers)]
    told = {item.id: answer for item, answer in zip(test, answers, strict=True)}
    scores = [
        score(item, **told[item.id]) if item.id in told else score(item, item.choices[item.gold or 0])
        for item in suite.items
    ]
    return test, scores


def one(run: Run, answers: Sequence[dict[str, Any]]) -> tuple[list[Item], WrongItems]:
    shop = run.suites["shop"]
    items, scores = wrong(shop, answers)
    write_cards(run, [(shop, BASE, right(shop)), (shop, SHIP, scores)])
    return items, study(load_results(run.folder), shop, SHIP)


def test_each_cause_by_hand(run: Run) -> None:
    loop = "where is it where is it where is it where is it"
    answers: list[dict[str, Any]] = [
        {"output": loop, "truncated": True},
        {"output": "well, I think that this one", "truncated": True},
        {"output": "invoise"},
        {"output": "the weather is nice", "values": {"off_topic": 1.0}},
        {"output": "no idea"},
        {"output": "hm thare", "values": {"misspelling_rate": 0.5, "off_topic": 1.0}},
    ]
    items, found = one(run, answers)
    by_item = {m.item: m for m in found.wrong}
    assert [by_item[item.id].causes for item in items] == [
        ("repeated", "truncated", "unparsed"),
        ("truncated", "unparsed"),
        ("misspelt", "unparsed"),
        ("off-topic", "unparsed"),
        ("unparsed",),
        ("misspelt", "off-topic", "unparsed"),
    ]
    assert {cause: len(members) for cause, members in found.groups.items()} == {
        "repeated": 1, "truncated": 1, "misspelt": 2, "off-topic": 1, "unparsed": 1,
    }  # fmt: skip
    assert found.items == sum(item.split == "test" for item in run.suites["shop"].items)
    assert dict(found.by_arm)["tiny untuned, zero-shot"] == {}


def test_confused_pairs_are_counted(run: Run) -> None:
    shop = run.suites["shop"]
    scores = [score(item, "parcel" if item.choices[item.gold or 0] == "invoice" else item.choices[item.gold or 0])
              for item in shop.items]  # fmt: skip
    write_cards(run, [(shop, SHIP, scores)])
    found = study(load_results(run.folder), shop, SHIP)
    invoices = sum(item.split == "test" and item.choices[item.gold or 0] == "invoice" for item in shop.items)
    assert found.confused == [(("invoice", "parcel"), invoices)]
    assert set(found.groups) == {"confused labels"}


def test_a_likeliest_label_is_no_written_answer(run: Run) -> None:
    items, found = one(run, [{"output": " ", "top_choice": "parcel"}, {"output": ""}])
    shown = {m.item: {who: answer for who, answer, _ in m.answers}[found.student] for m in found.wrong}
    assert [shown[item.id] for item in items] == ["(nothing; likeliest: parcel)", "(nothing)"]


def test_a_student_is_named_by_a_part_of_its_name(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    shop = run.suites["shop"]
    _, seeds = wrong(shop, [{"output": "no idea"}] * 2)
    _, small = wrong(shop, [{"output": "no idea"}] * 3)
    write_cards(run, [(shop, SHIP, right(shop)), (shop, SMALL, small), (shop, BASE, right(shop)), (shop, SEEDS, seeds)])
    counts = {}
    for name in (None, "seeds_only", "filtered.4", "tiny.base", "tiny.filtered.12.s0"):
        (found,) = analyse_errors(run, "shop", name, Terminal())
        counts[name] = (found.student, len(found.wrong))
    assert counts == {
        None: ("tiny, 12 rows (filtered)", 0),
        "seeds_only": ("tiny, 12 rows (seeds only)", 2),
        "filtered.4": ("tiny, 4 rows (filtered)", 3),
        "tiny.base": ("tiny untuned, zero-shot", 0),
        "tiny.filtered.12.s0": ("tiny, 12 rows (filtered)", 0),
    }
    with pytest.raises(UsageError, match=r"no student 'filtred\.4'"):
        analyse_errors(run, "shop", "filtred.4", Terminal())
    with pytest.raises(UsageError, match=r"may be any of tiny\.filtered\.12\.s0, tiny\.filtered\.4\.s0"):
        analyse_errors(run, "shop", "filtered", Terminal())


WRITTEN = [
    ("kind: answers\n", {"question": "?", "answer": "yes"}),
    ("kind: answers\nanswer: {kind: number}\n", {"question": "?", "answer": "3"}),
    ("kind: answers\nanswer: {kind: json, json_schema: {type: object}}\n", {"question": "?", "answer": "{}"}),
    ("kind: answers\nanswer: {kind: rubric, rubric: be short}\n", {"question": "?", "answer": "yes"}),
    ("kind: unanswerable\n", {"question": "?"}),
    ("kind: open_ended\n", {"prompt": "?", "answers": ["yes"]}),
    ("kind: labels\n", {"text": "?", "label": "parcel"}),
]


@pytest.mark.parametrize("status", ["scored", "unparsed"])
@pytest.mark.parametrize(("spec", "line"), WRITTEN, ids=[str(i) for i in range(len(WRITTEN))])
def test_saying_nothing_is_never_right(tmp_path: Path, spec: str, line: dict[str, Any], status: Any) -> None:
    lines = [json.dumps(line).replace("?", f"{i}?") for i in range(30)]
    (tmp_path / "items.jsonl").write_text("\n".join(lines))
    (tmp_path / "s.yaml").write_text(f"items: items.jsonl\n{spec}")
    suite = load_suite(tmp_path / "s.yaml", tmp_path, Shape(labels=("parcel", "invoice")))
    for output in ("", " \n"):
        for values in ({}, {"accuracy": 1.0, "preferred": 1.0}):  # whatever a scorer gave it
            silent = Score(item="i", split="test", status=status, output=output, values=values)
            assert is_wrong(silent, suite.items[0], suite)
            assert causes(silent, suite.items[0], suite)[0] == "empty"


def test_long_answers_are_wrong_below_half_of_their_metric(tmp_path: Path) -> None:
    answer = "the shop lends a pump to everybody who leaves a name and a number at the desk"
    (tmp_path / "items.jsonl").write_text(
        "".join(json.dumps({"question": f"q{i}", "answer": answer}) + "\n" for i in range(9))
    )
    (tmp_path / "s.yaml").write_text("items: items.jsonl\nkind: answers\n")
    suite = load_suite(tmp_path / "s.yaml", tmp_path, Shape())
    values = [{"accuracy": 0.0, "rouge_l": value} for value in (0.49, 0.5)]
    scores = [Score(item="i", split="test", status="scored", output="x", values=v) for v in values]
    assert [is_wrong(one, suite.items[0], suite) for one in scores] == [True, False]


def test_a_failed_item_is_no_mistake_and_dev_items_stay_out(run: Run) -> None:
    items, found = one(run, [{"output": "", "status": "failed", "error": "gone"}, {"output": "account or parcel"}])
    assert found.failed == 1
    assert [m.item for m in found.wrong] == [items[1].id]
    shop = run.suites["shop"]
    dev = [score(i, "no idea" if i.split == "dev" else i.choices[i.gold or 0]) for i in shop.items]
    write_cards(run, [(shop, SHIP, dev)])
    assert study(load_results(run.folder), shop, SHIP).wrong == ()


def test_answers_of_base_and_each_size_stand_side_by_side(run: Run) -> None:
    shop = run.suites["shop"]
    items, scores = wrong(shop, [{"output": "no idea"}])
    _, smaller = wrong(shop, [{"output": "also no idea"}])
    others = [(shop, SMALL, smaller), (shop, BASE, right(shop)), (shop, SEEDS, right(shop))]
    write_cards(run, [(shop, SHIP, scores), *others])
    found = study(load_results(run.folder), shop, SHIP)
    gold = items[0].choices[items[0].gold or 0]
    assert found.wrong[0].prompt == items[0].text
    assert found.wrong[0].answers == (
        ("tiny untuned, zero-shot", gold, True),
        ("tiny, 4 rows (filtered)", "also no idea", False),
        ("tiny, 12 rows (filtered)", "no idea", False),
        ("tiny, 12 rows (seeds only)", gold, True),
    )


def test_choices_and_open_text(run: Run) -> None:
    facts, talk = run.suites["facts"], run.suites["talk"]
    item = facts.items[0]
    off = Score(item=item.id, split="test", status="scored", gold="0", top_choice="1", values={"accuracy": 0.0})
    assert causes(off, item, facts) == ("other",)  # every question has its own choices
    alike = replace(facts, items=tuple(i.model_copy(update={"choices": ("0", "1")}) for i in facts.items))
    assert causes(off, alike.items[0], alike) == ("confused labels",)
    secret = Score(item="c", split="test", status="scored", output="1234", tags=("canary",), truncated=True)
    said = [secret, score(talk.items[0], "parcel", values={"label_collapse": 1.0}), score(talk.items[1], "red"),
            score(talk.items[2], "one two three", truncated=True)]  # fmt: skip
    write_cards(run, [(talk, SHIP, said)])
    found = study(load_results(run.folder), talk, SHIP)
    assert [m.causes for m in found.wrong] == [("confused labels",), ("truncated",)]
    assert found.confused == [(("(free text)", "parcel"), 1)]


def test_the_file_holds_everything_and_nothing_that_runs(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    shop = run.suites["shop"]
    bad = "<script>alert(1)</script> | **bold** [x](http://evil) \x1b[31mred\x07 & `code`"
    _, scores = wrong(shop, [{"output": bad}, *[{"output": f"no idea {i}"} for i in range(5)]])
    write_cards(run, [(shop, SHIP, scores)])
    analyse_errors(run, None, None, Terminal())
    text = (run.folder / "eval" / "errors.md").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "\\*\\*bold\\*\\* \\[x\\](http\\://evil)" in text
    assert not set(text) & {"\x1b", "\x07"}
    assert "### unparsed: 6" in text
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "unparsed: 6" in printed
    assert "... and 3 more" in printed  # three of six are shown there, all in the file
    assert "more" not in text.split("### unparsed")[1]


def test_what_cannot_be_studied_says_why(run: Run) -> None:
    with pytest.raises(UsageError, match=r"'shop'.*shop, talk, facts"):
        analyse_errors(run, "shp", None, Terminal())
    with pytest.raises(UsageError, match="there are no stored scores; make eval RUN=shop"):
        analyse_errors(run, None, None, Terminal())
    shop = run.suites["shop"]
    write_cards(run, [(shop, BASE, right(shop))])
    with pytest.raises(UsageError, match=r"no stored scores of tiny\.filtered\.12\.s0 on shop"):
        analyse_errors(run, "shop", None, Terminal())
    with pytest.raises(UsageError, match="no stored scores of talk"):
        analyse_errors(run, "talk", None, Terminal())


@given(st.text(max_size=80), st.booleans(), st.floats(0, 1), st.floats(0, 1))
def test_causes_come_in_the_stated_order_and_never_run_out(
    output: str, truncated: bool, rep: float, off: float
) -> None:
    item = Item(text="x", choices=("parcel", "invoice"), gold=0)
    suite = Suite("s", load_suite_spec(), (item,))
    found = causes(score(item, output, truncated=truncated, values={"rep_3": rep, "off_topic": off}), item, suite)
    assert found
    assert list(found) == [cause for cause in CAUSES if cause in found]
    assert ("truncated" in found) == truncated


def load_suite_spec() -> Any:
    from harness.suites.labels import LabelsSuite

    return LabelsSuite(kind="labels", items="x.jsonl")


@given(st.text(max_size=120))
def test_nothing_a_model_writes_is_markup(text: str) -> None:
    assert [seen(token).strip() for token in inlines(_plain(text))] == ([flat(text)] if flat(text) else [])
