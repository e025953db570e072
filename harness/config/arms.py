"""Data arms: which rows a cell sees, as `train.data` of a run file names them.

An arm is a plain name, or a mapping: {without: FILTER}, {teacher: NAME}, {template: NAME}, {mix: {ARM: SHARE, ...}},
{replay: SHARE, rows: FILE, of: ARM}. Each has a name, which is what cells, files, keys and reports know of it. In a mix
and in `of`, where an arm is a text, `without_FILTER`, `teacher_NAME` and `template_NAME` name the mappings.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import PurePath
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Discriminator, Field, Tag, TypeAdapter, ValidationError, model_validator

from harness.config.teacher import Name
from harness.core.record import Record, digest
from harness.data.examples import Examples, path_of
from harness.errors import UsageError, nearest
from harness.filters import AnyFilter, filter_called

SEEDS_ONLY, FILTERED, RANDOM = "seeds_only", "filtered", "random"
Selection = Literal["diverse", "student_fit", "ifd", "length"]
SELECTIONS: tuple[Selection, ...] = get_args(Selection)  # those that rank the kept rows and take the first
PlainName = Literal["filtered", "unfiltered", "seeds_only", "human", "synthetic", "random", Selection]
PLAIN_NAMES: tuple[str, ...] = get_args(PlainName)
SUM_TOLERANCE = Fraction(1, 1000)  # thirds are written as 0.333

Share = Annotated[float, Field(gt=0, lt=1)]


class Named(Record):
    """An arm that a word names."""

    name: PlainName


class Without(Record):
    """The kept rows, and those that one filter alone dropped: what the filter is worth."""

    without: Name  # the filter, as the funnel calls it

    @property
    def name(self) -> str:
        """Such as without_judge."""
        return f"without_{_safe(self.without)}"


class OfTeacher(Record):
    """The kept rows that a teacher wrote, or wrote a step of."""

    teacher: Name  # as the run file calls it

    @property
    def name(self) -> str:
        """Such as teacher_strong."""
        return f"teacher_{_safe(self.teacher)}"


class OfTemplate(Record):
    """The kept rows of a template, of several that make rows in turn."""

    template: Name  # its path, or its file's name without the ending

    @property
    def name(self) -> str:
        """Such as template_continue_list. A path has a digest in its name, as files of two folders may have one."""
        stem = PurePath(self.template).stem
        return f"template_{_safe(stem)}{f'-{digest(self.template)[:6]}' if stem != self.template else ''}"


class Mix(Record):
    """Several arms in stated shares."""

    mix: dict[str, Share]  # the name of an arm -> its share of the rows

    @model_validator(mode="after")
    def _shared_out(self) -> Self:
        if len(self.mix) < 2:
            raise ValueError(f"mix: {', '.join(self.mix) or 'nothing'}: it takes two arms or more")
        for name in self.mix:
            if arm_named(name) is None:
                raise ValueError(f"mix: {_unknown(name)}")
        total = sum(map(_exact, self.mix.values()), Fraction(0))
        if abs(total - 1) > SUM_TOLERANCE:
            raise ValueError(f"mix: the shares sum to {float(total):g}, not to 1")
        return self

    @property
    def name(self) -> str:
        """Such as mix_human_50_filtered_50."""
        return "_".join(["mix", *(f"{arm.name}_{_percent(share)}" for arm, share in self.shares)])

    @property
    def shares(self) -> tuple[tuple[DataArm, Fraction], ...]:
        """(arm, its share of the rows), as they are written. They sum to 1."""
        total = sum(map(_exact, self.mix.values()), Fraction(0))
        return tuple((require_arm(name), _exact(share) / total) for name, share in self.mix.items())


class Replay(Record):
    """The rows of an arm, and a share of general instruction rows, against forgetting."""

    replay: Share  # of the rows
    rows: Examples  # where the general rows are
    of: str = FILTERED  # the name of the arm that gives the others

    @model_validator(mode="after")
    def _of_an_arm(self) -> Self:
        if arm_named(self.of) is None:
            raise ValueError(f"of: {_unknown(self.of)}")
        return self

    @property
    def name(self) -> str:
        """Such as replay_general_20_filtered, of rows in general.jsonl."""
        return f"replay_{_safe(PurePath(path_of(self.rows)).stem)}_{_percent(_exact(self.replay))}_{self.others.name}"

    @property
    def others(self) -> DataArm:
        """The arm that gives the other rows."""
        return require_arm(self.of)

    @property
    def share(self) -> Fraction:
        """Of the general rows."""
        return _exact(self.replay)


KINDS: dict[str, type[Record]] = {
    "without": Without, "teacher": OfTeacher, "template": OfTemplate, "mix": Mix, "replay": Replay,
}  # fmt: skip


def _read(written: Any) -> Any:
    """What pydantic reads further. Raises ValueError for what is no arm."""
    if isinstance(written, str):
        if arm := arm_named(written):
            return arm
        raise ValueError(_unknown(written))
    if not isinstance(written, dict):
        return written
    kinds = [kind for kind in KINDS if kind in written]
    if len(kinds) != 1:
        first = next(iter(written), "")
        hint = nearest(str(first), KINDS) if not kinds else ""
        raise ValueError(f"{', '.join(map(str, written)) or 'it'}: an arm has one of {', '.join(KINDS)}{hint}")
    allowed = list(KINDS[kinds[0]].model_fields)
    if strange := next((str(key) for key in written if key not in allowed), None):
        raise ValueError(f"{strange}: unknown key{nearest(strange, allowed)}; allowed here: {', '.join(allowed)}")
    return written


def _kind_of(value: Any) -> str:
    keys = value if isinstance(value, dict) else type(value).model_fields if isinstance(value, Record) else ()
    return f"{next((kind for kind in KINDS if kind in keys), 'name')} arm"  # no key, so that a place in a file is one


DataArm = Annotated[
    Annotated[
        Annotated[Named, Tag("name arm")]
        | Annotated[Without, Tag("without arm")]
        | Annotated[OfTeacher, Tag("teacher arm")]
        | Annotated[OfTemplate, Tag("template arm")]
        | Annotated[Mix, Tag("mix arm")]
        | Annotated[Replay, Tag("replay arm")],
        Discriminator(_kind_of),
    ],
    BeforeValidator(_read),
]


def _name_of(written: Any) -> Any:
    """The name of an arm that is written out. A text is a name."""
    if not isinstance(written, dict):
        return written
    try:
        arm: DataArm = TypeAdapter(DataArm).validate_python(written)
    except ValidationError as error:
        raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
    return arm.name


ArmName = Annotated[str, BeforeValidator(_name_of)]  # one of train.data, by its name or as it is written there


def arm_named(text: str) -> DataArm | None:
    """The arm that a text names, or None. Mixes and replays have no such text."""
    if text in PLAIN_NAMES:
        return Named.model_validate({"name": text})
    kind, _, name = text.partition("_")
    match kind if name else "":
        case "without":
            return Without(without=name)
        case "teacher":
            return OfTeacher(teacher=name)
        case "template":
            return OfTemplate(template=name)
    return None


def require_arm(text: str) -> DataArm:
    """The same. Raises UsageError where the text names none."""
    arm = arm_named(text)
    if arm is None:
        raise UsageError(_unknown(text))
    return arm


def plain_arms(arms: Sequence[DataArm]) -> list[DataArm]:
    """The arms that rows are drawn from: those of mixes and of replays in place of these."""
    found: list[DataArm] = []
    for arm in arms:
        match arm:
            case Mix():
                found += [part for part, _ in arm.shares]
            case Replay():
                found.append(arm.others)
            case _:
                found.append(arm)
    return found


def template_called(name: str, paths: Sequence[str]) -> str:
    """The path of the template that a person calls by it, or by its file's name without the ending.

    Raises UsageError for a name that fits none, or several.
    """
    fitting = [path for path in dict.fromkeys(paths) if name in (path, PurePath(path).stem)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UsageError(f"the template {name!r} may be {' or '.join(fitting)}: write its path")
    hint = nearest(name, [*paths, *(PurePath(path).stem for path in paths)])
    raise UsageError(f"there is no template {name!r}{hint}; there are: {', '.join(paths)}")


@dataclass(frozen=True)
class Sources:
    """Where the rows of a run come from, to know of an arm whether it can have any."""

    seeds: bool
    own_rows: bool
    writers: Collection[str]  # names of the teachers that write rows
    teachers: Collection[str]  # of all of them
    templates: Sequence[str]  # paths of those that make rows by themselves
    filters: Sequence[AnyFilter]


def arm_problem(arm: DataArm, sources: Sources) -> str:
    """Why an arm can have no rows in a run, or ''."""
    for plain in plain_arms([arm]):
        if problem := _problem(plain, sources):
            return problem
    return ""


def _problem(arm: DataArm, sources: Sources) -> str:
    if isinstance(arm, Named):
        needs = {SEEDS_ONLY: (sources.seeds, "augment.seeds"), "human": (sources.own_rows, "augment.rows_file")}
        there, key = needs.get(arm.name, (True, ""))
        if arm.name == "synthetic" and not sources.writers:
            return "synthetic: no teacher writes rows here"
        return "" if there else f"{arm.name} needs {key}, and there are none"
    if isinstance(arm, OfTeacher):
        return _teacher_problem(arm.teacher, sources)
    try:
        if isinstance(arm, Without):
            filter_called(arm.without, sources.filters)
        if isinstance(arm, OfTemplate):
            if not sources.templates:
                why = "steps make a row together" if sources.writers else "no teacher writes rows here"
                return f"template {arm.template!r}: {why}, so that no row is of one template"
            template_called(arm.template, sources.templates)
    except UsageError as error:
        return str(error)
    return ""


def _teacher_problem(name: str, sources: Sources) -> str:
    if name in sources.writers:
        return ""
    if name in sources.teachers:
        return f"the teacher {name!r} writes no rows"
    writers = ", ".join(sources.writers) or "none"
    return f"there is no teacher {name!r}{nearest(name, sources.writers)}; those that write rows: {writers}"


def _unknown(text: str) -> str:
    texts = ", ".join(PLAIN_NAMES)
    return (
        f"{text!r} is no arm{nearest(text, PLAIN_NAMES)}; allowed: {texts}, without_FILTER, teacher_NAME, template_NAME"
    )


def _exact(share: float) -> Fraction:
    """The share that a person wrote: 0.1 is a tenth."""
    return Fraction(repr(share))


def _percent(share: Fraction) -> str:
    """As a part of a name, without a dot: 12p5 is 12.5%."""
    return f"{100 * float(share):.4g}".replace(".", "p")


def _safe(text: str) -> str:
    """A text as a part of a name: letters, digits, - and _. Where others are left out, a digest tells it apart."""
    safe = re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")
    return safe if safe == text else f"{safe}-{digest(text)[:6]}"
