"""Data arms side by side: what the report says of students of as many rows, chosen in several ways."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.augment.funnel import Calls, Funnel
from harness.config.load import load_run
from harness.config.run import Run
from harness.core.store import Manifest, write_json, write_manifest
from harness.eval.results import load_results
from harness.filters import Agreement, Duplicate, Judge
from harness.records import Cell
from harness.report.data_arms import compared_arms, with_differences
from harness.report.stage import report
from harness.report.worth import Price, filter_price
from tests.fakes import Quiet
from tests.project import write_project
from tests.stored import trained_cell, write_cards, write_cells, write_items
from tests.test_method_report import like
from tests.test_report import Answer, labelled, scores_of, valued

ARMS = "train.data=[filtered, random, {without: judge}, length, seeds_only, {template: list}]"
SEEDS = (0, 1, 2)
AVAILABLE = {"without_judge": 150}


def shop(root: Path, *settings: str) -> Run:
    path = write_project(root, "tiny", eval={"suites": ["shop", "talk"], "reference": None})
    write_items(root, 400)
    return load_run(path, [ARMS, f"train.random_seeds={list(SEEDS)}", *settings])


def cell(data: str, size: int = 12, random_seed: int = 0) -> Cell:
    return Cell(student="tiny", data=data, size=size, random_seed=random_seed)


def store(run: Run, rates: dict[str, float], funnel: Funnel | None = None) -> None:
    """What train and eval would have stored of size 12, three random seeds each, and of the untuned model."""
    base = Cell(student="tiny", data="base", size=0, random_seed=0)
    scored: list[tuple[str, Cell, Answer]] = [("shop", base, labelled(0.2, 9)), ("talk", base, valued(words=float))]
    for n, (data, rate) in enumerate(rates.items()):
        for seed in SEEDS:
            of = cell(data, 60 if data == "seeds_only" else 12, seed)
            scored += [("shop", of, like(rate, n, seed)), ("talk", of, valued(words=float))]
    suites = run.suites
    write_cards(run, [(suites[name], who, scores_of(suites[name], answer)) for name, who, answer in scored], seconds=1)
    trained = [
        trained_cell(who, seconds=1, tokens=10, available=AVAILABLE.get(who.data, 100))
        for name, who, _ in scored
        if name == "shop"
    ]
    write_cells(run, trained)
    if funnel:
        folder = run.folder / "augment"
        write_json(folder / "funnel.json", funnel.model_dump())
        write_manifest(folder, Manifest(stage="augment", inputs="by hand"), [folder / "funnel.json"])


def section(run: Run) -> str:
    report(run, Quiet())
    text = (run.folder / "eval/report.md").read_text()
    if "## Data arms at equal rows" not in text:
        return ""
    return text[text.index("## Data arms at equal rows") : text.index("## The other suites")]


def lines(text: str) -> dict[tuple[str, str], list[str]]:
    """(arm, what it is compared with) -> the cells of its line."""
    cells = [re.split(r" \| ", line.strip("| ")) for line in text.splitlines() if line.startswith("| tiny |")]
    return {(line[2], line[4]): line for line in cells}


RATES = {"filtered": 0.7, "random": 0.7, "without_judge": 0.4, "length": 0.72, "seeds_only": 0.9}


def test_every_arm_is_compared_with_random_and_where_answers_are_labels_with_filtered(tmp_path: Path) -> None:
    run = shop(tmp_path)
    store(run, RATES)
    text = section(run)
    found = lines(text)
    assert list(found) == [
        ("filtered", "minus random"),
        ("without_judge", "minus filtered"),
        ("without_judge", "minus random"),
        ("length", "minus filtered"),
        ("length", "minus random"),
    ]
    assert all(line[1] == "12" for line in found.values())
    assert {pair: line[6] for pair, line in found.items() if line[6] == "worse"} == {
        ("without_judge", "minus filtered"): "worse",
        ("without_judge", "minus random"): "worse",
    }
    assert "of 5 comparisons about 0.25 would seem to differ by chance alone" in text
    assert "(1 epoch but at least 2 steps of 4 rows) and the same random seeds" in text
    assert "about this recipe (items and random seeds vary)" in text
    assert (
        "With all 5 allowed for (Bonferroni), without_judge is worse than random at 12 rows on shop;"
        " without_judge is worse than filtered at 12 rows on shop." in text
    )
    assert "talk" not in text, "arms are compared on the task's own items"


def test_without_a_random_arm_filtered_is_what_counts(tmp_path: Path) -> None:
    run = shop(tmp_path, "train.data=[filtered, unfiltered]")
    store(run, {"filtered": 0.7, "unfiltered": 0.7})
    text = section(run)
    assert list(lines(text)) == [("unfiltered", "minus filtered")]
    assert "none of them differs" in text


def test_one_arm_and_the_seeds_alone_are_no_comparison(tmp_path: Path) -> None:
    run = shop(tmp_path, "train.data=[filtered, seeds_only]")
    store(run, {"filtered": 0.7, "seeds_only": 0.8})
    assert section(run) == ""


def test_a_replay_is_compared_with_what_it_replays_on_every_suite(tmp_path: Path) -> None:
    write_project(tmp_path, "tiny")
    run = shop(tmp_path, "train.data=[random, filtered, {replay: 0.25, rows: suites/shop.jsonl}]")
    name = "replay_shop_25_filtered"
    store(run, {"random": 0.7, "filtered": 0.7, name: 0.7})
    pairs = [
        (suite.name, arm.data, control.data)
        for suite, arm, control in compared_arms(
            load_results(run.folder, run.suites), list(run.suites.values()), run.file.train
        )
        if arm.data == name
    ]
    assert pairs == [("shop", name, "random"), ("shop", name, "filtered"), ("talk", name, "filtered")]


@pytest.mark.parametrize("gap", [0.0, 0.3])
def test_bonferroni_is_the_stricter_of_both(tmp_path: Path, gap: float) -> None:
    run = shop(tmp_path)
    store(run, {**RATES, "without_judge": 0.7 - gap})
    results = load_results(run.folder, run.suites)
    planned = list(compared_arms(results, list(run.suites.values()), run.file.train))
    pairs = with_differences(results, planned, 0)
    for pair in pairs:
        assert pair.difference.interval.level == 0.95
        assert not pair.holds or pair.holds == pair.difference.verdict
    assert any(pair.holds for pair in pairs) == (gap > 0)


# --- what calls bought

JUDGE = Judge(template="prompts/shop/judge.j2")
CALLS = (
    Calls(purpose="generate", template="prompts/shop/list.j2", teacher="script@1", calls=300, money=3.0),
    Calls(purpose="calibrate", template="prompts/shop/judge.j2", teacher="script@1", calls=60, money=0.6),
    Calls(purpose="judge", template="prompts/shop/judge.j2", teacher="script@1", calls=240, money=2.4),
)
FUNNEL = Funnel(
    wanted=100, requested=300, kept=100, dropped={"judge": 200}, kept_by_label={"": 100}, calls=CALLS, calls_paid=600
)


def test_a_filter_costs_what_it_asks_and_the_rows_that_it_drops() -> None:
    # 600 calls for 100 rows with it, 300 for 150 rows without
    judged = filter_price(JUDGE, FUNNEL, 150)
    assert judged.calls == 6.0 - 2.0
    assert judged.money == pytest.approx(0.06 - 0.02)
    # one that asks nothing costs the rows that it drops alone: 600 calls for 100 rows or for 120
    unasked = filter_price(Duplicate(), FUNNEL, 120)
    assert unasked.calls == 1.0
    assert unasked.money == pytest.approx(0.01)
    pair = Agreement(template="prompts/shop/judge.j2", teachers=("a", "b"))
    assert filter_price(pair, FUNNEL, 150).calls == 4.0
    free = FUNNEL.model_copy(update={"calls": tuple(line.model_copy(update={"money": None}) for line in CALLS)})
    assert filter_price(JUDGE, free, 150) == Price(4.0, None)


def test_the_report_says_what_calls_bought(tmp_path: Path) -> None:
    run = shop(tmp_path)
    store(run, {**RATES, "template_list": 0.7}, FUNNEL)
    text = section(run)
    worth = text[text.index("### What calls bought, on shop") :]
    rows = [re.split(r" \| ", line.strip("| ")) for line in worth.splitlines() if "| tiny |" in line]
    assert [(line[0], line[2], line[4], line[5]) for line in rows] == [
        ("filter judge", "12", "4.00", "48"),
        ("template list", "12", "3.00", "36"),
    ]
    for line, calls, money in zip(rows, (48, 36), (0.48, 0.36), strict=True):
        points = float(re.match(r"[+-][\d.]+", line[3])[0])  # type: ignore[index]
        assert float(line[6].split()[0]) == pytest.approx(1000 * points / calls, abs=2)
        assert float(line[7].split()[0]) == pytest.approx(points / money, abs=0.3)
    assert float(rows[0][3].split()[0]) > 20, "the filter's rows are better than those without it"


def test_a_funnel_that_does_not_know_its_calls_says_so(tmp_path: Path) -> None:
    run = shop(tmp_path)
    store(run, RATES, FUNNEL.model_copy(update={"calls": ()}))
    assert "does not say which calls were whose (an older version wrote it)" in section(run)
    store(run, RATES, FUNNEL.model_copy(update={"calls": (), "calls_paid": 0}))
    assert "which calls were whose: there were none" in section(run)
