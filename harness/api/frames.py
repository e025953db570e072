"""What a run has stored as pandas frames and a dataset: rows, scorecards, single answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from harness.augment.current import dropped_rows, kept_rows
from harness.config.run import Run
from harness.core.table_file import INSTALL
from harness.errors import UsageError
from harness.eval.results import Results
from harness.records import Row, Scorecard

if TYPE_CHECKING:
    from datasets import Dataset
    from pandas import DataFrame

ABOUT = ("suite", "student", "prompting", "data", "size", "random_seed", "method")  # of a candidate, in both frames
ROW = ("row_id", "row_source", "row_template", "row_teacher")  # beside the task's own fields


def frame(lines: list[dict[str, Any]], columns: list[str]) -> DataFrame:
    """Lines as a frame. `columns` stand first, also without a line. Raises UsageError where pandas is missing."""
    try:
        from pandas import DataFrame
    except ImportError as error:
        raise UsageError(f"pandas is not installed: {INSTALL}") from error
    return DataFrame(lines, columns=list(dict.fromkeys([*columns, *(name for line in lines for name in line)])))


def rows_frame(run: Run) -> DataFrame:
    """The kept rows: the task's fields, the answer, and where each came from. Raises as `kept_rows`."""
    answer = run.task.shape.answer_name
    columns = [*run.task.fields, answer, *ROW]
    return frame([_row(row, answer) for row in kept_rows(run)], columns)


def dropped_frame(run: Run) -> DataFrame:
    """The rows that filters dropped, with the first filter that did and its reason. Raises as `dropped_rows`."""
    answer = run.task.shape.answer_name
    lines = []
    for judged in dropped_rows(run):
        first = next(verdict for verdict in judged.verdicts if not verdict.keep)
        lines.append({**_row(judged.row, answer), "dropped_by": first.filter, "dropped_why": first.reason})
    return frame(lines, [*run.task.fields, answer, *ROW, "dropped_by", "dropped_why"])


def messages_dataset(run: Run) -> Dataset:
    """The kept rows as students read them: one column, `messages`. Raises as `kept_rows`, and without datasets."""
    try:
        from datasets import Dataset
    except ImportError as error:
        raise UsageError(f"datasets is not installed: {INSTALL}") from error
    rows = kept_rows(run)
    return Dataset.from_list(
        [{"messages": [{"role": m.role, "content": m.content} for m in row.messages]} for row in rows]
    )


def scores_frame(results: Results) -> DataFrame:
    """One line for each metric of each scorecard: a candidate on a suite, over its test items."""
    lines: list[dict[str, Any]] = []
    for card in results.cards:
        test_items = sum(score.split == "test" for score in results.scores(card))
        counts = {"test_items": test_items, "failed": card.failed}
        lines += [{**_about(card), "metric": name, "value": value, **counts} for name, value in card.metrics.items()]
    return frame(lines, [*ABOUT, "metric", "value", "test_items", "failed"])


def answers_frame(run: Run, results: Results) -> DataFrame:
    """One line for each item that a candidate was asked, with every metric in a column of its own."""
    columns = [*ABOUT, "item", "split", "question", "gold", "output", "status"]
    return frame(list(_answers(run, results)), columns)


def _answers(run: Run, results: Results) -> Iterator[dict[str, Any]]:
    texts = {name: {item.id: item.text for item in suite.items} for name, suite in run.suites.items()}
    for card in results.cards:
        for score in results.scores(card):
            yield {
                **_about(card),
                "item": score.item,
                "split": score.split,
                "question": texts.get(card.suite, {}).get(score.item, ""),  # a public benchmark's are not at hand
                "gold": score.gold,
                "output": score.output,
                "status": score.status,
                **score.values,
            }


def _about(card: Scorecard) -> dict[str, Any]:
    cell = card.cell
    parts = (cell.data, cell.size, cell.random_seed, cell.method) if cell else ("", 0, 0, "")
    return dict(zip(ABOUT, (card.suite, card.student, card.prompting, *parts), strict=True))


def _row(row: Row, answer: str) -> dict[str, Any]:
    made = row.provenance
    return {
        **row.example.fields,
        answer: row.answer,
        **dict(zip(ROW, (row.id, made.source, made.template, made.teacher), strict=True)),
    }
