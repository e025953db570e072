"""A student's engine as lm-evaluation-harness's `LM`: its requests in, our log-likelihoods and texts out.

What cannot be asked or measured is noted by name in the ledger and answered with a placeholder, which the scorer
of benchmarks throws away: the library itself would cut a long prompt in silence and count a failure as wrong.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from harness.engines.protocols import StudentEngine
from harness.errors import MachineError, UsageError
from harness.records import Completion, Message, Origin, Pair, Request, Sampling
from harness.suites.generate import fits, split_pair

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

TextIds = Callable[[str], tuple[int, ...]]
Place = tuple[str, int]  # a task's name and the document's index in it

CHAT = "\x00chat:"  # begins a context that is a chat: the library passes it through, so no text needs rendering
MAX_TOKENS = 256  # of a generated answer, where the task names no number: the library's own
SETTINGS = {"until", "max_gen_toks", "do_sample", "temperature", "top_p"}  # of generation, that engines have


@dataclass(frozen=True)
class Ledger:
    """What happened to the documents that were asked, beside the answers themselves."""

    failed: dict[Place, str] = field(default_factory=dict)  # why
    prompt_tokens: dict[Place, int] = field(default_factory=dict)  # of the longest prompt
    answer_tokens: dict[Place, int] = field(default_factory=dict)  # of all choices, or of what was written
    truncated: set[Place] = field(default_factory=set)  # a written answer hit the limit of tokens
    alike: set[Place] = field(default_factory=set)  # two choices are the same tokens to this model

    def spend(self, place: Place, prompt: int, answer: int) -> None:
        """Count tokens of one request."""
        self.prompt_tokens[place] = max(self.prompt_tokens.get(place, 0), prompt)
        self.answer_tokens[place] = self.answer_tokens.get(place, 0) + answer


class Unanswerable(Exception):
    """One request cannot be put to this model. The message says why."""


def bridge(engine: StudentEngine, ledger: Ledger, model: str = "student") -> Any:
    """An `lm_eval.api.model.LM` that answers with `engine` and writes into `ledger`.

    Defined here since its base class is the library's. Raises what the engine raises, except MachineError, which
    fails the documents that were asked.
    """
    from lm_eval.api.model import LM

    class Bridge(LM):  # type: ignore[misc]  # the library is untyped
        tokenizer_name = model

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            return CHAT + json.dumps(chat_history)

        def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            return _loglikelihoods(engine, ledger, requests)

        def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
            return _rolling(engine, ledger, requests)

        def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
            return _written(engine, ledger, requests, model)

    return Bridge()


def _place(request: Instance) -> Place:
    return str(request.task_name), int(request.doc_id or 0)


# --- log-likelihoods --------------------------------------------------------------------------------------------


def _loglikelihoods(engine: StudentEngine, ledger: Ledger, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
    """(summed log-probability in nats, greedy?) of each request's continuation after its context."""
    text_ids = lru_cache(maxsize=8)(engine.text_ids)  # the choices of a document have one context

    def pairs(request: Instance) -> list[Pair]:
        return [_pair(engine, text_ids, *map(str, request.args[:2]))]

    pairs_by_request = _prepared(ledger, requests, pairs)
    seen: dict[Place, set[Pair]] = {}
    for request, request_pairs in zip(requests, pairs_by_request, strict=True):
        earlier = seen.setdefault(_place(request), set())
        if request.repeats in (None, 1) and any(pair in earlier for pair in request_pairs):
            ledger.alike.add(_place(request))
        earlier.update(request_pairs)
    return [
        answer[0] if answer else (math.nan, False) for answer in _measured(engine, ledger, requests, pairs_by_request)
    ]


def _rolling(engine: StudentEngine, ledger: Ledger, requests: Sequence[Instance]) -> list[float]:
    """The log-probability (nats) of each whole text, in windows as long as the context."""
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    def windows(request: Instance) -> list[Pair]:
        tokens = list(engine.text_ids(str(request.args[0])))
        if not tokens:
            raise Unanswerable("the text is empty")
        token_windows = get_rolling_token_windows(tokens, _prefix(engine), engine.max_length, context_len=1)
        return [
            Pair(context=tuple(before), continuation=tuple(after))
            for before, after in map(make_disjoint_window, token_windows)
        ]

    pairs_by_request = _prepared(ledger, requests, windows)
    measured = _measured(engine, ledger, requests, pairs_by_request)
    return [sum(value for value, _ in answer) if answer else math.nan for answer in measured]


def _prepared(
    ledger: Ledger, requests: Sequence[Instance], pairs: Callable[[Instance], list[Pair]]
) -> list[list[Pair]]:
    """The pairs of each request. None for a document of which any request cannot be asked."""
    pairs_by_request: list[list[Pair]] = []
    for request in requests:
        try:
            pairs_by_request.append(pairs(request))
        except Unanswerable as why:
            ledger.failed.setdefault(_place(request), str(why))
            pairs_by_request.append([])
    return [
        [] if _place(request) in ledger.failed else request_pairs
        for request, request_pairs in zip(requests, pairs_by_request, strict=True)
    ]


def _measured(
    engine: StudentEngine, ledger: Ledger, requests: Sequence[Instance], pairs_by_request: Sequence[Sequence[Pair]]
) -> list[list[tuple[float, bool]]]:
    """Per request its pairs' (log-probability, greedy?), or nothing where the document failed."""
    flat = [pair for request_pairs in pairs_by_request for pair in request_pairs]
    try:
        measured = iter(engine.loglikelihood(flat))
    except MachineError as error:
        for request, request_pairs in zip(requests, pairs_by_request, strict=True):
            if request_pairs:
                ledger.failed.setdefault(_place(request), str(error))
        return [[] for _ in requests]
    answers: list[list[tuple[float, bool]]] = []
    for request, request_pairs in zip(requests, pairs_by_request, strict=True):
        values = [next(measured) for _ in request_pairs]
        if not all(math.isfinite(m.logprob) for m in values):
            ledger.failed.setdefault(_place(request), "a log-likelihood is not a number")
        if request_pairs:
            ledger.spend(
                _place(request),
                max(len(p.context) for p in request_pairs),
                sum(len(p.continuation) for p in request_pairs),
            )
        answers.append([(m.logprob, m.greedy) for m in values])
    return answers


# --- tokens -----------------------------------------------------------------------------------------------------


def _pair(engine: StudentEngine, text_ids: TextIds, context: str, continuation: str) -> Pair:
    """Token ids of one request. Raises Unanswerable for one that is empty or longer than the context."""
    if not continuation.strip():
        raise Unanswerable(f"the choice {continuation!r} is empty")
    if context.startswith(CHAT):
        pair = _chat_pair(engine, *_chat(context), continuation)
    else:
        pair = split_pair(text_ids, context, continuation)
    if not pair.context:  # nothing before it: the library puts one mark there, or takes it from the continuation
        mark, ids = _prefix(engine), pair.continuation
        pair = (
            Pair(context=ids[:1], continuation=ids[1:])
            if ids[:1] == (mark,)
            else Pair(context=(mark,), continuation=ids)
        )
    if not pair.continuation:
        raise Unanswerable(f"the choice {continuation!r} has no tokens of its own")
    if not fits(pair, engine):
        length = len(pair.context) + len(pair.continuation)
        raise Unanswerable(f"longer than the context: {length} tokens, the context holds {engine.max_length}")
    return pair


def _chat(context: str) -> tuple[tuple[Message, ...], str]:
    """The turns of a chat, and how the library begins its answer ('' where it does not)."""
    turns = [Message(**turn) for turn in json.loads(context.removeprefix(CHAT))]
    begun = turns.pop().content if turns[-1].role == "assistant" else ""
    return tuple(turns), begun


def _chat_pair(engine: StudentEngine, turns: Sequence[Message], begun: str, continuation: str) -> Pair:
    """A choice as the assistant's answer: the tokens a student is tuned on, without the one that ends the turn."""
    before = engine.answer_ids(turns, begun)[:-1] if begun else ()
    answer = engine.answer_ids(turns, begun + continuation)[:-1]
    return Pair(context=engine.prompt_ids(turns) + answer[: len(before)], continuation=answer[len(before) :])


def _prefix(engine: StudentEngine) -> int:
    """The token a text begins after: the tokenizer's own, else the one that ends a turn."""
    before = engine.text_ids("")
    return before[-1] if before else engine.answer_ids((Message(role="user", content="Hello"),), "Hello")[-1]


# --- generated answers ------------------------------------------------------------------------------------------


def _written(engine: StudentEngine, ledger: Ledger, requests: Sequence[Instance], model: str) -> list[str]:
    """The text written after each request's context, up to its first stop."""
    written_requests: list[Request | None] = []
    repeated: dict[Place, int] = {}
    for request in requests:
        place = _place(request)
        repeated[place] = repeated.get(place, -1) + 1
        context, settings = request.args[:2]
        try:
            written_requests.append(_request(str(context), settings, model, repeated[place]))
        except Unanswerable as why:
            ledger.failed.setdefault(place, str(why))
            written_requests.append(None)
    distinct_requests = {r.key: r for r in written_requests if r}  # equal prompts are asked once
    answers: dict[str, Completion] = {}
    broken = "the engine gave no answer"
    try:
        for completion in engine.generate(distinct_requests.values()):
            answers[completion.request] = completion
    except MachineError as error:
        broken = str(error)
    return [
        _noted(ledger, _place(request), answers.get(written_request.key), broken) if written_request else ""
        for request, written_request in zip(requests, written_requests, strict=True)
    ]


def _noted(ledger: Ledger, place: Place, completion: Completion | None, broken: str) -> str:
    if completion is None or completion.error:
        ledger.failed.setdefault(place, completion.error if completion else broken)
        return ""
    ledger.spend(place, completion.prompt_tokens, completion.completion_tokens)
    if completion.finish_reason == "length":
        ledger.truncated.add(place)
    return completion.text


def _request(context: str, settings: Mapping[str, Any], model: str, sample_index: int) -> Request:
    """A request in the library's terms as ours. Raises UsageError for settings that no engine of ours has."""
    from lm_eval.models.utils import normalize_gen_kwargs

    generation = normalize_gen_kwargs(dict(settings), MAX_TOKENS)
    unknown = sorted(set(generation) - SETTINGS)
    if unknown:
        raise UsageError(f"the benchmark asks for {', '.join(unknown)} when text is generated; no engine here has it")
    sampling = Sampling(
        temperature=generation.get("temperature", 0.0) if generation["do_sample"] else 0.0,
        top_p=generation.get("top_p", 1.0) if generation["do_sample"] else 1.0,
        max_tokens=generation["max_gen_toks"],
        stop=tuple(stop for stop in generation["until"] if stop),
    )
    turns, begun = _chat(context) if context.startswith(CHAT) else ((), "")
    if begun:
        raise UsageError("the benchmark begins the answer itself, which a chat cannot: use form: raw")
    if not turns and not context:
        raise Unanswerable("the prompt is empty")
    return Request(
        model=model,
        prompt="" if turns else context,
        messages=turns,
        sampling=sampling,
        sample_index=sample_index if generation["do_sample"] else 0,
        origin=Origin(purpose="answer"),
    )
