"""What others wrote, in Markdown: read back by a CommonMark parser it is the same text, in the same cells."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from harness.core.aligned import aligned, fitted
from harness.core.markdown import Strong, escaped, fenced, table

READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
MARKUP = st.text(alphabet="ab1 _*`[]()|#!~<>&\\\n\r\t$^-+=.:/@x\u202e\u2028\ud800", max_size=40)
TEXT = st.one_of(st.text(max_size=40), MARKUP)


def flat(text: str) -> str:
    """What a reader should see: one line, no control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def inlines(markdown: str) -> list[Token]:
    """The inline tokens of a document."""
    return [token for token in READER.parse(markdown) if token.type == "inline"]


def seen(token: Token) -> str:
    """The text of an inline token that is nothing but text, strong or not."""
    parts = token.children or []
    assert {part.type for part in parts} <= {"text", "text_special", "strong_open", "strong_close", "code_inline"}, (
        parts
    )
    return "".join(part.content for part in parts)


@settings(max_examples=300)
@given(TEXT)
@example("[x](javascript:alert(1))")
@example("![x](y)")
@example("<img src=x onerror=alert(1)>")
@example("https://a.example www.a.example")
@example("[1]: http://a.example")
@example("1. one")
@example("---")
def test_a_sentence_is_itself(text: str) -> None:
    for before in ("", "- ", "### "):
        found = inlines(before + escaped(text)) if flat(text) else []
        assert [seen(token).strip() for token in found] == ([flat(text)] if flat(text) else [])
    assert "<" not in escaped(text)
    assert escaped(text).isprintable()


@settings(max_examples=200)
@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(TEXT, min_size=n, max_size=n), min_size=1, max_size=4)))
def test_a_table_keeps_its_cells(rows: list[list[str]]) -> None:
    heads, *body = rows
    found = inlines(table(["head", *heads], [[Strong("row"), *row] for row in body]))
    cells = [seen(token) for token in found]
    assert cells == [flat(cell) for row in (["head", *heads], *(["row", *row] for row in body)) for cell in row]


def test_what_is_ours_stays_readable() -> None:
    for text in (
        "0.62 [0.57, 0.67]",
        "+2.0 points [-4.4, +8.5] (95%)",
        "late_delivery",
        "./tiny untuned, few-shot",
    ):
        assert escaped(text) == text
    assert table(["a"], [[Strong("0.62")]]).endswith("| **0.62** |")


def test_rows_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="2 heads over rows of"):
        table(["a", "b"], [["1"]])


@given(MARKUP)
def test_nothing_ends_a_block_of_code(text: str) -> None:
    block = fenced(f"plain 1\n{text}\nplain 2")
    assert READER.parse(block)[0].type == "fence"
    assert "plain 1\n" in READER.parse(block)[0].content
    assert READER.parse(block)[0].content.endswith("plain 2\n")
    assert "<" not in block
    assert all(seen(token) is not None for token in inlines(block))


def test_plain_columns_are_as_wide_as_their_longest_cell() -> None:
    rows = [("a", "bb"), ("ccc", "d"), ("e",), ("e", "")]
    assert aligned(rows).splitlines() == ["a    bb", "ccc  d", "e", "e"]
    assert aligned(rows[:2], right=(1,), indent="  ") == "  a    bb\n  ccc   d"
    assert aligned([]) == ""


def test_columns_wider_than_a_terminal_become_paragraphs() -> None:
    heads, rows = (
        ("suite", "difference", "verdict"),
        [("shop", "+0.01 [-0.02, +0.04]", "pass"), ("talk", "-", "failed")],
    )
    assert fitted(heads, rows, None) == fitted(heads, rows, 80) == aligned([heads, *rows])
    assert fitted(heads, rows, 35).splitlines() == [
        "suite shop,",
        "  difference +0.01 [-0.02, +0.04],",
        "  verdict pass",
        "suite talk, difference -,",
        "  verdict failed",
    ]
    assert all(len(line) <= 20 for line in fitted(heads, rows[1:], 20).splitlines())
