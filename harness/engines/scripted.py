"""A teacher that follows a script: the same request always gets the same answer, and no model is needed.

It serves tests and demonstrations. A script is a JSON (or YAML) file; every key may be left out:

    {
     "generate": ["where is my {label} {word} {word}?"],  texts; one is picked by the request's key
     "steps": {"critique": ["too {word}"]},               the same for the steps of a chain, by their names
                                                          {prompt} is the last paragraph of the prompt
     "words": ["blue", "broken", ...],                    what {word} stands for, drawn anew each time
     "judge": {
       "after": "Message:",                               only the prompt after the last of these is judged
       "words": {"billing": ["charged", "invoice"]},      what speaks for a label, besides its own words
       "sure": 0.9                                        the probability that goes to what fits
     }
    }

A request with choices is judged: the choices that have a word in the judged text share `sure`. Where the
choices are answers such as yes and no, the first one fits when the request's label has a word in the text,
the last one otherwise. A request with a JSON schema gets {"text": ..., "label": ...}.
"""

from __future__ import annotations

import heapq
import json
import math
import random
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from harness.core import yaml_file
from harness.core.record import Record
from harness.records import Completion, Request

WORDS = (
    "again answer before blue broken charge door early email evening finally green hour issue late letter"
    " lost monday month morning nobody number office order payment phone quick road screen second slow street"
    " support today tomorrow twice waiting week window work wrong yesterday"
)
PLACEHOLDER = re.compile(r"\{(label|word|number|prompt)\}")


class JudgeRule(Record):
    """How choices are weighed."""

    after: str = ""  # only the prompt after the last of these is judged; empty: all of it
    words: dict[str, tuple[str, ...]] = Field(default_factory=dict)  # label -> words that speak for it
    sure: Annotated[float, Field(gt=0, lt=1)] = 0.9  # probability shared by the choices that fit


class Script(Record):
    """What a scripted engine says."""

    generate: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "my {word} {label} {word} the {word} and {word}, {word} {word} {number}?",
        "{word} {word}: the {label} was {word} {word}, {word} {number}",
    )
    steps: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(default_factory=dict)
    words: Annotated[tuple[str, ...], Field(min_length=1)] = tuple(WORDS.split())
    judge: JudgeRule = JudgeRule()

    def answer(self, request: Request) -> Completion:
        """The completion of one request: a pure function of the two. Tokens are words."""
        prompt = "\n".join(m.content for m in request.messages) or request.prompt
        logprobs: dict[str, float] = {}
        if request.sampling.choices:
            logprobs = self._weigh(request, prompt)
            text = max(logprobs, key=lambda choice: logprobs[choice])
        else:
            text = self._write(request, prompt)
        text, reason = _cut(text, request)
        return Completion(
            request=request.key,
            text=text,
            finish_reason="length" if reason == "length" else "stop",
            prompt_tokens=len(prompt.split()),
            completion_tokens=len(text.split()),
            first_logprobs=logprobs if request.sampling.logprobs else {},
        )

    def _write(self, request: Request, prompt: str) -> str:
        draw = random.Random(request.key)
        drawn: dict[str, Callable[[], str]] = {
            "label": lambda: request.origin.label.replace("_", " "),
            "word": lambda: draw.choice(self.words),
            "number": lambda: str(draw.randrange(1000)),
            "prompt": lambda: " ".join(prompt.strip().rpartition("\n\n")[2].split()),
        }

        def line() -> str:
            return PLACEHOLDER.sub(lambda match: drawn[match[1]](), draw.choice(texts))

        texts = self.steps.get(request.origin.step, self.generate)
        if request.sampling.json_schema is None or request.origin.step in self.steps:
            return line()
        values: dict[str, Any] = {}
        for name in request.sampling.json_schema.get("properties", ("text", "label")):
            if name == "messages":
                roles = ("user", "assistant") * 2
                values[name] = [{"role": role, "content": line()} for role in roles]
            else:
                values[name] = request.origin.label if name == "label" else line()
        return json.dumps(values, ensure_ascii=False)

    def _weigh(self, request: Request, prompt: str) -> dict[str, float]:
        """Log-probability of each choice."""
        choices, rule = request.sampling.choices, self.judge
        judged = prompt.rpartition(rule.after)[2] if rule.after else prompt
        judged_words = set(_words(judged))

        def fits(label: str) -> bool:
            mine = rule.words.get(label.strip(), ())
            return not judged_words.isdisjoint([*_words(label), *(w for phrase in mine for w in _words(phrase))])

        fitting = {choice for choice in choices if fits(choice)}
        if not fitting:
            fitting = {choices[0] if fits(request.origin.label) else choices[-1]}
        unfit = len(set(choices) - fitting)
        sure = rule.sure if unfit else 1.0
        return {
            choice: math.log(sure / len(fitting) if choice in fitting else (1 - sure) / unfit) for choice in choices
        }


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _cut(text: str, request: Request) -> tuple[str, str]:
    """The text up to the first stop or the last allowed word, and which of the two ended it."""
    sampling = request.sampling
    words = list(re.finditer(r"\S+", text))
    reason = "stop"
    if len(words) > sampling.max_tokens:
        text, reason = text[: words[sampling.max_tokens - 1].end()], "length"
    stops = [at for stop in sampling.stop if stop and (at := text.find(stop)) >= 0]
    return (text[: min(stops)], "stop") if stops else (text, reason)


def read_script(path: Path) -> Script:
    """A script file. Raises UsageError naming file, line, key and what is allowed."""
    return yaml_file.parse(Script, yaml_file.load(path), "a script of answers")


class ScriptedEngine:
    """Answers by a function, several requests in flight, the shortest answer first.

    `answer` maps a request to its completion. `concurrency` requests are pulled ahead, as a real engine does: no
    caller can rely on the order in which completions arrive.
    """

    def __init__(self, answer: Callable[[Request], Completion], *, concurrency: int = 32) -> None:
        self._answer = answer
        self._concurrency = concurrency

    @classmethod
    def from_file(cls, path: Path, *, concurrency: int = 32) -> ScriptedEngine:
        """Follow a script file. Raises as `read_script`."""
        return cls(read_script(path).answer, concurrency=concurrency)

    def generate(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """Yield one completion per request, short texts first among those in flight."""
        waiting = iter(requests)
        in_flight: list[tuple[int, str, int, Completion]] = []
        pulled = 0
        while True:
            for request in islice(waiting, self._concurrency - len(in_flight)):
                if request is None:  # nothing can be asked before another answer
                    break
                completion = self._answer(request)
                pulled += 1  # breaks ties: completions have no order of their own
                heapq.heappush(in_flight, (len(completion.text), completion.request, pulled, completion))
            if not in_flight:
                return
            yield heapq.heappop(in_flight)[-1]
