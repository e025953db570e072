"""The headline: the largest size against the strongest alternative to it.

Every arm is read one way (`reading`). Dev items say which alternatives are within chance of the best: those that a
paired test does not call worse than it, one-sided at DROPPED. Test items name the strongest of these, which favours
the alternative, and give the difference. Its interval allows for having looked at all of them: each of k differences
has its interval at the level 1 - 0.05 / k (Bonferroni, Dunn 1961, "Multiple comparisons among means"), so that all
hold together with 95%, whichever is named. tests/bench/bench_headline.py prints how often they do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.eval.results import Results
from harness.report import wording
from harness.report.analysis import Arm, Difference, difference, has, matrix
from harness.report.paired import change_words, verdict_words
from harness.stats import contrasts
from harness.stats.score_matrix import ScoreMatrix, align_complete
from harness.suites.summary import LOWER_IS_BETTER

LEVEL = 0.95  # of all differences together
DROPPED = 0.05  # one-sided: an alternative so surely worse on dev than the best is none


@dataclass(frozen=True)
class Reading:
    """An arm and the metric it is read by."""

    arm: Arm
    metric: str

    @property
    def title(self) -> str:
        """What tables, figures and sentences call it."""
        how = " (by log-likelihood)" if self.metric == "choice_accuracy" else ""
        return f"{self.arm.title}{how}"


@dataclass(frozen=True)
class Alternative:
    """An alternative to the largest size, and the difference between both on test items."""

    reading: Reading
    value: float
    difference: Difference  # at a level that allows for all alternatives

    @property
    def verdict(self) -> str:
        """Whether the largest size is better or worse, by which way the metric is good."""
        return verdict_words(self.reading.metric, self.difference)


@dataclass(frozen=True)
class Headline:
    """The largest size against the alternatives that may be the best, the strongest on test first."""

    reading: Reading
    value: float
    alternatives: tuple[Alternative, ...]
    left_out: tuple[Alternative, ...]  # better on test than the strongest of these, but worse on dev; at 95%
    items: int  # test items that both have a value of
    unadjusted: Difference  # to the strongest, at 95% for this pair alone: what `harness compare` prints

    @property
    def rival(self) -> Alternative:
        """The strongest alternative."""
        return self.alternatives[0]

    @property
    def left_out_sentence(self) -> str:
        """What dev items left out though it is better on test than the strongest alternative. Empty without one."""
        said = []
        for one in self.left_out:
            value = wording.value(one.reading.metric, one.value)
            said.append(f"{one.reading.title}: {value}, difference {change_words(self.reading.metric, one.difference)}")
        return f"Not counted, since dev items call it worse, but better on test: {'; '.join(said)}." if said else ""

    @property
    def verdict(self) -> str:
        """The verdict against the strongest alternative."""
        return self.rival.verdict

    @property
    def complete(self) -> bool:
        """Whether every item of everything that is compared was asked and answered."""
        return all(arm.complete for arm in self.compared)

    @property
    def compared(self) -> list[Arm]:
        """The largest size and its alternatives."""
        return [self.reading.arm, *(alternative.reading.arm for alternative in self.alternatives)]

    def sentence(self) -> str:
        """The answer in words, whatever the verdict."""
        difference, metric, count = self.rival.difference, self.reading.metric, len(self.alternatives)
        which = "best alternative"
        if count > 1:
            which = f"strongest of the {count} alternatives within chance of the best on dev"
        values = (
            f"{self.reading.arm.title}: {wording.value(metric, self.value, self.items)}; {which},"
            f" {self.rival.reading.title}: {wording.value(self.rival.reading.metric, self.rival.value)}."
        )
        if not self.complete:
            cards = [card for arm in self.compared for card in arm.cards]
            failed = max(card.failed for card in cards)
            return (
                f"No verdict: {failed} of {cards[0].items} items failed, and the cards are incomplete. On the others,"
                f" {values}"
            )
        if difference.verdict == "not estimable":
            return f"{values} The difference is not estimable: too few items, or too few passages."
        interval, adjusted = difference.interval, f", allowing for {count} alternatives" if count > 1 else ""
        p = "" if difference.p is None else f"; mid-p McNemar: p = {difference.p:.2g}"
        if difference.p is not None and count > 1:
            p = f"; mid-p McNemar times {count}: p = {min(1.0, count * difference.p):.2g}"
        change = wording.change(metric, interval.estimate, interval.low, interval.high)
        undecided = [a.reading.title for a in self.alternatives[1:] if a.verdict != "better"]
        claimed = self.verdict == "better" and undecided
        exceptions = f" Not shown to be better than {'; '.join(undecided)}." if claimed else ""
        detectable = (
            " No minimum detectable difference can be given: too few items changed."
            if difference.minimum_detectable is None
            else f" Minimum detectable difference (power 0.8): {wording.amount(metric, difference.minimum_detectable)}."
        )
        return (
            f"{values} Difference {change} (95%{adjusted}{p}), asking about {difference.question}: {self.verdict}."
            f"{exceptions}{detectable} {self.left_out_sentence}".rstrip()
        )


def reading(results: Results, arm: Arm, primary: str) -> Reading:
    """How an arm is read: by the suite's primary metric, everywhere.

    An untuned model under accuracy may be read by log-likelihood instead: whichever does better on dev items, for it
    was never shown the form of an answer.
    """
    likelihood = "choice_accuracy"
    if arm.kind != "base" or primary != "accuracy" or not has(results, arm, likelihood, "dev"):
        return Reading(arm, primary)
    written, likely = (matrix(results, arm, metric, "dev").mean for metric in (primary, likelihood))
    return Reading(arm, likelihood if likely > written else primary)


def headline(
    results: Results, arms_: Sequence[Arm], student: str, random_seed: int, data: str = "filtered",
    metric: str = "accuracy", method: str = "",
) -> Headline | str:  # fmt: skip
    """The largest size against the alternatives, or why there is no headline and how to get one."""
    place = (student, data, method)
    tuned = [a for a in arms_ if a.kind == "student" and (a.student, a.data, a.method) == place]
    if not tuned:
        return f"No headline: no student tuned on {data.replace('_', ' ')} rows was scored; see train.sizes and train."
    arm = max(tuned, key=lambda a: a.size)
    if not has(results, arm, metric):
        return f"No headline: no answer of {arm.title} has a value of {wording.title(metric)}; see the notes."
    rivals = _distinct(results, [reading(results, a, metric) for a in arms_ if _is_alternative(a, arm)])
    comparable = [
        r for r in rivals if has(results, r.arm, r.metric) and matrix(results, r.arm, r.metric, "dev").complete.any()
    ]
    if not comparable:
        return (
            "No headline: there is nothing to compare with. train.sizes: 0 scores the untuned model, train.data:"
            " seeds_only a student tuned on the seeds alone, eval.reference a classifier (for labels)."
        )
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    on_dev = [matrix(results, r.arm, r.metric, "dev").scaled(sign) for r in comparable]
    candidates = within_chance(on_dev, random_seed)
    level = 1 - (1 - LEVEL) / len(candidates)
    tuned_reading = Reading(arm, metric)
    alternatives = [_alternative(results, tuned_reading, comparable[place], random_seed, level) for place in candidates]
    alternatives.sort(key=lambda alternative: math.inf if math.isnan(alternative.value) else -sign * alternative.value)
    strongest = alternatives[0]
    others = [
        _alternative(results, tuned_reading, one, random_seed, LEVEL)
        for place, one in enumerate(comparable)
        if place not in candidates
    ]
    a, b = (matrix(results, r.arm, r.metric, "test") for r in (tuned_reading, strongest.reading))
    return Headline(
        tuned_reading,
        a.mean,
        tuple(alternatives),
        tuple(other for other in others if sign * other.value > sign * strongest.value),
        len(align_complete(a, b)[0].items),
        _alternative(results, tuned_reading, strongest.reading, random_seed, LEVEL).difference,
    )


def _distinct(results: Results, readings: Sequence[Reading]) -> list[Reading]:
    """Those that do not score every item as an earlier one: a program that looks at no rows is one alternative."""
    kept: dict[tuple[str, bytes], Reading] = {}
    for one in readings:
        scores = b"".join(matrix(results, one.arm, one.metric, split).values.tobytes() for split in ("dev", "test"))
        kept.setdefault((one.arm.student, scores), one)
    return list(kept.values())


def within_chance(on_dev: Sequence[ScoreMatrix], random_seed: int) -> list[int]:
    """The places of the alternatives that dev items do not call worse than the best of them.

    `on_dev`: the scores of each, where more is better. Seeds are averaged: the choice is among these weights. What
    cannot be compared (too few passages) stays in.
    """
    means = [scores.mean for scores in on_dev]
    best = max(range(len(means)), key=lambda place: -math.inf if math.isnan(means[place]) else means[place])
    places = []
    for place, scores in enumerate(on_dev):
        a, b = (side.seed_mean() for side in align_complete(on_dev[best], scores))
        comparable = len(a.items) > 1 and place != best
        contrast = contrasts.difference(a, b, random_seed=random_seed) if comparable else None
        if contrast is None or contrast.estimate is None or contrast.estimate.p(0.0).above >= DROPPED:
            places.append(place)
    return places


def _alternative(results: Results, tuned: Reading, rival: Reading, random_seed: int, level: float) -> Alternative:
    a, b = (matrix(results, r.arm, r.metric, "test") for r in (tuned, rival))
    varies = rival.arm.kind != "base"
    return Alternative(rival, b.mean, difference(a, b, random_seed, b_varies=varies, level=level))


def _is_alternative(rival: Arm, arm: Arm) -> bool:
    """Whether an arm is an alternative: the untuned model, a student of the seeds alone, or the classifier.

    The classifier counts on the seeds, and on as many rows of any data arm: who takes it would take its best rows. A
    student that was tuned by another method is none: the report compares methods in a section of its own.
    """
    if rival is arm or rival.kind == "student with rows":  # the latter has a sentence of its own
        return False
    if rival.kind == "base":
        return rival.student == arm.student
    if rival.kind == "student":
        return (rival.student, rival.data, rival.method) == (arm.student, "seeds_only", arm.method)
    return rival.data == "seeds_only" or rival.size == arm.size


@dataclass(frozen=True)
class Line:
    """An alternative as a line over all sizes of the figure: the number that headline and table have."""

    reading: Reading
    value: float
    strongest: bool  # the headline's

    @property
    def label(self) -> str:
        """The legend's text, with the value."""
        number = wording.value(self.reading.metric, self.value)
        return f"{self.reading.title}: {number}{' (strongest alternative)' if self.strongest else ''}"


def lines(
    results: Results, arms_: Sequence[Arm], student: str, primary: str, answer: Headline | str, method: str = ""
) -> list[Line]:
    """The alternatives that do not change with size: the untuned model in each prompting, seeds alone."""
    rival = answer.rival.reading if isinstance(answer, Headline) else None
    readings = []
    for arm in arms_:
        seeds = arm.data == "seeds_only" and (arm.kind == "reference" or (arm.student, arm.method) == (student, method))
        read = reading(results, arm, primary)
        if seeds or read == rival or (arm.kind == "base" and arm.student == student):
            readings.append(read)
    distinct = _distinct(results, sorted(readings, key=lambda read: read != rival))  # the rival stays
    drawn = []
    for read in readings:
        value = matrix(results, read.arm, read.metric, "test").mean
        if read in distinct and has(results, read.arm, read.metric) and not math.isnan(value):
            drawn.append(Line(read, value, read == rival))
    return drawn
