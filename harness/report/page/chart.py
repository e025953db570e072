"""Charts as SVG text: a curve over rows with intervals, levels across it, and a funnel of bars.

Colours are classes that the page's style sheet knows, so that light, dark and print have their own. What a mark means
stands in its `title`, which browsers show where the pointer rests and screen readers read, with or without script.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.report.page.written import text

WIDTH, HEIGHT = 640, 340
LEFT, RIGHT, TOP, BOTTOM = 54, 16, 14, 46  # of the plot, to the edges of the picture
TICKS = 5
ROWS = "rows the student was tuned on (log scale)"
LEAST = 0.1  # of an axis in percent: what changes by less than a point is no mountain
SMALLEST = 1e-9  # step of an axis
FUNNEL_WIDTH, BAR_HEIGHT, BAR_GAP, NAME_WIDTH = 460, 22, 6, 146  # narrow, so that a phone shows it nearly whole


@dataclass(frozen=True)
class Mark:
    """A value at a number of rows, or of something else, with its interval where it has one."""

    rows: float
    value: float
    note: str  # what it says where the pointer rests
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """Marks of one kind. `style` is a class of the page."""

    name: str
    style: str
    marks: Sequence[Mark]
    joined: bool = True


@dataclass(frozen=True)
class Level:
    """A value that does not change with rows."""

    name: str
    style: str
    value: float


@dataclass(frozen=True)
class _Scale:
    """From rows and values to places in the picture."""

    smallest: float  # log2 of rows
    largest: float
    low: float
    high: float
    width: int
    height: int

    def x(self, rows: float) -> float:
        inner = self.width - LEFT - RIGHT
        span = self.largest - self.smallest
        share = (math.log2(rows) - self.smallest) / span if span else 0.5
        return round(LEFT + inner * (0.04 + 0.92 * share), 1)

    def y(self, value: float) -> float:
        inner = self.height - TOP - BOTTOM
        return round(self.height - BOTTOM - inner * (value - self.low) / (self.high - self.low), 1)


def curve_chart(
    name: str, title: str, value_title: str, series: Sequence[Series], levels: Sequence[Level], percent: bool,
    whole: bool = False, width: int = WIDTH, height: int = HEIGHT, rows_title: str = ROWS,
) -> str:  # fmt: skip
    """Values over rows on a log scale. `name` makes ids unique in the page, `percent` writes 0.5 as 50%, and `whole`
    shows the axis from 0 to 1.

    Raises ValueError without a mark.
    """
    marks = [mark for one in series for mark in one.marks]
    if not marks:
        raise ValueError(f"{title}: there is nothing to draw")
    values = [v for m in marks for v in (m.value, m.low, m.high) if v is not None] + [one.value for one in levels]
    ticks = _ticks([value for value in values if math.isfinite(value)], whole, LEAST if percent else 0.0)
    rows = [mark.rows for mark in marks]
    scale = _Scale(math.log2(min(rows)), math.log2(max(rows)), ticks[0], ticks[-1], width, height)
    parts = _axes(scale, sorted(set(rows)), ticks, value_title, rows_title, percent)
    for level in levels:
        y = scale.y(level.value)
        note = f"{level.name}: {_number(level.value, percent)}"
        parts.append(
            f'<g class="level {level.style}"><title>{text(note)}</title>'
            f'<line x1="{LEFT}" x2="{width - RIGHT}" y1="{y}" y2="{y}"/></g>'
        )
    parts += [_series(one, scale) for one in series]
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-labelledby="{name}-title">'
        f'<title id="{name}-title">{text(title)}</title>{"".join(parts)}</svg>'
    )


def legend(series: Sequence[Series], levels: Sequence[Level], percent: bool) -> str:
    """What the colours and lines of a chart mean, as a list."""
    entries = [(one.style, one.name) for one in series]
    entries += [(one.style, f"{one.name}: {_number(one.value, percent)}") for one in levels]
    lines = "".join(f'<li><span class="key {style}"></span>{text(name)}</li>' for style, name in entries)
    return f'<ul class="legend">{lines}</ul>'


def funnel_chart(steps: Sequence[tuple[str, int, int]], requested: int, kept: int) -> str:
    """Bars for the rows left after each step, and what was lost at it. `steps`: (name, rows left, rows lost)."""
    lines = [("requested", requested, 0), *steps]
    if not steps or steps[-1][1] != kept:
        lines.append(("kept", kept, 0))
    full, height = FUNNEL_WIDTH - NAME_WIDTH - 130, len(lines) * (BAR_HEIGHT + BAR_GAP)
    parts = []
    for place, (name, left, lost) in enumerate(lines):
        y = place * (BAR_HEIGHT + BAR_GAP)
        wide, gone = (round(full * count / max(1, requested), 1) for count in (left, lost))
        words = f"{left}" + (f", {lost} dropped" if lost else "")
        parts.append(
            f"<g><title>{text(f'{name}: {words}')}</title>"
            f'<text x="{NAME_WIDTH - 8}" y="{y + 15}" text-anchor="end">{text(name)}</text>'
            f'<rect class="left" x="{NAME_WIDTH}" y="{y}" width="{wide}" height="{BAR_HEIGHT}"/>'
            f'<rect class="lost" x="{NAME_WIDTH + wide}" y="{y}" width="{gone}" height="{BAR_HEIGHT}"/>'
            f'<text x="{NAME_WIDTH + wide + gone + 6}" y="{y + 15}">{text(words)}</text></g>'
        )
    return (
        f'<svg class="chart funnel" viewBox="0 0 {FUNNEL_WIDTH} {height}" role="img" aria-labelledby="funnel-title">'
        f'<title id="funnel-title">Rows left after each step</title>{"".join(parts)}</svg>'
    )


def _ticks(values: Sequence[float], whole: bool, least: float) -> list[float]:
    """Round numbers around the values, both ends of the axis among them. Of a share the axis has `least` at least."""
    low, high = min(values), max(values)
    if whole and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif least and high - low < least:
        low = max(0.0, min(low, 1 - least))
        high = max(high, low + least)
    rough = max((high - low) / TICKS, max(abs(low), abs(high)) * 1e-6) or 1.0  # equal values have an axis too
    rough = max(rough, SMALLEST)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 12) for place in range(first, max(last, first + 1) + 1)]


def _axes(
    scale: _Scale, rows: Sequence[float], ticks: Sequence[float], value_title: str, rows_title: str, percent: bool
) -> list[str]:
    """Lines and numbers of both axes. Without a title of the values it is a small picture."""
    bottom, right = scale.height - BOTTOM, scale.width - RIGHT
    parts = []
    for value in ticks:
        y = scale.y(value)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y}" y2="{y}"/>'
            f'<text class="tick" x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{_number(value, percent)}</text>'
        )
    for count in rows:
        x = scale.x(count)
        parts.append(f'<text class="tick" x="{x}" y="{bottom + 17}" text-anchor="middle">{count:g}</text>')
    middle = (LEFT + right) / 2
    parts.append(
        f'<text class="axis" x="{middle}" y="{scale.height - 8}" text-anchor="middle">'
        f"{text(rows_title if value_title else 'rows')}</text>"
    )
    if not value_title:
        return parts
    parts.append(
        f'<text class="axis values" transform="translate(13 {(TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">'
        f"{text(value_title)}</text>"
    )
    return parts


def _series(series: Series, scale: _Scale) -> str:
    """A line through the marks, and each mark with its interval. Marks can be reached by keyboard."""
    places = [(scale.x(mark.rows), scale.y(mark.value)) for mark in series.marks]
    parts = []
    if series.joined and len(places) > 1:
        parts.append(f'<polyline points="{" ".join(f"{x},{y}" for x, y in places)}"/>')
    for mark, (x, y) in zip(series.marks, places, strict=True):
        bar = ""
        if mark.low is not None and mark.high is not None and math.isfinite(mark.low) and math.isfinite(mark.high):
            ends = scale.y(mark.low), scale.y(mark.high)
            bar = f'<line x1="{x}" x2="{x}" y1="{ends[0]}" y2="{ends[1]}"/>'
            bar += "".join(f'<line x1="{x - 4}" x2="{x + 4}" y1="{end}" y2="{end}"/>' for end in ends)
        parts.append(f'<g class="mark"><title>{text(mark.note)}</title>{bar}<circle cx="{x}" cy="{y}" r="4.5"/></g>')
    return f'<g class="series {series.style}">{"".join(parts)}</g>'


def _number(value: float, percent: bool) -> str:
    return f"{100 * value:.0f}%" if percent else f"{value:.3g}"
