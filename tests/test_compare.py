"""harness compare: two students of one run or of two, the same table without a verdict."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.check.candidate import candidate_scores
from harness.check.compare import HEADS, comparable, compare, paired_sides, side
from harness.config.load import load_run
from harness.config.run import Run
from harness.core.terminal import Terminal
from harness.errors import UsageError
from harness.eval.results import load_results
from harness.records import Cell
from tests.stored import STUDENT, Stored, rate, write_stored

BASE = Cell(student=STUDENT, data="filtered", size=0, random_seed=0)


def cells(size: int, seeds: int) -> list[Cell]:
    return [Cell(student=STUDENT, data="filtered", size=size, random_seed=seed) for seed in range(seeds)]


@pytest.fixture
def two(tmp_path: Path) -> Stored:
    """Runs `shop` and `other` with the same suite: a base, four seeds of size 12 and two of size 4."""
    stored = write_stored(tmp_path)
    stored.store(
        rate(0.5, salt=9), *[rate(0.8, salt=s, share=0.1) for s in (1, 2, 3, 4)],
        *[rate(0.3, salt=s) for s in (5, 6)], cells=[BASE, *cells(12, 4), *cells(4, 2)],
    )  # fmt: skip
    shutil.copytree(tmp_path / "runs/shop", tmp_path / "runs/other")
    shutil.copy(stored.path, tmp_path / "runs/other.yaml")
    return stored


def load(stored: Stored, name: str) -> Run:
    return load_run(stored.root / f"runs/{name}.yaml")


def told(stored: Stored, capsys: pytest.CaptureFixture[str], a: str, b: str, common: bool = False) -> list[str]:
    """What is printed, line by line."""
    compare(a, b, lambda name: load(stored, name), common, Terminal())
    return capsys.readouterr().out.splitlines()


def test_two_students_of_one_run(two: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    lines = told(two, capsys, f"shop:{STUDENT}.filtered.12.s0", f"shop:{STUDENT}.filtered.4.s0")
    assert lines[:3] == [
        f"A: shop:{STUDENT}.filtered.12.s0 ({STUDENT}.filtered.12.s0)",
        f"B: shop:{STUDENT}.filtered.4.s0 ({STUDENT}.filtered.4.s0)",
        "question: these weights",
    ]
    for head in HEADS:
        assert head in lines[3]
    accuracy = next(line for line in lines[4:] if "accuracy" in line).split()
    assert accuracy[:2] == ["shop", "accuracy"]
    a, b, difference = float(accuracy[2]), float(accuracy[3]), float(accuracy[4])
    assert difference == pytest.approx(b - a, abs=1e-4)
    assert difference < -0.1
    assert 0 < float(accuracy[-1]) < 0.2  # what could have been seen
    assert not any(word in "\n".join(lines) for word in ("pass", "regressed", "exit"))


def test_two_runs_by_their_names_are_their_ship_students(two: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    lines = told(two, capsys, "shop", "other")
    assert lines[0] == f"A: shop ({STUDENT}.filtered.12.s0)"
    accuracy = next(line for line in lines if "accuracy" in line)
    assert "+0.0000" in accuracy
    assert accuracy.split()[-1] == "-"  # without a change there is no minimum detectable difference


def test_a_name_without_its_seed_is_all_seeds_and_asks_about_the_recipe(
    two: Stored, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = told(two, capsys, f"other:{STUDENT}.filtered.12", f"shop:{STUDENT}.filtered.12")
    assert lines[1].count(STUDENT) == 1 + 4
    assert lines[2] == "question: this recipe"


def test_a_part_of_a_students_name_is_enough(two: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    lines = told(two, capsys, "other:filtered.12", "shop:filtered.12.s1")
    assert lines[0] == f"A: other:filtered.12 ({STUDENT}.filtered.12.s1)"  # of its four, the seed that both have
    assert lines[1] == f"B: shop:filtered.12.s1 ({STUDENT}.filtered.12.s1)"
    with pytest.raises(UsageError, match=r"shop: the student 'filtered' may be any of"):
        side("shop:filtered", lambda run: load(two, run))
    with pytest.raises(UsageError, match=r"shop:: there is no student ''"):
        side("shop:", lambda run: load(two, run))


def test_a_base_has_no_seeds_that_could_vary(two: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    lines = told(two, capsys, f"shop:{STUDENT}.base", f"shop:{STUDENT}.filtered.12")
    assert lines[2] == "question: this recipe"
    found = next(line for line in lines if "accuracy" in line)
    assert "[+0." in found  # four seeds against one base: an interval, above zero
    turned = told(two, capsys, f"shop:{STUDENT}.filtered.12", f"shop:{STUDENT}.base")
    assert turned[2] == "question: this recipe"
    assert "-0." in next(line for line in turned if "accuracy" in line)


def test_with_few_seeds_those_that_both_have_are_compared(two: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    lines = told(two, capsys, f"shop:{STUDENT}.filtered.12", f"shop:{STUDENT}.filtered.4")
    assert lines[0].endswith(f"({STUDENT}.filtered.12.s0, {STUDENT}.filtered.12.s1)")
    assert lines[1].endswith(f"({STUDENT}.filtered.4.s0, {STUDENT}.filtered.4.s1)")
    assert lines[2] == "question: these weights"

    def of(name: str) -> tuple[int, ...]:
        return tuple(cell.random_seed for cell in side(name, lambda run: load(two, run)).cells)

    assert of(f"shop:{STUDENT}.filtered.12") == (0, 1, 2, 3)
    lone = side(f"shop:{STUDENT}.filtered.12.s3", lambda run: load(two, run))
    pair = side(f"shop:{STUDENT}.filtered.4", lambda run: load(two, run))
    left, right, question = paired_sides(lone, pair)  # none in common: as they are
    assert ([len(left.cells), len(right.cells)], question) == ([1, 2], "these weights")


def test_clusters_are_seen(two: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    def width(lines: list[str]) -> float:
        low, high = next(line for line in lines if "accuracy" in line).split("[")[1].split("]")[0].split(", ")
        return float(high) - float(low)

    pair = (f"shop:{STUDENT}.filtered.12.s0", f"shop:{STUDENT}.filtered.12.s1")
    whole = [lambda i, k=k: {"accuracy": float(i // 8 % 10 != k)} for k in (0, 1)]
    two.store(*whole, cells=cells(12, 2))
    alone = width(told(two, capsys, *pair))
    two.items(group=lambda i: f"passage {i // 8}")
    two.store(*whole, cells=cells(12, 2))
    assert width(told(two, capsys, *pair)) > 1.5 * alone


def test_another_suite_is_compared_on_request_only(two: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    two.items(300)
    two.store(rate(0.8))  # of the run shop
    with pytest.raises(UsageError, match="no suite that both were scored on with the same items"):
        told(two, capsys, "other", "shop")
    assert "shop: not compared: it has two versions" in capsys.readouterr().err
    lines = told(two, capsys, "other", "shop", common=True)
    now = sum(item.split == "test" for item in load(two, "shop").suites["shop"].items)
    digests = " and ".join(load_results(two.root / f"runs/{run}").cards[0].suite_digest for run in ("other", "shop"))
    assert lines[0] == f"shop: it has two versions ({digests}); compared on the {now} items that both have"
    accuracy = next(line for line in lines if "accuracy" in line).split()
    assert accuracy[-2] == str(now)


def test_one_suite_asked_in_two_ways_is_not_called_two_versions(
    two: Stored, capsys: pytest.CaptureFixture[str]
) -> None:
    two.store(rate(0.8), notes=["5 shots instead of 25"])  # of the run shop
    with pytest.raises(UsageError, match="no suite that both were scored on with the same items"):
        told(two, capsys, "other", "shop")
    assert "shop: not compared: it was asked in two ways; --common" in capsys.readouterr().err
    lines = told(two, capsys, "other", "shop", common=True)
    assert lines[0].startswith("shop: it was asked in two ways; compared on the ")


def test_a_suite_is_comparable_with_itself(two: Stored) -> None:
    one = side("shop", lambda name: load(two, name))
    found = candidate_scores(one.results, one.cells, "shop")
    assert comparable(found, found, False, Terminal())


def test_names_that_nobody_has(two: Stored) -> None:
    with pytest.raises(UsageError, match=r"shop: .*'tiny\.filtered\.13'.*'tiny\.filtered"):
        compare("shop:tiny.filtered.13", "other", lambda name: load(two, name), False, Terminal())
    shutil.rmtree(two.root / "runs/other")
    with pytest.raises(UsageError, match="there are no stored scores"):
        compare("shop", "other", lambda name: load(two, name), False, Terminal())
