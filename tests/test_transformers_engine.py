"""The transformers engine against plain forward passes, one sequence at a time."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engines.prefix_tree.decoding import draw
from harness.engines.prefix_tree.tree import Tree, ancestors, chunks, grow, ranges, visible
from harness.engines.protocols import NextTokens
from harness.engines.transformers import TransformersEngine
from harness.errors import UsageError
from harness.metrics.json_answers import schema_mismatch
from harness.records import Completion, Loglikelihood, Message, Origin, Pair, Request, Sampling
from tests.tiny import make_adapter, make_tiny_model

ORIGIN = Origin(purpose="answer")


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> TransformersEngine:
    return TransformersEngine(tiny_model, device="cpu", dtype="float32")


def asked(text: str, index: int = 0, chat: bool = False, **sampling: Any) -> Request:
    settings = Sampling(**({"temperature": 0.0, "max_tokens": 8} | sampling))
    form: dict[str, Any] = {"messages": (Message(role="user", content=text),)} if chat else {"prompt": text}
    return Request(model="tiny@0", sampling=settings, sample_index=index, origin=ORIGIN, **form)


def answers(engine: TransformersEngine, requests: list[Request]) -> list[Completion]:
    found = {completion.request: completion for completion in engine.generate(iter(requests))}
    assert len(found) == len(requests)
    return [found[request.key] for request in requests]


def alone(engine: TransformersEngine, pair: Pair) -> tuple[float, bool]:
    """One pair by one plain forward pass."""
    ids = torch.tensor([pair.context + pair.continuation])
    with torch.no_grad():
        logprobs = engine.network(input_ids=ids).logits[0].float().log_softmax(-1)
    rows = logprobs[len(pair.context) - 1 : -1]
    target = torch.tensor(pair.continuation)
    total = rows.gather(1, target[:, None]).sum()
    return float(total), bool((rows.argmax(-1) == target).all())


def assert_equal_to_alone(
    engine: TransformersEngine, pairs: list[Pair], found: list[Loglikelihood], within: float = 1e-4
) -> None:
    for pair, one in zip(pairs, found, strict=True):
        logprob, greedy = alone(engine, pair)
        assert one.logprob == pytest.approx(logprob, abs=within)
        assert one.tokens == len(pair.continuation)
        assert one.greedy == greedy


def some_pairs(shared: int, seed: int = 0) -> list[Pair]:
    """Questions with choices, after `shared` common tokens: forks, duplicates, prefixes of each other."""
    pick = random.Random(seed)

    def tokens(n: int) -> tuple[int, ...]:
        return tuple(pick.randrange(3, 400) for _ in range(n))

    head, pairs = tokens(shared), []
    for _ in range(6):
        question = head + tokens(pick.randrange(1, 30))
        pairs += [Pair(context=question, continuation=tokens(pick.randrange(1, 6))) for _ in range(4)]
    last = pairs[-1]
    pairs.append(last)  # the same again
    pairs.append(Pair(context=last.context, continuation=(*last.continuation, 7, 8)))  # one beyond another
    pairs.append(Pair(context=last.context[:-1], continuation=(last.context[-1], *last.continuation)))
    pairs.append(Pair(context=(5,), continuation=tokens(3)))
    pick.shuffle(pairs)
    return pairs


@pytest.mark.parametrize("shared", [0, 40])
@pytest.mark.parametrize("budget", [7, 64, 2048])
def test_a_tree_scores_as_single_passes_do(tiny_model: Path, shared: int, budget: int) -> None:
    engine = TransformersEngine(tiny_model, device="cpu", dtype="float32", batch_tokens=budget)
    pairs = some_pairs(shared)
    if shared:
        pairs = [pair for pair in pairs if len(pair.context) > 1]  # all share the prefix
    assert_equal_to_alone(engine, pairs, engine.loglikelihood(pairs))


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "gemma2", "gemma3_text"])
def test_every_family_is_scored_and_continued_alike(tmp_path: Path, architecture: str) -> None:
    """Gemma's sliding windows (32 tokens here) and capped logits included."""
    folder = make_tiny_model(tmp_path / architecture, architecture)
    engine = TransformersEngine(folder, device="cpu", dtype="float32", batch_tokens=50)
    pairs = some_pairs(40)
    assert_equal_to_alone(engine, pairs, engine.loglikelihood(pairs))
    request = asked("My parcel has not arrived yet and the tracking page shows nothing. " * 2, max_tokens=40)
    [answer] = answers(engine, [request])
    assert answer.text == greedy_alone(engine, request)


def greedy_alone(engine: TransformersEngine, request: Request) -> str:
    """The same answer by full forward passes, one per token."""
    ids = engine.prompt_ids(request.messages) if request.messages else engine.tokenizer(request.prompt).input_ids
    ids, start = list(ids), len(ids)
    for _ in range(request.sampling.max_tokens):
        with torch.no_grad():
            token = int(engine.network(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token in engine.end_ids:
            break
        ids.append(token)
    return str(engine.tokenizer.decode(ids[start:], skip_special_tokens=True))


def test_the_best_continuation_is_flagged_greedy(engine: TransformersEngine) -> None:
    context = tuple(engine.tokenizer("How do I cancel").input_ids)
    with torch.no_grad():
        best = int(engine.network(input_ids=torch.tensor([context])).logits[0, -1].argmax())
    first, second = engine.loglikelihood(
        [Pair(context=context, continuation=(best,)), Pair(context=context, continuation=(best ^ 1,))]
    )
    assert first.greedy
    assert not second.greedy
    assert first.logprob > second.logprob


def test_of_two_equal_logits_the_first_is_greedy(tiny_model: Path) -> None:
    engine = TransformersEngine(tiny_model, device="cpu", dtype="float32")
    context = tuple(engine.tokenizer("How do I cancel").input_ids)
    with torch.no_grad():
        best = int(engine.network(input_ids=torch.tensor([context])).logits[0, -1].argmax())
        weights = engine.network.get_input_embeddings().weight  # the output head's too
        twins = sorted({best, next(i for i in range(3, 512) if i not in (best, *context))})
        weights[twins] = weights[best].clone()
    found = engine.loglikelihood([Pair(context=context, continuation=(twin,)) for twin in twins])
    assert [one.greedy for one in found] == [True, False]
    assert found[0].logprob == found[1].logprob


def test_nothing_asked_is_nothing_answered(engine: TransformersEngine) -> None:
    assert engine.loglikelihood([]) == []
    assert list(engine.generate([])) == []
    [empty] = engine.loglikelihood([Pair(context=(4,), continuation=())])
    assert (empty.logprob, empty.tokens) == (0.0, 0)


def test_pairs_that_cannot_be_scored_are_named(engine: TransformersEngine) -> None:
    good = Pair(context=(4,), continuation=(5,))
    with pytest.raises(ValueError, match="pair 1: the context is empty"):
        engine.loglikelihood([good, Pair(context=(), continuation=(5,))])
    with pytest.raises(ValueError, match=r"pair 1: 2050 .*2048"):
        engine.loglikelihood([good, Pair(context=(4,) * 2049, continuation=(5,))])
    assert engine.max_length == 2048


def test_the_tree_holds_each_shared_token_once() -> None:
    sequences = [(1, 2, 3), (1, 2, 4, 5), (1, 2, 3), (1, 2), (9,)]
    tree = grow(sequences, [0] * 5)
    assert tree.tokens.tolist() == [1, 2, 3, 4, 5, 9]
    assert tree.depth.tolist() == [0, 1, 2, 2, 3, 0]
    assert tree.end.tolist() == [5, 5, 3, 5, 5, 6]
    for sequence, path in zip(sequences, tree.paths, strict=True):
        assert tuple(tree.tokens[path]) == sequence
    assert ancestors(tree, 4).tolist() == [0, 1, 3]
    every = np.arange(6)
    seen = visible(tree, every, every)
    for node in every:
        assert np.flatnonzero(seen[node]).tolist() == [*ancestors(tree, int(node)).tolist(), node]
    assert visible(tree, every, every, window=2).sum(axis=1).tolist() == [1, 2, 2, 2, 2, 1]


def test_ranges_keep_to_both_budgets() -> None:
    tree = grow([tuple(range(100))], [0])
    read = np.arange(50, 100)
    found = ranges(tree, 40, read, 10)
    assert [start for start, _ in found[1:]] == [stop for _, stop in found[:-1]]
    assert (found[0][0], found[-1][1]) == (0, 100)
    for start, stop in found:
        assert stop - start <= 40
        assert ((read >= start) & (read < stop)).sum() <= 10


def distinct_nodes(pairs: list[Pair]) -> int:
    return len(grow([pair.context + pair.continuation[:-1] for pair in pairs], [0] * len(pairs)))


# Few tokens, so that sequences share beginnings, fork anywhere and repeat.
SMALL_PAIRS = st.lists(
    st.builds(
        Pair,
        context=st.lists(st.integers(3, 5), min_size=1, max_size=12).map(tuple),
        continuation=st.lists(st.integers(3, 5), max_size=5).map(tuple),
    ),
    max_size=12,
)


@pytest.fixture(scope="module", params=[(name, passes) for name in ("llama", "gemma2") for passes in (1, 16)])
def small_blocks(tmp_path_factory: pytest.TempPathFactory, request: Any) -> TransformersEngine:
    """Passes of 4 nodes; gemma2 has a sliding window in every other layer, of 5 tokens here."""
    architecture, passes = request.param
    folder = make_tiny_model(tmp_path_factory.mktemp("small") / architecture, architecture)
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"sliding_window": 32', '"sliding_window": 5'))
    return TransformersEngine(folder, device="cpu", dtype="float32", batch_tokens=4, block_passes=passes)


@settings(max_examples=20, deadline=None)
@given(calls=st.lists(SMALL_PAIRS, max_size=3))
def test_blocks_and_calls_change_nothing(small_blocks: TransformersEngine, calls: list[list[Pair]]) -> None:
    """Whatever one call leaves behind, the next gives what single passes give."""
    for pairs in calls:
        before = small_blocks.nodes
        assert_equal_to_alone(small_blocks, pairs, small_blocks.loglikelihood(pairs))
        asked_for = [pair for pair in pairs if pair.continuation]
        assert small_blocks.nodes - before <= sum(len(p.context + p.continuation[:-1]) for p in asked_for)


@pytest.mark.parametrize("budget", [16, 512])
@pytest.mark.parametrize("size", [4, 12, 1000])
def test_shared_examples_are_computed_once_over_many_calls(tiny_model: Path, size: int, budget: int) -> None:
    """Two subjects with five questions each of four endings, in calls of `size` pairs."""
    engine = TransformersEngine(tiny_model, device="cpu", dtype="float32", batch_tokens=budget)
    pick = random.Random(3)
    pairs = []
    for _ in range(2):
        examples = tuple(pick.randrange(3, 400) for _ in range(150))
        for _ in range(5):
            question = examples + tuple(pick.randrange(3, 400) for _ in range(10))
            pairs += [Pair(context=question, continuation=(letter, letter + 1)) for letter in (5, 6, 7, 8)]
    pairs.sort(key=lambda pair: pair.context + pair.continuation)
    found = [one for at in range(0, len(pairs), size) for one in engine.loglikelihood(pairs[at : at + size])]
    assert engine.nodes == distinct_nodes(pairs) == 2 * (150 + 5 * (10 + 4))
    assert_equal_to_alone(engine, pairs, found)


def test_generating_in_between_leaves_the_trunk_whole(tiny_model: Path) -> None:
    engine = TransformersEngine(tiny_model, device="cpu", dtype="float32", batch_tokens=32)
    pairs = some_pairs(40, seed=5)
    first = engine.loglikelihood(pairs[:9])
    [answer] = answers(engine, [asked("My parcel has not arrived", max_tokens=6)])
    assert_equal_to_alone(engine, pairs, first + engine.loglikelihood(pairs[9:]))
    assert answer.completion_tokens > 0


def test_chunks_see_exactly_what_their_rows_see() -> None:
    pick = random.Random(1)
    tree: Tree = grow([[pick.randrange(3) for _ in range(pick.randrange(1, 9))] for _ in range(30)], [0] * 30)
    start, stop = len(tree) // 3, len(tree) - 4
    columns = np.concatenate([ancestors(tree, start), np.arange(start, stop)])
    rows = columns[-(stop - start) :]
    seen = visible(tree, rows, columns)
    covered = []
    for first, last, places in chunks(tree, columns, len(rows), 7):
        assert last - first <= 7
        covered += list(range(first, last))
        assert np.flatnonzero(seen[first:last].any(axis=0)).tolist() == places.tolist()
    assert covered == list(range(len(rows)))
    for (_, _, exact), (_, _, wide) in zip(
        chunks(tree, columns, len(rows), 7), chunks(tree, columns, len(rows), 7, 8), strict=True
    ):
        assert set(exact) <= set(wide)
        assert len(set(wide)) == len(wide) == min(-(-len(exact) // 8) * 8, len(columns))


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])
def test_next_tokens_are_those_of_single_passes(tmp_path: Path, architecture: str) -> None:
    folder = make_tiny_model(tmp_path / architecture, architecture)
    engine = TransformersEngine(folder, device="cpu", dtype="float32", batch_tokens=50)
    pairs = [*some_pairs(40), Pair(context=(4, 5), continuation=())]
    found = engine.next_tokens(pairs, 7)
    named = [NextTokens(ids=one.ids[:, ::-1][:, :3] // 2, logprobs=one.logprobs[:, :3]) for one in found]
    other = engine.next_tokens(pairs, 0, named)
    for pair, top, given_ids, at in zip(pairs, found, named, other, strict=True):
        with torch.no_grad():
            whole = engine.network(input_ids=torch.tensor([pair.context + pair.continuation])).logits[0]
        logprobs = whole.float().log_softmax(-1)[len(pair.context) - 1 : -1][: len(pair.continuation)]
        assert top.ids.shape == top.logprobs.shape == (len(pair.continuation), 7)
        assert top.ids.dtype == np.int64
        assert top.logprobs.dtype == np.float32
        best = logprobs.topk(7, dim=-1)
        assert np.allclose(top.logprobs, best.values.numpy(), atol=1e-4)
        assert np.allclose(top.logprobs, logprobs.gather(1, torch.from_numpy(top.ids)).numpy(), atol=1e-4)
        assert (at.ids == given_ids.ids).all()
        assert np.allclose(at.logprobs, logprobs.gather(1, torch.from_numpy(given_ids.ids.copy())).numpy(), atol=1e-4)


def test_next_tokens_refuses_what_does_not_fit(engine: TransformersEngine) -> None:
    pair = Pair(context=(4,), continuation=(5, 6))
    [known] = engine.next_tokens([pair], 2)
    assert engine.next_tokens([], 2) == []
    with pytest.raises(ValueError, match="k is 0"):
        engine.next_tokens([pair], 0)
    with pytest.raises(ValueError, match="ids of 1 pairs for 2 pairs"):
        engine.next_tokens([pair, pair], 2, [known])
    with pytest.raises(ValueError, match=r"pair 0: .*\(1, 2\) .*\b2\b"):
        engine.next_tokens([pair], 2, [NextTokens(ids=known.ids[:1], logprobs=known.logprobs[:1])])
    with pytest.raises(ValueError, match="pair 0: ids from 0 to 512, not in 0 to 511"):
        engine.next_tokens([pair], 2, [NextTokens(ids=np.array([[0], [512]]), logprobs=known.logprobs)])


def test_answers_do_not_depend_on_the_batch(engine: TransformersEngine) -> None:
    texts = ["My parcel", "How do I cancel the monthly plan before", "I was charged twice", "The answer is"]
    requests = [asked(text, chat=i % 2 == 1, max_tokens=5 + 3 * i) for i, text in enumerate(texts)]
    sampled = [asked(text, i, temperature=1.0, top_p=0.9, max_tokens=12) for text in texts for i in range(2)]
    together = answers(engine, [*sampled, *requests])
    assert together == [answers(engine, [request])[0] for request in [*sampled, *requests]]
    for request, answer in zip(requests, together[len(sampled) :], strict=True):
        assert answer.text == greedy_alone(engine, request)
        assert answer.prompt_tokens > 0
        assert answer.finish_reason in ("stop", "length")
    assert len({answer.text for answer in together[: len(sampled)]}) > len(sampled) // 2


def test_length_and_stop_are_told_apart(engine: TransformersEngine) -> None:
    [whole] = answers(engine, [asked("My parcel has", max_tokens=12)])
    assert whole.finish_reason == "length"
    assert whole.completion_tokens == 12
    stop = whole.text[3:5]
    [cut] = answers(engine, [asked("My parcel has", max_tokens=12, stop=(stop,))])
    assert cut.finish_reason == "stop"
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.completion_tokens <= 12


def test_an_end_token_stops_and_is_not_in_the_text(engine: TransformersEngine) -> None:
    requests = [asked("I was", i, temperature=2.0, max_tokens=400) for i in range(24)]
    stopped = [answer for answer in answers(engine, requests) if answer.finish_reason == "stop"]
    assert stopped
    for answer in stopped:
        assert "<|im_end|>" not in answer.text
        assert answer.completion_tokens < 400


def test_choices_are_guided_and_their_logprobs_are_raw(engine: TransformersEngine) -> None:
    choices = ("yes", "yes indeed", "no")
    request = asked("Is it good?", chat=True, choices=choices)
    [answer] = answers(engine, [request])
    assert answer.text in choices
    assert answer.finish_reason == "stop"
    ids = engine.prompt_ids(request.messages)
    with torch.no_grad():
        raw = engine.network(input_ids=torch.tensor([ids])).logits[0, -1].float().log_softmax(-1)
    for choice in choices:
        first = engine.tokenizer(choice).input_ids[0]
        assert answer.first_logprobs[engine.tokenizer.decode([first])] == pytest.approx(float(raw[first]), abs=1e-4)
    assert 15 <= len(answer.first_logprobs) <= 23  # tokens that read alike are one entry
    assert math.fsum(map(math.exp, answer.first_logprobs.values())) < 1
    drawn = answers(engine, [asked("Is it?", i, temperature=5.0, choices=choices) for i in range(40)])
    assert {one.text for one in drawn} == set(choices)


def test_logprobs_of_the_first_token(engine: TransformersEngine) -> None:
    [answer] = answers(engine, [asked("Is it good?", logprobs=3)])
    assert len(answer.first_logprobs) == 3


def test_what_cannot_be_asked_is_an_error_completion(engine: TransformersEngine) -> None:
    first, second = answers(engine, [asked("My parcel"), asked("x" * 9000)])
    assert first.finish_reason == "length"
    assert second.finish_reason == "error"
    assert "the model's context has 2048" in second.error


FORM = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["late", "broken", 'a "quoted" one']},
        "number": {"type": ["string", "null"], "pattern": "^[0-9]{3}$"},
        "sure": {"type": "boolean"},
    },
}


@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {"temperature": 1.5}, {"temperature": 1.0, "top_p": 0.9}])
def test_a_flat_schema_guides_every_answer(engine: TransformersEngine, sampling: dict[str, Any]) -> None:
    requests = [asked(f"My parcel {i}", i, json_schema=FORM, **(sampling | {"max_tokens": 200})) for i in range(4)]
    unguided = asked("My parcel 0", 9, temperature=0.0)
    *guided, free = answers(engine, [*requests, unguided])
    for completion in guided:
        value = json.loads(completion.text)
        assert completion.finish_reason == "stop"
        assert schema_mismatch({**FORM, "required": list(FORM["properties"])}, value) == ""
    assert free == answers(engine, [unguided])[0]


def test_a_guided_answer_is_cut_at_the_limit_of_tokens(engine: TransformersEngine) -> None:
    (completion,) = answers(engine, [asked("My parcel", json_schema=FORM, temperature=0.0, max_tokens=3)])
    assert completion.finish_reason == "length"
    assert '{"kind": "'.startswith(completion.text.lstrip())


def test_where_a_schema_is_asked_for_the_model_writes_unguided(engine: TransformersEngine) -> None:
    plain, schema = answers(engine, [asked("My parcel"), asked("My parcel", json_schema={"type": "object"})])
    assert (plain.text, plain.error) == (schema.text, schema.error)


def test_an_answer_ends_where_the_context_ends(engine: TransformersEngine) -> None:
    text = "x" * 2040
    assert len(engine.tokenizer(text).input_ids) == 2040
    [answer] = answers(engine, [asked(text, max_tokens=100)])
    assert answer.completion_tokens <= 8


def test_requests_are_pulled_a_few_at_a_time(engine: TransformersEngine) -> None:
    pulled = 0

    def source() -> Any:
        nonlocal pulled
        for i in range(1000):
            pulled += 1
            yield asked("My parcel", i, max_tokens=1)

    next(engine.generate(source()))
    assert pulled <= 64


def test_draws_invert_the_nucleus() -> None:
    probabilities = torch.tensor([[0.5, 0.3, 0.2]])
    assert [draw(probabilities, [1.0], [at])[0] for at in (0.0, 0.49, 0.51, 0.81, 0.9999)] == [0, 0, 1, 2, 2]
    # 0.8 keeps the first two, renormalised to 0.625 and 0.375
    assert [draw(probabilities, [0.8], [at])[0] for at in (0.0, 0.62, 0.63, 0.9999)] == [0, 0, 1, 1]
    assert draw(probabilities, [0.1], [0.9999]) == [0]
    flat = torch.full((2, 20000), 1 / 20000)  # wider than what is looked at first
    flat[:, 7] *= 2
    for at in (0.2, 0.9999):
        assert draw(flat, [0.99, 1.0], [at, at]) == draw(flat[:1], [0.99], [at]) + draw(flat[1:], [1.0], [at])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_is_merged(tiny_model: Path, tmp_path: Path, dtype: str) -> None:
    folder = make_adapter(tiny_model, tmp_path / "adapter", targets=["q_proj", "v_proj", "down_proj"], scale=0.1)
    base = TransformersEngine(tiny_model, device="cpu", dtype=dtype)
    tuned = TransformersEngine(tiny_model, folder, device="cpu", dtype=dtype)
    assert tuned.notes == []
    assert not any("lora" in name for name, _ in tuned.network.named_parameters())
    pairs = some_pairs(0)
    assert tuned.loglikelihood(pairs) != base.loglikelihood(pairs)
    if dtype == "float32":
        assert_equal_to_alone(tuned, pairs, tuned.loglikelihood(pairs))


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_that_merges_wrongly_is_kept_apart(tiny_model: Path, tmp_path: Path) -> None:
    """Merging into an output head that is also the embedding changes the inputs too."""
    folder = make_adapter(tiny_model, tmp_path / "adapter", targets=["lm_head"], scale=0.5)
    tuned = TransformersEngine(tiny_model, folder, device="cpu", dtype="float32")
    assert "not merged" in tuned.notes[0]
    assert any("lora" in name for name, _ in tuned.network.named_parameters())
    pairs = some_pairs(0)
    assert_equal_to_alone(tuned, pairs, tuned.loglikelihood(pairs))
    assert answers(tuned, [asked("My parcel")])[0].text


def test_what_cannot_be_loaded_is_said(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="device 'gpu'"):
        TransformersEngine(tiny_model, device="gpu")
    with pytest.raises(UsageError, match="not an adapter"):
        TransformersEngine(tiny_model, tmp_path, device="cpu")


@pytest.mark.slow
def test_the_real_model_answers_sensibly(bundled_model: Path) -> None:
    engine = TransformersEngine(bundled_model, device="cpu")
    request = asked("What is the capital of France?", chat=True, max_tokens=20)
    [answer] = answers(engine, [request])
    assert "Paris" in answer.text
    assert answer.finish_reason == "stop"


@pytest.mark.slow
def test_the_real_model_scores_as_single_passes_do(bundled_model: Path) -> None:
    engine = TransformersEngine(bundled_model, device="cpu", dtype="float32")
    head = "Questions about the world, each with its answer.\n\n" * 4
    questions = ["The capital of France is", "Water boils at", "The largest planet is"]
    endings = [" Paris.", " Rome.", " one hundred degrees.", " Jupiter."]
    encode = engine.tokenizer
    pairs = [
        Pair(context=tuple(encode(head + q).input_ids), continuation=tuple(encode(e).input_ids))
        for q in questions
        for e in endings
    ]
    found = engine.loglikelihood(pairs)
    assert_equal_to_alone(engine, pairs, found, within=1e-3)
    assert max(range(4), key=lambda i: found[i].logprob) == 0
