"""A person's own texts, cut into pieces that rows can be written about. Each piece knows where it comes from.

A folder or a file of plain text, Markdown, PDF, or JSONL with a column `text`. A text is cut at its headings and
empty lines, so that a piece holds whole paragraphs of one section, as many as fit into `words`. A longer paragraph is
cut between sentences, a longer sentence between words. A Han or Kana character counts as a word, as everywhere here.
"""

from __future__ import annotations

import logging
import os
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from harness.core.json_file import lines_of, parse_object, read_text
from harness.core.project_file import project_file
from harness.core.record import Record, digest
from harness.core.store import content_digest
from harness.core.text import WORD, writable
from harness.data.lines import Text
from harness.errors import Mistakes, UsageError, first_line

TEXTS, MARKDOWN, TABLES, PDF = (".txt", ".text"), (".md", ".markdown"), (".jsonl",), (".pdf",)
ENDINGS = (*TEXTS, *MARKDOWN, *TABLES, *PDF)
SHORT_SHOWN = 3  # names of files without a piece
BREAKS = (  # where a text is cut, the last ones rather than those before them
    re.compile(r"(?<=[.!?])[\"')\]]*\s+|(?<=[。！？])"),  # the end of a sentence
    re.compile(r"\n\s*\n"),  # of a paragraph
)
FRONT_MATTER = re.compile(r"---[ \t]*\n(?=[\w-]+[ \t]*:)(?:.*\n)*?(?:---|\.\.\.)[ \t]*(?:\n|\Z)")


class Documents(Record):
    """Where the documents are, and how long a piece of them is."""

    path: Text  # a file or a folder of the project; of a folder every file of a known ending, however deep
    words: Annotated[int, Field(ge=8)] = 200  # of a piece at most
    min_words: Annotated[int, Field(ge=1)] = 8  # of a piece at least; a section or page of fewer words is left out

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_words > self.words:
            raise ValueError(f"min_words ({self.min_words}) is above words ({self.words}): no piece could be")
        return self


@dataclass(frozen=True)
class Piece:
    """A part of a document that rows are written about."""

    source: str  # the file, relative to the project, with the line or page, and the word where that begins another one
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


@dataclass(frozen=True)
class Part:
    """A part of a file that is cut by itself: a section, a page, a line."""

    where: str  # the file with the page or line; without the line where `line` says it
    title: str
    text: str
    line: int | None = None  # of the file, where the text begins

    def pieces(self, most: int, least: int) -> Iterator[Piece]:
        """Its pieces, of so many words at most. Of fewer than `least` only what cannot be cut otherwise is left out."""
        words = [match.span() for match in WORD.finditer(self.text)]
        for first, end in _cuts(self.text, words, most, least):
            start = words[first][0]
            where, begins_line = self.where, not self.text[:start].split("\n")[-1].strip()
            if self.line is not None:
                where += f":{self.line + self.text.count(chr(10), 0, start)}"
            if first and not (begins_line and self.line is not None):
                where += f", word {first + 1}"
            if end - first >= least:
                yield Piece(where, self.title, self.text[start : words[end - 1][1]])


def read_documents(
    documents: Documents, root: Path, place: str, say: Callable[[str], None] = lambda text: None
) -> tuple[Piece, ...]:
    """The pieces of all documents, in the order of their paths and words. `say` hears of files that are too short.

    Raises UsageError naming every file that cannot be read or has no words. `place` is where the run file names them.
    """
    pieces: list[Piece] = []
    short: list[str] = []
    mistakes = Mistakes()
    for path in document_files(documents.path, root, place):
        with mistakes.noted():
            parts = list(_parts(path, os.path.relpath(path, root)))
            if not any(part.text.split() for part in parts):
                raise UsageError(f"{path}: there are no words in it")
            of_file = [piece for part in parts for piece in part.pieces(documents.words, documents.min_words)]
            pieces += of_file
            short += [] if of_file else [os.path.relpath(path, root)]
    mistakes.check()
    if not pieces:
        raise UsageError(f"{place}: {documents.path}: no piece has {documents.min_words} words (min_words)")
    if short:
        listed = ", ".join(short[:SHORT_SHOWN]) + (f" and {len(short) - SHORT_SHOWN} more" * (len(short) > SHORT_SHOWN))
        say(f"documents: no section of {listed} has {documents.min_words} words (min_words): they are left out")
    return tuple(pieces)


def folder_digest(documents: Documents, root: Path) -> str:
    """64 hex digits over the names and contents of a folder's documents, or '' where one file is named."""
    folder = root / documents.path
    if not folder.is_dir():
        return ""
    return digest("documents", [[str(path.relative_to(folder)), content_digest(path)] for path in _listed(folder)])


def _listed(folder: Path) -> list[Path]:
    """The documents below a folder, without hidden files and folders."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in ENDINGS
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def document_files(named: str, root: Path, place: str) -> list[Path]:
    """The documents that a run file names by a file or a folder. Raises UsageError where there are none."""
    if not (root / named).is_dir():
        path = project_file(root, named, place)
        if path.suffix.lower() not in ENDINGS:
            raise UsageError(f"{place}: {named}: documents end in {', '.join(ENDINGS)}")
        return [path]
    files = _listed(root / named)
    if not files:
        raise UsageError(f"{place}: {named}: no file in this folder ends in {', '.join(ENDINGS)}")
    return [project_file(root, os.path.relpath(path, root), place) for path in files]


def _parts(path: Path, name: str) -> Iterator[Part]:
    ending = path.suffix.lower()
    if ending in TABLES:
        for number, line in lines_of(path):
            row = parse_object(line, path, number)
            if not isinstance(text := row.get("text"), str):
                raise UsageError(f"{path}:{number}: text: it must be a text; this line has: {', '.join(row)}")
            yield Part(f"{name}:{number}", str(row.get("title") or ""), text)
    elif ending in PDF:
        for number, text in enumerate(_pages(path), start=1):
            yield Part(f"{name}, page {number}", "", text)
    elif ending in MARKDOWN:
        yield from _sections(read_text(path), name)
    else:
        yield Part(name, "", read_text(path), 1)


def _pages(path: Path) -> list[str]:
    """The text of each page of a PDF. Raises UsageError for one that cannot be read or holds no text."""
    try:
        from pypdf import PdfReader
    except ImportError as error:
        raise UsageError(f"{path}: reading PDF needs pypdf, which is not installed: make setup EXTRAS=train") from error
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # what it warns of names no file
    try:
        pages = [writable(page.extract_text()) for page in PdfReader(path).pages]
    except Exception as error:  # a damaged file makes the library fail anywhere, in any way
        raise UsageError(f"{path}: it cannot be read as PDF: {first_line(error)}") from error
    if not any(page.split() for page in pages):
        raise UsageError(f"{path}: no page of this PDF holds text: pictures of pages must be read by OCR first")
    return pages


def _sections(text: str, name: str) -> Iterator[Part]:
    """The sections of a Markdown text, each with the headings above it. Front matter in YAML belongs to none."""
    from markdown_it import MarkdownIt

    front = FRONT_MATTER.match(text)
    start = front[0].count("\n") if front else 0
    lines = text.split("\n")
    tokens = MarkdownIt("commonmark").disable("inline").parse("\n" * start + "\n".join(lines[start:]))
    above: list[tuple[int, str]] = []

    def section(end: int) -> Part:
        return Part(name, " / ".join(title for _, title in above), "\n".join(lines[start:end]), start + 1)

    for heading, inline in pairwise(tokens):
        if heading.type != "heading_open" or heading.level or heading.map is None:
            continue
        yield section(heading.map[0])
        level, start = int(heading.tag[1:]), heading.map[1]
        above = [(depth, title) for depth, title in above if depth < level] + [(level, inline.content)]
    yield section(len(lines))


def _cuts(text: str, words: list[tuple[int, int]], most: int, least: int) -> Iterator[tuple[int, int]]:
    """(first word, word after the last) of each piece. `words` has where each begins and ends.

    A piece ends at the last place of the strongest kind that leaves no piece of fewer than `least` words, where one is.
    """
    starts, count = [start for start, _ in words], len(words)
    strength = [0] * (count + 1)
    for kind, pattern in enumerate(BREAKS, start=1):
        for match in pattern.finditer(text):
            strength[bisect_left(starts, match.end())] = kind
    first = 0
    while first < count:
        end = count
        if count - first > most:
            long_enough = range(first + least, first + most + 1)
            places = [place for place in long_enough if count - place >= least] or long_enough
            end = max(places, key=lambda place: (strength[place], place))
        yield first, end
        first = end
