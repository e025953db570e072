"""A check's decisions in the forms that CI systems read: JUnit XML, JSON, a Markdown summary, annotations. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal
from xml.etree import ElementTree

from harness.check.rules import Decision, Verdict, overall
from harness.core.markdown import escaped, table_lines
from harness.core.text import one_line
from harness.stats import Interval

Unsure = Literal["fail", "pass"]  # what "inconclusive" comes to

SUMMARY_BYTES = 1024 * 1024  # of GitHub's step summary; a larger one is refused whole
REST_BYTES = 100  # kept free for the line that says what did not fit
HEADS = ("suite", "metric", "before", "now", "difference [95% bounds]", "limit", "items", "verdict")


def exit_code(decisions: Sequence[Decision], unsure: Unsure = "fail") -> int:
    """0 passed, 1 regressed, 3 the tool failed, 4 inconclusive (0 with `unsure` pass)."""
    codes = {"pass": 0, "regressed": 1, "failed": 3, "inconclusive": 0 if unsure == "pass" else 4}
    return codes[overall(decisions)]


def row(decision: Decision) -> tuple[str, ...]:
    """A decision as cells under HEADS."""
    rule = decision.rule
    items = f"{decision.items}" if decision.items == decision.total else f"{decision.items} of {decision.total}"
    return (
        rule.suite,
        rule.metric,
        number(decision.before),
        number(decision.now),
        interval(decision.difference),
        decision.limit,
        items,
        verdict(decision),
    )


def verdict(decision: Decision) -> str:
    """The verdict with its shade."""
    return f"{decision.verdict} ({decision.shade})" if decision.shade else decision.verdict


def number(value: float | None) -> str:
    """Four digits, or a dash."""
    return "-" if value is None else f"{value:.4g}"


def interval(difference: Interval | None) -> str:
    """An estimate with its ends, or a dash. What rounds to nothing has no minus."""
    if difference is None:
        return "-"
    estimate, low, high = (
        f"{round(value, 4) + 0.0:+.4f}" for value in (difference.estimate, difference.low, difference.high)
    )
    return f"{estimate} [{low}, {high}]"


def as_json(run: str, student: str, decisions: Sequence[Decision], unsure: Unsure) -> str:
    """Everything, for programs: one object with the overall verdict, the exit code and every decision."""
    result = {
        "run": run,
        "student": student,
        "question": decisions[0].question,
        "verdict": overall(decisions),
        "exit_code": exit_code(decisions, unsure),
        "decisions": [
            {
                "suite": d.rule.suite,
                "metric": d.rule.metric,
                "bound": d.rule.bound,
                "limit": d.rule.limit,
                "better": d.rule.better,
                "verdict": d.verdict,
                "shade": d.shade,
                "question": d.question,
                "items": d.items,
                "total": d.total,
                "before": d.before,
                "now": d.now,
                "difference": d.difference.model_dump() if d.difference else None,
                "p_regression_adjusted": d.p,
                "note": d.note,
            }
            for d in decisions
        ],
    }
    return json.dumps(result, indent=1) + "\n"


def junit(run: str, student: str, decisions: Sequence[Decision], unsure: Unsure) -> str:
    """One test suite per suite, one case per metric and bound, with difference, interval and question."""
    root = ElementTree.Element("testsuites", name=_plain(f"harness check {run}"))
    by_suite: dict[str, list[Decision]] = {}
    for decision in decisions:
        by_suite.setdefault(decision.rule.suite, []).append(decision)
    for name, of_suite in by_suite.items():
        counts = {word: sum(_outcome(d, unsure) == word for d in of_suite) for word in ("failure", "error", "skipped")}
        suite = ElementTree.SubElement(
            root, "testsuite", name=_plain(name), tests=str(len(of_suite)), failures=str(counts["failure"]),
            errors=str(counts["error"]), skipped=str(counts["skipped"]),
        )  # fmt: skip
        for d in of_suite:
            title = _plain(f"{d.rule.metric} {d.limit}")
            case = ElementTree.SubElement(suite, "testcase", classname=_plain(f"{run}.{name}"), name=title, time="0")
            properties = ElementTree.SubElement(case, "properties")
            about = {
                "student": student,
                "question": d.question,
                "difference": interval(d.difference),
                "before": number(d.before),
                "now": number(d.now),
                "items": str(d.items),
                "verdict": verdict(d),
            }
            for key, value in about.items():
                ElementTree.SubElement(properties, "property", name=key, value=_plain(value))
            outcome = _outcome(d, unsure)
            if outcome:
                ElementTree.SubElement(case, outcome, message=_plain(_message(d)))
            summary = f"{verdict(d)}; question: {d.question}; {interval(d.difference)}"  # what viewers show of a pass
            ElementTree.SubElement(case, "system-out").text = summary
    ElementTree.indent(root)
    raw: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return raw.decode() + "\n"


def markdown(run: str, student: str, decisions: Sequence[Decision], unsure: Unsure, limit: int = SUMMARY_BYTES) -> str:
    """A summary to read in CI, at most `limit` bytes: rows that do not fit are counted instead."""
    code = exit_code(decisions, unsure)
    order: tuple[Verdict, ...] = ("failed", "regressed", "inconclusive", "pass")
    worst = sorted(decisions, key=lambda d: order.index(d.verdict))
    heads, rule, *lines = table_lines(HEADS, [row(d) for d in worst])
    head = (
        f"## check {escaped(run)}: {overall(decisions)} (exit {code})\n\n{escaped(student)}; question:"
        f" {decisions[0].question}; difference: now minus before, each end a one-sided 95% bound.\n\n{heads}\n{rule}\n"
    )
    notes = [f"\n- {escaped(f'{d.rule.suite} {d.rule.metric} {d.limit}: {d.note}')}" for d in worst if d.note]
    return _within(head, [*(f"{line}\n" for line in lines), "\n" if notes else "", *notes, "\n"], limit)


def _within(head: str, parts: Sequence[str], limit: int) -> str:
    """As many parts as fit. Empty where not even the head fits."""
    if len(head.encode()) > limit - REST_BYTES:
        return ""
    text, size = [head], len(head.encode())
    for place, part in enumerate(parts):
        size += len(part.encode())
        if size > limit - REST_BYTES:
            return "".join([*text, f"\n{len(parts) - place} more lines would not fit here.\n"])
        text.append(part)
    return "".join(text)


def workflow_commands(path: str, decisions: Sequence[Decision], unsure: Unsure) -> list[str]:
    """Workflow commands that mark what did not pass, on the baseline file."""
    lines = []
    for d in decisions:
        outcome = _outcome(d, unsure)
        if not outcome:
            continue
        word = "warning" if outcome == "skipped" else "error"
        title = _property(f"{d.rule.suite} {d.rule.metric}: {d.verdict}")
        lines.append(f"::{word} file={_property(path)},title={title}::{_escaped(_message(d))}")
    return lines


def _outcome(decision: Decision, unsure: Unsure) -> str:
    """JUnit's word for a verdict: nothing for a pass."""
    words = {"pass": "", "regressed": "failure", "failed": "error"}
    return words.get(decision.verdict, "skipped" if unsure == "pass" else "failure")


def _message(d: Decision) -> str:
    text = f"{d.verdict}: {d.rule.suite} {d.rule.metric} {d.limit}, now minus before {interval(d.difference)}"
    return f"{text}; {d.note}" if d.note else text


def _plain(text: str) -> str:
    """Text without what XML and UTF-8 cannot hold: control characters, halves of surrogate pairs."""
    return one_line(text)


def _property(text: str) -> str:
    """As `_escaped`, where a comma or a colon would end the property."""
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")


def _escaped(text: str) -> str:
    """Text in a workflow command, as GitHub's own toolkit escapes it."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
