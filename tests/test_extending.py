"""The guide's filter and suite of one's own, run as it prints them; and a filter of the package added from outside."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import pytest
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from harness.core.record import Record
from harness.filters import AnyFilter, Context, Filter, PythonFilter, Rule
from harness.filters.base import Needs, each_row
from harness.records import Row, Verdict
from harness.suites.free_text import plain_prompt
from harness.suites.generate import Ending
from harness.suites.kinds import load_suite
from harness.suites.oracle import Gold, Oracle, read
from harness.suites.suite import Resources
from tests.project import context, row, verdicts_of

ROOT = Path(__file__).parent.parent
SECTION = (
    (ROOT / "docs/suites.md").read_text().split("## Your own filter, metric, suite or engine\n")[1].split("\n## ")[0]
)
BLOCKS: list[str] = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)


def printed(block: str, root: Path) -> dict[str, Any]:
    """Write a block's file where its first line says, and return the YAML of that line."""
    spec: dict[str, Any] = yaml.safe_load(block.splitlines()[0].partition(": ")[2])
    (root / spec["file"]).parent.mkdir(exist_ok=True)
    (root / spec["file"]).write_text(block)
    return spec


def test_the_filter_drops_what_shouts(tmp_path: Path) -> None:
    rule = PythonFilter.model_validate(printed(BLOCKS[0], tmp_path))
    verdicts = verdicts_of(rule, [row("MY BIKE IS GONE"), row("My bike is gone")], context(tmp_path))
    assert [(v.keep, v.reason) for v in verdicts] == [(False, "more than half of it is capitals"), (True, "")]


def test_the_suite_has_its_item_and_its_metric(tmp_path: Path) -> None:
    path = tmp_path / "suites/rhymes.yaml"
    spec = printed(BLOCKS[1], tmp_path)
    path.write_text(yaml.safe_dump(spec))
    suite = load_suite(path, tmp_path, None)
    values = []
    for answer in ("Mouse", "horse"):
        student = Oracle({read(plain_prompt(item)): Gold(answer, item.answers) for item in suite.items})
        outcome = suite.spec.score(suite.items, plain_prompt, Ending(), student, "m", Resources(root=tmp_path))
        values.append(outcome.scores[0].values["rhymes"])
    assert values == [1.0, 0.0]


class Starts(Record):
    """Keeps rows that begin with a letter."""

    needs: ClassVar = Needs()

    kind: Literal["starts"] = "starts"
    letter: str

    def prepare(self, context: Context) -> Rule:
        return each_row(lambda r: Verdict(row=r.id, filter=self.kind, keep=r.text.startswith(self.letter)))


def test_a_filter_of_the_package_is_one_record(tmp_path: Path) -> None:
    rule: Filter = Starts(letter="m")
    rows: Sequence[Row] = [row("my bike"), row("the bike")]
    assert [verdict.keep for verdict in verdicts_of(rule, rows, context(tmp_path))] == [True, False]


KINDS: tuple[type[BaseModel], ...] = get_args(get_args(AnyFilter)[0])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_readme_has_a_line_for_every_filter_with_the_defaults_it_has(kind: type[BaseModel]) -> None:
    name = kind.model_fields["kind"].default
    table = (ROOT / "docs/rows.md").read_text().split("| `kind:` | drops | settings |\n")[1].split("\n\n")[0]
    lines = re.findall(rf"^\| `{name}` \| .+ \|(.*)\|$", table, re.MULTILINE)
    assert len(lines) == 1
    for setting, value in re.findall(r"`([a-z_]+)(?:: ([^`]+))?`", lines[0]):
        assert setting in kind.model_fields
        default = kind.model_fields[setting].default
        if value and not value.startswith("[") and default not in (None, "", PydanticUndefined):  # else an example
            assert yaml.safe_load(value) == default
