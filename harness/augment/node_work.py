"""What the nodes of a cluster did for a run, and what it cost, by their kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from harness.config.run import Run
from harness.core.record import Record
from harness.core.store import disk_errors

FILE = "nodes.jsonl"  # in runs/NAME/cluster: a line for each replica of each command


class NodeWork(Record):
    """What one replica did on one node."""

    replica: str
    node: str
    kind: str  # of its accelerators, as Ray names them; `CPU` for none
    answers: int
    tokens: int  # read and written
    seconds: float  # from the loaded engine to its end


def note(folder: Path, work: NodeWork) -> None:
    """Add a line. Only the machine that drives a run writes here."""
    with disk_errors(folder / FILE):
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / FILE).open("a", encoding="utf-8") as file:
            file.write(work.model_dump_json() + "\n")


def noted(folder: Path) -> list[NodeWork]:
    """All that was noted, the oldest first. A line that a kill left torn is left out: it is a statistic."""
    if not (folder / FILE).is_file():
        return []
    work: list[NodeWork] = []
    for line in (folder / FILE).read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValidationError):
            work.append(NodeWork.model_validate_json(line))
    return work


def costs_of(run: Run, kept: int) -> list[str]:
    """What the nodes did in all commands of the run, a line for each of their kinds. Empty without a cluster."""
    prices = run.file.cluster.prices if run.file.cluster else {}
    return list(by_kind(noted(run.folder / "cluster"), kept, prices))


def by_kind(done: Sequence[NodeWork], kept: int, prices: Mapping[str, float]) -> Iterator[str]:
    """A line for each kind of node. `prices`: an hour of a replica there, in money. `kept`: rows that came of it."""
    for kind in sorted({work.kind for work in done}):
        some = [work for work in done if work.kind == kind]
        hours = sum(work.seconds for work in some) / 3600
        replicas, nodes = {work.replica for work in some}, {work.node for work in some}
        said = (
            f"{kind}: {len(replicas)} replica{'s' * (len(replicas) > 1)} on {len(nodes)} node{'s' * (len(nodes) > 1)},"
        )
        said += f" {sum(work.answers for work in some)} answers, {sum(work.tokens for work in some)} tokens,"
        said += f" {hours:.3g} replica hours"
        if kind in prices:
            money = hours * prices[kind]
            said += f", {money:.3g} in money" + (f", {money / kept:.3g} per kept row" if kept else "")
        elif prices:
            said += f", no price (cluster.prices has {', '.join(sorted(prices))})"
        yield said
