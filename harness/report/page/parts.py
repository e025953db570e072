"""From a run's results and stored rows to the parts of its page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.augment.current import made_rows
from harness.config.run import Run
from harness.core.store import read_manifest
from harness.errors import UsageError
from harness.eval.results import Results
from harness.report import sections
from harness.report.analysis import Arm
from harness.report.findings import Findings
from harness.report.headline import Headline
from harness.report.page import figures
from harness.report.page.items import suite_items
from harness.report.page.page import PageParts
from harness.report.page.rows import row_blocks
from harness.report.page.samples import Sample
from harness.report.student_view import StudentView


def page_parts(run: Run, found: Findings, samples: Sequence[Sample], tables: str) -> PageParts:
    """All that the page holds. Rows that are no longer those of the run are left out, and the page says why.

    `samples`: rows as students read them. `tables`: the report's other sections, as Markdown.
    """
    rows: list[dict[str, Any]] = []
    rows_note = ""
    if found.funnel:
        try:
            rows = list(row_blocks(made_rows(run)))
        except UsageError as error:
            rows_note = f"The rows are not shown: {error}"
    compared = {view.suite.name: _compared(view) for view in reversed(found.views)}  # the first student's stay
    suites = (suite_items(found.results, suite, compared.get(name, ())) for name, suite in run.suites.items())
    return PageParts(
        run=run.name,
        warnings=found.warnings,
        remarks=found.remarks,
        answers=found.answers,
        curves=[view.curve for view in found.views if view.curve],
        students=figures.students(found.students, {suite.name: suite.primary for suite in found.task_suites}),
        forgetting=sections.forgetting(found.changes, run.file.train),
        suites=[suite for suite in suites if suite],
        funnel=found.funnel,
        rows=rows,
        sources={"templates": dict(_templates(run)), "seeds": {s.id: f"{s.text}\n-> {s.answer}" for s in run.seeds}},
        rows_note=rows_note,
        samples=samples,
        tables=tables,
        environment=list(_environment(run.folder, found.results)),
    )


def _compared(view: StudentView) -> tuple[Arm, ...]:
    """The strongest alternative and the largest size, where the headline compares them."""
    if not isinstance(view.headline, Headline):
        return ()
    return view.headline.rival.reading.arm, view.headline.reading.arm


def _templates(run: Run) -> Iterator[tuple[str, str]]:
    """(Path as the run file writes it, text) of every template that a teacher is asked by."""
    for _, step in run.file.augment.asked_in():
        path = run.root / step.path
        if path.is_file():
            yield step.path, path.read_text(encoding="utf-8", errors="replace")


def _environment(run_folder: Path, results: Results) -> Iterator[tuple[str, str]]:
    """Where each stage ran, and the digests of what it made."""
    for stage in ("augment", "train", "eval"):
        manifest = results.manifest if stage == "eval" else read_manifest(run_folder / stage)
        if manifest is None:
            continue
        made: Mapping[str, Any] = manifest.environment
        packages = ", ".join(f"{name} {version}" for name, version in made.get("packages", {}).items())
        dirty = " with uncommitted changes" if made.get("dirty") else ""
        commit = f"commit {made['commit'][:12]}{dirty}" if "commit" in made else ""
        parts = (made.get("machine", ""), f"Python {made['python']}" if "python" in made else "", packages, commit)
        yield stage, "; ".join(filter(None, parts)) or "not recorded"
    yield "scores", f"digest {results.digest}"
