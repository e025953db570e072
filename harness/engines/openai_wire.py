"""What travels to and from an OpenAI-compatible endpoint: request bodies, answers, reasons. No network here.

Guided decoding is asked for as vLLM's server takes it: `structured_outputs: {"choice": [...]}` for choices,
`response_format` of type json_schema (as OpenAI's own) for JSON.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import httpx

from harness.records import Completion, Request

TIMEOUT = "no answer in time"
NO_ANSWER = "the connection failed"
GARBAGE = "the answer is not what an OpenAI-compatible endpoint sends"
LONGEST_REASON = 200  # characters
IMPOSSIBLE = -1000.0  # vLLM's server writes -9999 for a token that guided decoding does not allow


def body(request: Request, model: str) -> dict[str, Any]:
    """The JSON to post: to /chat/completions when the request has messages, to /completions otherwise."""
    sampling = request.sampling
    content: dict[str, Any] = {
        "model": model,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
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
    return content


def completion(request: Request, answer: Any) -> Completion:
    """The completion in an endpoint's JSON. Raises KeyError, TypeError and the like when it is none.

    Where the endpoint ignored the choices, or ended for a reason of its own (a content filter), the
    completion is an error that says so.
    """
    choice = answer["choices"][0]
    text = (choice["message"]["content"] or "") if request.messages else choice["text"]
    if not isinstance(text, str):
        raise TypeError("the text is no string")
    usage = answer.get("usage") or {}
    counts = {name: int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")}
    ended = choice["finish_reason"]
    error = ""
    if ended not in ("stop", "length"):
        error = f"the endpoint ended it with {str(ended)[:40]!r}"
    elif ended == "stop" and request.sampling.choices and text not in request.sampling.choices:
        error = "the endpoint ignored the choices (it needs guided decoding, as vLLM's server has)"
    reason: Literal["stop", "length", "error"] = "error" if error else "length" if ended == "length" else "stop"
    return Completion(
        request=request.key,
        # a lone surrogate, which JSON can carry, is no text that a file can hold
        text="" if error else text.encode("utf-8", "replace").decode("utf-8"),
        finish_reason=reason,
        first_logprobs=first_logprobs(choice.get("logprobs")) if request.sampling.logprobs else {},
        error=error,
        **counts,
    )


def first_logprobs(logprobs: Any) -> dict[str, float]:
    """Token text -> log-probability (nats) at the first position, from either form of answer; {} without any.

    An endpoint reports the likeliest tokens and the one it picked; a choice that is not among them is absent.
    vLLM's server takes them after the mask of guided decoding, so that all it allows comes first.
    """
    found: dict[str, float] = {}
    if not isinstance(logprobs, Mapping):
        return found
    if logprobs.get("content"):  # chat: a list of positions, each with its alternatives
        first = logprobs["content"][0]
        for entry in [*(first.get("top_logprobs") or []), first]:
            found[str(entry["token"])] = float(entry["logprob"])
    elif logprobs.get("tokens"):  # plain: parallel lists by position
        for token, value in ((logprobs.get("top_logprobs") or [None])[0] or {}).items():
            found[str(token)] = float(value)
        if (own := (logprobs.get("token_logprobs") or [None])[0]) is not None:
            found[str(logprobs["tokens"][0])] = float(own)
    return {token: value for token, value in found.items() if token and IMPOSSIBLE < value <= 0.001}


def reason(response: httpx.Response, hidden: Sequence[str]) -> str:
    """Why a request was refused, short, on one line, without addresses and without `hidden` (key, host)."""
    try:
        said = response.json()
        said = said.get("error", said.get("message", said.get("detail", "")))
        said = said.get("message", "") if isinstance(said, Mapping) else said
    except (ValueError, AttributeError):
        said = ""
    text = re.sub(r"\w+://\S+", "...", str(said or ""))
    for secret in hidden:
        text = text.replace(secret, "...")
    text = " ".join(text.split())[:LONGEST_REASON]
    return f"HTTP {response.status_code}" + (f": {text}" if text else "")


def blames_endpoint(error: str) -> bool:
    """Whether a failed completion speaks of the endpoint rather than of the request."""
    return error.startswith((TIMEOUT, NO_ANSWER, GARBAGE, "HTTP 5", "HTTP 429"))
