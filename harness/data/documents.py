"""A person's own texts, cut into pieces that rows can be written about. Each piece knows where it comes from.

A folder or a file of plain text, Markdown, PDF, or JSONL with a column `text`. A text is cut at its headings and
empty lines, so that a piece holds whole paragraphs of one section, as many as fit into `words`. A longer paragraph is
cut between sentences, a longer sentence between words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from harness.core.json_file import lines_of, parse_object, read_text
from harness.core.project_file import project_file
from harness.core.record import Record, digest
from harness.data.lines import Text
from harness.errors import Mistakes, UsageError

TEXTS, MARKDOWN, TABLES, PDF = (".txt", ".text"), (".md", ".markdown"), (".jsonl",), (".pdf",)
ENDINGS = (*TEXTS, *MARKDOWN, *TABLES, *PDF)
HEADING = re.compile(r"^ {0,3}(#{1,6})\s+(.+?)\s*#*\s*$")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


class Documents(Record):
    """Where the documents are, and how long a piece of them is."""

    path: Text  # a file or a folder of the project; of a folder every file of a known ending, however deep
    words: Annotated[int, Field(ge=8)] = 200  # of a piece at most
    min_words: Annotated[int, Field(ge=1)] = (
        8  # of a piece at least; shorter ones, such as a lone heading, are left out
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_words > self.words:
            raise ValueError(f"min_words ({self.min_words}) is above words ({self.words}): no piece could be")
        return self


@dataclass(frozen=True)
class Piece:
    """A part of a document that rows are written about."""

    source: str  # the file, relative to the project, with the line or page where it has them
    title: str  # the headings above it, outermost first
    text: str

    @property
    def id(self) -> str:
        """16 hex digits over its words and where they stand."""
        return digest("piece", self.source, self.title, self.text)[:16]

    @property
    def shown(self) -> dict[str, str]:
        """What a template is given of it."""
        return {"id": self.id, "source": self.source, "title": self.title, "text": self.text}


def read_documents(documents: Documents, root: Path, place: str) -> tuple[Piece, ...]:
    """The pieces of all documents, in the order of their paths and words.

    Raises UsageError naming every file that cannot be read or has no words. `place` is where the run file names them.
    """
    pieces: list[Piece] = []
    mistakes = Mistakes()
    for path in _files(documents.path, root, place):
        with mistakes.noted():
            texts = list(_texts(path, path.relative_to(root).as_posix()))
            if not any(text.split() for _, _, text in texts):
                raise UsageError(f"{path}: there are no words in it")
            for source, title, text in texts:
                cut = _pieces(text, documents.words)
                pieces += [Piece(source, title, piece) for piece in cut if len(piece.split()) >= documents.min_words]
    mistakes.check()
    if not pieces:
        raise UsageError(f"{place}: {documents.path}: no piece has {documents.min_words} words (min_words)")
    return tuple(pieces)


def _files(named: str, root: Path, place: str) -> list[Path]:
    folder = root / named
    if not folder.is_dir():
        path = project_file(root, named, place)
        if path.suffix.lower() not in ENDINGS:
            raise UsageError(f"{place}: {named}: documents end in {', '.join(ENDINGS)}")
        return [path]
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
    if not files:
        raise UsageError(f"{place}: {named}: no file in this folder ends in {', '.join(ENDINGS)}")
    return files


def _texts(path: Path, name: str) -> Iterator[tuple[str, str, str]]:
    """(source, title, text) of the parts of a file that are cut by themselves: sections, pages, lines."""
    ending = path.suffix.lower()
    if ending in TABLES:
        for number, line in lines_of(path):
            row = parse_object(line, path, number)
            if not isinstance(text := row.get("text"), str):
                raise UsageError(f"{path}:{number}: text: it must be a text; this line has: {', '.join(row)}")
            yield f"{name}:{number}", str(row.get("title", "")), text
    elif ending in PDF:
        for number, text in enumerate(_pages(path), start=1):
            yield f"{name}, page {number}", "", text
    elif ending in MARKDOWN:
        yield from ((name, title, text) for title, text in _sections(read_text(path)))
    else:
        yield name, "", read_text(path)


def _pages(path: Path) -> list[str]:
    try:
        from pypdf import PdfReader
        from pypdf.errors import PyPdfError
    except ImportError as error:
        raise UsageError(f"{path}: reading PDF needs pypdf, which is not installed: make setup EXTRAS=train") from error
    try:
        pages = [page.extract_text() for page in PdfReader(path).pages]
    except (PyPdfError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: it cannot be read as PDF: {error}") from error
    if not any(page.split() for page in pages):
        raise UsageError(f"{path}: no page of this PDF holds text: pictures of pages must be read by OCR first")
    return pages


def _sections(text: str) -> Iterator[tuple[str, str]]:
    """(headings above, text) of the sections of a Markdown text. A # inside a fenced block is no heading."""
    above: list[tuple[int, str]] = []
    lines: list[str] = []
    fenced = False
    for line in text.splitlines():
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        heading = None if fenced else HEADING.match(line)
        if heading is None:
            lines.append(line)
            continue
        yield " / ".join(title for _, title in above), "\n".join(lines)
        level, lines = len(heading[1]), []
        above = [(depth, title) for depth, title in above if depth < level] + [(level, heading[2])]
    yield " / ".join(title for _, title in above), "\n".join(lines)


def _pieces(text: str, most: int) -> list[str]:
    """A text cut into pieces of at most so many words, at empty lines where they allow it."""

    def words(sentence: str) -> list[str]:
        parts = sentence.split()
        return [" ".join(parts[i : i + most]) for i in range(0, len(parts), most)]

    def sentences(paragraph: str) -> list[str]:
        return _joined(SENTENCE_END.split(paragraph), most, " ", words)

    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
    return _joined(paragraphs, most, "\n\n", sentences)


def _joined(parts: Sequence[str], most: int, between: str, finer: Callable[[str], list[str]]) -> list[str]:
    """Parts put together while they fit. One that does not fit alone is cut by `finer`."""
    pieces: list[str] = []
    for part in parts:
        length = len(part.split())
        if length > most:
            pieces += finer(part)
        elif pieces and len(pieces[-1].split()) + length <= most:
            pieces[-1] += between + part
        else:
            pieces.append(part)
    return pieces
