"""What a run will ask, cost and keep, from a few rows that were really made. Imports nothing of ours but records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import ValidationError

from harness.core.record import FORMAT, Record

DRAWS = 4000  # possible courses of the run
LEVEL = 0.9  # of the intervals
FILE = "forecast.json"  # in the folder of augment: what came is compared with it


class Span(NamedTuple):
    """An interval that holds what will come in `LEVEL` of all cases, and its middle."""

    low: float
    middle: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether a value lies in it."""
        return self.low <= value <= self.high

    def shown(self, decimals: int = 0) -> str:
        """What people read."""
        return f"{self.middle:.{decimals}f} [{self.low:.{decimals}f}, {self.high:.{decimals}f}]"


class Tried(Record):
    """A row that was begun for a preview: whether it is kept, and what it took."""

    kept: bool
    requests: int
    tokens: int  # of prompts and completions
    money: float = 0.0


class Forecast(Record):
    """What to expect of a whole run. Every span is (low, middle, high)."""

    format: int = FORMAT
    tried: int  # rows begun for the preview
    kept: int  # of them
    begun: Span
    rows: Span
    requests: Span
    tokens: Span
    money: Span

    def compared(self, begun: int, rows: int, tokens: int) -> str:
        """What was expected and what came, in words. `tokens` include a judge's calibration, which no span does."""
        pairs = (("rows begun", self.begun, begun), ("rows kept", self.rows, rows), ("tokens", self.tokens, tokens))
        return "; ".join(
            f"{name} {span.shown()}, came {came}{'' if span.holds(came) else ' (outside)'}"
            for name, span, came in pairs
        )


def read_forecast(folder: Path) -> Forecast | None:
    """The forecast that a preview left in the folder of augment, or None where none can be read."""
    try:
        return Forecast.model_validate_json((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, ValidationError):
        return None


class Part(NamedTuple):
    """Rows of a run that have an ordered value in common, or none: how many are ordered, and what is known of them."""

    ordered: int  # kept rows, at least
    first: int  # rows begun in the first round
    tried: int  # rows begun for the preview
    kept: int  # of them


def forecast(
    tried: Sequence[Tried],
    wanted: int,
    first: int,
    most: int,
    random_seed: int,
    quotas: Sequence[Sequence[Part]] = (),
) -> Forecast:
    """The spans of a run that wants so many rows, begins `first` in its first round and `most` at most.

    The keep rate has a Beta posterior with Jeffreys' prior. What a row takes is drawn from the rows tried (bootstrap).
    Rows are taken to be kept independently of each other, so that filters which compare rows keep fewer of many.
    Each of `quotas` divides the rows of the run into parts, those without an ordered value last. The run takes as many
    rows as the costliest of these orders.
    """
    draw = np.random.default_rng(random_seed)
    kept = sum(row.kept for row in tried)
    begun, rows = _course([Part(0, first, len(tried), kept)], wanted, most, draw)
    for parts in quotas:
        begun_for_it, rows_for_it = _course(parts, wanted, most, draw)
        costlier = begun_for_it > begun
        begun, rows = np.where(costlier, begun_for_it, begun), np.where(costlier, rows_for_it, rows)
    picks = draw.integers(0, len(tried), (DRAWS, len(tried)))

    def spent(each: Sequence[float]) -> Span:
        # the mean is not known from few rows, and the sum of a run strays from it
        values = np.array(each)[picks]
        totals = values.mean(axis=1) * begun + draw.normal(0, 1, DRAWS) * values.std(axis=1) * np.sqrt(begun)
        return _span(totals)

    return Forecast(
        tried=len(tried),
        kept=kept,
        begun=_span(begun),
        rows=_span(rows),
        requests=spent([row.requests for row in tried]),
        tokens=spent([row.tokens for row in tried]),
        money=spent([row.money for row in tried]),
    )


def _course(parts: Sequence[Part], wanted: int, most: int, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(Rows begun, rows kept) in `DRAWS` possible courses of a run that wants so many rows, what is ordered among them.

    What is missing beyond what is ordered is asked of the last part.
    """
    rates = np.array([draw.beta(part.kept + 0.5, part.tried - part.kept + 0.5, DRAWS) for part in parts])
    ordered = np.array([[part.ordered] for part in parts])
    begun = np.array([np.full(DRAWS, float(min(part.first, most))) for part in parts])
    rows = draw.binomial(begun.astype(int), rates).astype(float)
    # later rounds ask for what is missing at the keep rate seen so far, a few times over
    for _ in range(8):
        missing = (ordered - rows).clip(0)
        missing[-1] += (wanted - rows.sum(axis=0) - missing.sum(axis=0)).clip(0)
        more = np.ceil(missing / np.maximum(rows / np.maximum(begun, 1), 0.05))
        room = (most - begun.sum(axis=0)).clip(0)
        more = np.floor(more * np.minimum(1, room / np.maximum(more.sum(axis=0), 1)) + 1e-9)
        rows += draw.binomial(more.astype(int), rates)
        begun += more
    return begun.sum(axis=0), rows.sum(axis=0)


def _span(values: np.ndarray) -> Span:
    low, middle, high = np.quantile(values, [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2])
    return Span(float(low), float(middle), float(high))
