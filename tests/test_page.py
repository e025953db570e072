"""report.html as a file: what it may load and run (itself alone), what it holds, and that nobody's text is markup."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.augment.current import MadeRows
from harness.augment.rows import Judged, Lost
from harness.eval.results import load_results
from harness.records import Example, Message, Provenance, Row, Verdict
from harness.report.advice import Step
from harness.report.answer import Answer
from harness.report.findings import findings
from harness.report.page.chart import Level, Mark, Series, curve_chart, funnel_chart
from harness.report.page.packed import packed
from harness.report.page.page import PageParts, markdown, page
from harness.report.page.rows import BLOCK, row_blocks
from harness.report.page.samples import Sample
from harness.report.stage import report
from tests.fakes import Quiet
from tests.test_report import cell, labelled, shop, store, valued

HOSTILE = [
    "</script><script>window.hacked = true</script>",
    '"><img src=x onerror="window.hacked=true">',
    "\u202eright to left\u202c \u05e9\u05dc\u05d5\u05dd",
    "null \x00 byte, bell \x07",
    "x" * 100_000,
    "[a link](javascript:alert(1)) `code` | a | table |",
]
SURROGATE = "a lone \ud800 surrogate"  # which no row and no item can hold
VOID = {"meta", "link", "img", "br", "input", "hr"}


class Reader(HTMLParser):
    """Tags with their attributes, and the text of scripts and styles. Fails where elements do not nest."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


def unpacked(html: str, name: str) -> Any:
    """What a block of data holds."""
    match = re.search(rf'<script type="application/gzip" id="{name}">([^<]*)</script>', html)
    assert match
    return json.loads(gzip.decompress(base64.b64decode(match[1])))


def row(text: str, label: str = "a") -> Row:
    return Row(
        messages=(Message(role="user", content=text), Message(role="assistant", content=label)),
        example=Example(fields={"text": text}, answer=label, label=label),
        provenance=Provenance(source="teacher", request=text, template=text, attributes={text[:20]: text}),
    )


def hostile_parts() -> PageParts:
    """A page in which every text is an attack."""
    rows = [row(text, text[:30]) for text in HOSTILE]
    dropped = [Judged(row=r, verdicts=(Verdict(r.id, "judge", False, r.text, 0.1, r.text),)) for r in rows]
    lost = [Lost(lost="unparsed", reason=text, text=text, request="0" * 64) for text in HOSTILE]
    verdicts = [judged.verdicts for judged in dropped]
    made = MadeRows(rows, dropped, lost, verdicts, prompts={text: text for text in HOSTILE})
    said = " ".join(HOSTILE)
    count = len(HOSTILE)
    suite = {
        "suite": HOSTILE[0], "compared": [0, 1], "metric": "accuracy", "rate": True, "lower": False,
        "items": {"id": [f"{i:016x}" for i in range(count)], "split": ["test"] * count, "text": HOSTILE,
                  "gold": HOSTILE, "tags": [[text[:30]] for text in HOSTILE]},
        "candidates": [
            {"name": f"{i}{text[:40]}", "title": text[:60], "kind": "student", "output": HOSTILE, "value": [1, 0] * 3,
             "cause": [text[:20]] * count, "tokens": [1] * count, "seconds": 0.1}
            for i, text in enumerate(HOSTILE)
        ],
    }  # fmt: skip
    return PageParts(
        run=HOSTILE[0],
        warnings=[*HOSTILE, SURROGATE],
        remarks=HOSTILE,
        answers=[Answer(said, said, said, said, said, said, (Step("x", said),))],
        curves=(),
        students="",
        forgetting={},
        suites=[suite],
        funnel=None,
        rows=row_blocks(made),
        sources={"templates": dict.fromkeys(HOSTILE, said), "seeds": {}},
        rows_note=said,
        samples=[
            Sample(
                student=said, source=said, rows=((said, ((said, True), (said, False))),), lengths=said, limits=(said,)
            )
        ],
        tables=f"## {HOSTILE[0]}\n\n{HOSTILE[1]}\n\n![p](http://example.com/a.png)\n\n| a |\n|---|\n| {HOSTILE[0]} |\n",
        environment=[(said, said)],
    )


def test_nobodys_text_is_markup_and_nothing_is_loaded() -> None:
    html = page(hostile_parts())
    html.encode("utf-8")
    reader = read(html)
    scripts = [attributes for tag, attributes in reader.tags if tag == "script"]
    assert sum(not attributes.get("type") for attributes in scripts) == 1
    assert not {tag for tag, _ in reader.tags} & {"img", "iframe", "link", "object", "embed", "base", "form"}
    for _, attributes in reader.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "style")]
        assert (attributes.get("href") or "#").startswith("#")


def test_the_policy_allows_this_style_and_this_script_and_nothing_else() -> None:
    html = page(hostile_parts())
    reader = read(html)
    policy = next(a["content"] or "" for t, a in reader.tags if t == "meta" and a.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    script = html.rsplit("<script>", 1)[1].split("</script>")[0]
    style = html.split("<style>", 1)[1].split("</style>")[0]
    for text in (script, style):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_every_row_is_in_it_with_what_became_of_it() -> None:
    kept = [row(f"text {i}") for i in range(BLOCK + 5)]
    made = MadeRows(kept, [], [Lost(lost="failed", reason="r", request="1" * 64)])
    blocks = [block["columns"] for block in row_blocks(made)]
    assert [len(block["id"]) for block in blocks] == [BLOCK, 6]
    assert blocks[0]["id"][:2] == [kept[0].id, kept[1].id]
    assert [block["state"][-1] for block in blocks] == ["kept", "failed"]
    html = page(hostile_parts())
    rows, lines = (unpacked(html, "rows-0")[name] for name in ("columns", "lines"))
    assert rows["state"] == ["kept"] * 6 + ["judge"] * 6 + ["unparsed"] * 6
    assert rows["text"][:4] == HOSTILE[:4]
    assert rows["text"][4].startswith("xxx")
    assert "100000 characters in all" in rows["text"][4]
    assert rows["verdicts"][0] == rows["verdicts"][6]
    assert rows["verdicts"][6][0][:3] == ["judge", 0, 0.1]
    assert ["\n".join(lines[i] for i in prompt) for prompt in rows["prompt"][:4]] == HOSTILE[:4]


@given(st.recursive(st.none() | st.text() | st.integers(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)))
def test_what_is_packed_comes_out_again(value: Any) -> None:
    text = packed(value)
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", text)
    assert json.loads(gzip.decompress(base64.b64decode(text))) == value
    assert packed(value) == text


@given(st.text(max_size=80))
def test_markdown_makes_no_html_of_html(text: str) -> None:
    assert not {tag for tag, _ in read(markdown(f"# {text}\n\n{text}\n")).tags} & {"script", "img", "iframe", "style"}


def test_a_chart_says_each_of_its_numbers_and_stays_inside_its_picture() -> None:
    marks = [Mark(16, 0.3, "16 rows: 30%", 0.2, 0.4), Mark(256, 0.9, "256 rows: 90%", 0.85, 1.0)]
    series = [Series("tuned <b>", "blue", marks)]
    chart = curve_chart("c", "A & B", "accuracy", series, [Level("untuned", "grey", 0.25)], percent=True)
    reader = read(chart)
    assert "16 rows: 30%" in "".join(reader.texts["title"])
    assert "untuned: 25%" in "".join(reader.texts["title"])
    places = [float(a[name] or 0) for _, a in reader.tags for name in ("cx", "x1", "x2") if name in a]
    heights = [float(a[name] or 0) for _, a in reader.tags for name in ("cy", "y1", "y2") if name in a]
    assert min(places) >= 0
    assert max(places) <= 640
    assert min(heights) >= 0
    assert max(heights) <= 340
    circles = [a for tag, a in reader.tags if tag == "circle"]
    assert float(circles[0]["cx"] or 0) < float(circles[1]["cx"] or 0)
    assert float(circles[0]["cy"] or 0) > float(circles[1]["cy"] or 0)
    with pytest.raises(ValueError, match="nothing to draw"):
        curve_chart("c", "empty", "accuracy", [], [], percent=True)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9))
def test_axes_have_a_few_round_numbers_around_all_values(values: list[float]) -> None:
    marks = [Mark(2**place, value, "") for place, value in enumerate(values)]
    reader = read(curve_chart("c", "t", "v", [Series("s", "blue", marks)], [], percent=False))
    lines = [a for tag, a in reader.tags if tag == "line" and a.get("class") == "grid"]
    assert 2 <= len(lines) <= 9
    heights = [float(a["y1"] or 0) for a in lines]
    circles = [float(a["cy"] or 0) for tag, a in reader.tags if tag == "circle"]
    assert min(heights) - 0.2 <= min(circles) <= max(circles) <= max(heights) + 0.2


def test_the_funnel_shows_every_step() -> None:
    chart = funnel_chart([("length", 90, 10), ("judge", 60, 30)], 100, 60)
    titles = read(chart).texts["title"]
    assert "length: 90, 10 dropped" in titles
    assert "judge: 60, 30 dropped" in titles


def test_a_report_writes_its_page_whose_items_hold_every_candidates_answer(tmp_path: Path) -> None:
    run = shop(tmp_path)
    suites = [("shop", cell(size), labelled(0.3 + size / 40, size)) for size in (0, 4, 12)]
    talk = [("talk", cell(size), valued(rep_3=lambda i: 0.1 * (i % 3))) for size in (0, 4, 12)]
    store(run, [*suites, *talk])
    report(run, Quiet(), ship="Nobody knows.")
    html = (run.folder / "eval/report.html").read_text(encoding="utf-8")
    reader = read(html)
    assert reader.texts["h2"] == ["The answer", "Curves", "Items", "All tables", "Made with"]
    assert "Nobody knows." in reader.texts["dd"]
    shown = unpacked(html, "items-0")
    results = load_results(run.folder, run.suites)
    assert shown["suite"] == "shop"
    for card in (card for card in results.cards if card.suite == "shop"):
        (candidate,) = (c for c in shown["candidates"] if c["name"] == card.student)
        scores = {score.item: score for score in results.scores(card)}
        for place, item in enumerate(shown["items"]["id"]):
            assert candidate["output"][place] == scores[item].output
            assert candidate["value"][place] == scores[item].values["accuracy"]
    asked = {item.id: item.text for item in run.suites["shop"].items}
    assert dict(zip(shown["items"]["id"], shown["items"]["text"], strict=True)) == asked
    text = (run.folder / "eval/report.md").read_text(encoding="utf-8")
    assert text.index("## The answer") < text.index("## tiny on shop")
    assert len(html) < 300_000


def test_no_curve_leaves_what_a_share_can_be(tmp_path: Path) -> None:
    run = shop(tmp_path)
    scored = [("shop", cell(size), labelled(0.02 if size else 0.3, size)) for size in (0, 4, 12)]
    store(run, scored)
    found = findings(run, "")
    for view in found.views:
        assert view.curve is not None
        assert all(0 <= point.low <= point.value <= point.high <= 1 for point in view.curve.points)
        assert any(point.against_base.interval.low + 0.3 < 0.02 for point in view.curve.points)
    report(run, Quiet())
    html = (run.folder / "eval/report.html").read_text(encoding="utf-8")
    assert "-10%" not in html
    assert "-20%" not in html
