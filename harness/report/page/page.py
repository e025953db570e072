"""report.html from the parts of a report: one file, without a request to anything.

A content security policy allows the page's own style and script by their digests and nothing else, so that no text of a
model can run, and nothing can be fetched. The page reads without script. With it items and rows can be browsed.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from harness.augment.funnel import Funnel
from harness.report.answer import Answer
from harness.report.page import figures
from harness.report.page.chart import funnel_chart
from harness.report.page.packed import block
from harness.report.page.samples import Sample, samples_section
from harness.report.page.written import text
from harness.report.regressions import Panel
from harness.report.student_view import StudentCurve

SHOW = (  # what of the items is listed, by what the script calls it
    ("all", "all items"),
    ("gained", "B better than A"),
    ("lost", "B worse than A"),
    ("differ", "A and B answer otherwise"),
    ("a-wrong", "A wrong"),
    ("b-wrong", "B wrong"),
    ("both-wrong", "both wrong"),
)


@dataclass(frozen=True)
class PageParts:
    """All that a page holds."""

    run: str
    warnings: Sequence[str]
    remarks: Sequence[str]
    answers: Sequence[Answer]
    curves: Sequence[StudentCurve]
    students: str  # the figures of several students, as HTML
    forgetting: Mapping[str, Sequence[Panel]]  # by student
    suites: Sequence[dict[str, Any]]  # as `items.suite_items`
    funnel: Funnel | None
    rows: Iterable[dict[str, Any]]  # as `rows.row_blocks`
    sources: dict[str, dict[str, str]]  # templates by path, seeds by id
    rows_note: str  # why there are no rows; empty where there are
    samples: Sequence[Sample]  # rows as students read them
    tables: str  # the report's other sections, as Markdown
    environment: Sequence[tuple[str, str]]


def page(parts: PageParts) -> str:
    """The whole file."""
    style, script = (files(__package__).joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; base-uri 'none';"
        " form-action 'none'"
    )
    blocks = [block("sources", parts.sources)]
    blocks += [block(f"items-{number}", suite) for number, suite in enumerate(parts.suites)]
    rows = [block(f"rows-{number}", columns) for number, columns in enumerate(parts.rows)]
    title = f"{parts.run}: how much data does the student need?"
    sections = [
        ("answer", "The answer", _answers(parts)),
        ("curves", "Curves", figures.curves(parts.curves) + parts.students + figures.forgetting(parts.forgetting)),
        ("items", "Items", _items(parts.suites)),
        ("rows", "Rows", _rows(parts, bool(rows))),
        ("samples", "What students read", samples_section(parts.samples)),
        ("tables", "All tables", markdown(parts.tables)),
        ("made-with", "Made with", _facts(parts.environment)),
    ]
    shown = [(name, heading, body) for name, heading, body in sections if body]
    links = "".join(f'<li><a href="#{name}">{heading}</a></li>' for name, heading, _ in shown)
    body = "".join(
        f'<section id="{name}" aria-labelledby="{name}-heading"><h2 id="{name}-heading">{heading}</h2>{body}</section>'
        for name, heading, body in shown
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{style}</style></head><body>"
        '<a class="skip" href="#answer">to the answer</a>'
        f'<header><h1>{text(title)}</h1><nav aria-label="Sections"><ul>{links}</ul></nav></header>'
        f"<main>{body}</main>\n{''.join(blocks)}\n{''.join(rows)}\n<script>{script}</script></body></html>\n"
    )


def markdown(source: str) -> str:
    """Markdown of a report as HTML, without its pictures. HTML in it stays text. Headings move down by one."""
    from markdown_it import MarkdownIt

    lines = [line for line in source.splitlines() if not line.startswith("![")]
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse("\n".join(lines))
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1:]) + 1)}"
    html = parser.renderer.render(tokens, parser.options, {})
    numbers = itertools.count(1)
    wide = '<div class="wide" role="region" aria-label="table {}" tabindex="0"><table>'
    html = re.sub("<table>", lambda _: wide.format(next(numbers)), html)  # wide tables scroll, by keyboard too
    return str(html.replace("</table>", "</table></div>").replace("<pre>", '<pre tabindex="0">'))


def _digest(source: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}"


def _answers(parts: PageParts) -> str:
    shown = [f'<p class="warning">{text(warning)}</p>' for warning in parts.warnings]
    for answer in parts.answers:
        lines = "".join(f"<dt>{question}</dt><dd>{text(said)}</dd>" for question, said in answer.answered)
        steps = "".join(f"<li>{text(step.sentence)}</li>" for step in answer.steps)
        heading = f"<h3>{text(answer.student)} on {text(answer.suite)}</h3>" if len(parts.answers) > 1 else ""
        shown.append(
            f'{heading}<div class="answer"><dl>{lines}<dt>What to do next</dt><dd><ol>{steps}</ol></dd></dl></div>'
        )
    shown += [f'<p class="soft">Beside the answer: {text(remark)}.</p>' for remark in parts.remarks]
    return "".join(shown)


def _select(name: str, label: str, options: Sequence[tuple[str, str]] = ()) -> str:
    entries = "".join(f'<option value="{text(value)}">{text(shown)}</option>' for value, shown in options)
    return f'<label id="{name}-label">{label}<select id="{name}">{entries}</select></label>'


def _search(name: str) -> str:
    return f'<label>search<input id="{name}" type="search" autocomplete="off"></label>'


def _browser(name: str, what: str) -> str:
    return (
        f'<div class="browser"><ol class="list" id="{name}-list" aria-label="{what}"></ol>'
        f'<div class="detail" id="{name}-detail" aria-live="polite"></div></div>'
    )


def _items(suites: Sequence[dict[str, Any]]) -> str:
    """The browser of items. Its lists are filled by the script."""
    if not suites:
        return ""
    tools = [
        _select("items-suite", "suite", [(f"items-{number}", suite["suite"]) for number, suite in enumerate(suites)]),
        _select("items-a", "candidate A"),
        _select("items-b", "candidate B"),
        _select("items-show", "show", SHOW),
        _select("items-cause", "why B is wrong"),
        _select("items-tag", "tag"),
        _select("items-gold", "right answer"),
        _select("items-split", "split", [("", "any"), ("test", "test"), ("dev", "dev")]),
        _search("items-search"),
    ]
    return (
        "<noscript><p>Browsing needs script. All else on this page reads without it.</p></noscript>"
        '<div class="script-only" hidden>'
        '<p class="soft">Every candidate\'s answer to every item. <kbd>j</kbd> and <kbd>k</kbd> go through the list.'
        " The address of this page is a link to what is shown.</p>"
        f'<div class="tools">{"".join(tools)}</div>'
        '<div class="wide" role="region" aria-label="comparison with A" tabindex="0">'
        '<table class="flips" id="items-flips"></table></div>'
        f'<p id="items-count" role="status"></p>{_browser("items", "items")}</div>'
    )


def _rows(parts: PageParts, browsable: bool) -> str:
    """The funnel as a picture, and the browser of rows, which unpacks them when it is asked to."""
    shown = ""
    if parts.funnel:
        bars = funnel_chart(parts.funnel.steps(), parts.funnel.requested, parts.funnel.kept)
        shown = f"<figure>{bars}<figcaption>Rows left after each step of augment, and those lost at it.</figcaption>"
        shown += "</figure>"
    if parts.rows_note:
        shown += f'<p class="soft">{text(parts.rows_note)}</p>'
    if not browsable:
        return shown
    tools = _select("rows-state", "kept, or dropped by") + _select("rows-label", "label") + _search("rows-search")
    return (
        f'{shown}<div class="script-only" hidden><p><button type="button" id="rows-open">browse the rows</button></p>'
        f'<div id="rows-browser" hidden><div class="tools">{tools}</div><p id="rows-count" role="status"></p>'
        f"{_browser('rows', 'rows')}</div></div>"
    )


def _facts(pairs: Sequence[tuple[str, str]]) -> str:
    if not pairs:
        return ""
    return f'<dl class="facts">{"".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in pairs)}</dl>'
