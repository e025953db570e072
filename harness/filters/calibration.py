"""How well a judge tells right labels from wrong ones, and where its threshold lies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field

from harness import stats
from harness.core.record import Record

MIN_SEEDS = stats.MIN_GROUPS  # below that even a perfect AUC says nothing


class Calibration(Record):
    """A judge's measured worth on the seeds."""

    auc: float | None = None  # chance that a right label scores above a wrong one; None when nothing was answered
    low: float | None = None  # 95% interval of it
    high: float | None = None
    threshold: float = 0.0  # a row below it is dropped
    seeds: Annotated[int, Field(ge=0)]  # seeds whose right and wrong labels were both answered
    unanswered: int = 0  # judgements without a usable answer
    why_silent: str = ""  # of the first of those
    written: bool = False  # the choices were read as written, since no log-probabilities came: scores are 0 or 1
    kept: float = 1.0  # share of the rightly labelled seeds at or above the threshold
    prior: dict[str, float] = {}  # choice -> how likely the judge finds it whatever the text; see `weigh`

    @property
    def usable(self) -> bool:
        """Whether the judge is better than chance for certain: the interval lies above 0.5."""
        return self.low is not None and self.low > 0.5 and self.seeds >= MIN_SEEDS

    def weighed(self, prior: Mapping[str, float], right: Sequence[float] | None, keep: float) -> Calibration:
        """The same judge with its prior, and its threshold set on `right`, scores weighed by that prior."""
        if not right or self.written:
            return self
        return self.model_copy(update={"prior": dict(prior), "threshold": threshold_keeping(right, keep)})

    def sentence(self) -> str:
        """One line for people."""
        silent = f"; {self.unanswered} judgements had no usable answer" if self.unanswered else ""
        silent += f", the first: {self.why_silent}" if silent and self.why_silent else ""
        if self.auc is None:
            return (
                f"judge: not used, and no row is judged: no seed was answered both rightly and wrongly labelled{silent}"
            )
        way = " by its written choice (it gives no log-probabilities)" if self.written else ""
        measured = f"judge{way}: AUC {self.auc:.2f} [{self.low:.2f}, {self.high:.2f}]"
        if self.seeds < MIN_SEEDS:
            return f"{measured} on {self.seeds} seeds: too few to tell, {MIN_SEEDS} are needed; not used{silent}"
        if not self.usable:
            same = ", since it says the same of every answer" if self.low == self.high == 0.5 else ""
            return f"{measured} on {self.seeds} seeds: no better than chance{same}; not used{silent}"
        if self.written:
            return (
                f"{measured} on {self.seeds} seeds; drops what it answers otherwise, as {1 - self.kept:.0%} of the"
                f" rightly labelled seeds{silent}"
            )
        return f"{measured} on {self.seeds} seeds; drops below {self.threshold:.3g}{silent}"


def calibrate(
    right: Sequence[float],
    wrong: Sequence[Sequence[float]],
    keep: float,
    unanswered: int = 0,
    random_seed: int = 0,
    written: bool = False,
) -> Calibration:
    """The calibration of a judge that gave seed i the scores `right[i]` and, mislabelled, `wrong[i]`.

    Of `written` choices a score is 1 or 0, and no threshold but the one between can be set, whatever `keep` says.
    """
    if not right:
        return Calibration(seeds=0, unanswered=unanswered, written=written)
    right_seeds = [str(seed) for seed in range(len(right))]
    wrong_seeds = [str(seed) for seed, scores in enumerate(wrong) for _ in scores]
    threshold = 0.5 if written else threshold_keeping(right, keep)
    wrong_scores = [score for scores in wrong for score in scores]
    auc = stats.auc_interval(right, wrong_scores, right_seeds, wrong_seeds, random_seed)
    return Calibration(
        auc=auc.estimate,
        low=auc.low,
        high=auc.high,
        threshold=threshold,
        seeds=len(right),
        unanswered=unanswered,
        written=written,
        kept=sum(score >= threshold for score in right) / len(right),
    )


def prior_of(answers: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """choice -> geometric mean of its probability over answers about texts of every label. Empty without answers."""
    if not answers:
        return {}
    return {
        choice: math.exp(sum(math.log(max(chances[choice], 1e-12)) for chances in answers) / len(answers))
        for choice in answers[0]
    }


def weigh(chances: Mapping[str, float], prior: Mapping[str, float]) -> dict[str, float]:
    """Probabilities divided by the prior and scaled to sum to 1.

    A small model prefers some words whatever it reads. Dividing that out is contextual calibration (Zhao et
    al. 2021, Calibrate before use), with the seeds in the place of content-free inputs.
    """
    if not chances or not prior:
        return dict(chances)
    weighed = {choice: chance / prior[choice] for choice, chance in chances.items()}
    total = sum(weighed.values())
    return {choice: chance / total for choice, chance in weighed.items()}


def threshold_keeping(scores: Sequence[float], keep: float) -> float:
    """The highest threshold at or above which at least the share `keep` of `scores` lies."""
    dropped = math.floor((1 - keep) * len(scores) + 1e-9)
    return sorted(scores)[min(dropped, len(scores) - 1)]
