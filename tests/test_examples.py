"""Examples of every shape: the formats that people have them in, the rows they become, what carries loss."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.augment.current import kept_rows
from harness.augment.plan import plan_rows
from harness.augment.rows import Lost
from harness.builders import teachers_of
from harness.config.load import load_run
from harness.data.examples import Shape, read_examples
from harness.errors import UsageError
from harness.eval.prompting import prompt_forms
from harness.filters.base import part_of
from harness.models.chat_template import load_chat, tokenize_row
from harness.models.teachers import Teachers
from harness.records import Completion, Example, Message, Row
from tests.fakes import Quiet
from tests.process import succeed
from tests.project import rows_given, rows_of_seeds

ROOT = Path(__file__).parent.parent
TALK = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Who is it?"},
    {"role": "user", "content": "Ann"},
    {"role": "assistant", "content": "Come in.\n\nMind the step."},
]
SPOKEN = [{"from": {"user": "human", "assistant": "gpt"}[t["role"]], "value": t["content"]} for t in TALK]
EDIT = Shape(("instruction", "input"), optional=("input",))
FREE = Shape()

FORMATS: list[tuple[str, Shape, dict[str, Any], str, dict[str, str], str, int]] = [
    ("own", EDIT, {"instruction": "Shout.", "input": "hi", "answer": "HI"}, "own", {"instruction": "Shout.", "input": "hi"}, "HI", 0),
    ("alpaca", EDIT, {"instruction": "Shout.", "input": "", "output": "HI\nHO", "text": "all"}, "Alpaca", {"instruction": "Shout.", "input": ""}, "HI\nHO", 0),
    ("alpaca as text", FREE, {"instruction": "Shout.", "input": "hi", "output": "HI"}, "Alpaca", {"text": "Shout.\n\nhi"}, "HI", 0),
    ("openai", FREE, {"messages": TALK, "id": 7}, "OpenAI", {"text": "Ann"}, "Come in.\n\nMind the step.", 2),
    ("sharegpt", FREE, {"conversations": SPOKEN}, "ShareGPT", {"text": "Ann"}, "Come in.\n\nMind the step.", 2),
    ("trl", FREE, {"prompt": "Why?", "completion": "So."}, "TRL", {"text": "Why?"}, "So.", 0),
    ("trl turns", FREE, {"prompt": TALK[:3], "completion": TALK[3:]}, "TRL", {"text": "Ann"}, "Come in.\n\nMind the step.", 2),
    ("question", FREE, {"question": "Why?", "answer": "So."}, "question", {"text": "Why?"}, "So.", 0),
    ("label", Shape(labels=("a", "b")), {"text": "x", "label": "b"}, "own", {"text": "x"}, "b", 0),
]  # fmt: skip


def nested(case: tuple[Any, ...]) -> bool:
    return any(isinstance(value, list) for value in case[2].values())


@pytest.mark.parametrize(
    ("case", "ending"),
    [
        pytest.param(case, ending, id=f"{case[0]}-{ending}")
        for case in FORMATS
        for ending in ("jsonl", "json", "parquet", "csv")
        if ending != "csv" or not nested(case)  # a table of texts holds no turns
    ],
)
def test_every_format_is_told_by_its_columns(tmp_path: Path, case: tuple[Any, ...], ending: str) -> None:
    _, shape, row, name, fields, answer, turns = case
    path = tmp_path / f"rows.{ending}"
    if ending == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, row)
            writer.writeheader()
            writer.writerow(row)
    elif ending == "parquet":
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist([row]), path)
    else:
        path.write_text(json.dumps([row] if ending == "json" else row))
    read = read_examples(path.name, tmp_path, shape, "here")
    assert name in read.format
    (example,) = read.examples
    assert (example.fields, example.answer, len(example.turns)) == (fields, answer, turns)
    assert example.label == (answer if shape.labels else None)


@pytest.mark.parametrize(
    ("shape", "row", "said"),
    [
        (FREE, {"messages": TALK[:3]}, "rows.jsonl:1: its turns are user, assistant, user; wanted"),
        (FREE, {"messages": [{"role": "usr", "content": "x"}]}, "turn 1: role: 'usr' (did you mean 'user'?)"),
        (FREE, {"messages": "x"}, "rows.jsonl:1: messages: a list of turns is wanted"),
        (EDIT, {"instruction": "x", "inputs": "y", "answer": "z"}, "input: there is no value (did you mean 'inputs'?)"),
        (EDIT, {"instruction": " ", "input": "y", "answer": "z"}, "rows.jsonl:1: instruction: it is empty"),
        (FREE, {"prompt": "x", "completion": " "}, "rows.jsonl:1: answer: it is empty"),
        (Shape(labels=("a", "b")), {"messages": TALK}, "rows.jsonl:1: label: 'Come in."),
    ],
)
def test_what_is_wrong_with_a_row_is_named(tmp_path: Path, shape: Shape, row: dict[str, Any], said: str) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UsageError) as caught:
        read_examples("rows.jsonl", tmp_path, shape, "here")
    assert said in str(caught.value)


def test_a_json_file_is_a_list(tmp_path: Path) -> None:
    for text, said in (("{}", "expected a list"), ("[1]", "element 1: each is a JSON object"), ("[", "not JSON")):
        (tmp_path / "rows.json").write_text(text)
        with pytest.raises(UsageError, match=said):
            read_examples("rows.json", tmp_path, FREE, "here")


def test_a_filter_looks_at_the_part_it_is_told() -> None:
    example = Example(
        fields={"instruction": "do", "input": ""}, turns=(Message(role="user", content="hm"),), answer="ok"
    )
    assert [part_of(example, on) for on in ("input", "answer", "both", "instruction")] == [
        "hm\n\ndo", "ok", "hm\n\ndo\n\nok", "do",
    ]  # fmt: skip


def project(root: Path, name: str, tiny_model: Path) -> Path:
    """A shipped run in a folder of its own, with the scripted teacher and a tiny student."""
    for folder in (f"prompts/{name}", "suites", "runs"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    shutil.copytree(ROOT / f"prompts/{name}", root / f"prompts/{name}", dirs_exist_ok=True)
    for file in (f"suites/{name}.yaml", f"suites/{name}.jsonl", f"runs/{name}.yaml"):
        shutil.copy(ROOT / file, root / file)
    (root / "script.json").write_text(json.dumps({"generate": ["{word} {word} {word} {number}", "{word} {number}"]}))
    run = (root / f"runs/{name}.yaml").read_text()
    run = run.replace(
        "{model: smollm2-135m-instruct, engine: vllm}", "{model: t, engine: scripted, script: script.json}"
    )
    run = run.replace("[smollm2-135m-instruct]", f"[{tiny_model}]").replace("max_tokens: 160", "max_tokens: 400")
    (root / f"runs/{name}.yaml").write_text(run)
    return root / f"runs/{name}.yaml"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["edit", "dialogue", "document"])
def test_a_task_of_every_shape_goes_from_seeds_to_a_report(tmp_path: Path, name: str, tiny_model: Path) -> None:
    path = project(tmp_path, name, tiny_model)
    for verb in ("augment", "train", "eval"):
        succeed(tmp_path, verb, name)
    run = load_run(path)
    rows = kept_rows(run)
    assert len(rows) >= 32
    assert all(row.messages[-1].content == row.example.answer for row in rows)
    assert {tuple(row.example.fields) for row in rows} == {run.task.fields}
    report = (run.folder / "eval/report.md").read_text()
    assert f" on {name}" in report
    cards = json.loads((run.folder / "eval/scorecards.json").read_text())["cards"]
    assert {card["failed"] for card in cards} == {0}
    assert {card["items"] for card in cards} == {len(run.suites[name].items)}


def test_a_conversation_is_learned_at_its_last_or_at_all_answers(tmp_path: Path, tiny_model: Path) -> None:
    run = load_run(project(tmp_path, "dialogue", tiny_model))
    row = rows_of_seeds(run)[0]
    assert [m.role for m in row.messages] == ["system", "user", "assistant", "user", "assistant"]
    chat = load_chat("tiny", tiny_model)
    learned = tokenize_row(chat, row)
    last = tokenize_row(chat, row.model_copy(update={"loss": "last"}))
    assert learned.ids == last.ids
    assert (len(learned.learned), last.learned) == (2, learned.learned[-1:])
    for (first, end), answer in zip(learned.learned, (row.messages[2], row.messages[4]), strict=True):
        assert chat.tokenizer.decode(learned.ids[first : end - 1]).strip() == answer.content
        assert learned.ids[end - 1] in chat.stops
    assert row.id != row.model_copy(update={"loss": "last"}).id


def test_an_untuned_model_sees_every_field_and_the_turns_before(tmp_path: Path, tiny_model: Path) -> None:
    edit = load_run(project(tmp_path / "a", "edit", tiny_model))
    shown = prompt_forms(edit.task, edit.prompts)
    item = edit.suites["edit"].items[0]
    plain = shown.prompt("completion", item.question, edit.seeds[:1])
    assert isinstance(plain, str)
    assert plain.endswith(f"Instruction: {item.fields['instruction']}\nInput: {item.fields['input']}\nAnswer:")
    assert f"Answer: {edit.seeds[0].answer}\n\nInstruction:" in plain
    assert shown.ending.next_example == "\nInstruction:"
    talk = load_run(project(tmp_path / "b", "dialogue", tiny_model))
    asked = prompt_forms(talk.task, talk.prompts)
    item = talk.suites["dialogue"].items[0]
    plain = asked.prompt("completion", item.question, ())
    assert isinstance(plain, str)
    assert f"User: {item.turns[0].content}\nAssistant: {item.turns[1].content}\n" in plain
    student = asked.prompt("student", item.question, talk.seeds[:1])
    assert [m.role for m in student] == ["system", *["user", "assistant"] * 3, "user"]  # type: ignore[union-attr]


def test_an_answer_keeps_its_lines(tmp_path: Path, tiny_model: Path) -> None:
    plan = plan_rows(load_run(project(tmp_path, "edit", tiny_model)), Teachers(own="t"))
    chain = plan.begin(("", 0))
    (request,) = plan.requests(chain)
    written = {"instruction": "List.", "input": "", "answer": "- a  \r\n- b\n\n- c"}
    completion = Completion(request=request.key, text=json.dumps(written), finish_reason="stop")
    row = plan.take(chain, [request], [completion])
    assert isinstance(row, Row)
    assert row.answer == "- a\n- b\n\n- c"
    written = {"instruction": "", "input": "x", "answer": "y"}
    completion = Completion(request=request.key, text=json.dumps(written), finish_reason="stop")
    lost = plan.take(chain, [request], [completion])
    assert isinstance(lost, Lost)
    assert "'instruction' in its JSON is empty" in lost.reason


def test_fields_and_filters_must_fit_the_task(tmp_path: Path, tiny_model: Path) -> None:
    path = project(tmp_path, "edit", tiny_model)
    for setting, said in (
        ("augment.filters=[{kind: length, on: instructon}]", "augment.filters.0.on: 'instructon' (did you mean 'instruction'?)"),
        ("augment.templates=[{path: prompts/edit/write.j2, output: text, sampling: {}}]", "output: 'text'"),
        ("task={system: x, fields: [label]}", "task: fields: 'label' is what templates call"),
        ("task={system: x, fields: [a], optional: [b]}", "optional: 'b' is none of the fields"),
    ):  # fmt: skip
        with pytest.raises(UsageError) as caught:
            load_run(path, [setting])
        assert said in str(caught.value)


def test_own_rows_say_what_they_were_read_as(tmp_path: Path, tiny_model: Path) -> None:
    path = project(tmp_path, "edit", tiny_model)
    settings = ["augment.templates=[]", "augment.rows_file=prompts/edit/seeds.jsonl", "train.sizes=[0, 8]"]
    rows = rows_given(load_run(path, settings))
    assert {row.provenance.format for row in rows} == {"instruction, input, output (Alpaca)"}


def test_a_teacher_that_guides_no_json_says_so_for_every_kind_of_json(tmp_path: Path, tiny_model: Path) -> None:
    for name in ("dialogue", "edit"):
        path = project(tmp_path / name, name, tiny_model)
        terminal = Quiet()
        teachers_of(load_run(path, [f"teacher={{model: {tiny_model}, engine: transformers}}"]), terminal)
        assert "does not guide JSON" in terminal.said[-1]
