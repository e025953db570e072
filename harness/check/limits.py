"""What is limited: the rules of the suite files, and the ship student's stored scores that they are about."""

from __future__ import annotations

from dataclasses import dataclass

from harness.check.candidate import Shipped, better, fresh, shipped
from harness.check.rules import Bound, Rule
from harness.config.run import Run
from harness.config.ship import ship_cells
from harness.errors import UsageError, nearest
from harness.eval.results import Results, require_current, results_of
from harness.metrics.table import metric_of
from harness.stats.contrasts import Question
from harness.suites.suite import Limit, Suite

BOUNDS: tuple[Bound, ...] = ("margin", "margin_share", "min", "max")


def rules_of(suite: Suite) -> list[Rule]:
    """Every bound of every limit of a suite file. Raises UsageError for a limit that sets none."""
    rules = []
    for metric, limit in suite.spec.limits.items():
        set_ = [(bound, getattr(limit, bound)) for bound in BOUNDS if getattr(limit, bound) is not None]
        if not set_:
            raise UsageError(f"suites/{suite.name}.yaml: limits: {metric}: it sets none of {', '.join(BOUNDS)}")
        wrong = [value for _, value in set_ if metric_of(metric).kind != "amount" and not 0 <= value <= 1]
        if wrong:
            raise UsageError(
                f"suites/{suite.name}.yaml: limits: {metric}: {wrong[0]:g}: as a share its limits lie between 0 and 1"
            )
        neutral = limit.better is None and metric_of(metric).better == "neither"
        if neutral and any(bound in ("margin", "margin_share") for bound, _ in set_):
            raise UsageError(
                f"suites/{suite.name}.yaml: limits: {metric}: more of it is neither good nor bad, so a margin needs"
                " its direction: better: higher, or better: lower"
            )
        rules += [Rule(suite.name, metric, bound, float(value), better(metric, limit)) for bound, value in set_]
    return rules


def question_of(run: Run) -> Question:
    """What `ship:` asks about; a base is not trained, so that only its weights can be asked about."""
    ship = run.file.ship
    return "this recipe" if ship and ship.size and ship.question == "recipe" else "these weights"


@dataclass(frozen=True)
class Stored:
    """The ship student's stored scores on every suite that has limits."""

    results: Results
    scored: dict[str, Shipped]
    not_run: dict[str, str]  # suites with limits that eval could not run -> why


def stored(run: Run) -> Stored:
    """Raises UsageError for scores that are missing, edited, or made otherwise than the run file says now."""
    cells = ship_cells(run)
    gated = {name: suite for name, suite in run.suites.items() if suite.spec.limits}
    if not gated:
        metric = next((suite.primary for suite in run.suites.values()), "accuracy")
        raise UsageError(
            f"runs/{run.name}.yaml: none of its suites ({', '.join(run.suites)}) has limits: nothing to"
            f" check; write in a suite file, e.g.: limits: {{{metric}: {{margin: 0.05}}}}"
        )
    for suite in gated.values():
        rules_of(suite)
    results = results_of(run)
    not_run = {name: why for name, why in results.not_run.items() if name in gated}
    if len(not_run) == len(gated):
        raise UsageError(f"none of the suites with limits was run: {'; '.join(not_run.values())}")
    scored = {
        name: fresh(shipped(results, cells, name, run), suite, run)
        for name, suite in gated.items()
        if name not in not_run
    }
    for name in scored:
        require_current(results, gated[name], run.root)
    return Stored(results, scored, not_run)


def has_values(one: Shipped, metric: str, limit: Limit | None = None) -> None:
    """Raises UsageError for a metric that the suite has not, or that its limit cannot be about."""
    if metric in one.metrics:
        return
    if not of_all_together(one, metric):
        known = sorted({*one.metrics, *one.cards[0].metrics})
        raise UsageError(
            f"suites/{one.suite}.yaml: limits: {metric!r} is no metric of this suite{nearest(metric, known)};"
            f" allowed: {', '.join(known)}"
        )
    if limit is None or limit.margin is not None or limit.margin_share is not None:
        raise UsageError(
            f"suites/{one.suite}.yaml: limits: {metric!r} is a number of all answers together, not of each: only min"
            " and max can limit it"
        )


def of_all_together(one: Shipped, metric: str) -> bool:
    """Whether a metric is one number of all answers, such as distinct_2, and not one of each."""
    return metric not in one.metrics and metric in one.cards[0].metrics
