"""The vLLM engine, for real, with a tiny model.

vLLM runs once, in a process of its own (it changes process-wide state and must leave when told to): this file
run as a program asks everything and writes down what came back; the tests read that.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.engines.vllm import MOST_FIRST_TOKENS, FirstTokens, VLLMEngine
from harness.errors import UsageError
from harness.records import Completion, Message, Origin, Request, Sampling
from tests.needs import needs_vllm
from tests.tiny import make_adapter

ROOT = Path(__file__).parent.parent
PROMPT = "Message: I was charged twice. Topic:"
TEMPLATED = "<|im_start|>user\nHow are you?<|im_end|>\n<|im_start|>assistant\n"
CHOICES = (" delivery", " billing", " repair", " bike lock")
FORM = {
    "type": "object",
    "properties": {"n": {"enum": [1, 2]}},
    "required": ["n"],
    "additionalProperties": False,
}


def ask(index: int = 0, *, chat: str = "", prompt: str = PROMPT, model: str = "base", **sampling: Any) -> Request:
    form: dict[str, Any] = {"messages": (Message(role="user", content=chat),)} if chat else {"prompt": prompt}
    return Request(
        model=model,
        sampling=Sampling(**sampling),
        sample_index=index,
        origin=Origin(purpose="generate"),
        **form,
    )


BATCHES: dict[str, list[Request]] = {
    "plain": [ask(i, max_tokens=16 - i) for i in range(12)],
    "mixed": [
        ask(0, chat="How are you?", temperature=0.0, max_tokens=6),
        ask(0, prompt=TEMPLATED, temperature=0.0, max_tokens=6),
        ask(1, max_tokens=60, stop=("e", "a", " ")),
        ask(2, prompt="again " * 2100),
        ask(3, json_schema=FORM, max_tokens=30),
        ask(4, choices=CHOICES, logprobs=20, temperature=0.0, max_tokens=16),
        ask(5, logprobs=3, max_tokens=2),
        ask(6, choices=("yes", "no"), logprobs=20, max_tokens=16),
        ask(7, json_schema={"type": "no such type"}, max_tokens=2),
    ],
    "adapters": [
        ask(i, model=model, temperature=0.0, max_tokens=8, logprobs=3)
        for i in range(2)
        for model in ("base", "one", "two", "also base")
    ],
    "again": [ask(i, max_tokens=16 - i) for i in range(12)],
    "other": [ask(i, max_tokens=16 - i) for i in range(1, 12)],
}  # fmt: skip


def main(base: Path, work: Path) -> None:
    """Ask every batch of one engine; write what came back."""
    adapters = {"base": None, "also base": None, "one": work / "one", "two": work / "two"}
    engine = VLLMEngine(base, concurrency=4, adapters=adapters, random_seed=3)
    answers = {name: [c.model_dump() for c in engine.generate(batch)] for name, batch in BATCHES.items()}
    early = engine.generate(ask(i, max_tokens=200) for i in range(100))
    next(early)
    early.close()  # type: ignore[attr-defined]
    answers["after leaving"] = [c.model_dump() for c in engine.generate(BATCHES["again"])]
    errors = {}
    try:
        list(engine.generate([ask(model="on")]))
    except UsageError as error:
        errors["unknown adapter"] = str(error)
    engine.close()
    try:
        VLLMEngine(base, max_model_len=100_000)
    except UsageError as error:
        errors["too long"] = str(error)
    second = VLLMEngine(base, concurrency=2)
    answers["second engine"] = [c.model_dump() for c in second.generate(BATCHES["adapters"][:1])]
    second.close()
    (work / "out.json").write_text(json.dumps({"answers": answers, "errors": errors}))


class Outcome:
    """What the program wrote and printed."""

    def __init__(self, folder: Path, ran: subprocess.CompletedProcess[str]) -> None:
        assert ran.returncode == 0, ran.stderr[-3000:]
        found = json.loads((folder / "out.json").read_text())
        self.errors: dict[str, str] = found["errors"]
        self.printed = ran.stdout + ran.stderr
        self.answers = {name: [Completion.model_validate(c) for c in batch] for name, batch in found["answers"].items()}

    def of(self, name: str) -> list[Completion]:
        """The completions of a batch in request order."""
        by_key = {c.request: c for c in self.answers[name]}
        return [by_key[request.key] for request in BATCHES[name]]


@pytest.fixture(scope="module")
def folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the two adapters are."""
    folder = tmp_path_factory.mktemp("vllm")
    make_adapter(tiny_model, folder / "one", rank=4)
    make_adapter(tiny_model, folder / "two", rank=9)
    return folder


@pytest.fixture(scope="module")
def outcome(tiny_model: Path, folder: Path) -> Outcome:
    command = [sys.executable, "-m", "tests.test_vllm_engine", str(tiny_model), str(folder)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    return Outcome(folder, ran)


@needs_vllm
def test_every_request_is_answered_once_the_short_ones_first(outcome: Outcome) -> None:
    for name, batch in BATCHES.items():
        assert Counter(c.request for c in outcome.answers[name]) == Counter(r.key for r in batch)
    plain = outcome.of("plain")
    assert {c.finish_reason for c in plain} <= {"stop", "length"}
    assert all(c.prompt_tokens > 5 and 1 <= c.completion_tokens <= 16 for c in plain)
    assert outcome.answers["plain"] != plain  # they finish in another order


@needs_vllm
def test_a_call_repeats_itself_and_another_call_draws_anew(outcome: Outcome) -> None:
    assert outcome.of("again") == outcome.of("plain")
    assert {c.request: c for c in outcome.answers["after leaving"]} == {c.request: c for c in outcome.of("plain")}
    again = {c.request: c.text for c in outcome.of("plain")}
    assert any(c.text != again[c.request] for c in outcome.of("other"))


@needs_vllm
def test_a_chat_goes_through_the_tokenizers_template(outcome: Outcome) -> None:
    chat, by_hand, *_ = outcome.of("mixed")
    assert chat.text == by_hand.text
    assert chat.prompt_tokens == by_hand.prompt_tokens


@needs_vllm
def test_stops_limits_and_what_cannot_be_asked(outcome: Outcome) -> None:
    _, _, stopped, too_long, *_ = mixed = outcome.of("mixed")
    assert stopped.finish_reason == "stop"
    assert not set("ea ") & set(stopped.text)
    assert too_long.finish_reason == "error"
    assert "max_model_len is 2048" in too_long.error
    assert mixed[-1].finish_reason == "error"
    assert mixed[-1].error.startswith("vLLM refused the request")
    assert [c.finish_reason for c in mixed].count("error") == 2


@needs_vllm
def test_guided_answers_keep_to_their_guide(outcome: Outcome) -> None:
    mixed = outcome.of("mixed")
    assert json.loads(mixed[4].text)["n"] in (1, 2)
    assert mixed[5].text in CHOICES
    assert mixed[7].text in ("yes", "no")
    assert mixed[4].first_logprobs == {}


@needs_vllm
def test_first_logprobs_are_the_models_own_for_every_token_that_can_begin_a_choice(
    outcome: Outcome, tiny_model: Path
) -> None:
    expected = _reference(tiny_model, None)
    mixed = outcome.of("mixed")
    for completion, choices in ((mixed[5], CHOICES), (mixed[7], ("yes", "no"))):
        begins = {token: v for token, v in expected.items() if any(c.startswith(token) for c in choices)}
        all_of_it = math.log(sum(math.exp(v) for v in begins.values()))
        assert set(completion.first_logprobs) == set(begins)
        for token, value in completion.first_logprobs.items():
            assert value == pytest.approx(begins[token] - all_of_it, abs=0.1)  # bfloat16 on either side


def _reference(base: Path, adapter: Path | None) -> dict[str, float]:
    """Token text -> log-probability after PROMPT, by transformers and PEFT."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    model = PeftModel.from_pretrained(model, adapter) if adapter else model
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer.encode(PROMPT)])).logits[0, -1]
    values = logits.float().log_softmax(-1)
    return {tokenizer.decode([i]): values[i].item() for i in range(len(tokenizer))}


@needs_vllm
def test_adapters_answer_in_one_batch_each_by_its_name(outcome: Outcome, tiny_model: Path, folder: Path) -> None:
    base, one, two, also, *_ = outcome.of("adapters")
    for completion, adapter in ((base, None), (one, folder / "one"), (two, folder / "two"), (also, None)):
        expected = _reference(tiny_model, adapter)
        found = {token: v for token, v in completion.first_logprobs.items() if token.isascii()}
        assert found
        assert all(value == pytest.approx(expected[token], abs=0.1) for token, value in found.items())
    assert len({base.text, one.text, two.text}) == 3
    assert also.text == base.text
    assert outcome.answers["second engine"][0].text == base.text  # without any adapter loaded
    assert "no adapter answers as 'on' (did you mean 'one'?)" in outcome.errors["unknown adapter"]


@needs_vllm
def test_an_engine_that_cannot_be_built_says_why(outcome: Outcome) -> None:
    assert "vLLM cannot load it" in outcome.errors["too long"]
    assert "100000" in outcome.errors["too long"]


@needs_vllm
def test_nothing_is_printed_over_the_terminal(outcome: Outcome) -> None:
    assert outcome.printed == ""


def test_adapters_are_checked_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not an adapter as PEFT saves it"):
        VLLMEngine(tmp_path, adapters={"a": tmp_path})
    (tmp_path / "adapter_model.bin").touch()
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"only adapter_model\.bin"):
        VLLMEngine(tmp_path, adapters={"a": tmp_path})
    (tmp_path / "adapter_model.safetensors").touch()
    for settings, said in (({"r": 8, "use_dora": True}, "DoRA"), ({"r": 9000}, "rank 9000")):
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
        with pytest.raises(UsageError, match=said):
            VLLMEngine(tmp_path, adapters={"a": tmp_path})


def test_without_vllm_the_remedy_is_named(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; sys.modules['vllm'] = None\n"  # as if it were not installed
        "from harness.engines.vllm import VLLMEngine\n"
        "VLLMEngine(Path('nowhere'))"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "harness.errors.MachineError: engine vllm: the package vllm cannot be imported" in ran.stderr
    assert "use engine: openai or transformers" in ran.stderr


@given(
    st.lists(st.text("ab ", min_size=1, max_size=4), min_size=1, max_size=4).map(tuple),
    st.lists(st.text("ab ", max_size=4).map(str.encode), min_size=1, max_size=300),
)
def test_first_tokens_are_all_and_only_those_that_begin_a_choice(
    choices: tuple[str, ...], vocabulary: Sequence[bytes]
) -> None:
    begins = {i for i, t in enumerate(vocabulary) if t and any(c.encode().startswith(t) for c in choices)}
    found = FirstTokens(lambda: vocabulary).of(choices)
    assert len(found) == len(set(found)) == min(len(begins), MOST_FIRST_TOKENS)
    assert set(found) <= begins
    left_out = begins - set(found)
    assert all(len(vocabulary[i]) <= len(vocabulary[j]) for i in left_out for j in found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
