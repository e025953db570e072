"""Another round from what a student gets wrong: which rows those are, the control, and the runs that are written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.config.load import load_run
from harness.data.examples import read_examples
from tests.process import succeed
from tests.project import write_project


@pytest.mark.slow
def test_the_rows_that_are_wrong_and_as_many_random_ones_make_two_runs(tmp_path: Path, tiny_model: Path) -> None:
    path = write_project(tmp_path, str(tiny_model))
    path.write_text(path.read_text().replace("  rows: 24\n", "  rows: 24\n  quotas: {label: {parcel: 8}}\n"))
    for verb in ("augment", "train"):
        succeed(tmp_path, verb, "shop")
    told = succeed(tmp_path, "hard-examples", "shop")
    run = load_run(path)
    folder = tmp_path / "runs/shop/hard"
    found = {name: [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
             for name in ("hard", "control", "rows")}  # fmt: skip
    ship = run.file.ship
    assert ship is not None
    assert len(found["hard"]) == len(found["control"])
    assert len(found["rows"]) == ship.size
    assert f"{len(found['hard'])} of " in told
    pool = {(line["text"], line["label"]) for line in found["rows"]} | {(s.text, s.answer) for s in run.seeds}
    items = {item.text for suite in run.suites.values() for item in suite.items}
    for line in (*found["hard"], *found["control"]):
        assert (line["text"], line["label"]) in pool
        assert line["text"] not in items, "no item of a suite is looked at"
    for name in ("hard", "control"):
        again = load_run(tmp_path / f"runs/shop_{name}.yaml")
        total = ship.size + ship.size // 2
        assert (again.file.augment.rows, again.file.train.sizes) == (total, (0, total))
        assert again.file.augment.quotas == {"label": {"parcel": 8 * total // 24}}
        assert again.shots == read_examples(f"runs/shop/hard/{name}.jsonl", tmp_path, run.task.shape, "here").examples
        assert again.seeds == run.seeds
    succeed(tmp_path, "augment", "shop_hard", "--set", f"augment.rows={ship.size + 2}", "--set",
            f"train.sizes=[0,{ship.size + 2}]", "--set", "ship=null")  # fmt: skip
