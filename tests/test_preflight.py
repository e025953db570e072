"""What is checked before any cell is trained: lengths, labels as eval asks for them, answers, disk and memory."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from harness.augment.rows import make_row
from harness.core.json_file import read_json
from harness.core.text import words
from harness.engines.transformers import TransformersEngine
from harness.errors import MachineError, UsageError
from harness.eval.prompting import prompt_forms
from harness.models.chat_template import Chat, context_length, load_chat, template_digest, tokenize_row
from harness.records import Item, Message, Provenance, Row
from harness.suites.generate import Ending, answer_ids, context_ids
from harness.train.grid import plan_training
from harness.train.preflight import check_asked_alike, check_disk, preflight
from tests.project import labelled, prompted_row
from tests.test_packing import SETTINGS, with_template
from tests.test_train_stage import LABELS, dry_run, go, make_run
from tests.tiny import TEMPLATE


@pytest.fixture(scope="module")
def chat(tiny_model: Path) -> Chat:
    return load_chat("tiny", tiny_model)


def long(times: int, answer: str = "repair") -> Row:
    return prompted_row("a word or two " * times, answer)


# --- lengths


def test_long_rows_are_refused_with_their_share_and_what_would_fit(chat: Chat) -> None:
    rows = [*(prompted_row(f"short {i}", "repair") for i in range(197)), long(90), long(100), long(80)]
    with pytest.raises(UsageError) as caught:
        preflight(chat, rows, SETTINGS, context=2048)
    said = str(caught.value)
    longest = len(tokenize_row(chat, rows[198]).ids)
    assert "3 of 200 rows (1.50%) are longer than train.max_length (512), and rows are never cut" in said
    assert said.index(f"row {rows[198].id} ({longest} tokens") < said.index(f"row {rows[199].id}")
    assert f"train.max_length: {longest} fits them all" in said
    fitted = SETTINGS.model_copy(update={"max_length": longest})
    assert len(preflight(chat, rows, fitted, context=2048)) == 200
    (most,) = re.findall(r"\{kind: length, max_words: (\d+), on: input\} drops them and no other", said)
    assert [row for row in rows if len(words(row.text)) > int(most)] == rows[197:]


def test_long_answers_are_told_from_long_inputs(chat: Chat) -> None:
    rows = [*(prompted_row("a word or two " * (i % 40), "yes") for i in range(60)), prompted_row("short", "no " * 600)]
    with pytest.raises(UsageError, match=r"max_words: \d+, on: answer\} drops them and no other"):
        preflight(chat, rows, SETTINGS)


def test_a_row_beyond_the_context_is_refused_whatever_max_length_says(chat: Chat) -> None:
    rows, generous = [long(100), prompted_row("short", "repair")], SETTINGS.model_copy(update={"max_length": 9000})
    with pytest.raises(UsageError, match=rf"1 of 2 rows .*the model's context \(256 tokens\).*row {rows[0].id}"):
        preflight(chat, rows, generous, context=256)
    with pytest.raises(UsageError, match=r"train\.max_length \(128\).*no setting fits 1 of them"):
        preflight(chat, rows, SETTINGS.model_copy(update={"max_length": 128}), context=256)
    assert len(preflight(chat, rows, generous, context=None)) == 2


def test_the_context_is_read_from_the_config(tiny_model: Path, tmp_path: Path) -> None:
    assert context_length("tiny", tiny_model) == 2048
    for text, expected in (('{"n_positions": 1024}', 1024), ("{}", None)):
        (tmp_path / "config.json").write_text(text)
        assert context_length("other", tmp_path) == expected
    (tmp_path / "config.json").write_text('{"max_position_embeddings": "many"}')
    with pytest.raises(UsageError, match="must be a whole number"):
        context_length("other", tmp_path)


def test_the_stage_refuses_a_row_beyond_the_context_before_a_cell_is_trained(tiny_model: Path, tmp_path: Path) -> None:
    narrow = Path(shutil.copytree(tiny_model, tmp_path / "narrow"))
    config = (narrow / "config.json").read_text()
    (narrow / "config.json").write_text(
        config.replace('"max_position_embeddings": 2048', '"max_position_embeddings": 16')
    )
    run = make_run(tmp_path, narrow)
    with pytest.raises(UsageError, match=r"narrow: 12 of 20 rows|narrow: \d+ of \d+ rows .*context \(16 tokens\)"):
        go(run)
    assert not list((run.cache / "students").glob("*"))


# --- answers


@pytest.mark.parametrize("empty", ["", " ", "\n"])
def test_an_empty_answer_is_refused_by_its_row(chat: Chat, empty: str) -> None:
    row = prompted_row("a text", empty)
    with pytest.raises(UsageError, match=rf"row {row.id}: its last message is not an assistant's answer"):
        preflight(chat, [prompted_row("x", "repair"), row], SETTINGS)


def test_an_empty_earlier_answer_is_refused_where_it_is_learned(chat: Chat) -> None:
    turns = [("user", "hello"), ("assistant", ""), ("user", "and now?"), ("assistant", "tea")]
    messages = tuple(Message.model_validate({"role": role, "content": text}) for role, text in turns)
    row = prompted_row("x", "tea").model_copy(update={"messages": messages})
    assert preflight(chat, [row], SETTINGS)
    learned = row.model_copy(update={"loss": "all"})
    with pytest.raises(UsageError, match=rf"row {learned.id}: the assistant's turn 2 is empty, and it is learned"):
        preflight(chat, [learned], SETTINGS)


def test_free_answers_with_the_same_tokens_are_no_labels(chat: Chat) -> None:
    trimming = with_template(chat, TEMPLATE.replace("message['content']", "message['content'] | trim"))
    free = [
        prompted_row(text, answer).model_copy(
            update={"example": labelled(text, answer).model_copy(update={"label": None})}
        )
        for text, answer in (("one", "yes"), ("two", "yes "))
    ]
    assert len(preflight(trimming, free, SETTINGS)) == 2


# --- labels as eval asks for them


def test_labels_are_tuned_as_eval_itself_measures_them(tiny_model: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, tiny_model)
    engine, forms = TransformersEngine(tiny_model, device="cpu"), prompt_forms(run.task, run.prompts)
    rows = plan_training(run).cells[2].rows
    chat = load_chat("tiny", tiny_model)
    examples = preflight(chat, rows, run.file.train)
    check_asked_alike(chat, run.task, run.prompts.student, rows, examples)
    first = forms.tuned(Item(text=rows[0].text))
    measured = {label: answer_ids(engine, first, label, Ending()) for label in LABELS}
    for row in rows:
        example = examples[row.id]
        assert context_ids(engine, forms.tuned(Item(text=row.text))) == example.ids[: example.answer_start]
        assert measured[row.answer] == example.ids[example.answer_start :]


def test_a_label_that_is_written_otherwise_in_rows_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    run, chat = make_run(tmp_path, tiny_model), load_chat("tiny", tiny_model)

    def made(text: str, label: str, answer: str) -> Row:
        row = make_row(run.task, run.prompts.student, labelled(text, label), Provenance(source="own"))
        messages = (*row.messages[:-1], Message(role="assistant", content=answer))
        return row.model_copy(update={"messages": messages})

    def check(*rows: Row) -> None:
        check_asked_alike(chat, run.task, run.prompts.student, rows, preflight(chat, rows, run.file.train))

    check(made("one", "repair", "repair"), made("two", "billing", "billing"))
    shouted = made("two", "repair", "Repair")
    with pytest.raises(
        UsageError, match=rf"row {shouted.id} teaches 'Repair<\|im_end\|>' .*eval measures the label 'repair'"
    ):
        check(made("one", "repair", "repair"), shouted)
    with pytest.raises(UsageError, match="not tuned to write"):
        check(shouted)
    asked = made("three", "repair", "repair")
    changed = (asked.messages[0].model_copy(update={"content": "Guess."}), *asked.messages[1:])
    otherwise = asked.model_copy(update={"messages": changed})
    with pytest.raises(UsageError, match=rf"row {otherwise.id} is not asked as eval asks the task"):
        check(otherwise)
    general = otherwise.model_copy(update={"provenance": Provenance(source="replay")})
    check(general, made("one", "repair", "repair"))


# --- what is said and recorded


def test_what_was_found_is_said_before_training_and_the_template_is_recorded(tiny_model: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, tiny_model, sizes=(0, 4), data=("filtered",))
    _, heard = go(run)
    (found,) = [line for line in heard.said if " rows of " in line]
    digest = template_digest(load_chat("tiny", tiny_model))
    assert re.search(
        rf": 4 rows of \d+ to \d+ tokens \(train\.max_length 512, context 2048\), none cut; .*{digest}$", found
    )
    assert "end '<|im_end|>' among them" in found
    assert any(
        re.match(r"train: 1 cells take about \d+ MiB of disk with their checkpoints, .* are free", line)
        for line in heard.said
    )
    assert any("of memory at the peak, an estimate" in line for line in heard.said)
    cell = plan_training(run).cells[1]
    assert read_json(cell.folder / "cell.json")["chat_template"] == digest


def test_students_with_different_templates_are_said(tiny_model: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tiny_model, tmp_path / "other"))
    (other / "chat_template.jinja").write_text(TEMPLATE.replace("<|im_end|>\n'", "<|im_end|>'"))
    _, heard = go(
        make_run(tmp_path, tiny_model, students=(str(tiny_model), str(other)), sizes=(4,), data=("filtered",))
    )
    assert "the students have different chat templates (tiny-llama" in heard.text
    again, alone = go(make_run(tmp_path, tiny_model, sizes=(4, 8), data=("filtered",)))
    assert again == 1
    assert "different chat templates" not in alone.text


def test_a_full_disk_is_said_before_training() -> None:
    check_disk(3, 10, 10, Path("students"))
    with pytest.raises(MachineError, match=r"3 cells take about 2\.0 GiB with their checkpoints, and 100 MiB are free"):
        check_disk(3, 2 * 2**30, 100 * 2**20, Path("students"))


def test_a_disk_without_room_stops_the_stage(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path, tiny_model)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(MachineError, match="3 cells take about"):
        go(run)
    assert not list((run.cache / "students").glob("*"))


def test_memory_that_does_not_suffice_is_a_warning_and_unknown_memory_is_said(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.models import device

    for number, (free, says) in enumerate(
        [(2**20, "warning: .* 1 MiB are free: lower train.micro_batch_tokens"), (None, "not known here")]
    ):
        monkeypatch.setattr(device, "available_memory", lambda free=free: free)
        count, heard = go(make_run(tmp_path / str(number), tiny_model, sizes=(4,), data=("filtered",)))
        assert count == 1
        assert re.search(says, heard.text)


def test_the_dry_run_says_what_is_free_to_know(tiny_model: Path, tmp_path: Path) -> None:
    from harness.commands.dry_run import describe_training

    run = make_run(tmp_path, tiny_model)
    said = describe_training(run)
    assert re.search(r"\n  about \d+ MiB of disk with checkpoints, .* are free$", said)
    assert re.search(
        r"rows of up to about \d+ tokens \(train\.max_length 512\), about \d+ MiB \(.*of memory at the peak", said
    )
    go(run)
    assert "of disk" not in describe_training(run)
    assert len(dry_run(run)) == 4


def test_a_row_that_is_damaged_in_a_large_file_is_found(tiny_model: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, tiny_model)
    path = run.folder / "augment/train.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:7], lines[7][:40] + b"\n", *lines[8:]]))
    with pytest.raises(
        UsageError, match=r"train\.jsonl was edited or damaged since augment wrote it; make augment RUN=demo"
    ):
        go(run)
