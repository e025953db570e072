"""What travels to and from an OpenAI-compatible endpoint: request bodies, answers, reasons. No network here.

Guided decoding is asked for as vLLM's server takes it: `structured_outputs: {"choice": [...]}` for choices,
`response_format` of type json_schema (as OpenAI's own) for JSON. An endpoint that refuses a parameter by name is
asked in the way it says: see `lesson`.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import httpx2

from harness.core.text import writable
from harness.records import THINKING_KEPT, Completion, Request

TIMEOUT = "no answer in time"
NO_ANSWER = "the connection failed"
GARBAGE = "the answer is not what an OpenAI-compatible endpoint sends"
LONGEST_REASON = 200  # characters
IMPOSSIBLE = -1000.0  # vLLM's server writes -9999 for a token that guided decoding does not allow
LENGTH = ("length", "max_tokens", "max_output_tokens", "model_length")  # finish reasons of an answer that was cut
# What an endpoint may be asked without: what comes back is checked, or read in another way.
OPTIONAL = ("structured_outputs", "response_format", "top_logprobs", "logprobs")
REFUSES = re.compile(r"un(supported|recognized|known|expected)|not (supported|permitted|allowed|available)|extra", re.I)

LINE_END = re.compile(r"\r\n|\r|\n")  # of server-sent events: not each character that str.splitlines takes for one
RENAMED = re.compile(REFUSES.pattern + "|instead|deprecated", re.I)
LONGEST_WAIT_S = 120  # between two attempts
# What reading an answer of another form may raise.
ODD = (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True)
class Dialect:
    """How an endpoint wants to be asked; learnt from what it refuses."""

    limit: str = "max_tokens"  # what it calls the limit of tokens
    without: frozenset[str] = frozenset()  # parameters that it does not take


def body(request: Request, model: str, dialect: Dialect) -> dict[str, Any]:
    """The JSON to post: to /chat/completions when the request has messages, to /completions otherwise."""
    sampling = request.sampling
    content: dict[str, Any] = {
        "model": model,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        dialect.limit: sampling.max_tokens,
    }
    if request.messages:
        content["messages"] = [{"role": m.role, "content": m.content} for m in request.messages]
    else:
        content["prompt"] = request.prompt
    if sampling.stop:
        content["stop"] = list(sampling.stop)
    if sampling.logprobs and request.messages:
        content |= {"logprobs": True, "top_logprobs": sampling.logprobs}
    elif sampling.logprobs:
        content["logprobs"] = sampling.logprobs
    if sampling.choices:
        content["structured_outputs"] = {"choice": list(sampling.choices)}
    if sampling.json_schema is not None:
        schema = {"name": "answer", "schema": sampling.json_schema, "strict": True}
        content["response_format"] = {"type": "json_schema", "json_schema": schema}
    return {name: value for name, value in content.items() if name not in dialect.without}


def lesson(said: str, sent: Mapping[str, Any], dialect: Dialect) -> Dialect | None:
    """How to ask instead, where a refusal says it: another name for the limit, or without a parameter; else None."""
    if "max_completion_tokens" in said and "max_completion_tokens" not in sent and RENAMED.search(said):
        return replace(dialect, limit="max_completion_tokens")
    if not REFUSES.search(said):
        return None
    named = next((name for name in OPTIONAL if name in sent and re.search(rf"\b{name}\b", said)), None)
    if named is None:
        return None
    family = {"logprobs", "top_logprobs"} if "logprobs" in named else {named}
    return replace(dialect, without=dialect.without | family)


# --- answers --------------------------------------------------------------------------------------------------


def answer_of(response: httpx2.Response) -> Any:
    """The JSON of an answer; server-sent events are joined to one. Raises one of ODD when it is neither."""
    streamed = "event-stream" in response.headers.get("content-type", "")
    if not streamed and not response.text.lstrip().startswith(("data:", "event:")):
        return response.json()
    lines = [line[5:].strip() for line in LINE_END.split(response.text) if line.startswith("data:")]
    chunks = [json.loads(line) for line in lines if line and line != "[DONE]"]
    whole: dict[str, Any] = {}
    choice: dict[str, Any] = {}
    text = ""
    for chunk in (c for c in chunks if isinstance(c, dict)):
        whole |= {name: value for name, value in chunk.items() if value}
        for part in chunk.get("choices") or ():
            delta = part.get("delta") or part.get("message") or part
            text += _text(delta.get("content") or delta.get("text"))
            choice |= {name: value for name, value in part.items() if value and name not in choice}
    if "error" not in whole and choice:
        whole["choices"] = [choice | {"text": text, "message": {"content": text}}]
    return whole


def judge(response: httpx2.Response, hidden: Sequence[str]) -> tuple[int, str, Any]:
    """(status, reason of the failure, answer). HTTP 200 without an answer becomes the status that is due to it."""
    if not response.is_success:
        return response.status_code, reason(response, hidden), None
    try:
        answer = answer_of(response)
    except UnicodeDecodeError:
        return 406, f"{GARBAGE}: it is not UTF-8", None  # the next attempt would bring the same
    except ODD:
        return 502, GARBAGE, None  # a proxy's page, half an answer: worth another attempt
    status, words = error_in(answer, hidden) or (response.status_code, "")
    return status, words, answer


class Bounded(httpx2.SyncByteStream):
    """The pieces of an answer, which must all come within `seconds`. Raises httpx2.ReadTimeout.

    The client bounds only the wait for each piece, and a server may send blank lines for ever.
    """

    def __init__(self, pieces: httpx2.SyncByteStream, seconds: float) -> None:
        self._pieces, self._until = pieces, time.monotonic() + seconds

    def __iter__(self) -> Iterator[bytes]:
        """The pieces as they come."""
        for piece in self._pieces:
            if time.monotonic() > self._until:
                raise httpx2.ReadTimeout("the answer came too slowly")
            yield piece

    def close(self) -> None:
        """Close the connection."""
        self._pieces.close()


def cap_wait(response: httpx2.Response) -> None:
    """Shorten a Retry-After that is longer than the client is willing to wait: it would not ask again at all."""
    said = response.headers.get("retry-after", "")
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(said).timestamp() - time.time()
        except ODD:
            return
    if seconds > LONGEST_WAIT_S:
        response.headers["retry-after"] = str(LONGEST_WAIT_S)


def error_in(answer: Any, hidden: Sequence[str] = ()) -> tuple[int, str] | None:
    """(status, reason) of an error that came with HTTP 200, else None; status 400 where it has none."""
    error = answer.get("error") if isinstance(answer, dict) else None
    if not error or answer.get("choices"):
        return None
    code = str(error.get("code")) if isinstance(error, dict) else ""
    words = _words(answer, hidden) or "an error without words"
    if re.fullmatch(r"[45]\d\d", code, re.ASCII):
        return int(code), f"HTTP {code}: {words}"
    return 400, f"an error in place of an answer: {words}"


def completion(request: Request, answer: Any) -> Completion:
    """The completion in an endpoint's JSON; one whose status is error, with the reason, where it holds none."""
    try:
        return _completion(request, answer)
    except ODD as error:
        empty = isinstance(answer, dict) and answer.get("choices") in ([], None)
        why = "it has no choices" if empty else f"{type(error).__name__} in reading it"
        return Completion(request=request.key, finish_reason="error", error=f"{GARBAGE}: {why}")


def _completion(request: Request, answer: Any) -> Completion:
    choice = answer["choices"][0]
    message = choice.get("message")
    if not isinstance(message, dict):
        message = {"content": choice["text"]}
    ended, usage = choice.get("finish_reason"), answer.get("usage")
    counts = {name: _count(usage, name) for name in ("prompt_tokens", "completion_tokens")}
    if ended == "error":
        said = _words(choice, ()) or "without a word why"
        return Completion(request=request.key, finish_reason="error", error=f"the endpoint failed midway: {said}")
    full = ended != "stop" and counts["completion_tokens"] >= request.sampling.max_tokens
    reason: Literal["stop", "length"] = "length" if ended in LENGTH or full else "stop"
    text, withheld = _text(message.get("content")), ""
    if ended == "content_filter":
        text, withheld = "", "the endpoint's content filter ended it"
    elif isinstance(refusal := message.get("refusal"), str) and refusal and not text:
        withheld = f"the model refused: {_shown(refusal, ())}"
    elif message.get("tool_calls") and not text:
        withheld = "it calls a tool and writes nothing"
    thinking = message.get("reasoning_content") or message.get("reasoning")
    return Completion(
        request=request.key,
        text=writable(text),
        finish_reason=reason,
        first_logprobs=first_logprobs(choice.get("logprobs")) if request.sampling.logprobs else {},
        thinking=writable(thinking)[:THINKING_KEPT] if isinstance(thinking, str) else "",
        withheld=writable(withheld),
        **counts,
    )


def oddities(request: Request, answer: Any, read: Completion) -> list[str]:
    """What is unusual in an answer that is used all the same (`read`, from `completion`), for people."""
    if read.finish_reason == "error":
        return []
    choices, found = answer["choices"], []
    ended = choices[0].get("finish_reason")
    if ended not in ("stop", "length"):
        found.append(f"it ends answers with finish_reason {str(ended)[:40]!r}; they are used as answers")
    if len(choices) > 1:
        found.append(f"it gives {len(choices)} answers to one request; the first is used")
    if request.sampling.choices and read.finish_reason == "stop" and read.text not in request.sampling.choices:
        found.append("it ignores the choices (it has no guided decoding, as vLLM's server has); what it writes is read")
    return found


def _text(content: Any) -> str:
    """Written text: a string, or a list of parts, of which those of text are joined. Raises TypeError otherwise."""
    if content is None:
        return ""
    if isinstance(content, list):
        parts = [part if isinstance(part, str) else part.get("text") for part in content]
        return "".join(part for part in parts if isinstance(part, str))
    if not isinstance(content, str):
        raise TypeError("the text is no string")
    return content


def _count(usage: Any, name: str) -> int:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and 0 <= value < 2**53 else 0


def first_logprobs(logprobs: Any) -> dict[str, float]:
    """Token text -> log-probability (nats) at the first position, from either form of answer; {} without any.

    An endpoint reports the likeliest tokens and the one it picked; a choice that is not among them is absent.
    vLLM's server takes them after the mask of guided decoding, so that all it allows comes first.
    """
    try:
        found = _first_logprobs(logprobs)
    except ODD:
        return {}
    return {token: value for token, value in found.items() if token and IMPOSSIBLE < value <= 0.001}


def _first_logprobs(logprobs: Any) -> dict[str, float]:
    found: dict[str, float] = {}
    if not isinstance(logprobs, Mapping):
        return found
    if logprobs.get("content"):  # chat: a list of positions, each with its alternatives
        first = logprobs["content"][0]
        for entry in [*(first.get("top_logprobs") or []), first]:
            found[writable(str(entry["token"]))] = float(entry["logprob"])
    elif logprobs.get("tokens"):  # plain: parallel lists by position
        for token, value in ((logprobs.get("top_logprobs") or [None])[0] or {}).items():
            found[writable(str(token))] = float(value)
        if (own := (logprobs.get("token_logprobs") or [None])[0]) is not None:
            found[writable(str(logprobs["tokens"][0]))] = float(own)
    return found


# --- reasons ----------------------------------------------------------------------------------------------------


def reason(response: httpx2.Response, hidden: Sequence[str]) -> str:
    """Why a request was refused, short, on one line, without addresses and without `hidden` (key, host)."""
    said = refusal_of(response, hidden)
    return f"HTTP {response.status_code}" + (f": {said}" if said else "")


def refusal_of(response: httpx2.Response, hidden: Sequence[str]) -> str:
    """An endpoint's own words; '' where it has none, or a web page."""
    try:
        return _words(response.json(), hidden)
    except ODD:
        page = "<" in response.text[:200]
        return "" if page else _shown(response.text, hidden)


def _words(said: Any, hidden: Sequence[str]) -> str:
    """The message in an error's JSON, whatever form it has."""
    for name in ("error", "message", "detail", "msg"):
        if isinstance(said, Mapping) and said.get(name):
            said = said[name]
    return _shown(said if isinstance(said, str) else json.dumps(said) if said else "", hidden)


def _shown(text: str, hidden: Sequence[str]) -> str:
    text = re.sub(r"\w+://\S+", "...", text)
    for secret in hidden:
        text = text.replace(secret, "...")
    return " ".join(text.split())[:LONGEST_REASON]


def blames_endpoint(error: str) -> bool:
    """Whether a failed completion speaks of the endpoint rather than of the request."""
    return error.startswith((TIMEOUT, NO_ANSWER, GARBAGE, "HTTP 5", "HTTP 429"))
