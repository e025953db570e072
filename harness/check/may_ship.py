"""May the student ship? The gate's verdict in a sentence, for the report. Nothing is written."""

from __future__ import annotations

from harness.check.baseline import baseline_path
from harness.check.rules import overall
from harness.check.stage import decisions_of
from harness.config.run import Run
from harness.core.terminal import Terminal
from harness.errors import HarnessError


def may_ship(run: Run) -> str:
    """What `check` would say now, or why it would say nothing. What a person must do is named."""
    if run.file.ship is None:
        return f"Not judged: runs/{run.name}.yaml has no ship section, which says which student is meant."
    if not baseline_path(run.root, run.name).is_file():
        return (
            "Not judged: there is no baseline. The gate compares with a baseline, not with the untuned model, so read"
            " first what tuning broke. Where these scores are good enough all the same, make them the baseline:"
            f" {run.command('bless')}"
        )
    try:
        _, student, decisions = decisions_of(run, common=False, terminal=Terminal(silent=True))
    except HarnessError as error:
        return f"Not judged: {error}"
    verdict = overall(decisions)
    named = [f"{d.rule.suite} {d.rule.metric}" for d in decisions if d.verdict == verdict]
    passed = sum(d.verdict == "pass" for d in decisions)
    if verdict == "pass":
        return f"Yes: {student} passes all {passed} rules against the baseline."
    answer = {"regressed": "No", "failed": "Not judged, since items failed"}.get(verdict, "Not shown")
    return f"{answer}: of {len(decisions)} rules {passed} pass for {student}; {verdict}: {', '.join(named)}."
