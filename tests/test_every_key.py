"""No key of a run file is wired to nothing: each shipped one is changed, and something must come of it."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from harness.config.inputs import guarded_suites, rows_source, scores_source, students_source
from harness.config.load import load_run
from harness.config.run import Run
from harness.core import yaml_file
from harness.errors import UsageError
from harness.train.grid import grid_cells

ROOT = Path(__file__).parent.parent


def leaves(value: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """(place, value) of everything in a document that is no mapping and no list of mappings."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, (*place, key))
    elif isinstance(value, list) and any(isinstance(part, dict) for part in value):
        for key, part in enumerate(value):
            yield from leaves(part, (*place, key))
    else:
        yield place, value


def cases() -> list[tuple[str, str, Any]]:
    """(run, key, value): every key once, whichever run writes it, list places aside."""
    seen: dict[tuple[str, ...], tuple[str, str, Any]] = {}
    for path in sorted((ROOT / "runs").glob("*.yaml")):
        for place, value in leaves(yaml_file.load(path).data):
            kind = tuple("" if isinstance(part, int) else part for part in place)
            kind = (*kind, str(value) if kind[-1] == "kind" else "")
            seen.setdefault(kind, (path.stem, ".".join(map(str, place)), value))
    return [case for case in seen.values() if case[1] != "extends"]


def other(value: Any) -> Any:
    """Another value of the same sort."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2
    if isinstance(value, str):
        return f"{value}x"
    if isinstance(value, list):
        return value[:-1] if len(value) > 1 else [*value, other(value[0])] if value else ["x"]
    return "x"


def outcome(run: Run) -> list[Any]:
    """All that the stages go by: what makes rows, students and scores, and which of them there are."""
    file = run.file
    return [
        rows_source(run), students_source(run), scores_source(run), guarded_suites(file.augment.filters, run.suites),
        [cell.name for cell in grid_cells(file.train, len(run.seeds))],
        file.eval.model_dump(mode="json", include={"suites", "prompting", "compare", "reference", "limit"}),
        file.ship.model_dump() if file.ship else None,
    ]  # fmt: skip


@cache
def attributes_read() -> set[str]:
    """Names of attributes that some module outside of the run file's own models reads."""
    names: set[str] = set()
    for path in (ROOT / "harness").rglob("*.py"):
        if path.parent.name != "config":
            names |= {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    return names


@cache
def before(name: str) -> list[Any]:
    return outcome(load_run(ROOT / f"runs/{name}.yaml"))


@pytest.mark.parametrize(("name", "key", "value"), cases(), ids=[f"{case[0]}:{case[1]}" for case in cases()])
def test_a_key_that_is_changed_changes_a_plan_a_digest_or_an_engine(name: str, key: str, value: Any) -> None:
    refused, after = "", before(name)
    try:
        after = outcome(load_run(ROOT / f"runs/{name}.yaml", [f"{key}={json.dumps(other(value))}"]))
    except UsageError as error:
        refused = str(error)
    last = key.split(".")[-1]
    if refused:
        assert last in refused or str(other(value)) in refused, "the message names the key"
    else:
        # what changes no result (memory, speed, where a model is reached, prices) must be read by what runs
        assert after != before(name) or last in attributes_read(), f"{key} is read by nothing"
