"""How a report words a metric's values: in percent and points where an item has it or not, else as a number."""

from __future__ import annotations

from harness.metrics.table import metric_of


def title(metric: str) -> str:
    """What tables and axes call it."""
    return metric_of(metric).title


def bounded(metric: str) -> bool:
    """Whether values lie between 0 and 1."""
    return metric_of(metric).bounded


def in_percent(metric: str) -> bool:
    """Whether its values are written in percent, and differences in points."""
    return bool(metric_of(metric).verb)


def value(metric: str, mean: float, items: int | None = None) -> str:
    """A mean in words: "64.0% of 342 test items right", "token F1 0.412 over 60 test items", or "62.0%"."""
    entry = metric_of(metric)
    if items is None:
        return f"{100 * mean:.1f}%" if entry.verb else f"{mean:.3f}"
    if entry.verb:
        return f"{100 * mean:.1f}% of {items} test items {entry.verb}"
    return f"{entry.title} {mean:.3f} over {items} test items"


def change(metric: str, estimate: float, low: float, high: float) -> str:
    """A difference with its interval."""
    if in_percent(metric):
        return f"{100 * estimate:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"{estimate:+.3f} [{low:+.3f}, {high:+.3f}]"


def ends(metric: str, low: float, high: float) -> str:
    """The ends of an interval around a value."""
    if in_percent(metric):
        return f"[{100 * low:.1f}, {100 * high:.1f}]"
    return f"[{low:.3f}, {high:.3f}]"


def amount(metric: str, size: float) -> str:
    """How large a change is."""
    return f"{100 * size:.1f} points" if in_percent(metric) else f"{size:.3f}"
