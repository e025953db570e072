"""Which of several completions of a step is taken: a closed set of ways, each a frozen record with one method."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self

from pydantic import Field, model_validator

from harness.core import templates
from harness.core.json_file import read_bytes
from harness.core.python_file import TIMEOUT_S, PythonFunction
from harness.core.record import Record
from harness.core.text import normalise
from harness.errors import UsageError, nearest
from harness.filters.base import Context, Needs
from harness.filters.judge import WRITTEN_TOKENS, check_choices, choice_probabilities
from harness.metrics.answers import numbers, same
from harness.models.teachers import OWN_TEACHER
from harness.records import Completion, Origin, Request, Sampling, in_form

Variables = Mapping[str, Any]  # what templates of the step are given
NOTHING: Sequence[Completion] = ()


@dataclass(frozen=True)
class Picked:
    """The place of the completion that is taken, or None and the reason why none is."""

    place: int | None
    reason: str = ""
    score: float | None = None  # in the unit of the way to pick


@dataclass(frozen=True)
class Picker:
    """A way to pick that is ready. `candidates` are texts: what the step wrote, an object as JSON."""

    choose: Callable[[Sequence[str], Variables, Sequence[Completion]], Picked]
    requests: Callable[[Sequence[str], Variables], tuple[Request, ...]] = lambda candidates, variables: ()


class Pick(Protocol):
    """One way to take a completion of several. Its fields are its YAML."""

    needs: ClassVar[Needs]

    def prepare(self, context: Context) -> Picker:
        """The picker of this run. Raises UsageError for one that cannot work here."""
        ...


class Majority(Record):
    """Takes the answer that most completions give, case, articles and punctuation aside: for short answers.

    Self-consistency (Wang et al. 2023). Of equally many the first is taken.
    """

    needs: ClassVar = Needs()

    by: Literal["majority"] = "majority"
    min_share: Annotated[float, Field(ge=0, le=1)] = 0.0  # of the completions that must agree

    def prepare(self, context: Context) -> Picker:
        """Counts equal answers."""
        return Picker(lambda candidates, variables, answers: self._choose(candidates))

    def _choose(self, candidates: Sequence[str]) -> Picked:
        texts = [normalise(candidate) for candidate in candidates]
        text, votes = Counter(texts).most_common(1)[0]
        share = votes / len(texts)
        if share < self.min_share:
            return Picked(None, f"{votes} of {len(texts)} completions agree, a share below {self.min_share:g}", share)
        return Picked(texts.index(text), score=share)


class Equals(Record):
    """Takes the first completion that says a value which is known: a number that was computed, a word."""

    needs: ClassVar = Needs()

    by: Literal["equals"] = "equals"
    to: Annotated[str, Field(min_length=1)]  # the name of an attribute or of an earlier step

    def prepare(self, context: Context) -> Picker:
        """Compares the last number of a completion where the value is a number, else its words."""
        return Picker(lambda candidates, variables, answers: self._choose(candidates, variables))

    def _choose(self, candidates: Sequence[str], variables: Variables) -> Picked:
        if self.to not in variables:
            raise UsageError(
                f"pick.to: {self.to!r}{nearest(self.to, variables)}; there are: {', '.join(sorted(variables))}"
            )
        wanted = str(variables[self.to])
        for place, candidate in enumerate(candidates):
            if says(candidate, wanted):
                return Picked(place)
        return Picked(None, f"no completion says {wanted!r}")


def says(text: str, wanted: str) -> bool:
    """Whether the last number of a text is the number `wanted`, or its words are, where that is no number."""
    if value := numbers(wanted):
        written = numbers(text)
        return bool(written) and math.isclose(written[-1], value[-1], rel_tol=1e-9)
    return same(text, wanted)


class PickByPython(Record):
    """Takes the completion to which a function gives the highest number.

    The function is given a dict: `candidate`, and all that the step's template was given. None means that the
    completion will not do. It runs in a process of its own, where it can be stopped.
    """

    needs: ClassVar = Needs(files=("file",))

    by: Literal["python"] = "python"
    file: Annotated[str, Field(min_length=1)]  # relative to the project
    function: Annotated[str, Field(min_length=1)] = "score"
    timeout_s: Annotated[float, Field(gt=0, le=3600, exclude=True)] = TIMEOUT_S  # for each completion

    def prepare(self, context: Context) -> Picker:
        """Loads the file and looks the function up. Raises UsageError naming file and line of what went wrong."""
        path = context.root / self.file
        function = PythonFunction(path, read_bytes(path, "pick"), self.function, self.timeout_s)
        function.answers([], [])

        def choose(candidates: Sequence[str], variables: Variables, answers: Sequence[Completion]) -> Picked:
            plain = templates.plain(variables)
            arguments = [json.dumps({**plain, "candidate": candidate}) for candidate in candidates]
            scores = function.answers(arguments, candidates)
            for score in scores:
                if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
                    raise UsageError(f"{path}: {self.function} returned {score!r}; it must be a number, or None")
            return _highest(scores, f"{self.function} in {self.file} refuses every completion")

        return Picker(choose)


class PickByJudge(Record):
    """Takes the completion to whose `accept` the judge gives the highest probability.

    The template is given `candidate`, and all that the step's template was given.
    """

    needs: ClassVar = Needs(files=("template",), teachers=("teacher",))

    by: Literal["judge"] = "judge"
    template: Annotated[str, Field(min_length=1)]  # path of a Jinja file, relative to the project
    teacher: Annotated[str, Field(min_length=1)] = OWN_TEACHER  # who judges: a name of `teachers`
    choices: tuple[str, ...] = ("yes", "no")  # what the judge picks from
    accept: str = "yes"  # the choice that means good
    form: Literal["completion", "chat"] = "completion"
    min_probability: Annotated[float, Field(ge=0, le=1)] = 0.0  # of `accept`, or no completion is taken

    @model_validator(mode="after")
    def _choosable(self) -> Self:
        check_choices(self.choices, self.accept)
        return self

    def prepare(self, context: Context) -> Picker:
        """Compiles the template. Every completion is judged by itself."""
        template = templates.load(context.root / self.template)
        space = " " if self.form == "completion" else ""
        sampling = Sampling(
            temperature=0, max_tokens=WRITTEN_TOKENS, choices=tuple(space + c for c in self.choices), logprobs=20
        )

        def requests(candidates: Sequence[str], variables: Variables) -> tuple[Request, ...]:
            texts = [template.render(**{**variables, "candidate": candidate}) for candidate in candidates]
            return tuple(
                Request(
                    model=context.teachers.model(self.teacher),
                    **in_form(self.form, text),
                    sampling=sampling,
                    template_digest=template.digest,
                    origin=Origin(purpose="judge", template=self.template),
                )
                for text in texts
            )

        return Picker(lambda candidates, variables, answers: self._choose(answers), requests)

    def _choose(self, answers: Sequence[Completion]) -> Picked:
        chances = [choice_probabilities(answer, self.choices).get(self.accept) for answer in answers]
        best = _highest(chances, "the judge did not answer")
        if best.score is not None and best.score < self.min_probability:
            why = f"the judge gives {self.accept!r} {best.score:.3f} at most, below {self.min_probability:g}"
            return Picked(None, why, best.score)
        return best


class PickByStudent(Record):
    """Takes the completion that a student finds likeliest, its log-probability divided by its number of tokens.

    The student is asked as it is tuned: with the task's prompt for the row so far (GRAPE, Zhang et al. 2025).
    """

    needs: ClassVar = Needs()

    by: Literal["student"] = "student"
    model: Annotated[str, Field(min_length=1)]  # the student, as train.students names it

    def prepare(self, context: Context) -> Picker:
        """The score is in nats a token."""

        def choose(candidates: Sequence[str], variables: Variables, answers: Sequence[Completion]) -> Picked:
            return _highest(context.likelihood(self.model, variables, candidates), "the student measured nothing")

        return Picker(choose)


def _highest(scores: Sequence[float | None], why_none: str) -> Picked:
    """The first of the highest scores."""
    scored = [(score, -place) for place, score in enumerate(scores) if score is not None]
    if not scored:
        return Picked(None, why_none)
    score, place = max(scored)
    return Picked(-place, score=score)


AnyPick = Annotated[Majority | Equals | PickByPython | PickByJudge | PickByStudent, Field(discriminator="by")]
