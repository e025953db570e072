"""The report on kept rows: its numbers by hand, its place in augment, and that no fault of it costs a row."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from harness.augment import data_report as module
from harness.augment.current import kept_rows
from harness.augment.data_report import SAMPLE, balance, data_report, distinct, evenness
from harness.augment.stage import augment
from harness.config.load import load_run
from harness.config.run import Run
from harness.core.terminal import Stop
from harness.engines.scripted import ScriptedEngine
from harness.models.teachers import Teachers
from harness.records import Example, Message, Provenance, Row
from tests.fakes import Quiet
from tests.project import labelled, prompted_row, write_project


def row(fields: dict[str, str], answer: str, **provenance: object) -> Row:
    example = Example(fields=fields, answer=answer)
    messages = (Message(role="user", content=example.text), Message(role="assistant", content=answer))
    return Row(
        messages=messages, example=example, provenance=Provenance.model_validate({"source": "teacher", **provenance})
    )


def test_distinct_n_grams_over_all_of_them() -> None:
    assert distinct(["the cat", "the dog"], 1) == 3 / 4
    assert distinct(["the cat sat", "the cat ran"], 2) == 3 / 4
    assert distinct(["one", "two"], 2) is None


def test_evenness_is_one_for_equal_counts() -> None:
    assert evenness(Counter(a=5, b=5, c=5)) == pytest.approx(1)
    assert evenness(Counter(a=1, b=3)) == pytest.approx(-(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75)))


def test_balance_counts_what_has_more_than_one_value() -> None:
    rows = [
        row({"text": str(i)}, "yes", document=f"d{i % 3}", attributes={"tone": "calm", "place": "ab"[i % 2]})
        for i in range(6)
    ]
    assert balance(rows) == {
        "document": Counter({"d0": 2, "d1": 2, "d2": 2}),
        "attribute place": Counter({"a": 3, "b": 3}),
    }


def test_the_numbers_of_a_few_rows() -> None:
    texts = ["my bike is gone from the yard", "my bike is gone from the yards", "where is my parcel now", "x"]
    rows = [prompted_row(text, label) for text, label in zip(texts, "aabb", strict=True)]
    seeds = [labelled("a text of another kind", "a"), labelled("where is my parcel now", "b")]
    report = data_report(rows, seeds, 20, {"short": lambda text: len(text.split()), "none": None}, 0)
    counted, estimated = report.lengths
    # system 3 words, prompt text + 2, answer 1, and 5 tokens a turn
    tokens = [3 + len(text.split()) + 2 + 1 + 15 for text in texts]
    assert (counted.exact, counted.longest, counted.too_long, counted.counted) == (True, max(tokens), 4, 4)
    assert counted.quantiles[1] == sorted(tokens)[1] / 2 + sorted(tokens)[2] / 2
    assert not estimated.exact
    among_rows, among_seeds = report.near
    assert (among_rows.looked_at, among_rows.shares) == (4, (0.5, 0.5))
    assert among_rows.pair is not None
    assert among_rows.pair[:2] == (0, 1)
    assert among_seeds.shares == (0.25, 0.25)
    assert among_seeds.pair == (2, 1, 1.0)
    assert report.to_read["The longest"] == (1,)
    assert report.to_read["The shortest"] == (3,)
    assert any("4 rows are longer than train.max_length (20) to short" in line for line in report.lines())
    text = report.markdown()
    assert "my bike is gone from the yards\n→ a" in text
    assert "| row | above 0.5 for 50%, above 0.7 for 50% | 4 | 4 |" in text


def test_a_document_that_rows_share_makes_them_no_neighbours() -> None:
    shared = "a long passage about the boathouse, its opening hours and its rules " * 3
    rows = [row({"document": shared, "question": q}, "a") for q in ("when does it open", "who may row", "what is lent")]
    assert data_report(rows, [], 512, {"s": None}, 0).near[0].shares == (0.0, 0.0)


def test_one_row_and_no_seeds_have_a_report() -> None:
    report = data_report([prompted_row("alone", "a")], [], 512, {"s": None}, 0)
    assert "none to compare with" in report.markdown()
    assert not [line for line in report.lines() if line.startswith("nearest")]


def words_of(count: int, words: int) -> list[Row]:
    draw = random.Random(0)
    vocabulary = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 9))) for _ in range(2_000)]
    return [prompted_row(" ".join(draw.choices(vocabulary, k=words)), draw.choice("abc")) for _ in range(count)]


def test_many_rows_are_drawn_from_and_the_report_says_so() -> None:
    rows = words_of(5_000, 40)
    started = time.process_time()
    report = data_report(rows, [], 512, {"s": None}, 0)
    assert time.process_time() - started < 5
    near = report.near[0]
    assert (near.looked_at, near.rows, near.compared_with) == (SAMPLE, 5_000, 5_000)
    assert "[0%, " in near.words
    assert data_report(rows, [], 512, {"s": None}, 0).markdown() == report.markdown()


@pytest.fixture
def shop(tmp_path: Path) -> Run:
    return load_run(write_project(tmp_path, "nobody"))


def made(run: Run) -> Quiet:
    terminal = Quiet()
    script = run.root / "prompts/shop/teacher.json"
    augment(run, Teachers(own="script@1"), lambda: ScriptedEngine.from_file(script), terminal, Stop())
    return terminal


def test_augment_writes_the_report_and_says_its_short_form(shop: Run) -> None:
    said = made(shop).text
    text = (shop.folder / "augment/data.md").read_text()
    assert "what the rows are like (all of it in runs/shop/augment/data.md):" in said
    assert f"# {len(kept_rows(shop))} rows" in text
    assert "least even (1: as many rows of each): label " in said
    (shop.folder / "augment/data.md").unlink()
    assert "nothing to do" in made(shop).text
    assert (shop.folder / "augment/data.md").read_text() == text
    assert "what the rows are like" not in made(shop).text


def test_a_report_that_fails_costs_no_row(
    shop: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no numbers today")

    monkeypatch.setattr(module, "data_report", broken)
    made(shop)
    assert kept_rows(shop)
    assert not (shop.folder / "augment/data.md").exists()
    assert (
        "the rows are stored, and the report on them failed: RuntimeError: no numbers today" in capsys.readouterr().err
    )


def test_a_students_own_tokenizer_counts_where_it_is_at_hand(tmp_path: Path, tiny_model: Path) -> None:
    run = load_run(write_project(tmp_path, str(tiny_model)))
    assert "estimated" not in made(run).text
