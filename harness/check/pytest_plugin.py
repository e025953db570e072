"""A pytest plugin: `pytest --harness-run runs/helpdesk.yaml` makes every rule of the check a test.

Loaded by pytest wherever this package is installed, so it imports nothing before the option is used.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from harness.check.rules import Decision


def pytest_addoption(parser: pytest.Parser) -> None:
    """The plugin's options."""
    group = parser.getgroup("harness", "check a student against its blessed baseline")
    group.addoption("--harness-run", metavar="FILE", help="a run file; each of its limits becomes a test")
    group.addoption("--harness-unsure", choices=("fail", "skip"), default="fail", help="what 'inconclusive' comes to")
    group.addoption("--harness-common", action="store_true", help="compare on shared items where a suite changed")


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Adds a test per rule after the tests that files hold."""
    path = config.getoption("harness_run")
    if not path:
        return
    from harness.check.stage import decisions_of
    from harness.config.load import load_run
    from harness.core.terminal import Terminal
    from harness.core.text import printable
    from harness.errors import HarnessError

    try:
        run = load_run(Path(path))
        _, student, decisions = decisions_of(run, config.getoption("harness_common"), Terminal())
    except HarnessError as error:
        raise pytest.UsageError(printable(str(error))) from error
    unsure = config.getoption("harness_unsure")
    file = run.root / "runs" / f"{run.name}.yaml"
    for decision in decisions:
        name = printable(f"{decision.rule.suite}::{decision.rule.metric}[{decision.limit}]")
        about = {"decision": decision, "student": student, "unsure": unsure}
        items.append(RuleItem.from_parent(session, name=name, nodeid=f"runs/{file.name}::{name}", path=file, **about))


class RuleItem(pytest.Item):
    """One rule of the check as a test. pytest asks for this base class."""

    def __init__(self, *, decision: Decision, student: str, unsure: str, **more: Any) -> None:
        super().__init__(**more)
        self.decision, self.student, self.unsure = decision, student, unsure

    def runtest(self) -> None:
        """Fails for a regression, a failure of the tool and, unless told otherwise, an inconclusive verdict."""
        if self.decision.verdict == "pass":
            return
        if self.decision.verdict == "inconclusive" and self.unsure == "skip":
            pytest.skip(self._said())
        pytest.fail(self._said(), pytrace=False)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Where pytest says that the test stands."""
        return self.path, None, self.name

    def _said(self) -> str:
        from harness.check.formats import interval
        from harness.core.text import printable

        d = self.decision
        text = f"{d.verdict}: {self.student}, {d.rule.suite} {d.rule.metric} {d.limit}: {interval(d.difference)}"
        return printable(f"{text} ({d.question}); {d.note}" if d.note else f"{text} ({d.question})")
