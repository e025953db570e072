"""The noise floor: one student scored again, items in another order and in other batches. Nothing should change.

Sums of floats depend on their order, so a batch of another make-up can tip a greedy choice. On a GPU that has
moved accuracy by more than a point. `harness check` and `harness compare` widen their intervals by what is found here.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, ValidationError

from harness.config.run import Run
from harness.config.ship import ship_cells
from harness.core.json_file import read_json
from harness.core.record import FORMAT, Record, digest
from harness.core.store import remade_by, write_json
from harness.core.terminal import Terminal
from harness.errors import UsageError
from harness.eval.current import results_of
from harness.eval.results import Results
from harness.records import Cell, Score, Scorecard
from harness.stats import Floats
from harness.suites.suite import Suite
from harness.suites.summary import value_of

FILE = "noise.json"
PASSES = 2  # beside the stored one
CPU_NODES = 512  # the transformers engine runs no more at once on CPU: only fewer make another batch
SAME = 1e-6  # two values nearer than this are the same: half a digit of what a baseline stores

# (suite with its items in the order wanted, tree nodes of one forward pass) -> scores of the ship student
Rescore = Callable[[Suite, int], Sequence[Score]]


class MetricNoise(Record):
    """How one metric changed over repeated scoring, on the test items that have it."""

    items: int
    changed: Annotated[float, Field(ge=0, le=1)]  # share of items whose value differed in any pass
    differences: tuple[float, ...]  # mean of each pass minus the stored mean
    deviation: Annotated[float, Field(ge=0)]  # standard deviation of the means, the stored one among them


class Pass(Record):
    """The order and the batch size of one repeated scoring."""

    random_seed: int  # of the shuffle
    batch_tokens: int  # tree nodes of one forward pass


class SuiteNoise(Record):
    """The noise of one scorecard."""

    card: str  # its key
    items: int  # test items
    failed: int  # of these, failed in some pass: their values count as missing, not as changed
    metrics: dict[str, MetricNoise]


class NoiseFile(Record):
    """runs/NAME/eval/noise.json."""

    format: int = FORMAT
    student: str
    batch_tokens: int  # of the stored scores, as the run file has it now
    passes: tuple[Pass, ...]
    suites: dict[str, SuiteNoise]
    digest: str = ""  # over all the rest: check widens its intervals by these numbers

    def sealed(self) -> str:
        """The digest that an untouched file carries: 64 hex digits."""
        return digest("noise", self.model_dump(mode="json", exclude={"digest"}))


def noise(run: Run, rescore: Rescore, terminal: Terminal, passes: int = PASSES) -> NoiseFile:
    """Score the ship student `passes` times again on the run's own suites. Print and store what changed.

    Public benchmarks are left out: their items' order is the library's. Raises UsageError without a ship section,
    without stored scores of it, or where a suite changed since.
    """
    cell, *further_cells = ship_cells(run)
    results = results_of(run)
    batch = run.file.eval.batch_tokens
    plan = [
        Pass(random_seed=run.file.random_seed + i, batch_tokens=max(64, min(batch, CPU_NODES) >> i))
        for i in range(1, passes + 1)
    ]
    suites = [suite for suite in run.suites.values() if suite.items]
    cards = {suite.name: _card(results, suite, cell) for suite in suites}
    stored = {name: results.scores(card) for name, card in cards.items()}
    measured: dict[str, SuiteNoise] = {}
    with terminal.progress("rescore", len(suites) * passes) as advance:
        for place, suite in enumerate(suites):
            repeats = []
            for i, how in enumerate(plan):
                advance(place * passes + i, suite.name)
                repeats.append(rescore(shuffled(suite, how.random_seed), how.batch_tokens))
            measured[suite.name] = measure(cards[suite.name], stored[suite.name], repeats)
        advance(len(suites) * passes, "")
    floor = NoiseFile(student=cell.name, batch_tokens=batch, passes=tuple(plan), suites=measured)
    floor = floor.model_copy(update={"digest": floor.sealed()})
    write_json(run.folder / "eval" / FILE, floor.model_dump(mode="json"))
    terminal.say(_table(floor))
    if further_cells:
        terminal.say(f"  measured on the first of {len(further_cells) + 1} random seeds")
    terminal.say(f"rescore: {(run.folder / 'eval' / FILE).relative_to(run.root)}")
    return floor


def noise_of_mean(run_folder: Path, cards: Sequence[Scorecard], metric: str) -> float:
    """Standard deviation of a metric's mean over cards (random seeds) from scoring alone. 0 where not measured."""
    floors = [(noise_floor(run_folder, card.key) or {}).get(metric, 0.0) for card in cards]
    return math.hypot(*floors) / len(floors)


def noise_floor(run_folder: Path, card_key: str) -> dict[str, float] | None:
    """Metric -> standard deviation of its mean over repeated scoring. None where it was not measured.

    Raises UsageError for a file that was edited or damaged, or is of another version.
    """
    path = run_folder / "eval" / FILE
    if not path.is_file():
        return None
    with remade_by(f"harness rescore {run_folder.name}"):
        content: Any = read_json(path)
    try:
        stored = NoiseFile.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"{path}: not a noise floor of this version: harness rescore {run_folder.name}") from error
    if stored.digest != stored.sealed():
        raise UsageError(f"{path} was edited or damaged; harness rescore {run_folder.name} makes it again")
    of_card = next((suite for suite in stored.suites.values() if suite.card == card_key), None)
    return {name: metric.deviation for name, metric in of_card.metrics.items()} if of_card else None


def shuffled(suite: Suite, random_seed: int) -> Suite:
    """The same suite with its items in an order drawn by `random_seed`."""
    items = list(suite.items)
    random.Random(random_seed).shuffle(items)
    return replace(suite, items=tuple(items))


def measure(card: Scorecard, stored: Sequence[Score], repeats: Sequence[Sequence[Score]]) -> SuiteNoise:
    """What changed between the stored scores of a card and those of each pass, on the test items.

    Raises UsageError when a pass scored other items.
    """
    passes = [{s.item: s for s in scores if s.split == "test"} for scores in (stored, *repeats)]
    ids = sorted(passes[0])
    for scores in passes[1:]:
        if sorted(scores) != ids:
            raise UsageError(
                f"{card.suite}: {len(ids)} test items were scored before, {len(scores)} now, or others: eval again"
            )
    names = sorted({name for scores in passes for score in scores.values() for name in score.values})
    failed = sum(any(scores[item].status == "failed" for scores in passes) for item in ids)
    values = {name: [[value_of(scores[item], name) for item in ids] for scores in passes] for name in names}
    metrics = {name: _metric(np.array(rows)) for name, rows in values.items()}
    measured = {name: metric for name, metric in metrics.items() if metric is not None}
    return SuiteNoise(card=card.key, items=len(ids), failed=failed, metrics=measured)


def _metric(values: Floats) -> MetricNoise | None:
    """`values`: shape (passes, items), the stored pass first. None where no item has it in every pass.

    A value that comes or goes between passes is a change.
    """
    finite = np.isfinite(values)
    complete = finite.all(axis=0)
    if not complete.any():
        return None
    moved = np.abs(values[:, complete] - values[0, complete]).max(axis=0) > SAME
    came_or_went = int((finite.any(axis=0) & ~complete).sum())
    items = int(finite.any(axis=0).sum())
    means = values[:, complete].mean(axis=1)
    return MetricNoise(
        items=items,
        changed=(int(moved.sum()) + came_or_went) / items,
        differences=tuple(float(mean - means[0]) for mean in means[1:]),
        deviation=float(means.std(ddof=1)) if len(means) > 1 and moved.any() else 0.0,
    )


def _card(results: Results, suite: Suite, cell: Cell) -> Scorecard:
    card = results.card(suite.name, cell.name, "zero_shot")
    if card is None:
        raise UsageError(f"{results.folder}: no stored scores of {cell.name} on {suite.name}; {results.command}")
    if card.suite_digest != suite.digest:
        raise UsageError(f"suites/{suite.name}.yaml changed since it was scored; {results.command}")
    return card


def _table(floor: NoiseFile) -> str:
    """One line per metric."""
    batches = ", ".join(str(repeat.batch_tokens) for repeat in floor.passes)
    lines = [
        f"noise floor of {floor.student}: {len(floor.passes)} passes, items shuffled, {batches} tree nodes a pass"
        f" (stored: {floor.batch_tokens})"
    ]
    for name, suite in floor.suites.items():
        failed = f", {suite.failed} failed in some pass" if suite.failed else ""
        lines.append(f"  {name}: {suite.items} test items{failed}")
        for metric, metric_noise in suite.metrics.items():
            furthest = max(metric_noise.differences, key=abs, default=0.0)
            lines.append(
                f"    {metric:<20} {metric_noise.changed:6.1%} of items changed; mean moved by up to {furthest:+.4g};"
                f" standard deviation between passes {metric_noise.deviation:.4g}"
            )
    return "\n".join(lines)
