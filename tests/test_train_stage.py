"""The train stage on files: the grid, what is shared and skipped, what is refused, and what a stop leaves."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.augment.rows import Judged, make_row
from harness.commands.dry_run import describe_training
from harness.config.inputs import rows_source
from harness.config.methods import Lora
from harness.config.run import Augment, Eval, Run, RunFile, Train
from harness.config.steps import Step
from harness.config.task import TaskFile
from harness.config.teacher import ScriptedTeacher
from harness.core.json_file import read_json
from harness.core.record import digest
from harness.core.store import Manifest, locked, write_json, write_jsonl, write_manifest
from harness.core.templates import load as load_template
from harness.core.terminal import Stop
from harness.errors import Interrupted, MachineError, UsageError
from harness.eval.plan import plan_scoring
from harness.records import Provenance, Sampling, Verdict
from harness.train.grid import plan_training
from harness.train.stage import train
from tests.fakes import Pressed, Quiet
from tests.project import labelled
from tests.tiny import TEMPLATE

LABELS = {"repair": "Broken parts", "billing": "Money", "cancel": "Ending it", "delivery": "Bringing it"}
SEEDS = tuple(labelled(f"seed {i} of {label}", label) for label in LABELS for i in range(2))
KEPT, DROPPED = 24, 12


def make_run(root: Path, student: Path, name: str = "demo", **changes: Any) -> Run:
    """A run whose augment stage is done, by hand. `changes` are of `train`, but for `filters`."""
    filters = changes.pop("filters", ())
    settings = {
        "students": (str(student),), "data": ("filtered", "seeds_only"), "sizes": (0, 4, 12),
        "epochs": 1, "min_steps": 3, "batch_size": 4, "lora": Lora(r=2),
    } | changes  # fmt: skip
    (root / "prompts").mkdir(parents=True, exist_ok=True)
    (root / "prompts" / "ask.j2").write_text("Message: {{ text }}\nTopic:")
    use = Step(path="prompts/ask.j2", sampling=Sampling())
    file = RunFile(
        task="prompts/task.yaml",
        teacher=ScriptedTeacher(model="none", engine="scripted", script="none"),
        augment=Augment(seeds="prompts/seeds.jsonl", rows=KEPT, templates=(use,), filters=filters),
        train=Train(**settings),
        eval=Eval(suites=("none",)),
    )
    task = TaskFile(labels=LABELS, system="Name the topic.", prompt="prompts/ask.j2", untuned_prompt="prompts/ask.j2")
    run = Run(name, root, file, task, SEEDS, {}, task.prompts(root))
    if not (run.folder / "augment").exists():
        augment_by_hand(run)
    return run


def augment_by_hand(run: Run, kept: int = KEPT) -> None:
    """Write what augment would."""
    template = load_template(run.root / "prompts" / "ask.j2")
    labels = list(LABELS)
    rows = [
        make_row(run.task, template, labelled(f"text number {i}", labels[i % 4]), Provenance(source="teacher"))
        for i in range(kept + DROPPED)
    ]
    rejected = [Judged(row=row, verdicts=(Verdict(row=row.id, filter="length", keep=False),)) for row in rows[kept:]]
    folder = run.folder / "augment"
    files = [folder / "train.jsonl", folder / "rejected.jsonl"]
    write_jsonl(files[0], rows[:kept])
    write_jsonl(files[1], rejected)
    made = Manifest(stage="augment", inputs="by hand", settings=rows_source(run))
    write_manifest(folder, made, files)


def go(run: Run, stop: Stop | None = None) -> tuple[int | None, Quiet]:
    """Run the stage."""
    terminal = Quiet()
    return train(run, terminal, stop or Stop()), terminal


def cells(run: Run) -> dict[str, Mapping[str, Any]]:
    """cells.json by data and size."""
    stored = read_json(run.folder / "train" / "cells.json")["cells"]
    return {f"{c['data']}.{c['size']}.s{c['random_seed']}": c for c in stored}


def dry_run(run: Run) -> list[tuple[str, int, int, int, str]]:
    """(cell, rows, steps, tokens, state) of every cell that the dry run prints."""
    lines = re.findall(r"^  (\S+) +(\d+) rows +(\d+) steps +(\d+) tokens  (.*)$", describe_training(run), re.MULTILINE)
    return [(name, int(rows), int(steps), int(tokens), state) for name, rows, steps, tokens, state in lines]


def test_the_grid_is_trained_written_down_and_then_left_alone(tiny_model: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, tiny_model)
    count, heard = go(run)
    assert count == 3
    found = cells(run)
    assert list(found) == ["base.0.s0", "filtered.4.s0", "filtered.12.s0", "seeds_only.8.s0"]
    assert found["base.0.s0"]["folder"] == ""
    assert Path(run.root / found["base.0.s0"]["base"]) == tiny_model
    for name in ("filtered.4.s0", "filtered.12.s0", "seeds_only.8.s0"):
        cell = found[name]
        assert not Path(cell["folder"]).is_absolute()
        assert (run.root / cell["folder"] / "adapter_model.safetensors").is_file()
        log = read_json(run.root / cell["folder"] / "cell.json")
        assert (log["key"], log["rows"], log["steps"]) == (cell["key"], cell["rows"], cell["steps"])
        assert log["environment"]["packages"]["torch"]
        assert str(tmp_path) not in (run.root / cell["folder"] / "adapter_config.json").read_text()
        assert cell["name"] in heard.text
    assert [found[n]["steps"] for n in ("filtered.4.s0", "seeds_only.8.s0", "filtered.12.s0")] == [3, 3, 3]

    count, heard = go(run)
    assert count is None
    assert heard.text.startswith("train: nothing to do (4 cells;")


def test_doing_nothing_imports_no_torch(tiny_model: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, tiny_model)
    go(run)
    program = (
        "import sys; from pathlib import Path; from tests.test_train_stage import *;"
        f"run = make_run(Path({str(tmp_path)!r}), Path({str(tiny_model)!r}));"
        "assert go(run)[0] is None; assert all(p.trained for p in plan_training(run).cells);"
        "assert [state for *_, state in dry_run(run)] == ['stored'] * 4;"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parent.parent)


def test_a_grown_run_pays_only_for_what_is_new(tiny_model: Path, tmp_path: Path) -> None:
    go(make_run(tmp_path, tiny_model))
    grown = make_run(tmp_path, tiny_model, "study", random_seeds=(0, 1), data=("filtered",))
    count, heard = go(grown)
    assert count == 2
    assert "train: 2 of 4 cells are trained already, in this run or another: " in heard.text
    assert set(cells(grown)) == {"base.0.s0"} | {f"filtered.{n}.s{s}" for n in (4, 12) for s in (0, 1)}


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({"learning_rate": 5e-4}, True),
        ({"lora": Lora(r=2, lora_alpha=4)}, True),
        ({"epochs": 2}, True),
        ({"epochs": 3, "min_steps": 9}, True),
        ({"micro_batch_tokens": 64}, False),
        ({"max_length": 300}, False),
        ({"sizes": (0, 4, 8, 12)}, False),
    ],
)
def test_a_key_changes_with_what_changes_the_adapter(
    tiny_model: Path, tmp_path: Path, change: dict[str, Any], again: bool
) -> None:
    def keys(run: Run) -> dict[str, str]:
        return {g.cell.name: g.key for g in plan_training(run).cells}

    before = keys(make_run(tmp_path, tiny_model))
    after = keys(make_run(tmp_path, tiny_model, **change))
    changed = {name for name in before if before[name] != after[name]}
    assert bool(changed) == again
    assert not any(name.endswith(".base") for name in changed)


def test_other_weights_and_other_rows_give_other_keys(tiny_model: Path, tmp_path: Path) -> None:
    from tests.tiny import make_tiny_model

    run = make_run(tmp_path, tiny_model)
    other = make_tiny_model(tmp_path / "other", random_seed=1)
    assert {g.key for g in plan_training(run).cells}.isdisjoint(
        g.key for g in plan_training(make_run(tmp_path, other)).cells
    )
    before = [g.key for g in plan_training(run).cells]
    augment_by_hand(run, kept=KEPT - 4)
    after = [g.key for g in plan_training(run).cells]
    assert before[0] == after[0]  # the base has no rows
    assert before[1:3] != after[1:3]
    assert before[3] == after[3]  # seeds alone do not change


def test_unfiltered_rows_come_from_kept_and_dropped(tiny_model: Path, tmp_path: Path) -> None:
    plan = plan_training(make_run(tmp_path, tiny_model, data=("filtered", "unfiltered"), sizes=(12, 24)))
    grid = plan.cells
    drawn = {(g.cell.data, g.cell.size): {row.text for row in g.rows} for g in grid}
    kept = {f"text number {i}" for i in range(KEPT)}
    assert drawn["filtered", 24] == kept
    assert drawn["unfiltered", 24] - kept
    assert {g.available for g in grid if g.cell.data == "unfiltered"} == {KEPT + DROPPED}
    notes = plan.notes
    assert [note.split(",")[0] for note in notes] == [
        "the largest size of data 'filtered'",
        "the largest size of data 'unfiltered'",
    ]
    assert "24, is drawn from 36 rows, fewer than twice as many" in notes[1]


def test_sizes_beyond_the_rows_are_refused_before_anything_is_spent(tiny_model: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, tiny_model, sizes=(4, 400))
    with pytest.raises(UsageError, match=r"demo\.yaml: train\.sizes: 400 .*\b24\b.*\[4\]"):
        go(run)
    assert not (run.folder / "train" / "cells.json").exists()


def test_train_before_augment_is_refused_but_can_be_planned(tiny_model: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, tiny_model)
    (run.folder / "augment" / "manifest.json").unlink()
    with pytest.raises(UsageError, match="augment first"):
        go(run)
    described = dry_run(run)
    assert [(rows, steps, state) for _, rows, steps, _, state in described] == [
        (0, 0, "rows or student not there yet"),
        *((rows, 3, "rows or student not there yet") for rows in (4, 12, 8)),
    ]


def test_a_plan_is_what_then_happens(tiny_model: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, tiny_model)
    plan, described = plan_training(run), dry_run(run)
    assert [planned.trained for planned in plan.cells] == [True, False, False, False]
    assert [state for *_, state in described] == ["stored", "to do", "to do", "to do"]
    go(run)
    trained = list(cells(run).values())
    assert [(p.cell.name, p.key, len(p.rows), p.steps) for p in plan.cells] == [
        (stored["name"], stored["key"], stored["rows"], stored["steps"]) for stored in trained
    ]
    for (name, rows, steps, tokens, _), stored in zip(described, trained, strict=True):
        assert (name, rows, steps) == (stored["name"], stored["rows"], stored["steps"])
        assert tokens == pytest.approx(stored["tokens"], rel=0.2)


def test_one_bad_student_stops_the_run_before_the_first_cell(tiny_model: Path, tmp_path: Path) -> None:
    from tests.tiny import make_tiny_model

    bad = make_tiny_model(tmp_path / "endless")
    for file in (bad / "chat_template.jinja", bad / "tokenizer_config.json"):
        if file.is_file():
            file.write_text(file.read_text().replace("message['content'] + '<|im_end|>", "message['content'] + '"))
    run = make_run(tmp_path, tiny_model, students=(str(tiny_model), str(bad)))
    with pytest.raises(UsageError, match=r"endless: row .* no stop token"):
        go(run)
    assert not list((run.cache / "students").glob("*"))


def test_a_chat_template_that_drops_the_system_message_is_said_before_training(
    tiny_model: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "deaf"))
    dropping = TEMPLATE.replace("in messages %}", "in messages if message['role'] != 'system' %}")
    (folder / "chat_template.jinja").write_text(dropping)
    count, heard = go(make_run(tmp_path, folder))
    assert count == 3
    said = next(line for line in heard.said if "warning: deaf: its chat template leaves out the system message" in line)
    assert heard.said.index(said) < next(i for i, line in enumerate(heard.said) if "loss first -> last" in line)


def test_a_stop_keeps_finished_cells_and_the_next_call_goes_on_inside_the_others(
    tiny_model: Path, tmp_path: Path
) -> None:
    go(make_run(tmp_path / "whole", tiny_model, epochs=4))  # 4 rows have 4 steps, 12 rows 12
    run = make_run(tmp_path / "stopped", tiny_model, epochs=4)
    with pytest.raises(Interrupted, match=r"2 of 4 .*make train RUN=demo"):
        go(run, Pressed(at=7))  # looked at: before the student, then after each pass
    kept = {name: cell for name, cell in cells(run).items() if cell["folder"]}
    written = {name: (run.root / cell["folder"] / "cell.json").stat().st_mtime_ns for name, cell in kept.items()}
    assert 0 < len(kept) < 3
    assert not list((run.cache / "students").glob(".*"))  # nothing half-made
    count, heard = go(run)
    assert count == 3 - len(kept)
    assert "train: going on from " in heard.text
    assert not list((run.folder / "train" / "checkpoints").glob("*/*"))
    for name, cell in cells(run).items():
        if name in written:
            assert (run.root / cell["folder"] / "cell.json").stat().st_mtime_ns == written[name]
        if cell["folder"]:
            weights = (Path(cell["folder"]) / "adapter_model.safetensors" for _ in range(2))
            whole, stopped = (root / path for root, path in zip((tmp_path / "whole", run.root), weights, strict=True))
            assert whole.read_bytes() == stopped.read_bytes()


def test_a_checkpoint_of_other_cells_is_not_gone_on_from(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        go(make_run(tmp_path, tiny_model, epochs=4), Pressed(at=3))
    kept = tmp_path / "runs/demo/train/checkpoints"
    assert list(kept.glob("*/*"))
    (kept / "of-a-process-that-is-no-more").mkdir()
    count, heard = go(make_run(tmp_path, tiny_model, epochs=4, learning_rate=1e-4))
    assert count == 3
    assert "going on from" not in heard.text
    assert not kept.exists()


def test_cells_of_the_same_rows_and_settings_are_trained_once(tiny_model: Path, tmp_path: Path) -> None:
    alike: dict[str, dict[str, Any]] = {"a": {}, "b": {}}
    train = Train.model_validate({"students": ["tiny"], "sizes": [4], "methods": alike, "lora": {"r": 2}})
    run = make_run(tmp_path, tiny_model, data=("filtered", "synthetic"), sizes=(4,), methods=train.methods)
    run_tokens = re.search(r"(\d+) tokens to train on", describe_training(run))
    assert run_tokens is not None
    assert {tokens for *_, tokens, _ in dry_run(run)} == {int(run_tokens[1])}
    go(run)
    lines = [json.loads(line) for line in (run.folder / "train/log.jsonl").read_text().splitlines()]
    assert [(line["cell"].partition(".")[2], line["step"]) for line in lines] == [
        ("filtered.4.a.s0", 1),
        ("filtered.4.a.s0", 2),
        ("filtered.4.a.s0", 3),
    ]
    stored = read_json(run.folder / "train" / "cells.json")["cells"]
    assert len(stored) == 4
    assert len({cell["key"] for cell in stored}) == 1


def test_a_stop_after_the_last_cell_leaves_nothing_to_go_on_with(tiny_model: Path, tmp_path: Path) -> None:
    unpressed = Pressed(at=10**6)
    go(make_run(tmp_path / "a", tiny_model), unpressed)
    run = make_run(tmp_path / "b", tiny_model)
    with pytest.raises(Interrupted, match=r"4 cells are trained$"):
        go(run, Pressed(at=10**6 - unpressed.left - 1))
    assert go(run)[0] is None


def test_what_a_killed_training_left_is_swept(tiny_model: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, tiny_model, sizes=(0, 4), data=("filtered",))
    left = run.cache / "students" / ".0123.abc"
    left.mkdir(parents=True)
    (left / "adapter_model.safetensors").write_text("half")
    go(run)
    assert not left.exists()


def test_two_trainings_at_once_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, tiny_model)
    with (
        locked(run.folder / "train", "train of demo"),
        pytest.raises(MachineError, match="another process"),
    ):
        go(run)


def _pickled(weights: Path, other: Path) -> None:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()


def _zeroed(weights: Path, other: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_file({name: 0 * found for name, found in load_file(weights).items()}, weights, metadata={"format": "pt"})


DAMAGE: dict[str, Callable[[Path, Path], object]] = {  # what is done to a cell's weights; another cell's
    "removed": lambda weights, other: weights.unlink(),
    "cut by a byte": lambda weights, other: weights.write_bytes(weights.read_bytes()[:-1]),
    "swapped": lambda weights, other: shutil.copy(other, weights),
    "the whole cell swapped": lambda weights, other: shutil.copytree(other.parent, weights.parent, dirs_exist_ok=True),
    "zeroed": _zeroed,
    "a pickle in its place": _pickled,
    "a pickle beside it": lambda weights, other: weights.with_suffix(".bin").write_bytes(b"cos\n"),
    "other settings": lambda weights, other: (weights.parent / "adapter_config.json").write_text("{}"),
    "another log": lambda weights, other: (weights.parent / "cell.json").write_text("{}"),
    "no manifest": lambda weights, other: (weights.parent / "manifest.json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_adapter_is_never_scored_and_trained_again(tiny_model: Path, tmp_path: Path, damage: str) -> None:
    run = make_run(tmp_path, tiny_model, data=("filtered",))
    go(run)
    plan_scoring(run)
    folders = {name: run.root / cell["folder"] for name, cell in cells(run).items() if cell["folder"]}
    mine, other = (folders[f"filtered.{size}.s0"] / "adapter_model.safetensors" for size in (12, 4))
    before, untouched = mine.read_bytes(), other.stat().st_mtime_ns
    DAMAGE[damage](mine, other)
    with pytest.raises(UsageError, match=r"filtered\.12\.s0 .*edited.*make train RUN=demo"):
        plan_scoring(run)
    count, heard = go(run)
    assert count == 1
    assert "trained again: " in heard.text
    assert mine.read_bytes() == before
    assert not mine.with_suffix(".bin").exists()
    assert other.stat().st_mtime_ns == untouched
    plan_scoring(run)
    assert go(run)[0] is None


def test_settings_of_peft_in_another_order_are_the_same_adapter(tiny_model: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, tiny_model, data=("filtered",), sizes=(0, 4))
    go(run)
    path = run.root / cells(run)["filtered.4.s0"]["folder"] / "adapter_config.json"
    settings = read_json(path)
    settings["target_modules"] = settings["target_modules"][::-1]
    path.write_text(json.dumps(dict(reversed(settings.items()))))
    assert go(run)[0] is None
    path.write_text(json.dumps(settings | {"lora_alpha": 2 * settings["lora_alpha"]}))
    assert go(run)[0] == 1


def test_cells_that_were_edited_name_no_adapters(tiny_model: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, tiny_model, data=("filtered",))
    go(run)
    path = run.folder / "train" / "cells.json"
    stored = read_json(path)
    stored["cells"][1]["folder"] = stored["cells"][2]["folder"]
    path.write_text(json.dumps(stored))
    with pytest.raises(UsageError, match=r"cells\.json .*edited.*make train RUN=demo"):
        plan_scoring(run)
    assert go(run)[0] == 0
    plan_scoring(run)


def test_cells_as_an_older_version_wrote_them_are_written_again_and_not_trained(
    tiny_model: Path, tmp_path: Path
) -> None:
    run = make_run(tmp_path, tiny_model, data=("filtered",))
    go(run)
    folder = run.folder / "train"
    stored = read_json(folder / "cells.json")
    older = {name.replace("min_steps", "min_updates"): value for name, value in stored.items()}
    write_json(folder / "cells.json", older)
    inputs = digest("train", 1, [[g.cell.model_dump(), g.key] for g in plan_training(run).cells])
    write_manifest(folder, Manifest(stage="train", inputs=inputs), [folder / "cells.json"])
    with pytest.raises(UsageError, match=r"cells\.json: an older version wrote it; make train RUN=demo"):
        plan_scoring(run)
    assert go(run)[0] == 0
    assert read_json(folder / "cells.json") == stored
    plan_scoring(run)


def test_scores_of_benchmark_rows_that_are_gone_keep_their_keys(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "project", tiny_model, data=("filtered",), sizes=(0,))
    go(run)
    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / "ARC-Challenge_test.jsonl").write_text("{}\n")
    monkeypatch.setenv("HARNESS_BENCHMARKS", str(rows))
    scored = plan_scoring(run).benchmarks
    assert scored == (("ARC-Challenge_test.jsonl", 3),)
    write_json(run.folder / "eval" / "scorecards.json", {"benchmarks": scored, "cards": []})
    monkeypatch.delenv("HARNESS_BENCHMARKS")
    assert plan_scoring(run).benchmarks == scored, (
        "else every card would have another key, and be lost from the results"
    )
    (run.folder / "eval" / "scorecards.json").write_text("{")
    assert plan_scoring(run).benchmarks == ()
