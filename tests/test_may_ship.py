"""May it ship? What the report says is what the gate would say now, or why it would say nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.check.may_ship import may_ship
from tests.stored import MARGIN, Stored, write_stored


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return write_stored(tmp_path, **MARGIN)


def test_without_a_ship_section_nobody_is_judged(stored: Stored) -> None:
    assert may_ship(stored.run("ship=null")).startswith("Not judged: runs/shop.yaml has no ship section")


def test_without_a_baseline_the_command_that_makes_one_is_named(stored: Stored) -> None:
    assert "make bless RUN=shop" in may_ship(stored.run())


def test_the_same_scores_pass_and_worse_ones_do_not(stored: Stored) -> None:
    stored.store(lambda i: {"accuracy": float(i % 4 != 0)})
    stored.bless()
    assert may_ship(stored.run()).startswith("Yes: ")
    stored.store(lambda i: {"accuracy": float(i % 2 == 0)}, key="worse")
    said = may_ship(stored.run())
    assert said.startswith("No: ")
    assert "regressed: shop accuracy" in said


def test_failed_items_and_damaged_scores_are_no_verdict(stored: Stored) -> None:
    stored.store(lambda i: {"accuracy": float(i % 4 != 0)})
    stored.bless()
    stored.store(lambda i: {"accuracy": float(i % 4 != 0)}, failed=3, key="failing")
    assert may_ship(stored.run()).startswith("Not judged, since items failed")
    for path in (stored.root / "runs/shop/eval/scores").iterdir():
        path.write_text("")
    assert may_ship(stored.run()).startswith("Not judged: ")
