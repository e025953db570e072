"""What the API returns for people to read: as text in a console, as HTML in a notebook. Foreign words are escaped."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

from harness.commands.ask import Answer
from harness.core.aligned import aligned
from harness.core.text import printable

PICTURE = re.compile(r'<img src="([^"/]+\.png)"')  # of a report: a file beside it


@dataclass(frozen=True)
class Table:
    """Sentences and a table. It prints as text, and a notebook shows it as HTML."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    above: tuple[str, ...] = ()  # sentences
    below: tuple[str, ...] = ()

    def __str__(self) -> str:
        table = [aligned([self.heads, *self.rows])] if self.rows else []
        return printable("\n".join([*self.above, *table, *self.below]))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{_html(text)}</th>" for text in self.heads)
        rows = "".join("<tr>" + "".join(f"<td>{_html(text)}</td>" for text in row) + "</tr>" for row in self.rows)
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>" if self.rows else ""
        above, below = ("".join(f"<p>{_html(text)}</p>" for text in part) for part in (self.above, self.below))
        return f"{above}{table}{below}"


@dataclass(frozen=True, repr=False)
class Check(Table):
    """What the gate says: a line for each limit, and the verdict of all of them."""

    verdict: str = "failed"  # pass, regressed, inconclusive or failed
    exit_code: int = 3  # of `harness check`

    @property
    def passed(self) -> bool:
        """Whether every limit is kept."""
        return self.verdict == "pass"


@dataclass(frozen=True, repr=False)
class Answers:
    """What every candidate answered to one question: a sequence of `Answer`, shown side by side."""

    question: str
    answers: tuple[Answer, ...]

    def __iter__(self) -> Iterator[Answer]:
        return iter(self.answers)

    def __len__(self) -> int:
        return len(self.answers)

    def __getitem__(self, place: int) -> Answer:
        return self.answers[place]

    @property
    def table(self) -> Table:
        """The answers side by side. A column of labels stands there where the task has any."""
        labelled = any(answer.likeliest for answer in self.answers)
        heads = ("candidate", "answer", *(["likeliest label"] if labelled else []))
        rows = tuple((a.candidate, _answer(a), *([_likeliest(a)] if labelled else [])) for a in self.answers)
        return Table(heads, rows, (self.question,))

    def __str__(self) -> str:
        return str(self.table)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.table._repr_html_()


@dataclass(frozen=True, repr=False)
class Report:
    """A stored report. `str` gives its Markdown, and a notebook shows it with its figures."""

    path: Path
    markdown: str

    @property
    def page(self) -> Path:
        """The same as one HTML file for a browser, where items and rows can be looked through."""
        return self.path.with_suffix(".html")

    def __str__(self) -> str:
        return self.markdown

    __repr__ = __str__

    def _repr_markdown_(self) -> str:
        return self.markdown

    def _repr_html_(self) -> str:
        from markdown_it import MarkdownIt

        # nothing in it is taken as HTML: words of models and files stand in it
        page: str = MarkdownIt("js-default").render(self.markdown)
        return PICTURE.sub(lambda found: f'<img src="{self._picture(found[1])}"', page)

    def _picture(self, name: str) -> str:
        """A figure as a part of the page, or its name where it is not there."""
        file = self.path.parent / name
        if not file.is_file():
            return name
        return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"


def _answer(answer: Answer) -> str:
    return f"failed: {answer.error}" if answer.error else repr(answer.text)


def _likeliest(answer: Answer) -> str:
    return "" if answer.probability is None else f"{answer.likeliest} ({answer.probability:.0%})"


def _html(text: str) -> str:
    return escape(printable(text)).replace("\n", "<br>")
