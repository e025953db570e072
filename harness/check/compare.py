"""Any two students side by side, of one run or of two: the gate's table without a verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from harness import stats
from harness.check import formats
from harness.check.candidate import CandidateScores, candidate_scores
from harness.check.rescore import noise_of_mean
from harness.check.rules import widened
from harness.config.run import Run
from harness.config.ship import ship_cells
from harness.core.aligned import fitted
from harness.core.terminal import Terminal
from harness.errors import UsageError
from harness.eval.results import Results, resolve_student, results_of
from harness.records import Cell
from harness.report.analysis import Arm
from harness.report.headline import reading
from harness.report.regressions import WATCHED
from harness.stats import Estimate, Interval, contrasts
from harness.stats.contrasts import Question
from harness.stats.power import minimum_detectable
from harness.stats.score_matrix import ScoreMatrix, align_complete

HEADS = ("suite", "metric", "A", "B", "B minus A [95%]", "items", "min. detectable")


@dataclass(frozen=True)
class Side:
    """One student, or all random seeds of one cell, with its stored results."""

    run: Run
    results: Results
    cells: tuple[Cell, ...]
    prompting: str = "zero_shot"

    @property
    def is_base(self) -> bool:
        """Whether it was never tuned, so that no random seed touches it."""
        return all(cell.size == 0 for cell in self.cells)

    def on(self, suite: str) -> CandidateScores | None:
        """Its scores on a suite; None where it has none."""
        if any(self.results.card(suite, cell.name, self.prompting) is None for cell in self.cells):
            return None
        return candidate_scores(self.results, self.cells, suite, self.prompting)

    def limits(self, suite: str) -> tuple[str, ...]:
        """The metrics that its run's suite file sets limits on."""
        return tuple(self.run.suites[suite].spec.limits) if suite in self.run.suites else ()

    def reads(self, scored: CandidateScores) -> str:
        """The metric that it is read by on a suite, as the report reads it; the suite's primary one mostly."""
        suite, cell = self.run.suites.get(scored.suite), self.cells[0]
        primary = suite.primary if suite else "accuracy"
        if suite is None or not suite.of_task:
            return primary
        arm = Arm(cell.student, cell.data, cell.size, self.prompting, scored.cards)
        return reading(self.results, arm, primary).metric


def compare(a: str, b: str, load: Callable[[str], Run], common: bool, terminal: Terminal) -> None:
    """Print how B differs from A on every suite that both were scored on.

    `a`, `b`: RUN (its ship student), RUN:STUDENT (a cell's name), or RUN:STUDENT without the random seed at its
    end (all its seeds); resolve_student says which part of a name is enough. RUN:STUDENT@PROMPTING is an untuned
    model asked otherwise than zero_shot. What sums a suite up comes first, each side read as the report reads it.
    With three seeds a side, or against a base, the question is about the recipe; else about these weights, and then
    of the seeds that both have. Raises UsageError for a student nobody has, and where no suite can be compared.
    """
    left, right, question = asked(side(a, load), side(b, load))
    rows: list[tuple[str, ...]] = []
    for suite in dict.fromkeys(card.suite for card in left.results.cards):
        one, other = left.on(suite), right.on(suite)
        if one is None or other is None:
            continue
        failed = one.failed + other.failed
        if failed:
            terminal.say(f"{suite}: not compared: {failed} items failed; make eval again")
            continue
        if comparable(one, other, common, terminal, _asked_alike(left, right, suite)):
            _tell_changes(suite, ((left, one), (right, other)), terminal)
            rows += _rows(left, right, one, other)
    if not rows:
        raise UsageError(f"{a} and {b}: there is no suite that both were scored on with the same items")
    terminal.say(f"A: {a} ({_names(left)})\nB: {b} ({_names(right)})\nquestion: {question}")
    terminal.say(fitted(HEADS, rows, terminal.width))
    terminal.say(
        "min. detectable: the minimum detectable difference, found with a power of 0.8;"
        " -: no value changed, or too few to estimate it"
    )


def asked(left: Side, right: Side) -> tuple[Side, Side, Question]:
    """The sides as they can be compared, and what about: the recipe where both have seeds enough."""
    enough = [one.is_base or len(one.cells) >= stats.MIN_SEEDS for one in (left, right)]
    if all(enough) and not (left.is_base and right.is_base):
        return left, right, "this recipe"
    both = {cell.random_seed for cell in left.cells} & {cell.random_seed for cell in right.cells}
    if not both or left.is_base or right.is_base:
        return left, right, "these weights"

    def only(one: Side) -> Side:
        return replace(one, cells=tuple(cell for cell in one.cells if cell.random_seed in both))

    return only(left), only(right), "these weights"


def side(name: str, load: Callable[[str], Run]) -> Side:
    """The student that a name means. Raises UsageError with the names there are."""
    run_name, _, student = name.partition(":")
    run = load(run_name)
    results = results_of(run)
    if not student:
        return Side(run, results, ship_cells(run))
    before, _, way = student.rpartition("@")
    ways = {card.prompting for card in results.cards}
    student, prompting = (before, way) if before and way in ways else (student, "zero_shot")
    cells = {card.cell.name: card.cell for card in results.cards if card.cell is not None}
    seedless = {found: found.removesuffix(f".s{cell.random_seed}") for found, cell in cells.items()}
    try:
        meant = resolve_student(student, (*cells, *seedless.values()))
    except UsageError as error:
        raise UsageError(f"{name}: run {run_name}: {error}") from error
    own = [cell for found, cell in cells.items() if meant in (found, seedless[found])]
    asked_as = {card.prompting for card in results.cards if card.cell in own}
    if prompting == "zero_shot" and prompting not in asked_as:  # the cheap reference is not asked at all
        prompting = sorted(asked_as)[0]
    return Side(run, results, tuple(sorted(own, key=lambda cell: cell.random_seed)), prompting)


def _asked_alike(left: Side, right: Side, suite: str) -> bool:
    """Whether both are asked in one form, so that notes on how must agree; what nobody tuned is asked its own way."""
    of_task = suite in left.run.suites and left.run.suites[suite].of_task
    return not of_task or (left.is_base, left.prompting) == (right.is_base, right.prompting)


def _tell_changes(suite: str, sides: Sequence[tuple[Side, CandidateScores]], terminal: Terminal) -> None:
    """Say where a run's suite is another one now than it was scored with."""
    for run in {side.run.name: side.run for side, scored in sides if _changed(side, scored)}.values():
        terminal.say(
            f"{suite}: suites/{suite}.yaml or its items changed since {run.name} was scored: these are numbers of the"
            f" suite as it was; make eval RUN={run.name}"
        )


def _changed(side: Side, scored: CandidateScores) -> bool:
    suite = side.run.suites.get(scored.suite)
    return suite is not None and suite.digest != scored.cards[0].suite_digest


def comparable(
    one: CandidateScores, other: CandidateScores, common: bool, terminal: Terminal, alike: bool = True
) -> bool:
    """Whether both have test items to compare. Says why not where the suite differs and `common` is false.

    `alike`: whether both should have been asked in one way.
    """
    same_notes = not alike or one.cards[0].notes == other.cards[0].notes
    digests = [scored.cards[0].suite_digest for scored in (one, other)]
    if len(set(digests)) == 1 and same_notes and one.ids == other.ids:
        return bool(one.ids)
    shared = len(set(one.ids) & set(other.ids))
    how = f"has two versions ({' and '.join(digests)})" if len(set(digests)) > 1 else "was asked in two ways"
    if not common:
        terminal.say(f"{one.suite}: not compared: it {how}; --common compares the {shared} items that both have")
        return False
    terminal.say(f"{one.suite}: it {how}; compared on the {shared} items that both have")
    return shared > 0


def negated(found: Estimate) -> Estimate:
    """The same difference the other way round."""

    def ends(level: float) -> tuple[float, float]:
        low, high = found.ends(level)
        return -high, -low

    return replace(found, value=-found.value, ends=ends)


def _noise(left: Side, right: Side, one: CandidateScores, other: CandidateScores, metrics: tuple[str, str]) -> float:
    """Standard deviation of the difference that scoring alone makes, where `harness rescore` has measured it."""
    sides = zip((left, right), (one, other), metrics, strict=True)
    return math.hypot(*(noise_of_mean(side.run.folder, scored.cards, metric) for side, scored, metric in sides))


def _rows(left: Side, right: Side, one: CandidateScores, other: CandidateScores) -> list[tuple[str, ...]]:
    """Every metric of one suite as cells under HEADS: what sums it up first, then all that is watched or limited."""
    reads = (left.reads(one), right.reads(other))
    likely = [side for side, metric in zip("AB", reads, strict=True) if metric == "choice_accuracy"]
    how = f" ({' and '.join(likely)} by log-likelihood)" if likely else ""
    primary = "accuracy" if likely else reads[0]
    rows = [_row(left, right, one, other, reads, f"{primary}{how}")]
    watched = dict.fromkeys((*WATCHED, *left.limits(one.suite), *right.limits(one.suite)))
    for metric in watched:
        if metric != primary and metric in one.metrics and metric in other.metrics:
            rows.append(_row(left, right, one, other, (metric, metric), metric))
    return rows


def _row(
    left: Side,
    right: Side,
    one: CandidateScores,
    other: CandidateScores,
    metrics: tuple[str, str],
    name: str,
) -> tuple[str, ...]:
    """One line as cells under HEADS; the interval is the report's own, for this pair alone."""
    before, now = align_complete(one.matrix(metrics[0]), other.matrix(metrics[1]))
    turned = right.is_base and not left.is_base  # the side that no random seed touches comes second here
    pair, varies = ((before, now) if turned else (now, before)), not (left.is_base or right.is_base)
    seed = left.run.file.random_seed
    contrast = contrasts.difference(*pair, random_seed=seed, b_varies=varies) if len(now.items) > 1 else None
    found = contrast.estimate if contrast else None
    if contrast and found:
        noise = 0.0 if contrast.recipe else _noise(left, right, one, other, metrics)  # seeds hold the noise already
        found = widened(negated(found) if turned else found, noise)
    return (
        one.suite,
        name,
        formats.number(before.mean if now.items else None),
        formats.number(now.mean if now.items else None),
        formats.interval(found.interval(0.95) if found else None),
        str(len(now.items)),
        _detectable(found.interval(0.95), before, now) if found else "-",
    )


def _detectable(interval: Interval, before: ScoreMatrix, now: ScoreMatrix) -> str:
    """The minimum detectable difference, or a dash where there is none."""
    detectable = minimum_detectable(interval, before, now)
    return "-" if detectable is None else f"{detectable:.3f}"


def _names(one: Side) -> str:
    return ", ".join(cell.name for cell in one.cells)
