"""What the page knows of rows: kept and dropped, why, and what made each. In blocks, of which a browser unpacks one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from harness.augment.current import MadeRows
from harness.augment.rows import Judged, Lost
from harness.records import Row, Verdict
from harness.report.page.written import conversation, cut

BLOCK = 2000  # rows of a block


def row_blocks(made: MadeRows) -> Iterator[dict[str, Any]]:
    """All rows as columns, block by block: the kept ones, the dropped ones, then completions that gave no row.

    A prompt is the places of its lines among `lines` of its block: prompts that show the same examples share them.
    """
    said = made.verdicts or ((),) * len(made.kept)
    kept = [("kept", row, verdicts) for row, verdicts in zip(made.kept, said, strict=True)]
    lines = [*(_row(*each) for each in kept), *map(_dropped, made.dropped), *map(_lost, made.lost)]
    for start in range(0, len(lines), BLOCK):
        part = lines[start : start + BLOCK]
        columns = {name: [line[name] for line in part] for name in part[0]}
        places: dict[str, int] = {}
        requests = columns.pop("request")
        columns["prompt"] = [_places(made.prompts.get(request, ""), places) for request in requests]
        yield {"columns": columns, "lines": list(places)}


def _places(prompt: str, places: dict[str, int]) -> list[int]:
    """Where the lines of a prompt stand among all lines. New ones are added."""
    return [places.setdefault(line, len(places)) for line in cut(prompt).split("\n")] if prompt else []


def _line(
    state: str,
    name: str,
    request: str,
    label: str,
    text: str,
    answer: str,
    made: dict[str, Any],
    verdicts: Sequence[Verdict],
) -> dict[str, Any]:
    return {
        "state": state,
        "id": name,
        "request": request,
        "label": label,
        "text": cut(text),
        "answer": cut(answer),
        "made": made,
        "verdicts": [[v.filter, int(v.keep), v.score, v.reason, cut(v.against)] for v in verdicts],
    }


def _row(state: str, row: Row, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    text = conversation(row.example.turns, *row.example.fields.values())
    request = row.provenance.request
    return _line(state, row.id, request, row.example.label or "", text, row.answer, _made(row), verdicts)


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
    return _line(lost.lost, lost.request[:16], lost.request, lost.label, lost.text, "", _said(made), ())


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
