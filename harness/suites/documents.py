"""Whether what a facts suite asks for stands in the documents that it names."""

from __future__ import annotations

from pathlib import Path

from harness.core.table_file import jsonl_rows
from harness.data.columns import texts_in
from harness.metrics.answers import searched, sought
from harness.suites.files import FactsSuite, Suite


def facts_in_documents(suite: Suite, root: Path) -> list[str]:
    """The items of a facts suite whose answer stands in no document, each named; empty when all do.

    A document is a line of the JSONL file that `documents` names: every text in it, however nested, counts.
    Raises UsageError for a file that cannot be read; other kinds of suite name no documents and give none.
    """
    if not isinstance(suite.spec, FactsSuite):
        return []
    lines = [texts_in(row) for _, row in jsonl_rows(root / suite.spec.documents)]
    documents = [searched(text) for texts in lines for text in texts]
    return [
        f"{item.text!r}: {' or '.join(map(repr, item.answers))} stands in no line of {suite.spec.documents}"
        for item in suite.items
        if not any(
            f" {' '.join(words)} " in said
            for gold in item.answers
            for text in documents
            for words, said in zip(sought(gold), text, strict=True)
        )
    ]
