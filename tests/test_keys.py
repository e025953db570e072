"""Golden keys: what is stored under a key is lost when the key changes, so none may change by itself.

A test here that fails after a field was added says that the field must be left out while it is at its default (see
records.FIRST_FIELDS). One that fails after a meaning has changed is to be pinned anew, with a new stage version.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, create_model

from harness.config.inputs import guarded_suites, rows_source, scores_source, students_source, suite_source
from harness.config.load import load_run
from harness.config.methods import Lora
from harness.config.run import EarlyStopping, Run, Train, Validation
from harness.core.record import FIRST_FIELDS, FIRST_NAMES, FORMAT, Record, compact, digest, digested
from harness.eval.candidates import Candidate
from harness.eval.plan import base_of, card_key
from harness.eval.prompting import Shots, prompt_forms
from harness.metrics.answers import NumberAnswer, TextAnswer
from harness.metrics.json_answers import JsonAnswer
from harness.metrics.moderation import PythonModeration
from harness.models.resolve import Model
from harness.records import Cell, Item, Message, Origin, Provenance, Request, Row, Sampling, Score, scores_digest
from harness.suites.answers import AnswersSuite
from harness.suites.benchmark import BenchmarkSuite
from harness.suites.choice import ChoiceSuite
from harness.suites.facts import FactsSuite
from harness.suites.kinds import AnySuite
from harness.suites.labels import LabelsSuite
from harness.suites.open_ended import OpenEndedSuite
from harness.suites.rubric import Rubric
from harness.suites.suite import CardInputs, Suite
from harness.suites.unanswerable import UnanswerableSuite
from harness.train.keys import base_key, cell_key
from tests.project import labelled

ORIGIN = Origin(purpose="generate")
EVERY_WAY = Sampling(
    temperature=0.5, top_p=0.9, max_tokens=3, stop=("\n",), choices=("a", "b"),
    json_schema={"type": "object", "x": [1, 2.5]}, logprobs=3,
)  # fmt: skip
CHAT = (Message(role="user", content="hé"),)
ROW = Row(
    messages=(Message(role="user", content="q"), Message(role="assistant", content="a")), example=labelled("q", "a"),
    provenance=Provenance(source="own"),
)  # fmt: skip
ITEM = Item(text="q", choices=("a", "b"), gold=1)
WORDED = Item(text="q", answers=("a",), variants=("w",))
MODEL = Model("m", Path("x"), "r", "w")
TRAIN = Train(students=("s",), sizes=(1,))


@pytest.mark.parametrize(
    ("request_", "key"),
    [
        (Request(model="m@1", prompt="p", sampling=Sampling(), origin=ORIGIN), "00e686996f972d454d2837fcbd7988aa"),
        (
            Request(model="m@1", messages=CHAT, sampling=EVERY_WAY, template_digest="t", sample_index=4, origin=ORIGIN),
            "8734f90e4f6ebe766bd8dcbc250e9ace",
        ),
    ],
)
def test_calls(request_: Request, key: str) -> None:
    assert request_.key[:32] == key


def test_cells() -> None:
    lora = Lora(r=2, lora_dropout=0.1, target_modules=("q_proj",))
    changes: list[dict[str, Any]] = [
        {}, {"lora": lora}, {"batch_size": 4, "warmup_ratio": 0.2, "max_length": 99, "min_steps": 7},
    ]  # fmt: skip
    settings = [TRAIN.model_copy(update=change) for change in changes]
    keys = [cell_key(MODEL, (ROW,), one, 3, 0, one.by_method[""], 1e-3) for one in settings]
    assert [key[:32] for key in (*keys, base_key(MODEL))] == [
        "bfddb59be10a3168db67e72a43721111",
        "932b05ea7c1d7bac7e43deb4b8791275",
        "8ff118393537c4bba881c4bd5a372678",
        "04c61e061ebbb740fcd424830e5939f8",
    ]
    watched = TRAIN.model_copy(update={"validation": Validation(every=4)})
    stopping = watched.model_copy(update={"early_stopping": EarlyStopping(patience=2)})
    validated = [cell_key(MODEL, (ROW,), one, 3, 0, one.by_method[""], 1e-3, "items") for one in (watched, stopping)]
    assert [key[:32] for key in validated] == [keys[0][:32], "ca08653cd8884f801204386a817f660e"]


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        (["train.validation={every: 1}"], True),
        (["train.validation={every: 1}", "train.early_stopping={patience: 1}"], False),
    ],
)
def test_a_validation_says_nothing_of_the_students_unless_cells_stop_by_it(
    run: Run, settings: list[str], same: bool
) -> None:
    assert (students_source(load_run(run.root / "runs/r.yaml", settings)) == students_source(run)) == same


ITEMS = {"items": "i"}
SUITES: list[tuple[AnySuite, str]] = [
    (LabelsSuite(kind="labels", **ITEMS), "7090cb87be7d0af5"),
    (AnswersSuite(kind="answers", **ITEMS), "ebab8231973cea8d"),
    (AnswersSuite(kind="answers", answer=NumberAnswer(kind="number", tolerance=0.5), **ITEMS), "af0112ed57cce71b"),
    (
        AnswersSuite(kind="answers", answer=JsonAnswer(kind="json", json_schema={"type": "object"}), **ITEMS),
        "dfe1d69753b6f08d",
    ),
    (AnswersSuite(kind="answers", answer=Rubric(kind="rubric", rubric="kind"), **ITEMS), "5331e62c2d619f91"),
    (FactsSuite(kind="facts", documents="d", **ITEMS), "4dd4ca355dc3a83c"),
    (UnanswerableSuite(kind="unanswerable", **ITEMS), "a5d05bc957724606"),
    (ChoiceSuite(kind="choice", **ITEMS), "10e1f4955f96e426"),
    (BenchmarkSuite(kind="benchmark", benchmark="arc"), "c362ffec14922307"),
    (OpenEndedSuite(kind="open_ended", moderation=PythonModeration(file="f"), **ITEMS), "174f34a93e231472"),
    (OpenEndedSuite(kind="open_ended", moderation="w", canaries="c", **ITEMS), "3b219f5653206ec2"),
]


@pytest.mark.parametrize(("spec", "pinned"), SUITES)
def test_suites(spec: AnySuite, pinned: str) -> None:
    assert Suite("n", spec, (ITEM, WORDED)).digest == pinned


def test_what_has_an_id() -> None:
    score = Score(item="i", split="test", status="scored", values={"accuracy": 1.0})
    assert (ITEM.id, WORDED.id, ROW.id, labelled("a", "b").id, scores_digest([score])) == (
        "230e2e7e5295421c", "c7de9ad8d3b5c274", "1f8a08919c2b8e84", "0f7de82abbe474c2", "8653eaf4eec17864",
    )  # fmt: skip


RUN = """
task: prompts/task.yaml
teacher: {model: script, engine: scripted, script: prompts/script.json}
augment:
  seeds: prompts/seeds.jsonl
  rows: 12
  templates: [{path: prompts/t.j2, sampling: {max_tokens: 8}}]
  filters: [{kind: finished}, {kind: contamination}, {kind: judge, template: prompts/t.j2}]
train: {students: [tiny], sizes: [0, 4]}
eval: {suites: [s]}
"""
TASK = """
labels: {b: second, a: first}
system: Sort.
prompt: prompts/p.j2
untuned_prompt: prompts/p.j2
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A project of this file alone, so that no other test's needs change what is pinned here."""
    lines = "".join(f'{{"text": "text {i}", "label": "{"ab"[i % 2]}"}}\n' for i in range(12))
    for name, text in {
        "runs/r.yaml": RUN,
        "prompts/task.yaml": TASK,
        "prompts/script.json": "{}",
        "prompts/seeds.jsonl": lines,
        "prompts/t.j2": "{{ label }}",
        "prompts/p.j2": "{{ text }}",
        "suites/s.yaml": "kind: labels\nitems: suites/s.jsonl\n",
        "suites/s.jsonl": lines,
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return load_run(tmp_path / "runs/r.yaml")


def test_what_a_person_wrote(run: Run) -> None:
    sources = (rows_source(run), students_source(run), scores_source(run), suite_source(run.suites["s"], run.root))
    assert [found[:16] for found in (*sources, guarded_suites(run.file.augment.filters, run.suites)["s"])] == [
        "873062b3c1bf14b4", "0cd1fd35ca63fc47", "04a5aafec3d198ff", "d28b308aff752058", "1c256ddf44dc6dd6",
    ]  # fmt: skip


RENAMED = [  # settings of fields that had another name when these digests were first taken
    (
        [
            "augment.requests_per_row=2", "augment.max_requests_per_row=9", "train.batch_size=4",
            "train.warmup_ratio=0.2", "train.max_length=99", "train.min_steps=7",
        ],
        ("9a8fce3f937fd164", "9a339bbb1bd0d503"),
    ),
    (
        ["augment.rows_file=prompts/seeds.jsonl", "augment.templates=[]", "augment.filters=[]"],
        ("2070c795d02b6c02", "42160b659ecc0caa"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "pinned"), RENAMED)
def test_a_new_name_in_a_file_changes_no_digest(run: Run, settings: list[str], pinned: tuple[str, str]) -> None:
    named = load_run(run.root / "runs/r.yaml", settings)
    assert (rows_source(named)[:16], students_source(named)[:16]) == pinned


TEACHERS = [
    ("{model: m, engine: openai, base_url: 'http://127.0.0.1:1/v1', revision: r}", "1f4998471104c9a1"),
    ("{model: m, revision: v}", "36eb984e707abb34"),
    ("{model: m, revision: v, max_model_len: 99, gpu_memory_utilization: 0.5, concurrency: 3}", "36eb984e707abb34"),
    ("{model: m, engine: transformers, prompt_price: 2}", "02245aaa05df7a99"),
]


@pytest.mark.parametrize(("teacher", "pinned"), TEACHERS)
def test_how_a_teacher_is_reached_changes_no_digest(run: Run, teacher: str, pinned: str) -> None:
    assert rows_source(load_run(run.root / "runs/r.yaml", [f"teacher={teacher}"]))[:16] == pinned


def test_every_name_that_a_digest_knows_is_of_a_field() -> None:
    used = {setting.split("=")[0] for settings, _ in RENAMED for setting in settings}
    assert {f"{model.lower()}.{new}" for model in ("Augment", "Train") for new in FIRST_NAMES[model]} <= used


def test_cards(run: Run) -> None:
    cell = Cell(student="tiny", data="filtered", size=4, random_seed=0)
    tuned = Candidate(cell, "key", Path("base"), Path("adapter"), "zero_shot", tuned=True)
    untuned = [replace(tuned, adapter=None, tuned=False, prompting=way) for way in ("zero_shot", "few_shot")]
    candidates = (tuned, *untuned)
    prompts, shots = prompt_forms(run.task, run.prompts), Shots(run.seeds, len(run.seeds), (), run.file.eval.retrieved)

    def key(candidate: Candidate) -> str:
        scored = base_of(candidates, candidate) is not None
        inputs = CardInputs(
            root=run.root, labels=("b", "a"), base_is_scored=scored, searched_rows=(), benchmark_rows=()
        )
        return card_key(candidate, run.suites["s"], prompts, shots, inputs, run.file.teacher)

    assert [key(candidate)[:16] for candidate in candidates] == [
        "1536ef2434e748a5", "2cbf815780a0606e", "650526191e8d31a8",
    ]  # fmt: skip


DIGESTED: dict[str, BaseModel] = {
    type(found).__name__: found
    for found in (
        CHAT[0], EVERY_WAY, Request(model="m", prompt="p", sampling=Sampling(), origin=ORIGIN), Lora(),
        *(spec for spec, _ in SUITES), TextAnswer(), NumberAnswer(kind="number"),
        JsonAnswer(kind="json", json_schema={}), Rubric(kind="rubric", rubric="r"), PythonModeration(file="f"),
    )
}  # fmt: skip


def test_every_pinned_field_is_there() -> None:
    assert set(DIGESTED) == set(FIRST_FIELDS)
    for name, found in DIGESTED.items():
        assert set(FIRST_FIELDS[name].split()) <= set(type(found).model_fields), "renamed, which changes keys"


@pytest.mark.parametrize("name", FIRST_FIELDS)
def test_a_field_more_changes_no_key_until_it_is_used(name: str) -> None:
    old = DIGESTED[name]
    more: Any = {"invented": (str, "as before")}
    grown = create_model(name, __base__=type(old), **more)
    values = {field: getattr(old, field) for field in type(old).model_fields}
    assert digest(digested(grown(**values))) == digest(digested(old))
    assert digest(digested(grown(**values, invented="another way"))) != digest(digested(old))


def test_a_kind_of_record_that_is_new_says_its_kind(tmp_path: Path) -> None:
    class New(Record):
        kind: str = "new"
        size: int = 1

    assert digested(New()) == {"kind": "new"}


def test_a_copy_with_other_values_has_a_key_of_its_own() -> None:
    request = Request(model="m@1", prompt="p", sampling=Sampling(), origin=ORIGIN)
    named = {request.key, ROW.id, ROW.example.id}
    again = request.model_copy(update={"sample_index": 1})
    row = ROW.model_copy(update={"messages": CHAT})
    example = ROW.example.model_copy(update={"answer": "b"})
    assert named.isdisjoint({again.key, row.id, example.id})
    assert again == Request(model="m@1", prompt="p", sampling=Sampling(), origin=ORIGIN, sample_index=1)
    assert again.key == again.model_copy(deep=True).key == Request(**dict(again)).key


SAMPLINGS = st.builds(
    Sampling,
    temperature=st.floats(0, 5),
    max_tokens=st.integers(1, 9),
    stop=st.lists(st.text(max_size=3), max_size=2).map(tuple),
    json_schema=st.none() | st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), max_size=2),
)
MESSAGES = st.lists(st.builds(Message, role=st.sampled_from(["system", "user", "assistant"]), content=st.text()))


@given(st.text(), MESSAGES, SAMPLINGS, st.text(), st.integers(0, 10**9))
def test_a_calls_key_is_the_digest_of_all_that_is_asked(
    prompt: str, messages: list[Message], sampling: Sampling, digest_of_template: str, number: int
) -> None:
    """Its JSON is put together from parts, since every call of a run is named."""
    form: dict[str, Any] = {"messages": tuple(messages)} if messages else {"prompt": prompt or "p"}
    asked = Request(
        model=prompt, **form, sampling=sampling, template_digest=digest_of_template, sample_index=number, origin=ORIGIN
    )
    assert asked.key == digest("request", FORMAT, digested(asked, {"origin"}))


def test_a_compact_record_is_as_it_was() -> None:
    before = Row(**dict(ROW))
    compacted = compact(Row(**dict(ROW)))
    assert compacted == before
    assert compacted.model_dump() == before.model_dump()
    changed = compacted.model_copy(update={"loss": "all"})
    assert (changed.loss, compacted.loss) == ("all", "last")
    assert changed.id != compacted.id == before.id
