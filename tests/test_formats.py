"""What CI systems read: JUnit, JSON, Markdown and annotations parse, say everything, and survive hostile names."""

from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.check import formats
from harness.check.rules import Decision, Rule, Verdict
from harness.stats import Interval
from tests.test_markdown import inlines, seen

FOUND = Interval(estimate=-0.02, low=-0.05, high=0.01, method="given", n=100, level=0.9)
HOSTILE = "a|b\n</td>\x00\x1b[31m <script>&%,: `x` *y* [z](http://e.x) \ud800 \\|"


def decision(verdict: Verdict = "pass", suite: str = "shop", metric: str = "accuracy", note: str = "") -> Decision:
    rule = Rule(suite, metric, "margin", 0.03)
    return Decision(rule, verdict, "these weights", 90, 100, 0.8, 0.78, FOUND, 0.4, note=note)


ALL = (
    decision(),
    decision("regressed", metric="words", note="p 0.01, adjusted"),
    decision("inconclusive", suite="facts", note="it reaches across"),
    decision("failed", suite="talk", note="2 items failed"),
)


@pytest.mark.parametrize(
    ("verdicts", "code", "lenient"),
    [
        (["pass", "pass"], 0, 0),
        (["pass", "inconclusive"], 4, 0),
        (["regressed", "inconclusive", "pass"], 1, 1),
        (["failed", "regressed", "inconclusive"], 3, 3),
    ],
)
def test_exit_code_is_that_of_the_worst(verdicts: list[Verdict], code: int, lenient: int) -> None:
    decisions = [decision(verdict) for verdict in verdicts]
    assert formats.exit_code(decisions) == code
    assert formats.exit_code(decisions, "pass") == lenient


def test_the_table_has_a_cell_for_every_head() -> None:
    row = formats.row(replace(decision(), shade="improved"))
    assert len(row) == len(formats.HEADS)
    assert row == (
        "shop", "accuracy", "0.8", "0.78", "-0.0200 [-0.0500, +0.0100]", "margin 0.03", "90 of 100", "pass (improved)",
    )  # fmt: skip
    empty = formats.row(replace(decision("failed"), before=None, now=None, difference=None, items=100))
    assert empty[2:5] == ("-", "-", "-")
    assert empty[6] == "100"


# --- JUnit --------------------------------------------------------------------------------------------------


def test_junit_has_a_case_per_suite_and_bound_that_says_what_was_asked_and_found() -> None:
    root = ElementTree.fromstring(formats.junit("shop", "tiny.s0", ALL, "fail").encode())
    assert root.tag == "testsuites"
    assert [suite.get("name") for suite in root] == ["shop", "facts", "talk"]
    cases = [case for suite in root for case in suite]
    assert [case.get("name") for case in cases] == ["accuracy margin 0.03", "words margin 0.03"] + [
        "accuracy margin 0.03"
    ] * 2
    assert {case.get("classname") for case in cases} == {"shop.shop", "shop.facts", "shop.talk"}
    for case in cases:
        about = {p.get("name"): p.get("value") for p in case.iter("property")}
        assert about["difference"] == "-0.0200 [-0.0500, +0.0100]"
        assert about["question"] == "these weights"
        assert about["student"] == "tiny.s0"
        assert "these weights" in (case.findtext("system-out") or "")
    outcomes = [next((c.tag for c in case if c.tag in ("failure", "error", "skipped")), "") for case in cases]
    assert outcomes == ["", "failure", "failure", "error"]
    shop, facts, talk = root
    assert (shop.get("tests"), shop.get("failures"), shop.get("errors"), shop.get("skipped")) == ("2", "1", "0", "0")
    assert (facts.get("failures"), talk.get("errors")) == ("1", "1")
    message = cases[1].find("failure")
    assert message is not None
    assert message.get("message") == (
        "regressed: shop words margin 0.03, now minus before -0.0200 [-0.0500, +0.0100]; p 0.01, adjusted"
    )


def test_a_doubt_that_may_pass_is_a_skipped_case() -> None:
    root = ElementTree.fromstring(formats.junit("shop", "tiny", [decision("inconclusive")], "pass").encode())
    assert root[0].get("skipped") == "1"
    assert root[0].get("failures") == "0"
    assert root[0][0].find("skipped") is not None


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=30), st.text(max_size=30))
def test_every_form_holds_any_name(name: str, note: str) -> None:
    decisions = [decision("regressed", suite=name, metric=name, note=note)]
    raw = formats.junit(name, name, decisions, "fail").encode()
    (suite,) = ElementTree.fromstring(raw)
    assert len(suite) == 1
    markdown = formats.markdown(name, name, decisions, "fail")
    markdown.encode()
    table = [line for line in markdown.split("\n") if line.startswith("|")]
    assert len(table) == 3
    (line,) = formats.workflow_commands(name, decisions, "fail")
    assert line.count("\n") == line.count("\r") == 0
    assert json.loads(formats.as_json(name, name, decisions, "fail"))["decisions"][0]["suite"] == name


# --- JSON ---------------------------------------------------------------------------------------------------


def test_json_comes_back_whole() -> None:
    stored = json.loads(formats.as_json("shop", "tiny.s0", ALL, "fail"))
    assert {k: stored[k] for k in ("run", "student", "question", "verdict", "exit_code")} == {
        "run": "shop", "student": "tiny.s0", "question": "these weights", "verdict": "failed", "exit_code": 3,
    }  # fmt: skip
    back = []
    for d in stored["decisions"]:
        rule = Rule(d["suite"], d["metric"], d["bound"], d["limit"], d["better"])
        found = Interval.model_validate(d["difference"])
        back.append(
            Decision(
                rule,
                d["verdict"],
                d["question"],
                d["items"],
                d["total"],
                d["before"],
                d["now"],
                found,
                d["p_regression_adjusted"],
                d["shade"],
                d["note"],
            )
        )
    assert tuple(back) == ALL


# --- Markdown -----------------------------------------------------------------------------------------------


def test_markdown_puts_the_worst_first_and_says_the_question() -> None:
    text = formats.markdown("shop", "tiny.s0", ALL, "fail")
    assert text.startswith("## check shop: failed (exit 3)\n")
    assert "question: these weights" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert [row.split(" | ")[-1].removesuffix(" |") for row in rows] == [
        "failed", "regressed", "inconclusive", "pass",
    ]  # fmt: skip
    assert "- shop words margin 0.03: p 0.01, adjusted" in text


def test_hostile_names_stay_in_their_cell() -> None:
    text = formats.markdown(HOSTILE, HOSTILE, [decision("regressed", HOSTILE, HOSTILE, HOSTILE)], "fail")
    text.encode()
    (row,) = [line for line in text.splitlines() if line.startswith("| a")]
    bars = row.replace("\\\\", "").replace("\\|", "").count("|")
    assert bars == len(formats.HEADS) + 1
    assert "<" not in text
    assert all(seen(token) for token in inlines(text))  # text alone: no link, no markup
    assert "\x1b" not in text
    assert "[-0.0500, +0.0100]" in row


def test_markdown_keeps_within_its_bytes() -> None:
    many = [decision("regressed", f"suite {i} é" + HOSTILE, note="why " * 20) for i in range(300)]
    whole = formats.markdown("shop", "tiny", many, "fail")
    assert "would not fit" not in whole
    for limit in (len(whole.encode()) + formats.REST_BYTES, 20_000, 5_000, 700):
        text = formats.markdown("shop", "tiny", many, "fail", limit)
        assert 0 < len(text.encode()) <= limit
    cut = formats.markdown("shop", "tiny", many, "fail", 20_000)
    shown = sum(line.startswith("| suite") for line in cut.splitlines()) - 1
    assert f"{301 + 301 - shown} more lines would not fit here." in cut
    for limit in (300, 10, 0, -5):
        assert formats.markdown("shop", "tiny", many, "fail", limit) == ""


# --- annotations --------------------------------------------------------------------------------------------


def test_workflow_commands_are_one_escaped_line_each() -> None:
    lines = formats.workflow_commands("runs/a,b:c.json", ALL, "fail")
    assert len(lines) == 3  # a pass needs none
    assert lines[0] == (
        "::error file=runs/a%2Cb%3Ac.json,title=shop words%3A regressed::regressed: shop words margin 0.03, now minus"
        " before -0.0200 [-0.0500, +0.0100]; p 0.01, adjusted"
    )
    (line,) = formats.workflow_commands("b.json", [decision("regressed", "s\r\n::error::x", "100%")], "fail")
    assert "\n" not in line
    assert "title=s%0D%0A%3A%3Aerror%3A%3Ax 100%25%3A regressed::" in line


def test_a_doubt_that_may_pass_is_a_warning() -> None:
    (line,) = formats.workflow_commands("b.json", [decision("inconclusive")], "pass")
    assert line.startswith("::warning file=b.json,title=")


def test_what_rounds_to_nothing_has_no_minus() -> None:
    assert (
        formats.interval(Interval(estimate=-0.00001, low=-0.00004, high=0.2, method="m", n=9))
        == "+0.0000 [+0.0000, +0.2000]"
    )
    assert (
        formats.interval(Interval(estimate=-0.3, low=-0.4, high=-0.00006, method="m", n=9))
        == "-0.3000 [-0.4000, -0.0001]"
    )
