"""`harness export`: what it writes, what its card says, what it refuses, and what it asks of the hub."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from harness.augment.current import dropped_rows, kept_rows, stored_funnel
from harness.augment.funnel import Funnel, Ordered
from harness.augment.stage import augment
from harness.commands import dataset_card as cards
from harness.commands.dataset_card import Card, dataset_card, limits_of_rows
from harness.commands.export import Options, export
from harness.commands.push import Hub, push
from harness.config.load import load_run
from harness.config.run import Run
from harness.core.store import read_manifest
from harness.core.terminal import Stop
from harness.data.examples import read_examples
from harness.engines.scripted import ScriptedEngine
from harness.errors import MachineError, UsageError
from harness.models.teachers import Teachers
from harness.records import Provenance
from tests.fakes import Quiet
from tests.process import ROOT, harness
from tests.project import LABELS, prompted_row, write_project


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose rows are made. Tests write beside them only."""
    run = load_run(write_project(tmp_path_factory.mktemp("export"), "nobody"))
    script = run.root / "prompts/shop/teacher.json"
    assert augment(run, Teachers(own="script@1"), lambda: ScriptedEngine.from_file(script), Quiet(), Stop())
    return run


def no_hub() -> Hub:
    raise AssertionError("the hub was opened")


def exported(run: Run, folder: Path, **options: Any) -> tuple[Path, list[str]]:
    heard = Quiet()
    export(run, Options(output=folder, **options), no_hub, heard)
    return folder, heard.said


def front_matter(folder: Path) -> dict[str, Any]:
    _, written, _ = (folder / "README.md").read_text().split("---\n", 2)
    read: dict[str, Any] = yaml.safe_load(written)
    return read


@pytest.mark.parametrize("target", ["fields", "messages", "sharegpt", "alpaca", "prompt_completion"])
@pytest.mark.parametrize("file_format", ["jsonl", "parquet"])
def test_exported_rows_are_rows_that_another_run_reads(shop: Run, target: str, file_format: str) -> None:
    folder = shop.root / f"out/{target}-{file_format}"
    exported(shop, folder, target=target, file_format=file_format)
    read = read_examples(f"out/{target}-{file_format}/train.{file_format}", shop.root, shop.task.shape, "here")
    assert read.examples == tuple(row.example for row in kept_rows(shop))
    assert front_matter(folder)["configs"][0]["data_files"] == [{"split": "train", "path": f"train.{file_format}"}]


def test_the_hubs_own_reader_reads_the_folder(shop: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    folder, _ = exported(shop, tmp_path / "out", target="sharegpt", file_format="parquet")
    rows = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    kept = kept_rows(shop)
    assert [turns[-1]["value"] for turns in rows["conversations"]] == [row.answer for row in kept]


def test_prompts_are_what_a_student_is_tuned_on(shop: Run, tmp_path: Path) -> None:
    folder, said = exported(shop, tmp_path / "out", prompts=True)
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    kept = kept_rows(shop)
    assert [line["messages"] for line in lines] == [[m.model_dump() for m in row.messages] for row in kept]
    assert lines[0]["messages"][0] == {"role": "system", "content": "Sort messages by topic."}
    assert not any("--prompts writes both" in line for line in said)


def test_dropped_rows_are_exported_apart_and_their_card_says_so(shop: Run, tmp_path: Path) -> None:
    folder, _ = exported(shop, tmp_path / "out", which="dropped", target="fields")
    dropped = tuple(line.row for line in dropped_rows(shop))
    lines = [json.loads(line) for line in (folder / "dropped.jsonl").read_text().splitlines()]
    assert lines == [{"text": row.text, "label": row.answer} for row in dropped]
    assert "they are no training data" in (folder / "README.md").read_text()
    assert front_matter(folder)["configs"][0]["data_files"][0]["split"] == "dropped"


def test_the_card_has_the_recipe_and_the_funnel(shop: Run, tmp_path: Path) -> None:
    folder, said = exported(shop, tmp_path / "out")
    head, card = front_matter(folder), (folder / "README.md").read_text()
    kept, (template,) = kept_rows(shop), shop.file.augment.templates
    assert head == {
        "pretty_name": "shop",
        "license": "unknown",
        "task_categories": ["text-classification"],
        "tags": ["synthetic", "instruction-data", "harness"],
        "size_categories": ["n<1K"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "train.jsonl"}]}],
    }
    assert template.path == "prompts/shop/list.j2"
    digest = kept[0].provenance.template_digest[:16]
    assert f"prompts/shop/list.j2 | {digest} | {len(kept)} |" in card
    assert "Teacher, with its revision: script\\@1. Its licence and terms of use bind" in card
    assert "max_tokens 16" in card
    assert "| near_duplicate | threshold: 0.8" in card
    funnel = json.loads((shop.folder / "augment/funnel.json").read_text())
    assert f"| requested | {funnel['requested']} |" in card
    assert f"| kept | {funnel['kept']} |" in card
    assert f"| length | {funnel['requested'] - funnel['dropped']['finished'] - funnel['dropped']['length']} |" in card
    assert all(f"| {label} | {meaning} |" in card for label, meaning in LABELS.items())
    assert "these suites and no others, by shared words: shop, talk, facts." in card
    assert {line.strip() for line in said[1:]} == {
        "no row holds the task's system message or its prompt (--prompts writes both): the card has it",
        "the card's licence is 'unknown': --license says which",
        "the card names no language; --language en, for example, adds it",
    }


def test_the_card_of_a_chain_has_every_step() -> None:
    run = load_run(ROOT / "runs/critique.yaml")
    steps = [
        {"name": n, "template": f"{n}.j2", "template_digest": n * 8, "teacher": "org/big@1", "request": "", "text": ""}
        for n in ("text", "draft")
    ]
    made = Provenance.model_validate({"source": "teacher", "steps": steps, "teacher": "org/big@1"})
    row = prompted_row("why?", "so").model_copy(update={"provenance": made})
    funnel = Funnel(wanted=2, requested=2, filtered={"draft: finished": 1}, kept=1, kept_by_label={"": 1})
    card = dataset_card(run, [row], [{"text": "why?"}], funnel, Card("train.jsonl", "kept", False, "", (), "fields"))
    for line in (
        "| text | text.j2 | texttexttexttext | 1 |",
        "| draft: finished |  |",
        "| draft: finished | 1 | 1 |",
        "| text: length | min_words: 3",
    ):
        assert line in card
    assert "(huggingface.co/org/big)" in card
    assert "2 rows were wanted, and 1 are there." in card


def test_the_card_says_what_was_ordered_and_what_is_missing_of_it() -> None:
    run = load_run(ROOT / "runs/passages.yaml")
    row = prompted_row("why?", "so")
    quotas = {"kind": {"unanswerable": Ordered(wanted=8, begun=9, kept=1)}}
    funnel = Funnel(wanted=1, requested=1, kept=1, kept_by_label={"": 1}, quotas=quotas)
    card = dataset_card(run, [row], [{"text": "why?"}], funnel, Card("train.jsonl", "kept", False, "", (), "fields"))
    assert "attribute kind; attribute none; at least 8 rows of kind unanswerable" in card
    assert "8 rows of kind unanswerable were ordered, and 1 were kept." in card


def test_licence_and_languages_are_what_is_said(shop: Run, tmp_path: Path) -> None:
    folder, said = exported(shop, tmp_path / "out", licence="cc-by-4.0", languages=("en", "de"), prompts=True)
    assert front_matter(folder)["license"] == "cc-by-4.0"
    assert front_matter(folder)["language"] == ["en", "de"]
    assert len(said) == 1


def test_text_of_a_row_is_no_markup_in_the_card(tmp_path: Path) -> None:
    run = tmp_path / "runs/own.yaml"
    for path, text in (
        (run, "task: {system: '# Answer <b>'}\naugment: {rows_file: rows.jsonl}\ntrain: {students: [nobody], sizes: [0, 1]}\neval: {suites: [own]}\n"),
        (tmp_path / "rows.jsonl", json.dumps({"question": "```\n<script>x</script>\n# head", "answer": "![a](b)"}) + "\n"),
        (tmp_path / "suites/own.yaml", "kind: answers\nitems: suites/own.jsonl\n"),
        (tmp_path / "suites/own.jsonl", "".join(json.dumps({"question": f"q {i}", "answer": "a"}) + "\n" for i in range(12))),
    ):  # fmt: skip
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    loaded = load_run(run)
    augment(loaded, Teachers(own="no teacher"), lambda: pytest.fail("asked"), Quiet(), Stop())
    folder, _ = exported(loaded, tmp_path / "out")
    card = (folder / "README.md").read_text()
    assert "<script>" not in card
    assert "<b>" not in card
    assert "synthetic" not in front_matter(folder)["tags"]
    assert "1 are a person's own, read as question or text, answer or label" in card


def test_nothing_of_others_is_written_over(shop: Run, tmp_path: Path) -> None:
    folder, _ = exported(shop, tmp_path / "out")
    before = (folder / "train.jsonl").read_bytes()
    exported(shop, folder)
    assert (folder / "train.jsonl").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/README.md").write_text("# My project")
    with pytest.raises(UsageError, match=r"mine: .*README\.md is there, and no export wrote it"):
        exported(shop, tmp_path / "mine")
    assert (tmp_path / "mine/README.md").read_text() == "# My project"
    assert not (tmp_path / "mine/train.jsonl").exists()


def test_edited_rows_are_not_exported(shop: Run, tmp_path: Path) -> None:
    path = shop.folder / "augment/train.jsonl"
    before = path.read_bytes()
    try:
        path.write_bytes(before + b"\n")
        with pytest.raises(UsageError, match=r"train\.jsonl was edited or damaged"):
            exported(shop, tmp_path / "out")
    finally:
        path.write_bytes(before)
    assert not (tmp_path / "out").exists()


@dataclass
class FakeHub:
    """Keeps what it is asked. A dataset that is there already is `private` or not."""

    private: bool | None = None  # None where there is none
    fails: Exception | None = None
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def create_repo(self, repo_id: str, **settings: Any) -> None:
        if self.fails:
            raise self.fails
        self.asked.append((f"create {repo_id}", settings))
        if self.private is None:
            self.private = settings["private"]

    def repo_info(self, repo_id: str, *, repo_type: str) -> Any:
        return SimpleNamespace(private=self.private)

    def upload_folder(self, *, repo_id: str, folder_path: Path, **settings: Any) -> None:
        files = {path.name for path in folder_path.iterdir()}
        self.asked.append((f"upload {repo_id}", settings | {"files": files}))


def uploads(hub: FakeHub) -> Sequence[str]:
    return [what for what, _ in hub.asked if what.startswith("upload")]


def test_a_dataset_is_private_unless_it_is_said_otherwise(shop: Run, tmp_path: Path) -> None:
    hub, heard = FakeHub(), Quiet()
    export(shop, Options(output=tmp_path / "out", dataset="me/rows"), lambda: hub, heard)
    (created, settings), (uploaded, sent) = hub.asked
    assert (created, uploaded) == ("create me/rows", "upload me/rows")
    assert settings == {"repo_type": "dataset", "private": True, "exist_ok": True}
    assert sent["repo_type"] == "dataset"
    assert set(sent["allow_patterns"]) == sent["files"] == {"train.jsonl", "README.md"}
    assert heard.said[-1].startswith("export: uploaded to https://huggingface.co/datasets/me/rows (private")
    open_to_all = FakeHub()
    assert "public: everybody can read it" in push(
        open_to_all, "dataset", "me/rows", tmp_path / "out", ["train.jsonl"], True
    )
    assert open_to_all.asked[0][1]["private"] is False


def test_a_public_dataset_that_is_there_is_not_written_to_by_accident(tmp_path: Path) -> None:
    hub = FakeHub(private=False)
    with pytest.raises(UsageError, match="everybody can read it: add --public"):
        push(hub, "dataset", "me/rows", tmp_path, ["train.jsonl"], False)
    assert not uploads(hub)
    assert "it was private before" in push(FakeHub(private=True), "dataset", "me/rows", tmp_path, ["a"], True)


def test_what_the_hub_says_is_one_message(tmp_path: Path) -> None:
    for error, kind in ((ConnectionError("no route\nmore"), MachineError), (ValueError("bad name"), UsageError)):
        with pytest.raises(kind, match=r"^--push-to-hub me/rows: (no route|bad name)$"):
            push(FakeHub(fails=error), "dataset", "me/rows", tmp_path, ["train.jsonl"], False)


WRONG = [
    (["--to", "alpacca"], "--to alpacca (did you mean 'alpaca'?); allowed: fields, messages, sharegpt, alpaca, prompt_completion"),
    (["--format", "csv"], "--format csv; allowed: jsonl, parquet"),
    (["--which", "all"], "--which all; allowed: kept, dropped"),
    (["--public"], "--public without --push-to-hub OWNER/NAME: nothing is uploaded"),
    (["--push-to-hub", "rows"], "--push-to-hub rows: write OWNER/NAME"),
    (["--push-to-hub", "me/rows"], "--push-to-hub: the environment variable HF_TOKEN is not set"),
    (["--to", "alpaca", "--prompts"], "--to alpaca --prompts: it has no place for a system message"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "said"), WRONG)
def test_a_wrong_request_writes_nothing(shop: Run, tmp_path: Path, words: list[str], said: str) -> None:
    unset = {"HF_TOKEN": "", "HUGGING_FACE_HUB_TOKEN": "", "HF_HOME": str(tmp_path)}
    done = harness(shop.root, "export", "shop", "--output", str(tmp_path / "out"), *words, **unset)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_command_writes_into_the_runs_own_folder(shop: Run) -> None:
    done = harness(shop.root, "export", "shop", "--to", "fields")
    assert done.returncode == 0, done.stderr
    assert (shop.folder / "export/fields/train.jsonl").is_file()
    assert "rows in runs/shop/export/fields/train.jsonl" in done.stdout


def test_a_card_names_the_suites_that_rows_were_really_compared_with(
    shop: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = read_manifest(shop.folder / "augment")
    assert stored is not None
    unreached = stored.model_copy(update={"suites": {**stored.suites, "talk": ""}})  # as of a benchmark without rows
    monkeypatch.setattr(cards, "read_manifest", lambda folder: unreached)
    funnel = stored_funnel(shop)
    assert funnel is not None
    said = list(limits_of_rows(shop, kept_rows(shop), funnel))
    assert "It was compared with the items of these suites and no others, by shared words: shop, facts." in said
    assert "It was not compared with talk: their items were not at hand." in said
