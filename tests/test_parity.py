"""Two engines beside each other, and one engine beside itself."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.check.rescore import measure, noise, noise_floor, shuffled
from harness.commands.parity import Agreement, _text, ask, compare, parity
from harness.config.load import load_run
from harness.config.run import Run, Ship
from harness.core.store import write_json
from harness.core.terminal import Terminal
from harness.errors import UsageError
from harness.eval.plan import plan_scoring
from harness.records import Item, Request, Score, Scorecard
from harness.suites.suite import Suite
from harness.train.adapters import seal_adapter
from harness.train.grid import plan_training
from tests.fakes import FakeGenerator, Say, prompt_of
from tests.needs import needs_vllm
from tests.project import LABELS, write_project
from tests.stored import SHIP, trained_cell, write_cards, write_cells

ROOT = Path(__file__).parent.parent
ITEMS = [Item(text=f"message {n}", choices=tuple(LABELS), gold=n % 3) for n in range(12)]


FIRST = {"par": math.log(0.5), "in": math.log(0.3), "a": math.log(0.2)}


def steady(request: Request) -> tuple[str, dict[str, float]]:
    return (request.sampling.choices[0], {}) if request.sampling.choices else ("parcel", FIRST)


def compared(first: Say, second: Say, items: Sequence[Item] = ITEMS) -> Agreement:
    requests = ask(items, lambda item: f"{item.text} ->", "student", 4)
    by_key = [
        {c.request: c for c in FakeGenerator(says, backwards=True).generate(requests)} for says in (first, second)
    ]
    return compare(items, requests, *by_key)


# --- agree ---------------------------------------------------------------------------------------------------


def test_the_same_answers_agree() -> None:
    found = compared(steady, steady)
    assert (found.written_equal, found.label_equal, found.picked_equal, found.measured) == (12, 12, 12, 12)
    assert found.logprob_differences == {"0.5": 0.0, "0.95": 0.0, "1": 0.0}
    assert found.differing == ()
    assert found.accuracy is not None
    assert found.accuracy.estimate == 0.0


def test_differences_are_counted_by_hand() -> None:
    def other(request: Request) -> tuple[str, dict[str, float]]:
        number = int(prompt_of(request).split()[1])
        if not request.sampling.choices:
            return ("Parcel." if number == 0 else "invoice" if number in (1, 2) else "parcel"), FIRST
        return request.sampling.choices[1 if number == 4 else 0], {}

    found = compared(steady, other)
    assert (found.written_equal, found.label_equal, found.picked_equal) == (9, 10, 11)
    assert [one.text for one in found.differing] == [f"message {n}" for n in (0, 1, 2, 4)]
    # of the written answers, item 0 stays right, item 1 becomes right, item 2 stays wrong
    assert found.accuracy is not None
    assert found.accuracy.estimate == pytest.approx(1 / 12)
    assert found.choice_accuracy is not None
    assert found.choice_accuracy.estimate == pytest.approx(1 / 12)  # item 4 is an invoice


def test_logprobs_apart_by_a_known_amount() -> None:
    def other(request: Request) -> tuple[str, dict[str, float]]:
        return steady(request)[0], {"par": math.log(0.25), "in": math.log(0.36), "z": math.log(0.39)}

    found = compared(steady, other)  # of the tokens that both report, one halved and one up by a fifth
    assert found.logprob_differences["1"] == pytest.approx(math.log(2))
    assert found.logprob_differences["0.5"] == pytest.approx((math.log(2) + math.log(1.2)) / 2)
    silent = compared(steady, lambda request: (steady(request)[0], {}))
    assert (silent.measured, silent.logprob_differences) == (0, {})
    assert "none that both engines report" in _text(silent)


def test_a_failed_item_is_named_and_not_compared() -> None:
    def breaks(request: Request) -> tuple[str, dict[str, float]]:
        return ("ERROR: broke", {}) if "message 3" in prompt_of(request) else steady(request)

    found = compared(steady, breaks)
    assert (found.items, found.failed, found.written_equal) == (12, 1, 11)
    assert found.errors == (f"{ITEMS[3].id}: vLLM: broke",)
    assert "1 not compared" in _text(found)
    assert compared(breaks, breaks, ITEMS[3:4]).accuracy is None


@given(st.lists(st.sampled_from(["parcel", "invoice", "Account!", "", "both parcel and invoice"]), min_size=12,
                max_size=12))  # fmt: skip
def test_counts_stay_within_the_items_and_follow_the_list(written: list[str]) -> None:
    def other(request: Request) -> tuple[str, dict[str, float]]:
        number = int(prompt_of(request).split()[1])
        return (written[number], {}) if not request.sampling.choices else steady(request)

    found = compared(steady, other)
    assert found.written_equal == sum(text == "parcel" for text in written)
    assert len(found.differing) == 12 - found.written_equal
    assert found.label_equal >= found.written_equal


def trained(root: Path, student: Path, **changes: Any) -> Run:
    """A run whose only data are its seeds, with the cells that train would have written."""
    train = {"students": [str(student)], "data": ["seeds_only"], "sizes": [0, 12]}
    ship = {"student": str(student), "data": "seeds_only", "size": 12, "random_seed": 0}
    run = load_run(write_project(root, str(student), train=train, ship=ship, **changes))
    cells = []
    for planned in plan_training(run).cells:
        folder = f"runs/.cache/students/{planned.key}" if planned.cell.size else ""
        if folder:
            write_json(root / folder / "adapter_config.json", {})
            (root / folder / "adapter_model.safetensors").touch()
            seal_adapter(root / folder, planned.key)
        cells.append(trained_cell(planned.cell, key=planned.key, base=str(planned.model.folder), folder=folder))
    write_cells(run, cells)
    return run


def test_the_ship_student_is_opened_in_one_engine_after_the_other(tmp_path: Path, tiny_model: Path) -> None:
    run = trained(tmp_path, tiny_model)
    opened: list[Any] = []
    server = FakeGenerator(lambda request: ("invoice", {}) if not request.sampling.choices else steady(request))

    def open_student(base: Path, adapter: Path | None) -> Any:
        opened.append((base, adapter))
        return FakeGenerator(steady)

    def open_server(base: Path, adapter: Path | None, name: str) -> FakeGenerator:
        opened.append((base, adapter, name))
        return server

    found = parity(run, open_student, open_server, Terminal(), limit=10)
    subject = next(candidate for candidate in plan_scoring(run).candidates if candidate.tuned)
    assert opened == [(subject.base, subject.adapter), (subject.base, subject.adapter, subject.key)]
    assert server.closed
    assert (found.items, found.written_equal, found.picked_equal) == (10, 0, 10)
    stored = Agreement.model_validate(json.loads((run.folder / "eval" / "agree.json").read_text()))
    assert stored == found
    assert stored.suite == "shop"
    texts = {item.text for item in run.suites["shop"].items if item.split == "test"}
    assert {one.text for one in stored.differing} <= texts


def test_agree_needs_a_ship_student_and_a_labels_suite(tmp_path: Path) -> None:
    run = load_run(write_project(tmp_path, "tiny"))
    none = replace(run, file=run.file.model_copy(update={"ship": None}))
    with pytest.raises(UsageError, match="it has no ship section"):
        parity(none, lambda base, adapter: None, lambda b, a, n: FakeGenerator(steady), Terminal())  # type: ignore[arg-type,return-value]
    without = replace(run, suites={"talk": run.suites["talk"]})
    with pytest.raises(UsageError, match="none is of kind labels"):
        parity(without, lambda base, adapter: None, lambda b, a, n: FakeGenerator(steady), Terminal())  # type: ignore[arg-type,return-value]


# --- noise ---------------------------------------------------------------------------------------------------


def scores_of(items: Sequence[Item], values: Sequence[dict[str, float]], **fields: Any) -> list[Score]:
    return [Score(item=i.id, split="test", status="scored", values=v, **fields)
            for i, v in zip(items, values, strict=True)]  # fmt: skip


def card_of(scores: Sequence[Score]) -> Scorecard:
    """The least that a card holds."""
    return Scorecard(
        key="k", suite="s", suite_digest="d", student="s", student_key="x", prompting="zero_shot",
        items=len(scores), scored=len(scores), unparsed=0, failed=0, metrics={},
    )  # fmt: skip


def test_noise_by_hand() -> None:
    items = ITEMS[:4]
    stored = scores_of(items, [{"accuracy": 1.0, "p": 0.5}] * 4)
    second = scores_of(items, [{"accuracy": 0.0, "p": 0.5}, *[{"accuracy": 1.0, "p": 0.5}] * 3])
    third = scores_of(items, [*[{"accuracy": 1.0, "p": 0.5 + 1e-9}] * 3, {"p": 0.5}])  # a missing rate is wrong
    found = measure(card_of(stored), stored, [second, third[::-1]])
    accuracy = found.metrics["accuracy"]
    assert (accuracy.items, accuracy.changed, accuracy.differences) == (4, 0.5, (-0.25, -0.25))
    assert accuracy.deviation == pytest.approx(np.std([1, 0.75, 0.75], ddof=1))
    assert (found.metrics["p"].changed, found.metrics["p"].deviation) == (0.0, 0.0)


def test_values_that_come_and_go_are_changes_and_failures_are_not() -> None:
    items = ITEMS[:4]
    stored = scores_of(items, [{"rep_3": 0.1}, {"rep_3": 0.1}, {}, {"rep_3": 0.1}])
    again = scores_of(items, [{"rep_3": 0.1}, {}, {}, {"rep_3": 0.1}])
    again[3] = Score(item=items[3].id, split="test", status="failed", error="gone")
    found = measure(card_of(stored), stored, [again])
    assert found.failed == 1
    assert found.metrics["rep_3"].items == 3
    assert found.metrics["rep_3"].changed == pytest.approx(2 / 3)
    with pytest.raises(UsageError, match="4 test items were scored before, 3 now"):
        measure(card_of(stored), stored, [stored[:3]])


@given(st.permutations(range(12)), st.lists(st.floats(-5, 5), min_size=12, max_size=12))
def test_an_engine_that_repeats_itself_has_no_noise(order: list[int], values: list[float]) -> None:
    stored = scores_of(ITEMS, [{"p": v} for v in values])
    found = measure(card_of(stored), stored, [[stored[i] for i in order]])
    assert found.metrics["p"].changed == 0.0
    assert found.metrics["p"].deviation == 0.0
    assert found.metrics["p"].differences == (0.0,)


def test_the_stage_shuffles_shrinks_batches_and_stores_a_floor(tmp_path: Path) -> None:
    run = load_run(write_project(tmp_path, "tiny"))
    right = {"accuracy": 1.0}
    scored = [(suite, SHIP, scores_of(suite.items, [right] * len(suite.items))) for suite in run.suites.values()]
    write_cards(run, scored)
    asked = []

    def rescore(suite: Suite, batch_tokens: int) -> list[Score]:
        asked.append((suite.name, batch_tokens, suite.items != run.suites[suite.name].items))
        first = min(item.id for item in suite.items)
        return scores_of(suite.items, [{"accuracy": float(i.id != first or batch_tokens > 128)} for i in suite.items])

    noise(run, rescore, Terminal())
    assert [(name, batch) for name, batch, _ in asked] == [(n, b) for n in run.suites for b in (256, 128)]
    assert any(moved for *_, moved in asked)
    items = len(run.suites["shop"].items)
    floor = noise_floor(run.folder, "card0")
    assert floor is not None
    assert floor["accuracy"] == pytest.approx(np.std([1, 1, 1 - 1 / items], ddof=1))
    assert noise_floor(run.folder, "another card") is None
    assert noise_floor(tmp_path / "runs" / "other", "card0") is None
    (run.folder / "eval" / "noise.json").write_text("{}")
    with pytest.raises(UsageError, match="not a noise floor of this version: harness rescore shop"):
        noise_floor(run.folder, "card0")


def test_noise_refuses_a_suite_that_changed(tmp_path: Path) -> None:
    run = load_run(write_project(tmp_path, "tiny"))
    shop = run.suites["shop"]
    write_cards(run, [(shop, SHIP, scores_of(shop.items, [{"accuracy": 1.0}] * len(shop.items)))], suite_digest="older")
    with pytest.raises(UsageError, match=r"suites/shop.yaml changed since it was scored"):
        noise(run, lambda suite, batch: [], Terminal())
    with pytest.raises(UsageError, match=r"no stored scores of tiny\.filtered\.12\.s0 on talk"):
        noise(replace(run, suites={"talk": run.suites["talk"]}), lambda suite, batch: [], Terminal())


def test_a_shuffle_keeps_the_items_and_repeats_itself(tmp_path: Path) -> None:
    suite = load_run(write_project(tmp_path, "tiny")).suites["shop"]
    once = shuffled(suite, 1)
    assert once.items != suite.items
    assert sorted(i.id for i in once.items) == sorted(i.id for i in suite.items)
    assert once.items == shuffled(suite, 1).items != shuffled(suite, 2).items


# --- for real --------------------------------------------------------------------------------------------------


def main(base: Path, root: Path) -> None:
    """Both engines on one random model; in a process of its own, as vLLM wants it."""
    from harness.engines.transformers import TransformersEngine
    from harness.engines.vllm import VLLMEngine

    run = trained(root, base)
    student = run.file.train.students[0]
    untuned = run.file.model_copy(update={"ship": Ship(student=student, size=0)})
    parity(
        replace(run, file=untuned),
        lambda folder, adapter: TransformersEngine(folder, adapter, device="cpu"),
        lambda folder, adapter, name: VLLMEngine(folder, concurrency=8),
        Terminal(),
        limit=40,
    )


@pytest.mark.slow
@needs_vllm
def test_the_two_real_engines_agree_on_a_random_model(tiny_model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.test_parity", str(tiny_model), str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = Agreement.model_validate_json((tmp_path / "runs/shop/eval/agree.json").read_text())
    assert 15 <= found.items <= 30  # a quarter of the 30 items is dev
    assert (found.failed, found.measured) == (0, found.items)
    # bfloat16 rounds otherwise in each engine, and a random model is nearly undecided: texts may differ
    assert 0 < found.logprob_differences["0.5"] < 0.05
    assert found.logprob_differences["1"] < 0.3
    assert {a.picked for one in found.differing for a in (one.transformers, one.vllm)} <= set(LABELS)
    assert "vLLM beside transformers" in ran.stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
