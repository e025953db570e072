"""Hard examples: the training rows and seeds that a student gets wrong, as examples in the prompts of another round.

No item of a suite is looked at, dev or test, so that no claim is touched. As many random ones of the same rows are
the control: a second round with either tells whether it was the hard ones that helped (LLM2LLM, Lee et al. 2024).
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from harness.augment.rows import seed_rows
from harness.config.quotas import LABEL, Quotas
from harness.config.run import Run, Ship
from harness.config.ship import ship_cells
from harness.core.store import write_atomic
from harness.core.terminal import Terminal
from harness.data.writing import example_lines
from harness.errors import UsageError
from harness.eval.candidates import Candidate
from harness.eval.plan import PlannedCard
from harness.eval.runner import Scorer, score_suite
from harness.records import Example, Item, Row
from harness.report.causes import is_wrong
from harness.suites.shaped import located
from harness.suites.suite import Suite

FEWEST = 4  # hard examples that another round can be written from


def hard_examples(run: Run, scorer: Scorer, terminal: Terminal) -> tuple[Path, Path]:
    """Ask the ship student about its rows and the seeds. Write what it gets wrong, the control, and a run for each.

    Returns the two run files. Raises UsageError where the run has no student to ship, no suite of its task, or where
    too few examples are wrong.
    """
    cell = ship_cells(run)[0]
    candidate = scorer.plan.student(cell, run.name)
    suite = next((suite for suite in run.suites.values() if suite.of_task and suite.rubric is None), None)
    if suite is None:
        raise UsageError(f"runs/{run.name}.yaml: eval.suites: none of them scores the task by a rule")
    rows = {row.example.id: row for row in (*candidate.rows, *seed_rows(run.task, run.prompts.student, run.seeds))}
    asked = list(rows.values())
    terminal.say(f"asking {cell.name} about {len(asked)} rows and seeds, by the rules of {suite.name}")
    hard = [row for row, wrong in zip(asked, wrong_rows(scorer, suite, candidate, asked), strict=True) if wrong]
    if len(hard) < FEWEST:
        raise UsageError(
            f"{cell.name} gets {len(hard)} of its {len(asked)} rows and seeds wrong, and another round needs"
            f" {FEWEST} at least"
        )
    control = random.Random(run.file.random_seed).sample(asked, len(hard))
    folder = run.folder / "hard"
    for name, chosen in (("hard", hard), ("control", control), ("rows", candidate.rows)):
        examples = [row.example for row in chosen]
        turns = any(example.turns for example in examples)
        lines = example_lines(examples, "messages" if turns else "fields", run.task.shape)
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_atomic(folder / f"{name}.jsonl", text)
    ship = run.file.ship
    hard_run, control_run = (_run_file(run, ship, name, len(candidate.rows)) for name in ("hard", "control"))
    first, second = hard_run.stem, control_run.stem
    terminal.say(
        f"{len(hard)} of {len(asked)} are wrong: {folder.relative_to(run.root)}/hard.jsonl, and as many random ones in"
        f" control.jsonl\nnext: make augment train eval RUN={first}, the same with RUN={second}, then"
        f" harness compare {first} {second}"
    )
    return hard_run, control_run


def wrong_rows(scorer: Scorer, suite: Suite, candidate: Candidate, rows: Sequence[Row]) -> list[bool]:
    """Whether the student's answer to each row is wrong by the rules of a suite."""
    items = tuple(item_of(row.example, suite) for row in rows)
    card = PlannedCard(candidate, replace(suite, items=items), key="")
    scores = score_suite(scorer, card, scorer.engine(candidate)).scores
    return [is_wrong(score, item, suite) for score, item in zip(scores, items, strict=True)]


def item_of(example: Example, suite: Suite) -> Item:
    """An example as an item of the suite: its label among the choices, or its answer."""
    if choices := suite.choices:
        return located("", example, choices=choices, gold=choices.index(example.answer))[1]
    return located("", example, answers=(example.answer,))[1]


def smaller(quotas: Quotas, of: int, total: int, written: int) -> Quotas:
    """The quotas of `of` rows for a run of `total` rows. Attributes are those of the rows that it writes itself."""
    return {
        name: {value: max(n * (total if name == LABEL else written) // of, 1) for value, n in quota.items()}
        for name, quota in quotas.items()
    }


def _run_file(run: Run, ship: Ship | None, name: str, rows: int) -> Path:
    """A run that goes on from the student's rows with half as many again, written like these examples."""
    path, augment = run.root / "runs" / f"{run.name}_{name}.yaml", run.file.augment
    total, place = rows + rows // 2, f"runs/{run.name}/hard"
    keys: dict[str, Any] = {
        "extends": f"{run.name}.yaml",
        "augment": {"shots_file": f"{place}/{name}.jsonl", "rows_file": f"{place}/rows.jsonl", "rows": total},
        "train": {"data": ["filtered"], "sizes": [0, total]},
    }
    if augment.quotas:
        keys["augment"] = {**keys["augment"], "quotas": smaller(augment.quotas, augment.rows, total, rows // 2)}
    if ship:
        keys["ship"] = ship.model_dump() | {"data": "filtered", "size": total}
    what = "the rows that its student gets wrong" if name == "hard" else "as many random rows: the control"
    head = f"# Another round of {run.name}: a teacher writes more like {what}.\n"
    write_atomic(path, head + yaml.safe_dump(keys, sort_keys=False))
    return path
