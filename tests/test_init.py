"""`harness init`: one file becomes a run that needs no editing. What is held out has no twin among the rows."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import pty
import random
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from harness import api
from harness.commands.init.choices import first_number, lettered
from harness.commands.init.command import Options, init
from harness.commands.init.documents import gap_of
from harness.commands.init.examples import label_spellings, tokens_bound
from harness.commands.init.files import yaml_text
from harness.commands.init.plan import Wishes, power_of_two, sizes_for, sizes_in
from harness.commands.init.questions import ask_for_columns
from harness.commands.init.split import hold_out, units_of
from harness.config.load import load_run
from harness.config.run import Run
from harness.core.neighbours import similar_pairs
from harness.core.terminal import Terminal
from harness.core.text import normalise
from harness.errors import UsageError
from harness.records import Example
from tests.process import COMMAND, environment, harness, succeed
from tests.project import rows_given

SENTENCE = (
    "bike box courier van doorstep invoice card refund euros password login email profile map lock pedal chain tyre"
    " light brake seat bell basket wheel ferry lamp garden river soup window"
)
WORDS = SENTENCE.split()
LABELS = ("delivery", "billing", "account access")
Line = dict[str, Any]


def texts(number: int, words: int = 8) -> list[str]:
    rng = random.Random(0)
    return [" ".join(rng.choice(WORDS) for _ in range(words)) for _ in range(number)]


def labelled(number: int) -> list[Line]:
    return [{"text": text, "label": LABELS[i % 3]} for i, text in enumerate(texts(number))]


def asked(number: int) -> list[Line]:
    return [{"question": f"{text}?", "answer": " ".join(text.split()[:2])} for text in texts(number)]


def jsonl(rows: Sequence[Line]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def as_csv(rows: Sequence[Line], delimiter: str = ",") -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def start(root: Path, name: str, content: str | bytes, student: str = "nobody/x", **wishes: Any) -> Path:
    """Init a run called mine from a file of this content, beside the project; returns the project."""
    file, project = root / name, root / "project"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    project.mkdir(exist_ok=True)
    options = {key: wishes.pop(key) for key in ("texts", "answer", "label", "group", "dry_run") if key in wishes}
    init(Wishes("mine", student=student, **wishes), Options(file, **options), project, Terminal())
    return project


def loaded(project: Path) -> Run:
    return load_run(project / "runs/mine.yaml")


def items_of(run: Run) -> list[str]:
    return [item.text for item in run.suites["mine"].items]


# --- what is on which side ---------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(texts(12, 6)), st.integers(0, 3), st.sampled_from(["", "", "a", "b"])),
                min_size=4, max_size=40), st.integers(2, 12), st.randoms())  # fmt: skip
def test_alike_texts_and_groups_are_on_one_side_in_any_order(
    drawn: list[tuple[str, int, str]], wanted: int, rng: random.Random
) -> None:
    examples = list({f"{text}{' x' * more}": group for text, more, group in drawn}.items())

    def held(examples: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        inputs, groups = [text for text, _ in examples], [group for _, group in examples]
        units = units_of(inputs, groups)
        assert sorted(place for unit in units.members for place in unit) == list(range(len(examples)))
        taken = {place for unit in hold_out(units.members, inputs, [""] * len(inputs), wanted) for place in unit}
        for a in range(len(examples)):
            for b in range(len(examples)):
                if groups[a] and groups[a] == groups[b]:
                    assert (a in taken) == (b in taken)
        if units.threshold is not None:
            for a, b, _ in similar_pairs(inputs, inputs, units.threshold):
                assert (a in taken) == (b in taken)
        assert len(taken) < len(examples)
        return sorted(examples[place] for place in taken)

    shuffled = list(examples)
    rng.shuffle(shuffled)
    assert held(examples) == held(shuffled)


def test_each_stratum_gives_its_share_and_never_all() -> None:
    strata = ["common"] * 80 + ["rare"] * 4 + ["single"]
    held = hold_out([(i,) for i in range(85)], [f"{i:03}" for i in range(85)], strata, 20)
    counts = {name: sum(strata[unit[0]] == name for unit in held) for name in ("common", "rare", "single")}
    assert counts == {"common": 19, "rare": 1, "single": 0}


def test_no_label_is_held_out_as_a_whole_by_the_unit_of_another() -> None:
    units = [(i,) for i in range(40)] + [(40, 41), (42, 43)]
    strata = ["common"] * 40 + ["common", "rare"] * 2
    held = hold_out(units, [f"{(i - 40) % 44:03}" for i in range(44)], strata, 12)  # both of the rare come first
    assert sum(strata[place] == "rare" for unit in held for place in unit) == 1
    assert sum(map(len, held)) >= 11


def test_a_row_without_a_group_stands_alone(tmp_path: Path) -> None:
    rows = [{**row, "who": f"person {i // 4}" if i % 3 else None} for i, row in enumerate(labelled(160))]
    for name, content in (("a.jsonl", jsonl(rows)), ("a.csv", as_csv(rows))):
        (folder := tmp_path / name).mkdir()
        run = loaded(start(folder, name, content, group="who"))
        assert len(items_of(run)) + len(rows_given(run)) == 160
        assert any(not item.group for item in run.suites["mine"].items)


def test_columns_that_are_called_as_choices_may_be_something_else(tmp_path: Path) -> None:
    rows = [
        {"question": row["text"], "A": f"note {i}", "B": "x", "label": row["label"]}
        for i, row in enumerate(labelled(60))
    ]
    run = loaded(start(tmp_path, "a.csv", as_csv(rows)))
    assert sorted(run.task.labels) == sorted(LABELS)
    assert not any("note" in text for text in items_of(run))


def test_of_two_answers_to_a_question_with_choices_a_person_names_one(tmp_path: Path) -> None:
    rows = [
        {**row, "answer_idx": row["answer"], "answer": row["options"][row["answer"]]} for row in as_written("mapping")
    ]
    with pytest.raises(UsageError, match="which column is the answer"):
        start(tmp_path, "a.jsonl", jsonl(rows))
    for i, named in enumerate(({"label": "answer_idx"}, {"answer": "answer"})):
        (folder := tmp_path / str(i)).mkdir()
        run = loaded(start(folder, "a.jsonl", jsonl(rows), **named))
        assert all("\nA. " in text for text in items_of(run))


def test_a_unit_that_is_most_of_the_file_is_not_held_out() -> None:
    assert hold_out([tuple(range(50)), (50,), (51,), (52,)], [f"{i}" for i in range(53)], [""] * 53, 5) == [
        (50,), (51,), (52,),
    ]  # fmt: skip


def test_the_order_of_a_file_changes_no_row_and_no_item(tmp_path: Path) -> None:
    rows = labelled(200)
    read: list[dict[str, str]] = []
    for folder, order in (("a", rows), ("b", rows[::-1])):
        (tmp_path / folder).mkdir()
        project = start(tmp_path / folder, "rows.jsonl", jsonl(order))
        paths = ["prompts/mine/rows.jsonl", "prompts/mine/seeds.jsonl", "suites/mine.jsonl", "prompts/mine/task.yaml"]
        read.append({path: (project / path).read_text() for path in paths})
    assert read[0] == read[1]


def test_no_item_is_nearly_a_row_and_a_group_is_on_one_side(tmp_path: Path) -> None:
    rows = [{**row, "who": f"person {i // 4}"} for i, row in enumerate(asked(240))]
    rows += [{**row, "question": f"{row['question'][:-1]} !?"} for row in rows[:60]]
    rows += [{**row, "question": f"{row['question'][:-1]} too?"} for row in rows[:60]]
    run = loaded(start(tmp_path, "rows.jsonl", jsonl(rows), group="who"))
    mine = {normalise(text) for text in items_of(run)}
    own = [row.text for row in rows_given(run)]
    assert mine
    assert not mine & set(map(normalise, own))
    assert not list(similar_pairs(sorted(mine), own, 0.8))
    who = {normalise(row["question"]): row["who"] for row in rows}
    assert not {who[text] for text in mine} & {who[normalise(text)] for text in own}
    assert all(item.group for item in run.suites["mine"].items)


# --- every format ------------------------------------------------------------------------------------------------


def messages(number: int) -> list[Line]:
    return [
        {"messages": [{"role": "user", "content": f"hello {text}"}, {"role": "assistant", "content": "And who?"},
                      {"role": "user", "content": text}, {"role": "assistant", "content": f"Then {text} it is."}]}
        for text in texts(number)
    ]  # fmt: skip


def alpaca(number: int) -> list[Line]:
    return [
        {"instruction": f"Do it {text}", "input": "" if i % 3 else f"with {text}", "output": f"Done {text[:18]}."}
        for i, text in enumerate(texts(number))
    ]


FAMILIES: dict[str, tuple[str, Callable[[int], str], str, tuple[str, ...]]] = {
    # file, content, the suite's primary metric, the task's fields
    "labels, csv": ("a.csv", lambda n: as_csv(labelled(n)), "accuracy", ("text",)),
    "labels, ;": ("a.csv", lambda n: "\ufeff" + as_csv(labelled(n), ";"), "accuracy", ("text",)),
    "labels, tabs": ("a.tsv", lambda n: as_csv(labelled(n), "\t"), "accuracy", ("text",)),
    "answers": ("a.jsonl", lambda n: jsonl(asked(n)), "accuracy", ("text",)),
    "numbers": ("a.csv", lambda n: as_csv([{"question": t, "answer": i} for i, t in enumerate(texts(n))]), "accuracy",
                ("text",)),
    "sums": ("a.jsonl", lambda n: jsonl([{"question": t, "answer": f"Well, {t}.\n#### {i}"}
                                         for i, t in enumerate(texts(n))]), "accuracy", ("text",)),
    "alpaca": ("a.json", lambda n: json.dumps(alpaca(n)), "token_f1", ("instruction", "input")),
    "messages": ("a.jsonl", lambda n: jsonl(messages(n)), "rouge_l", ("text",)),
    "sharegpt": ("a.jsonl", lambda n: jsonl([{"conversations": [{"from": "human", "value": t},
                                                               {"from": "gpt", "value": f"It is {t}."}]}
                                             for t in texts(n)]), "token_f1", ("text",)),
    "trl": ("a.jsonl", lambda n: jsonl([{"prompt": t, "completion": f" {t[:15]}"} for t in texts(n)]), "accuracy",
            ("text",)),
    "passages": ("a.jsonl", lambda n: jsonl([{"context": f"passage {i // 3} {texts(n)[i // 3]}", "question": f"{t}?",
                                              "answer": t[:9]} for i, t in enumerate(texts(n))]), "accuracy",
                 ("document", "question")),
    "choices": ("a.jsonl", lambda n: jsonl([{"question": t, "choices": {"text": t.split()[:3], "label": list("123")},
                                             "answerKey": "123"[i % 3]} for i, t in enumerate(texts(n))]), "accuracy",
                ("text",)),
    "two fields": ("a.csv", lambda n: as_csv([{"premise": t, "hypothesis": t[::-1], "label": "yes" if i % 2 else "no"}
                                              for i, t in enumerate(texts(n))]), "accuracy", ("premise", "hypothesis")),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_every_format_becomes_a_run_that_loads(tmp_path: Path, family: str) -> None:
    file, content, primary, fields = FAMILIES[family]
    more: dict[str, Any] = {"texts": ("premise", "hypothesis")} if family == "two fields" else {}
    run = loaded(start(tmp_path, file, content(160), **more))
    suite = run.suites["mine"]
    assert (suite.primary, run.task.fields) == (primary, fields)
    assert (suite.spec.kind == "labels") == bool(run.task.labels) == family.startswith(("labels", "two", "choices"))
    assert len(suite.items) + len(rows_given(run)) == 160
    assert 30 <= len(suite.items) <= 60
    sizes = run.file.train.sizes
    assert (sizes[0], sizes[-1]) == (0, run.file.ship.size if run.file.ship else -1)
    assert sizes[-1] <= len(rows_given(run))


def as_written(form: str) -> list[Line]:
    """60 questions with three choices, in one of the ways in which people write these down."""
    rows: list[Line] = []
    for i, text in enumerate(texts(60)):
        choices, right = text.split()[:3], i % 3
        row: Line = {"question": f"{text}?"}
        match form:
            case "mapping":
                row |= {"options": dict(zip("ABC", choices, strict=True)), "answer": "ABC"[right]}
            case "small letters":
                row |= {"options": dict(zip("abc", choices, strict=True)), "answer": "ABC"[right]}
            case "json":
                row |= {"choices": json.dumps(choices), "answer": right}
            case "python":
                row |= {"choices": str(choices), "answer": choices[right]}
            case "columns":
                row |= {**dict(zip("ABC", choices, strict=True)), "answer": "ABC"[right]}
            case "named columns":
                row |= {**{f"option_{n}": c for n, c in enumerate(choices, start=1)}, "answer": right + 1}
            case "hub":
                row |= {"choices": {"text": choices, "label": ["1", "2", "3"]}, "answerKey": "123"[right]}
            case "passage":
                row |= {"context": f"It is {i}, {text[::-1]}.", "choices": choices, "answer": "ABC"[right]}
        rows.append(row)
    return rows


@pytest.mark.parametrize(
    "form", ["mapping", "small letters", "json", "python", "columns", "named columns", "hub", "passage"]
)
@pytest.mark.parametrize("file", ["a.jsonl", "a.csv"])
def test_choices_are_read_however_they_are_written(tmp_path: Path, form: str, file: str) -> None:
    rows = as_written(form)
    run = loaded(start(tmp_path, file, as_csv(rows) if file == "a.csv" else jsonl(rows)))
    assert list(run.task.labels) == ["A", "B", "C"]
    assert run.task.system == "Answer with the letter of the right choice."
    place = {row["question"]: i for i, row in enumerate(rows)}
    for item in run.suites["mine"].items:
        question, *listed = (item.fields.get("question") or item.text).split("\n")
        words = question[:-1].split()[:3]
        assert listed == [f"{letter}. {word}" for letter, word in zip("ABC", words, strict=True)]
        assert item.gold == place[question] % 3


@pytest.mark.parametrize(
    ("choices", "answers", "letters"),
    [
        ([["1", "2", "3"]] * 3, ["2", "1", "3"], "BAC"),  # every answer is a choice: none is a number of one
        ([["3", "4", "5"]] * 3, [4, 3, 5], "BAC"),
        ([["a", "b", "c"]] * 3, [0, 1, 2], "ABC"),
        ([["a", "b", "c"]] * 3, [1, 2, 3], "ABC"),  # never 0, and somewhere 3 of 3
        ([["0", "1", "2"], ["a", "b", "c"]], ["0", "2"], "AC"),
        ([["a", "b", "c"]] * 2, ["C", "b"], "CB"),
    ],
)
def test_an_answer_is_a_choice_or_its_number(choices: list[list[str]], answers: list[Any], letters: str) -> None:
    first = first_number(list(zip(choices, answers, strict=True)))
    found = [lettered("q", *row, first, "a:1")[1] for row in zip(choices, answers, strict=True)]
    assert "".join(found) == letters


@pytest.mark.parametrize("column", ["on", "not", "none", "null", "from", "yes"])
def test_a_column_may_have_a_name_that_is_a_word_of_yaml_or_jinja(tmp_path: Path, column: str) -> None:
    rows = [{column: row["text"], "other": row["text"][::-1], "label": row["label"]} for row in labelled(60)]
    run = loaded(start(tmp_path, "a.jsonl", jsonl(rows), texts=(column, "other")))
    assert run.task.fields == ("field_1", "other")


@given(st.text())
def test_any_text_is_a_yaml_scalar(text: str) -> None:
    assume(not any(0xD800 <= ord(c) < 0xE000 for c in text))
    assert yaml.safe_load(f"a: {yaml_text(text)}") == {"a": text}


def test_labels_may_be_joined_emoji(tmp_path: Path) -> None:
    run = loaded(
        start(tmp_path, "a.jsonl", jsonl([{**row, "label": f"👩\u200d💻 {row['label']}"} for row in labelled(60)]))
    )
    assert all(label.startswith("👩\u200d💻 ") for label in run.task.labels)


def test_a_suite_of_ones_own_goes_along_with_the_files_it_names(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "suites/more").mkdir(parents=True)
    (project / "suites/open_ended.yaml").write_text("kind: open_ended\nitems: suites/more/mine.jsonl\nmax_tokens: 8\n")
    (project / "suites/more/mine.jsonl").write_text('{"prompt": "Say hello."}\n')
    (project / "Makefile").write_bytes("# Größe\ntrain:\n".encode("latin-1"))
    run = loaded(start(tmp_path, "a.jsonl", jsonl(labelled(60))))
    assert run.file.eval.suites == ("mine", "open_ended")


def test_more_rows_than_there_are_take_a_teacher_that_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--sizes 5000: .*--teacher MODEL"):
        start(tmp_path, "a.jsonl", jsonl(labelled(300)), sizes=(16, 5000))
    with pytest.raises(UsageError, match="--sizes 16;64: numbers of rows"):
        sizes_in(["16;64"])
    assert sizes_in(["16,64", "256"]) == (16, 64, 256)


@pytest.mark.parametrize(
    ("name", "header", "mark"),
    [("a.tsv", "text, of it\tlabel", "\t"), ("a.csv", '"text, of it";label', ";"), ("a.csv", "text,label,,", ",")],
)
def test_headers_that_people_have_are_read(tmp_path: Path, name: str, header: str, mark: str) -> None:
    cells = [
        [row["text"], row["label"], *[""] * header.endswith(",,"), *[""] * header.endswith(",,")]
        for row in labelled(60)
    ]
    run = loaded(start(tmp_path, name, "\n".join([header, *(mark.join(line) for line in cells)]) + "\n"))
    assert sorted(run.task.labels) == sorted(LABELS)


def test_a_first_line_without_a_label_makes_no_documents(tmp_path: Path) -> None:
    rows = labelled(60)
    run = loaded(start(tmp_path, "a.jsonl", jsonl([{"text": rows[0]["text"]}, *rows[1:]])))
    assert len(items_of(run)) + len(run.seeds) == 59


def test_long_texts_in_any_script_make_sizes_that_two_cores_train_in_minutes(tmp_path: Path) -> None:
    draw = random.Random(0)
    signs = [chr(code) for code in range(0x4E00, 0x5E00)]
    rows = [{"text": "".join(draw.choices(signs, k=320)), "label": LABELS[i % 3]} for i in range(600)]
    run = loaded(start(tmp_path, "a.jsonl", jsonl(rows)))
    assert run.file.train.sizes[-1] * 320 <= 120_000


def test_a_teacher_that_joins_later_finds_sizes_that_fit(tmp_path: Path) -> None:
    text = (start(tmp_path, "a.csv", as_csv(labelled(200))) / "runs/mine.yaml").read_text()
    run = loaded(tmp_path / "project")
    if run.file.train.sizes[-1] == len(rows_given(run)):
        assert f"with at most {len(rows_given(run)) - 12} in `train.sizes` and `ship`:" in text


def test_parquet_and_quoted_line_ends_are_read(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    rows = [{"text": f"{row['text']}\nand more", "label": row["label"]} for row in labelled(120)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    run = loaded(start(tmp_path, "a.parquet", (tmp_path / "t.parquet").read_bytes()))
    (tmp_path / "csv").mkdir()
    again = loaded(start(tmp_path / "csv", "a.csv", as_csv(rows)))
    assert items_of(run) == items_of(again)
    assert all("\n" in text for text in items_of(run))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["labels, ;", "answers", "numbers", "alpaca", "messages", "passages", "two fields"])
def test_from_init_to_the_report_without_editing(tmp_path: Path, tiny_model: Path, family: str) -> None:
    file, content, _, _ = FAMILIES[family]
    (tmp_path / file).write_text(content(80 * 2), encoding="utf-8")
    project = tmp_path / "project"
    project.mkdir()
    columns = ("--text", "premise", "--text", "hypothesis") if family == "two fields" else ()
    said = succeed(
        project, "init", "mine", "--from", f"../{file}", "--student", str(tiny_model), "--items", "24", *columns
    )
    commands = said.split("next: ")[1].splitlines()[0].split(" && ")
    assert [command.split() for command in commands] == [
        ["harness", verb, "mine"] for verb in ("augment", "train", "eval")
    ]
    for command in commands:
        succeed(project, *command.split()[1:])
    report = (project / "runs/mine/eval/report.md").read_text()
    assert f"{loaded(project).file.train.sizes[-1]} rows" in report


# --- few rows, a teacher, documents ------------------------------------------------------------------------------


def test_few_rows_are_seeds_of_a_teacher(tmp_path: Path) -> None:
    run = loaded(start(tmp_path, "a.csv", as_csv(labelled(45))))
    assert run.file.augment.rows_file is None
    assert len(run.seeds) + len(run.suites["mine"].items) == 45
    assert (run.file.train.data_names, run.teacher.model) == (["filtered", "seeds_only"], "smollm2-135m-instruct")
    assert (run.file.augment.rows, run.file.augment.requests_per_row) == (run.file.train.sizes[-1], 2)


SCRIPTS = {"messages": '{"messages": [{"role": "user", "content": "the {word} {word} {number} of {word}?"},'
                       ' {"role": "assistant", "content": "{word} {number}"}]}'}  # fmt: skip


@pytest.mark.parametrize(
    "family", ["labels, csv", "answers", "sums", "alpaca", "messages", "trl", "passages", "choices", "two fields"]
)
def test_what_the_teacher_of_a_small_file_writes_is_read(tmp_path: Path, family: str) -> None:
    """The template, the schema and the parser of a run that init wrote say the same names."""
    file, content, _, _ = FAMILIES[family]
    more: dict[str, Any] = {"texts": ("premise", "hypothesis")} if family == "two fields" else {}
    project = start(tmp_path, file, content(45), **more)
    line = SCRIPTS.get(family, "the {word} {word} {number} of {word}, {label} {number} {word}?")
    (project / "script.json").write_text(json.dumps({"generate": [line]}))
    teacher = {"engine": "scripted", "model": "t", "script": "script.json"}
    api.Run.load(project / "runs/mine.yaml", {"teacher": teacher}, quiet=True).augment()
    kept = (project / "runs/mine/augment/train.jsonl").read_text().splitlines()
    assert len(kept) >= loaded(project).file.augment.rows


@pytest.mark.parametrize("family", ["labels, csv", "choices"])
def test_a_text_of_several_lines_is_asked_for_as_json(tmp_path: Path, family: str) -> None:
    """And is a row with its lines, where a bare text of a teacher is joined to one."""
    file, content, _, _ = FAMILIES[family]
    lined = as_csv([{**row, "text": f"{row['text']}\nand more"} for row in labelled(45)])
    project = start(tmp_path, file, lined if family == "labels, csv" else content(45))
    (project / "script.json").write_text(json.dumps({"generate": ["{word} {number} {word}?\nA. x\nB. y"]}))
    teacher = {"engine": "scripted", "model": "t", "script": "script.json"}
    api.Run.load(project / "runs/mine.yaml", {"teacher": teacher}, quiet=True).augment()
    kept = [json.loads(line) for line in (project / "runs/mine/augment/train.jsonl").read_text().splitlines()]
    assert kept
    assert all(row["example"]["fields"]["text"].count("\n") == 2 for row in kept)


def test_a_teacher_of_choices_is_told_which_one_is_to_be_right(tmp_path: Path) -> None:
    project = start(tmp_path, "a.jsonl", FAMILIES["choices"][1](45))
    assert "{{ label }} must be the right one" in (project / "prompts/mine/write.j2").read_text()
    run = loaded(project)
    assert run.task.system == "Answer with the letter of the right choice."
    assert run.task.labels == {letter: f"choice {letter} is right" for letter in "ABC"}


def long_answers(number: int, answer: str) -> list[Line]:
    return [{"question": f"{text}?", "answer": f"{i} {answer}"} for i, text in enumerate(texts(number))]


def chats(number: int, turns: int) -> list[Line]:
    spoken = [{"role": "user", "content": "And?"}, {"role": "assistant", "content": "So it is, 12."}] * turns
    return [
        {
            "messages": [
                {"role": "user", "content": text},
                {"role": "assistant", "content": f"It is {i}."},
                *spoken,
                {"role": "user", "content": "Sure?"},
                {"role": "assistant", "content": f"Yes, {text}."},
            ]
        }
        for i, text in enumerate(texts(number))
    ]


ROOM = {  # rows of which a token is a byte or little more, or that have many parts
    "digits": long_answers(45, " ".join(f"{i * 7919:08}" for i in range(60))),
    "chinese": long_answers(45, "请问您需要什么帮助" * 12),
    "thai": long_answers(45, "คุณต้องการความช่วยเหลืออะไร" * 8),
    "code": long_answers(45, "for (i=0; i<n; i++) { x[i] += y[i]; }\n" * 12),
    "turns": chats(45, 20),
    "long": long_answers(45, "word " * 700),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ROOM)
def test_there_is_room_for_a_row_as_long_as_the_longest(tmp_path: Path, bundled_model: Path, kind: str) -> None:
    """For a teacher to write it, for a student to learn all of it and to answer with it."""
    from transformers import AutoTokenizer

    run = loaded(start(tmp_path, "a.jsonl", jsonl(ROOM[kind])))
    tokenizer = AutoTokenizer.from_pretrained(bundled_model)

    def tokens(text: str) -> int:
        return len(tokenizer(text)["input_ids"])

    written = max(tokens(json.dumps(line, ensure_ascii=False)) for line in ROOM[kind])
    (template,) = run.file.augment.templates
    assert template.sampling.max_tokens >= written
    assert (run.file.train.max_length or 0) >= written
    answers = [answer for item in run.suites["mine"].items for answer in item.answers]
    assert (run.suites["mine"].spec.max_tokens or 0) >= max(map(tokens, answers))


def test_a_small_file_has_items_to_choose_on_and_items_to_claim_on(tmp_path: Path) -> None:
    """Of four items a quarter by digest is often none. More are held out then, and only few files are refused."""
    splits = []
    for number in range(30):
        rows = [{"question": f"{text} {number}?", "answer": text[:9]} for text in texts(16)]
        (folder := tmp_path / str(number)).mkdir()
        try:
            items = loaded(start(folder, "a.csv", as_csv(rows))).suites["mine"].items
        except UsageError:
            continue
        assert len(items) <= 8
        splits.append({item.split for item in items})
    assert all(of_file == {"dev", "test"} for of_file in splits)
    assert len(splits) >= 24  # eight items are all test items in 0.75 ** 8 of the files


@pytest.mark.parametrize("family", ["labels, csv", "answers", "alpaca", "messages", "two fields"])
def test_a_teacher_beside_many_rows_writes_as_many_again(tmp_path: Path, family: str) -> None:
    file, content, _, _ = FAMILIES[family]
    wishes: dict[str, Any] = {"teacher": "some-model", "base_url": "http://127.0.0.1:9/v1", "system": 'Say: "yes".'}
    more: dict[str, Any] = {"texts": ("premise", "hypothesis")} if family == "two fields" else {}
    run = loaded(start(tmp_path, file, content(200), **wishes, **more))
    rows = rows_given(run)
    assert (run.file.augment.rows, run.task.system) == (2 * len(rows), 'Say: "yes".')
    assert run.file.train.data_names == ["filtered", "human", "synthetic"]
    assert not {seed.id for seed in run.seeds} & {row.example.id for row in rows}
    assert len(run.seeds) + len(rows) + len(run.suites["mine"].items) == 200


def test_the_marked_lines_of_a_run_without_a_teacher_make_one_with_it(tmp_path: Path) -> None:
    project = start(tmp_path, "a.csv", as_csv(labelled(200)))
    path = project / "runs/mine.yaml"
    text = path.read_text()
    marked = text.split("says what it is worth")[1].split(":\n", 1)[1].split("  filters:")[0]
    rows = next(line for line in text.splitlines() if line.startswith("  rows: "))
    text = text.replace(marked, "".join(line.replace("# ", "", 1) for line in marked.splitlines(True))).replace(
        f"{rows}\n", "", 1
    )
    path.write_text(f"teacher: {{engine: openai, model: m, base_url: 'http://127.0.0.1:9/v1'}}\n{text}")
    run = loaded(project)
    assert run.file.augment.teacher_writes
    assert run.file.augment.rows == 2 * len(rows_given(run))


def documents(root: Path, files: int = 8) -> Path:
    rng = random.Random(1)
    folder = root / "texts"
    folder.mkdir()
    for i in range(files):
        sections = [
            f"# Part {j}\n\nThe {rng.choice(WORDS)} of house {i}{j} costs {rng.randrange(100, 999)} euros a month."
            f" Ask {rng.choice(['Anna', 'Boris', 'Carla'])}{i} about the {' '.join(rng.sample(WORDS, 6))}.\n"
            for j in range(4)
        ]
        (folder / f"{i}.md").write_text("\n".join(sections))
    return folder


def test_documents_become_passages_and_gaps(tmp_path: Path) -> None:
    folder, project = documents(tmp_path), tmp_path / "project"
    project.mkdir()
    init(Wishes("mine", student="nobody/x"), Options(folder), project, Terminal())
    run = loaded(project)
    rows = (project / "prompts/mine/documents.jsonl").read_text()
    items = run.suites["mine"].items
    assert {item.tags for item in items} == {("answered",), ("unanswerable",)}
    for item in items:
        assert json.dumps(item.fields["document"], ensure_ascii=False) not in rows
        says = item.answers[0] in item.fields["document"]
        assert says == (item.tags == ("answered",))
    files = {json.loads(line)["title"].split(":")[0] for line in rows.splitlines()}
    assert 4 <= len(files) < 8, "whole files are held out"


@given(st.text(max_size=300))
def test_a_gap_has_one_answer(text: str) -> None:
    gap = gap_of(text)
    if gap:
        assert gap.sentence.count("___") >= 1
        assert gap.sentence.replace("___", gap.word, 1) in " ".join(text.split()) or "___" in text


# --- decisions ---------------------------------------------------------------------------------------------------


def test_labels_are_few_short_answers() -> None:
    assert label_spellings(["Yes", "yes ", "no", "yes ", "no", "no", "no", "yes "]) == {
        "yes ": "yes ", "Yes": "yes ", "no": "no",
    }  # fmt: skip
    assert label_spellings([f"a {i}" for i in range(400)]) is None
    assert label_spellings(["this is a long answer of many words", "no"] * 20) is None
    assert label_spellings(["a", "b", "c"], stated=True) == {"a": "a", "b": "b", "c": "c"}


@given(st.integers(12, 100_000), st.integers(1, 400))
def test_sizes_grow_and_fit(rows: int, words: int) -> None:
    example = Example(fields={"text": "word " * words}, answer="x")
    sizes, whole = sizes_for("own", rows, [example], strong=False)
    assert list(sizes) == sorted(set(sizes))
    assert sizes[0] == 0
    assert sizes[-1] <= rows
    assert whole == (sizes[-1] == rows)
    assert len(sizes) >= 3
    assert power_of_two(sizes[-1]) <= sizes[-1]


@given(st.text(max_size=200))
def test_a_bound_of_tokens_is_no_more_than_the_bytes(text: str) -> None:
    assert 1 <= tokens_bound(text) <= len(text.encode("utf-8", "replace")) + 1


def test_contradictory_labels_are_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = labelled(160)
    rows += [{"text": rows[0]["text"].upper(), "label": "billing"}, dict(rows[1]), {"text": rows[2]["text"]}]
    run = loaded(start(tmp_path, "a.jsonl", jsonl(rows)))
    said = capsys.readouterr().out
    assert "1 texts that stand there with several labels" in said
    assert "'delivery' and 'billing'" in said or "'billing' and 'delivery'" in said
    assert "1 rows whose text is that of another one" in said
    assert "left out: 1 rows, such as" in said
    assert "a.jsonl:163: answer: it is empty" in said
    assert len(rows_given(run)) + len(items_of(run)) == 159


def test_a_label_of_nearly_all_rows_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start(
        tmp_path,
        "a.jsonl",
        jsonl([{**row, "label": "rare" if i < 12 else "other"} for i, row in enumerate(labelled(120))]),
    )
    assert "'other' is the label of 90% of the rows" in capsys.readouterr().out


def test_a_phrase_of_all_rows_of_a_label_is_no_contamination(tmp_path: Path) -> None:
    phrase = "regarding the quarterly zinc ledger audits conducted by our Ulaanbaatar branch during monsoon "
    rows = labelled(300)
    rows += [{"text": f"{phrase}{text}", "label": "rare"} for text in texts(320)[300:]]
    project = start(tmp_path, "a.jsonl", jsonl(rows))
    run = loaded(project)
    assert [filter_.kind for filter_ in run.file.augment.filters] == ["duplicate"]
    (tmp_path / "b").mkdir()
    run = loaded(start(tmp_path / "b", "a.jsonl", jsonl(labelled(300))))
    assert [filter_.kind for filter_ in run.file.augment.filters] == ["duplicate", "contamination"]


def test_several_answers_to_one_question_are_all_right(tmp_path: Path) -> None:
    rows = [row for row in asked(160) for _ in range(2)]
    for i in range(1, len(rows), 2):
        rows[i] = {**rows[i], "answer": f"also {rows[i]['answer']}"}
    run = loaded(start(tmp_path, "a.jsonl", jsonl(rows)))
    assert all(len(item.answers) == 2 for item in run.suites["mine"].items)


def test_a_long_file_is_taken_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("harness.commands.init.source.MOST_ROWS", 150)
    run = loaded(start(tmp_path, "a.jsonl", jsonl(asked(400))))
    assert len(rows_given(run)) + len(items_of(run)) == 150
    assert "400 rows, of which 150 are taken" in capsys.readouterr().out


# --- what is refused ---------------------------------------------------------------------------------------------

REFUSED: list[tuple[str, str | bytes, dict[str, Any], str]] = [
    ("a.csv", "", {}, "the file is empty"),
    ("a.csv", "text,label\n", {}, "there are no rows in it"),
    ("a.csv", "text\n" + "x\n" * 30, {}, "it has one column, 'text'"),
    ("a.csv", "text,text,label\na,b,c\n", {}, "a.csv:1: the column 'text' stands twice"),
    ("a.csv", "text,label\na,b,c\n", {}, "a.csv:2: 3 cells; the header has 2"),
    ("a.csv", 'text,label\n"a,b\n', {}, "not valid CSV"),
    ("a.csv", b"text,label\n\xff\xfe\x00,x\n", {}, "not UTF-8 text (byte 11)"),
    ("a.parquet", b"PAR1nothing", {}, "not a Parquet file"),
    ("a.xlsx", b"PK", {}, ".xlsx: tables end in .jsonl, .json, .csv"),
    ("a.CSV", "text,label\na,b\n", {}, "write the ending in small letters"),
    ("a.jsonl", "{}\nno\n", {}, "a.jsonl:2: not valid JSON"),
    ("a.jsonl", jsonl(labelled(3)), {}, "3 examples are too few: 12 at least"),
    ("a.jsonl", jsonl([{**row, "label": "one"} for row in labelled(40)]), {}, "'one' is the answer of every row"),
    ("a.jsonl", jsonl([{"text": row["text"]} if i else row for i, row in enumerate(labelled(40))]), {},
     "39 of 40 rows cannot be used, the first: "),
    ("a.jsonl", jsonl([{**row, "text": row["text"] * 2000} for row in labelled(20)]), {}, "every row is longer than"),
    ("a.jsonl", jsonl([{"a": "x", "b": "y", "c": "z"}] * 20), {}, "which column is the input? Say it with --text"),
    ("a.jsonl", jsonl([{**row, "category": "x"} for row in labelled(20)]), {}, "which column is the answer? Say"),
    ("a.jsonl", jsonl([{**row, "best_answer": "x"} for row in labelled(20)]), {}, "is the answer? Say it with --label"),
    ("a.jsonl", jsonl([{"question": "x", "choices": ["a", "b"], "answer": 3}] * 20), {}, "3 is none of the 2 choices"),
    ("a.jsonl", jsonl(labelled(40)), {"texts": ("txt",)}, "--text txt: no such column (did you mean 'text'?)"),
    ("a.jsonl", jsonl(labelled(40)), {"label": "label", "answer": "label"}, "give one of them"),
    ("a.jsonl", jsonl(labelled(40)), {"texts": ("text",), "label": "text"}, "cannot be input and answer at once"),
    ("a.jsonl", jsonl(asked(400)), {"texts": ("answer",), "label": "question"}, "--label: "),
    ("a.jsonl", jsonl(labelled(40)), {"group": "who"}, "--group who: no such column"),
    ("a.jsonl", jsonl(labelled(40)), {"items": 30}, "--items 30: at most half of the 40 examples: 20"),
    ("a.jsonl", jsonl([{**row, "who": "x"} for row in labelled(40)]), {"group": "who"}, "0 items can be held out"),
    ("a.jsonl", jsonl(labelled(40)), {"student": "smolm2"}, "--student: there is no model 'smolm2'"),
    ("a.jsonl", jsonl(labelled(40)), {"base_url": "http://x/v1"}, "name the model that answers there with --teacher"),
    ("a.jsonl", jsonl(labelled(40)), {"teacher": "m", "base_url": "x"}, "base_url"),
    ("a.txt", "too few words in it for a piece or two of them, really.", {}, "are too few: 8 at least"),
    ("a.txt", "some words " * 3000, {"label": "x"}, "--label: "),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "wishes", "expected"), REFUSED, ids=[case[3] for case in REFUSED])
def test_what_cannot_be_used_is_said_and_nothing_written(
    tmp_path: Path, name: str, content: str | bytes, wishes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(UsageError) as caught:
        start(tmp_path, name, content, **wishes)
    assert expected in str(caught.value)
    assert list((tmp_path / "project").iterdir()) == []


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".hidden", "a b", "x" * 65, "-x", "a.yaml"])
def test_a_name_is_a_files_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"^NAME "):
        init(Wishes(name), Options(tmp_path), tmp_path, Terminal())


def test_nothing_is_overwritten_and_equal_files_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = jsonl(labelled(160))
    project = start(tmp_path, "a.jsonl", content, dry_run=True)
    assert "would be written" in capsys.readouterr().out
    assert list(project.iterdir()) == []
    start(tmp_path, "a.jsonl", content)
    before = {path: path.stat().st_mtime_ns for path in project.rglob("*") if path.is_file()}
    assert len(before) == 7
    start(tmp_path, "a.jsonl", content)
    assert capsys.readouterr().out.count("is there already, equal") == 7
    (project / "suites/mine.yaml").write_text("kind: labels\n")
    (project / "runs/mine.yaml").unlink()
    with pytest.raises(UsageError, match=r"^suites/mine\.yaml: there already, with other contents"):
        start(tmp_path, "a.jsonl", content)
    assert not (project / "runs/mine.yaml").exists()


def test_a_disk_that_refuses_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project/runs").write_text("a file where the folder would be")
    with pytest.raises((OSError, Exception)):
        start(tmp_path, "a.jsonl", jsonl(labelled(160)))
    assert [path.name for path in (tmp_path / "project").iterdir()] == ["runs"]


def test_without_a_file_it_asks_or_says_that_it_cannot(tmp_path: Path) -> None:
    done = harness(tmp_path, "init", "mine")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--from FILE is missing, and here is no terminal to ask at" in done.stderr
    done = harness(tmp_path, "init", "mine", "--from", "nothing.csv")
    assert done.returncode == 2
    assert "there is no such file or folder" in done.stderr


def test_at_a_terminal_it_asks_for_the_file_and_unclear_columns(tmp_path: Path) -> None:
    rows = [{"a": text, "b": "x", "c": i % 2} for i, text in enumerate(texts(160))]
    (tmp_path / "a.csv").write_text(as_csv(rows))
    code, said = typed(tmp_path, ["a.csv", "Say 1 or 0.", "b?", "a", "c", "y"], "init", "mine")
    assert (code, "one of: a, b, c" in said) == (0, True), said
    run = load_run(tmp_path / "runs/mine.yaml")
    assert (run.task.system, set(run.task.labels)) == ("Say 1 or 0.", {"0", "1"})


def test_of_one_column_nothing_is_asked() -> None:
    with pytest.raises(UsageError, match="'id' is the only column"):
        ask_for_columns(("id",))


def test_ctrl_c_at_a_question_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\n")
    code, said = typed(tmp_path, ["\x03"], "init", "mine")
    assert code == 130
    assert "nothing was written" in said
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def typed(folder: Path, answers: Sequence[str], *words: str) -> tuple[int, str]:
    """(exit code, output) of the command at a terminal, where a person types these lines, each at a question."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *words], cwd=folder, env=environment(), stdin=theirs, stdout=theirs,
        stderr=theirs, start_new_session=True, preexec_fn=_own_terminal,
    )  # fmt: skip
    os.close(theirs)
    said = ""
    waiting = list(answers)
    with suppress(OSError):  # the terminal ends with the process
        while part := os.read(ours, 4096).decode("utf-8", "replace"):
            said += part
            if waiting and said.rstrip(" ").endswith((":", "?", "[y/N]:")):
                os.write(ours, f"{waiting.pop(0)}\n".encode())
                said += " "
    os.close(ours)
    return process.wait(timeout=60), said


def _own_terminal() -> None:
    """Make standard input the terminal that Ctrl-C comes from, also below a shell that ignores it."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
