"""Cells trained and cards scored as tasks of a Ray cluster, in a folder that all nodes share, or carried.

A task does what the stage does on one machine, for its share: what it stores is where the stage looks for it. So a task
that is lost is given to another node, and finds what was stored, and the checkpoints of what was not. Where a node does
not see the project's folder, project and results are carried through Ray, and a task that is lost begins anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from harness.cluster.nodes import Nodes
from harness.cluster.spread import Part, Share, Spread
from harness.config.cluster import Cluster
from harness.config.run import Run
from harness.core.environment import environment
from harness.core.terminal import Stop, Terminal
from harness.errors import Interrupted, MachineError
from harness.eval.plan import PlannedCard, stored_card
from harness.eval.runner import Judge, Scorer
from harness.eval.stage import Elsewhere as ScoreElsewhere
from harness.train.grid import GridCell
from harness.train.processes import Processes
from harness.train.stage import Elsewhere as TrainElsewhere
from harness.train.watching import LOG

Scorers = Callable[[Run, Terminal, Stop], Callable[[int | None], Scorer]]


def cells_on(cluster: Cluster, run: Run, join: Callable[[], Nodes], terminal: Terminal, stop: Stop) -> TrainElsewhere:
    """What trains cells on a cluster. It returns (key -> why) of those that failed."""

    def elsewhere(cells: Sequence[GridCell], every: Sequence[GridCell]) -> dict[str, str]:
        nodes, logs, wanted = join(), StepLogs(run.folder / "train"), {planned.key for planned in cells}
        # of every cell, not of the missing ones: after a kill a share finds its own checkpoints
        shares = [Processes(rank, cluster.tasks).mine(every) for rank in range(cluster.tasks)]
        parts = [
            Part("train", rank + 1, cluster.tasks, _train, tuple(keys), f"-{rank}-of-{cluster.tasks}")
            for rank, share in enumerate(shares)
            if (keys := [planned.key for planned in share if planned.key in wanted])
        ]
        with terminal.progress("train", sum(planned.steps for planned in cells)) as advance:

            def look() -> None:
                done = sum(planned.folder.is_dir() for planned in cells)  # a folder is there when it is whole
                advance(logs.steps(), f"steps; cells: {done} of {len(cells)} done")

            failures = Spread(cluster, run, nodes, terminal.say, stop).results(parts, look)
        return {key: why for failed in failures for key, why in failed.items()}

    return elsewhere


class StepLogs:
    """The steps that all processes log in a folder from now on. What was read is not read again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._steps: dict[str, int] = {}  # the last one of each cell: after a loss some are done again
        self._read = {path: path.stat().st_size for path in folder.glob(LOG.format("*"))}  # bytes

    def steps(self) -> int:
        """Their number."""
        for path in self._folder.glob(LOG.format("*")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            for line in map(json.loads, whole.splitlines()):
                self._steps[line["cell"]] = max(line["step"], self._steps.get(line["cell"], 0))
            self._read[path] = self._read.get(path, 0) + len(whole)
        return sum(self._steps.values())


def cards_on(
    cluster: Cluster, run: Run, join: Callable[[], Nodes], scorers: Scorers, terminal: Terminal, stop: Stop
) -> ScoreElsewhere:
    """What scores cards on a cluster: those of one model by one task, of untuned models first, which others need.

    `scorers` builds, on a node, what scores there. What a judge is to read is only answered there: the judge is asked
    by the machine that the command runs on, which has the store of calls.
    """

    def elsewhere(cards: Sequence[PlannedCard]) -> None:
        nodes, scores, waiting = join(), run.cache / "scores", {card.key: card for card in cards}
        with terminal.progress("eval", len(cards)) as advance:

            def look() -> None:
                for key in [key for key, card in waiting.items() if stored_card(card, scores) is not None]:
                    del waiting[key]
                advance(len(cards) - len(waiting), "cards")

            for tuned in (False, True):
                by_model: dict[tuple[Path, Path | None], list[str]] = {}
                for card in cards:
                    if card.candidate.tuned is tuned:
                        by_model.setdefault((card.candidate.base, card.candidate.adapter), []).append(card.key)
                parts = [
                    Part("eval", number, len(by_model), partial(_score, scorers), tuple(keys))
                    for number, keys in enumerate(by_model.values(), start=1)
                ]
                Spread(cluster, run, nodes, terminal.say, stop).results(parts, look)

    return elsewhere


def _require_known(keys: Sequence[str], planned: Sequence[str], what: str) -> None:
    """Raises MachineError where a node plans other work than the machine that drives the run."""
    if unknown := set(keys) - set(planned):
        raise MachineError(
            f"{len(unknown)} of {len(keys)} {what} are none that it plans: the run's files, rows or models are others"
            " there, or were changed since the command began"
        )


def _train(run: Run, share: Share, stop: Stop) -> dict[str, str]:
    from harness.train.grid import plan_training
    from harness.train.preflight import check_students
    from harness.train.stage import train_missing

    quiet, plan = Terminal(silent=True), plan_training(run)
    missing = plan.missing
    _require_known(share.keys, list(plan.distinct), "cells")
    cells = [missing[key] for key in share.keys if key in missing]
    if not cells:
        return {}
    prepared = check_students(run, cells, quiet.say)
    return train_missing(cells, prepared, run, environment(run.root), share.part, quiet, stop)


def _score(scorers: Scorers, run: Run, share: Share, stop: Stop) -> None:
    from harness.eval.stage import score_card

    scorer, scores = scorers(run, Terminal(silent=True), stop)(None), run.cache / "scores"
    scorer.openers = replace(scorer.openers, judge=_no_judge)
    _require_known(share.keys, [planned.key for planned in scorer.plan.cards], "cards")
    for planned in scorer.plan.cards:
        if planned.key in share.keys and not stop() and stored_card(planned, scores) is None:
            with suppress(_JudgedLater, Interrupted):  # what was answered is stored
                score_card(scorer, planned, scores, lambda share, what: None)


def _no_judge(name: str) -> Judge:
    raise _JudgedLater


class _JudgedLater(Exception):
    """All is answered, and the judge is asked by another machine."""
