"""Instructions answered in free text: does it repeat itself, stop, run long, stay on topic, spell, recite?

Nothing is ever chosen on these items, so all of them are test. Every number is one of a single item, so that
its distribution is known and two students pair item by item. `suite_metrics` adds those of all answers together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from harness.core.record import FORMAT, digest
from harness.data.columns import title
from harness.data.lines import OpenLine
from harness.engines.protocols import Embedder, StudentEngine
from harness.metrics.memorization import completes, copied_span, corpus, halves, load_canaries
from harness.metrics.moderation import Moderation, PythonModeration, load_moderation
from harness.metrics.quality import collapsed, compression_ratio, distinct_n, longest_repeat, loop_length, rep_n
from harness.metrics.refusals import refuses
from harness.metrics.spelling import spelling, words_of
from harness.records import Completion, Item, Message, Origin, Request, Sampling, Score
from harness.suites.base import ItemsSuite, checked_items, read_lines, require_files
from harness.suites.generate import Ending, Prompt
from harness.suites.outcome import Outcome
from harness.suites.suite import AskedAs, CardInputs, Extras, Requests, Resources, SuiteFile

# Cosine similarity below which an answer is off its prompt's topic: of the shipped prompts with their references
# none lies below, with the references of other prompts 86%.
OFF_TOPIC = 0.2
CANARY = "canary"  # the tag and the metric of a planted secret
SLACK_TOKENS = 8  # beyond those of the secret's second half: a student may cut it into more tokens

Vectors = Mapping[str, NDArray[np.float32]]


class OpenEndedSuite(ItemsSuite):
    """Instructions answered in free text: {prompt, answers: references, variants: the prompt in other words}."""

    asked: ClassVar[AskedAs] = "plain"
    item_metrics: ClassVar[tuple[str, ...]] = (
        *("repeat_share", "words", "stop_rate", "label_collapse", "empty", "loop", "repeat_words", "refusal"),
        *("compression_ratio", "rep_2", "rep_3", "rep_4", "length_ratio", "misspelling_rate", "copied_share"),
        *("flagged", "prompt_similarity", "off_topic", "reference_similarity", "consistency", "repeat_consistency"),
    )
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

    @property
    def extras(self) -> Extras:
        """As SuiteKind."""
        return Extras(
            reads_base=True,
            prepare=self._load_moderation,
            summary=lambda scores, items: suite_metrics(scores),
            card_inputs=self._card_inputs,
        )

    def load(self, file: SuiteFile) -> tuple[OpenEndedSuite, tuple[Item, ...]]:
        """As SuiteKind."""
        words = self.moderation.file if isinstance(self.moderation, PythonModeration) else self.moderation
        require_files(file, {"moderation": words, "canaries": self.canaries})
        located = [
            (place, Item(text=line.prompt, answers=line.answers, variants=line.variants, tags=line.tags))
            for place, line in read_lines(self, file, OpenLine)
        ]
        return self, checked_items(title(self.items), located, self.asked)

    def gold(self, item: Item) -> tuple[str, ...]:
        """As SuiteKind: an open instruction has no one right answer."""
        return ()

    def requests(self, items: Sequence[Item]) -> Requests:
        """As SuiteKind: an answer to each wording, and the repeats."""
        answers = len(items) * (1 + self.repeats) + sum(len(item.variants) for item in items)
        return Requests(str(len(items)), answers=answers)

    def _load_moderation(self, resources: Resources) -> None:
        if self.moderation:
            load_moderation(self.moderation, resources.root).flags([])

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
        root = resources.root
        tools = Tools(
            embedder=resources.embedder(),
            dictionary=resources.dictionary(),
            training_texts=resources.training_texts(),
            moderation=load_moderation(self.moderation, root) if self.moderation else None,
            canaries=load_canaries(root / self.canaries) if self.canaries else (),
        )
        return score_open_ended(items, self, engine, model, resources.labels, tools)

    def _card_inputs(self, inputs: CardInputs) -> list[Any]:
        """The labels an answer may collapse into, the lists it names, the rows it may copy."""
        watched = [load_moderation(self.moderation, inputs.root).digest] if self.moderation else []
        secrets = list(load_canaries(inputs.root / self.canaries)) if self.canaries else []
        return [list(inputs.labels), inputs.base_is_scored, watched, secrets, list(inputs.searched_rows)]


@dataclass(frozen=True)
class Tools:
    """What some numbers need beside the texts. Where one is missing its numbers are absent, never 0."""

    embedder: Embedder | None = None  # topic and consistency
    dictionary: frozenset[str] | None = None  # misspelling rate; `spelling.english()`
    training_texts: tuple[str, ...] = ()  # copied spans: what the student was tuned on
    moderation: Moderation | None = None
    canaries: tuple[str, ...] = ()  # secrets planted among the training rows


@dataclass(frozen=True)
class ItemRequests:
    """One item and everything that is asked for it."""

    item: Item
    main: Request
    variants: tuple[Request, ...]
    repeats: tuple[Request, ...]

    @property
    def all(self) -> tuple[Request, ...]:
        """The main request first."""
        return (self.main, *self.variants, *self.repeats)


def score_open_ended(
    items: Sequence[Item],
    spec: OpenEndedSuite,
    engine: StudentEngine,
    model: str,
    labels: Sequence[str],
    tools: Tools | None = None,
) -> Outcome:
    """One score per item, same order, then one per canary. The instruction is the only turn.

    What is scored is the greedy answer. The item's variants are answered greedily too, and `repeats` more answers
    are drawn at `temperature`. An item is failed if any of its answers failed. Tokens are those of all of them.
    """
    tools = tools or Tools()
    item_requests = [_requests_of(item, spec, model) for item in items]
    secrets = [_canary_request(canary, engine, model) for canary in tools.canaries]
    requests = {request.key: request for requests_of_item in item_requests for request in requests_of_item.all}
    requests |= {request.key: request for request in secrets}
    completions = {completion.request: completion for completion in engine.generate(requests.values())}
    vectors = _vectors(item_requests, completions, tools.embedder)
    searched = corpus(tools.training_texts)
    flagged = _flagged(item_requests, completions, tools.moderation)
    scores = [
        _score(requests_of_item, completions, labels, tools, searched, vectors, flagged)
        for requests_of_item in item_requests
    ]
    scores += [_canary_score(c, completions[r.key]) for c, r in zip(tools.canaries, secrets, strict=True)]
    return Outcome(tuple(scores), notes=_notes(spec, tools))


def suite_metrics(scores: Sequence[Score]) -> dict[str, float]:
    """Numbers of all answers together. Empty when none was scored. Canaries do not count.

    distinct_1 to distinct_3 across outputs, words_p50 and words_p95 (linear between answers), cut_share (answers
    that hit the limit of tokens, 0 to 1), compression_all (the ratio of all answers as one text, Shaib et al. 2024:
    answers that are alike compress well together).
    """
    answered = [score for score in scores if score.status == "scored" and CANARY not in score.tags]
    if not answered:
        return {}
    outputs = [score.output for score in answered]
    lengths = [len(output.split()) for output in outputs]
    metrics: dict[str, float | None] = {f"distinct_{n}": distinct_n(outputs, n) for n in (1, 2, 3)}
    metrics["words_p50"], metrics["words_p95"] = (float(v) for v in np.percentile(lengths, [50, 95]))
    metrics["cut_share"] = sum(score.truncated for score in answered) / len(answered)
    metrics["compression_all"] = compression_ratio("\n".join(outputs)) if any(outputs) else None
    return {name: value for name, value in metrics.items() if value is not None}


# --- asking -------------------------------------------------------------------------------------------------


def _requests_of(item: Item, spec: OpenEndedSuite, model: str) -> ItemRequests:
    greedy = Sampling(temperature=0.0, max_tokens=spec.max_tokens)
    drawn = Sampling(temperature=spec.temperature, max_tokens=spec.max_tokens)
    return ItemRequests(
        item,
        _request(item.text, greedy, item, model),
        tuple(_request(text, greedy, item, model) for text in item.variants),
        tuple(_request(item.text, drawn, item, model, index) for index in range(1, spec.repeats + 1)),
    )


def _request(text: str, sampling: Sampling, item: Item, model: str, index: int = 0) -> Request:
    return Request(
        model=model,
        messages=(Message(role="user", content=text),),
        sampling=sampling,
        sample_index=index,
        origin=Origin(purpose="answer", row=item.id),
    )


def _canary_request(canary: str, engine: StudentEngine, model: str) -> Request:
    """The first half of a secret as a plain text that the student goes on with."""
    first, rest = halves(canary)
    room = len(engine.text_ids(rest)) + SLACK_TOKENS
    return Request(
        model=model,
        prompt=first,
        sampling=Sampling(temperature=0.0, max_tokens=room),
        origin=Origin(purpose="answer", row=_canary_id(canary)),
    )


def _canary_id(canary: str) -> str:
    return digest(CANARY, FORMAT, canary)[:16]


# --- scoring ------------------------------------------------------------------------------------------------


def _score(
    requests: ItemRequests,
    completions: Mapping[str, Completion],
    labels: Sequence[str],
    tools: Tools,
    searched: str,
    vectors: Vectors,
    flagged: Mapping[str, float],
) -> Score:
    item, answers = requests.item, [completions[request.key] for request in requests.all]
    about = item.facts | {"split": "test"}
    failed = [answer.error for answer in answers if answer.finish_reason == "error"]
    if failed:
        return Score.failed(failed[0], **about)
    main = answers[0]
    values = _text_values(main.text, main.finish_reason == "length", item, labels)
    values |= _tool_values(main.text, item, tools, searched) | _similarities(requests, completions, vectors)
    values["flagged"] = flagged.get(main.text)
    return Score.scored(
        {name: value for name, value in values.items() if value is not None},
        **about,
        output=main.text,
        truncated=main.finish_reason == "length",
        prompt_tokens=sum(answer.prompt_tokens for answer in answers),
        answer_tokens=sum(answer.completion_tokens for answer in answers),
    )


def _text_values(text: str, truncated: bool, item: Item, labels: Sequence[str]) -> dict[str, float | None]:
    words, cycle, repeat = len(text.split()), loop_length(text), longest_repeat(text)
    values: dict[str, float | None] = {
        "words": float(words),
        "stop_rate": float(not truncated),
        "label_collapse": float(collapsed(text, labels)),
        "empty": float(not text.strip()),
        "loop": float(cycle is not None),
        "loop_length": float(cycle) if cycle is not None else None,  # words
        "repeat_words": float(repeat.words) if repeat else None,
        "repeat_share": repeat.share if repeat else None,
        "compression_ratio": compression_ratio(text),
        "refusal": float(refuses(text)),
    }
    for n in (2, 3, 4):
        values[f"rep_{n}"] = rep_n(text, n)
    reference = len(item.answers[0].split()) if item.answers else 0
    values["length_ratio"] = words / reference if reference else None  # words per word of the reference
    return values


def _tool_values(text: str, item: Item, tools: Tools, searched: str) -> dict[str, float | None]:
    values: dict[str, float | None] = {}
    if tools.dictionary is not None:
        values["misspelling_rate"] = spelling(text, tools.dictionary, words_of(item.text)).rate
    if tools.training_texts:
        span = copied_span(text, searched)
        values["copied_words"] = float(span.words) if span else None
        values["copied_share"] = span.share if span else None
    return values


def _flagged(
    item_requests: Sequence[ItemRequests], completions: Mapping[str, Completion], moderation: Moderation | None
) -> dict[str, float]:
    """Scored answer -> what the moderation says of it. Empty without one."""
    if moderation is None:
        return {}
    answers = [completions[requests.main.key] for requests in item_requests]
    texts = list(dict.fromkeys(answer.text for answer in answers if answer.finish_reason != "error"))
    return dict(zip(texts, moderation.flags(texts), strict=True))


def _vectors(
    item_requests: Sequence[ItemRequests], completions: Mapping[str, Completion], embedder: Embedder | None
) -> Vectors:
    """Unit vectors of every prompt, reference and answer that is compared. Empty texts have none."""
    if embedder is None:
        return {}
    texts = [text for requests in item_requests for text in (requests.item.text, *requests.item.answers[:1])]
    texts += [completions[request.key].text for requests in item_requests for request in requests.all]
    unique = sorted({text for text in texts if text.strip()})
    return dict(zip(unique, embedder.embed(unique), strict=True))


def _similarities(
    requests: ItemRequests, completions: Mapping[str, Completion], vectors: Vectors
) -> dict[str, float | None]:
    """Cosines, -1 to 1, or None without embeddings or where nothing is there to compare with.

    An empty answer is like nothing, 0, and off the topic: left out, a model would gain by saying nothing.
    """
    item, text = requests.item, completions[requests.main.key].text
    topic = _cosine([item.text, text], vectors)
    return {
        "prompt_similarity": topic,
        "off_topic": float(topic < OFF_TOPIC) if topic is not None else None,
        "reference_similarity": _cosine([*item.answers[:1], text], vectors),
        "consistency": _cosine([text, *(completions[r.key].text for r in requests.variants)], vectors),
        "repeat_consistency": _cosine([completions[r.key].text for r in requests.repeats], vectors),
    }


def _cosine(texts: Sequence[str], vectors: Vectors) -> float | None:
    """The mean over all pairs of texts, a pair with an empty one 0, or None without vectors or two texts."""
    if len(texts) < 2 or not vectors:
        return None
    pairs = [
        float(vectors[a] @ vectors[b]) if a in vectors and b in vectors else 0.0 for a, b in combinations(texts, 2)
    ]
    return sum(pairs) / len(pairs)


def _canary_score(canary: str, completion: Completion) -> Score:
    """1 where the student completed the secret. It is no item of the suite, and is tagged so."""
    about: dict[str, Any] = {"item": _canary_id(canary), "split": "test", "tags": (CANARY,)}
    if completion.finish_reason == "error":
        return Score.failed(completion.error, **about)
    return Score.scored(
        {CANARY: float(completes(completion.text, halves(canary)[1]))},
        **about,
        output=completion.text,
        prompt_tokens=completion.prompt_tokens,
        answer_tokens=completion.completion_tokens,
    )


def _notes(spec: OpenEndedSuite, tools: Tools) -> tuple[str, ...]:
    missing = [
        name
        for name, available in (
            ("no sentence embeddings: topic and consistency", tools.embedder is not None),
            ("no dictionary: misspelling rate", tools.dictionary is not None),
        )
        if not available
    ]
    notes = [f"{what} not computed" for what in missing]
    if spec.repeats:
        notes.append(f"repeat_consistency: {spec.repeats} answers a prompt at temperature {spec.temperature:g}")
    return tuple(notes)
