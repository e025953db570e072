"""What rows are worth: the slope of the learning curve, and a forecast of the next doubling with its back-test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.eval.results import Results
from harness.report import wording
from harness.report.analysis import Arm, matrix
from harness.stats import Floats, contrasts
from harness.stats.design import Design
from harness.stats.forecast import BackTest, Forecast, back_test, next_doubling
from harness.stats.score_matrix import align_complete
from harness.suites.summary import LOWER_IS_BETTER

Effect = Literal["help", "hurt", "no gain", "not known"]  # of more rows

WIDE = 0.3  # an interval of a back-test that nearly every result would lie in


@dataclass(frozen=True)
class Growth:
    """How the sizes of one student differ on one suite. Every part is None where it is not estimable."""

    metric: str
    sizes: tuple[int, ...]
    slope: contrasts.Slope | None
    forecast: Forecast | None
    back_test: BackTest | None

    @property
    def effect(self) -> Effect:
        """What more rows measurably do to the score."""
        if self.slope is None or self.slope.verdict == "inconclusive":
            return "not known"
        if self.slope.verdict == "no measurable slope":
            return "no gain"
        return "help" if (self.slope.verdict == "falls") == (self.metric in LOWER_IS_BETTER) else "hurt"

    @property
    def helps(self) -> bool:
        """Whether the score measurably gets better with rows."""
        return self.effect == "help"

    @property
    def slope_sentence(self) -> str:
        """The change per doubling of rows, and whether more rows help."""
        slope = self.slope
        if slope is None:
            return "Per doubling of rows: not estimable, too few items or passages."
        words: dict[Effect, str] = {
            "help": "more rows help",
            "hurt": "more rows hurt",
            "no gain": slope.verdict,
            "not known": f"inconclusive, only {slope.changed} of {slope.units} {slope.unit} changed",
        }
        change = wording.change(self.metric, slope.interval.estimate, slope.interval.low, slope.interval.high)
        return (
            f"Per doubling of rows, {self.sizes[0]} to {self.sizes[-1]}: {change} ({slope.question}):"
            f" {words[self.effect]}."
        )

    @property
    def forecast_sentence(self) -> str:
        """What the next doubling would bring, and how well the same line told the largest size. Empty without one."""
        if self.forecast is None:
            return ""
        value, gain = self.forecast.value, self.forecast.gain
        said = (
            f"Forecast: {self.forecast.rows} rows would bring {wording.value(self.metric, value.estimate)}"
            f" {wording.ends(self.metric, value.low, value.high)},"
            f" {wording.change(self.metric, gain.estimate, gain.low, gain.high)} over {self.sizes[-1]} rows (95%)."
        )
        if self.back_test is None:
            return f"{said} It is not checked: that takes three sizes."
        told = self.back_test.forecast.value
        inside = "inside" if told.high - told.low < WIDE else "inside, though so wide an interval checks little"
        verdict = inside if self.back_test.covered else "OUTSIDE, so do not trust this forecast"
        return (
            f"{said} Checked: the smaller sizes alone said {wording.value(self.metric, told.estimate)}"
            f" {wording.ends(self.metric, told.low, told.high)} for {self.sizes[-1]} rows, and"
            f" {wording.value(self.metric, self.back_test.measured)} was measured: {verdict}."
        )


def by_seed(results: Results, tuned: Sequence[Arm], metric: str) -> tuple[Floats, Design]:
    """Values of shape (seeds, sizes, items) of the items that all arms have a value of, and the items' design."""
    seeds = range(min(len(arm.cards) for arm in tuned))
    by_size = align_complete(*(matrix(results, arm, metric, "test").of_seeds(seeds) for arm in tuned))
    return np.stack([scores.values for scores in by_size], axis=1), by_size[0].design


def growth(results: Results, tuned: Sequence[Arm], metric: str, random_seed: int) -> Growth | None:
    """The growth over the sizes of `tuned`, arms by growing size. None for a single size.

    Forecasts are made of scores between 0 and 1.
    """
    if len(tuned) < 2:
        return None
    values, design = by_seed(results, tuned, metric)
    sizes = [arm.size for arm in tuned]
    if values.shape[2] < 2:
        return Growth(metric, tuple(sizes), None, None, None)
    slope = contrasts.slope_per_doubling(sizes, values, random_seed, design=design)
    if not wording.bounded(metric) or values.min() < 0 or values.max() > 1:
        return Growth(metric, tuple(sizes), slope, None, None)
    forecast, test = next_doubling(sizes, values, design), back_test(sizes, values, design)
    return Growth(metric, tuple(sizes), slope, forecast, test)
