"""Scores as eval stores them, and a project that has some, as a test of the gate wants them: no model, no engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from harness.check.bless import bless
from harness.check.stage import Options, check
from harness.config.inputs import scores_source, suite_source
from harness.config.load import load_run
from harness.config.run import Run
from harness.core.store import Manifest, write_json, write_manifest
from harness.core.terminal import Terminal
from harness.records import Cell, Item, Score, Scorecard, scores_digest
from harness.suites.suite import Suite
from harness.suites.summary import summarise
from harness.train.cells import CELLS, TrainedCell, TrainedCells
from tests.project import write_project

STUDENT = "tiny"
SHIP = Cell(student=STUDENT, data="filtered", size=12, random_seed=0)  # of the project's run
NAME = SHIP.name
ITEMS = 400
MARGIN = {"accuracy": {"margin": 0.05}}
Values = Callable[[int], dict[str, float]]


@dataclass(frozen=True)
class Stored:
    """A project whose only suite, `shop`, has ITEMS items, with stored scores as a test wants them."""

    root: Path
    path: Path

    def suite(self, **changes: Any) -> None:
        """Rewrite the suite file."""
        spec = {"kind": "labels", "items": "suites/shop.jsonl", "max_tokens": 4} | changes
        (self.root / "suites/shop.yaml").write_text(yaml.safe_dump(spec))

    def items(self, count: int = ITEMS, **more: Callable[[int], str]) -> None:
        """Rewrite the items; `more` gives other fields of an item by its place."""
        write_items(self.root, count, **more)

    def run(self, *settings: str) -> Run:
        """Load the run."""
        return load_run(self.path, list(settings))

    def store(
        self, *students: Values, failed: int = 0, drop: int = 0, key: str = "k", cells: Sequence[Cell] = (), **more: Any
    ) -> None:
        """What eval would have stored: per student an item's values by its place; random seeds 0, 1, ... or `cells`."""
        run = self.run()
        suite = run.suites["shop"]
        cells = cells or [SHIP.model_copy(update={"random_seed": place}) for place in range(len(students))]
        scored = [
            (suite, cell, [_score(item, i, values, failed) for i, item in enumerate(suite.items[drop:])])
            for cell, values in zip(cells, students, strict=True)
        ]
        write_cards(run, scored, key, **more)

    def seal(self, *settings: str) -> None:
        """Seal what is stored as eval does: for a test that has changed it by hand."""
        seal(self.run(*settings))

    def scores(self, place: int = 0) -> Path:
        """The file of one student's scores."""
        return self.root / f"runs/shop/eval/scores/card{place}.jsonl"

    @property
    def baseline(self) -> Path:
        """The blessed file."""
        return self.root / "runs/shop.baseline.json"

    def bless(self, *settings: str) -> None:
        """Bless what is stored."""
        bless(self.run(*settings), Terminal())

    def check(self, *settings: str, options: Options | None = None) -> int:
        """The exit code of a check."""
        return check(self.run(*settings), Terminal(), options)


def write_items(root: Path, count: int = ITEMS, **more: Callable[[int], str]) -> None:
    """Write the items of the suite `shop`; `more` gives other fields of an item by its place."""
    lines = [
        {"text": f"message number {i} of many", "label": ("parcel", "invoice")[i % 2]}
        | {name: value(i) for name, value in more.items()}
        for i in range(count)
    ]
    (root / "suites/shop.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_cards(run: Run, scored: Iterable[tuple[Suite, Cell, Sequence[Score]]], key: str = "k", **fields: Any) -> None:
    """Write scores and their cards, card0, card1, ..., as eval does; `fields` replace those of every stored card."""
    folder = run.folder / "eval"
    (folder / "scores").mkdir(parents=True, exist_ok=True)
    cards = []
    for place, (suite, cell, scores) in enumerate(scored):
        counts = {status: sum(s.status == status for s in scores) for status in ("scored", "unparsed", "failed")}
        counts["truncated"] = sum(s.truncated for s in scores)
        card = Scorecard(
            key=f"card{place}", suite=suite.name, suite_digest=suite.digest, student=cell.name, cell=cell,
            student_key=f"{key}{place}", prompting="zero_shot", items=len(scores), metrics=summarise(scores, suite),
            scores=scores_digest(scores), **counts,
        )  # fmt: skip
        cards.append(card.model_dump() | fields)
        (folder / f"scores/{card.key}.jsonl").write_text("".join(s.model_dump_json() + "\n" for s in scores))
    (folder / "scorecards.json").write_text(json.dumps({"digest": "d", "not_run": {}, "cards": cards}))
    seal(run)


def trained_cell(cell: Cell, **fields: Any) -> TrainedCell:
    """What train would write of a cell; `fields` replace what stands in for it here."""
    stored: dict[str, Any] = {
        "name": cell.name, "key": "x", "model": f"{cell.student}@1", "tuned": cell.size > 0, "base": cell.student,
        "folder": "", "rows": cell.size, "available": cell.size, "steps": 2,
    }  # fmt: skip
    return TrainedCell(**cell.model_dump(), **(stored | fields))


def write_cells(run: Run, cells: Sequence[TrainedCell]) -> None:
    """Write and seal cells.json as train does."""
    folder = run.folder / "train"
    write_json(folder / CELLS, TrainedCells(cells=tuple(cells), epochs=1, min_steps=2).model_dump(mode="json"))
    write_manifest(folder, Manifest(stage="train", inputs="by hand"), [folder / CELLS])


def seal(run: Run) -> None:
    """Write the manifest that vouches for what lies in a run's eval folder now."""
    folder = run.folder / "eval"
    suites = {name: suite_source(suite, run.root) for name, suite in run.suites.items()}
    manifest = Manifest(stage="eval", inputs="by hand", settings=scores_source(run), suites=suites)
    write_manifest(folder, manifest, [folder / "scorecards.json", *sorted(folder.glob("scores/*.jsonl"))])


def _score(item: Item, place: int, values: Values, failed: int) -> Score:
    about = {"item": item.id, "split": item.split, "group": item.group, "stratum": item.stratum}
    if place < failed:
        return Score(**about, status="failed", error="no answer")
    return Score(**about, status="scored", values=values(place))


def rate(right: float, salt: int = 0, base: float = 0.8, share: float = 0.5) -> Values:
    """Accuracy `base`, except that each item is redrawn as right with chance `right` where salt picks it.

    `share`: of the items that a salt other than 0 picks.
    """

    def values(i: int) -> dict[str, float]:
        first, second = np.random.default_rng([i, 1]).random(), np.random.default_rng([i, 2, salt]).random(2)
        value = first < base if not salt or second[0] > share else second[1] < right
        return {"accuracy": float(value), "words": 3.0 + 2 * first}

    return values


def write_stored(root: Path, **limits: Any) -> Stored:
    """The project, with four random seeds to ask for, and the scores of one student stored."""
    path = write_project(root, STUDENT, eval={"suites": ["shop"]})
    run = yaml.safe_load(path.read_text())
    run["train"]["random_seeds"] = [0, 1, 2, 3]
    path.write_text(yaml.safe_dump(run, sort_keys=False))
    stored = Stored(root, path)
    stored.items()
    stored.suite(limits=limits or MARGIN)
    stored.store(rate(0.8))
    return stored
