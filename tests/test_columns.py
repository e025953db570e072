"""Items from JSONL, CSV, Parquet and datasets: the same items whatever the file, and mistakes with their place."""

# ruff: noqa: E501  (a table of mistakes, one to a line)
from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.table_file import NO_NUMBERS
from harness.data.columns import HubItems, dataset_rows, read_items
from harness.data.examples import Shape
from harness.data.lines import AnswerLine, ChoiceLine, LabelLine
from harness.errors import MachineError, UsageError
from harness.records import Item
from harness.suites.kinds import load_suite
from harness.suites.suite import Suite

LABELS = ("parcel", "invoice")
NESTED: list[dict[str, Any]] = [
    {"q": "where is it", "category": {"name": "parcel"}, "level": 3, "passage": "p1", "more": [1, 2]},
    {"q": "what do I owe, and why", "category": {"name": "invoice"}, "level": None, "passage": "p2", "more": []},
]
FIELDS = {"text": "q", "label": "category.name", "group": "passage"}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def jsonl(root: Path, rows: list[dict[str, Any]], name: str = "items.jsonl") -> str:
    write(root / name, "".join(json.dumps(row) + "\n" for row in rows))
    return name


def flat_csv(rows: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def parquet(root: Path, rows: list[dict[str, Any]], name: str = "items.parquet") -> str:
    import pyarrow as pa
    from pyarrow import parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), root / name)
    return name


def suite(root: Path, spec: str, labels: tuple[str, ...] = ()) -> Suite:
    return load_suite(write(root / "suites/s.yaml", spec), root, Shape(labels=labels))


def test_a_mapping_reads_nested_columns_tags_and_groups(tmp_path: Path) -> None:
    expected = [
        LabelLine(text="where is it", label="parcel", group="p1", tags=("level=3", "more=1", "more=2")),
        LabelLine(text="what do I owe, and why", label="invoice", group="p2"),
    ]
    for name in (jsonl(tmp_path, NESTED), parquet(tmp_path, NESTED)):
        found = read_items(name, tmp_path, LabelLine, FIELDS, ["level", "more"], "s.yaml:1: items")
        assert [line for _, line in found] == expected
    flat = [{"q": r["q"], "category.name": r["category"]["name"], "passage": r["passage"]} for r in NESTED]
    write(tmp_path / "items.csv", flat_csv(flat))
    found = read_items("items.csv", tmp_path, LabelLine, FIELDS, [], "s.yaml:1: items")
    assert [(w.removeprefix(f"{tmp_path}/"), line.label) for w, line in found] == [
        ("items.csv:2", "parcel"),
        ("items.csv:3", "invoice"),
    ]


def test_a_dataset_gives_classes_by_name_where_text_is_wanted_and_by_index_where_a_number_is() -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["parcel", "invoice"])})
    rows = Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    named = [row["label"] for _, row in dataset_rows(rows, "owner/name/test", LabelLine, {})]
    assert named == ["invoice", "parcel"]
    numbered = list(dataset_rows(rows, "owner/name/test", ChoiceLine, {"question": "text", "answer": "label"}))
    assert [row["label"] for _, row in numbered] == [1, 0]
    assert numbered[1][0] == "owner/name/test: row 2"


def test_a_hub_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    source = HubItems(hub="nobody/nothing", revision="abc")
    with pytest.raises(MachineError, match=r"s\.yaml:3: items: .*nobody/nothing/test cannot be reached: .+"):
        read_items(source, tmp_path, LabelLine, {}, [], "s.yaml:3: items")


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(min_size=1), st.sampled_from(LABELS)), min_size=1, max_size=5))
def test_any_text_survives_csv_and_jsonl(rows: list[tuple[str, str]]) -> None:
    import tempfile

    rows = [(t, k) for t, k in rows if "\r" not in t and "\0" not in t and t.isprintable() and t not in NO_NUMBERS]
    clean = [{"text": t, "label": k} for t, k in rows]
    if not clean:
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write(root / "a.csv", flat_csv(clean))
        jsonl(root, clean, "a.jsonl")
        read = [[line for _, line in read_items(f"a.{e}", root, LabelLine, {}, [], "x")] for e in ("csv", "jsonl")]
    assert read[0] == read[1] == [LabelLine(**row) for row in clean]


MISTAKES = [
    ("items.csv", "text,label,q\nhello,parcel,1\n", {}, "items.csv:2: q: unknown column", "say which columns to read with fields: {FIELD: COLUMN}"),
    ("items.csv", "q,label\nhello,parcel\n", {"label": "label"}, "items.csv:2: text: there is no value", "the columns are: q, label"),
    ("items.csv", "q,label\nhello,parcel,1\n", {"text": "q"}, "items.csv:2: 3 cells; the header has 2", ""),
    ("items.csv", "q,q\n1,2\n", {"text": "q"}, "items.csv:1: the column 'q' stands twice", ""),
    ("items.csv", "", {"text": "q"}, "items.csv:1: there is no header", ""),
    ("items.csv", 'q,label\n"open,parcel\n', {"text": "q"}, "items.csv:2: not valid CSV", ""),
    ("items.csv", "\nq,label\n", {"text": "q"}, "items.csv:1: there is no header", ""),
    ("items.jsonl", '{"quest": "x", "label": "parcel"}\n', {"text": "question"}, "items.jsonl:1: text: there is no column 'question'", "did you mean 'quest'?"),
    ("items.jsonl", '{"q": {"txt": "x"}}\n', {"text": "q.text"}, "there is no column 'text' inside 'q'", "did you mean 'txt'?"),
    ("items.jsonl", '{"q": "x", "label": ""}\n\n{"q": "", "label": "a"}\n', {"text": "q"}, "items.jsonl:3: text (column 'q'): ''", "at least 1 character"),
    ("items.jsonl", '{"q": "x"}\n[1]\n', {"text": "q", "label": "q"}, "items.jsonl:2: each line is a JSON object", ""),
    ("items.jsonl", '{"q"\n', {"text": "q"}, "items.jsonl:1: not valid JSON", ""),
    ("items.jsonl", "{}\n", {"txt": "q"}, "s.yaml:1: items: fields: 'txt' is no field of an item (did you mean 'text'?)", "allowed: text, label, group, stratum, split"),
    ("items.parquet", "no parquet", {"text": "q"}, "items.parquet: not a Parquet file", ""),
    ("items.txt", "x", {}, "s.yaml:1: items: items.txt is of no known format", ".jsonl, .json, .csv, .tsv, .parquet"),
    ("item.csv", "q\n", {}, "there is no file items.csv (did you mean 'item.csv'?)", ""),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "fields", "first", "second"), MISTAKES, ids=lambda v: str(v)[:24])
def test_mistakes_are_named(
    tmp_path: Path, name: str, text: str, fields: dict[str, str], first: str, second: str
) -> None:
    write(tmp_path / name, text)
    source = "items.csv" if name == "item.csv" else name
    with pytest.raises(UsageError) as caught:
        read_items(source, tmp_path, LabelLine, fields, [], "s.yaml:1: items")
    assert first in str(caught.value)
    assert second in str(caught.value)


def test_a_row_of_a_parquet_file_is_named_by_number(tmp_path: Path) -> None:
    name = parquet(tmp_path, [{"q": "x", "label": "a"}, {"q": "", "label": "a"}])
    with pytest.raises(UsageError, match=r"items.parquet: row 2: text \(column 'q'\): ''"):
        read_items(name, tmp_path, LabelLine, {"text": "q"}, [], "s.yaml:1: items")


def test_a_cell_fits_its_field(tmp_path: Path) -> None:
    rows = [
        {"question": "a?", "choices": '["x", "y"]', "answer": "B"},
        {"question": "b?", "choices": '["1", "2"]', "answer": "0"},
    ]
    write(tmp_path / "items.csv", flat_csv(rows))
    found = [line for _, line in read_items("items.csv", tmp_path, ChoiceLine, {}, [], "x")]
    assert [(line.choices, line.answer) for line in found] == [(("x", "y"), 1), (("1", "2"), 0)]
    name = jsonl(tmp_path, [{"question": "n?", "answer": 12.5}, {"question": "j?", "answer": {"a": 1}}])
    both = [read_items(name, tmp_path, AnswerLine, fields, [], "x") for fields in ({}, {"answer": "answer"})]
    assert [[line.answer for _, line in lines] for lines in both] == [["12.5", '{"a": 1}']] * 2


def test_a_suite_of_any_format_has_the_same_items_and_digest(tmp_path: Path) -> None:
    rows = [{"q": f"question number {i}", "a": "yes"} for i in range(4)]
    write(tmp_path / "items.csv", flat_csv(rows))
    names = [jsonl(tmp_path, rows), "items.csv", parquet(tmp_path, rows)]
    spec = "kind: answers\nitems: {}\nfields: {{question: q, answer: a}}\n"
    loaded = [suite(tmp_path, spec.format(name)) for name in names]
    plain = jsonl(tmp_path, [{"question": r["q"], "answer": r["a"]} for r in rows], "plain.jsonl")
    loaded.append(suite(tmp_path, f"kind: answers\nitems: {plain}\n"))
    assert len({s.digest for s in loaded}) == 1
    assert loaded[0].items == tuple(Item(text=r["q"], answers=("yes",)) for r in rows)


def test_wrong_keys_of_a_hub_source_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"s.yaml:2: items.splt: unknown key \(did you mean 'split'\?\)"):
        suite(tmp_path, "kind: answers\nitems: {hub: owner/name, splt: test}\n")
    with pytest.raises(UsageError, match=r"s.yaml:2: items.hub"):
        suite(tmp_path, "kind: answers\nitems: {hub: ../secret}\n")


def test_two_equal_items_are_refused_with_both_places(tmp_path: Path) -> None:
    name = jsonl(tmp_path, [{"question": "a?", "answer": "b"}] * 2)
    with pytest.raises(UsageError, match=r"items.jsonl:2: the same item stands at .*items.jsonl:1"):
        suite(tmp_path, f"kind: answers\nitems: {name}\n")


def test_tags_and_answers_of_a_task_with_fields_are_lists_in_a_csv_file_too(tmp_path: Path) -> None:
    rows = [
        {"document": f"d{i}", "question": "q?", "answers": '["a", "b"]', "tags": "plain", "group": i} for i in range(12)
    ]
    write(tmp_path / "i.csv", flat_csv(rows))
    path = write(tmp_path / "suites/s.yaml", "kind: answers\nitems: i.csv\n")
    item = load_suite(path, tmp_path, Shape(("document", "question"))).items[3]
    assert (item.tags, item.answers, item.group) == (("plain",), ("a", "b"), "3")
    assert item.fields == {"document": "d3", "question": "q?"}
