"""Methods side by side: what the report and `compare` say of students of the same rows, tuned in several ways."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from harness.check.bless import bless
from harness.check.compare import compare
from harness.check.stage import check
from harness.commands.error_analysis import analyse_errors
from harness.config.load import load_run
from harness.config.run import Run
from harness.core.terminal import Terminal
from harness.eval.results import load_results
from harness.records import Cell
from harness.report.analysis import arms
from harness.report.headline import Headline, headline
from harness.report.methods import compare_methods
from harness.report.stage import report
from harness.stats import contrasts
from harness.stats.score_matrix import ScoreMatrix
from tests.fakes import Quiet
from tests.project import write_project
from tests.stored import trained_cell, write_cards, write_cells, write_items
from tests.test_report import Answer, drawn, labelled, scores_of, valued

METHODS = "train.methods={lora: {}, dora: {use_dora: true}, full: {kind: full, learning_rate: 1e-4}}"
SEEDS = (0, 1, 2)
RATES = {"lora": 1e-3, "dora": 1e-3, "full": 1e-4}


def shop(root: Path, *settings: str) -> Run:
    path = write_project(root, "tiny", eval={"suites": ["shop", "talk"], "reference": None})
    write_items(root, 400)
    several = [METHODS, f"train.random_seeds={list(SEEDS)}", "ship.method=dora", *settings]
    return load_run(path, several)


def cell(method: str, size: int = 12, data: str = "filtered", random_seed: int = 0) -> Cell:
    return Cell(student="tiny", data=data, size=size, random_seed=random_seed, method=method)


def like(rate: float, salt: int, random_seed: int, share: float = 0.05) -> Answer:
    """Answers right with a chance of `rate`, most of them the same for every salt."""

    def answer(i: int, item: object) -> dict[str, object]:
        own = drawn(i, salt, random_seed, 1) < share
        return labelled(rate, salt if own else 1000 + random_seed)(i, item)  # type: ignore[arg-type]

    return answer


def store(run: Run, rates: dict[str, float]) -> None:
    """What train and eval would have stored of sizes 4 and 12, three random seeds each, and of the untuned model."""
    base = Cell(student="tiny", data="base", size=0, random_seed=0)
    scored: list[tuple[str, Cell, Answer]] = [("shop", base, labelled(0.2, 9)), ("talk", base, valued(words=float))]
    for n, (method, rate) in enumerate(rates.items()):
        for seed in SEEDS:
            scored += [("shop", cell(method, size, random_seed=seed), like(rate, n, seed)) for size in (4, 12)]
            scored.append(("talk", cell(method, random_seed=seed), valued(words=float)))
    suites = run.suites
    write_cards(run, [(suites[name], who, scores_of(suites[name], answer)) for name, who, answer in scored], seconds=1)
    trained = [trained_cell(base)]
    for name, who, _ in scored:
        if who.size and name == "shop":
            rate = RATES[who.method]
            validated = {"validation_loss": 1 + who.random_seed / 4} if who.method == "full" else {}
            trained.append(trained_cell(who, seconds=7.25, tokens=10, steps=3, learning_rate=rate, **validated))
    write_cells(run, trained)


def test_methods_are_compared_at_equal_rows_with_the_same_random_seeds(tmp_path: Path) -> None:
    run = shop(tmp_path)
    store(run, {"lora": 0.8, "dora": 0.8, "full": 0.5})
    report(run, Quiet())
    text = (run.folder / "eval/report.md").read_text()
    section = text[text.index("## Methods at equal rows") : text.index("## The other suites")]
    assert "- full: full fine-tuning, all weights" in section
    assert "use_dora True" in section
    lines = [line for line in section.splitlines() if line.startswith("| tiny |")]
    assert [re.split(r" \| ", line.strip("| "))[1:4] for line in lines] == [
        ["filtered", size, method] for size in ("4", "12") for method in ("lora", "dora", "full")
    ]
    by_method = {re.split(r" \| ", line)[3]: line for line in lines[3:]}
    assert "worse" in by_method["full"]
    assert "worse" not in by_method["dora"]
    assert "better" not in by_method["dora"]
    assert re.search(r"\| 0\.0001 \| 7\.2 \| 1\.250 \|$", by_method["full"])
    assert by_method["lora"].count("|  ") == 4, "the first method is compared with none, and was not validated"
    # the other parts are about the first method
    results = load_results(run.folder)
    answer = headline(results, arms(results, "shop"), "tiny", 0, method="lora")
    assert isinstance(answer, Headline)
    assert answer.reading.arm.title == "tiny, 12 rows (filtered, lora)"
    assert (
        "Tuned by lora: 1 epoch but at least 2 steps of 4 rows; steps: 4 rows 3, 12 rows 3, learning rate 0.001."
        in text
    )
    assert {alternative.reading.arm.kind for alternative in answer.alternatives} == {"base"}, "no other method"


def test_compare_prints_the_reports_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = shop(tmp_path)
    store(run, {"lora": 0.8, "dora": 0.7, "full": 0.5})
    results = load_results(run.folder)
    at_12 = {c.arm.method: c for c in compare_methods(results, "shop", "accuracy", "lora", 0) if c.arm.size == 12}
    against = at_12["full"].against
    assert against is not None
    assert against.question == "this recipe"
    compare("shop:12.lora", "shop:12.full", lambda name: run, False, Terminal())
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("shop"))
    numbers = [float(number) for number in re.findall(r"(?<![\w.])[-+]?\d[\d.]*", row)]
    interval = against.interval
    assert numbers[2:5] == pytest.approx([interval.estimate, interval.low, interval.high], abs=0.001)


def test_only_random_seeds_that_both_have_are_compared(tmp_path: Path) -> None:
    run = shop(tmp_path)
    suite = run.suites["shop"]
    scored = [(cell("lora", random_seed=seed), labelled(0.8, seed)) for seed in (0, 1, 2)]
    scored += [(cell("dora", random_seed=seed), labelled(0.8, seed)) for seed in (2, 7)]
    scored += [(cell("full", random_seed=9), labelled(0.8, 9))]
    write_cards(run, [(suite, who, scores_of(suite, answer)) for who, answer in scored])
    by_method = {c.arm.method: c for c in compare_methods(load_results(run.folder), "shop", "accuracy", "lora", 0)}
    dora = by_method["dora"].against
    assert dora is not None
    assert (dora.interval.estimate, dora.changed) == (0.0, 0), "the seed that both have gave the same answers"
    assert by_method["full"].against is None


def test_errors_of_one_method_stand_beside_the_others_of_the_same_rows(tmp_path: Path) -> None:
    run = shop(tmp_path)
    store(run, {"lora": 0.8, "dora": 0.7, "full": 0.5})
    found = analyse_errors(run, "shop", None, Quiet())
    assert found[0].student == "tiny, 12 rows (filtered, dora)"
    assert [title for title, _ in found[0].by_arm] == [
        "tiny untuned, zero-shot",
        "tiny, 4 rows (filtered, dora)",
        *(f"tiny, 12 rows (filtered, {method})" for method in ("dora", "full", "lora")),
    ]


def test_the_gate_judges_the_method_that_ships(tmp_path: Path) -> None:
    run = shop(tmp_path)
    store(run, {"lora": 0.8, "dora": 0.8, "full": 0.8})
    bless(run, Quiet())
    assert '"student": "tiny.filtered.12.dora.s0"' in (tmp_path / "runs/shop.baseline.json").read_text()
    assert check(run, Quiet()) == 0
    store(run, {"lora": 0.8, "dora": 0.1, "full": 0.8})
    assert check(run, Quiet()) == 1
    of_lora = shop(tmp_path, "ship.method=lora")
    assert check(of_lora, Quiet()) == 0, "the same items, of another student"


def test_what_a_random_seed_decides_on_both_sides_is_in_no_paired_difference() -> None:
    """Coverage of the 95% interval over 300 simulated pairs of recipes, five seeds each that move both sides alike."""
    rng = np.random.default_rng(0)
    covered, widths = 0, []
    for _ in range(300):
        items = rng.normal(0, 1, (1, 150))
        seeds, own = rng.normal(0, 0.6, (5, 1)), rng.normal(0, 0.15, (2, 5, 1))
        a, b = ((items + seeds + own[n] + 0.3 * n + rng.normal(0, 0.7, (5, 150)) < 0.2).astype(float) for n in (0, 1))
        x = items[:, :, None] + rng.normal(0, 1, (1, 150, 400)) * np.sqrt(0.36 + 0.0225 + 0.49)
        truth = float((x < 0.2).mean() - (x + 0.3 < 0.2).mean())
        one, other = ScoreMatrix.numbered(a), ScoreMatrix.numbered(b)
        paired = contrasts.difference(one, other, random_seed=0, same_seeds=True).estimate
        apart = contrasts.difference(one, other, random_seed=0).estimate
        assert paired is not None
        assert apart is not None
        inner, outer = paired.interval(), apart.interval()
        assert inner.estimate == pytest.approx(outer.estimate)
        covered += inner.low <= truth <= inner.high
        widths.append((inner.high - inner.low) / (outer.high - outer.low))
    assert covered >= 276, "92%"
    assert np.mean(widths) < 0.7
    with pytest.raises(ValueError, match="not the same ones"):
        contrasts.difference(ScoreMatrix.numbered(a[:4]), ScoreMatrix.numbered(b), random_seed=0, same_seeds=True)
