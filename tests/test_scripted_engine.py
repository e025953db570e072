"""The scripted engine: deterministic, out of order, one completion per request."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config.load import load_run
from harness.engines.protocols import Generator
from harness.engines.scripted import JudgeRule, Script, ScriptedEngine
from harness.errors import UsageError
from harness.records import Completion, Message, Origin, Request, Sampling
from tests.project import write_project

Purpose = Literal["generate", "calibrate", "judge", "answer"]


def ask(
    prompt: str = "- a\n-",
    index: int = 0,
    label: str = "billing",
    purpose: Purpose = "generate",
    **sampling: Any,
) -> Request:
    return Request(
        model="teacher@1",
        prompt=prompt,
        sampling=Sampling(**sampling),
        sample_index=index,
        origin=Origin(purpose=purpose, label=label),
    )


def test_same_requests_same_answers_in_another_order() -> None:
    engine: Generator = ScriptedEngine(Script().answer)
    requests = [ask(index=i) for i in range(100)]
    first = list(engine.generate(requests))
    again = {c.request: c for c in engine.generate(reversed(requests))}
    assert [c.request for c in first] != [r.key for r in requests]
    assert {c.request: c for c in first} == again
    assert len({c.text for c in first}) == 100  # as many different texts, or filters would drop them
    assert all("billing" in c.text and c.completion_tokens == len(c.text.split()) for c in first)


@given(st.integers(0, 60), st.integers(1, 40))
def test_every_request_gets_exactly_one_completion_and_few_are_pulled_ahead(count: int, concurrency: int) -> None:
    requests = [ask(index=i) for i in range(count)]
    pulled = 0

    def lazily() -> Iterator[Request]:
        nonlocal pulled
        for request in requests:
            pulled += 1
            yield request

    done: list[Completion] = []
    for completion in ScriptedEngine(Script().answer, concurrency=concurrency).generate(lazily()):
        assert pulled <= len(done) + concurrency
        done.append(completion)
    assert sorted(c.request for c in done) == sorted(r.key for r in requests)


def test_stop_and_limit_end_a_text() -> None:
    script = Script(generate=("one two three\nfour",))
    stopped = script.answer(ask(stop=("\n",)))
    cut = script.answer(ask(max_tokens=2, stop=("\n",)))
    assert (stopped.text, stopped.finish_reason) == ("one two three", "stop")
    assert (cut.text, cut.finish_reason, cut.completion_tokens) == ("one two", "length", 2)


def test_a_judge_prefers_what_the_judged_text_mentions() -> None:
    script = Script(judge=JudgeRule(after="Message:", words={"billing": ("charged",)}, sure=0.8))
    prompt = "billing: money\nrepair: broken\n\nMessage: {}\nTopic:"
    choices = (" billing", " repair", " theft")
    for text, expected in {
        "I was charged twice": " billing",
        "a repair please": " repair",
        "the repair was charged": " billing",
    }.items():
        done = script.answer(ask(prompt.format(text), purpose="judge", choices=choices, logprobs=20))
        assert done.text == expected
        assert sum(math.exp(v) for v in done.first_logprobs.values()) == pytest.approx(1)
    sure = script.answer(ask(prompt.format("a repair"), choices=choices, logprobs=20)).first_logprobs
    assert math.exp(sure[" repair"]) == pytest.approx(0.8)


def test_a_judge_says_yes_or_no_about_the_label_of_the_request() -> None:
    script = Script(judge=JudgeRule(after="Message:"))
    prompt = "Is it about billing?\nMessage: {}\nAnswer:"
    yes = script.answer(ask(prompt.format("billing is wrong"), purpose="judge", choices=("yes", "no")))
    no = script.answer(ask(prompt.format("it broke"), purpose="judge", choices=("yes", "no")))
    assert (yes.text, no.text, yes.first_logprobs) == ("yes", "no", {})


def test_chat_and_json() -> None:
    request = Request(
        model="teacher@1",
        messages=(Message(role="user", content="write one"),),
        sampling=Sampling(json_schema={"type": "object"}),
        origin=Origin(purpose="generate", label="lost_item"),
    )
    done = Script().answer(request)
    assert json.loads(done.text)["label"] == "lost_item"
    assert done.prompt_tokens == 2


def test_a_script_file_and_its_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "script.json"
    path.write_text('{"generate": ["hello {label}"],\n "judge": {"after": "Text:"}}')
    engine = ScriptedEngine.from_file(path)
    assert [c.text for c in engine.generate([ask()])] == ["hello billing"]
    path.write_text('{"generate": ["hello"],\n "jugde": {}}')
    with pytest.raises(UsageError, match=r"script.json:2: jugde: unknown key \(did you mean 'judge'\?\)"):
        ScriptedEngine.from_file(path)
    path.write_text('{"generate": []}')
    with pytest.raises(UsageError, match="generate"):
        ScriptedEngine.from_file(path)


@pytest.mark.parametrize(
    ("written", "said"), [("{", r"teacher\.json:1"), ('{"generat": ["a"]}', r"generat: unknown key .*'generate'")]
)
def test_a_wrong_script_is_found_when_its_run_is_loaded(tmp_path: Path, written: str, said: str) -> None:
    path = write_project(tmp_path, "nobody")
    (tmp_path / "prompts/shop/teacher.json").write_text(written)
    with pytest.raises(UsageError, match=said):
        load_run(path)
