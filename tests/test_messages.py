"""The wording of messages: whole sentences are held here, for one example of each kind of mistake.

Every other test asserts the class, the place and the value of a message.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.cli import app
from harness.errors import UsageError
from tests.project import write_project
from tests.test_refusals import edited, own_filter, own_rows

Change = Callable[[Path], object]


def section(**changes: Mapping[str, Any]) -> Change:
    """A run file with other values in its sections."""
    return lambda root: edited(root, lambda run: [run[name].update(values) for name, values in changes.items()])


def file(path: str, text: str | bytes) -> Change:
    """A file of the project with this text."""
    return lambda root: (root / path).write_bytes(text.encode() if isinstance(text, str) else text)


ENDPOINT = {"model": "t", "engine": "openai", "base_url": "http://a:secret@h/v1"}
SUITE = "items: suites/shop.jsonl\n"
ITEM = '{"text": "a", "label": "parcel"}\n'
LABELS = "allowed: parcel, invoice, account"

# what is wrong, and what is said of it; ROOT stands for the project's folder
WORDING: list[tuple[Change, str]] = [
    # keys
    (
        lambda root: edited(root, lambda run: run.update(nosuch=1)),
        "runs/shop.yaml:32: nosuch: unknown key; allowed here: random_seed, task, shuffle_labels, teacher, teachers,"
        " augment, train, eval, report, cluster, ship",
    ),
    (
        section(train={"epoch": 2}),
        "runs/shop.yaml:48: train.epoch: unknown key (did you mean 'epochs'?); allowed here: students, data, sizes,"
        " random_seeds, epochs, min_steps, steps, batch_size, micro_batch_tokens, checkpoint_seconds,"
        " learning_rate, warmup_ratio, max_length, lora, methods, report_to, validation, early_stopping",
    ),
    (
        file("prompts/shop/teacher.json", '{"a": []}'),
        "ROOT/prompts/shop/teacher.json:1: a: unknown key; allowed here: generate, steps, words, judge",
    ),
    # values
    (
        section(augment={"filters": [{"kind": "judge", "template": "prompts/shop/judge.j2", "choices": [True, "b"]}]}),
        "runs/shop.yaml:4: augment.filters.0.choices.0: expected a text, got true: in YAML yes, no, on and off need"
        " quotes to be words",
    ),
    (
        section(ship={"student": "other"}),
        "runs/shop.yaml:37: ship.student 'other' is not in train.students",
    ),
    (
        lambda root: edited(root, lambda run: run.update(teacher=ENDPOINT)),
        "runs/shop.yaml:40: teacher: base_url holds a user or a password; a key belongs into the environment variable"
        " that api_key_env names",
    ),
    (
        file("suites/shop.yaml", "kind: label\n" + SUITE),
        "ROOT/suites/shop.yaml:1: kind 'label' is unknown (did you mean 'labels'?); allowed: labels, answers,"
        " facts, unanswerable, choice, benchmark, open_ended, python",
    ),
    (
        file("suites/shop.yaml", f"kind: labels\n{SUITE}limits: {{acuracy: {{margin: 0.1}}}}\n"),
        "ROOT/suites/shop.yaml:3: limits: 'acuracy' is no metric of this suite (did you mean 'accuracy'?); its items"
        " have: accuracy, choice_accuracy, gold_probability, gold_nll, stop_rate, words",
    ),
    (
        lambda root: edited(root, lambda run: [run["train"].update(students=["nobody"]), run.update(ship=None)]),
        "runs/shop.yaml: train.students: there is no model 'nobody'; a model is a bundled name (smollm2-135m-instruct),"
        " a local folder, or a hub id (owner/name)",
    ),
    # files
    (
        lambda root: (root / "prompts/shop/list.j2").unlink(),
        "runs/shop.yaml:12: augment.templates.0.path: there is no file prompts/shop/list.j2",
    ),
    (
        file("prompts/shop/task.yaml", b"labels: caf\xe9\n"),
        "ROOT/prompts/shop/task.yaml: not UTF-8 text (byte 11): save it as UTF-8",
    ),
    (
        file("suites/shop.jsonl", "{"),
        "ROOT/suites/shop.jsonl:1: not valid JSON: Expecting property name enclosed in double quotes (column 2)",
    ),
    # rows and items
    (
        file("prompts/shop/seeds.jsonl", '{"text": "a", "label": "parcell"}\n'),
        f"ROOT/prompts/shop/seeds.jsonl:1: label: 'parcell' is not a label of the task (did you mean 'parcel'?);"
        f" {LABELS}",
    ),
    (
        file("suites/shop.jsonl", '{"text": "a", "lable": "parcel"}\n'),
        "ROOT/suites/shop.jsonl:1: label: there is no value (did you mean 'lable'?); the columns are: text, lable;"
        " name one with fields: {label: COLUMN}",
    ),
    (
        lambda root: own_rows(root, '{"text": "a", "label": "nosuch"}\n'),
        f"ROOT/own.jsonl:1: label: 'nosuch' is not a label of the task; {LABELS}",
    ),
    (lambda root: own_rows(root, "\n"), "ROOT/own.jsonl: there are no rows in it"),
    (
        lambda root: own_rows(root, '{"text": "a", "label": "parcel", "x": NaN}\n'),
        "ROOT/own.jsonl:1: x: NaN: a number must be finite; leave out what is missing",
    ),
    (
        file("suites/shop.jsonl", 2 * ITEM),
        "ROOT/suites/shop.jsonl:2: the same item stands at ROOT/suites/shop.jsonl:1",
    ),
    # code and templates
    (
        file("prompts/shop/judge.j2", "{{ nosuch }}"),
        "ROOT/prompts/shop/judge.j2:1: 'nosuch' is undefined; a template here is given: answer, description, label,"
        " labels, shots, text, turns",
    ),
    (
        lambda root: own_filter(root, "def keep("),
        "ROOT/f.py:1: not valid Python: '(' was never closed",
    ),
]


@pytest.mark.parametrize(("change", "sentence"), WORDING, ids=[sentence[:40] for _, sentence in WORDING])
def test_the_wording_of_a_mistake(
    change: Change, sentence: str, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_project(tmp_path, str(tiny_model))
    change(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        app(["augment", "shop"], standalone_mode=False)
    assert str(caught.value).replace(str(tmp_path), "ROOT") == sentence
