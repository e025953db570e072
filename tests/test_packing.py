"""Rows share a forward pass without seeing each other, and only the answer and its stop token carry loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config.run import Train
from harness.errors import UsageError
from harness.models.chat_template import Chat, TokenizedRow, load_chat, tokenize_row
from harness.train import attention
from harness.train.base import packed_windows
from harness.train.packing import answer_tokens, micro_batches, pack, pad, token_losses, tokens_together
from harness.train.preflight import preflight
from tests.project import labelled, prompted_row
from tests.tiny import END_OF_TURN, TEMPLATE, make_tiny_model

CPU = torch.device("cpu")
TEXTS = (
    ("The screen went dark and it will not start since I left it in the rain for a night.", "repair"),
    ("Charged twice!", "billing"),
    ("How do I cancel the monthly plan before the next bill is sent to me, please?", "cancel"),
    ("no parcel yet", "delivery"),
)


ROWS = tuple(prompted_row(text, label) for text, label in TEXTS)


@pytest.fixture(scope="module")
def chat(tiny_model: Path) -> Chat:
    """The tiny model's tokenizer."""
    return load_chat("tiny", tiny_model)


def with_template(chat: Chat, template: str) -> Chat:
    """The same tokenizer with another chat template."""
    from copy import deepcopy

    tokenizer = deepcopy(chat.tokenizer)
    tokenizer.chat_template = template
    return Chat(chat.name, tokenizer, chat.stops)


def load(folder: Path) -> Any:
    """A model in float32, so that equal means equal. Its attention is the plain one, which knows Gemma 2's cap."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def test_loss_is_on_exactly_the_answer_and_the_stop_token(chat: Chat) -> None:
    examples = [tokenize_row(chat, row) for row in ROWS]
    packed = pack([examples], CPU)
    for number, row in enumerate(ROWS):
        mine = packed.owner == number
        assert chat.tokenizer.decode(packed.targets[mine]) == row.answer + END_OF_TURN
        start = packed.predicting[mine][0]
        ids = examples[number].ids[: examples[number].answer_start]
        shared = packed.blocks[0].length  # the beginning of all prompts stands once, before the rows
        seen = packed.input_ids.flatten().tolist()
        assert [*seen[:shared], *seen[start + 1 - len(ids) + shared : start + 1]] == list(ids)
        assert packed.position_ids.flatten()[start] == len(ids) - 1
    assert len(packed.targets) == answer_tokens(examples)


def rows_of(*ids: tuple[int, ...], answers: int = 2) -> list[TokenizedRow]:
    """Rows whose last `answers` tokens are learned."""
    return [TokenizedRow(str(n), row, ((len(row) - answers, len(row)),)) for n, row in enumerate(ids)]


def test_a_beginning_that_rows_share_is_laid_once_and_nothing_is_padded() -> None:
    prompt = tuple(range(20))
    alike = rows_of((*prompt, 30, 31, 32), (*prompt, 40, 41, 42, 43), (*prompt, 30, 50, 51))
    packed = pack([alike], CPU)
    assert packed.input_ids.tolist() == [[*prompt, 30, 31, 40, 41, 42, 30, 50]]
    assert packed.position_ids.tolist() == [[*range(20), 20, 21, 20, 21, 22, 20, 21]]
    assert tokens_together(alike) == packed.input_ids.numel() == 27
    apart = pack([alike[:2], alike[2:]], CPU)  # only rows of one part share
    assert apart.ends == (25, 47)
    assert pad(alike, CPU).input_ids.shape == (3, 23)


def test_what_predicts_the_first_answer_is_each_rows_own() -> None:
    same = rows_of((*range(20), 30, 31), (*range(20), 40, 41))
    packed = pack([same], CPU)
    assert packed.input_ids.tolist() == [[*range(19), 19, 30, 19, 40]]
    assert packed.targets.tolist() == [30, 31, 40, 41]


def test_what_is_learned_follows_the_prompt_that_is_asked_later(chat: Chat) -> None:
    example = tokenize_row(chat, ROWS[0])
    turns = [m.model_dump() for m in ROWS[0].messages[:-1]]
    asked = chat.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert list(example.ids[: example.answer_start]) == asked


ARCHITECTURES = ["llama", "qwen2", "qwen3", "gemma2", "gemma3_text"]  # gemma: sliding window of 32


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_losses_equal_the_rows_alone(architecture: str, tmp_path: Path, chat: Chat) -> None:
    network = load(make_tiny_model(tmp_path / architecture, architecture))
    examples = [tokenize_row(chat, row) for row in ROWS]
    with torch.no_grad():
        whole = torch.cat([_plain_losses(network, e.ids, e.answer_start) for e in examples])
        padded = pad(examples, CPU)
        torch.testing.assert_close(token_losses(network, padded, {}), whole, rtol=1e-5, atol=1e-5)
        windows = packed_windows(network, "eager", examples, CPU)
        assert windows
        for parts in ([examples], [examples[:1], examples[1:]], [[row] for row in examples]):
            packed = pack(parts, CPU)
            losses = token_losses(network, packed, windows)[packed.owner.argsort(stable=True)]
            torch.testing.assert_close(losses, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_gradients_equal_those_of_the_rows_alone(architecture: str, tmp_path: Path, chat: Chat) -> None:
    network = load(make_tiny_model(tmp_path / architecture, architecture))
    examples = [tokenize_row(chat, row) for row in ROWS]
    torch.autograd.backward(token_losses(network, pad(examples, CPU), {}).sum())
    alone = [weight.grad.clone() for weight in network.parameters()]
    network.zero_grad()
    windows = packed_windows(network, "eager", examples, CPU)
    torch.autograd.backward(token_losses(network, pack([examples[:3], examples[3:]], CPU), windows).sum())
    for weight, expected in zip(network.parameters(), alone, strict=True):
        torch.testing.assert_close(weight.grad, expected, rtol=1e-3, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    shared=st.integers(0, 7),
    window=st.sampled_from([None, 3]),
    softcap=st.sampled_from([None, 2.0]),
    groups=st.sampled_from([1, 3]),
)
def test_attention_and_its_gradients_equal_the_textbook(
    lengths: list[int], shared: int, window: int | None, softcap: float | None, groups: int
) -> None:
    torch.manual_seed(0)
    tokens, dim, key_heads = shared + sum(lengths), 4, 2
    shapes = ((key_heads * groups, tokens, dim), (key_heads, tokens, dim), (key_heads, tokens, dim))
    states = [torch.randn(1, *shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    query, key, value = states
    before = [attention.block([shared], 0, slice(0, 0), CPU)] if shared else []
    blocks = [*before, attention.block(lengths, shared, slice(0, shared), CPU)]
    masks = attention.additive_masks(blocks, window, torch.float64, CPU)
    ours, _ = attention.attend(torch.nn.Module(), query, key, value, masks, 0.3, softcap, blocks)

    row = torch.tensor([0] * shared + [n + 1 for n, length in enumerate(lengths) for _ in range(length)])
    place = torch.tensor([*range(shared), *(shared + i for length in lengths for i in range(length))])
    apart = place[:, None] - place[None]
    hidden = (apart < 0) | ((row[None] != row[:, None]) & (row[None] != 0)) | (apart >= (window or tokens))
    scores = query[0] @ key[0].repeat_interleave(groups, 0).mT * 0.3
    scores = torch.tanh(scores / softcap) * softcap if softcap else scores
    plain = torch.softmax(scores.masked_fill(hidden, -torch.inf), -1) @ value[0].repeat_interleave(groups, 0)

    torch.testing.assert_close(ours[0].transpose(0, 1), plain)
    if not softcap:
        whole = attention.fused(query[0], key[0], value[0], masks, 0.3, blocks)
        torch.testing.assert_close(whole.transpose(0, 1), plain)
    weights = torch.randn_like(plain)
    wanted = torch.autograd.grad((plain * weights).sum(), states)
    got = torch.autograd.grad((ours[0].transpose(0, 1) * weights).sum(), states)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other)


def _plain_losses(network: Any, ids: tuple[int, ...], start: int) -> torch.Tensor:
    """The losses as a textbook has them: every logit of one unpacked row, then a shift by one."""
    tokens = torch.tensor([ids])
    logprobs = network(input_ids=tokens).logits.log_softmax(-1)[0, :-1]
    losses: torch.Tensor = -logprobs.gather(1, tokens[0, 1:, None])[start - 1 :, 0]
    return losses


def test_a_network_that_carries_state_past_the_mask_is_noticed(tiny_model: Path, chat: Chat) -> None:
    network = load(tiny_model)
    layer = network.model.layers[0].mlp
    plain = layer.forward
    layer.forward = lambda x: plain(x) + torch.nn.functional.pad(x, (0, 0, 1, 0))[:, :-1]  # a convolution
    before = network.config._attn_implementation
    assert not packed_windows(network, before, [tokenize_row(chat, row) for row in ROWS], CPU)
    assert network.config._attn_implementation == before


def test_pieces_keep_the_order_and_the_limit(chat: Chat) -> None:
    examples = [tokenize_row(chat, row) for row in ROWS]
    parts = [examples, examples[1:3]]
    for limit in (1, 60, 150, 10_000):
        pieces = list(micro_batches(parts, limit))
        assert [[row for piece in pieces for row in piece[part]] for part in (0, 1)] == parts
        for piece in pieces:
            assert sum(map(len, piece)) == 1 or sum(map(tokens_together, piece)) <= limit
    assert len(pieces) == 1
    for piece in micro_batches([examples], 150, alone=True):
        assert len(piece[0]) == 1 or pad(piece[0], CPU).input_ids.numel() <= 150


SETTINGS = Train(students=("tiny",), sizes=(4,))


def test_preflight_passes_and_tokenizes_each_row_once(chat: Chat) -> None:
    examples = preflight(chat, [*ROWS, ROWS[0]], SETTINGS)
    assert set(examples) == {row.id for row in ROWS}


NO_STOP = TEMPLATE.replace("message['content'] + '<|im_end|>\n'", "message['content'] + '\n'")
OTHER_PROMPT = TEMPLATE.replace("<|im_start|>assistant", "<|im_start|>bot")
SHOUTING = TEMPLATE.replace("message['content']", "message['content'] | upper")
NO_SYSTEM = "{{ raise_exception('System role not supported') }}"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (NO_STOP, "no stop token"),
        (OTHER_PROMPT, "another prompt than it is asked with"),
        (SHOUTING, "where the answer 'repair' belongs"),
        (NO_SYSTEM, "refuses a conversation of system, user"),
    ],
)
def test_a_template_that_would_spoil_the_student_fails_hard(chat: Chat, template: str, message: str) -> None:
    assert template != TEMPLATE
    with pytest.raises(UsageError, match=message):
        preflight(with_template(chat, template), ROWS, SETTINGS)


def test_padding_that_is_the_stop_token_masks_nothing(chat: Chat) -> None:
    assert chat.tokenizer.pad_token == chat.tokenizer.eos_token  # the trap others fell into
    example = tokenize_row(chat, ROWS[0])
    assert example.ids[-1] in chat.stops
    assert pack([[example]], CPU).targets[-1].item() == example.ids[-1]


def test_a_long_row_is_refused_not_cut(chat: Chat) -> None:
    long = prompted_row("a word or two " * 100, "repair")
    with pytest.raises(UsageError, match=rf"train\.max_length \(512\).* row {long.id} \(\d+ tokens"):
        preflight(chat, [long], SETTINGS)


def test_an_answer_that_stops_early_is_refused(chat: Chat) -> None:
    with pytest.raises(UsageError, match="holds the stop token"):
        preflight(chat, [prompted_row("x", f"re{END_OF_TURN}pair")], SETTINGS)


def test_labels_with_the_same_tokens_are_refused(chat: Chat) -> None:
    same = prompted_row("another text", "repair").model_copy(update={"example": labelled("another text", "mending")})
    with pytest.raises(UsageError, match=r"'repair' .* and 'mending' .* the same tokens"):
        preflight(chat, [ROWS[0], same], SETTINGS)
