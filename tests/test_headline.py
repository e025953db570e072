"""The headline: which alternatives are looked at, one rival and one number in every place, an interval that holds."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from harness.check.compare import compare
from harness.config.load import load_run
from harness.config.run import Run
from harness.core.terminal import Terminal
from harness.eval.results import load_results
from harness.records import Cell, Item
from harness.report.analysis import Arm, arms, curve, untuned
from harness.report.headline import Headline, _is_alternative, headline, lines, reading, within_chance
from harness.report.stage import report
from harness.stats.score_matrix import ScoreMatrix
from harness.suites.reference import NAME as REFERENCE
from tests.bench.bench_headline import World, covered
from tests.fakes import Quiet
from tests.project import write_project
from tests.stored import write_items
from tests.test_report import Answer, cell, drawn, labelled, store

SAID = r"([\d.]+)% of \d+ test items right.*: ([\d.]+)%\."  # (the student's percent, the rival's)


def shop(root: Path, items: int = 400) -> Run:
    path = write_project(root, "tiny", eval={"suites": ["shop"], "reference": None})
    write_items(root, items)
    return load_run(path)


def reference(size: int, data: str) -> Cell:
    return Cell(student=REFERENCE, data=data, size=size, random_seed=0)


def read_two_ways(written: float, likely: float, salt: int) -> Answer:
    """An untuned model that says less than it knows."""

    def answer(i: int, item: Item) -> dict[str, object]:
        hits = [float(drawn(i, salt) < rate) for rate in (written, likely)]
        return {
            "status": "scored",
            "output": "x",
            "values": dict(zip(("accuracy", "choice_accuracy"), hits, strict=True)),
        }

    return answer


def told(run: Run, student: Answer, base: Answer, seeds: Answer, tfidf: Answer) -> tuple[Headline, str]:
    scored = [
        ("shop", cell(0), base),
        ("shop", cell(4), labelled(0.5, 9)),
        ("shop", cell(12), student),
        ("shop", cell(12, "seeds_only"), seeds),
        ("shop", reference(12, "seeds_only"), tfidf),
        ("shop", reference(12, "filtered"), labelled(0.3, 8)),
    ]
    store(run, scored)
    report(run, Quiet())
    results = load_results(run.folder)
    found = headline(results, arms(results, "shop"), "tiny", 0)
    assert isinstance(found, Headline)
    return found, (run.folder / "eval/report.md").read_text()


@pytest.mark.parametrize(("likely", "rival"), [(0.7, "log-likelihood"), (0.2, "TF-IDF")])
def test_headline_figure_table_and_compare_say_one_number_of_one_rival(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], likely: float, rival: str
) -> None:
    run = shop(tmp_path)
    found, text = told(run, labelled(0.75, 1), read_two_ways(0.1, likely, 5), labelled(0.45, 3), labelled(0.6, 4))
    said = next(line for line in text.splitlines() if line.startswith("**tiny, 12 rows"))
    assert rival in found.rival.reading.title
    own, other = (float(number) for number in re.findall(r"([\d.]+)% of \d+ test items right.*: ([\d.]+)%\.", said)[0])
    assert other == pytest.approx(100 * found.rival.value, abs=0.05)
    # the figure's line
    results = load_results(run.folder)
    drawn_lines = lines(results, arms(results, "shop"), "tiny", "accuracy", found)
    (strongest,) = [line for line in drawn_lines if line.strongest]
    assert strongest.value == found.rival.value
    assert f"{other:.1f}%" in strongest.label
    base = untuned(arms(results, "shop"), "tiny")
    assert base is not None
    base_read = reading(results, base, "accuracy")
    points = curve(results, arms(results, "shop"), "tiny", "filtered", "accuracy", 0, base_read.metric)
    drawn = next(line.value for line in drawn_lines if line.reading == base_read)
    assert points[-1].against_base.interval.estimate == pytest.approx(points[-1].value - drawn), "bars and line are one"
    assert 100 * points[-1].value == pytest.approx(own, abs=0.05)
    # the table's cells in bold
    table = text[text.index("| candidate |") : text.index("| 95% interval of |")]
    bold = sorted(float(number) for number in re.findall(r"\*\*([\d.]+) \[[\d.]+, [\d.]+\]\*\*", table))
    assert bold == pytest.approx(sorted((own / 100, other / 100)), abs=0.001)
    # compare, called as the report says
    names = re.search(r"`harness compare '(\S+)' '(\S+)'` prints", text)
    alone = re.search(r"This pair alone: (\S+) points \[(\S+), (\S+)\]", text)
    assert names is not None
    assert alone is not None
    capsys.readouterr()
    compare(names[1], names[2], lambda name: run, False, Terminal())
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("shop"))
    numbers = [float(number) for number in re.findall(r"(?<![\w.])[-+]?\d[\d.]*", row)]
    assert numbers[:2] == pytest.approx([other / 100, own / 100], abs=0.001)
    assert numbers[2:5] == pytest.approx([float(alone[n]) / 100 for n in (1, 2, 3)], abs=0.001)
    assert ("by log-likelihood" in row) == (rival == "log-likelihood")


def test_every_alternative_within_chance_of_the_best_on_dev_is_looked_at(tmp_path: Path) -> None:
    run = shop(tmp_path)
    found, text = told(run, labelled(0.8, 1), read_two_ways(0.1, 0.2, 5), labelled(0.7, 3), labelled(0.69, 4))
    names = {a.reading.arm.kind for a in found.alternatives}
    assert names == {"student", "reference"}  # not the base, which dev calls worse
    assert found.rival.value == max(a.value for a in found.alternatives)
    assert "strongest of the 2 alternatives within chance of the best on dev" in text
    assert "allowing for 2 alternatives" in text
    wide, alone = found.rival.difference.interval, found.unadjusted.interval
    assert wide.level == pytest.approx(0.975)
    assert wide.low < alone.low < alone.high < wide.high


def test_what_dev_leaves_out_though_it_is_higher_on_test_is_named(tmp_path: Path) -> None:
    run = shop(tmp_path)

    def better_on_test(i: int, item: Item) -> dict[str, object]:
        rate = 0.3 if item.split == "dev" else 0.72
        return {"status": "scored", "output": "x", "values": {"accuracy": float(drawn(i, 5) < rate)}}

    found, text = told(run, labelled(0.8, 1), better_on_test, labelled(0.4, 3), labelled(0.6, 4))
    assert found.rival.reading.arm.kind == "reference"
    (one,) = found.left_out
    assert one.reading.arm.kind == "base"
    assert one.value > found.rival.value
    assert one.difference.interval.level == pytest.approx(0.95)
    assert one.difference.interval.estimate == pytest.approx(found.value - one.value)
    answer, detail = text.split("## tiny on shop")
    for part in (answer, detail):  # beside the rival, where a reader sees one number and the figure another
        assert f"{100 * one.value:.1f}%" in part
        assert one.reading.title in part
    found, _ = told(run, labelled(0.8, 1), labelled(0.3, 5), labelled(0.4, 3), labelled(0.6, 4))
    assert found.left_out == (), "lower on dev and on test"
    assert found.left_out_sentence == ""


def test_what_scores_every_item_alike_is_one_alternative(tmp_path: Path) -> None:
    """A program that looks at no rows is the same on the seeds and on as many rows as the student has."""
    run = shop(tmp_path)

    def against(on_seeds: Answer) -> Headline:
        rules = [("shop", reference(12, "filtered"), labelled(0.6, 4)), ("shop", reference(3, "seeds_only"), on_seeds)]
        store(run, [("shop", cell(0), labelled(0.1, 1)), ("shop", cell(12), labelled(0.7, 3)), *rules])
        results = load_results(run.folder)
        found = headline(results, arms(results, "shop"), "tiny", 0)
        assert isinstance(found, Headline)
        drawn_lines = lines(results, arms(results, "shop"), "tiny", "accuracy", found)
        assert sum(line.strongest for line in drawn_lines) == 1
        assert sum(line.reading.arm.kind == "reference" for line in drawn_lines) == 1, "no line is drawn twice"
        return found

    one, two = against(labelled(0.6, 4)), against(labelled(0.6, 5))
    assert (len(one.alternatives), len(two.alternatives)) == (1, 2)
    assert one.rival.difference.interval == one.unadjusted.interval, "a single alternative takes no allowance"


def test_tuned_students_are_read_by_what_they_write(tmp_path: Path) -> None:
    run = shop(tmp_path)
    both = read_two_ways(0.5, 0.9, 1)
    told(run, both, both, both, both)
    results = load_results(run.folder)
    for arm in arms(results, "shop"):
        metric = reading(results, arm, "accuracy").metric
        assert metric == ("choice_accuracy" if arm.kind == "base" else "accuracy")


def test_no_headline_says_why(tmp_path: Path) -> None:
    run = shop(tmp_path)
    store(run, [("shop", cell(12), labelled(0.7, 1))])
    report(run, Quiet())
    text = (run.folder / "eval/report.md").read_text()
    assert "No headline: there is nothing to compare with. train.sizes: 0" in text
    assert "ship section" not in text


def test_a_run_without_ship_has_its_headline_and_is_told_what_ship_is_for(tmp_path: Path) -> None:
    shop(tmp_path)
    run = load_run(tmp_path / "runs/shop.yaml", ["ship=null"])
    _, text = told(run, labelled(0.8, 1), labelled(0.3, 2), labelled(0.6, 3), labelled(0.5, 4))
    assert "**tiny, 12 rows (filtered): " in text
    assert "for a verdict add: ship: {student: tiny, data: filtered, size: 12}" in text.replace("\\", "")


def right(*wrong: int) -> ScoreMatrix:
    """Values of 80 items, all right but these."""
    return ScoreMatrix.numbered([float(i not in wrong) for i in range(80)])


def test_what_dev_items_cannot_tell_apart_stays() -> None:
    best, one_worse, other = right(*range(20)), right(*range(21)), right(*range(15, 36))
    poor = right(*range(60))
    assert within_chance([one_worse, best, poor, other], 0) == [0, 1, 3]
    assert within_chance([best], 0) == [0]
    assert within_chance([right().scaled(np.nan), poor], 0) == [0, 1]  # what cannot be told stays


def test_a_recipe_beside_a_single_training_is_no_claim_about_recipes(tmp_path: Path) -> None:
    run = shop(tmp_path)
    own = [("shop", cell(12, random_seed=seed), labelled(0.8, seed)) for seed in (1, 2, 3)]

    def questions(*rivals: tuple[str, Cell, Answer]) -> set[str]:
        store(run, [*own, *rivals])
        results = load_results(run.folder)
        found = headline(results, arms(results, "shop"), "tiny", 0)
        assert isinstance(found, Headline)
        return {found.unadjusted.question, *(one.difference.question for one in found.alternatives)}

    lone = ("shop", reference(12, "seeds_only"), labelled(0.6, 4))
    assert questions(lone) == {"these weights"}
    assert questions(("shop", cell(12, "seeds_only"), labelled(0.6, 4))) == {"these weights"}
    assert questions(("shop", cell(0), labelled(0.6, 4))) == {"this recipe"}  # an untuned model is trained by nobody
    three = [("shop", cell(12, "seeds_only", seed), labelled(0.6, 4 + seed)) for seed in (1, 2, 3)]
    assert questions(*three) == {"this recipe"}


def test_a_metric_of_which_less_is_better_turns_the_verdict(tmp_path: Path) -> None:
    run = shop(tmp_path)

    def wrong(rate: float, salt: int) -> Answer:
        return lambda i, item: {
            "status": "scored",
            "output": "x",
            "values": {"wrong": float(drawn(i, salt) < rate), "accuracy": 1.0},
        }

    scored = [("shop", cell(0), wrong(0.9, 1)), ("shop", cell(4), wrong(0.8, 2)), ("shop", cell(12), wrong(0.2, 3)),
              ("shop", cell(12, "seeds_only"), wrong(0.6, 4))]  # fmt: skip
    store(run, scored)
    results = load_results(run.folder)
    found = headline(results, arms(results, "shop"), "tiny", 0, metric="wrong")
    assert isinstance(found, Headline)
    assert found.rival.reading.arm.data == "seeds_only"  # wrong less often than the base
    assert found.verdict == "better"
    assert "test items wrong; best alternative, tiny, 12 rows (seeds only)" in found.sentence()


@pytest.mark.slow
@pytest.mark.parametrize("alternatives", [1, 3, 6])
@pytest.mark.parametrize(("items", "each", "seeds"), [(60, 1, 1), (342, 1, 1), (120, 6, 1), (120, 1, 3)])
def test_the_interval_holds_whichever_alternative_is_named(
    alternatives: int, items: int, each: int, seeds: int
) -> None:
    # without an allowance a student is called worse than the named one of six equal alternatives 12% of the time
    found = covered(World(items, alternatives, each, seeds), count=300)
    assert found.coverage >= 0.925
    assert found.better + found.worse <= 0.075


def test_the_classifier_on_as_many_rows_of_any_data_arm_is_an_alternative() -> None:
    student = Arm("s", "filtered", 64, "zero_shot", ())
    rivals = [
        Arm(REFERENCE, data, size, "trained", ())
        for data in ("filtered", "diverse", "seeds_only")
        for size in (64, 256)
    ]
    counted = [(rival.data, rival.size) for rival in rivals if _is_alternative(rival, student)]
    assert counted == [("filtered", 64), ("diverse", 64), ("seeds_only", 64), ("seeds_only", 256)]
