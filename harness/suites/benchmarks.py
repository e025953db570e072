"""Public benchmarks: lm-evaluation-harness supplies task, prompt and metric. Our engine answers.

The library's own loop (0.4.13) counts what could not be asked as wrong, and numbers the documents of a subset by
their place in it. So its tasks build the requests and judge the answers here, one document at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from harness.core.record import digest
from harness.engines.protocols import StudentEngine
from harness.errors import UsageError
from harness.records import Score
from harness.suites.benchmark_lm import Ledger, Place, bridge
from harness.suites.benchmark_rows import (
    LOCAL,
    NotReachable,
    benchmark_tasks,
    chosen_documents,
    documents_of,
    fingerprint,
    questions,
)
from harness.suites.generate import shares
from harness.suites.outcome import Outcome

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import Task

    from harness.suites.benchmark import BenchmarkSuite

__all__ = [
    "NotReachable",
    "benchmark_tasks",
    "chosen_documents",
    "fingerprint",
    "questions",
    "score_benchmark",
]

CHUNK = 512  # documents asked together: what the engine shares between them against what an interruption loses
PASSAGES = ("passage_id", "passage", "article", "paragraph", "story", "context")  # fields that documents share
INVALID = "[invalid]"  # what the library's patterns give when nothing in an answer matches


@dataclass(frozen=True)
class Question:
    """One document as the task asks it."""

    task: Task
    index: int  # of the document in its task
    requests: list[Instance] = field(default_factory=list)
    right: tuple[int, ...] = ()  # the right ones among `choices`
    choices: tuple[str, ...] = ()  # none where an answer is written or a text measured
    error: str = ""  # why it cannot be asked or judged

    @property
    def place(self) -> Place:
        """Its name in the ledger."""
        return str(self.task.config.task), self.index

    @property
    def document(self) -> Mapping[str, Any]:
        """The row it was made from."""
        return documents_of(self.task)[self.index]


def score_benchmark(
    suite: BenchmarkSuite, tasks: Sequence[Task], engine: StudentEngine, model: str = "student"
) -> Outcome:
    """One score per chosen document, in the order of `chosen_documents`, with the task's own metrics as values.

    `model` names the weights in requests for text. A document that cannot be asked, measured or judged is failed
    and says why, also when the engine fails. UsageError and Interrupted pass through.
    """
    documents = chosen_documents(tasks, suite.limit)
    ledger = Ledger()
    lm = bridge(engine, ledger, model)
    scores: dict[Place, Score] = {}
    names = {(str(task.config.task), index): name for task, index, name in documents}
    answered: list[Question] = []
    totals: dict[tuple[str, str], list[Any]] = {}
    waiting = _questions(documents, suite, lm)
    while chunk := list(islice(waiting, CHUNK)):
        _ask(lm, [question for question in chunk if not question.error])
        for question in chunk:
            scores[question.place] = _score(names[question.place], question, suite, ledger, totals)
            question.requests.clear()  # prompts are long
        answered += chunk
    return Outcome(
        scores=tuple(scores[place] for place in names),
        chance=_chance(answered),
        notes=tuple(_notes(suite, tasks, ledger, totals)),
    )


# --- asking -----------------------------------------------------------------------------------------------------


def _questions(documents: Iterable[tuple[Task, int, str]], suite: BenchmarkSuite, lm: Any) -> Iterator[Question]:
    """Every chosen document, by task and in the order of its rows: the library draws examples in that order."""
    from lm_eval.defaults import DEFAULT_OTHER_SEED

    chosen: dict[str, tuple[Task, list[int]]] = {}
    for task, index, _ in documents:
        chosen.setdefault(task.config.task, (task, []))[1].append(index)
    for task, indices in chosen.values():
        if getattr(task, "MULTIMODAL", False) or getattr(task, "UNSAFE_CODE", False):
            raise UsageError(f"benchmark: {suite.benchmark!r} needs pictures, sound or running a model's code")
        task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
        for index in sorted(indices):
            yield _question(task, index, lm if suite.form == "chat" else None)


def _question(task: Task, index: int, chat: Any | None) -> Question:
    """A document and its requests. A row that its task cannot read becomes a question with an error."""
    from jinja2 import TemplateError

    document = documents_of(task)[index]
    template = chat.apply_chat_template if chat else None
    try:
        context = task.fewshot_context(
            document,
            num_fewshot=task.config.num_fewshot or 0,
            apply_chat_template=chat is not None,
            fewshot_as_multiturn=chat is not None,
            chat_template=template,
            gen_prefix=task.doc_to_prefix(document),
        )
        requests = task.construct_requests(
            doc=document,
            ctx=context,
            metadata=(task.config.task, index, task.config.repeats),
            apply_chat_template=chat is not None,
            chat_template=template,
        )
        choices = tuple(task.doc_to_choice(document)) if task.OUTPUT_TYPE == "multiple_choice" else ()
        right = _right(task, document, choices)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError, TemplateError) as error:
        return Question(task, index, error=f"the row does not fit its task: {error}")
    return Question(task, index, requests if isinstance(requests, list) else [requests], right, choices)


def _right(task: Task, document: Mapping[str, Any], choices: Sequence[str]) -> tuple[int, ...]:
    """Which choices are right. None where only the task's own metric knows. Raises ValueError for a bad label."""
    if not choices:
        return ()
    if task.config.process_results is not None:
        labels = (document.get("mc2_targets") or {}).get("labels", ())
        return tuple(k for k, label in enumerate(labels) if label == 1) if len(labels) == len(choices) else ()
    gold = task.doc_to_text(document) if task.multiple_input else task.doc_to_target(document)
    gold_indices = [choices.index(g) if isinstance(g, str) else g for g in (gold if isinstance(gold, list) else [gold])]
    outside = [k for k in gold_indices if not 0 <= k < len(choices)]
    if outside:
        raise ValueError(f"the gold label {outside[0]} is outside its {len(choices)} choices")
    return tuple(gold_indices)


def _ask(lm: Any, questions: Sequence[Question]) -> None:
    """Put all requests to the model, those of one kind together. Answers land in the requests."""
    kinds: dict[str, list[Instance]] = {}
    for question in questions:
        for request in question.requests:
            kinds.setdefault(request.request_type, []).extend([request] * (request.repeats or 1))
    for kind, requests in kinds.items():
        for request, answer in zip(requests, getattr(lm, kind)(requests), strict=True):
            request.resps.append(answer)


# --- judging ----------------------------------------------------------------------------------------------------


def _score(
    name: str, question: Question, suite: BenchmarkSuite, ledger: Ledger, totals: dict[tuple[str, str], list[Any]]
) -> Score:
    """The document's score under its id, `name`. What the library sums up in its own way goes into `totals`."""
    place, choices = question.place, question.choices
    about: dict[str, Any] = {
        "item": name,
        "split": "test",
        "gold": " | ".join(choices[k] for k in question.right),
        "truncated": place in ledger.truncated,
        "group": _group(question),
        "stratum": _stratum(place[0], suite.benchmark),
        "prompt_tokens": ledger.prompt_tokens.get(place, 0),
        "answer_tokens": ledger.answer_tokens.get(place, 0),
    }
    if error := question.error or ledger.failed.get(place, ""):
        return Score.failed(error, **about)
    try:
        values = _judged(question, totals)
    except (ValueError, KeyError, IndexError, TypeError, ArithmeticError, AssertionError) as error:
        return Score.failed(f"the task cannot judge the answer: {error}", **about)
    unknown = [name for name, value in values.items() if not math.isfinite(value)]
    if unknown:
        return Score.failed(f"the task's metric {unknown[0]} is not a number", **about)
    if choices:
        about["top_choice"] = choices[_best(question, values)]
    elif question.task.OUTPUT_TYPE == "generate_until":
        about |= _answer(question)
    return Score.scored(values, **about)


def _judged(question: Question, totals: dict[tuple[str, str], list[Any]]) -> dict[str, float]:
    """The task's metrics for one document, `accuracy`, and for choices the probability of the right ones."""
    task, requests = question.task, question.requests
    task._instances = requests  # what its filters work on
    task.apply_filters()
    values: dict[str, float] = {}
    for name in requests[0].filtered_resps:
        metrics = task.process_results(question.document, [request.filtered_resps[name] for request in requests])
        ending = "" if name == "none" else f"_{name.replace('-', '_')}"
        for metric, value in metrics.items():
            if _own_total(task, metric):
                totals.setdefault((metric, ending), []).append(value)
            if task.OUTPUT_TYPE == "loglikelihood_rolling":  # a pair: the total of one text is that text's value
                value = task.aggregation()[metric]([value])
            if isinstance(value, int | float) or hasattr(value, "dtype"):
                values[metric + ending] = float(value)
    primary = _primary(values)
    if primary:
        values["accuracy"] = values[primary]
    if question.right:
        logprobs = [request.resps[0][0] for request in requests[: len(question.choices)]]
        probable = shares(logprobs)
        values["gold_probability"] = sum(probable[k] for k in question.right)
        top = max(logprobs[k] for k in question.right)
        values["gold_nll"] = -top - math.log(sum(math.exp(logprobs[k] - top) for k in question.right))
    return values


def _own_total(task: Task, metric: str) -> bool:
    """Whether the library sums this metric up otherwise than by the mean over documents."""
    how = task.aggregation().get(metric)
    return how is not None and getattr(how, "__name__", "") not in ("mean", "nanmean")


def _primary(values: Mapping[str, float]) -> str | None:
    """The metric that counts as accuracy: by length where the task measures both, else the lenient match."""
    for name in ("acc_norm", "acc"):
        if name in values:
            return name
    matches = sorted(name for name in values if name.startswith("exact_match"))
    return next((name for name in matches if "flexible" in name), matches[0] if matches else None)


def _best(question: Question, values: Mapping[str, float]) -> int:
    """The choice the model picks, by length where accuracy does."""
    logprobs = [request.resps[0][0] for request in question.requests[: len(question.choices)]]
    lengths = [max(1, len(choice)) if "acc_norm" in values else 1 for choice in question.choices]
    return max(range(len(logprobs)), key=lambda k: logprobs[k] / lengths[k])


def _answer(question: Question) -> dict[str, Any]:
    """What was written, what should have been, and whether any of the task's patterns found an answer in it."""
    request = question.requests[0]
    text = str(request.resps[0])
    matched = any(answer != INVALID for answer in request.filtered_resps.values())
    gold = str(question.task.doc_to_target(question.document))
    return {"output": text, "gold": gold, "read": bool(text.strip()) and matched}


def _group(question: Question) -> str:
    """Names the passage a document shares with others, or '' where its task has none."""
    document = question.document
    shared = next((document[name] for name in PASSAGES if isinstance(document.get(name), str) and document[name]), "")
    return digest("passage", shared)[:16] if shared else ""


def _stratum(task: str, benchmark: str) -> str:
    """The subject, for one task of a group."""
    bare = task.removesuffix(LOCAL)
    return "" if bare == benchmark else bare.removeprefix(f"{benchmark}_")


# --- the whole --------------------------------------------------------------------------------------------------


def _chance(questions: Sequence[Question]) -> float | None:
    """What guessing gets: the mean share of right choices, or None where answers are not choices."""
    askable = [question for question in questions if not question.error]
    if not askable or any(not question.choices for question in askable):
        return None
    return sum(max(1, len(q.right)) / len(q.choices) for q in askable) / len(askable)


def _notes(
    suite: BenchmarkSuite, tasks: Sequence[Task], ledger: Ledger, totals: Mapping[tuple[str, str], Sequence[Any]]
) -> Iterator[str]:
    fewer = sorted({task.config.num_fewshot or 0 for task in tasks} - {suite.num_fewshot})
    if fewer:
        yield f"{fewer[0]} examples instead of {suite.num_fewshot}: the rows that examples come from are not there"
    if suite.form == "chat":
        yield "asked in the model's chat template"
    if ledger.alike:
        yield (
            f"{len(ledger.alike)} documents have choices that are the same tokens to this model: the first of them"
            " is picked"
        )
    for (metric, ending), values in totals.items():
        if len(tasks) == 1 and values:
            total = float(tasks[0].aggregation()[metric](list(values)))
            yield f"{metric}{ending} over all {len(values)} documents together: {total:.4g}"
