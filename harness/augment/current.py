"""Stored rows that are still those of the run's files: what augment need not make again, what training draws from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import ValidationError

from harness.augment.funnel import Funnel
from harness.augment.rows import DROPPED, KEPT, VERDICTS, Judged, Lost, Said, read_rejected
from harness.augment.sent import PROMPTS, read_prompts
from harness.config.inputs import guarded_suites, rows_source, still_guarded, unguarded_suites
from harness.config.run import Run
from harness.core.json_file import read_json, read_jsonl
from harness.core.record import digest
from harness.core.store import Manifest, finished, read_manifest, remade_by, require_same, require_sealed
from harness.errors import UsageError
from harness.models.teachers import Teachers
from harness.records import Row, Verdict

STAGE_VERSION = 5
FUNNEL = "funnel.json"


def finished_rows(run: Run, teachers: Teachers) -> tuple[Manifest | None, list[str]]:
    """(The manifest where the stored rows are those of the run as it is now, benchmarks that are no longer at hand)."""
    folder = run.folder / "augment"
    before = read_manifest(folder)
    guarded, unavailable = still_guarded(
        guarded_suites(run.file.augment.filters, run.suites), before.suites if before else {}
    )
    return finished(folder, inputs_digest(teachers, rows_source(run), guarded)), unavailable


def inputs_digest(teachers: Teachers, source: str, guarded: Mapping[str, str]) -> str:
    """All that could change the rows: 64 hex digits.

    `source` is the digest of what a person wrote, `guarded` the suites that rows are checked against.
    """
    named = [teachers.named] if teachers.named else []
    return digest("augment", STAGE_VERSION, teachers.own, source, dict(guarded), *named)


def kept_rows(run: Run) -> tuple[Row, ...]:
    """The rows that augment kept, as it stored them. Raises UsageError as `_require_current`."""
    path = _require_current(run)[0] / KEPT
    with remade_by(run.command("augment")):
        return tuple(row for _, row in read_jsonl(path, Row))


def dropped_rows(run: Run) -> tuple[Judged, ...]:
    """The rows that filters dropped, with every filter's verdict. Raises UsageError as `_require_current`."""
    return rejected_rows(run)[0]


def rejected_rows(run: Run) -> tuple[tuple[Judged, ...], tuple[Lost, ...]]:
    """The rows that filters dropped, and the completions that gave no row. Raises UsageError as `_require_current`."""
    path = _require_current(run)[0] / DROPPED
    with remade_by(run.command("augment")):
        return read_rejected(path)


@dataclass(frozen=True)
class MadeRows:
    """What augment made of a run, with all that it stored about it."""

    kept: Sequence[Row]
    dropped: Sequence[Judged]
    lost: Sequence[Lost]
    verdicts: Sequence[Sequence[Verdict]] = ()  # of the kept rows, in their order; empty where none are stored
    prompts: Mapping[str, str] = field(default_factory=dict)  # key of a request -> what the teacher was sent

    @property
    def requests(self) -> Iterator[str]:
        """The keys of the requests that gave these rows, and of those that gave none."""
        for row in (*self.kept, *(judged.row for judged in self.dropped)):
            yield row.provenance.request
        yield from (lost.request for lost in self.lost)


def made_rows(run: Run) -> MadeRows:
    """All of it. An earlier version stored neither verdicts nor prompts. Raises UsageError as `_require_current`."""
    (folder, manifest), command = _require_current(run), run.command("augment")
    beside = [name for name in (VERDICTS, PROMPTS) if name in manifest.outputs]
    for name in beside:
        require_same(folder, name, manifest, command)
    with remade_by(command):
        kept = tuple(row for _, row in read_jsonl(folder / KEPT, Row))
        said = tuple(said.verdicts for _, said in read_jsonl(folder / VERDICTS, Said)) if VERDICTS in beside else ()
        made = MadeRows(kept, *read_rejected(folder / DROPPED), said)
        sent = read_prompts(folder / PROMPTS, set(made.requests)) if PROMPTS in beside else {}
    return replace(made, prompts=sent)


def stored_funnel(run: Run) -> Funnel | None:
    """What became of the rows, or None where augment has not run. Raises UsageError for a file edited or damaged."""
    path, command = run.folder / "augment" / FUNNEL, run.command("augment")
    if not path.is_file():
        return None
    require_sealed(path.parent, [path.name], command)
    try:
        return Funnel.model_validate(read_json(path))
    except ValidationError as error:
        raise UsageError(f"{path}: not a funnel of this version; {command}") from error


def _require_current(run: Run) -> tuple[Path, Manifest]:
    """The folder of the stored rows, and its manifest.

    Raises UsageError where augment has not finished, a file that it wrote was edited, or anything that a person
    wrote for it has changed since.
    """
    folder, first = run.folder / "augment", f"augment first ({run.command('augment')})"
    manifest = read_manifest(folder)
    where = (folder / KEPT).relative_to(run.root)
    if not (folder / KEPT).is_file() or manifest is None:
        raise UsageError(f"{where} is not there, not finished, or its seal is damaged: {first}")
    changed = [f"items of {name}" for name in unguarded_suites(run.file.augment.filters, run.suites, manifest.suites)]
    if manifest.settings != rows_source(run):
        changed.append("seeds, own rows, templates, filters, prompts or settings")
    if changed:
        raise UsageError(f"{where} was made with other {changed[-1]} than {run.name} has now: {first}")
    for name in (KEPT, DROPPED):
        require_same(folder, name, manifest, run.command("augment"))
    return folder, manifest
