"""Documents in every kind of file: how they are cut, what each piece says of itself, what is refused and why."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.text import WORD
from harness.data.documents import Documents, Part, Piece, folder_digest, read_documents
from harness.errors import UsageError

GUIDE = """---
title: A guide
tags: [bikes]
---
Before any heading stand these few words.

# Bikes

The frame is made of steel.

## Wheels ##

Each wheel has thirty spokes.

```
# this is code and no heading
```

Brakes
======

Discs of 160 mm stop it.

---

- a list
- with a rule above it

> # a quoted heading is no heading

### Pads

They last two thousand kilometres.
"""


def read(root: Path, path: str, words: int = 200, min_words: int = 1) -> tuple[Piece, ...]:
    return read_documents(Documents(path=path, words=words, min_words=min_words), root, "here")


def write_pdf(path: Path, pages: list[str]) -> None:
    """A PDF whose pages hold these lines as text."""
    from matplotlib.backends.backend_pdf import PdfPages
    from matplotlib.figure import Figure

    with PdfPages(path) as pdf:
        for page in pages:
            figure = Figure()
            for number, line in enumerate(page.splitlines()):
                figure.text(0.1, 0.9 - number / 20, line)
            pdf.savefig(figure)


def test_markdown_is_cut_at_its_headings_and_nothing_that_only_looks_like_one(tmp_path: Path) -> None:
    (tmp_path / "guide.md").write_text(GUIDE)
    pieces = read(tmp_path, "guide.md")
    assert [(piece.source, piece.title) for piece in pieces] == [
        ("guide.md:5", ""),
        ("guide.md:9", "Bikes"),
        ("guide.md:13", "Bikes / Wheels"),
        ("guide.md:22", "Brakes"),
        ("guide.md:33", "Brakes / Pads"),
    ]
    assert pieces[2].text == "Each wheel has thirty spokes.\n\n```\n# this is code and no heading\n```"
    assert pieces[3].text.endswith("> # a quoted heading is no heading")
    assert "tags" not in "".join(piece.text for piece in pieces)


def test_a_rule_at_the_top_is_no_front_matter(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("---\nplain words here\n\n---\nand some more\n")
    assert " ".join(piece.text for piece in read(tmp_path, "a.md")).split()[1:4] == ["plain", "words", "here"]


def test_jsonl_says_its_line_and_title(tmp_path: Path) -> None:
    lines = [{"text": "one two three", "id": 4}, {"text": "four five", "title": "Numbers"}, {"text": " "}]
    (tmp_path / "a.jsonl").write_text("\n\n".join(json.dumps(line) for line in lines))
    assert [(p.source, p.title, p.text) for p in read(tmp_path, "a.jsonl")] == [
        ("a.jsonl:1", "", "one two three"),
        ("a.jsonl:3", "Numbers", "four five"),
    ]


def test_pdf_says_its_page(tmp_path: Path) -> None:
    write_pdf(tmp_path / "a.pdf", ["The first page of the book.", "", "A third page, which has\ntwo lines."])
    pieces = read(tmp_path, "a.pdf")
    assert [(p.source, p.text.split()) for p in pieces] == [
        ("a.pdf, page 1", ["The", "first", "page", "of", "the", "book."]),
        ("a.pdf, page 3", ["A", "third", "page,", "which", "has", "two", "lines."]),
    ]
    assert [p.source for p in read(tmp_path, "a.pdf", words=8, min_words=3)][-1] == "a.pdf, page 3"


def test_a_folder_of_several_kinds_is_read_in_the_order_of_its_paths(tmp_path: Path) -> None:
    for name in ("docs/b.txt", "docs/deep/er/a.MD", "docs/.hidden/c.txt", "docs/notes.docx", "docs/a.text"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# words of {name}")
    write_pdf(tmp_path / "docs/c.pdf", ["words of a page"])
    (tmp_path / "docs/deep/er/a.MD").write_text("# Title\n\nwords below it")
    (tmp_path / "docs/z.jsonl").write_text('{"text": "words of a line"}')
    assert [piece.source for piece in read(tmp_path, "docs")] == [
        "docs/a.text:1",
        "docs/b.txt:1",
        "docs/c.pdf, page 1",
        "docs/deep/er/a.MD:3",
        "docs/z.jsonl:1",
    ]


def test_a_text_is_cut_between_paragraphs_then_sentences_then_words() -> None:
    def cut(text: str, words: int = 8, least: int = 1) -> list[str]:
        return [piece.text for piece in Part("a", "", text).pieces(words, least)]

    assert cut("one two three\n\nfour five six\n\nseven eight nine") == [
        "one two three\n\nfour five six",
        "seven eight nine",
    ]
    assert cut("One two three. Four five six! Seven eight nine? Ten.") == [
        "One two three. Four five six!",
        "Seven eight nine? Ten.",
    ]
    assert cut("a b c d e f g h i j") == ["a b c d e f g h", "i j"]
    assert cut("a b c d e f g h i j", least=4) == ["a b c d e f", "g h i j"]  # no piece is too short for a row
    assert cut("a line\n  that goes on") == ["a line\n  that goes on"]
    assert cut("これは本です。それは犬です。") == ["これは本です。", "それは犬です。"]


def test_a_piece_in_the_middle_of_a_line_says_at_which_word_it_begins(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("top line here\n\n" + "the same eight words come again and again " * 3)
    pieces = read(tmp_path, "a.txt", words=8)
    assert [piece.source for piece in pieces] == ["a.txt:1", "a.txt:3", "a.txt:3, word 12", "a.txt:3, word 20"]
    assert pieces[1].text == pieces[2].text
    assert len({piece.id for piece in pieces}) == 4


BITS = ["a", "bb", "c.", "d!", "\n", "\n\n", "中文。", "(e.)", 'f?"', "\t", "\xa0g", "\u2028", "h"]


@settings(deadline=None)
@given(st.lists(st.sampled_from(BITS), max_size=80).map(" ".join), st.integers(8, 20))
def test_every_word_is_in_one_piece_in_order_and_no_piece_is_too_long(text: str, most: int) -> None:
    pieces = list(Part("a.txt", "", text, 1).pieces(most, 1))
    words = [WORD.findall(piece.text) for piece in pieces]
    assert [word for piece in words for word in piece] == WORD.findall(text)
    assert all(0 < len(piece) <= most for piece in words)
    assert len({piece.id for piece in pieces}) == len(pieces)
    assert pieces == list(Part("a.txt", "", text, 1).pieces(most, 1))
    lines = text.split("\n")
    for piece in pieces:
        line = int(piece.source.split(":")[1].split(",")[0])
        assert piece.text.split("\n")[0] in lines[line - 1]
    whole = [piece for piece in Part("a.txt", "", text, 1).pieces(most, most // 2) if piece]
    left_out = len(WORD.findall(text)) - sum(len(WORD.findall(piece.text)) for piece in whole)
    assert left_out == (len(WORD.findall(text)) if len(WORD.findall(text)) < most // 2 else 0)


def test_what_a_folder_holds_decides_its_digest(tmp_path: Path) -> None:
    documents = Documents(path="docs")
    (tmp_path / "docs").mkdir()
    digests = [folder_digest(documents, tmp_path)]
    for name, text in (("a.txt", "one"), ("a.txt", "two"), ("b.txt", "two")):
        (tmp_path / "docs" / name).write_text(text)
        digests.append(folder_digest(documents, tmp_path))
    assert len(set(digests)) == 4
    (tmp_path / "docs/c.png").write_bytes(b"no document")
    assert folder_digest(documents, tmp_path) == digests[-1]
    assert folder_digest(Documents(path="docs/a.txt"), tmp_path) == ""


WRONG: list[tuple[str, str | bytes | None, str, str]] = [
    ("a.txt", "", "a.txt", "a.txt: there are no words in it"),
    ("a.md", "---\ntitle: x\n---\n# \n", "a.md", "a.md: there are no words in it"),
    ("a.txt", b"caf\xe9", "a.txt", "a.txt: not UTF-8 text (byte 3): save it as UTF-8"),
    ("a.jsonl", '{"text": "fine"}\n{"body": "x"}', ".", "a.jsonl:2: text: it must be a text; this line has: body"),
    ("a.jsonl", '{"text": 3}', ".", "a.jsonl:1: text: it must be a text"),
    ("a.jsonl", "[]", ".", "a.jsonl:1: each line is a JSON object, this one is list"),
    ("a.pdf", b"%PDF-1.4 broken", ".", "a.pdf: it cannot be read as PDF: "),
    ("a.pdf", b"", ".", "a.pdf: it cannot be read as PDF: "),
    ("a.docx", "x", ".", "here: .: no file in this folder ends in .txt, "),
    ("a.docx", "x", "a.docx", "here: a.docx: documents end in .txt, "),
    ("a.txt", "x", "b.txt", "here: there is no file b.txt"),
    ("a.txt", "x", "..", "leads out of the project"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "named", "said"), WRONG, ids=[f"{w[0]}-{w[3][:30]}" for w in WRONG])
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, content: str | bytes, named: str, said: str) -> None:
    root = tmp_path / "project"
    root.mkdir()
    (tmp_path / "outside.txt").write_text("words of another project")
    path = root / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError) as caught:
        read(root, named)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pdf_without_text_says_what_to_do(tmp_path: Path) -> None:
    write_pdf(tmp_path / "scan.pdf", ["", ""])
    with pytest.raises(UsageError, match=r"scan\.pdf: no page of this PDF holds text: .* OCR"):
        read(tmp_path, "scan.pdf")


def test_a_damaged_pdf_is_one_message_however_it_is_damaged(tmp_path: Path) -> None:
    write_pdf(tmp_path / "a.pdf", ["Some words on a page."])
    whole, draw = (tmp_path / "a.pdf").read_bytes(), random.Random(0)
    for place in range(0, len(whole), len(whole) // 60):
        for damaged in (whole[:place], whole[:place] + draw.randbytes(16) + whole[place + 16 :]):
            (tmp_path / "b.pdf").write_bytes(damaged)
            with suppress(UsageError):  # and nothing else
                read(tmp_path, "b.pdf")


def test_every_document_at_fault_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/a.txt").write_text(" \n")
    (tmp_path / "docs/b.txt").write_text("these are fine")
    (tmp_path / "docs/c.txt").write_bytes(b"\xff")
    with pytest.raises(UsageError) as caught:
        read(tmp_path, "docs")
    assert [line.split(": ")[0].split("/")[-1] for line in str(caught.value).splitlines()] == ["a.txt", "c.txt"]


def test_a_link_out_of_the_project_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("what nobody should read")
    (tmp_path / "project/docs").mkdir(parents=True)
    (tmp_path / "project/docs/a.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(UsageError, match="leads out of the project"):
        read(tmp_path / "project", "docs")


def test_a_document_that_is_too_short_is_left_out_and_named(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/a.txt").write_text("too few words")
    (tmp_path / "docs/b.txt").write_text("enough words for a piece of its own in here")
    said: list[str] = []
    pieces = read_documents(Documents(path="docs", min_words=8), tmp_path, "here", said.append)
    assert [piece.source for piece in pieces] == ["docs/b.txt:1"]
    assert said == ["documents: no section of docs/a.txt has 8 words (min_words): they are left out"]


def test_documents_of_which_every_piece_is_too_short_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("too few words")
    with pytest.raises(UsageError, match=r"here: a\.txt: no piece has 8 words \(min_words\)"):
        read(tmp_path, "a.txt", min_words=8)
