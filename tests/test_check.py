"""The gate: planted changes, boundary cases, every refusal, exit codes; and it needs no model library."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from harness.check import Decision, Paired, bless, check, exit_code, judged, table
from harness.config import Run, load_run
from harness.errors import UsageError
from harness.records import Score, Scorecard
from harness.results import load_results
from harness.stats import Interval
from harness.terminal import Terminal
from tests.project import write_project

STUDENT = "tiny"
NAME = f"{STUDENT}.filtered.12.s0"
ITEMS = 400
Values = Callable[[int], dict[str, float]]


@dataclass(frozen=True)
class Gate:
    """A project whose only suite, `shop`, has ITEMS items, with stored scores as a test wants them."""

    root: Path
    path: Path

    def suite(self, **changes: Any) -> None:
        """Rewrite the suite file."""
        spec = {"kind": "labels", "items": "suites/shop.jsonl", "max_tokens": 4} | changes
        (self.root / "suites/shop.yaml").write_text(yaml.safe_dump(spec))

    def run(self, *settings: str) -> Run:
        """Load the run."""
        return load_run(self.path, list(settings))

    def store(self, values: Values, *, failed: int = 0, drop: int = 0, key: str = "k", name: str = NAME) -> None:
        """What eval would have stored: `values` gives an item's scores by its place in the suite."""
        suite = self.run().suites["shop"]
        scores = [
            Score(item=item.id, split=item.split, status="failed", error="no answer")
            if i < failed
            else Score(item=item.id, split=item.split, status="scored", values=values(i))
            for i, item in enumerate(suite.items[drop:])
        ]
        counts = {"items": len(scores), "scored": len(scores) - failed, "unparsed": 0, "failed": failed}
        card = Scorecard(
            key="card", suite="shop", suite_digest=suite.digest, student=name, student_key=key,
            prompting="zero_shot", metrics={"macro_f1": 0.5}, **counts,
        )  # fmt: skip
        folder = self.root / "runs/shop/eval"
        (folder / "scores").mkdir(parents=True, exist_ok=True)
        (folder / "scores/card.jsonl").write_text("".join(s.model_dump_json() + "\n" for s in scores))
        stored = {"digest": "d", "not_run": {}, "cards": [card.model_dump()]}
        (folder / "scorecards.json").write_text(json.dumps(stored))

    @property
    def baseline(self) -> Path:
        """The blessed file."""
        return self.root / "runs/shop.baseline.json"

    def check(self, *settings: str) -> int:
        """The exit code of a check."""
        return check(self.run(*settings), Terminal())


def rate(right: float, salt: int = 0, base: float = 0.8) -> Values:
    """Accuracy `base`, except that each item is redrawn as right with chance `right` where salt picks it."""

    def values(i: int) -> dict[str, float]:
        first, second = np.random.default_rng([i, 1]).random(), np.random.default_rng([i, 2, salt]).random(2)
        value = first < base if not salt or second[0] > 0.5 else second[1] < right
        return {"accuracy": float(value), "words": 3.0 + 2 * first}

    return values


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    path = write_project(tmp_path, STUDENT, eval={"suites": ["shop"]})
    lines = [{"text": f"message number {i} of many", "label": ("parcel", "invoice")[i % 2]} for i in range(ITEMS)]
    (tmp_path / "suites/shop.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    gate = Gate(tmp_path, path)
    gate.suite(limits={"accuracy": {"max_drop": 0.05}})
    gate.store(rate(0.8))
    bless(gate.run(), Terminal())
    return gate


# --- verdicts ---------------------------------------------------------------------------------------------


def test_identical_student_passes(gate: Gate, capsys: pytest.CaptureFixture[str]) -> None:
    assert gate.check() == 0
    out = capsys.readouterr().out
    assert "the same weights" in out
    assert "no item changed" in out


def test_identical_student_passes_a_limit_of_zero(gate: Gate) -> None:
    gate.suite(limits={"accuracy": {"max_drop": 0.0, "max_drop_share": 0.0}})
    assert gate.check() == 0


def test_planted_regression_is_caught(gate: Gate, capsys: pytest.CaptureFixture[str]) -> None:
    gate.store(rate(0.4, salt=1), key="other")
    assert gate.check() == 1
    assert "regressed" in capsys.readouterr().out


def test_planted_improvement_passes(gate: Gate) -> None:
    gate.store(rate(1.0, salt=1))
    assert gate.check() == 0


def test_few_items_are_not_enough(gate: Gate, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (gate.root / "suites/shop.jsonl").read_text().splitlines(keepends=True)[:24]
    (gate.root / "suites/shop.jsonl").write_text("".join(lines))
    gate.store(rate(0.8))
    bless(gate.run(), Terminal())
    gate.store(rate(0.6, salt=1))
    assert gate.check() == 4
    assert "reaches across the limit" in capsys.readouterr().out


def test_worse_yet_inside_the_limit_passes_and_says_so(gate: Gate, capsys: pytest.CaptureFixture[str]) -> None:
    gate.suite(limits={"accuracy": {"max_drop": 0.4}})
    gate.store(rate(0.4, salt=1))
    assert gate.check() == 0
    assert "worse than the baseline, yet surely inside" in capsys.readouterr().out


def test_relative_and_absolute_limits_agree_where_they_say_the_same(gate: Gate) -> None:
    gate.store(rate(0.55, salt=1))
    mean = load_results(gate.run().folder).cards[0]  # the card is there, whatever it says
    assert mean.student == NAME
    for drop in (0.02, 0.3):
        codes = set()
        was = json.loads(gate.baseline.read_text())["suites"]["shop"]["metrics"]["accuracy"]["mean"]
        for limit in ({"max_drop": drop}, {"max_drop_share": drop / was}):
            gate.suite(limits={"accuracy": limit})
            codes.add(gate.check())
        assert len(codes) == 1


def test_values_of_their_own(gate: Gate) -> None:
    for limit, code in (
        ({"min": 0.5}, 0),
        ({"min": 0.95}, 1),
        ({"min": 0.8}, 4),
        ({"max": 0.5}, 1),
        ({"max": 0.95}, 0),
    ):
        gate.suite(limits={"accuracy": limit})
        assert gate.check() == code, limit


def test_real_values_rise_and_fall(gate: Gate) -> None:
    gate.suite(limits={"words": {"max_rise": 0.5}})
    bless(gate.run(), Terminal())
    assert gate.check() == 0

    def longer(by: float) -> Values:
        return lambda i: {"accuracy": 1.0, "words": rate(0.8)(i)["words"] + by * (1 + i % 3) / 2}

    for by, code in ((0.3, 0), (1.2, 1), (0.5, 4), (-3.0, 0)):
        gate.store(longer(by))
        assert gate.check() == code, by


def test_a_rate_counts_the_items_without_a_value(gate: Gate) -> None:
    gate.store(lambda i: rate(0.8)(i) if i % 3 else {"words": 1.0})
    assert gate.check() == 1


def test_values_that_went_missing_leave_a_pass_undecided(gate: Gate, capsys: pytest.CaptureFixture[str]) -> None:
    gate.suite(limits={"words": {"max_rise": 0.5}})
    bless(gate.run(), Terminal())
    gate.store(lambda i: rate(0.8)(i) if i % 3 else {"accuracy": 1.0})
    assert gate.check() == 4
    out = capsys.readouterr().out
    assert "have none now" in out
    assert " of 3" in out  # paired items of all test items


def test_failed_items_are_the_tools_failure(gate: Gate, capsys: pytest.CaptureFixture[str]) -> None:
    gate.store(rate(0.8), failed=2)
    assert gate.check() == 3
    assert "2 of 400 items failed" in capsys.readouterr().out


def interval(low: float, high: float) -> Interval:
    return Interval(estimate=(low + high) / 2, low=low, high=high, method="given", n=100)


@pytest.mark.parametrize(
    ("low", "high", "line", "above", "verdict"),
    [
        (-0.02, 0.01, -0.03, True, "pass"),
        (-0.02, -0.01, -0.03, True, "pass"),  # worse for sure, inside the margin
        (-0.03, 0.01, -0.03, True, "not enough data"),  # the bound itself does not pass
        (-0.06, -0.03, -0.03, True, "not enough data"),
        (-0.06, -0.031, -0.03, True, "regressed"),
        (0.01, 0.02, 0.03, False, "pass"),
        (0.01, 0.03, 0.03, False, "not enough data"),
        (0.031, 0.05, 0.03, False, "regressed"),
    ],
)
def test_boundary_cases(low: float, high: float, line: float, above: bool, verdict: str) -> None:
    assert judged(interval(low, high), line, above) == verdict
    assert judged(None, line, above) == "not enough data"


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        (["pass", "pass"], 0),
        (["pass", "not enough data"], 4),
        (["regressed", "not enough data", "pass"], 1),
        (["failed", "regressed", "not enough data"], 3),
    ],
)
def test_exit_code_is_that_of_the_worst(verdicts: Sequence[Any], code: int) -> None:
    assert exit_code([Decision("s", "m", "max_drop 0", v, "1") for v in verdicts]) == code


def test_table_has_every_column() -> None:
    shown = table([Decision("s", "m", "max_drop 0.1", "pass", "9 of 10", 0.5, 0.6, interval(0.0, 0.2))])
    for word in ("suite", "baseline", "0.5", "0.6", "[+0.0000, +0.2000]", "max_drop 0.1", "9 of 10", "pass"):
        assert word in shown


def test_too_few_pairs_have_no_interval() -> None:
    nan = float("nan")
    assert Paired(np.array([0.5, nan]), np.array([0.7, 0.2]), 0).difference() is None
    assert Paired(np.array([nan]), np.array([nan]), 0).value() is None
    assert not Paired(np.array([nan]), np.array([nan]), 0).unchanged


# --- refusals ---------------------------------------------------------------------------------------------


def refused(gate: Gate, *words: str, settings: tuple[str, ...] = ()) -> None:
    with pytest.raises(UsageError) as caught:
        gate.check(*settings)
    assert caught.value.exit_code == 2
    for word in words:
        assert word in str(caught.value)


def test_no_baseline(gate: Gate) -> None:
    gate.baseline.unlink()
    refused(gate, "runs/shop.baseline.json", "harness bless shop")


def test_no_ship_section(gate: Gate) -> None:
    refused(gate, "ship", "runs/shop.yaml", settings=("ship=null",))


def test_no_stored_scores(gate: Gate) -> None:
    (gate.root / "runs/shop/eval/scorecards.json").unlink()
    refused(gate, "make eval RUN=shop")


def test_another_student_than_was_scored(gate: Gate) -> None:
    gate.store(rate(0.8), name="tiny.base")
    refused(gate, NAME, "tiny.base", "make eval")


def test_the_base_and_seeds_only_are_named_as_train_names_them(gate: Gate) -> None:
    gate.store(rate(0.8), name="tiny.base")
    assert gate.check("ship.size=0") == 0
    seeds = len(gate.run().seeds)
    gate.store(rate(0.8), name=f"tiny.seeds_only.{seeds}.s0")
    assert gate.check("ship.data=seeds_only") == 0


def test_nothing_is_gated(gate: Gate) -> None:
    gate.suite()
    refused(gate, "limits", "shop")
    gate.suite(limits={"accuracy": {}})
    refused(gate, "suites/shop.yaml", "max_drop")


def test_a_metric_without_values_per_item(gate: Gate) -> None:
    gate.suite(limits={"macro_f1": {"max_drop": 0.1}})
    refused(gate, "macro_f1", "number of the whole suite", "allowed: accuracy, words")
    gate.suite(limits={"acuracy": {"max_drop": 0.1}})
    refused(gate, "did you mean 'accuracy'?")
    gate.suite(limits={"words": {"max_rise": 0.1}})
    refused(gate, "blessed without words", "harness bless shop")


def test_another_version_of_the_suite(gate: Gate) -> None:
    gate.suite(version=2, changes={"2": "2026-01-01: more items"}, limits={"accuracy": {"max_drop": 0.05}})
    gate.store(rate(0.8))
    refused(gate, "version 1 was blessed, this is version 2", "more items")


def test_another_rule_under_the_same_version(gate: Gate) -> None:
    gate.suite(max_tokens=5, limits={"accuracy": {"max_drop": 0.05}})
    refused(gate, "changed since it was scored", "make eval")
    gate.store(rate(0.8))
    refused(gate, "same version 1", "harness bless")


def test_missing_items(gate: Gate) -> None:
    gate.store(rate(0.8), drop=5)
    refused(gate, "test items were blessed", "without a test score")
    path = gate.root / "runs/shop/eval/scores/card.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    refused(gate, "card.jsonl", "counts 395")


def test_a_suite_the_baseline_does_not_hold(gate: Gate) -> None:
    stored = json.loads(gate.baseline.read_text())
    stored["suites"]["other"] = stored["suites"].pop("shop")
    _reseal(gate, stored)
    refused(gate, "does not hold the suite shop", "other")


def _reseal(gate: Gate, stored: dict[str, Any]) -> None:
    from harness.baseline import Baseline

    baseline = Baseline.model_validate(stored)
    gate.baseline.write_text(json.dumps(stored | {"digest": baseline.sealed()}))


def test_a_truncated_edited_or_foreign_baseline(gate: Gate) -> None:
    whole = gate.baseline.read_text()
    for size in (0, 10, len(whole) // 2, len(whole) - 3):
        gate.baseline.write_text(whole[:size])
        refused(gate, "shop.baseline.json", "harness bless shop")
    gate.baseline.write_text(whole.replace('"mean": 0.', '"mean": 0.1', 1))
    refused(gate, "shop.baseline.json", "edited")
    stored = json.loads(whole)
    gate.baseline.write_text(json.dumps(stored | {"format": 9}))
    refused(gate, "format 9", "format 1")
    gate.baseline.write_text("[]")
    refused(gate, "shop.baseline.json")
    gate.baseline.write_text(json.dumps(stored | {"extra": 1}))
    refused(gate, "extra")
    gate.baseline.write_text(json.dumps(stored))  # another layout of the same content is the same baseline
    assert gate.check() == 0


def test_bless_refuses_failed_items_and_keeps_the_old_baseline(gate: Gate) -> None:
    before = gate.baseline.read_bytes()
    gate.store(rate(0.8), failed=1)
    with pytest.raises(UsageError, match="1 of 400 items failed"):
        bless(gate.run(), Terminal())
    assert gate.baseline.read_bytes() == before


def test_the_baseline_is_small_and_repeatable(gate: Gate) -> None:
    before = gate.baseline.read_bytes()
    assert len(before) < 2000
    bless(gate.run(), Terminal())
    assert gate.baseline.read_bytes() == before


# --- cost -------------------------------------------------------------------------------------------------


def test_check_needs_no_model_library_and_little_time(gate: Gate) -> None:
    program = """
import sys
for name in ("torch", "vllm", "transformers", "peft", "lm_eval", "datasets", "safetensors"):
    sys.modules[name] = None  # importing it raises ImportError
from pathlib import Path
from harness.check import check
from harness.config import load_run
from harness.terminal import Terminal
sys.exit(check(load_run(Path(sys.argv[1])), Terminal()))
"""
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program, str(gate.path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "check: pass (exit 0)" in done.stdout
    assert time.monotonic() - started < 10  # under 2 s on a machine that does nothing else
