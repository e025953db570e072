"""Bad files are refused before anything is spent: place, value, what is allowed, the nearest valid name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.config.load import load_run
from harness.config.teacher import VLLMTeacher
from harness.core.record import FIRST_NAMES
from harness.errors import UsageError
from harness.eval.prompting import prompt_forms
from harness.records import Example
from tests.process import harness
from tests.project import rows_given, write_project

ROOT = Path(__file__).parent.parent


def edited(root: Path, file: str, before: str, after: str) -> Path:
    run = write_project(root, "nobody")
    path = root / file
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    return run


BAD = [
    ("runs/shop.yaml", "epochs: 1", "epoch: 1", ["shop.yaml:", "train.epoch", "unknown key", "'epochs'", "min_steps"]),
    ("runs/shop.yaml", "epochs: 1", "epochs: many", ["shop.yaml:", "train.epochs", "'many'", "integer"]),
    ("runs/shop.yaml", "epochs: 1", "epochs: yes", ["shop.yaml:", "train.epochs", "expected a number"]),
    ("runs/shop.yaml", "epochs: 1", "epochs: 0", ["train.epochs", "0", "greater than or equal to 1"]),
    ("runs/shop.yaml", "epochs: 1", "early_stopping: {patience: 2}", ["shop.yaml:", "early_stopping", "set validation"]),
    ("runs/shop.yaml", "epochs: 1", "validation: {every: 0}", ["train.validation.every", "0", "greater than or equal to 1"]),
    ("runs/shop.yaml", "kind: duplicate", "kind: duplikate", ["augment.filters.2", "'duplikate'", "'duplicate'", "contamination"]),
    ("runs/shop.yaml", "kind: duplicate", "knd: duplicate", ["augment.filters.2", "'kind' is missing"]),
    ("runs/shop.yaml", "prompts/shop/list.j2", "prompts/shop/lists.j2", ["augment.templates.0.path", "'prompts/shop/list.j2'"]),
    ("runs/shop.yaml", "prompts/shop/seeds.jsonl", "prompts/shop/seed.jsonl", ["augment.seeds", "seeds.jsonl'"]),
    ("runs/shop.yaml", "- shop\n", "- shopp\n", ["eval.suites.0", "'shopp'", "'shop'", "talk"]),
    ("runs/shop.yaml", "- 12\n", "- 400\n", ["sizes", "400"]),
    ("runs/shop.yaml", "  - 12\n", "  - 3\n", ["train", "sizes [0, 4, 3] must grow"]),
    ("runs/shop.yaml", "rows: 24", "rows: 24\n  rows: 25", ["shop.yaml:", "'rows'", "twice"]),
    ("runs/shop.yaml", "random_seed: 0", "random_seed: [0", ["shop.yaml:", "not valid YAML"]),
    ("runs/shop.yaml", "engine: scripted", "engine: openai", ["teacher", "base_url"]),
    ("prompts/shop/task.yaml", "parcel:", "parsel:", ["seeds.jsonl:1", "label", "'parcel'", "'parsel'"]),
    ("prompts/shop/task.yaml", "student.j2", "studnt.j2", ["task.yaml", "prompt", "studnt.j2"]),
    ("prompts/shop/seeds.jsonl", '{"text"', '{"text', ["seeds.jsonl:1", "not valid JSON"]),
    ("prompts/shop/seeds.jsonl", '"text"', '"txt"', ["seeds.jsonl:1", "text"]),
    ("suites/shop.jsonl", '"label": "parcel"', '"label": "parcels"', ["shop.jsonl:1", "'parcels'", "'parcel'"]),
    ("suites/facts.jsonl", '"answer": 0', '"answer": 2', ["facts.jsonl:1", "answer", "2"]),
    ("suites/facts.jsonl", '["0", "1"]', '["0", "0"]', ["facts.jsonl:1", "choices", "equal"]),
    ("suites/shop.yaml", "kind: labels", "kind: label", ["shop.yaml:1", "'label'", "'labels'", "open_ended"]),
    ("suites/shop.yaml", "margin", "margn", ["shop.yaml", "limits.accuracy.margn", "'margin'"]),
    ("prompts/shop/student.j2", "text", "txt", ["student.j2:1", "'txt' is undefined", "'text'"]),
    ("prompts/shop/list.j2", "{{ label }}", "{{ lable }}", ["list.j2:1", "'lable'", "'label'"]),
    ("prompts/shop/judge.j2", "{{ text }}", "{{ row }}", ["judge.j2:1", "'row'", "description, label, labels, shots, text"]),
    ("runs/shop.yaml", "prompts/shop/judge.j2", "prompts/shop/juge.j2", ["augment.filters.5.template", "judge.j2'"]),
    ("prompts/shop/task.yaml", "labels:\n", "labels: {only: one}\nlabel:\n", ["task.yaml", "labels", "label"]),
    ("suites/talk.yaml", "suites/talk.jsonl", "suites/talks.jsonl", ["talk.yaml:2", "items", "'suites/talk.jsonl'"]),
]  # fmt: skip


@pytest.mark.parametrize(("file", "before", "after", "expected"), BAD, ids=[f"{b[0]}:{b[2][:20]}" for b in BAD])
def test_a_mistake_is_named_with_its_place(
    tmp_path: Path, file: str, before: str, after: str, expected: list[str]
) -> None:
    run = edited(tmp_path, file, before, after)
    with pytest.raises(UsageError) as caught:
        load_run(run)
    message = str(caught.value)
    for part in expected:
        assert part in message, message


OLD_NAMES = [
    (model.removeprefix("VLLM").lower(), old, new) for model, names in FIRST_NAMES.items() for new, old in names.items()
]  # section, key as it was, key as it is


@pytest.mark.parametrize(("section", "old", "new"), OLD_NAMES)
def test_a_key_that_was_renamed_names_the_new_one(tmp_path: Path, section: str, old: str, new: str) -> None:
    run = write_project(tmp_path, "nobody", teacher={"model": "m"})
    said = f"{section}.{old} is now {section}.{new}"
    with pytest.raises(UsageError) as caught:
        load_run(run, [f"{section}.{old}=3"])
    assert str(caught.value) == f"--set {section}.{old}=3: {said}"
    lines = run.read_text().splitlines()
    line = lines.index(f"{section}:") + 1
    run.write_text("\n".join([*lines[:line], f"  {old}: 3", *lines[line:]]))
    with pytest.raises(UsageError) as caught:
        load_run(run)
    assert str(caught.value) == f"{run}:{line + 1}: {said}"


VLLM = "model, prompt_price, completion_price, engine, revision, concurrency, max_model_len, gpu_memory_utilization"
ENDPOINT = "model, prompt_price, completion_price, engine, revision, base_url, api_key_env, concurrency"
WEIGHTS = "model, prompt_price, completion_price, engine, revision"
SCRIPT = "model, prompt_price, completion_price, engine, script"
ANSWERS = "prompts/shop/teacher.json"
TEACHERS = [  # a teacher, what is wrong with it
    ({"base_url": "http://h/v1"}, f"teacher.base_url: unknown key; allowed for vllm: {VLLM}, tensor_parallel_size"),
    ({"engine": "vllm", "script": ANSWERS}, f"teacher.script: unknown key; allowed for vllm: {VLLM}"),
    (
        {"engine": "openai", "base_url": "http://h/v1", "tensor_parallel_size": 2},
        f"teacher.tensor_parallel_size: unknown key; allowed for openai: {ENDPOINT}",
    ),
    ({"engine": "transformers", "concurrency": 2}, f"teacher.concurrency: unknown key; allowed for transformers: {WEIGHTS}"),
    ({"engine": "scripted", "script": ANSWERS, "revision": "x"}, f"teacher.revision: unknown key; allowed for scripted: {SCRIPT}"),
    ({"engine": "openai"}, "teacher.base_url: this key is missing"),
    ({"engine": "scripted"}, "teacher.script: this key is missing"),
    ({"engine": "vlm"}, "teacher: engine 'vlm' is unknown (did you mean 'vllm'?); allowed: vllm, openai, transformers, scripted"),
]  # fmt: skip


@pytest.mark.parametrize(("teacher", "said"), TEACHERS)
def test_a_teacher_has_the_keys_of_its_engine_alone(tmp_path: Path, teacher: dict[str, Any], said: str) -> None:
    run = write_project(tmp_path, "nobody", teacher={"model": "m", **teacher})
    with pytest.raises(UsageError) as caught:
        load_run(run)
    assert re.fullmatch(rf"{run}:\d+: {re.escape(said)}.*", str(caught.value)), str(caught.value)


def test_a_teacher_without_an_engine_is_asked_in_vllm(tmp_path: Path) -> None:
    run = load_run(write_project(tmp_path, "nobody", teacher={"model": "m", "tensor_parallel_size": 2}))
    assert isinstance(run.teacher, VLLMTeacher)
    assert (run.teacher.engine, run.teacher.tensor_parallel_size) == ("vllm", 2)


def test_every_mistake_of_a_file_is_listed_at_once(tmp_path: Path) -> None:
    run = edited(tmp_path, "runs/shop.yaml", "epochs: 1\n  min_steps: 2", "epochs: x\n  min_update: 2")
    with pytest.raises(UsageError) as caught:
        load_run(run)
    assert len(str(caught.value).splitlines()) == 2


def test_every_file_that_is_missing_or_wrong_is_listed_at_once(tmp_path: Path) -> None:
    run = edited(tmp_path, "runs/shop.yaml", "prompts/shop/list.j2", "prompts/shop/lists.j2")
    (tmp_path / "prompts/shop/seeds.jsonl").write_text('{"text": "x"}\n')
    (tmp_path / "suites/talk.yaml").write_text("kind: talk\n")
    with pytest.raises(UsageError) as caught:
        load_run(run)
    said = str(caught.value).splitlines()
    assert len(said) == 3
    for line, place in zip(
        said, ("augment.templates.0.path", "seeds.jsonl:1: label", "talk.yaml:1: kind"), strict=True
    ):
        assert place in line


def test_empty_seeds_and_labels_without_seeds(tmp_path: Path) -> None:
    run = write_project(tmp_path, "nobody")
    seeds = tmp_path / "prompts/shop/seeds.jsonl"
    lines = seeds.read_text().splitlines(keepends=True)
    seeds.write_text("\n\n")
    with pytest.raises(UsageError, match="there are no seeds"):
        load_run(run)
    seeds.write_text("".join(line for line in lines if '"invoice"' not in line))
    with pytest.raises(UsageError, match="no seed has the label 'invoice'"):
        load_run(run)


def test_missing_files_and_wrong_settings(tmp_path: Path) -> None:
    run = write_project(tmp_path, "nobody")
    with pytest.raises(UsageError, match=r"shopp.yaml: there is no such file.*did you mean 'shop.yaml'"):
        load_run(run.with_name("shopp.yaml"))
    with pytest.raises(UsageError, match=r"--set train.epoch=3: train.epoch: unknown key"):
        load_run(run, ["train.epoch=3"])
    with pytest.raises(UsageError, match=r"write it as key\.path=value"):
        load_run(run, ["train.epochs"])
    with pytest.raises(UsageError, match="there is nothing at 7"):
        load_run(run, ["augment.filters.7.kind=length"])


def test_a_prompt_that_does_not_use_the_text_is_refused(tmp_path: Path) -> None:
    path = write_project(tmp_path, "nobody")
    (tmp_path / "prompts/shop/student.j2").write_text("what is it about?")
    with pytest.raises(UsageError, match=r"student.j2: two texts give one prompt: .* must use \{\{ text \}\}"):
        load_run(path)


def test_a_rule_over_several_keys_names_the_line_of_its_own(tmp_path: Path) -> None:
    write_project(tmp_path, "nobody")
    child = tmp_path / "runs/child.yaml"
    child.write_text("extends: shop.yaml\ntrain:\n  epochs: 2\nship:\n  size: 5\n")
    with pytest.raises(UsageError, match=r"child.yaml:5: ship.size 5 is not one of train.sizes"):
        load_run(child)
    child.write_text("extends: shopp.yaml\n")
    with pytest.raises(UsageError, match=r"child.yaml:1: extends: there is no run file 'shopp.yaml'.*'shop.yaml'"):
        load_run(child)
    child.write_text("extends: [shop.yaml]\n")
    with pytest.raises(UsageError, match=r"child.yaml:1: extends: there is no run file \['shop.yaml'\]"):
        load_run(child)


def test_what_pydantic_calls_a_tuple_is_a_list_to_people(tmp_path: Path) -> None:
    path = write_project(tmp_path, "nobody")
    with pytest.raises(UsageError, match="input should be a list"):
        load_run(path, ["train.sizes=5"])
    with pytest.raises(UsageError, match="a mapping of keys"):
        load_run(path, ["train=5"])


def test_own_rows_that_are_blank_or_none(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n")
    own = {"seeds": "prompts/shop/seeds.jsonl", "rows_file": "rows.jsonl"}
    run = load_run(write_project(tmp_path, "nobody", augment=own))
    with pytest.raises(UsageError, match=r"rows.jsonl: there are no rows in it"):
        rows_given(run)
    rows.write_text(json.dumps({"text": "  ", "label": "parcel"}) + "\n")
    with pytest.raises(UsageError, match=r"rows.jsonl:1: text: it is empty"):
        rows_given(run)
    rows.write_text("\ufeff" + json.dumps({"text": "where is it", "label": "parcel"}) + "\n")
    assert len(rows_given(run)) == 1, "some editors begin a file with a byte order mark"


def test_settings_override_any_key(tmp_path: Path) -> None:
    run = load_run(
        write_project(tmp_path, "nobody"),
        ["train.sizes=[0, 2, 8]", "train.learning_rate=5e-4", "ship.size=8"],
    )
    assert run.file.train.sizes == (0, 2, 8)
    assert run.file.train.learning_rate == 5e-4


def test_a_run_extends_another(tmp_path: Path) -> None:
    write_project(tmp_path, "nobody")
    child = tmp_path / "runs/study.yaml"
    child.write_text("extends: shop.yaml\ntrain: {random_seeds: [0, 1, 2]}\n")
    run = load_run(child)
    assert (run.name, run.file.train.random_seeds, run.file.train.sizes) == ("study", (0, 1, 2), (0, 4, 12))
    child.write_text("extends: study.yaml\n")
    with pytest.raises(UsageError, match="extends itself"):
        load_run(child)


def test_the_null_run_shuffles_seeds_and_items_and_keeps_their_counts(tmp_path: Path) -> None:
    path = write_project(tmp_path, "nobody")
    plain, null = load_run(path), load_run(path, ["shuffle_labels=true"])
    assert [s.text for s in plain.seeds] == [s.text for s in null.seeds]
    assert sorted(s.answer for s in plain.seeds) == sorted(s.answer for s in null.seeds)
    assert [s.answer for s in plain.seeds] != [s.answer for s in null.seeds]
    golds = [[i.gold for i in run.suites["shop"].items] for run in (plain, null)]
    assert golds[0] != golds[1]
    assert sorted(map(str, golds[0])) == sorted(map(str, golds[1]))


@pytest.mark.parametrize("path", sorted((ROOT / "runs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_run_loads(path: Path) -> None:
    assert load_run(path).suites


def free_project(root: Path, template: str = "json", **changes: object) -> Path:
    """The small project with free answers: no labels, seeds with answers, a written suite."""
    own = {"augment": {"seeds": "prompts/shop/seeds.jsonl", "rows_file": "prompts/shop/rows.jsonl"}}
    written = {"augment": {"seeds": "prompts/shop/seeds.jsonl", "templates": [
        {"path": "prompts/shop/list.j2", "output": template, "sampling": {}}]}}  # fmt: skip
    sections = {"eval": {"suites": ["shop"]}, **(own if template == "own" else written), **changes}
    run = write_project(root, "nobody", **sections)
    task = yaml.safe_load((root / "prompts/shop/task.yaml").read_text()) | {"labels": {}}
    (root / "prompts/shop/task.yaml").write_text(yaml.safe_dump(task))
    seeds = [{"text": "How long?", "answer": "27 days "}, {"text": "How wide?", "label": "9 feet"}]
    (root / "prompts/shop/seeds.jsonl").write_text("".join(json.dumps(s) + "\n" for s in seeds))
    rows = [{"text": "For how long?", "answer": " 27 days"}, {"text": "What colour?", "label": "teal"}]
    (root / "prompts/shop/rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (root / "suites/shop.yaml").write_text("kind: answers\nitems: suites/shop.jsonl\n")
    items = [{"question": f"How {w}?", "answer": w} for w in ("old", "tall", "cold", "far")]
    (root / "suites/shop.jsonl").write_text("".join(json.dumps(i) + "\n" for i in items))
    return run


def test_a_task_without_labels_takes_any_answer(tmp_path: Path) -> None:
    run = load_run(free_project(tmp_path, "own"))
    assert run.task.free
    assert [(s.text, s.answer) for s in run.seeds] == [("How long?", "27 days"), ("How wide?", "9 feet")]
    rows = rows_given(run)
    assert [(r.text, r.answer, r.messages[-1].content) for r in rows] == [
        ("For how long?", "27 days", "27 days"),
        ("What colour?", "teal", "teal"),
    ]
    shown = prompt_forms(run.task, run.prompts).prompt("completion", Example(fields={"text": "How deep?"}), run.seeds)
    assert shown == "How long? -> 27 days\nHow wide? -> 9 feet\nHow deep? ->"
    assert run.suites["shop"].of_task
    assert load_run(free_project(tmp_path / "json")).task.free


def test_what_needs_labels_is_refused_without_them(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"augment.templates.0.output: 'text': the task has no labels.*output: json"):
        load_run(free_project(tmp_path / "a", "text"))
    judge = {"kind": "judge", "template": "prompts/shop/judge.j2"}
    own = {"seeds": "prompts/shop/seeds.jsonl", "rows_file": "prompts/shop/rows.jsonl"}
    path = free_project(tmp_path / "b", "own", augment=own | {"filters": [judge]})
    with pytest.raises(UsageError, match=r"augment.filters.0.choices: 'labels': the task has no labels"):
        load_run(path)
    path = free_project(tmp_path / "c", "own")
    (tmp_path / "c/suites/shop.yaml").write_text("kind: labels\nitems: suites/shop.jsonl\n")
    with pytest.raises(UsageError, match=r"shop.yaml:1: kind: the task has no labels; its own suites are of kind"):
        load_run(path)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ({"text": "x", "answer": "  "}, "rows.jsonl:1: answer: it is empty"),
        ({"text": "x"}, "rows.jsonl:1: answer: there is no value"),
        ({"text": "x", "answr": "y"}, "rows.jsonl:1: answer: there is no value (did you mean 'answr'?)"),
        ({"text": "x", "label": "y", "answer": "z"}, "rows.jsonl:1: label: unknown column"),
    ],
)
def test_bad_free_rows_are_named(tmp_path: Path, line: dict[str, str], expected: str) -> None:
    run = load_run(free_project(tmp_path, "own"))
    path = tmp_path / "prompts/shop/rows.jsonl"
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(UsageError) as caught:
        rows_given(run)
    assert expected in str(caught.value)


def test_the_null_run_deals_out_free_answers(tmp_path: Path) -> None:
    path = free_project(tmp_path, "own")
    answers = [[i.answers for i in load_run(path, s).suites["shop"].items] for s in ([], ["shuffle_labels=true"])]
    assert answers[0] != answers[1]
    assert sorted(answers[0]) == sorted(answers[1])


def test_digests_of_shipped_suites_are_pinned() -> None:
    run = load_run(ROOT / "runs/helpdesk.yaml")
    assert {name: run.suites[name].digest for name in ("helpdesk", "general_knowledge", "arc_challenge_short")} == {
        "helpdesk": "8e302242be9ceb0e",
        "general_knowledge": "c2cacfee3b780040",
        "arc_challenge_short": "33f5b8278ed89124",
    }


def test_a_pattern_of_modules_and_a_link_to_itself_are_named(tmp_path: Path) -> None:
    run = write_project(tmp_path, "nobody")
    with pytest.raises(UsageError, match=r"train.lora: target_modules '\(' is no regular expression"):
        load_run(run, ["train.lora={target_modules: '('}"])
    (tmp_path / "runs/loop.yaml").symlink_to("loop.yaml")
    done = harness(tmp_path, "show", "loop")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
