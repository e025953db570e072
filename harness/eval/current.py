"""Stored results that are still those of the run's files: rows, templates, settings and suites as they are now."""

from __future__ import annotations

from pathlib import Path

from harness.config.inputs import scores_source, suite_source
from harness.config.run import Run
from harness.errors import UsageError
from harness.eval.results import Results, load_results
from harness.suites.suite import Suite


def results_of(run: Run) -> Results:
    """The stored results of a run, made as its files say now.

    Raises UsageError as `load_results`, and for scores of students that were made otherwise, or asked otherwise.
    """
    results = load_results(run.folder, run.suites)
    if results.manifest.settings != scores_source(run):
        raise UsageError(
            f"{results.folder}: the stored scores are of students made or asked with other rows, templates, prompts or"
            f" settings than runs/{run.name}.yaml has now: make augment train eval RUN={run.name}"
        )
    return results


def require_current(results: Results, suite: Suite, root: Path) -> None:
    """Raises UsageError for a suite that is not the one that was scored, down to the files that its rules name."""
    if results.manifest.suites.get(suite.name) != suite_source(suite, root):
        raise UsageError(
            f"suites/{suite.name}.yaml: the suite, or a file that it names, changed since it was scored;"
            f" make augment train eval RUN={results.run}"
        )
