"""The task's own items: by log-likelihood over the labels, and by the freely generated answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from harness.core.text import named_label
from harness.data.columns import title
from harness.data.lines import LabelLine, check_label
from harness.engines.protocols import StudentEngine
from harness.errors import UsageError
from harness.records import Completion, Item, Loglikelihood, Pair, Score
from harness.stats.classification import macro_f1
from harness.suites.base import ItemsSuite, about, checked_items, read_lines
from harness.suites.generate import Ending, Prompt, answer_ids, ask, context_ids, shares
from harness.suites.outcome import Outcome
from harness.suites.shaped import located, shape_of_items, shaped_examples
from harness.suites.suite import AskedAs, Extras, Requests, Resources, SuiteFile, chance

ENDING = Ending()  # a label is one line


def label_summary(scores: Sequence[Score], items: Sequence[Item]) -> dict[str, float]:
    """Macro F1 of the written answers. Unknown while some item was not asked."""
    if any(score.status == "failed" for score in scores):
        return {}
    labels = items[0].choices
    predicted = [named_label(score.output, labels) or "" for score in scores]
    return {"macro_f1": macro_f1([score.gold for score in scores], predicted, labels)}


class LabelsSuite(ItemsSuite):
    """The task's own items: {text, label}. Metrics: accuracy (generated answer), choice_accuracy, macro_f1, ..."""

    extras: ClassVar[Extras] = Extras(summary=label_summary)
    asked: ClassVar[AskedAs] = "task"
    item_metrics: ClassVar[tuple[str, ...]] = (
        *("accuracy", "choice_accuracy", "gold_probability", "gold_nll"),
        *("stop_rate", "words"),
    )
    kind: Literal["labels"]
    max_tokens: Annotated[int, Field(ge=1)] = 16  # tokens of a generated answer

    def load(self, file: SuiteFile) -> tuple[LabelsSuite, tuple[Item, ...]]:
        """As SuiteKind."""
        task_labels = file.shape.labels if file.shape else None
        if task_labels == ():
            raise UsageError(
                f"{file.place(('kind',))}: kind: the task has no labels; its own suites are of kind answers"
            )

        def check(place: str, line: LabelLine) -> None:
            if task_labels is not None:
                check_label(place, line.label, task_labels)

        shape = shape_of_items(self, file, self.asked)
        if shape is not None and task_labels:
            shaped = [
                located(
                    place,
                    example,
                    **(about | {"choices": task_labels, "gold": task_labels.index(example.answer), "answers": ()}),
                )
                for place, example, about in shaped_examples(self, file, shape)
            ]
            return self, checked_items(title(self.items), shaped, self.asked)
        lines = read_lines(self, file, LabelLine, check)
        labels = task_labels or tuple(sorted({line.label for _, line in lines}))
        items = [
            (place, Item(text=line.text, choices=labels, gold=labels.index(line.label), **about(line)))
            for place, line in lines
        ]
        return self, checked_items(title(self.items), items, self.asked)

    def gold(self, item: Item) -> tuple[str, ...]:
        """As SuiteKind: the label."""
        return (item.choices[item.gold],) if item.gold is not None else ()

    def requests(self, items: Sequence[Item]) -> Requests:
        """As SuiteKind: each label is measured, and an answer is written where no label is sure."""
        return Requests(str(len(items)), sum(len(item.choices) for item in items), len(items))

    def score(
        self,
        items: Sequence[Item],
        prompt: Prompt,
        ending: Ending,
        engine: StudentEngine,
        model: str,
        resources: Resources,
    ) -> Outcome:
        """As SuiteKind."""
        return Outcome(tuple(score_labels(items, prompt, engine, model, self.max_tokens, ending)), chance(items))


def score_labels(
    items: Sequence[Item],
    prompt: Prompt,
    engine: StudentEngine,
    model: str,
    max_tokens: int,
    ending: Ending = ENDING,
) -> list[Score]:
    """One score per item, same order. An item longer than the context fails by name.

    The log-likelihood of a label is the sum over its tokens and its stop. Where one label is
    what greedy decoding would write, that label is the generated answer and nothing needs generating.
    """
    if not items:
        return []
    labels = items[0].choices
    chats = [prompt(item) for item in items]
    answers = [answer_ids(engine, chats[0], label, ending) for label in labels]
    if len(set(answers)) < len(answers):
        raise UsageError(f"two of the labels {', '.join(labels)} are the same tokens to this model: rename one")
    room = engine.max_length - max(map(len, answers))
    contexts = [context_ids(engine, chat) for chat in chats]
    fits = [len(context) <= room for context in contexts]
    pairs = [
        Pair(context=context, continuation=answer)
        for context, fit in zip(contexts, fits, strict=True)
        if fit
        for answer in answers
    ]
    measured = iter(engine.loglikelihood(pairs))
    rated = [[next(measured) for _ in labels] if fit else [] for fit in fits]
    unsure = [i for i, row in enumerate(rated) if row and not any(m.greedy for m in row)]
    answered = ask({i: chats[i] for i in unsure}, engine, model, max_tokens, ending.stop)
    written = {i: (answer, *ending.read(chats[i], answer)) for i, answer in answered.items()}
    return [
        _score(item, row, written.get(i), len(context))
        for i, (item, row, context) in enumerate(zip(items, rated, contexts, strict=True))
    ]


def _score(
    item: Item, rated: Sequence[Loglikelihood], written: tuple[Completion, str, bool] | None, length: int
) -> Score:
    assert item.gold is not None
    gold = item.choices[item.gold]
    about = item.facts | {"gold": gold, "prompt_tokens": length}
    if not rated or any(not math.isfinite(m.logprob) for m in rated):
        why = f"the prompt is {length} tokens, longer than the context" if not rated else "not a number"
        return Score.failed(why, **about)
    best = max(range(len(rated)), key=lambda k: rated[k].logprob)
    if written is None:
        sure = next(k for k, m in enumerate(rated) if m.greedy)
        output, truncated, tokens = item.choices[sure], False, rated[sure].tokens
    else:
        answer, output, truncated = written
        tokens = answer.completion_tokens
        if answer.error:
            return Score.failed(answer.error, **about)
    label = named_label(output, item.choices)
    values = {
        "accuracy": float(label == gold),
        "choice_accuracy": float(best == item.gold),
        "gold_probability": shares([m.logprob for m in rated])[item.gold],
        "gold_nll": -rated[item.gold].logprob,
        "stop_rate": float(not truncated),
        "words": float(len(output.split())),
    }
    return Score.scored(
        values,
        read=label is not None,
        **about,
        top_choice=item.choices[best],
        output=output,
        truncated=truncated,
        answer_tokens=tokens,
    )
