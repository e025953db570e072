"""`harness show-batch`: it shows the rows that train sees first, what carries loss in them, and what they take."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.commands.show_batch import Batch, limits, measured, parts, show_batch
from harness.config.load import load_run
from harness.config.run import Run
from harness.core.terminal import Marked
from harness.errors import UsageError
from harness.models.chat_template import TokenizedRow, load_chat, tokenize_row
from harness.records import Message
from harness.train.grid import plan_training
from harness.train.sizes import batches
from tests.fakes import Quiet
from tests.process import harness
from tests.project import prompted_row, write_project
from tests.test_train_stage import make_run
from tests.tiny import END_OF_TURN, TEMPLATE


class Watching(Quiet):
    """Keeps what was marked as well."""

    def __init__(self) -> None:
        super().__init__()
        self.marked: list[list[Marked]] = []

    def say_marked(self, parts: Sequence[Marked], brackets: tuple[str, str] = ("[", "]")) -> None:
        """As Terminal."""
        self.marked.append(list(parts))
        super().say_marked(parts, brackets)


def shown(run: Run, rows: int = 3) -> Watching:
    terminal = Watching()
    show_batch(run, terminal, rows)
    return terminal


def learned(terminal: Watching) -> list[str]:
    """The marked text of each row that was shown."""
    return ["".join(text for text, marked in row if marked) for row in terminal.marked]


def test_it_shows_the_rows_that_train_sees_first(tiny_model: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, tiny_model)
    heard = shown(run, rows=6)
    largest = next(p for p in plan_training(run).cells if (p.cell.data, p.cell.size) == ("filtered", 12))
    seen = [row for batch in batches(largest.rows, largest.steps, 4, 0) for row in batch][:6]
    assert learned(heard) == [row.answer + END_OF_TURN for row in seen]
    for row, text in zip(seen, heard.marked, strict=True):
        assert f"Message: {row.text}" in "".join(part for part, marked in text if not marked)
    assert "12 of 24 rows of data filtered" in heard.text
    assert f"[{seen[0].answer}{END_OF_TURN}]" in heard.text
    assert "batch 2, row 2 of 4: " in heard.text
    assert "all 3 batches" in heard.text
    assert re.search(r"tokens of all 12 rows +5% +half +95% +at most +in all +share", heard.text)
    assert "No row is cut. train.max_length 512: 0 rows are longer, 0 within 10% of it; the model's context: 2048." in (
        heard.said
    )


def test_before_augment_it_shows_the_seeds(tiny_model: Path, tmp_path: Path) -> None:
    run = load_run(write_project(tmp_path, str(tiny_model)))
    heard = shown(run, rows=1)
    assert "12 of 60 seeds, in place of the rows: augment has not run yet" in heard.text
    assert not (run.folder / "augment").exists()


def test_the_command_shows_brackets_in_a_log_and_colour_on_a_terminal(tiny_model: Path, tmp_path: Path) -> None:
    write_project(tmp_path, str(tiny_model))
    plain = harness(tmp_path, "show-batch", "shop", "-n", "1")
    assert plain.returncode == 0, plain.stderr
    assert re.search(rf"assistant\n +\[\w+{re.escape(END_OF_TURN)}\]\n", plain.stdout)
    assert "stands in [brackets]." in plain.stdout
    colour = harness(tmp_path, "show-batch", "shop", "-n", "1", FORCE_COLOR="1", TERM="xterm-256color")
    assert re.search(rf"\x1b\[1;32m\w+{re.escape(END_OF_TURN)}\x1b\[0m", colour.stdout)
    assert "stands in colour." in colour.stdout
    assert harness(tmp_path, "show-batch", "shop", "-n", "0").returncode == 2


def test_a_text_with_brackets_is_marked_by_others(tiny_model: Path, tmp_path: Path) -> None:
    path = write_project(tmp_path, str(tiny_model))
    (tmp_path / "prompts/shop/student.j2").write_text("[INST] {{ text }}\nTopic:")
    heard = shown(load_run(path), rows=2)
    assert "stands in ⟦brackets⟧" in heard.text
    assert len(re.findall(rf"⟦\w+{re.escape(END_OF_TURN)}⟧", heard.text)) == 2


def test_every_learned_turn_is_marked(tiny_model: Path) -> None:
    chat = load_chat("tiny", tiny_model)
    turns = [("user", "hello"), ("assistant", "good day"), ("user", "and now?"), ("assistant", "tea")]
    messages = tuple(Message.model_validate({"role": role, "content": text}) for role, text in turns)
    row = prompted_row("x", "tea").model_copy(update={"messages": messages, "loss": "all"})
    marked = [text for text, mark in parts(chat, tokenize_row(chat, row)) if mark]
    assert marked == [f"good day{END_OF_TURN}", f"tea{END_OF_TURN}"]


def test_a_long_text_is_shown_without_its_middle(tiny_model: Path) -> None:
    chat = load_chat("tiny", tiny_model)
    text = "".join(part for part, _ in parts(chat, tokenize_row(chat, prompted_row("0123456789" * 200, "repair"))))
    assert len(text) < 800
    assert re.search(r"\n\.\.\. \d+ characters are not shown here \.\.\.\n", text)
    assert text.endswith(f"assistant\nrepair{END_OF_TURN}")


def example(number: int, prompt: int, answer: int) -> TokenizedRow:
    return TokenizedRow(str(number), tuple(range(1, prompt + answer + 1)), ((prompt, prompt + answer),))


@given(st.lists(st.tuples(st.integers(1, 200), st.integers(1, 60)), min_size=1, max_size=12), st.integers(64, 900))
def test_a_batch_is_counted_as_train_packs_it(lengths: list[tuple[int, int]], tokens: int) -> None:
    import torch

    from harness.train.packing import micro_batches, pack

    batch = [example(i, *pair) for i, pair in enumerate(lengths)]
    counted = measured(batch, tokens)
    pieces = [pack(piece, torch.device("cpu")) for piece in micro_batches([batch], tokens)]
    assert counted.passes == len(pieces)
    assert counted.packed - counted.rows == sum(piece.input_ids.numel() for piece in pieces)
    assert counted.learned == sum(len(piece.targets) for piece in pieces)
    assert counted.packed <= counted.tokens <= counted.padded  # what rows share is computed once
    assert counted == Batch(len(batch), sum(map(sum, lengths)), sum(b for _, b in lengths), max(map(sum, lengths)),
                            counted.packed, counted.passes)  # fmt: skip


def test_rows_near_and_over_the_limit_are_counted() -> None:
    rows = [example(i, prompt, 2) for i, prompt in enumerate((10, 89, 98, 99, 400))]
    said = limits(rows, 100, None)
    assert said[0] == "No row is cut. train.max_length 100: 2 rows are longer, 2 within 10% of it."
    assert "402 tokens at most (row 4)" in said[1]
    assert len(limits(rows[:3], 100, 2048)) == 1


def test_students_with_different_templates_are_told_apart(tiny_model: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tiny_model, tmp_path / "other"))
    (other / "chat_template.jinja").write_text(TEMPLATE.replace("<|im_end|>\n'", "<|im_end|>'"))
    heard = shown(make_run(tmp_path, tiny_model, students=(str(tiny_model), str(other))), rows=1)
    assert heard.said[-1].strip().startswith("The students have different chat templates")
    same = shown(make_run(tmp_path, tiny_model, students=(str(tiny_model),)), rows=1)
    assert "different chat templates" not in same.text


def test_a_row_that_cannot_be_tokenized_is_named(tiny_model: Path, tmp_path: Path) -> None:
    bad = Path(shutil.copytree(tiny_model, tmp_path / "endless"))
    (bad / "chat_template.jinja").write_text(
        TEMPLATE.replace("message['content'] + '<|im_end|>", "message['content'] + '")
    )
    with pytest.raises(UsageError, match=r"endless: row .* no stop token"):
        shown(make_run(tmp_path, bad))


def test_a_run_without_rows_or_seeds_is_told_to_augment(tiny_model: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    run = replace(make_run(tmp_path, tiny_model, data=("filtered",)), seeds=())
    (run.folder / "augment/manifest.json").unlink()
    with pytest.raises(UsageError, match="no rows yet, and no seeds: augment first"):
        shown(run)
