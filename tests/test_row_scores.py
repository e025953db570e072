"""Rows measured for selections: what is asked, what is kept, and that nothing is measured twice."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from harness.commands.dry_run import describe_training
from harness.config.inputs import students_source
from harness.config.run import Run
from harness.engines.protocols import Embedder, StudentEngine
from harness.errors import Interrupted, MachineError, UsageError
from harness.filters.meaning import facility_location
from harness.train.arms import by_label
from harness.train.grid import plan_training
from harness.train.pool import pool_of
from harness.train.row_scores import Models, emptied, measure_rows
from harness.train.stage import train
from tests.fakes import FakeStudent, Pressed, Quiet, WordEmbedder
from tests.test_train_stage import KEPT, cells, make_run

ARMS = ("filtered", "student_fit", "ifd", "diverse")


def weigh(context: str, continuation: str) -> float:
    """An answer is twice as likely with a prompt, and more so the longer the prompt is."""
    return -len(continuation) * (1.0 if "number" not in context else 0.5 + 1 / len(context))


@dataclass
class Fakes:
    """Models that count how often they are loaded."""

    student: FakeStudent = field(default_factory=lambda: FakeStudent(weigh=weigh))
    loaded: list[str] = field(default_factory=list)
    block: int = 64

    @property
    def models(self) -> Models:
        return Models(self._student, self._embedder, self.block)

    def _student(self, name: str) -> StudentEngine:
        self.loaded.append(Path(name).name)
        return self.student

    def _embedder(self) -> Embedder:
        self.loaded.append("embedder")
        return WordEmbedder()


@pytest.fixture
def run(tmp_path: Path, tiny_model: Path) -> Run:
    return make_run(tmp_path, tiny_model, data=ARMS)


def test_each_row_is_measured_once_with_and_without_its_prompt(run: Run) -> None:
    fakes = Fakes()
    measure_rows(run, fakes.models, Quiet(), Pressed(at=10**6))
    rows = pool_of(run).kept
    asked = fakes.student.measured
    assert len(asked) == 2 * KEPT
    with_prompt = {context for context, _ in asked if "number" in context}
    assert with_prompt == {f"<system>Name the topic.<user>Message: {row.text}\nTopic:\x02" for row in rows}
    assert {context for context, _ in asked if "number" not in context} == {"<system><user>\x02"}
    assert {answer for _, answer in asked} == {f"{row.answer}\x01" for row in rows}
    again = Fakes()
    measure_rows(run, again.models, Quiet(), Pressed(at=10**6))
    assert (again.loaded, fakes.loaded) == ([], ["embedder", "tiny-llama"])


def test_another_selection_measures_only_what_it_adds(tmp_path: Path, tiny_model: Path) -> None:
    first, second = Fakes(), Fakes()
    measure_rows(make_run(tmp_path, tiny_model, data=("student_fit",)), first.models, Quiet(), Pressed(at=10**6))
    assert len(first.student.measured) == KEPT
    run = make_run(tmp_path, tiny_model, data=("student_fit", "diverse"))
    measure_rows(run, second.models, Quiet(), Pressed(at=10**6))
    assert second.loaded == ["embedder"]
    third = Fakes()
    run = make_run(tmp_path, tiny_model, data=("ifd", "student_fit"))
    measure_rows(run, third.models, Quiet(), Pressed(at=10**6))
    assert {context for context, _ in third.student.measured} == {"<system><user>\x02"}, "only without a prompt"
    assert len(third.student.measured) == KEPT


def test_ranks_follow_from_what_was_measured(run: Run) -> None:
    measure_rows(run, Fakes().models, Quiet(), Pressed(at=10**6))
    plan, pool = plan_training(run), pool_of(run)
    drawn = {(p.cell.data, p.cell.size): p.rows for p in plan.cells}
    shortest = min(len(row.text) for row in pool.kept)  # the shorter its prompt, the less likely is an answer
    assert {len(row.text) for row in drawn["student_fit", 4]} == {shortest + 1}
    assert {len(row.text) for row in drawn["ifd", 4]} == {shortest}
    for label, rows in by_label(pool.kept).items():
        ordered = sorted(rows, key=lambda row: row.id)
        vectors = WordEmbedder().embed([row.text for row in ordered])
        places = facility_location(vectors, 3, np.zeros((0, 64), np.float32))
        chosen = [row for row in drawn["diverse", 12] if row.answer == label]
        assert chosen == [ordered[place] for place in places]


def test_rows_that_their_prompt_makes_less_likely_are_left_out(tmp_path: Path, tiny_model: Path) -> None:
    run = make_run(tmp_path, tiny_model, data=("filtered", "ifd"), sizes=(0, 12))

    def odd(context: str, continuation: str) -> float:
        return -2.0 if "number" in context and context.split("number ")[1][0] == "2" else -1.0

    fakes = Fakes(FakeStudent(weigh=odd))
    measure_rows(run, fakes.models, Quiet(), Pressed(at=10**6))
    plan = plan_training(run)
    left_out = {row.text for row in pool_of(run).kept} - {f"text number {i}" for i in (2, 20, 21, 22, 23)}
    (ifd,) = [p for p in plan.cells if p.cell.data == "ifd"]
    assert (ifd.available, {row.text for row in ifd.rows} <= left_out) == (KEPT - 5, True)
    assert any("of 24 rows, 5 are left out, since their prompt makes the answer less likely" in n for n in plan.notes)
    with pytest.raises(UsageError, match=r"train.sizes: 20 is larger than the 19 rows there are for data 'ifd'"):
        plan_training(make_run(tmp_path, tiny_model, data=("filtered", "ifd"), sizes=(0, 20)))


def test_a_stop_keeps_what_is_measured_and_the_next_call_goes_on(run: Run) -> None:
    first = Fakes(block=8)
    with pytest.raises(Interrupted, match="rows that are measured are kept; go on with: make train RUN=demo"):
        measure_rows(run, first.models, Quiet(), Pressed(at=2))
    measured = len(first.student.measured) // 2
    assert 0 < measured < KEPT
    described = describe_training(run)
    assert f"first, data student_fit, ifd: {KEPT - measured} rows are to be measured under" in described
    assert described.count("rows not measured yet") == 4
    second = Fakes()
    measure_rows(run, second.models, Quiet(), Pressed(at=10**6))
    assert len(second.student.measured) // 2 == KEPT - measured


@pytest.mark.parametrize("damage", ["cut", "edited", "gone"])
def test_damaged_scores_are_measured_again(run: Run, damage: str) -> None:
    measure_rows(run, Fakes().models, Quiet(), Pressed(at=10**6))
    before = {p.cell.name: p.key for p in plan_training(run).cells}
    (path,) = [p for p in (run.cache / "row_scores").glob("*.json") if "prompted" in p.read_text()]
    stored = path.read_text()
    if damage == "gone":
        path.unlink()
    else:
        path.write_text(stored[:-40] if damage == "cut" else stored.replace("-0.", "-1.", 1))
    with pytest.raises(UsageError, match=r"data student_fit, ifd: 24 rows are to be measured under .*make train RUN"):
        plan_training(run)
    measure_rows(run, Fakes().models, Quiet(), Pressed(at=10**6))
    assert {p.cell.name: p.key for p in plan_training(run).cells} == before
    assert json.loads(path.read_text()) == json.loads(stored)


def test_a_row_that_a_student_cannot_read_is_named(run: Run) -> None:
    with pytest.raises(UsageError, match=r"row [0-9a-f]{16} has \d+ tokens, its context has 40: drop long rows"):
        measure_rows(run, Fakes(FakeStudent(max_length=40)).models, Quiet(), Pressed(at=10**6))
    bad = FakeStudent(weigh=lambda context, continuation: float("nan"))
    with pytest.raises(MachineError, match="is no number: nan"):
        measure_rows(run, Fakes(bad).models, Quiet(), Pressed(at=10**6))


def test_an_empty_prompt_has_the_roles_of_a_full_one(run: Run) -> None:
    messages = pool_of(run).kept[0].messages[:-1]
    assert [(m.role, m.content) for m in emptied(messages)] == [("system", ""), ("user", "")]
    assert [(m.role, m.content) for m in emptied(messages[1:])] == [("user", "")]


def test_several_arms_are_trained_with_a_real_student(tmp_path: Path, tiny_model: Path) -> None:
    from harness.engines.transformers import TransformersEngine

    (tmp_path / "data").mkdir()
    (tmp_path / "data/general.jsonl").write_text(
        "".join(json.dumps({"instruction": f"Say {i}.", "output": f"It is {i}."}) + "\n" for i in range(6))
    )
    data = (
        *ARMS, "random", "length", {"without": "length"}, {"mix": {"seeds_only": 0.25, "filtered": 0.75}},
        {"replay": 0.25, "rows": "data/general.jsonl"},
    )  # fmt: skip
    run = make_run(tmp_path, tiny_model, data=data, sizes=(0, 12), filters=({"kind": "length"},), random_seeds=(0, 1))
    models = Models(lambda name: TransformersEngine(Path(name), device="cpu"), WordEmbedder)
    heard = Quiet()
    assert train(run, heard, Pressed(at=10**6), models)
    stored = cells(run)
    assert len(stored) == 1 + 2 * 9
    adapters = {cell["folder"] for cell in stored.values() if cell["size"]}
    assert len(adapters) == 2 * 8, "rows of one length are drawn as filtered ones are"
    assert {cell["steps"] for cell in stored.values() if cell["size"]} == {3}
    assert {cell["rows"] for cell in stored.values() if cell["size"]} == {12}
    rows = {(p.cell.data, p.cell.random_seed): p.rows for p in plan_training(run).cells if p.rows}
    sources = {
        data: {source: sum(row.provenance.source == source for row in of) for source in ("teacher", "seed", "replay")}
        for (data, seed), of in rows.items()
        if seed == 0
    }
    assert sources["mix_seeds_only_25_filtered_75"] == {"teacher": 9, "seed": 3, "replay": 0}
    assert sources["replay_general_25_filtered"] == {"teacher": 9, "seed": 0, "replay": 3}
    for selection in ("student_fit", "ifd", "diverse"):
        assert rows[selection, 0] != rows["filtered", 0]
        assert {row.id for row in rows[selection, 0]} == {row.id for row in rows[selection, 1]}
    notes = "\n".join(plan_training(run).notes)
    assert "a selection takes the same rows at every random seed" in notes
    assert "data length: answers are labels, and so the longest inputs of each label come first" in notes
    assert train(run, Quiet(), Pressed(at=10**6)) is None, "and needs no model to know that nothing is to be done"


def test_parts_that_run_out_are_named_before_anything_is_trained(tmp_path: Path, tiny_model: Path) -> None:
    data = ({"mix": {"seeds_only": 0.9, "filtered": 0.1}},)
    with pytest.raises(UsageError) as caught:
        plan_training(make_run(tmp_path, tiny_model, data=data, sizes=(0, 4, 12)))
    said = str(caught.value)
    assert (
        "12 is larger than the 8 rows there are for data 'mix_seeds_only_90_filtered_10'; sizes that fit: [0, 4]"
        in said
    )
    assert "its parts have: seeds_only 8, filtered 24" in said


def test_a_selection_of_all_rows_selects_nothing(tmp_path: Path, tiny_model: Path) -> None:
    notes = plan_training(make_run(tmp_path, tiny_model, data=("length",), sizes=(0, KEPT))).notes
    assert (
        notes[0]
        == "the largest size of data 'length', 24, is drawn from 24 rows, and takes all of them: it selects nothing"
    )
    notes = plan_training(make_run(tmp_path, tiny_model, data=("length",), sizes=(0, KEPT - 1))).notes
    assert "more than half: it selects little" in notes[0]


def test_a_filter_that_dropped_nothing_alone_is_said(tmp_path: Path, tiny_model: Path) -> None:
    run = make_run(tmp_path, tiny_model, data=("filtered", {"without": "finished"}), filters=({"kind": "finished"},))
    plan = plan_training(run)
    assert (
        "data without_finished: the filter finished alone dropped no row, so that this is the same as filtered"
        in plan.notes
    )
    keys = {p.cell.data: p.key for p in plan.cells if p.cell.size == 12}
    assert keys["without_finished"] == keys["filtered"]


def test_other_general_rows_make_other_students(tmp_path: Path, tiny_model: Path) -> None:
    general = tmp_path / "data/general.jsonl"
    general.parent.mkdir()
    general.write_text('{"instruction": "Say one.", "output": "One."}\n' * 4)
    run = make_run(tmp_path, tiny_model, data=({"replay": 0.25, "rows": "data/general.jsonl"},), sizes=(0, 4))
    before = students_source(run), plan_training(run).cells[-1].key
    general.write_text('{"instruction": "Say two.", "output": "Two."}\n' * 4)
    after = students_source(run), plan_training(run).cells[-1].key
    assert (before[0] != after[0], before[1] != after[1]) == (True, True)
    (tmp_path / "data/general.jsonl").write_text("")
    with pytest.raises(UsageError, match=r"data/general\.jsonl: there are no rows in it"):
        plan_training(run)
    general.write_text('{"instruction": "Say two."}\n')
    with pytest.raises(UsageError, match=r"general\.jsonl:1: "):
        plan_training(run)
