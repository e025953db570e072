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
from harness.eval.current import results_of
from harness.eval.results import Results, resolve_student
from harness.records import Cell
from harness.report.analysis import Arm
from harness.report.headline import reading
from harness.report.regressions import WATCHED
from harness.stats import Estimate, contrasts
from harness.stats.contrasts import Question
from harness.stats.power import minimum_detectable
from harness.stats.score_matrix import align_complete

HEADS = ("suite", "metric", "A", "B", "B minus A [95%]", "items", "min. detectable")
DETECTABLE = (
    "min. detectable: the minimum detectable difference, found with a power of 0.8; -: no value changed, or too few to"
    " estimate it"
)


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
        """Its scores on a suite, or None where it has none."""
        if any(self.results.card(suite, cell.name, self.prompting) is None for cell in self.cells):
            return None
        return candidate_scores(self.results, self.cells, suite, self.prompting)

    def limits(self, suite: str) -> tuple[str, ...]:
        """The metrics that its run's suite file sets limits on."""
        return tuple(self.run.suites[suite].spec.limits) if suite in self.run.suites else ()

    def reads(self, scored: CandidateScores) -> str:
        """The metric that it is read by on a suite, as in the report. Mostly the suite's primary one."""
        suite, cell = self.run.suites.get(scored.suite), self.cells[0]
        primary = suite.primary if suite else "accuracy"
        if suite is None or not suite.of_task:
            return primary
        arm = Arm(cell.student, cell.data, cell.size, self.prompting, scored.cards, cell.method)
        return reading(self.results, arm, primary).metric


@dataclass(frozen=True)
class Comparison:
    """How B differs from A: rows under HEADS, one for each metric of each suite that both were scored on."""

    a: str
    b: str
    question: Question
    rows: tuple[tuple[str, ...], ...]


def compare(a: str, b: str, load: Callable[[str], Run], common: bool, terminal: Terminal) -> None:
    """Print how B differs from A, as `compared` says."""
    found = compared(a, b, load, common, terminal)
    terminal.say(f"A: {found.a}\nB: {found.b}\nquestion: {found.question}")
    terminal.say(fitted(HEADS, found.rows, terminal.width))
    terminal.say(DETECTABLE)


def compared(a: str, b: str, load: Callable[[str], Run], common: bool, terminal: Terminal) -> Comparison:
    """How B differs from A on every suite that both were scored on. Says which suites cannot be compared, and why.

    `a`, `b`: RUN (its ship student), RUN:STUDENT (a cell's name), or RUN:STUDENT without the random seed at its
    end (all its seeds). resolve_student says which part of a name is enough. RUN:STUDENT@PROMPTING is an untuned
    model asked otherwise than zero_shot. The primary metric comes first, each side read as the report reads it.
    With three seeds a side, or against a base, the question is about the recipe, else about these weights, and then
    of the seeds that both have. Raises UsageError for a student nobody has, and where no suite can be compared.
    """
    side_a, side_b, question = paired_sides(side(a, load), side(b, load))
    rows: list[tuple[str, ...]] = []
    for suite in dict.fromkeys(card.suite for card in side_a.results.cards):
        scores_a, scores_b = side_a.on(suite), side_b.on(suite)
        if scores_a is None or scores_b is None:
            continue
        failed = scores_a.failed + scores_b.failed
        if failed:
            terminal.warn(f"{suite}: not compared: {failed} items failed; make eval again")
            continue
        if comparable(scores_a, scores_b, common, terminal, _asked_alike(side_a, side_b, suite)):
            _tell_changes(suite, ((side_a, scores_a), (side_b, scores_b)), terminal)
            rows += _rows(side_a, side_b, scores_a, scores_b)
    if not rows:
        raise UsageError(f"{a} and {b}: there is no suite that both were scored on with the same items")
    return Comparison(f"{a} ({_names(side_a)})", f"{b} ({_names(side_b)})", question, tuple(rows))


def paired_sides(side_a: Side, side_b: Side) -> tuple[Side, Side, Question]:
    """The sides as they can be compared, and what about: the recipe where both have seeds enough."""
    enough = [side.is_base or len(side.cells) >= stats.MIN_SEEDS for side in (side_a, side_b)]
    if all(enough) and not (side_a.is_base and side_b.is_base):
        return side_a, side_b, "this recipe"
    both = {cell.random_seed for cell in side_a.cells} & {cell.random_seed for cell in side_b.cells}
    if not both or side_a.is_base or side_b.is_base:
        return side_a, side_b, "these weights"

    def only(side: Side) -> Side:
        return replace(side, cells=tuple(cell for cell in side.cells if cell.random_seed in both))

    return only(side_a), only(side_b), "these weights"


def side(name: str, load: Callable[[str], Run]) -> Side:
    """The student that a name means. Raises UsageError with the names there are."""
    run_name, named, student = name.partition(":")
    if named and not student:
        raise UsageError(f"{name}: there is no student ''; RUN alone is the one that its ship section names")
    run = load(run_name)
    results = results_of(run)
    if not named:
        return Side(run, results, ship_cells(run))
    before, _, way = student.rpartition("@")
    ways = {card.prompting for card in results.cards}
    student, prompting = (before, way) if before and way in ways else (student, "zero_shot")
    cells = {card.cell.name: card.cell for card in results.cards if card.cell is not None}
    seedless = {cell_name: cell.seedless_name for cell_name, cell in cells.items()}
    try:
        meant = resolve_student(student, (*cells, *seedless.values()))
    except UsageError as error:
        raise UsageError(f"{name}: run {run_name}: {error}") from error
    meant_cells = [cell for cell_name, cell in cells.items() if meant in (cell_name, seedless[cell_name])]
    asked_as = {card.prompting for card in results.cards if card.cell in meant_cells}
    if prompting == "zero_shot" and prompting not in asked_as:  # the cheap reference is not asked at all
        prompting = sorted(asked_as)[0]
    return Side(run, results, tuple(sorted(meant_cells, key=lambda cell: cell.random_seed)), prompting)


def _asked_alike(side_a: Side, side_b: Side, suite: str) -> bool:
    """Whether both are asked in one form, so that notes on how must agree. An untuned model has its own form."""
    of_task = suite in side_a.run.suites and side_a.run.suites[suite].of_task
    return not of_task or (side_a.is_base, side_a.prompting) == (side_b.is_base, side_b.prompting)


def _tell_changes(suite: str, sides: Sequence[tuple[Side, CandidateScores]], terminal: Terminal) -> None:
    """Say where a suite changed since a run was scored on it."""
    for run in {side.run.name: side.run for side, scored in sides if _changed(side, scored)}.values():
        terminal.warn(
            f"{suite}: suites/{suite}.yaml or its items changed since {run.name} was scored: these are numbers of the"
            f" suite as it was; {run.command('eval')}"
        )


def _changed(side: Side, scored: CandidateScores) -> bool:
    suite = side.run.suites.get(scored.suite)
    return suite is not None and suite.digest != scored.cards[0].suite_digest


def comparable(
    scores_a: CandidateScores, scores_b: CandidateScores, common: bool, terminal: Terminal, alike: bool = True
) -> bool:
    """Whether both have test items to compare. Says why not where the suite differs and `common` is false.

    `alike`: whether both should have been asked in one way.
    """
    same_notes = not alike or scores_a.cards[0].notes == scores_b.cards[0].notes
    digests = [scored.cards[0].suite_digest for scored in (scores_a, scores_b)]
    if len(set(digests)) == 1 and same_notes and scores_a.ids == scores_b.ids:
        return bool(scores_a.ids)
    shared = len(set(scores_a.ids) & set(scores_b.ids))
    how = f"has two versions ({' and '.join(digests)})" if len(set(digests)) > 1 else "was asked in two ways"
    if not common:
        terminal.warn(f"{scores_a.suite}: not compared: it {how}; --common compares the {shared} items that both have")
        return False
    terminal.say(f"{scores_a.suite}: it {how}; compared on the {shared} items that both have")
    return shared > 0


def negated(estimate: Estimate) -> Estimate:
    """The same difference the other way round."""

    def ends(level: float) -> tuple[float, float]:
        low, high = estimate.ends(level)
        return -high, -low

    return replace(estimate, value=-estimate.value, ends=ends)


def _rows(a: Side, b: Side, scores_a: CandidateScores, scores_b: CandidateScores) -> list[tuple[str, ...]]:
    """Every metric of one suite as cells under HEADS: the primary one first, then all that are watched or limited.

    The interval is that of the report for this pair alone.
    """
    suite, reads = scores_a.suite, (a.reads(scores_a), b.reads(scores_b))
    likely = [side for side, metric in zip("AB", reads, strict=True) if metric == "choice_accuracy"]
    primary = "accuracy" if likely else reads[0]
    metrics = {f"{primary} ({' and '.join(likely)} by log-likelihood)" if likely else primary: reads}
    for metric in (*WATCHED, *a.limits(suite), *b.limits(suite)):
        if metric != primary and metric in scores_a.metrics and metric in scores_b.metrics:
            metrics[metric] = (metric, metric)
    same_seeds = a.run.name == b.run.name and _but_method(a) == _but_method(b)
    turned = b.is_base and not a.is_base  # the side that no random seed touches comes second in a difference
    rows = []
    for name, (metric_a, metric_b) in metrics.items():
        before, now = align_complete(scores_a.matrix(metric_a), scores_b.matrix(metric_b))
        interval, detectable = None, None
        if len(now.items) > 1:
            pair = (before, now) if turned else (now, before)
            contrast = contrasts.difference(
                *pair,
                random_seed=a.run.file.random_seed,
                b_varies=not (a.is_base or b.is_base),
                same_seeds=same_seeds,
            )
            if contrast.estimate:
                noise = 0.0
                if not contrast.recipe:  # the seeds of a recipe, each scored by itself, hold the noise already
                    noise = math.hypot(
                        noise_of_mean(a.run.folder, scores_a.cards, metric_a),
                        noise_of_mean(b.run.folder, scores_b.cards, metric_b),
                    )
                estimate = widened(negated(contrast.estimate) if turned else contrast.estimate, noise)
                interval = estimate.interval(0.95)
                detectable = minimum_detectable(interval, before, now)
        means = [formats.number(side.mean if side.items else None) for side in (before, now)]
        smallest = "-" if detectable is None else f"{detectable:.3f}"
        rows.append((suite, name, *means, formats.interval(interval), str(len(now.items)), smallest))
    return rows


def _but_method(side: Side) -> list[Cell]:
    """The cells of a side without their method: two that are equal here saw the same rows in the same order."""
    return [cell.model_copy(update={"method": ""}) for cell in side.cells]


def _names(side: Side) -> str:
    return ", ".join(cell.name for cell in side.cells)
