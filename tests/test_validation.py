"""Validation loss and early stopping: what eval would measure, changing nothing that is learned, and going on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.commands.dry_run import describe_training
from harness.config.load import load_run
from harness.config.run import Run, Train
from harness.core.json_file import read_json
from harness.engines.transformers import TransformersEngine
from harness.errors import UsageError
from harness.models.chat_template import TokenizedRow, load_chat
from harness.records import Item
from harness.suites.labels import LabelsSuite, score_labels
from harness.suites.suite import Suite
from harness.train.base import Base
from harness.train.checkpoint import last_checkpoint, write_checkpoint
from harness.train.loop import Passed, Validation, train_cells
from harness.train.stage import table
from harness.train.trainee import Job, Trainee
from harness.train.validation import DevItem, dev_items, items_digest, tokenized_items
from tests.project import prompted_row, write_project
from tests.test_train_stage import LABELS, cells, go, make_run
from tests.test_training import OTHERS, ROWS, job, load, method, tokenized

WORDS = ("kettle", "lamp", "sofa", "window", "ladder", "hammer")


def items(names: Sequence[str] = tuple(LABELS)) -> tuple[Item, ...]:
    """Items of a suite, dev and test ones, whose gold answers are these in turn."""
    labels = tuple(LABELS)
    texts = [f"the {word} number {i}" for i in range(8) for word in WORDS]
    return tuple(
        Item(text=text, choices=labels, gold=labels.index(names[i % len(names)])) for i, text in enumerate(texts)
    )


def suite(names: Sequence[str] = tuple(LABELS)) -> Suite:
    """The task's own suite with such items."""
    return Suite("own", LabelsSuite(kind="labels", items="none"), items(names))


def asked(of: Suite) -> list[DevItem]:
    """Its dev items in the prompt of the rows that cells here are tuned on."""
    return [DevItem(item.id, prompted_row(item.text, answer).messages) for item, answer in of.answered_dev_items]


@pytest.fixture(scope="module")
def base(tiny_model: Path) -> Base:
    return load(tiny_model, exact=True)


@pytest.fixture(scope="module")
def wrong(tiny_model: Path) -> tuple[TokenizedRow, ...]:
    """Dev items whose answer no row has: the better a cell learns its rows, the higher their loss."""
    return tokenized_items(load_chat("tiny", tiny_model), asked(suite(["delivery"])), None)


def run_cells(base: Base, jobs: Sequence[Job], validation: Validation | None, together: int = 3) -> dict[str, Trainee]:
    """All jobs to their end, by name."""
    passes = train_cells(base, jobs, tokenized(base.source.folder), 300, together, validation=validation)
    return {trainee.job.name: trainee for passed in passes for trainee in passed.finished}


def weights(trainee: Trainee) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in trainee.weights.parameters]


def same(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> bool:
    return all(map(torch.equal, one, other))


ONE_ANSWER = tuple(row for row in ROWS if row.answer == "repair")
JOBS = (job("first", rows=ONE_ANSWER), job("few steps", 1, steps=5), job("late", 2, steps=7), job("last", 3, steps=9))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_validation_changes_no_bit_of_what_is_learned(
    base: Base, wrong: tuple[TokenizedRow, ...], dropout: float
) -> None:
    jobs = [replace(each, method=method(lora_dropout=dropout)) for each in JOBS]
    watched, alone = (run_cells(base, jobs, validation) for validation in (Validation(wrong, 2), None))
    for name, trainee in watched.items():
        assert trainee.losses == alone[name].losses
        assert same(weights(trainee), weights(alone[name]))
        assert not alone[name].validation
    assert [steps for steps, _ in watched["late"].validation] == [2, 4, 6, 7]  # the last step always counts


@pytest.mark.parametrize("name", OTHERS)
def test_the_same_of_methods_that_have_the_base_to_themselves(
    base: Base, wrong: tuple[TokenizedRow, ...], name: str
) -> None:
    each = job("other", method=OTHERS[name], steps=4)
    ends = []
    for validation in (Validation(wrong, 1), None):
        for passed in train_cells(base, [each], tokenized(base.source.folder), 300, 1, validation=validation):
            if passed.finished:
                ends.append((passed.finished[0].losses, weights(passed.finished[0])))
    assert ends[0][0] == ends[1][0]
    assert same(ends[0][1], ends[1][1])


def test_it_is_the_loss_of_the_gold_answers_as_eval_measures_it(base: Base, tmp_path: Path) -> None:
    own = suite()
    dev = tokenized_items(load_chat("tiny", base.source.folder), asked(own), None)
    assert 0 < len(dev) < len(own.items)
    trainee = run_cells(base, JOBS[:2], Validation(dev, 100))["few steps"]
    trainee.weights.save(tmp_path)
    engine = TransformersEngine(base.source.folder, tmp_path, "cpu", dtype="float32")
    of_dev = [item for item in own.items if item.split == "dev"]
    scores = score_labels(of_dev, lambda item: prompted_row(item.text, "x").messages[:-1], engine, "m", 4)
    nll = sum(score.values["gold_nll"] for score in scores)
    ((steps, loss),) = trainee.validation
    assert steps == 5
    assert loss == pytest.approx(nll / sum(row.learned_tokens for row in dev), abs=1e-4)


def test_a_cell_that_stops_early_has_the_weights_of_its_best_validation(
    base: Base, wrong: tuple[TokenizedRow, ...]
) -> None:
    stopping = [replace(each, patience=2) for each in JOBS]
    whole: dict[str, list[list[torch.Tensor]]] = {}
    for passed in train_cells(base, JOBS, tokenized(base.source.folder), 300, 3):
        for trainee in passed.trainees:
            whole.setdefault(trainee.job.name, [[]])[len(trainee.losses) :] = [weights(trainee)]
    for name, trainee in run_cells(base, stopping, Validation(wrong, 1)).items():
        best, done = trainee.best_step, len(trainee.losses)
        losses = dict(trainee.validation)
        assert best
        assert losses[best] == min(losses.values())
        assert done == min(best + 2, trainee.job.steps)
        alone = run_cells(base, [replace(trainee.job, patience=None)], None)[name]
        assert trainee.losses == pytest.approx(alone.losses[:done], abs=1e-4)
        for mine, there in zip(weights(trainee), whole[name][best], strict=True):
            torch.testing.assert_close(mine, there, rtol=1e-3, atol=1e-3)
    assert len(run_cells(base, stopping, Validation(wrong, 1))["first"].losses) < JOBS[0].steps


def test_weights_of_the_best_validation_are_those_bits(base: Base, wrong: tuple[TokenizedRow, ...]) -> None:
    trainee = run_cells(base, [replace(JOBS[0], patience=3)], Validation(wrong, 1))["first"]
    assert trainee.stopped
    for passed in train_cells(base, JOBS[:1], tokenized(base.source.folder), 300, 1):
        if len(passed.trainees[0].losses) == trainee.best_step:
            assert same(weights(trainee), weights(passed.trainees[0]))
            return
    pytest.fail("the best step was not reached")


def test_a_checkpoint_at_any_step_goes_on_to_the_same_stop(
    base: Base, wrong: tuple[TokenizedRow, ...], tmp_path: Path
) -> None:
    examples, validation = tokenized(base.source.folder), Validation(wrong, 1)
    jobs = [replace(each, patience=2, method=method(lora_dropout=0.2)) for each in JOBS]
    whole = run_cells(base, jobs, validation)
    count = sum(1 for _ in train_cells(base, jobs, examples, 300, 3, validation=validation))
    for at in range(count - 1):
        finished: dict[str, Trainee] = {}
        folder = tmp_path / str(at)
        for number, passed in enumerate(train_cells(base, jobs, examples, 300, 3, validation=validation)):
            write_checkpoint(folder, 3, passed.trainees)
            if number == at:
                break
            finished |= {trainee.job.name: trainee for trainee in passed.finished}
        checkpoint, _ = last_checkpoint(folder)
        assert checkpoint
        keys = [reached.key for reached in checkpoint.state.cells]
        left = [each for each in jobs if each.name not in finished]
        left.sort(key=lambda each: keys.index(each.key) if each.key in keys else len(keys))
        passes = train_cells(base, left, examples, 300, 3, checkpoint.restore, validation)
        finished |= {trainee.job.name: trainee for passed in passes for trainee in passed.finished}
        for name, trainee in finished.items():
            assert trainee.validation == whole[name].validation
            assert same(weights(trainee), weights(whole[name]))


def test_a_validation_loss_that_is_no_number_stops_its_cell_and_no_other(
    base: Base, wrong: tuple[TokenizedRow, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    validate = Trainee.validate

    def spoiled(trainee: Trainee, loss: Any) -> None:
        if trainee.job.name == "first":
            loss.add(wrong[0], math.nan, 1)
        validate(trainee, loss)

    monkeypatch.setattr(Trainee, "validate", spoiled)
    passes: list[Passed] = list(
        train_cells(base, JOBS, tokenized(base.source.folder), 300, 3, validation=Validation(wrong, 3))
    )
    failed = {trainee.job.name: trainee.failure for passed in passes for trainee in passed.failed}
    assert list(failed) == ["first"]
    assert "step 3 of" in failed["first"]
    assert wrong[0].row in failed["first"]
    assert {trainee.job.name for passed in passes for trainee in passed.finished} == {"few steps", "late", "last"}


# --- the stage


def validated_run(root: Path, student: Path, names: Sequence[str] = tuple(LABELS), **changes: Any) -> Run:
    """A run with a suite of its own."""
    return replace(make_run(root, student, data=("filtered",), **changes), suites={"own": suite(names)})


def logs(run: Run) -> dict[str, Mapping[str, Any]]:
    """cell.json of every tuned cell."""
    return {name: read_json(run.root / c["folder"] / "cell.json") for name, c in cells(run).items() if c["folder"]}


def test_a_validation_is_logged_shown_and_moves_no_key(tiny_model: Path, tmp_path: Path) -> None:
    plain = make_run(tmp_path / "plain", tiny_model, data=("filtered",))
    go(plain)
    run = validated_run(tmp_path / "watched", tiny_model, validation={"every": 2})
    _, heard = go(run)
    for name, cell in cells(run).items():
        assert cell["key"] == cells(plain)[name]["key"]
        assert cell["steps_done"] is cell["best_step"] is None
        if cell["folder"]:
            one, other = (root.root / cell["folder"] / "adapter_model.safetensors" for root in (run, plain))
            assert one.read_bytes() == other.read_bytes()
    lines = [json.loads(line) for line in (run.folder / "train" / "log.jsonl").read_text().splitlines()]
    for name, log in logs(run).items():
        assert [steps for steps, _ in log["validation"]] == [2, 3]
        of_cell = [line for line in lines if line["cell"].endswith(name)]
        logged = [[line["step"], line["validation_loss"]] for line in of_cell if "validation_loss" in line]
        assert logged == [[steps, pytest.approx(loss, abs=1e-6)] for steps, loss in log["validation"]]
        assert cells(run)[name]["validation_loss"] == log["validation"][-1][1]
    assert "dev loss" in heard.text
    assert "early stopping" not in heard.text
    assert go(run)[0] is None


def test_early_stopping_is_recorded_said_and_part_of_the_key(tiny_model: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "validation": {"every": 1},
        "early_stopping": {"patience": 1},
        "learning_rate": 0.05,
        "min_steps": 12,
    }
    run = validated_run(tmp_path, tiny_model, ["delivery"], **settings)
    go(run)
    stopped = {name: cell for name, cell in cells(run).items() if cell["folder"]}
    early = {name for name, cell in stopped.items() if cell["best_step"] < cell["steps"]}
    assert early
    for name, log in logs(run).items():
        cell = stopped[name]
        assert (log["steps_done"], log["best_step"]) == (cell["steps_done"], cell["best_step"])
        assert cell["steps"] == log["steps"] == 12
        assert len(log["losses"]) == len(log["validation"]) == log["steps_done"]
        assert cell["validation_loss"] == min(loss for _, loss in log["validation"])
    notes = " ".join(read_json(run.folder / "train" / "cells.json")["notes"])
    assert "fewer updates" in notes
    assert all(stopped[name]["name"] in notes for name in early)

    def keys(of: Run) -> set[str]:
        return {cell["key"] for cell in cells(of).values() if cell["folder"]}

    others: dict[str, dict[str, Any]] = {
        "none": {"early_stopping": None},
        "patience": {"early_stopping": {"patience": 2}},
        "every": {"validation": {"every": 2}},
    }
    for name, change in others.items():
        again = validated_run(tmp_path, tiny_model, ["delivery"], name=name, **(settings | change))
        go(again)
        assert keys(again).isdisjoint(keys(run)), name
    other_items = validated_run(tmp_path, tiny_model, ["repair"], name="items", **settings)
    assert items_digest(dev_items(other_items)) != items_digest(dev_items(run))
    go(other_items)
    assert keys(other_items).isdisjoint(keys(run))
    assert go(run)[0] is None


def test_the_table_says_which_step_the_weights_are_of(tiny_model: Path, tmp_path: Path) -> None:
    from harness.train.cells import load_cells

    run = make_run(tmp_path, tiny_model, data=("filtered",), sizes=(4,))
    go(run)
    (cell,) = load_cells(run.folder).cells
    assert "weights of" not in table([cell])
    assert "3 of 9, weights of 2" in table([cell.model_copy(update={"steps": 9, "steps_done": 3, "best_step": 2})])


def test_an_item_longer_than_the_context_is_named_before_training(tiny_model: Path) -> None:
    chat, dev = load_chat("tiny", tiny_model), asked(suite())
    with pytest.raises(UsageError, match=rf"dev item {dev[0].item} has \d+ tokens, and the student reads 9"):
        tokenized_items(chat, dev, 9)


def test_a_dry_run_says_how_often_what_is_measured(tiny_model: Path, tmp_path: Path) -> None:
    run = validated_run(tmp_path, tiny_model, validation={"every": 2}, early_stopping={"patience": 3})
    said = describe_training(run)
    assert f"the loss of {len(dev_items(run))} dev items every 2 steps" in said
    assert "has not fallen for 3 of them" in said


def test_early_stopping_goes_by_a_validation() -> None:
    with pytest.raises(ValueError, match=r"early_stopping: .*validation"):
        Train(students=("s",), sizes=(1,), early_stopping={"patience": 1})


def test_a_run_without_dev_items_of_its_own_has_no_validation(tiny_model: Path, tmp_path: Path) -> None:
    path = write_project(tmp_path, str(tiny_model))
    assert dev_items(load_run(path, ["train.validation={every: 4}"]))
    with pytest.raises(UsageError, match=r"train\.validation: .*\(none\)"):
        load_run(path, ["train.validation={every: 4}", "eval.suites=[facts, talk]"])
