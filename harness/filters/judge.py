"""A model as judge: asked for one choice per row, read by its probabilities, measured on the seeds first.

Where an engine gives no log-probabilities, the choice is read as it is written: its score is 1 or 0.

The judge picks one word. Its probability for the accepted word is the row's score. On the seeds people already
know the answer, so they tell whether the judge can tell right from wrong labels at all, and where to draw the
line. A judge no better than chance is not used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from harness.core import templates
from harness.core.record import Record, digest
from harness.core.text import named_label, normalise
from harness.engines.protocols import PROBES, lack_logprobs
from harness.errors import nearest
from harness.filters.base import Answers, Context, Needs, Rule, no_requests
from harness.filters.calibration import Calibration, calibrate, prior_of, weigh
from harness.models.teachers import OWN_TEACHER
from harness.records import (
    Completion,
    Example,
    Message,
    Origin,
    Provenance,
    Request,
    Row,
    Sampling,
    Verdict,
    in_form,
)

__all__ = ["Calibration", "Judge", "choice_probabilities"]

Purpose = Literal["judge", "calibrate"]

UNUSED = "judge not used"
SILENT = "the judge did not answer"
WRITTEN_TOKENS = 512  # of a written choice: models that think need them, others stop by themselves


class Judge(Record):
    """Drops a row when the judge's probability for the accepted choice is below a threshold set on the seeds.

    By default the threshold keeps 90% of the rightly answered seeds. The template is given the fields of the row,
    its whole input as `text`, its `answer` (also as `label`) and `description`, `labels` (label -> description) and
    `shots`: seeds with the same names and `wrong`, an answer that is not theirs.
    """

    needs: ClassVar = Needs(files=("template",), teachers=("teacher",))

    kind: Literal["judge"] = "judge"
    template: Annotated[str, Field(min_length=1)]  # path of a Jinja file, relative to the project
    teacher: Annotated[str, Field(min_length=1)] = OWN_TEACHER  # who judges: a name of `teachers`
    choices: Literal["labels"] | tuple[str, ...] = "labels"  # what the judge picks from
    accept: str = "label"  # the choice that means good: "label" is the row's own label
    form: Literal["completion", "chat"] = "completion"  # a plain prompt to continue, or one user turn
    shots: Annotated[int, Field(ge=0, le=64)] = 1  # seeds per label shown in the prompt
    keep_seeds: Annotated[float, Field(gt=0, le=1)] = 0.9  # share of rightly labelled seeds the threshold keeps
    wrong_labels: Annotated[int, Field(ge=1)] = 8  # wrong labels tried per seed when calibrating, at most
    calibration_seeds: Annotated[int, Field(ge=8)] = 256  # seeds used for it at most

    @model_validator(mode="after")
    def _choosable(self) -> Self:
        if self.choices == "labels":
            if self.accept != "label":
                raise ValueError(f'accept {self.accept!r}: with choices "labels" it must be "label"')
            return self
        check_choices(self.choices, self.accept)
        return self

    def prepare(self, context: Context) -> Rule:
        """Measures the judge on the seeds first. One that is no better than chance asks nothing and drops nothing."""
        rows = self.calibration_rows(context)
        requests = self.ask(rows, context, "calibrate")
        if lack_logprobs(context.ask(requests[:PROBES])):
            context.say("judge: this engine gives no log-probabilities, so the choice that it writes out is read")
            requests = self.ask(rows, context, "calibrate", written=True)
        calibration = self.calibrate(rows, context.ask(requests), context, context.random_seed)
        request = self._request_maker(context, "judge", calibration.written)

        def verdicts(rows: Sequence[Row], answers: Answers) -> list[Verdict]:
            return self.verdicts(rows, list(chain.from_iterable(answers)), context, calibration)

        requests_of = (lambda row: (request(row),)) if calibration.usable else no_requests
        return Rule(verdicts, requests_of, note=calibration.sentence())

    def ask(
        self, rows: Sequence[Row], context: Context, purpose: Purpose = "judge", *, written: bool = False
    ) -> list[Request]:
        """One request per row, same order. Rows whose prompts are equal give requests of equal keys.

        One token is asked for, since its probabilities are all that is read. An engine that gives none is asked for
        the choice `written` out. Raises UsageError for a bad template.
        """
        request = self._request_maker(context, purpose, written)
        return [request(row) for row in rows]

    def _request_maker(self, context: Context, purpose: Purpose, written: bool) -> Callable[[Row], Request]:
        template = templates.load(context.root / self.template)
        by_label = _shots_by_label(context)
        labels = templates.plain(context.labels)
        # a prompt to be continued ends in a word, so the words that follow it begin with a space
        space = " " if self.form == "completion" else ""
        choices = tuple(space + choice for choice in self._choices(context))
        sampling = Sampling(temperature=0, max_tokens=1, choices=choices, logprobs=20)
        if written:
            stop = ("\n",) if self.form == "completion" else ()
            sampling = Sampling(temperature=0, max_tokens=WRITTEN_TOKENS, choices=choices, stop=stop)

        def request(row: Row) -> Request:
            text = template.render_plain(
                {
                    **templates.plain(row.example.shown),
                    "description": labels.get(row.answer, ""),
                    "labels": labels,
                    "shots": self._shots(by_label, row),
                }
            )
            return Request(
                model=context.teachers.model(self.teacher),
                **in_form(self.form, text),
                sampling=sampling,
                template_digest=template.digest,
                origin=Origin(purpose=purpose, template=self.template, label=row.answer, row=row.id),
            )

        return request

    def verdicts(
        self,
        rows: Sequence[Row],
        completions: Sequence[Completion],
        context: Context,
        calibration: Calibration,
    ) -> list[Verdict]:
        """One verdict per row, same order. `completions` answer `ask(rows, context)` one by one.

        `score` is the probability of the accepted choice among the choices, weighed by the calibration's
        prior, `against` the likeliest choice.
        With a calibration that is not usable every row is kept, and `completions` may be empty.
        """
        if not calibration.usable:
            return [Verdict(row=row.id, filter=self.kind, keep=True, reason=UNUSED) for row in rows]
        choices = self._choices(context)
        return [
            self._verdict(
                row,
                weigh(choice_probabilities(completion, choices), calibration.prior),
                calibration.threshold,
            )
            for row, completion in zip(rows, completions, strict=True)
        ]

    def _verdict(self, row: Row, chances: Mapping[str, float], threshold: float) -> Verdict:
        accepted = self._accepted(row)
        if not chances:
            return Verdict(row=row.id, filter=self.kind, keep=False, reason=SILENT)
        score, top_choice = chances.get(accepted, 0.0), max(chances, key=lambda choice: chances[choice])
        keep = score >= threshold
        reason = "" if keep else f"the judge gives {accepted!r} {score:.3f}, below {threshold:.3f}"
        return Verdict(row=row.id, filter=self.kind, keep=keep, reason=reason, score=score, against=top_choice)

    def calibration_rows(self, context: Context) -> list[Row]:
        """Each seed with its right label, then with `wrong_labels` wrong ones picked by digest.

        Where the task has no labels, the wrong ones are other seeds' answers.

        Of more than `calibration_seeds` seeds, those with the smallest digests, evenly over the labels.
        """
        queues = {label: sorted(seeds, key=_place) for label, seeds in _by_answer(context.seeds).items()}
        chosen = [
            seeds[i]
            for i in range(max(map(len, queues.values()), default=0))
            for seeds in queues.values()
            if i < len(seeds)
        ]
        answers = tuple(context.labels) or tuple(queues)
        rows: list[Row] = []
        for seed in chosen[: self.calibration_seeds]:
            wrong = sorted((label for label in answers if label != seed.answer), key=lambda x: digest(seed.id, x))
            rows += [_answered(seed, label) for label in (seed.answer, *wrong[: self.wrong_labels])]
        return rows

    def calibrate(
        self, rows: Sequence[Row], completions: Sequence[Completion], context: Context, random_seed: int = 0
    ) -> Calibration:
        """How well the judge tells right from wrong labels of the seeds.

        `rows` are `calibration_rows(context)`, `completions` answer `ask(rows, context)` one by one.
        """
        choices = self._choices(context)
        right = {seed.id: seed.answer for seed in context.seeds}
        answers = [choice_probabilities(completion, choices) for completion in completions]
        favours: dict[str, dict[str, float]] = {}  # what each seed's own row was given
        for row, chances in zip(rows, answers, strict=True):
            if chances and row.answer == right[row.provenance.seeds[0]] and self.choices == "labels":
                favours[row.provenance.seeds[0]] = chances
        good: dict[str, float] = {}
        bad: dict[str, list[float]] = {}
        priors: dict[str, dict[str, float]] = {}  # a seed that weighed itself would look better than a new text
        for row, chances in zip(rows, answers, strict=True):
            if not chances:
                continue
            seed = row.provenance.seeds[0]
            if seed not in priors:
                priors[seed] = prior_of([c for name, c in favours.items() if name != seed])
            score = weigh(chances, priors[seed]).get(self._accepted(row), 0.0)
            if row.answer == right[seed]:
                good[seed] = score
            else:
                bad.setdefault(seed, []).append(score)
        both = [seed for seed in good if seed in bad]
        written = lack_logprobs(completions)
        silent = (c for c, chances in zip(completions, answers, strict=True) if not chances)
        why = next((c.error or c.no_answer or f"{c.text[:60]!r} names no choice" for c in silent), "")
        prior = prior_of(list(favours.values()))
        # rows are weighed by the whole prior, so the threshold must be set on seeds weighed the same way
        as_rows = [weigh(favours[seed], prior).get(right[seed], 0.0) for seed in both] if favours else None
        calibration = calibrate(
            [good[seed] for seed in both],
            [bad[seed] for seed in both],
            self.keep_seeds,
            sum(not chances for chances in answers),
            random_seed,
            written,
        ).weighed(prior, as_rows, self.keep_seeds)
        return calibration.model_copy(update={"why_silent": why})

    def _choices(self, context: Context) -> tuple[str, ...]:
        return tuple(context.labels) if self.choices == "labels" else self.choices

    def _accepted(self, row: Row) -> str:
        return row.answer if self.choices == "labels" else self.accept

    def _shots(self, by_label: Mapping[str, list[tuple[str, dict[str, str]]]], row: Row) -> list[dict[str, str]]:
        """`shots` seeds per label without the row's own text, one label after the other and round again.

        As many for each label as the smallest has to spare: were a seed's own label one example short while
        calibrating, the judge would lean to the other labels.
        """
        row_text = normalise(row.text)
        each = min(self.shots, *(len(seeds) - 1 for seeds in by_label.values())) if self.shots else 0
        lists = [[shot for text, shot in seeds[: each + 1] if text != row_text][:each] for seeds in by_label.values()]
        return [shot for together in zip(*lists, strict=False) for shot in together]


def choice_probabilities(completion: Completion, choices: Sequence[str]) -> dict[str, float]:
    """choice -> probability among the choices, summing to 1. Empty when the completion cannot tell.

    Without log-probabilities, or with those of a thought's first token, all of it goes to the choice that is written.
    Otherwise reads the log-probabilities of the first position, which engines report before the guided mask. A token
    belongs to the one choice that begins with it, spaces and case aside. Tokens that begin no choice are left
    out. So are those that begin several, and when they hold at least as much probability as all that belong,
    nothing can be told. A choice without a token is given the smallest probability reported: it has no more.
    """
    if completion.finish_reason == "error":
        return {}
    if completion.thinking or not completion.first_logprobs:
        written = named_label(completion.text, choices)
        return {choice: float(choice == written) for choice in choices} if written is not None else {}
    folded = {choice: _fold(choice) for choice in choices}
    mass: dict[str, float] = {}
    unclear = 0.0
    for token, logprob in completion.first_logprobs.items():
        piece, chance = _fold(token), math.exp(logprob)
        owners = [choice for choice in choices if piece and folded[choice].startswith(piece)]
        if len(owners) == 1:
            mass[owners[0]] = mass.get(owners[0], 0.0) + chance
        elif owners:
            unclear += chance
    total = sum(mass.values())
    if total <= unclear or not math.isfinite(total):
        return {}
    bound = math.exp(min(completion.first_logprobs.values()))
    filled = {choice: mass.get(choice, bound) for choice in choices}
    total = sum(filled.values())
    return {choice: chance / total for choice, chance in filled.items()}


def check_choices(choices: Sequence[str], accept: str) -> None:
    """Raises ValueError for choices that an answer cannot tell apart, and for an accepted one that is none of them."""
    folded = [_fold(choice) for choice in choices]
    if len(set(folded)) != len(folded) or len(folded) < 2 or "" in folded:
        raise ValueError(f"choices {list(choices)} must be two or more different words")
    if accept not in choices:
        hint = nearest(accept, choices)
        raise ValueError(f"accept {accept!r} is not one of the choices {list(choices)}{hint}")


def _fold(text: str) -> str:
    return text.strip().casefold()


def _place(seed: Example) -> str:
    return digest("calibration", seed.id)


def _by_answer(seeds: Sequence[Example]) -> dict[str, list[Example]]:
    groups: dict[str, list[Example]] = {}
    for seed in seeds:
        groups.setdefault(seed.answer, []).append(seed)
    return groups


def _shots_by_label(context: Context) -> dict[str, list[tuple[str, dict[str, str]]]]:
    """label -> (normalised input, what a template sees) of its seeds, in file order, each input once.

    Without labels all seeds are one group, and the wrong answer of each is that of the next seed with another one.
    """
    labels = list(context.labels)
    groups = _by_answer(context.seeds) if labels else {"": list(context.seeds)}
    shots: dict[str, list[tuple[str, dict[str, str]]]] = {}
    for label, seeds in groups.items():
        unique: dict[str, dict[str, str]] = {}
        for i, seed in enumerate(seeds):
            answers = labels if labels else [s.answer for s in (*seeds[i:], *seeds[:i])]
            wrong = [answer for answer in answers if answer != seed.answer] or [seed.answer]
            place = (labels.index(label) + i) % len(wrong) if labels else 0
            unique.setdefault(normalise(seed.text), templates.plain({**seed.shown, "wrong": wrong[place]}))
        shots[label] = list(unique.items())
    return shots


def _answered(seed: Example, answer: str) -> Row:
    """A seed as a row with any answer."""
    return Row(
        messages=(Message(role="user", content=seed.text), Message(role="assistant", content=answer)),
        example=seed.model_copy(update={"answer": answer}),
        provenance=Provenance(source="seed", seeds=(seed.id,)),
    )
