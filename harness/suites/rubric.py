"""Free text judged by a model: the student's answer against the item's reference, asked in both orders.

The judge picks "A" or "B" and is read by the probabilities of the two, so that nothing it writes is parsed. Only where
an engine gives no log-probabilities, the letter it writes is read. Judges
lean to a position (Zheng et al. 2023, "Judging LLM-as-a-judge with MT-Bench and Chatbot Arena"): an answer wins
only where it wins from both. Whether the judge can judge at all is measured on planted pairs, an item's own
reference against another item's, where everybody knows which one must win.

A comparison that needs no judge is not asked: an empty answer loses, the reference itself is as good as itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from harness import stats
from harness.core.record import Record, digest
from harness.core.templates import Template, compile_template
from harness.core.text import named_label, normalise
from harness.engines.protocols import PROBES, lack_logprobs
from harness.errors import UsageError
from harness.records import Completion, Item, Message, Origin, Request, Sampling
from harness.stats import Interval

LETTERS = ("A", "B")
_LETTER = re.compile(r"\W*(?:answer\W+)?([AB])(?:\W*$|[^\w\s'])", re.IGNORECASE)  # "A", "**B**", "Answer A: ..."
WRITTEN_TOKENS = 512  # of a written letter: models that think need them, others stop by themselves
CHANCE = 0.5  # no judge that ignores the answers gets more of the planted pairs right, however it picks
PROMPT = """\
Two answers to one instruction are compared by this rule: {{ rubric }}

Instruction: {{ question }}

Answer A:
{{ a }}

Answer B:
{{ b }}

Which answer is better by the rule, A or B? Reply with the letter only.
"""


class Rubric(Record):
    """How free text is judged. A suite file holds it as `rubric`. The reference is an item's first answer."""

    kind: Literal["rubric"] = "rubric"
    rubric: Annotated[str, Field(min_length=1)]  # what makes one answer better than another, in words
    judge: str = ""  # the judge's model, as the run file names models; empty: the rows' teacher, and it is said
    form: Literal["completion", "chat"] = "chat"  # a plain prompt to continue, or one user turn
    prompt: Annotated[str, Field(min_length=1)] = PROMPT  # Jinja, given rubric, question, a and b
    planted: Annotated[int, Field(ge=0)] = 50  # pairs with a known winner that measure the judge, at most

    @model_validator(mode="after")
    def _prompt_renders(self) -> Self:
        try:
            self.template.render(rubric=self.rubric, question="q", a="a", b="b")
        except UsageError as error:
            raise ValueError(str(error)) from error
        return self

    @cached_property
    def template(self) -> Template:
        """The prompt, compiled. Raises UsageError for one that is no template."""
        return compile_template(Path("prompt"), self.prompt)

    def ask(self, items: Sequence[Item], outputs: Sequence[str], model: str, *, written: bool = False) -> list[Request]:
        """What the judge must answer: comparisons of `outputs` (one per item), then planted ones, equal ones once.

        `model` is the judge's identity. `written` asks for the letter in writing, for an engine without
        log-probabilities. Raises UsageError for an item without a reference or a bad prompt.
        """
        pairs = [*_compared(items, outputs), *self._planted(items)]
        requests = [
            request for pair in pairs if pair.settled is None for request in self._requests(pair, model, written)
        ]
        return list({request.key: request for request in requests}.values())

    def answers(
        self,
        items: Sequence[Item],
        outputs: Sequence[str],
        model: str,
        answer: Callable[[Sequence[Request]], list[Completion]],
    ) -> list[Completion]:
        """What the judge answers to `ask(...)`, asked by `answer`, in writing if the first lack log-probabilities."""
        requests = self.ask(items, outputs, model)
        if lack_logprobs(answer(requests[:PROBES])):
            requests = self.ask(items, outputs, model, written=True)
        return answer(requests)

    def values(
        self, items: Sequence[Item], outputs: Sequence[str], completions: Sequence[Completion], model: str
    ) -> list[dict[str, float]]:
        """Per item, same order: `preferred` (0 worse than the reference, 0.5 as good, 1 better), its smooth form
        `preference` (0 to 1) and, where the judge was asked, `agreement` of the two orders (0 or 1).

        `completions` answer `ask(...)` in any order. Empty where the judge did not answer both.
        """
        answers = {completion.request: completion for completion in completions}
        return [self._read(pair, answers, model) for pair in _compared(items, outputs)]

    def judge_notes(
        self,
        items: Sequence[Item],
        outputs: Sequence[str],
        completions: Sequence[Completion],
        model: str,
        writers: Collection[str],
    ) -> tuple[str, ...]:
        """What a reader must know of the judge. `writers` are the identities of the models that wrote the rows.

        A planted pair counts as right when its right answer wins from both positions. The denominator is all of
        them. One reference stands in two pairs, so the interval (Wilson) is a little too narrow.
        """
        answers = {completion.request: completion for completion in completions}
        judged = self.values(items, outputs, completions, model)
        comparisons = sum(pair.settled is None for pair in _compared(items, outputs))
        silent = comparisons - sum("agreement" in values for values in judged)
        planted = [self._read(pair, answers, model) for pair in self._planted(items)]
        right = sum(values.get("preferred") == 1.0 for values in planted)
        gold = stats.wilson(right, len(planted)) if planted else None
        notes = _notes(gold, silent, comparisons, model, writes=model in writers)
        if lack_logprobs(completions):
            notes += ("the judge gives no log-probabilities: the letter it writes is read",)
        return notes

    def _planted(self, items: Sequence[Item]) -> list[_Pair]:
        """Each item's reference against the next item's, by digest, where the two differ."""
        ordered = sorted(items, key=lambda item: digest("planted", item.id))
        turned = [*ordered[1:], *ordered[:1]]
        pairs = [
            _Pair(item, _reference(item), _reference(next_item))
            for item, next_item in zip(ordered, turned, strict=True)
        ]
        return [pair for pair in pairs if normalise(pair.ours) != normalise(pair.rival)][: self.planted]

    def _requests(self, pair: _Pair, model: str, written: bool) -> Iterator[Request]:
        """The two orders: ours first, then ours second."""
        space = " " if self.form == "completion" else ""  # what follows a plain prompt begins with a space
        letters = tuple(space + letter for letter in LETTERS)
        sampling = Sampling(temperature=0, max_tokens=1, choices=letters, logprobs=20)
        if written:
            sampling = Sampling(temperature=0, max_tokens=WRITTEN_TOKENS, choices=letters)
        for a, b in ((pair.ours, pair.rival), (pair.rival, pair.ours)):
            text = self.template.render(rubric=self.rubric, question=pair.item.text, a=a.strip(), b=b.strip())
            yield Request(
                model=model,
                prompt=text.rstrip() if self.form == "completion" else "",
                messages=(Message(role="user", content=text.strip()),) if self.form == "chat" else (),
                sampling=sampling,
                template_digest=self.template.digest,
                origin=Origin(purpose="judge", row=pair.item.id),
            )

    def _read(self, pair: _Pair, answers: Mapping[str, Completion], model: str) -> dict[str, float]:
        if pair.settled is not None:
            return {"preferred": pair.settled, "preference": pair.settled}
        for written in (False, True):
            first, second = (_probability_of_a(answers.get(r.key)) for r in self._requests(pair, model, written))
            if first is not None and second is not None:
                break
        else:
            return {}
        chances = (first, 1 - second)  # that ours is the better one
        picks = [1.0 if chance > 0.5 else 0.0 if chance < 0.5 else 0.5 for chance in chances]
        preferred = picks[0] if picks[0] == picks[1] else 0.5
        return {
            "preferred": preferred,
            "preference": sum(chances) / 2,
            "agreement": float(picks[0] == picks[1]),
        }


@dataclass(frozen=True)
class _Pair:
    """One comparison. `settled` is its outcome where no judge is needed."""

    item: Item
    ours: str
    rival: str

    @property
    def settled(self) -> float | None:
        if not self.ours.strip():
            return 0.0
        return 0.5 if normalise(self.ours) == normalise(self.rival) else None


def _compared(items: Sequence[Item], outputs: Sequence[str]) -> list[_Pair]:
    return [_Pair(item, output, _reference(item)) for item, output in zip(items, outputs, strict=True)]


def _reference(item: Item) -> str:
    if not item.answers or not item.answers[0].strip():
        raise UsageError(f"item {item.id}: a rubric compares with a reference, and the item has no answers")
    return item.answers[0]


def _probability_of_a(completion: Completion | None) -> float | None:
    """The probability of A among the two letters, or None when the judge was not reached or gives neither."""
    if completion is None or completion.finish_reason == "error":
        return None
    if completion.thinking or not completion.first_logprobs:
        letter_match = _LETTER.match(completion.text)
        letter = letter_match[1].upper() if letter_match else named_label(completion.text, LETTERS)
        return None if letter is None else float(letter == "A")
    mass = dict.fromkeys(LETTERS, 0.0)
    for token, logprob in completion.first_logprobs.items():
        if token.strip().upper() in mass:
            mass[token.strip().upper()] += math.exp(logprob)
    total = sum(mass.values())
    return mass["A"] / total if total > 0 else None


def _notes(gold: Interval | None, silent: int, comparisons: int, model: str, *, writes: bool) -> tuple[str, ...]:
    notes = []
    if writes:
        notes.append(f"the judge, {model}, also wrote the training rows: it may favour answers that sound like it")
    if silent:
        notes.append(f"the judge did not answer {silent} of {comparisons} comparisons; these items failed")
    if gold is None:
        notes.append("the judge could not be measured: no two references of this suite differ")
    elif gold.low <= CHANCE:
        notes.append(
            f"the judge is no better than chance: it finds {gold.estimate:.0%} of {gold.n} planted pairs"
            f" [{gold.low:.0%}, {gold.high:.0%}]; do not read its verdicts"
        )
    return tuple(notes)
