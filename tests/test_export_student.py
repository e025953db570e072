"""`harness export-student`: which student, its files and card, what is refused; a wrong merge leaves nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.builders import form_scorer
from harness.commands.export import Options as ExportOptions
from harness.commands.export import export
from harness.commands.export_student import OpenForm, Options, chosen, export_student, licence_of, serve_line
from harness.commands.model_card import ModelCard, model_card
from harness.commands.push import Hub
from harness.config.load import load_run
from harness.config.run import Run
from harness.engines.transformers import TransformersEngine
from harness.errors import MachineError, UsageError
from harness.eval.current import results_of
from harness.models import merge as merging
from harness.models.merge import TOLERANCE, Said, compare, merge
from harness.models.resolve import Model, resolve
from harness.records import Cell, Score
from harness.report.one_student import against_alternatives, best_on_dev, scores_of
from harness.suites.suite import Suite
from harness.train.grid import GridCell, plan_training
from tests.fakes import Quiet
from tests.process import harness
from tests.project import write_project
from tests.stored import Stored, write_stored
from tests.test_export import FakeHub, uploads
from tests.test_loop import loop
from tests.test_train_stage import go, make_run
from tests.tiny import make_adapter


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Run:
    """A run that was scored. Tests write beside it only."""
    run = load_run(write_project(tmp_path_factory.mktemp("student"), str(tiny_model)))
    loop(run)
    return run


def exported(run: Run, folder: Path, **options: Any) -> tuple[Path, Quiet]:
    heard = Quiet()
    written = export_student(run, Options(output=folder, **options), form_scorer(run, heard), no_hub, heard)
    assert (written.folder, written.exit_code) == (folder, 0)
    return folder, heard


def no_hub() -> Hub:
    """Where nothing is uploaded."""
    pytest.fail("the hub was opened")


def card_of(folder: Path) -> tuple[dict[str, Any], str]:
    """(What the hub reads of a card, the whole text)."""
    text = (folder / "README.md").read_text()
    front: dict[str, Any] = yaml.safe_load(text.split("---\n", 2)[1])
    return front, text


def cell_of(run: Run, data: str, size: int) -> GridCell:
    return next(p for p in plan_training(run).cells if (p.cell.data, p.cell.size) == (data, size))


def test_an_adapter_is_exported_with_its_card(shop: Run, tmp_path: Path, tiny_model: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder, heard = exported(shop, tmp_path / "out", languages=("en",))
    assert {path.name for path in folder.iterdir()} == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    stored = json.loads((folder / "adapter_config.json").read_text())
    assert stored["base_model_name_or_path"] == "tiny-llama"
    shipped = cell_of(shop, "filtered", 12)
    weights = (shipped.folder / "adapter_model.safetensors").read_bytes()
    assert (folder / "adapter_model.safetensors").read_bytes() == weights
    assert PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), str(folder)).peft_config
    assert "(ship) as an adapter" in heard.text
    assert (
        f"vllm serve {tiny_model} --enable-lora --lora-modules tiny-llama.filtered.12.s0={folder} --max-lora-rank 16"
        in (heard.text)
    )
    front, text = card_of(folder)
    assert front == {
        "license": "unknown", "language": ["en"], "library_name": "peft", "pipeline_tag": "text-generation",
        "tags": ["harness", "lora"],
    }  # fmt: skip
    for part in ("How it is asked", "How it is served", "Scores", "How it was tuned", "Its rows", "Known limits"):
        assert f"## {part}\n" in text
    assert str(shop.root) not in text, "no path of this machine"
    assert str(tiny_model) not in text
    assert "LoRA, r 16, lora" in text
    assert "12 rows (12 written by a model)" in text
    assert "It was tuned on 12 rows" in text
    assert any(line.strip().startswith("the card's licence is 'unknown'") for line in heard.said)


def test_the_card_of_a_cell_that_stopped_early_says_which_weights_it_has(shop: Run, tmp_path: Path) -> None:
    planned = cell_of(shop, "filtered", 12)
    log = json.loads((planned.folder / "cell.json").read_text())
    log |= {"best_step": 2, "steps_done": 3, "validation": [[1, 2.5], [2, 1.25], [3, 1.5]]}
    card = ModelCard(
        name="s", planned=planned, log=log, form="adapter", check="", again=None, serve="vllm serve", licence="",
        base_licence="", languages=(), scores=(), against=(), score_limits=(), funnel=None, template="", longest=40,
        files=(),
    )  # fmt: skip
    text = model_card(shop, card).replace("\\", "")
    passes = f"{8 / 12:.3g} passes over the rows"
    assert f"2 of 4 rows: {passes}. Of 3 steps done and {planned.steps} at most" in text
    assert "the lowest loss on dev items, 1.250 nats a token" in text


def test_the_card_has_the_scores_of_the_report(shop: Run, tmp_path: Path) -> None:
    folder, _ = exported(shop, tmp_path / "out")
    _, text = card_of(folder)
    results, cell = results_of(shop), cell_of(shop, "filtered", 12).cell
    scored = scores_of(results, shop.suites.values(), cell, 0)
    against = dict(against_alternatives(results, shop.suites.values(), cell, 0))
    assert list(against) == ["shop"], "of the task's own suites"
    assert "alternative" in against["shop"]
    named = against["shop"].replace(cell.student, cell_of(shop, "filtered", 12).model.name)
    assert f"- shop: {named}" in text.replace("\\", "")
    assert {(line.suite, line.metric) for line in scored} >= {
        ("shop", "accuracy"),
        ("shop", "choice_accuracy"),
        ("facts", "accuracy"),
    }
    for line in scored:
        card = results.card(line.suite, cell.name, "zero_shot")
        base = results.card(line.suite, f"{cell.name.split('.filtered')[0]}.base", "zero_shot")
        assert card is not None
        assert base is not None
        assert line.value.startswith(f"{card.metrics[line.metric]:.3f} [")
        assert line.base.startswith(f"{base.metrics[line.metric]:.3f} [")
        assert f"| {line.suite} |" in text
        assert line.value in text.replace("\\", "")


def test_a_merged_model_answers_as_base_and_adapter_do(shop: Run, tmp_path: Path, tiny_model: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, heard = exported(shop, tmp_path / "out", student="seeds_only", merged=True)
    assert not list(folder.glob("adapter_*"))
    assert "checked on 8 prompts against base and adapter apart" in heard.text
    assert f"vllm serve {folder} --served-model-name tiny-llama.seeds_only.60.s0" in heard.text
    front, text = card_of(folder)
    assert front["library_name"] == "transformers"
    assert "60 human-written seeds" in text
    assert "vllm serve THIS_FOLDER --served-model-name" in text.replace("\\", "")
    assert str(tiny_model) not in (folder / "config.json").read_text()
    merged = AutoModelForCausalLM.from_pretrained(folder)
    assert merged.dtype == torch.bfloat16
    cell = cell_of(shop, "seeds_only", 60)
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    apart = PeftModel.from_pretrained(base, str(cell.folder)).eval()
    ids = torch.tensor([AutoTokenizer.from_pretrained(folder)("where is my parcel?").input_ids])
    with torch.no_grad():
        a, b = apart(input_ids=ids).logits, merged.float().eval()(input_ids=ids).logits
    assert float((a - b).square().mean().sqrt() / a.std(dim=-1).mean()) < TOLERANCE["bfloat16"]
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (folder / name).read_bytes() == (tiny_model / name).read_bytes()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_merged_model_is_stored_in_the_type_that_is_asked_for(shop: Run, tmp_path: Path, dtype: str) -> None:
    from transformers import AutoModelForCausalLM

    folder, heard = exported(shop, tmp_path / dtype, merged=True, dtype=dtype)
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == getattr(torch, dtype)
    assert f"allowed for {dtype}: {TOLERANCE[dtype]:g}" in heard.text
    assert TransformersEngine(folder, device="cpu", dtype=dtype).notes == []


def test_a_wrong_merge_leaves_no_folder(shop: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from peft import LoraModel

    kept, _ = exported(shop, tmp_path / "kept", merged=True)
    before = {path.name: path.read_bytes() for path in kept.iterdir()}
    monkeypatch.setattr(LoraModel, "merge_and_unload", lambda self: self.unload())  # the adapter is lost
    for folder in (tmp_path / "new", kept):
        with pytest.raises(MachineError, match=r"not what base and adapter are: on prompt \d of 8 its logits differ"):
            exported(shop, folder, merged=True)
    assert {path.name for path in tmp_path.iterdir()} == {"kept"}
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before


def test_all_weights_that_were_tuned_are_a_model_already(tiny_model: Path, tmp_path: Path) -> None:
    method = {"kind": "full", "learning_rate": 1e-4}
    run = make_run(tmp_path, tiny_model, sizes=(0, 4), data=("filtered",), methods={"all": method})
    go(run)
    folder, heard = exported(run, tmp_path / "out", student="filtered.4")
    assert "all its weights were tuned: it has no adapter" in heard.text
    assert (folder / "model.safetensors").read_bytes() == (
        cell_of(run, "filtered", 4).folder / "model.safetensors"
    ).read_bytes()
    assert not (folder / "cell.json").exists()
    assert "all of whose weights were tuned" in (folder / "README.md").read_text()
    with pytest.raises(UsageError, match="--dtype float32: all weights of this student were tuned"):
        exported(run, tmp_path / "other", student="filtered.4", merged=True, dtype="float32")
    assert not (tmp_path / "other").exists()


# --- which student


def test_a_gguf_file_is_scored_again_beside_the_student(shop: Run, tmp_path: Path) -> None:
    folder, heard = exported(shop, tmp_path / "out", gguf="q8_0")
    name = "tiny-llama.filtered.12.s0"
    assert {path.name for path in folder.iterdir()} == {"README.md", "Modelfile", f"{name}.q8_0.gguf"}
    assert (folder / "Modelfile").read_text().startswith(f"FROM ./{name}.q8_0.gguf\n")
    assert f"ollama create {name}" in heard.text
    assert "scored again in this form" in heard.text
    assert "shop: " in heard.text
    front, text = card_of(folder)
    assert front["library_name"] == "gguf"
    assert "## Scored again in this form" in text
    assert "AutoModelForCausalLM" not in text
    _, unscored = exported(shop, tmp_path / "other", gguf="q8_0", score=False)
    assert "scored again" not in unscored.text


def no_answers(run: Run) -> OpenForm:
    """A form of which every item fails."""

    def rescore(suite: Suite) -> Sequence[Score]:
        results, name = results_of(run), cell_of(run, "filtered", 12).cell.name
        card = results.card(suite.name, name, "zero_shot")
        assert card is not None
        return [Score(item=s.item, split=s.split, status="failed", error="broken") for s in results.scores(card)]

    return lambda cell, folder: rescore


def test_a_form_that_is_refused_is_written_said_and_not_uploaded(shop: Run, tmp_path: Path) -> None:
    hub, heard = FakeHub(), Quiet()
    options = Options(output=tmp_path / "out", merged=True, repository="me/student")
    written = export_student(shop, options, no_answers(shop), lambda: hub, heard)
    assert written.exit_code == 3
    assert "it is not uploaded" in heard.text
    assert not uploads(hub)
    assert "By the limits of its suites: failed." in card_of(written.folder)[1]


def test_a_student_is_uploaded_as_a_private_model(shop: Run, tmp_path: Path) -> None:
    hub, heard = FakeHub(), Quiet()
    options = Options(output=tmp_path / "out", repository="me/student")
    export_student(shop, options, form_scorer(shop, heard), lambda: hub, heard)
    (created, settings), (_, sent) = hub.asked
    assert (created, settings["repo_type"], settings["private"]) == ("create me/student", "model", True)
    assert set(sent["allow_patterns"]) == sent["files"] == {path.name for path in (tmp_path / "out").iterdir()}
    assert heard.said[-1].strip().startswith("uploaded to https://huggingface.co/me/student (private")


def test_without_ship_it_is_the_best_on_dev_items(shop: Run) -> None:
    results = results_of(shop)
    free = replace(shop, file=shop.file.model_copy(update={"ship": None}))
    planned, why = chosen(free, results, None)
    assert why.startswith("best on the dev items of shop, accuracy 0.")
    assert planned.cell.name in {p.cell.name for p in plan_training(shop).cells if p.rows}
    with pytest.raises(UsageError, match=r"no ship section, and no student .* on dev items: name one of .*\.12\.s0"):
        chosen(free, None, None)
    assert chosen(shop, None, None)[1] == "ship"
    assert chosen(shop, None, "filtered.4")[0].cell.size == 4
    with pytest.raises(UsageError, match="there is no student 'nobody'"):
        chosen(shop, None, "nobody")


SIZES = (4, 12, 13)
TWENTIETHS = st.tuples(st.integers(1, 19), st.integers(1, 19))  # of the dev and the test items that are right


def stored_scores(gate: Stored, *dev_and_test: tuple[float, float]) -> None:
    """Students of growing size that are right on such shares of the dev and of the test items."""
    items = gate.run().suites["shop"].items

    def values(dev: float, test: float) -> Any:
        return lambda i: {"accuracy": float(i % 100 < 100 * (dev if items[i].split == "dev" else test))}

    cells = [
        Cell(student="tiny", data="filtered", size=size, random_seed=0) for size in (4, 12, 13)[: len(dev_and_test)]
    ]
    gate.store(*(values(*shares) for shares in dev_and_test), cells=cells)


@settings(max_examples=15, deadline=None)
@given(st.lists(TWENTIETHS, min_size=1, max_size=3, unique_by=lambda pair: pair[0]))
def test_the_choice_looks_at_dev_items_alone(
    tmp_path_factory: pytest.TempPathFactory, shares: list[tuple[int, int]]
) -> None:
    gate = write_stored(tmp_path_factory.mktemp("dev"))
    stored_scores(gate, *((dev / 20, test / 20) for dev, test in shares))
    run = gate.run()
    names = [f"tiny.filtered.{size}.s0" for size in SIZES]
    best = best_on_dev(results_of(run), run.suites["shop"], names)
    assert best is not None
    assert best[0] == names[max(range(len(shares)), key=lambda n: shares[n][0])]
    assert best_on_dev(results_of(run), run.suites["shop"], ["tiny.filtered.99.s0"]) is None


# --- what is refused


@pytest.fixture
def damaged(shop: Run) -> Iterator[Path]:
    """The weights of the ship student, one byte shorter, and whole again after the test."""
    path = cell_of(shop, "filtered", 12).folder / "adapter_model.safetensors"
    before = path.read_bytes()
    path.write_bytes(before[:-1])
    yield path
    path.write_bytes(before)


def test_a_damaged_cell_is_not_exported(shop: Run, tmp_path: Path, damaged: Path) -> None:
    for merged in (False, True):
        with pytest.raises(
            UsageError, match=r"was edited or damaged since it was trained: train first \(make train RUN=shop\)"
        ):
            exported(shop, tmp_path / "out", merged=merged)
    assert not (tmp_path / "out").exists()


def test_a_cell_that_is_not_trained_and_a_base_are_not_exported(tiny_model: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, tiny_model)
    with pytest.raises(UsageError, match="is not trained yet: train first"):
        exported(run, tmp_path / "out", student="filtered.12")
    base = load_run(
        write_project(tmp_path / "b", str(tiny_model)), ["ship.size=0", "train.data=[seeds_only]", "train.sizes=[0]"]
    )
    with pytest.raises(UsageError, match=r"ship names .*\.base, which is no tuned student"):
        exported(base, tmp_path / "out")


def test_an_adapter_of_another_base_is_one_message(tmp_path: Path, tiny_model: Path) -> None:
    adapter = make_adapter(tiny_model, tmp_path / "adapter")
    shallow = Path(shutil.copytree(tiny_model, tmp_path / "shallow"))
    config = json.loads((shallow / "config.json").read_text())
    (shallow / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1, "layer_types": None}))
    other_rank = Path(shutil.copytree(adapter, tmp_path / "other_rank"))
    stored = json.loads((adapter / "adapter_config.json").read_text())
    (other_rank / "adapter_config.json").write_text(json.dumps(stored | {"r": 8}))
    for base, folder, says in (
        (shallow, adapter, "14 of its weights have no place there"),
        (tiny_model, other_rank, "size mismatch"),
    ):
        with pytest.raises(UsageError, match=rf"{folder.name}: not an adapter of {base.name}: .*{says}") as caught:
            merge(base, folder, tmp_path / "out", [[5, 6, 7]], [1])
        assert "\n" not in str(caught.value)
        with pytest.raises(UsageError, match=says):
            TransformersEngine(base, folder, device="cpu")


def test_nothing_of_others_is_written_over(shop: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    for folder in (tmp_path / "mine", tmp_path / "mine/notes.txt"):
        with pytest.raises(UsageError, match=r"notes\.txt is there, and no export of a student wrote it"):
            exported(shop, folder)
    assert (tmp_path / "mine/notes.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    folder, _ = exported(shop, tmp_path / "empty")
    again, _ = exported(shop, folder, student="filtered.4")
    assert "filtered.4" in (again / "README.md").read_text()
    (tmp_path / "link").symlink_to(again)
    heard = Quiet()
    export_student(shop, Options(output=tmp_path / "link"), form_scorer(shop, heard), no_hub, heard)
    assert "filtered.12" in (again / "README.md").read_text()
    assert (tmp_path / "link").is_symlink()
    (again / ".git").mkdir()
    (again / ".git/HEAD").write_text("x")
    with pytest.raises(UsageError, match=r"\.git is there"):
        exported(shop, again)
    assert (again / ".git/HEAD").read_text() == "x"


def test_rows_and_students_are_not_exported_into_each_others_folders(shop: Run, tmp_path: Path) -> None:
    rows = export(shop, ExportOptions("alpaca", output=tmp_path / "rows"), no_hub, Quiet())
    with pytest.raises(UsageError, match="is there, and no export of a student wrote it"):
        exported(shop, rows)
    student, _ = exported(shop, tmp_path / "student")
    with pytest.raises(UsageError, match=r"README\.md is there, and no export wrote it"):
        export(shop, ExportOptions("alpaca", output=student), no_hub, Quiet())


def test_whoever_serves_an_export_may_read_it(shop: Run, tmp_path: Path) -> None:
    folder, _ = exported(shop, tmp_path / "out")
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}


def test_a_licence_is_of_the_export_and_the_base_keeps_its_own(tmp_path: Path, tiny_model: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    run = load_run(write_project(tmp_path / "project", str(base), eval={"suites": ["shop"]}))
    loop(run)
    folder, _ = exported(run, tmp_path / "out", licence="mit")
    front, text = card_of(folder)
    assert front["license"] == "mit"
    assert "its licence is apache-2.0" in text.replace("\\", "")


def test_what_was_not_scored_says_so(tiny_model: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, tiny_model, sizes=(4,), data=("filtered",))
    go(run)
    folder, heard = exported(run, tmp_path / "out", student="filtered.4", licence="mit")
    front, text = card_of(folder)
    assert "It has not been scored." in text
    assert "Nobody has scored it." in text
    assert front["license"] == "mit"
    assert "it has not been scored: make eval RUN=demo" in heard.text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--merged", "--dtype", "bf16"], "--dtype bf16: allowed: auto, float32, float16, bfloat16"),
        (["--dtype", "float32"], "--dtype float32 without --merged"),
        (["nosuch"], "there is no student 'nosuch'"),
    ],
)
def test_a_wrong_request_writes_nothing(shop: Run, tmp_path: Path, words: list[str], said: str) -> None:
    done = harness(shop.root, "export-student", "shop", *words, "--output", str(tmp_path / "out"))
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


# --- the parts


def said(logits: list[list[float]], *steps: list[float]) -> Said:
    table = torch.tensor(steps)
    return Said(torch.tensor(logits), tuple(table.argmax(-1).tolist()), table)


FAR, NEAR_TIE = [9.0, 0.0, -9.0], [5.0, 4.999, -9.0]


def test_a_merge_is_right_where_it_says_the_same() -> None:
    one = said([[1.0, 2.0, 3.0]], FAR, NEAR_TIE)
    assert compare([one], [one], "float32").words.endswith("all greedy answers are equal")
    other = said([[1.0, 2.0, 3.0]], FAR, [4.999, 5.0, -9.0])
    checked = compare([one, one], [one, other], "bfloat16")
    assert (checked.ties, checked.deviation) == (1, 0.0)
    assert "1 greedy answers are equal, 1 part at a near tie" in checked.words
    with pytest.raises(MachineError, match=r"on prompt 2 of 2 it writes the tokens 1 0 in place of 0 0"):
        compare([one, one], [one, said([[1.0, 2.0, 3.0]], [0.0, 9.0, -9.0], NEAR_TIE)], "bfloat16")


@pytest.mark.parametrize("wrong", [1.5, float("nan"), float("inf")])
def test_a_merge_is_wrong_where_logits_are_others_or_no_numbers(wrong: float) -> None:
    one = said([[1.0, 2.0, 3.0]], FAR)
    with pytest.raises(MachineError, match="its logits differ by"):
        compare([one], [said([[1.0, 2.0, 3.0 + wrong]], FAR)], "bfloat16")


def test_the_tolerances_are_above_rounding_and_below_a_fault(tmp_path: Path, tiny_model: Path) -> None:
    adapter = make_adapter(tiny_model, tmp_path / "adapter", scale=0.02)
    prompts = [[5, 6, 7, 8], [9, 10, 11]]
    deviations = {}
    for dtype in TOLERANCE:
        (tmp_path / dtype).mkdir()
        deviations[dtype] = merge(tiny_model, adapter, tmp_path / dtype, prompts, [1], dtype).deviation
    assert deviations["float32"] < deviations["float16"] < deviations["bfloat16"] < TOLERANCE["bfloat16"]
    assert set(merging.TOLERANCE) == set(deviations)


def test_the_serve_line_names_the_base_as_vllm_finds_it(shop: Run, tmp_path: Path) -> None:
    planned = cell_of(shop, "filtered", 12)
    hub = replace(planned, model=Model("org/small", planned.model.folder, "abc123", planned.model.weights_digest))
    line = serve_line(hub, "org/small", Path("a folder"), "s", "adapter")
    assert line == "vllm serve org/small --revision abc123 --enable-lora --lora-modules 's=a folder' --max-lora-rank 16"
    assert serve_line(hub, "org/small", Path("x"), "s", "merged") == "vllm serve x --served-model-name s"
    dora = Path(shutil.copytree(planned.folder, tmp_path / "dora"))
    stored = json.loads((dora / "adapter_config.json").read_text())
    (dora / "adapter_config.json").write_text(json.dumps(stored | {"use_dora": True}))
    assert "export it with --merged" in serve_line(replace(planned, folder=dora), "b", Path("x"), "s", "adapter")


def test_the_licence_is_read_from_the_base(tmp_path: Path, tiny_model: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "licensed"))
    model = resolve(str(folder), tmp_path / "cache")
    assert licence_of(model) == ""
    for text, expected in (
        ("---\nlicense: mit\n---\n# x", "mit"),
        ("# x", ""),
        ("---\nlicense: [\n---\n", ""),
        ("---\nx\n---\n", ""),
    ):
        (folder / "README.md").write_text(text)
        assert licence_of(model) == expected
    assert licence_of(replace(model, name="smollm2-135m-instruct")) == "apache-2.0"
