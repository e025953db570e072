"""check and bless on stored scores: exit codes, planted changes, every refusal; and no model library is needed."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from harness.check.baseline import Baseline
from harness.check.rescore import NoiseFile
from harness.check.stage import Options, check
from harness.config.load import load_run
from harness.core.terminal import Terminal
from harness.errors import UsageError
from harness.records import Cell
from tests.process import COMMAND, ROOT, harness
from tests.stored import MARGIN, NAME, STUDENT, Stored, Values, rate, write_stored

RECIPE = "ship.question=recipe"


# --- verdicts ---------------------------------------------------------------------------------------------


def test_identical_student_passes(gate: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    assert gate.check() == 0
    out = capsys.readouterr().out
    assert "the same weights" in out
    assert "question: these weights" in out
    assert "check: pass (exit 0)" in out


def test_the_same_student_trained_elsewhere_is_judged_by_its_scores(gate: Stored) -> None:
    gate.store(rate(0.4, salt=1))  # the key is the blessed one's
    assert gate.check() == 1


def test_planted_regression_is_caught(gate: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    gate.store(rate(0.4, salt=1), key="other")
    assert gate.check() == 1
    assert "regressed" in capsys.readouterr().out


def test_planted_improvement_passes(gate: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    gate.store(rate(1.0, salt=1), key="other")
    assert gate.check() == 0
    assert "pass (improved)" in capsys.readouterr().out


def test_few_items_are_not_enough(gate: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    gate.items(140)
    gate.suite(limits={"accuracy": {"margin": 0.09}})
    gate.store(rate(0.8))
    gate.bless()
    gate.store(rate(0.6, salt=1), key="other")
    assert gate.check() == 4
    assert "reaches across -0.09" in capsys.readouterr().out
    assert gate.check(options=Options(unsure="pass")) == 0
    assert "check: inconclusive (exit 0)" in capsys.readouterr().out


def test_unsure_passes_no_regression(gate: Stored) -> None:
    gate.store(rate(0.4, salt=1), key="other")
    assert gate.check(options=Options(unsure="pass")) == 1


def test_worse_yet_inside_the_margin_passes_and_says_so(gate: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    gate.suite(limits={"accuracy": {"margin": 0.4}})
    gate.store(rate(0.4, salt=1), key="other")
    assert gate.check() == 0
    assert "pass (worse, within the margin)" in capsys.readouterr().out


def test_relative_and_absolute_margins_agree_where_they_say_the_same(gate: Stored) -> None:
    gate.store(rate(0.55, salt=1), key="other")
    was = json.loads(gate.baseline.read_text())["suites"]["shop"]["metrics"]["accuracy"]["mean"]
    for margin, code in ((0.02, 1), (0.4, 0)):
        for limit in ({"margin": margin}, {"margin_share": margin / was}):
            gate.suite(limits={"accuracy": limit})
            assert gate.check() == code, limit


@pytest.mark.parametrize(
    ("limit", "code"),
    [({"min": 0.5}, 0), ({"min": 0.95}, 1), ({"min": 0.8}, 4), ({"max": 0.5}, 1), ({"max": 0.95}, 0)],
)
def test_values_of_their_own(gate: Stored, limit: dict[str, float], code: int) -> None:
    gate.suite(limits={"accuracy": limit})
    assert gate.check() == code


def longer(by: float) -> Values:
    return lambda i: {"accuracy": 1.0, "words": rate(0.8)(i)["words"] + by * (1 + i % 3) / 2}


@pytest.mark.parametrize(("by", "code"), [(0.3, 0), (1.2, 1), (0.5, 4), (-3.0, 0)])
def test_a_metric_whose_less_is_better(gate: Stored, by: float, code: int) -> None:
    gate.suite(limits={"words": {"margin": 0.5, "better": "lower"}})
    gate.bless()
    assert gate.check() == 0
    gate.store(longer(by), key="other")
    assert gate.check() == code


def test_a_rate_counts_the_items_without_a_value(gate: Stored) -> None:
    gate.store(lambda i: rate(0.8)(i) if i % 3 else {"words": 1.0}, key="other")
    assert gate.check() == 1


def test_values_that_went_missing_leave_a_pass_undecided(gate: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    gate.suite(limits={"words": {"margin": 0.5, "better": "lower"}})
    gate.bless()
    gate.store(lambda i: rate(0.8)(i) if i % 3 else {"accuracy": 1.0}, key="other")
    assert gate.check() == 4
    out = capsys.readouterr().out
    assert "have none now" in out
    assert " of 3" in out  # paired items of all test items


def test_failed_items_are_the_tools_failure(gate: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    gate.store(rate(0.4, salt=1), failed=2, key="other")
    assert gate.check() == 3
    assert "2 items failed" in capsys.readouterr().out
    assert gate.check(options=Options(unsure="pass")) == 3


def test_passages_count_as_passages(gate: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    gate.items(group=lambda i: f"passage {i // 8}")
    gate.suite(limits={"accuracy": {"margin": 0.05}})
    gate.store(lambda i: {"accuracy": float(i // 8 not in (0, 1))})
    gate.bless()
    gate.store(lambda i: {"accuracy": float(i // 8 not in (2, 3))}, key="other")
    assert gate.check() == 4
    assert "clusters of items would tell" in capsys.readouterr().out


def test_the_noise_floor_widens(gate: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    gate.store(rate(1.0, salt=1), key="other")
    assert gate.check() == 0
    metric = {"items": 300, "changed": 0.1, "differences": [0.1, -0.1], "deviation": 0.1}
    suite = {"card": "card0", "items": 300, "failed": 0, "metrics": {"accuracy": metric}}
    noise = {"student": NAME, "batch_tokens": 64, "passes": [], "suites": {"shop": suite}}
    path = gate.root / "runs/shop/eval/noise.json"

    def measured(found: dict[str, Any]) -> None:
        record = NoiseFile.model_validate(found)
        path.write_text(record.model_copy(update={"digest": record.sealed()}).model_dump_json())

    measured(noise)
    assert gate.check() == 4
    path.write_text(path.read_text().replace('"deviation":0.1', '"deviation":0.0'))
    refused(gate, "noise.json was edited", "harness rescore shop makes it again")
    measured(noise | {"suites": {"shop": suite | {"card": "of another student"}}})
    assert gate.check() == 0
    path.write_text(path.read_text()[:-9])
    refused(gate, "noise.json", "harness rescore shop makes it again")


# --- weights or recipe --------------------------------------------------------------------------------------


def test_a_recipe_takes_all_random_seeds_and_at_least_three(gate: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    four = [rate(0.8, salt=s, share=0.1) for s in (1, 2, 3, 4)]
    gate.store(*four)
    gate.suite(limits={"accuracy": {"margin": 0.08}})
    gate.bless(RECIPE)
    stored = json.loads(gate.baseline.read_text())
    assert stored["question"] == "this recipe"
    assert len(stored["suites"]["shop"]["metrics"]["accuracy"]["columns"]) == 4
    gate.store(*[rate(0.8, salt=s, share=0.1) for s in (5, 6, 7, 8)], key="other")
    assert gate.check(RECIPE) == 0
    assert "question: this recipe (test items and random seeds vary)" in capsys.readouterr().out
    gate.store(*[rate(0.4, salt=s) for s in (5, 6, 7, 8)], key="other")
    assert gate.check(RECIPE) == 1
    two = ("train.random_seeds=[0, 1]", RECIPE)
    assert gate.check(*two) == 4
    assert "a recipe needs 3 random seeds a side; there are 2" in capsys.readouterr().out


def test_a_baseline_of_weights_cannot_answer_for_a_recipe(gate: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    gate.store(*[rate(1.0, salt=s) for s in (1, 2, 3, 4)], key="other")
    assert gate.check(RECIPE) == 4
    assert "blessed to ask about these weights; ship now asks about this recipe" in capsys.readouterr().err


def test_bless_refuses_a_recipe_that_cannot_be_judged(gate: Stored) -> None:
    gate.store(rate(0.8), rate(0.8, salt=1))
    two = ("train.random_seeds=[0, 1]", RECIPE)
    with pytest.raises(UsageError, match=r"3 random seeds .* 2\b"):
        gate.bless(*two)
    gate.store(*[rate(right, salt=1, share=0.25) for right in (0.3, 0.9, 0.5, 0.8)])
    with pytest.raises(UsageError, match=r"0\.05 .*\d\d+ random seeds"):
        gate.bless(RECIPE)


def test_bless_refuses_a_recipe_that_its_items_cannot_decide(gate: Stored) -> None:
    gate.store(*[rate(0.8, salt=s) for s in (1, 2, 3, 4)])  # equally good seeds, and a quarter of the items differ
    with pytest.raises(UsageError, match=r"0\.05 .*303 test items"):
        gate.bless(RECIPE)
    gate.suite(limits={"accuracy": {"margin": 0.1}})
    gate.bless(RECIPE)
    gate.items(group=lambda i: f"passage {i // 100}")
    gate.store(*[rate(0.8, salt=s) for s in (1, 2, 3, 4)])
    with pytest.raises(UsageError, match="more passages that they stand in"):
        gate.bless(RECIPE)


def test_a_base_is_only_asked_about_its_weights(gate: Stored) -> None:
    gate.store(rate(0.8), cells=[Cell(student=STUDENT, data="filtered", size=0, random_seed=0)])
    base = ("ship.size=0", RECIPE)
    gate.bless(*base)
    assert gate.check(*base) == 0


# --- bless ------------------------------------------------------------------------------------------------------


def test_the_baseline_is_small_and_repeatable(gate: Stored) -> None:
    before = gate.baseline.read_bytes()
    assert len(before) < 4000
    gate.bless()
    assert gate.baseline.read_bytes() == before


def test_bless_refuses_failed_items_and_keeps_the_old_baseline(gate: Stored) -> None:
    before = gate.baseline.read_bytes()
    gate.store(rate(0.8), failed=1)
    with pytest.raises(UsageError, match="1 items failed"):
        gate.bless()
    assert gate.baseline.read_bytes() == before


def test_bless_counts_passages(gate: Stored) -> None:
    whole = [lambda i, k=k: {"accuracy": float(i // 8 % 20 != k)} for k in (0, 1)]  # whole passages flip
    gate.suite(limits={"accuracy": {"margin": 0.1}})
    gate.store(*whole)
    gate.bless()  # as items, they are enough
    gate.items(group=lambda i: f"passage {i // 8}")
    gate.store(*whole)
    with pytest.raises(
        UsageError, match=r"about \d{3,4} test items with changes as large as to the most similar student"
    ):
        gate.bless()
    gate.items(group=lambda i: f"passage {i // 100}")
    gate.store(*whole)
    with pytest.raises(UsageError, match="more passages that they stand in"):
        gate.bless()


def git(root: Path, *words: str) -> None:
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(root), *who, *words], check=True, capture_output=True)


@pytest.mark.parametrize("below", ["", "projects/one"])
def test_bless_refuses_uncommitted_changes(tmp_path: Path, below: str) -> None:
    gate = write_stored(tmp_path / below)
    (gate.root / ".gitignore").write_text("runs/*/\n")
    git(tmp_path, "init", "-q")
    with pytest.raises(UsageError, match=r"uncommitted changes .*commit them first"):
        gate.bless()
    assert not gate.baseline.exists()
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "a project")
    gate.bless()
    gate.bless()  # the baseline itself is new, and may be made again
    (gate.root / "prompts/shop/notes.txt").write_text("new")
    with pytest.raises(UsageError, match=r"1 uncommitted .*prompts/shop/notes\.txt"):
        gate.bless()


def test_bless_refuses_a_margin_that_its_items_cannot_decide(gate: Stored) -> None:
    kin = [rate(0.8), rate(0.8, salt=1)]  # another seed: about 16% of the items change
    gate.store(*kin)
    before = gate.baseline.read_bytes()
    with pytest.raises(UsageError, match=r"suites/shop\.yaml: limits: accuracy: .*0\.05") as caught:
        gate.bless()
    assert "test items with 1" in str(caught.value)
    assert "write more, or allow more" in str(caught.value)
    assert gate.baseline.read_bytes() == before
    gate.suite(limits={"accuracy": {"margin": 0.1}})
    gate.bless()
    gate.suite(limits={"accuracy": {"margin_share": 0.05}})
    with pytest.raises(UsageError, match="needs about"):
        gate.bless()
    gate.suite(limits={"accuracy": {"min": 0.1}})
    gate.bless()  # only limits on the change are judged by a change


def test_bless_judges_by_the_nearest_size_where_there_is_one_seed(gate: Stored) -> None:
    cells = [Cell(student=STUDENT, data="filtered", size=size, random_seed=0) for size in (12, 4, 0)]
    gate.store(rate(0.8), rate(0.8, salt=1, share=0.02), rate(0.0, salt=2), cells=cells)
    gate.bless()
    cells = [cells[0], cells[2]]
    gate.store(rate(0.8), rate(0.0, salt=2), cells=cells)
    with pytest.raises(UsageError, match="needs about"):
        gate.bless()


def test_bless_refuses_too_few_items_without_any_kin_and_real_values_too(gate: Stored) -> None:
    gate.suite(limits={"accuracy": {"margin": 0.002}})
    with pytest.raises(UsageError, match=r"a margin of 0.002 needs about \d+ test items"):
        gate.bless()
    gate.suite(limits={"words": {"margin": 0.1, "better": "lower"}})
    gate.store(longer(0.1), longer(2.0))
    with pytest.raises(UsageError, match="with changes as large as to the most similar student"):
        gate.bless()


# --- refusals ---------------------------------------------------------------------------------------------


def refused(gate: Stored, *words: str, settings: tuple[str, ...] = (), options: Options | None = None) -> None:
    with pytest.raises(UsageError) as caught:
        gate.check(*settings, options=options)
    assert caught.value.exit_code == 2
    for word in words:
        assert word in str(caught.value)


def test_no_baseline(gate: Stored) -> None:
    gate.baseline.unlink()
    refused(gate, "runs/shop.baseline.json", "harness bless shop")


def test_no_ship_section(gate: Stored) -> None:
    refused(gate, "ship", "runs/shop.yaml", settings=("ship=null",))


def test_another_student_than_was_scored(gate: Stored) -> None:
    gate.store(rate(0.8), cells=[Cell(student=STUDENT, data="filtered", size=0, random_seed=0)])
    refused(gate, NAME, "tiny.base", "make eval")


def test_the_base_and_seeds_only_are_named_as_train_names_them(gate: Stored) -> None:
    gate.store(rate(0.8), cells=[Cell(student=STUDENT, data="filtered", size=0, random_seed=0)])
    assert gate.check("ship.size=0") == 0
    seeds = len(gate.run().seeds)
    gate.store(rate(0.8), cells=[Cell(student=STUDENT, data="seeds_only", size=seeds, random_seed=0)])
    assert gate.check("ship.data=seeds_only") == 0


def test_nothing_is_gated(gate: Stored) -> None:
    gate.suite()
    refused(gate, "limits", "shop")
    gate.suite(limits={"accuracy": {}})
    refused(gate, "suites/shop.yaml", "margin_share")


def test_a_metric_without_values_per_item(gate: Stored) -> None:
    gate.suite(limits={"macro_f1": {"margin": 0.1}})
    refused(gate, "macro_f1", "number of all answers together", "only min and max")
    gate.suite(limits={"macro_f1": {"min": 0.0}})
    assert gate.check() == 0  # one number, compared as it is
    gate.suite(limits={"macro_f1": {"min": 0.99}})
    assert gate.check() == 1
    gate.suite(limits={"acuracy": {"margin": 0.1}})
    with pytest.raises(UsageError, match=r"suites/shop\.yaml:\d+: limits: 'acuracy' .*did you mean 'accuracy'\?"):
        gate.run()  # when the run file is loaded, before anything is trained
    gate.suite(limits={"brevity": {"margin": 0.1}})
    refused(gate, "'brevity' is no metric of this suite", "allowed: accuracy")
    gate.suite(limits={"words": {"margin": 0.1, "better": "lower"}})
    refused(gate, "blessed without words", "harness bless shop")


@pytest.mark.parametrize("bound", ["margin", "margin_share"])
def test_a_margin_on_what_is_neither_good_nor_bad_needs_its_direction(gate: Stored, bound: str) -> None:
    for metric in ("kl_from_base", "words"):
        gate.suite(limits={metric: {bound: 0.1}})
        refused(gate, f"suites/shop.yaml: limits: {metric}: ", "better: higher, or better: lower")
        with pytest.raises(UsageError, match="better: higher, or better: lower"):
            gate.bless()
    gate.suite(limits={"words": {bound: 0.5, "better": "lower"}})
    gate.bless()
    assert gate.check() == 0
    gate.suite(limits={"words": {"max": 9.0}})  # a bound on the value itself has its direction
    assert gate.check() == 0


def test_another_version_of_the_suite(gate: Stored) -> None:
    gate.suite(version=2, changes={"2": "2026-01-01: more items"}, limits=MARGIN)
    gate.store(rate(0.8))
    refused(gate, "version 1 was blessed, this is version 2", "more items", "--common")


def test_another_rule_under_the_same_version(gate: Stored) -> None:
    gate.suite(max_tokens=5, limits=MARGIN)
    refused(gate, "changed since it was scored", "make augment train eval")
    gate.store(rate(0.8))
    refused(gate, "same version 1", "harness bless")


def test_asked_differently(gate: Stored) -> None:
    gate.store(rate(0.8), notes=["5 shots instead of 25"])
    refused(gate, "asked differently: as its file says when it was blessed, 5 shots instead of 25 now")


def test_missing_items(gate: Stored) -> None:
    gate.store(rate(0.8), drop=5)
    refused(gate, "test items were blessed", "blessed items have no test score now (")


def test_random_seeds_scored_on_different_suites(gate: Stored) -> None:
    gate.store(*[rate(0.8)] * 3)
    path = gate.root / "runs/shop/eval/scorecards.json"
    stored = json.loads(path.read_text())
    stored["cards"][2]["suite_digest"] = "another"
    path.write_text(json.dumps(stored))
    gate.seal()
    refused(gate, "different items of shop", settings=(RECIPE, "train.random_seeds=[0, 1, 2]"))


def test_common_compares_on_shared_items_and_says_so(gate: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    blessed = json.loads(gate.baseline.read_text())["suites"]["shop"]["items"]
    gate.items(300)
    gate.suite(version=2, limits={"accuracy": {"margin": 0.06}})
    gate.store(rate(0.8), key="other")
    now = sum(item.split == "test" for item in gate.run().suites["shop"].items)
    refused(gate, "version 1 was blessed", f"{blessed - now} blessed items have no test score now")
    assert gate.check(options=Options(common=True)) == 0
    out = capsys.readouterr().out
    assert f"Compared on the {now} items that both have: {blessed - now} blessed ones are gone" in out
    assert f"  {now}  " in out
    gate.store(lambda i: {"accuracy": 0.0}, key="other")
    assert gate.check(options=Options(common=True)) == 1


def test_common_pairs_each_item_with_itself(gate: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    items = gate.root / "suites/shop.jsonl"
    lines = items.read_text().splitlines(keepends=True)
    kept = lines[::-1][:350]  # another order, and 50 fewer; a new one in front
    items.write_text(json.dumps({"text": "a new one", "label": "parcel"}) + "\n" + "".join(kept))
    gate.suite(version=2, limits={"accuracy": {"margin": 0.06}})
    gate.store(lambda i: rate(0.8)(400 - i) if i else {"accuracy": 0.0, "words": 0.0}, key="other")
    assert gate.check(options=Options(common=True)) == 0
    assert "+0.0000 [-0.0" in capsys.readouterr().out  # nothing changed on any of them


def test_common_with_nothing_in_common(gate: Stored) -> None:
    text = (gate.root / "suites/shop.jsonl").read_text()
    (gate.root / "suites/shop.jsonl").write_text(text.replace("message", "note"))
    gate.store(rate(0.8))
    refused(gate, "no test item is left that both have", options=Options(common=True))


# --- damaged files ----------------------------------------------------------------------------------------------


def reseal(gate: Stored, stored: dict[str, Any]) -> None:
    """Write a baseline whose digest fits, as one made wrong would have it."""
    gate.baseline.write_text(json.dumps(stored | {"digest": Baseline.model_validate(stored).sealed()}))


def test_a_baseline_truncated_anywhere(gate: Stored) -> None:
    whole = gate.baseline.read_text()
    for size in [0, 1, 10, *range(20, len(whole) - 2, len(whole) // 20), len(whole) - 3]:
        gate.baseline.write_text(whole[:size])
        refused(gate, "shop.baseline.json", "truncated", "harness bless shop")
    gate.baseline.write_bytes(b"\xff\xfe" + whole.encode())
    refused(gate, "shop.baseline.json")
    gate.baseline.unlink()
    gate.baseline.mkdir()
    refused(gate, "shop.baseline.json")


def test_an_edited_baseline(gate: Stored) -> None:
    whole = gate.baseline.read_text()
    stored = json.loads(whole)
    gate.baseline.write_text(whole.replace('"mean": 0.', '"mean": 0.1', 1))
    refused(gate, "shop.baseline.json", "edited", stored["digest"][:16])
    gate.baseline.write_text(whole.replace(stored["digest"], "0" * 64))
    refused(gate, "edited", "0" * 16)
    gate.baseline.write_text(json.dumps(stored | {"extra": 1}))
    refused(gate, "extra")
    gate.baseline.write_text("[]")
    refused(gate, "shop.baseline.json")
    gate.baseline.write_text(json.dumps(stored))  # another layout of the same content is the same baseline
    assert gate.check() == 0


def test_a_baseline_of_another_format(gate: Stored) -> None:
    stored = json.loads(gate.baseline.read_text())
    for found in (1, 9, None, "2"):
        gate.baseline.write_text(json.dumps(stored | {"format": found}))
        refused(gate, f"format {found!r}", "reads format 2")


def test_a_sealed_baseline_that_was_made_wrong(gate: Stored) -> None:
    whole = gate.baseline.read_text()

    def made(change: Callable[[dict[str, Any]], None], *words: str) -> None:
        stored = json.loads(whole)
        change(stored["suites"]["shop"])
        reseal(gate, stored)
        refused(gate, "shop.baseline.json: shop: ", *words)

    ids = base64.b64decode(json.loads(whole)["suites"]["shop"]["ids"])
    made(lambda s: s.update(ids=base64.b64encode(ids[:-1]).decode()), "6 bytes each")
    made(lambda s: s.update(ids=base64.b64encode(ids[:-6]).decode()), "ids for")
    made(lambda s: s.update(ids="no base64!"), "not a whole baseline")
    made(lambda s: s.update(items=s["items"] + 1), "ids for")
    columns: Callable[[dict[str, Any]], dict[str, Any]] = lambda s: s["metrics"]["accuracy"]  # noqa: E731
    made(lambda s: columns(s).update(columns=[{"bits": "AAAA"}]), "3 bytes for")
    made(lambda s: columns(s).update(columns=[{"values": "1 0 -"}]), "3 values for")
    made(lambda s: columns(s).update(columns=[{"values": "one"}]), "one")
    made(lambda s: columns(s).update(columns=[]), "not a whole baseline")
    made(lambda s: columns(s).update(columns=columns(s)["columns"] * 2), "2 columns for 1 students")


def test_a_suite_the_baseline_does_not_hold(gate: Stored) -> None:
    stored = json.loads(gate.baseline.read_text())
    stored["suites"]["other"] = stored["suites"].pop("shop")
    reseal(gate, stored)
    refused(gate, "does not hold the suite shop", "other")


def test_damaged_scores(gate: Stored) -> None:
    path = gate.scores()
    lines = path.read_text().splitlines(keepends=True)

    def damaged(text: str, *says: str) -> None:
        path.write_text(text)
        refused(gate, "card0.jsonl was edited or damaged since eval wrote it; make eval RUN=shop")
        gate.seal()  # and where the seal was made anew as well
        refused(gate, "card0.jsonl", "make eval RUN=shop", *says)
        write_good()

    def write_good() -> None:
        path.write_text("".join(lines))
        gate.seal()

    damaged("".join(lines)[: len("".join(lines)) // 2])
    damaged("".join(lines[:-1]), "399 scores", "counts 400")
    damaged("".join([*lines[:-1], lines[0]]), "400 scores of 399 different items")
    damaged("".join([*lines, lines[0]]), "401 scores of 400 different items")
    damaged(lines[0].replace('"values"', '"numbers"') + "".join(lines[1:]), ":1: numbers: unknown field", "allowed:")
    path.unlink()
    refused(gate, "card0.jsonl is missing", "make eval RUN=shop")


def test_damaged_scorecards(gate: Stored) -> None:
    path = gate.root / "runs/shop/eval/scorecards.json"
    whole = path.read_text()
    for size in (0, 5, len(whole) // 2, len(whole) - 1):
        path.write_text(whole[:size])
        refused(gate, "scorecards.json")
        gate.seal()
        refused(gate, "scorecards.json", "make eval RUN=shop")
    path.write_text("{}")
    gate.seal()
    refused(gate, "scorecards.json", "make eval RUN=shop")
    path.unlink()
    refused(gate, "make eval RUN=shop")


def test_scores_of_another_format(gate: Stored) -> None:
    gate.store(rate(0.8), format=7)
    refused(gate, NAME, "format 7", "reads format 1", "make eval RUN=shop")


# --- what it writes -----------------------------------------------------------------------------------------------


def test_the_forms_that_ci_reads(gate: Stored, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gate.suite(limits={"accuracy": {"margin": 0.05, "min": 0.5}})
    gate.store(rate(0.4, salt=1), key="other")
    files = [tmp_path / "out" / name for name in ("junit.xml", "check.json")]
    summary = tmp_path / "summary.md"
    summary.write_text("what an earlier step said\n")
    options = Options(junit=files[0], json=files[1], summary=summary, annotate=True)
    assert gate.check(options=options) == 1
    cases = list(ElementTree.parse(files[0]).getroot().iter("testcase"))
    assert [case.get("name") for case in cases] == ["accuracy margin 0.05", "accuracy min 0.5"]
    stored = json.loads(files[1].read_text())
    assert (stored["verdict"], stored["exit_code"], len(stored["decisions"])) == ("regressed", 1, 2)
    text = summary.read_text()
    assert text.startswith("what an earlier step said\n## check shop: regressed (exit 1)")
    assert "::error file=runs/shop.baseline.json,title=shop accuracy%3A regressed::" in capsys.readouterr().out
    summary.write_text("x" * (1024 * 1024 - 50))
    gate.check(options=Options(summary=summary))
    assert summary.stat().st_size == 1024 * 1024 - 50  # where there is no room, nothing is added


def test_edited_scores_are_not_the_cards(gate: Stored) -> None:
    text = gate.scores().read_text()
    assert '"accuracy":0.0' in text
    gate.scores().write_text(text.replace('"accuracy":0.0', '"accuracy":1.0'))
    refused(gate, "card0.jsonl", "edited or damaged", "make eval")


def test_scores_of_students_made_otherwise(gate: Stored) -> None:
    assert gate.check() == 0
    refused(gate, "other rows, templates", "make augment train eval RUN=shop", settings=("train.epochs=9",))
    refused(gate, "other rows, templates", "make augment train eval RUN=shop", settings=("augment.rows=25",))
    assert gate.check("train.random_seeds=[0, 1]") == 0  # which seeds are trained changes none of them


def test_a_suite_that_could_not_be_run(gate: Stored) -> None:
    (gate.root / "suites/arc.yaml").write_text(
        "kind: benchmark\nbenchmark: arc_challenge\nlimits: {accuracy: {margin: 0.1}}\n"
    )
    two = "eval.suites=[shop, arc]"
    path = gate.root / "runs/shop/eval/scorecards.json"
    stored = json.loads(path.read_text()) | {"not_run": {"arc": "the hub cannot be reached"}}
    path.write_text(json.dumps(stored))
    gate.seal(two)
    gate.bless(two)
    assert gate.check(two) == 0  # named and left out: it was not blessed either
    path.write_text(json.dumps(stored | {"not_run": {"shop": "why not", "arc": "the hub cannot be reached"}}))
    gate.seal(two)
    refused(gate, "none of the suites with limits was run", "why not", settings=(two,))


def test_another_runs_baseline(gate: Stored) -> None:
    (gate.root / "runs/other.yaml").write_text("extends: shop.yaml\n")
    shutil.copy(gate.baseline, gate.root / "runs/other.baseline.json")
    shutil.copytree(gate.root / "runs/shop", gate.root / "runs/other")
    with pytest.raises(UsageError, match="it is the baseline of the run shop"):
        check(load_run(gate.root / "runs/other.yaml"), Terminal())


def test_weights_are_compared_with_the_blessed_seed_of_theirs(gate: Stored) -> None:
    gate.suite(limits={"accuracy": {"margin": 0.2}})
    gate.store(rate(0.8), rate(0.8, salt=1), rate(0.8, salt=2), rate(0.8, salt=3))
    gate.bless("ship.question=recipe")
    assert gate.check("ship.random_seed=2") == 0
    found = json.loads(gate.baseline.read_text())
    assert list(found["student_keys"]) == ["0", "1", "2", "3"]


def test_git_that_will_not_read_the_checkout(gate: Stored) -> None:
    (gate.root / ".git").write_text("gitdir: nowhere\n")
    with pytest.raises(UsageError, match="git cannot read this checkout"):
        gate.bless()


# --- cost ---------------------------------------------------------------------------------------------------

REFUSING = """
import sys
HEAVY = {"torch", "vllm", "transformers", "peft", "lm_eval", "datasets", "safetensors", "sklearn", "matplotlib"}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HEAVY:
            print("REACHED FOR", name, file=sys.stderr)
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
"""


def command(gate: Stored, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process where no model library can be imported."""
    return harness(gate.root, *words, program=REFUSING + COMMAND, **more)


def test_check_needs_no_model_library(gate: Stored) -> None:
    done = command(gate, "check", "shop")
    assert done.returncode == 0, done.stderr
    assert "check: pass (exit 0)" in done.stdout
    assert "REACHED FOR" not in done.stderr
    gate.store(rate(0.4, salt=1), key="other")
    done = command(gate, "check", "shop", "--junit", "out.xml")
    assert (done.returncode, done.stderr) == (1, "")
    assert (gate.root / "out.xml").is_file()
    assert command(gate, "bless", "shop").returncode == 0
    assert command(gate, "check", "shop").returncode == 0


@pytest.mark.parametrize("name", ["shop.baseline.json", "shop/eval/scores/card0.jsonl", "shop/eval/scorecards.json"])
def test_a_damaged_file_is_one_message_and_exit_2(gate: Stored, name: str) -> None:
    path = gate.root / "runs" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    done = command(gate, "check", "shop")
    assert done.returncode == 2
    assert done.stderr.startswith("harness: error: ")
    assert path.name in done.stderr
    assert "Traceback" not in done.stderr


def test_the_workflow_calls_what_there_is(gate: Stored) -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/harness.yml").read_text())
    steps = workflow["jobs"]["check"]["steps"]
    install, words = [step["run"] for step in steps if "run" in step]
    assert install == "make .venv/.base"
    program, *rest = words.replace("$RUN", "shop").replace('"', "").split()
    assert program == ".venv/bin/harness"
    done = command(gate, *rest)
    assert done.returncode == 0, done.stderr
    assert (gate.root / "out/harness.xml").is_file()
    run = workflow["jobs"]["check"]["env"]["RUN"]
    assert (ROOT / f"runs/{run}.yaml").is_file()


def test_on_github_it_adds_to_the_summary_and_annotates(gate: Stored) -> None:
    gate.store(rate(0.4, salt=1), key="other")
    summary = gate.root / "summary.md"
    done = command(gate, "check", "shop", GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY=str(summary))
    assert done.returncode == 1
    assert "| shop | accuracy |" in summary.read_text()
    assert any(line.startswith("::error file=runs/shop.baseline.json,title=") for line in done.stdout.splitlines())


def test_plan_by_the_command_line(gate: Stored) -> None:
    done = command(gate, "plan", "--margin", "0.03", "--flips", "0.1")
    assert done.returncode == 0, done.stderr
    assert "10%" in done.stdout
    assert command(gate, "plan", "--margin", "3").returncode == 2
