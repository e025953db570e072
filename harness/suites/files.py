"""Suite files: how to score, and the items beside them. A closed set of kinds.

labels        the task's own items: which label? by log-likelihood and by the freely generated answer
answers       questions answered in writing: a short text, a number or JSON
facts         questions whose answers stand only in the tuning documents: right, abstained or wrong
unanswerable  questions nobody can answer: abstained or made up
choice        questions with choices, by log-likelihood of each choice
benchmark     a public benchmark, as lm-evaluation-harness defines it, scored by our log-likelihood
open_ended    instructions answered in free text: repetition, length, stopping, collapse into labels
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from harness.core import templates, yaml_file
from harness.core.json_file import read_json
from harness.core.project_file import project_file
from harness.core.record import FORMAT, Record, digest, digested
from harness.data.columns import Source, read_items, title
from harness.data.lines import AnswerLine, ChoiceLine, LabelLine, OpenLine, QuestionLine, check_label
from harness.errors import Mistakes, UsageError, nearest
from harness.metrics.answers import Abstention, AnswerScorer, AnyAnswer, Fact, Match, NumberAnswer, TextAnswer, Unjudged
from harness.metrics.json_answers import JsonAnswer, schema_problem
from harness.metrics.moderation import PythonModeration
from harness.metrics.table import by_length
from harness.records import Item
from harness.suites.rubric import Rubric

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Limit(Record):
    """What `check` allows for one metric: how much worse than the baseline, and which values at all."""

    margin: Annotated[Finite, Field(gt=0)] | None = None  # worse by at most this, in the metric's unit
    margin_share: Annotated[float, Field(gt=0, le=1)] | None = None  # worse by at most this share of the baseline
    min: Finite | None = None  # the value itself
    max: Finite | None = None
    better: Literal["higher", "lower"] | None = None  # None: as the harness knows the metric, else higher

    @model_validator(mode="after")
    def _can_be_met(self) -> Self:
        if self.min is not None and self.max is not None and self.min >= self.max:
            raise ValueError(f"min {self.min:g} is not below max {self.max:g}")
        return self


class SuiteBase(Record):
    """What every suite file says."""

    version: Annotated[int, Field(ge=1)] = 1
    changes: dict[str, str] = {}  # version -> dated note
    limits: dict[str, Limit] = {}  # metric -> what `check` allows
    primary: str | None = None  # the metric that sums the suite up; None: as `Suite.primary` says


class ItemsSuite(SuiteBase):
    """What every suite with items of its own says."""

    items: Source  # a JSONL, CSV or Parquet file, or a hub dataset; the kind says what an item holds
    fields: dict[str, str] = {}  # our field -> column, dots lead into nested ones
    tags: tuple[str, ...] = ()  # columns whose values results are broken down by


class LabelsSuite(ItemsSuite):
    """The task's own items: {text, label}. Metrics: accuracy (generated answer), choice_accuracy, macro_f1, ..."""

    kind: Literal["labels"]
    max_tokens: Annotated[int, Field(ge=1)] = 16  # tokens of a generated answer


Asked = Literal["task", "plain"]  # with the task's prompt, as the student was tuned; or as a user's only turn


class AnswersSuite(ItemsSuite):
    """Questions answered in writing: {question, answer} or {question, answers}, the first one the reference."""

    kind: Literal["answers"]
    # how an answer is judged: by a rule, or by a model
    answer: Annotated[TextAnswer | NumberAnswer | JsonAnswer | Rubric, Field(discriminator="kind")] = TextAnswer()
    asked: Asked = "task"
    max_tokens: Annotated[int, Field(ge=1)] = 64  # tokens of an answer


class FactsSuite(ItemsSuite):
    """Questions, as in an answers suite, that only a reader of the tuning documents can answer."""

    kind: Literal["facts"]
    documents: str  # JSONL of the rows (or texts) in which every answer stands
    match: Match = "contains"  # when an answer is right
    asked: Asked = "task"
    max_tokens: Annotated[int, Field(ge=1)] = 32


class UnanswerableSuite(ItemsSuite):
    """Questions without an answer: {question}. Right is to say so."""

    kind: Literal["unanswerable"]
    asked: Asked = "task"
    max_tokens: Annotated[int, Field(ge=1)] = 32


class ChoiceSuite(ItemsSuite):
    """Questions with choices, {question, choices, answer: index or letter}, scored raw (no chat form).

    The log-likelihood of a choice decides: as it is (none), per byte (bytes), or by how much the question raises it
    above that of the choice alone after the premise (pmi: Holtzman et al. 2021, Surface form competition). Only the
    last is blind to how likely a model finds short or common words.
    """

    kind: Literal["choice"]
    context: str = "Question: {question}\nAnswer:"  # what stands before each choice
    normalise: Literal["none", "bytes", "pmi"] = "bytes"

    @model_validator(mode="after")
    def _has_no_other_holes(self) -> Self:
        try:
            templates.check_pattern(self.context, "question")
        except ValueError as error:
            raise ValueError(f"context {self.context!r}: {error}") from error
        if self.normalise == "pmi" and not self.premise:
            raise ValueError(f"context {self.context!r}: normalise pmi needs words after {{question}}")
        return self

    @property
    def premise(self) -> str:
        """What stands before a choice without the question: the end of the context, such as "Answer:"."""
        return self.context.rpartition("{question}")[2].strip()


class BenchmarkSuite(SuiteBase):
    """A public benchmark by its lm-evaluation-harness task name."""

    kind: Literal["benchmark"]
    benchmark: str
    num_fewshot: Annotated[int, Field(ge=0)] = 0
    num_fewshot_without_rows: Annotated[int, Field(ge=0)] | None = None  # where the rows shots come from are absent
    form: Literal["raw", "chat"] = "raw"  # the task's own prompt, or that prompt in the model's chat template
    limit: Annotated[int, Field(ge=1)] | None = None  # a fixed subset by content digest; None is all


class OpenEndedSuite(ItemsSuite):
    """Instructions answered in free text: {prompt, answers: references, variants: the prompt in other words}."""

    kind: Literal["open_ended"]
    max_tokens: Annotated[int, Field(ge=1)] = 96  # tokens of one answer
    repeats: Annotated[int, Field(ge=0, le=20)] = 0  # answers to one prompt that are compared with each other
    temperature: Annotated[float, Field(gt=0, le=5)] = 0.7  # of these; what is scored otherwise is greedy
    moderation: str | PythonModeration | None = None  # a list of words, or {file, function}
    canaries: str | None = None  # JSONL of {canary}: secrets planted among the training rows

    @model_validator(mode="after")
    def _compares_answers(self) -> Self:
        if self.repeats == 1:
            raise ValueError("repeats: 1 answer has none to be compared with; allowed: 0, or 2 to 20")
        return self


WrittenSuite = AnswersSuite | FactsSuite | UnanswerableSuite  # what harness.suites.free_text asks
AnySuite = LabelsSuite | AnswersSuite | FactsSuite | UnanswerableSuite | ChoiceSuite | BenchmarkSuite | OpenEndedSuite


@dataclass(frozen=True)
class Suite:
    """A loaded suite. A benchmark's items are read when it is scored, so `items` is empty for it."""

    name: str
    spec: AnySuite
    items: tuple[Item, ...]

    @property
    def digest(self) -> str:
        """16 hex digits over what decides a score: the rules and the items; limits and notes do not."""
        rules = digested(self.spec, _NO_RULES)
        worded = [[list(item.variants) for item in self.items]] if any(item.variants for item in self.items) else []
        return digest("suite", FORMAT, rules, [item.id for item in self.items], *worded)[:16]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that occur as gold, for a labels suite; else none."""
        if not isinstance(self.spec, LabelsSuite):
            return ()
        return tuple(sorted({item.choices[item.gold] for item in self.items if item.gold is not None}))

    @property
    def choices(self) -> tuple[str, ...]:
        """All labels an answer may name, for a labels suite; else none."""
        return self.items[0].choices if isinstance(self.spec, LabelsSuite) else ()

    @property
    def of_task(self) -> bool:
        """Whether it asks what the student is tuned for, with the task's own prompt."""
        return isinstance(self.spec, LabelsSuite) or (isinstance(self.spec, WrittenSuite) and self.spec.asked == "task")

    @property
    def primary(self) -> str:
        """The metric that sums it up: the one the suite file states, else one by its kind.

        Written texts go by the length of their reference answers, unless the file states a `match`.
        """
        if self.spec.primary is not None:
            return self.spec.primary
        if self.rubric is not None:
            return "preferred"
        if isinstance(self.scorer, TextAnswer) and "match" not in self.scorer.model_fields_set:
            return by_length(item.answers[0] for item in self.items)
        return "repeat_share" if isinstance(self.spec, OpenEndedSuite) else "accuracy"

    @property
    def rubric(self) -> Rubric | None:
        """By what a model judges its answers; None where rules do."""
        answer = self.spec.answer if isinstance(self.spec, AnswersSuite) else None
        return answer if isinstance(answer, Rubric) else None

    @property
    def scorer(self) -> AnswerScorer | None:
        """What judges its written answers; None for a kind that is not answered in writing."""
        return scorer_of(self.spec) if isinstance(self.spec, WrittenSuite) else None


# where items come from and what is allowed decide no score; an item's id holds what is asked and what is right
_NO_RULES = {"limits", "changes", "items", "fields", "tags", "documents", "primary"}


def metrics_of(spec: AnySuite) -> tuple[str, ...]:
    """What a suite of this kind computes for every item, so that items can be paired and resampled."""
    if isinstance(spec, LabelsSuite):
        return ("accuracy", "choice_accuracy", "gold_probability", "gold_nll", "stop_rate", "words")
    if isinstance(spec, ChoiceSuite | BenchmarkSuite):
        return ("accuracy", "gold_probability", "gold_nll")
    if isinstance(spec, OpenEndedSuite):
        return (
            *("words", "stop_rate", "label_collapse", "empty", "loop", "repeat_words", "repeat_share", "refusal"),
            *("compression_ratio", "rep_2", "rep_3", "rep_4", "length_ratio", "misspelling_rate", "copied_share"),
            *("flagged", "prompt_similarity", "off_topic", "reference_similarity", "consistency", "repeat_consistency"),
        )
    judged = ("preferred", "preference") if isinstance(spec, AnswersSuite) and spec.answer.kind == "rubric" else ()
    return (*judged, *scorer_of(spec).unread, "gold_nll", "empty", "stop_rate", "words")


def scorer_of(spec: WrittenSuite) -> AnswerScorer:
    """The record that judges an answer to this kind of suite."""
    if isinstance(spec, FactsSuite):
        return Fact(match=spec.match)
    if isinstance(spec, UnanswerableSuite):
        return Abstention()
    return Unjudged() if isinstance(spec.answer, Rubric) else spec.answer


def load_suite(path: Path, root: Path, labels: tuple[str, ...] | None, limit: int | None = None) -> Suite:
    """Load one suite and its items. `labels` are the task's; `limit` caps the items of a benchmark.

    Without a task (None) the labels are those that the items have: enough to prove a suite, not to score with it.
    Raises UsageError naming file, line, value.
    """
    document = yaml_file.load(path)
    spec = _parse(document)
    if isinstance(spec, AnswersSuite) and not isinstance(spec.answer, Rubric):
        answer = with_schema(spec.answer, root, document.place(("answer", "json_schema")))
        spec = spec.model_copy(update={"answer": answer})
    if spec.primary is not None and spec.primary not in metrics_of(spec):
        raise UsageError(
            f"{document.place(('primary',))}: primary: {spec.primary!r} is no metric of its items"
            f"{nearest(spec.primary, metrics_of(spec))}; allowed: {', '.join(metrics_of(spec))}"
        )
    if isinstance(spec, BenchmarkSuite):
        caps = [n for n in (spec.limit, limit) if n is not None]
        return Suite(path.stem, spec.model_copy(update={"limit": min(caps, default=None)}), ())
    place = document.place(("items",))
    if isinstance(spec, LabelsSuite) and labels == ():
        raise UsageError(
            f"{document.place(('kind',))}: kind: the task has no labels; its own suites are of kind answers"
        )
    for key, name in _files_of(spec):
        project_file(root, name, f"{document.place((key,))}: {key}")
    items = _items(spec, root, f"{place}: items", labels)
    if not items:
        raise UsageError(f"{title(spec.items)}: there are no items in it")
    first: dict[str, str] = {}
    mistakes = Mistakes()
    for where, item in items:
        if first.setdefault(item.id, where) != where:
            mistakes.note(f"{where}: the same item stands at {first[item.id]}")
    mistakes.check()
    if Suite(path.stem, spec, ()).of_task and {item.split for _, item in items} != {"dev", "test"}:
        raise UsageError(
            f"{title(spec.items)}: {len(items)} items are too few: a quarter of them, by digest, is for choosing (dev),"
            " and either part is empty"
        )
    return Suite(path.stem, spec, tuple(item for _, item in items))


def _files_of(spec: ItemsSuite) -> list[tuple[str, str]]:
    """(key, path) of the files that it names beside its items and schema."""
    if isinstance(spec, FactsSuite):
        return [("documents", spec.documents)]
    if not isinstance(spec, OpenEndedSuite):
        return []
    moderation = spec.moderation.file if isinstance(spec.moderation, PythonModeration) else spec.moderation
    return [(key, name) for key, name in (("moderation", moderation), ("canaries", spec.canaries)) if name]


def with_schema(answer: AnyAnswer, root: Path, place: str) -> AnyAnswer:
    """A JSON answer with the schema its file holds. Raises UsageError naming both."""
    if not isinstance(answer, JsonAnswer) or not isinstance(answer.json_schema, str):
        return answer
    read = read_json(project_file(root, answer.json_schema, f"{place}: json_schema"))
    if not isinstance(read, dict):
        raise UsageError(f"{place}: json_schema: {answer.json_schema} holds no JSON object")
    problem = schema_problem(read)
    if problem:
        raise UsageError(f"{place}: json_schema: {answer.json_schema}: {problem}")
    return answer.model_copy(update={"json_schema": read})


def _parse(document: yaml_file.Document) -> AnySuite:
    kind = document.data.get("kind") if isinstance(document.data, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        place, hint = document.place(("kind",)), nearest(str(kind), _KINDS)
        raise UsageError(f"{place}: kind: {kind!r} is no kind of suite{hint}; allowed: {', '.join(_KINDS)}")
    return yaml_file.parse(_KINDS[kind], document, "a suite file")


Items = list[tuple[str, Item]]  # where each stands, and what it is


def _items(spec: ItemsSuite, root: Path, place: str, labels: tuple[str, ...] | None) -> Items:
    if isinstance(spec, LabelsSuite):
        return _label_items(spec, root, place, labels)
    if isinstance(spec, AnswersSuite | FactsSuite):
        return _answer_items(spec, root, place)
    if isinstance(spec, UnanswerableSuite):
        return _question_items(spec, root, place)
    if isinstance(spec, ChoiceSuite):
        return _choice_items(spec, root, place)
    assert isinstance(spec, OpenEndedSuite)
    return _open_items(spec, root, place)


def _label_items(spec: LabelsSuite, root: Path, place: str, known: tuple[str, ...] | None) -> Items:
    def check(where: str, read: LabelLine) -> None:
        if known is not None:
            check_label(where, read.label, known)

    lines = read_items(spec.items, root, LabelLine, spec.fields, spec.tags, place, check)
    labels = tuple(sorted({line.label for _, line in lines})) if known is None else known
    return [
        (where, Item(text=read.text, choices=labels, gold=labels.index(read.label), **_about(read)))
        for where, read in lines
    ]


def _answer_items(spec: AnswersSuite | FactsSuite, root: Path, place: str) -> Items:
    scorer = scorer_of(spec)

    def check(where: str, read: AnswerLine) -> None:
        problem = next((found for answer in read.right if (found := scorer.problem(answer))), "")
        if problem:
            raise UsageError(f"{where}: answer: {problem}")

    lines = read_items(spec.items, root, AnswerLine, spec.fields, spec.tags, place, check)
    return [(where, Item(text=read.question, answers=read.right, **_about(read))) for where, read in lines]


def _question_items(spec: UnanswerableSuite, root: Path, place: str) -> Items:
    read = read_items(spec.items, root, QuestionLine, spec.fields, spec.tags, place)
    return [(where, Item(text=line.question, **_about(line))) for where, line in read]


def _choice_items(spec: ChoiceSuite, root: Path, place: str) -> Items:
    def check(where: str, read: ChoiceLine) -> None:
        if read.answer >= len(read.choices):
            raise UsageError(f"{where}: answer: {read.answer} is outside the choices 0 to {len(read.choices) - 1}")
        if len(set(read.choices)) != len(read.choices):
            raise UsageError(f"{where}: choices: two of them are equal")

    lines = read_items(spec.items, root, ChoiceLine, spec.fields, spec.tags, place, check)
    return [
        (where, Item(text=read.question, choices=read.choices, gold=read.answer, **_about(read)))
        for where, read in lines
    ]


def _open_items(spec: OpenEndedSuite, root: Path, place: str) -> Items:
    read = read_items(spec.items, root, OpenLine, spec.fields, spec.tags, place)
    return [
        (where, Item(text=line.prompt, answers=line.answers, variants=line.variants, tags=line.tags))
        for where, line in read
    ]


def _about(line: LabelLine | AnswerLine | QuestionLine | ChoiceLine) -> dict[str, Any]:
    return {"tags": line.tags, "group": line.group, "stratum": line.stratum}


_KINDS: dict[str, type[AnySuite]] = {
    "labels": LabelsSuite,
    "answers": AnswersSuite,
    "facts": FactsSuite,
    "unanswerable": UnanswerableSuite,
    "choice": ChoiceSuite,
    "benchmark": BenchmarkSuite,
    "open_ended": OpenEndedSuite,
}
