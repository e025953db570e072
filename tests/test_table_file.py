"""Rows from JSON lines, CSV and Parquet: nothing is lost in silence, and all bad lines are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.core.table_file import jsonl_rows, read_rows
from harness.data.examples import Shape
from harness.errors import Mistakes, UsageError
from harness.suites.kinds import load_suite


def rows(path: Path) -> list[dict[str, Any]]:
    mistakes = Mistakes()
    found = [row for _, row in read_rows(path, mistakes)]
    mistakes.check()
    return found


def items(root: Path, name: str) -> list[tuple[str, ...]]:
    """The answers of a suite over a file."""
    (root / "s.yaml").write_text(f"kind: answers\nitems: {name}\nasked: plain\n")
    return [item.answers for item in load_suite(root / "s.yaml", root, Shape()).items]


def parquet(root: Path, columns: dict[str, Any], names: list[str] | None = None) -> str:
    import pyarrow as pa
    from pyarrow import parquet as pq

    arrays = [pa.array(column) for column in columns.values()]
    pq.write_table(pa.Table.from_arrays(arrays, names=names or list(columns)), root / "t.parquet")
    return "t.parquet"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_none_is_named_by_its_row(tmp_path: Path, number: float) -> None:
    name = parquet(tmp_path, {"question": ["a?", "b?"], "answer": [1.0, number], "unused": [number, number]})
    with pytest.raises(UsageError, match=r"t.parquet: row 2: answer: -?(NaN|Infinity)"):
        items(tmp_path, name)
    (tmp_path / "t.csv").write_text(f"question,answer\na?,1\nb?,{number}\n")
    with pytest.raises(UsageError, match=r"t.csv:3: answer: -?(NaN|Infinity)"):
        items(tmp_path, "t.csv")


def test_a_column_twice_is_refused(tmp_path: Path) -> None:
    name = parquet(tmp_path, {"q": ["a?"], "a": ["x"], "b": ["y"]}, ["question", "answer", "answer"])
    with pytest.raises(UsageError, match=r"t.parquet: the column 'answer' stands twice"):
        items(tmp_path, name)
    (tmp_path / "t.csv").write_text("question,answer,answer\na?,x,y\n")
    with pytest.raises(UsageError, match=r"t.csv:1: the column 'answer' stands twice"):
        items(tmp_path, "t.csv")


@pytest.mark.parametrize(("number", "unit"), [(2**50, "s"), (-(2**62), "us"), (1, "s, tz=Mars/Crater")])
def test_a_time_that_python_cannot_hold_is_refused_with_its_file(tmp_path: Path, number: int, unit: str) -> None:
    import pyarrow as pa
    from pyarrow import parquet as pq

    kind = pa.timestamp(*unit.replace("tz=", "").split(", "))
    pq.write_table(pa.table({"when": pa.array([number], pa.int64()).cast(kind)}), tmp_path / "t.parquet")
    with pytest.raises(UsageError, match=r"t\.parquet: .*: \S"):
        list(read_rows(tmp_path / "t.parquet", Mistakes()))


def test_a_nested_column_twice_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet as pq

    inner = pa.StructArray.from_arrays([pa.array(["x"]), pa.array(["y"])], ["name", "name"])
    pq.write_table(pa.table({"who": inner}), tmp_path / "t.parquet")
    with pytest.raises(UsageError, match=r"t\.parquet: .*'who\.name'"):
        rows(tmp_path / "t.parquet")


def test_a_byte_order_mark_and_odd_line_ends_are_no_data(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes('\ufeffquestion,answer\r\na?,"x\u2028y\x85z\nw"\r\nb?,c\x0bd\r\n'.encode())
    assert rows(path) == [
        {"question": "a?", "answer": "x\u2028y\x85z\nw"},
        {"question": "b?", "answer": "c\x0bd"},
    ]
    path.write_bytes("question,answer\na?,é\n".encode("latin-1"))
    with pytest.raises(UsageError, match=r"t.csv: not UTF-8 text \(byte 19\)"):
        rows(path)


def test_every_bad_line_is_told(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("question,answer\na?\nb?,c\nd?,e,f\ng?\n")
    with pytest.raises(UsageError) as caught:
        rows(path)
    assert str(caught.value).splitlines() == [
        f"{path}:2: 1 cells; the header has 2 (also at 5)",
        f"{path}:4: 3 cells; the header has 2",
    ]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(f'{{"a": {{"b{i}": 1, "b{i}": 2}}}}\n{{}}\n' for i in range(25)))
    with pytest.raises(UsageError) as caught:
        jsonl_rows(path)
    said = str(caught.value).splitlines()
    assert said[:2] == [f"{path}:{i}: the name 'b{i // 2}' stands twice in one object" for i in (1, 3)]
    assert (len(said), said[-1]) == (21, "and 5 more")


@pytest.mark.parametrize(("mark", "name"), [(",", "t.csv"), (";", "t.csv"), ("\t", "t.csv"), ("\t", "t.tsv")])
def test_cells_are_told_apart_by_the_mark_of_the_header(tmp_path: Path, mark: str, name: str) -> None:
    path = tmp_path / name
    path.write_text(f'question{mark}answer\n"a{mark}b, c;d\n?"{mark}1,5\n'.replace("1,5", '"1,5"'))
    assert rows(path) == [{"question": f"a{mark}b, c;d\n?", "answer": "1,5"}]
