"""What the page knows of rows: kept and dropped, why, and what made each. In blocks, of which a browser unpacks one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from harness.augment.rows import Judged, Lost
from harness.records import Row, Verdict
from harness.report.page.written import conversation, cut

BLOCK = 2000  # rows of a block


def row_blocks(kept: Sequence[Row], dropped: Sequence[Judged], lost: Sequence[Lost]) -> Iterator[dict[str, Any]]:
    """All rows as columns, block by block: the kept ones, the dropped ones, then completions that gave no row."""
    lines = [*(_row("kept", row) for row in kept), *map(_dropped, dropped), *map(_lost, lost)]
    for start in range(0, len(lines), BLOCK):
        part = lines[start : start + BLOCK]
        yield {name: [line[name] for line in part] for name in part[0]}


def _line(
    state: str, name: str, label: str, text: str, answer: str, made: dict[str, Any], verdicts: Sequence[Verdict]
) -> dict[str, Any]:
    return {
        "state": state,
        "id": name,
        "label": label,
        "text": cut(text),
        "answer": cut(answer),
        "made": made,
        "verdicts": [[v.filter, int(v.keep), v.score, v.reason, cut(v.against)] for v in verdicts],
    }


def _row(state: str, row: Row, verdicts: Sequence[Verdict] = ()) -> dict[str, Any]:
    text = conversation(row.example.turns, *row.example.fields.values())
    return _line(state, row.id, row.example.label or "", text, row.answer, _made(row), verdicts)


def _dropped(judged: Judged) -> dict[str, Any]:
    why = next((verdict.filter for verdict in judged.verdicts if not verdict.keep), "dropped")
    return _row(why, judged.row, judged.verdicts)


def _lost(lost: Lost) -> dict[str, Any]:
    made = {
        "template": lost.template,
        "teacher": lost.teacher,
        "step": lost.step,
        "document": lost.document,
        "attributes": lost.attributes,
        "reason": lost.reason,
    }
    return _line(lost.lost, lost.request[:16], lost.label, lost.text, "", _said(made), ())


def _made(row: Row) -> dict[str, Any]:
    """What made a row, without what says nothing."""
    made = row.provenance
    return _said(
        {
            "source": made.source,
            "template": made.template,
            "teacher": made.teacher,
            "seeds": list(made.seeds),
            "document": made.document,
            "attributes": made.attributes,
            "steps": [[step.name, step.teacher, cut(step.text)] for step in made.steps],
            "tokens": made.completion_tokens,
        }
    )


def _said(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}
