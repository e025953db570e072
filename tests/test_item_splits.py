"""Dev and test items: by digest, or as the items' own file says, for each kind of suite that reads items."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.data.examples import Shape
from harness.errors import UsageError
from harness.suites.kinds import load_suite
from harness.suites.suite import Suite

PYTHON = (
    "import json\ndef items(): return [json.loads(line) for line in open('items.jsonl')]\ndef score(i, a): return 1\n"
)
KINDS: dict[str, tuple[dict[str, Any], Shape, dict[str, Any]]] = {  # kind -> its file, the task's shape, a line
    "labels": ({"kind": "labels"}, Shape(labels=("a", "b")), {"text": "?", "label": "a"}),
    "fields": ({"kind": "answers"}, Shape(fields=("text", "input")), {"text": "?", "input": "x", "answer": "a"}),
    "answers": ({"kind": "answers"}, Shape(), {"question": "?", "answer": "a"}),
    "choice": ({"kind": "choice"}, Shape(), {"question": "?", "choices": ["a", "b"], "answer": 0}),
    "unanswerable": ({"kind": "unanswerable"}, Shape(), {"question": "?"}),
    "python": ({"kind": "python", "file": "own.py"}, Shape(), {"text": "?", "answers": ["a"]}),
}


def suite_of(root: Path, kind: str, splits: Sequence[str | None]) -> Suite:
    spec, shape, line = KINDS[kind]
    asked = next(key for key in ("text", "question") if key in line)
    stated = [{} if split is None else {"split": split} for split in splits]
    lines = [line | {asked: f"Which letter is number {n}?"} | split for n, split in enumerate(stated)]
    (root / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (root / "own.py").write_text(PYTHON.replace("items.jsonl", str(root / "items.jsonl")))
    file = root / "own.yaml"
    file.write_text(yaml.safe_dump(spec if kind == "python" else {"items": "items.jsonl", **spec}))
    return load_suite(file, root, shape)


@pytest.mark.parametrize("kind", KINDS)
def test_a_line_says_its_split_and_the_others_go_by_digest(tmp_path: Path, kind: str) -> None:
    by_digest = suite_of(tmp_path, kind, [None] * 12)
    stated = suite_of(tmp_path, kind, ["dev", "test"] * 3 + [None] * 6)
    assert [item.split for item in stated.items][:6] == ["dev", "test"] * 3
    assert [item.split for item in stated.items][6:] == [item.split for item in by_digest.items][6:]
    assert [item.id for item in stated.items] == [item.id for item in by_digest.items], "an item is what is asked"
    assert stated.digest != by_digest.digest, "its metrics are of other items"


@pytest.mark.parametrize("kind", KINDS)
def test_no_other_split_is_read(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UsageError, match=r"(?s)(items\.jsonl:2|item 2).*split.*(dev|test)"):
        suite_of(tmp_path, kind, ["dev", "train", "test"])


@pytest.mark.parametrize("kind", ["labels", "fields", "answers", "python"])
def test_what_a_student_is_tuned_for_needs_items_of_both_splits(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UsageError, match="all 4 items are test items"):
        suite_of(tmp_path, kind, ["test"] * 4)
    assert {item.split for item in suite_of(tmp_path, kind, ["test"] * 3 + ["dev"]).items} == {"dev", "test"}
