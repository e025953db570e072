"""The report stage: stored scores -> report.md with its figures, and report.html. Needs no torch and no vLLM."""

from __future__ import annotations

from pathlib import Path

from harness.augment.node_work import costs_of
from harness.config.run import Run
from harness.core.markdown import escaped
from harness.core.store import Manifest, read_manifest, require_same, write_atomic, write_manifest
from harness.core.terminal import Terminal
from harness.errors import UsageError
from harness.eval.current import results_of
from harness.report import sections
from harness.report.answer import answer_section
from harness.report.data_arms import data_arms_section
from harness.report.findings import Findings, findings
from harness.report.methods import methods_section
from harness.report.page.page import page
from harness.report.page.parts import page_parts
from harness.report.page.samples import stored_samples
from harness.report.student_section import student_section
from harness.report.students import students_section

REPORT, PAGE = "report.md", "report.html"
SEAL = "report.manifest.json"
NOT_JUDGED = "Not judged."


def report(run: Run, terminal: Terminal, ship: str = NOT_JUDGED) -> None:
    """Write report.md, its figures and report.html into runs/NAME/eval, and print the answer.

    `ship`: what the gate says of the student that is to ship.
    """
    found = findings(run, ship)
    folder, seal = found.results.folder, found.results.manifest.seal
    title = f"# {escaped(run.name)}: how much data does the student need?\n"
    warnings = [f"**{escaped(warning)}**\n" for warning in found.warnings]
    tables = _tables(run, found)
    remarks = [f"Beside the answer: {escaped(remark)}.\n" for remark in found.remarks]
    answer = "\n".join([title, *warnings, answer_section(found.answers), *remarks])
    paths = [folder / REPORT, folder / PAGE]
    write_atomic(paths[0], f"{answer}\n{tables}")
    write_atomic(paths[1], page(page_parts(run, found, stored_samples(folder), tables)))
    write_manifest(folder, Manifest(stage="report", inputs=seal), paths, name=SEAL)
    terminal.say(answer)
    written = " and ".join(str(path.relative_to(run.root)) for path in paths)
    terminal.say(f"report: {written}; {run.command('show')} prints all of it")


def _tables(run: Run, found: Findings) -> str:
    """All sections after the answer, as Markdown. Writes the figures."""
    results, train, random_seed = found.results, run.file.train, run.file.random_seed
    cells, price = found.trained.cells, run.file.report.price_per_hour
    parts: list[str] = []
    for suite in found.task_suites:
        of_suite = [view for view in found.views if view.suite is suite]
        parts += [student_section(results, view, train, random_seed) for view in of_suite]
        parts.append(students_section(suite.name, suite.primary, found.students[suite.name], results, price))
        parts.append(sections.breakdown(results, suite, of_suite, price))
    parts.append(methods_section(results, found.task_suites, train, cells, random_seed))
    parts.append(data_arms_section(results, run, cells, found.funnel, random_seed))
    parts.append(sections.other_suites(results, found.other_suites))
    parts.append(sections.honesty(results, (*found.task_suites, *found.other_suites), train))
    parts.append(sections.broken(results, found.changes, train))
    nodes, tuned = costs_of(run, found.funnel.kept if found.funnel else 0), [cell for cell in cells if cell.tuned]
    parts.append(sections.cost(found.funnel, nodes, tuned, found.trained.pretraining, results.cards))
    parts.append(sections.notes(run, results, found.trained))
    return "\n".join(filter(None, parts))


def show(run: Run, terminal: Terminal) -> None:
    """Print the stored report, all but its pictures. Raises as `stored_report`."""
    lines = stored_report(run).read_text(encoding="utf-8").splitlines()
    terminal.say("\n".join(line for line in lines if not line.startswith("![")))


def stored_report(run: Run) -> Path:
    """The file of the stored report.

    Raises UsageError where there is none, where it was edited, and where it is of other scores than are stored now.
    """
    folder, command = run.folder / "eval", run.command("report")
    path = folder / REPORT
    if not path.is_file():
        raise UsageError(f"{run.name} has no report yet: {run.command('eval')}")
    results = results_of(run)
    manifest = read_manifest(folder, SEAL)
    if manifest is None or manifest.inputs != results.manifest.seal:
        raise UsageError(f"{path}: it is of other scores than are stored now, or its seal is gone; {command}")
    require_same(folder, REPORT, manifest, command)
    return path
