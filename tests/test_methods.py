"""Several ways to tune in one run: what a person may write, the cells and keys that come of it, and their names."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from harness.config.load import load_run
from harness.config.methods import NOT_TAKEN, Lora, Method
from harness.config.run import Train
from harness.config.ship import ship_cells
from harness.errors import UsageError
from harness.records import Cell
from harness.train.grid import grid_cells, plan_training
from harness.train.sizes import step_count
from tests.project import write_project
from tests.test_train_stage import make_run

FULL = {"kind": "full", "learning_rate": 1e-4}
SEVERAL: dict[str, Any] = {
    "lora": {},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True, "r": 64},
    "full": FULL,
}


def settings(**changes: Any) -> Train:
    return Train.model_validate({"students": ["tiny"], "sizes": [0, 4], "data": ["filtered"], **changes})


def test_a_method_takes_what_it_leaves_open_from_the_run() -> None:
    train = settings(learning_rate=2e-4, lora={"r": 8, "lora_dropout": 0.1}, methods=SEVERAL)
    methods = train.by_method
    assert list(methods) == list(SEVERAL)
    assert methods["lora"] == Method(learning_rate=2e-4, lora=Lora(r=8, lora_dropout=0.1))
    assert methods["dora"].lora == Lora(r=8, lora_dropout=0.1, use_dora=True)
    assert methods["rslora"].lora == Lora(r=64, lora_dropout=0.1, use_rslora=True)
    assert methods["full"] == Method(kind="full", learning_rate=1e-4, lora=None)


def test_without_methods_there_is_one_and_its_name_is_empty() -> None:
    plain = settings(lora={"r": 8})
    named = settings(lora={"r": 8}, methods={"lora": {}})
    assert plain.by_method == named.by_method == {"": Method(learning_rate=1e-3, lora=Lora(r=8))}
    assert grid_cells(plain, 4) == grid_cells(named, 4)
    assert grid_cells(plain, 4)[-1].name == "tiny.filtered.4.s0"


def test_a_run_takes_methods_away_from_the_one_it_extends(tmp_path: Path) -> None:
    path = write_project(tmp_path, "tiny")
    run = yaml.safe_load(path.read_text())
    del run["ship"]
    run["train"]["methods"] = SEVERAL
    path.write_text(yaml.safe_dump(run))
    over = tmp_path / "runs/over.yaml"
    over.write_text("extends: shop.yaml\ntrain: {methods: {dora: null, full: null}}\n")
    assert list(load_run(over).file.train.by_method) == ["lora", "rslora"]
    over.write_text("extends: shop.yaml\ntrain: {methods: null}\n")
    assert list(load_run(over).file.train.by_method) == [""]


def test_every_cell_is_tuned_by_every_method_and_says_so() -> None:
    cells = grid_cells(settings(methods={"lora": {}, "dora": {"use_dora": True}}, random_seeds=[0, 7]), 4)
    assert [cell.name for cell in cells] == [
        "tiny.base",
        "tiny.filtered.4.lora.s0",
        "tiny.filtered.4.lora.s7",
        "tiny.filtered.4.dora.s0",
        "tiny.filtered.4.dora.s7",
    ]
    assert [cell.method for cell in cells] == ["", "lora", "lora", "dora", "dora"]
    assert cells[1].seedless_name == "tiny.filtered.4.lora"
    assert Cell(student="s", data="d", size=1, random_seed=0).seedless_name == "s.d.1"


MISTAKES: list[tuple[dict[str, Any], list[str]]] = [
    ({"methods": {"dora": {"use_dorra": True}}}, ["methods.dora.use_dorra", "'use_dora'", "learning_rate", "r, "]),
    ({"methods": {"full": {"kind": "full", "learning_rate": 1e-4, "r": 8}}}, ["methods.full.r", "allowed for full"]),
    ({"methods": {"full": {"kind": "full"}}}, ["methods.full.learning_rate", "missing", "tenth"]),
    ({"methods": {"x": {"kind": "lore"}}}, ["kind", "'qlora'"]),
    ({"methods": {"x": {"eva_config": {"rho": 1}}}}, ["eva_config", "not taken", "reads data"]),
    ({"methods": {"x": {"init_lora_weights": "pissa"}}}, ["init_lora_weights", "'pissa'", "all cells share"]),
    ({"methods": {"x": {"init_lora_weights": False}}}, ["init_lora_weights"]),
    ({"methods": {"x": {"learning_rate": 2}}}, ["learning_rate", "less than 1"]),
    ({"methods": {"Big": {}}}, ["Big", "pattern"]),
    ({"lora": {"bias": "all"}}, ["bias", "not taken", "all cells share"]),
    ({"lora": {"layers_to_transform": 3}}, ["layers_to_transform", "list of names"]),
    ({"lora": {"layers_pattern": "h", "target_modules": ["q_proj"]}}, ["layers_pattern", "there are none"]),
    ({"lora": {"lora_bias": True}}, ["lora_bias", "not taken", "scored merged"]),
    ({"lora": {"exclude_modules": "("}}, ["exclude_modules '('", "no regular expression"]),
    ({"steps": 5, "epochs": 2}, ["steps", "epochs", "null"]),
    ({"steps": 5, "min_steps": 2}, ["steps", "min_steps"]),
    ({"steps": 0}, ["steps", "greater than or equal to 1"]),
]


@pytest.mark.parametrize(("changes", "expected"), MISTAKES)
def test_mistakes(changes: dict[str, Any], expected: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        settings(**changes)
    for part in expected:
        assert part in str(caught.value)


def test_a_mistake_in_a_method_is_named_with_its_line(tmp_path: Path) -> None:
    run = write_project(tmp_path, "nobody")
    run.write_text(run.read_text().replace("  epochs: 1\n", "  epochs: 1\n  methods:\n    dora:\n      use_dorra: 1\n"))
    line = run.read_text().splitlines().index("      use_dorra: 1") + 1
    with pytest.raises(UsageError, match=rf"shop.yaml:{line}: train: methods.dora.use_dorra: unknown key"):
        load_run(run)


def test_a_mistake_in_what_methods_share_is_said_once(tmp_path: Path) -> None:
    run = write_project(tmp_path, "nobody")
    several = ["train.methods={a: {}, b: {r: 2}}", "ship=null"]
    for wrong, said in (("train.lora={r: 0}", "train.lora.r: 0"), ("train.learning_rate=2", "train.learning_rate: 2")):
        with pytest.raises(UsageError) as caught:
            load_run(run, [*several, wrong])
        assert len(str(caught.value).splitlines()) == 1
        assert said in str(caught.value)
    with pytest.raises(UsageError, match=r"train\.methods\.b\.r: 0: input should be greater than or equal to 1"):
        load_run(run, ["train.methods={a: {}, b: {r: 0}}", "ship=null"])


def test_every_setting_of_peft_is_taken_or_refused_with_a_reason() -> None:
    from peft import LoraConfig

    fields = {field.name for field in dataclasses.fields(LoraConfig)}
    taken = set(Lora.model_fields)
    assert not taken & set(NOT_TAKEN)
    assert taken | set(NOT_TAKEN) == fields


def test_a_budget_of_steps_is_the_same_at_every_size() -> None:
    fixed = settings(steps=100, batch_size=4)
    assert [step_count(rows, fixed) for rows in (1, 10, 10_000)] == [100, 100, 100]
    assert fixed.budget == "100 steps of 4 rows at every size"
    assert settings(epochs=3).budget == "3 epochs but at least 32 steps of 8 rows"
    assert settings(steps=100, epochs=None, min_steps=None).steps == 100, "as a run that extends another writes it"


SHIPS = [
    ({"method": "dora"}, None),
    ({}, ["ship.method ''", "['lora', 'dora']"]),
    ({"method": "dorra"}, ["ship.method 'dorra'", "'dora'"]),
    ({"size": 0}, None),
]


@pytest.mark.parametrize(("ship", "expected"), SHIPS)
def test_the_student_to_ship_says_its_method(tmp_path: Path, ship: dict[str, Any], expected: list[str] | None) -> None:
    path = write_project(tmp_path, "tiny")
    written = [f"ship.{name}={value}" for name, value in ship.items()]
    several = ["train.methods={lora: {}, dora: {use_dora: true}}", *written]
    if expected is None:
        run = load_run(path, several)
        assert ship_cells(run)[0].method == ship.get("method", "")
        assert ship_cells(run)[0].name in {cell.name for cell in grid_cells(run.file.train, len(run.seeds))}
        return
    with pytest.raises(UsageError) as caught:
        load_run(path, several)
    for part in expected:
        assert part in str(caught.value)


def test_the_only_method_needs_no_name_in_ship(tmp_path: Path) -> None:
    path = write_project(tmp_path, "tiny")
    for settings_ in ([], ["ship.method=dora"]):
        run = load_run(path, ["train.methods={dora: {use_dora: true}}", *settings_])
        assert [cell.name for cell in ship_cells(run)] == ["tiny.filtered.12.s0"]
    with pytest.raises(UsageError, match=r"ship.method 'dora' is not one of train.methods \[\]"):
        load_run(path, ["ship.method=dora"])


def test_a_cell_is_shared_with_a_run_that_has_one_method(tiny_model: Path, tmp_path: Path) -> None:
    alone = plan_training(make_run(tmp_path, tiny_model)).cells
    methods = settings(lora={"r": 2}, methods={"lora": {}, "dora": {"use_dora": True}, "full": FULL}).methods
    several = plan_training(make_run(tmp_path, tiny_model, "several", methods=methods)).cells
    by_name = {planned.cell.name.split(".", 1)[1]: planned for planned in several}
    for planned in alone:
        name = planned.cell.name.split(".", 1)[1]
        same = by_name[name.replace(".s0", ".lora.s0") if planned.rows else name]
        assert (same.key, same.folder) == (planned.key, planned.folder)
    keys = {planned.key for planned in several}
    assert len(keys) == len(several) == 1 + 3 * 3
    full, dora = by_name["filtered.12.full.s0"], by_name["filtered.12.dora.s0"]
    assert (full.base, full.adapter) == (full.folder, None)
    assert (dora.base, dora.adapter) == (tiny_model, dora.folder)
    assert (full.learning_rate, dora.learning_rate) == (1e-4, 1e-3)
    assert full.rows == dora.rows, "methods are compared on the same rows"
    assert full.steps == dora.steps


TAKEN: dict[str, dict[str, Any]] = {
    "use_rslora": {"use_rslora": True},
    "use_dora": {"use_dora": True},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "mica": {"init_lora_weights": "mica"},
    "rank_pattern": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 3}},
    "exclude_modules": {"exclude_modules": ("gate_proj",)},
    "layers_to_transform": {"target_modules": ("q_proj", "up_proj"), "layers_to_transform": 1},
    "layers_pattern": {"target_modules": ("q_proj",), "layers_to_transform": (0,), "layers_pattern": "layers"},
    "modules_to_save": {"modules_to_save": ("norm",)},
    "embeddings": {"modules_to_save": ("embed_tokens",), "ensure_weight_tying": True},
    "trainable_token_indices": {"trainable_token_indices": (5, 6)},
    "target_parameters": {"target_modules": ("q_proj",), "target_parameters": ("down_proj.weight",)},
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_taken_is_tuned_stored_and_scored_merged(tiny_model: Path, tmp_path: Path, name: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from harness.engines.transformers import TransformersEngine
    from harness.train.loop import peft_config
    from harness.train.lora import PeftWeights, peft_model

    network = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        before = network(input_ids=ids).logits
        with peft_model(network, peft_config(Lora(r=4, **TAKEN[name])), 0) as wrapped:
            weights = PeftWeights(wrapped)
            for weight in weights.parameters:
                weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)), alpha=0.1)
            tuned = wrapped.eval()(input_ids=ids).logits
            weights.save(tmp_path)
        assert torch.equal(network(input_ids=ids).logits, before), "the base is as it was"
        engine = TransformersEngine(tiny_model, tmp_path, device="cpu", dtype="float32")
        scored = engine.network(input_ids=ids).logits
    assert not [note for note in engine.notes if "not merged" in note]
    assert torch.allclose(scored, tuned, atol=1e-3)
    assert not torch.allclose(tuned, before, atol=1e-2)
