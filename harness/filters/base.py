"""What a filter is: a frozen record that, given what it may look at, becomes a rule over rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol

from pydantic import Field

from harness.engines.protocols import Embedder
from harness.errors import UsageError
from harness.models.teachers import Teachers
from harness.records import Completion, Example, Request, Row, Verdict

On = Annotated[str, Field(min_length=1)]  # input, answer, both, or the name of a field of the task
PARTS = ("input", "answer", "both")

Answers = Sequence[Sequence[Completion]]  # for each row the answers to what a rule asks about it
Ask = Callable[[Sequence[Request]], list[Completion]]  # one completion per request, same order


def part_of(example: Example, on: str) -> str:
    """The part of an example that a filter looks at: all of its input, its answer, both, or one field.

    What a step of the name `answer` wrote is its field.
    """
    if on == "answer":
        return example.fields.get("answer", example.answer)
    if on == "both":
        return f"{example.text}\n\n{example.answer}"
    return example.text if on == "input" else example.fields[on]


def each_part(example: Example, on: str) -> tuple[str, ...]:
    """The texts of a part that are looked at one by one: input and answer of `both`, else the one part."""
    return (example.text, example.answer) if on == "both" else (part_of(example, on),)


def part_of_twin(twin: Example | Row, on: str) -> str:
    """The part of a seed or of a row that a filter looks at."""
    return part_of(twin.example if isinstance(twin, Row) else twin, on)


def named_twin(twin: Example | Row | None, row: Row) -> str:
    """How a reason speaks of a twin. Another label is said, for then one of the two is wrong."""
    what = "a seed" if isinstance(twin, Example) else "an earlier row"
    return f"{what}, labelled {twin.answer!r}" if twin and twin.answer != row.answer else what


@dataclass(frozen=True)
class Protected:
    """A text of a suite that no training row may contain."""

    suite: str
    item: str  # the item's id
    text: str


def no_embedder() -> Embedder:
    """Where nothing compares texts by meaning. Raises UsageError."""
    raise UsageError("no embedding model is at hand")


def nobody(requests: Sequence[Request]) -> list[Completion]:
    """An `Ask` without a teacher. Raises RuntimeError: only filters that ask nothing may be given it."""
    raise RuntimeError(f"{len(requests)} requests, and no teacher to ask")


def no_student(model: str, values: Mapping[str, Any], answers: Sequence[str]) -> list[float]:
    """Likelihoods without a student. Raises UsageError."""
    raise UsageError(f"no student {model!r} is at hand to measure {len(answers)} answers")


@dataclass(frozen=True)
class Context:
    """Everything a filter may read."""

    root: Path  # the project; paths in filters are relative to it
    seeds: tuple[Example, ...]
    labels: Mapping[str, str]  # label -> description
    protected: tuple[Protected, ...]
    teachers: Teachers  # for the requests of a judge
    ask: Ask = nobody  # what a filter asks about the seeds before it sees a row
    random_seed: int = 0
    say: Callable[[str], None] = lambda line: None  # what a filter says while it is prepared
    documents: Mapping[str, str] = field(default_factory=dict)  # id of a piece -> its headings and its text
    embedder: Callable[[], Embedder] = no_embedder  # builds what tells how near texts are in meaning
    # mean log-probability (nats a token) of answers under a model, to the question that some values make
    likelihood: Callable[[str, Mapping[str, Any], Sequence[str]], list[float]] = no_student


def no_requests(row: Row) -> tuple[Request, ...]:
    """What a rule that needs no teacher asks about a row: nothing."""
    return ()


@dataclass(frozen=True)
class Rule:
    """A filter that is ready to judge rows.

    `verdicts` takes rows and, for each of them, the answers to its `requests`. It gives one verdict per row, same
    order. A rule that compares rows is given all rows of a round in request order, and asks nothing. Any other rule is
    given each row once, in parts of any size, as rows come. A rule with `among` is asked for that in place of
    `verdicts`, when all other verdicts are there.
    """

    verdicts: Callable[[Sequence[Row], Answers], list[Verdict]]
    requests: Callable[[Row], tuple[Request, ...]] = no_requests
    compares_rows: bool = False
    note: str = ""  # what the filter measured of itself, for people
    # of a rule that chooses among what passes everything else: the verdicts on all rows, given which of them pass
    among: Callable[[Sequence[Row], Sequence[bool]], list[Verdict]] | None = None

    def named(self, name: str) -> Rule:
        """The same rule, whose verdicts carry another name than the filter's kind."""

        def renamed(verdicts: Sequence[Verdict]) -> list[Verdict]:
            return [replace(verdict, filter=name) for verdict in verdicts]

        among = self.among
        return replace(
            self,
            verdicts=lambda rows, answers: renamed(self.verdicts(rows, answers)),
            among=(lambda rows, passing: renamed(among(rows, passing))) if among else None,
        )


def each_row(verdict: Callable[[Row], Verdict]) -> Rule:
    """The rule of a filter that looks at nothing but the row."""
    return Rule(lambda rows, answers: [verdict(row) for row in rows])


def choosing(kind: str, choose: Callable[[Sequence[Row]], list[Verdict]]) -> Rule:
    """The rule of a filter that chooses among the rows that pass all else. Of a row that does not it says nothing."""

    def among(rows: Sequence[Row], passing: Sequence[bool]) -> list[Verdict]:
        chosen = iter(choose([row for row, passes in zip(rows, passing, strict=True) if passes]))
        return [
            next(chosen) if passes else Verdict(row=row.id, filter=kind, keep=True)
            for row, passes in zip(rows, passing, strict=True)
        ]

    return Rule(lambda rows, answers: choose(rows), compares_rows=True, among=among)


@dataclass(frozen=True)
class Needs:
    """What a kind of filter cannot do without. Loading, the digests and augment go by it."""

    files: tuple[str, ...] = ()  # its fields that name files of the project
    teachers: tuple[str, ...] = ()  # its fields that name teachers of the run: it asks them, first about the seeds
    suites: bool = False  # it looks at the suites' texts, so that other items make other rows
    attributes: tuple[str, ...] = ()  # its fields that name attributes of the run


class Filter(Protocol):
    """One way to drop rows. Its fields are its YAML, its method makes the rule."""

    needs: ClassVar[Needs]

    @property
    def kind(self) -> str:
        """The name that run files, verdicts and the funnel have for it."""
        ...

    def prepare(self, context: Context) -> Rule:
        """The rule for the rows of this run. Raises UsageError for a filter that cannot work here."""
        ...
