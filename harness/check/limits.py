"""What is limited: the rules of the suite files, and the ship student's stored scores that they are about."""

from __future__ import annotations

from dataclasses import dataclass

from harness.check.candidate import CandidateScores, candidate_scores
from harness.check.rules import Bound, Rule
from harness.config.run import Run
from harness.config.ship import ship_cells
from harness.errors import UsageError, nearest
from harness.eval.current import require_current, results_of
from harness.eval.results import Results
from harness.metrics.table import metric_of
from harness.stats.contrasts import Question
from harness.suites.suite import Limit, Suite

BOUNDS: tuple[Bound, ...] = ("margin", "margin_share", "min", "max")


def rules_of(suite: Suite) -> list[Rule]:
    """Every bound of every limit of a suite file. Raises UsageError for a limit that sets none."""
    rules = []
    for metric, limit in suite.spec.limits.items():
        place = f"suites/{suite.name}.yaml: limits: {metric}"
        bounds = [(bound, getattr(limit, bound)) for bound in BOUNDS if getattr(limit, bound) is not None]
        if not bounds:
            raise UsageError(f"{place}: it sets none of {', '.join(BOUNDS)}")
        outside = [value for _, value in bounds if metric_of(metric).bounded and not 0 <= value <= 1]
        if outside:
            raise UsageError(f"{place}: {outside[0]:g}: as a share its limits lie between 0 and 1")
        neutral = limit.better is None and metric_of(metric).better == "neither"
        if neutral and any(bound in ("margin", "margin_share") for bound, _ in bounds):
            raise UsageError(
                f"{place}: more of it is neither good nor bad, so a margin needs its direction: better: higher, or"
                " better: lower"
            )
        better = limit.better or ("lower" if metric_of(metric).better == "lower" else "higher")
        rules += [Rule(suite.name, metric, bound, float(value), better) for bound, value in bounds]
    return rules


@dataclass(frozen=True)
class ShipScores:
    """The ship student's stored scores on every suite that has limits, and what `ship:` asks about them."""

    results: Results
    question: Question
    by_suite: dict[str, CandidateScores]
    not_run: dict[str, str]  # suites with limits that eval could not run -> why

    @property
    def student(self) -> str:
        """The student's name, or what the names of its random seeds have in common."""
        return next(iter(self.by_suite.values())).student


def ship_scores(run: Run) -> ShipScores:
    """The stored scores that `check` and `bless` judge.

    Raises UsageError for scores that are missing, edited, or made otherwise than the run file says now, and for a
    limit on a metric that its suite does not have.
    """
    cells, ship = ship_cells(run), run.file.ship
    limited = {name: suite for name, suite in run.suites.items() if suite.spec.limits}
    if not limited:
        metric = next((suite.primary for suite in run.suites.values()), "accuracy")
        raise UsageError(
            f"runs/{run.name}.yaml: none of its suites ({', '.join(run.suites)}) has limits: nothing to"
            f" check; write in a suite file, e.g.: limits: {{{metric}: {{margin: 0.05}}}}"
        )
    for suite in limited.values():
        rules_of(suite)
    results = results_of(run)
    not_run = {name: why for name, why in results.not_run.items() if name in limited}
    if len(not_run) == len(limited):
        raise UsageError(f"none of the suites with limits was run: {'; '.join(not_run.values())}")
    by_suite = {}
    for name, suite in limited.items():
        if name in not_run:
            continue
        scores = candidate_scores(results, cells, name)
        scored_digest = scores.cards[0].suite_digest
        if scored_digest != suite.digest:
            raise UsageError(
                f"suites/{name}.yaml: the suite changed since it was scored (digest {scored_digest} then,"
                f" {suite.digest} now); make augment train eval RUN={run.name}"
            )
        require_current(results, suite, run.root)
        for metric, limit in suite.spec.limits.items():
            if not scores.failed:  # a metric may be missing because items failed
                require_metric(scores, metric, limit)
        by_suite[name] = scores
    # a base is not trained, so that only its weights can be asked about
    recipe = ship is not None and ship.size > 0 and ship.question == "recipe"
    return ShipScores(results, "this recipe" if recipe else "these weights", by_suite, not_run)


def require_metric(scores: CandidateScores, metric: str, limit: Limit) -> None:
    """Raises UsageError for a metric that the suite does not have, or that `limit` cannot be about."""
    if metric in scores.metrics:
        return
    if not of_all_answers(scores, metric):
        metrics = sorted({*scores.metrics, *scores.cards[0].metrics})
        raise UsageError(
            f"suites/{scores.suite}.yaml: limits: {metric!r} is no metric of this suite{nearest(metric, metrics)};"
            f" allowed: {', '.join(metrics)}"
        )
    if limit.margin is not None or limit.margin_share is not None:
        raise UsageError(
            f"suites/{scores.suite}.yaml: limits: {metric!r} is a number of all answers together, not of each: only min"
            " and max can limit it"
        )


def of_all_answers(scores: CandidateScores, metric: str) -> bool:
    """Whether a metric is one number of all answers, such as distinct_2, and not one of each."""
    return metric not in scores.metrics and metric in scores.cards[0].metrics
