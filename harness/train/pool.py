"""The rows of a run that its data arms draw from: seeds, what augment kept and dropped, general rows of a replay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.augment.current import dropped_rows, kept_rows
from harness.augment.rows import Judged, seed_rows
from harness.config.arms import SEEDS_ONLY, Named, Replay, Without, plain_arms
from harness.config.run import Run
from harness.config.teacher import Teacher
from harness.data.examples import Shape, path_of, read_examples
from harness.errors import UsageError
from harness.filters import AnyFilter
from harness.records import Message, Provenance, Row


@dataclass(frozen=True)
class Pool:
    """The rows, and what tells them apart."""

    seeds: tuple[Row, ...] = ()
    kept: tuple[Row, ...] = ()
    dropped: tuple[Judged, ...] = ()  # with every filter's verdict
    general: Mapping[str, tuple[Row, ...]] = field(default_factory=dict)  # name of a replay -> its general rows
    filters: tuple[AnyFilter, ...] = ()
    teachers: Mapping[str, Teacher] = field(default_factory=dict)
    templates: tuple[str, ...] = ()  # paths of those that make rows by themselves


def pool_of(run: Run) -> Pool:
    """The rows of a run. What none of its arms draws from is not read.

    Raises UsageError where augment has not finished or made its rows otherwise, and for general rows that are wrong.
    """
    arms = run.file.train.data
    drawn = plain_arms(arms)
    unfiltered = [arm for arm in drawn if isinstance(arm, Without) or arm.name == "unfiltered"]
    return Pool(
        seeds=seed_rows(run.task, run.prompts.student, run.seeds),
        kept=kept_rows(run) if any(arm != Named(name=SEEDS_ONLY) for arm in drawn) else (),
        dropped=dropped_rows(run) if unfiltered else (),
        general={arm.name: _general_rows(arm, run) for arm in arms if isinstance(arm, Replay)},
        filters=run.file.augment.filters,
        teachers=run.file.all_teachers,
        templates=tuple(step.path for _, step in run.file.augment.row_makers()),
    )


def _general_rows(arm: Replay, run: Run) -> tuple[Row, ...]:
    """General instructions as training rows: each a chat by itself, without the task's prompt and system message."""
    place = f"runs/{run.name}.yaml: train.data: {arm.name}: rows"
    read = read_examples(arm.rows, run.root, Shape(), place)
    if not read.examples:
        raise UsageError(f"{run.root / path_of(arm.rows)}: there are no rows in it")
    provenance = Provenance(source="replay", format=read.format)
    return tuple(
        Row(
            messages=(
                *example.turns,
                Message(role="user", content=example.fields["text"]),
                Message(role="assistant", content=example.answer),
            ),
            example=example,
            provenance=provenance,
        )
        for example in read.examples
    )
