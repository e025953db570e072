"""Rows share a forward pass without seeing each other, and only the answer and its stop token carry loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.config.run import Train
from harness.errors import UsageError
from harness.models.chat_template import Chat, TokenizedRow, load_chat, tokenize_row
from harness.train.loop import add_gradients
from harness.train.packing import answer_tokens, fold, keeps_rows_apart, micro_batches, pack, token_losses
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
    """A model in float32, so that equal means equal."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def test_loss_is_on_exactly_the_answer_and_the_stop_token(chat: Chat) -> None:
    examples = [tokenize_row(chat, row) for row in ROWS]
    packed = pack(examples, CPU)
    for number, row in enumerate(ROWS):
        mine = packed.owner == number
        assert chat.tokenizer.decode(packed.targets[mine]) == row.answer + END_OF_TURN
        start = packed.predicting[mine][0]
        ids = examples[number].ids[: examples[number].answer_start]
        before = packed.input_ids.flatten()[start + 1 - len(ids) : start + 1]
        assert before.tolist() == list(ids)
        assert packed.position_ids.flatten()[start] == len(ids) - 1
    assert len(packed.targets) == answer_tokens(examples)


def test_sequences_are_as_wide_as_the_longest_row_and_well_filled() -> None:
    assert fold([10, 4, 5, 3, 6], 10) == [[0], [4, 1], [2, 3]]
    assert fold([10, 4, 5], 10, alone=True) == [[0], [2], [1]]
    examples = [TokenizedRow("row", tuple(range(length + 1)), ((2, length + 1),)) for length in (10, 4, 5)]
    assert pack(examples, CPU).input_ids.shape == (2, 10)
    assert pack(examples, CPU, alone=True).input_ids.shape == (3, 10)
    assert pack(examples, CPU, width=1000).input_ids.shape == (1, 1000)


def test_what_is_learned_follows_the_prompt_that_is_asked_later(chat: Chat) -> None:
    example = tokenize_row(chat, ROWS[0])
    turns = [m.model_dump() for m in ROWS[0].messages[:-1]]
    asked = chat.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert list(example.ids[: example.answer_start]) == asked


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gemma2", "gemma3_text"])
def test_packed_losses_equal_the_rows_alone(architecture: str, tmp_path: Path, chat: Chat) -> None:
    network = load(make_tiny_model(tmp_path / architecture, architecture))  # gemma: sliding window of 32
    examples = [tokenize_row(chat, row) for row in ROWS]
    with torch.no_grad():
        whole = torch.cat([_plain_losses(network, e.ids, e.answer_start) for e in examples])
        for packed in (
            pack(examples, CPU),  # sequences as wide as the longest row
            pack(examples, CPU, width=1000),  # all in one
            pack(examples, CPU, alone=True),  # a sequence each
        ):
            losses = token_losses(network, packed)[packed.owner.argsort(stable=True)]
            torch.testing.assert_close(losses, whole, rtol=1e-5, atol=1e-5)
    assert keeps_rows_apart(network, examples, CPU)


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
    assert not keeps_rows_apart(network, [tokenize_row(chat, row) for row in ROWS], CPU)


def test_one_by_one_equals_all_at_once(tiny_model: Path, chat: Chat) -> None:
    network = load(tiny_model)
    examples = [tokenize_row(chat, row) for row in ROWS] * 2
    gradients = []
    for tokens in (1, 100, 10_000):
        network.zero_grad()
        loss = add_gradients(network, examples, tokens, CPU)
        gradients.append((loss, torch.cat([p.grad.flatten() for p in network.parameters()])))
    for loss, gradient in gradients[1:]:
        assert loss == pytest.approx(gradients[0][0], rel=1e-6)
        torch.testing.assert_close(gradient, gradients[0][1], rtol=1e-4, atol=1e-6)


def test_pieces_keep_the_order_and_the_limit(chat: Chat) -> None:
    examples = [tokenize_row(chat, row) for row in ROWS]
    for limit in (1, 150, 10_000):
        pieces = list(micro_batches(examples, limit))
        assert [e for piece in pieces for e in piece] == examples
        assert all(len(piece) == 1 or pack(piece, CPU).input_ids.numel() <= limit for piece in pieces)
    assert len(pieces) == 1


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
    assert pack([example], CPU).targets[-1].item() == example.ids[-1]


def test_a_long_row_is_refused_not_cut(chat: Chat) -> None:
    long = prompted_row("a word or two " * 100, "repair")
    with pytest.raises(UsageError, match=rf"row {long.id} .*\d+ .*train\.max_length .*512"):
        preflight(chat, [long], SETTINGS)


def test_an_answer_that_stops_early_is_refused(chat: Chat) -> None:
    with pytest.raises(UsageError, match="holds the stop token"):
        preflight(chat, [prompted_row("x", f"re{END_OF_TURN}pair")], SETTINGS)


def test_labels_with_the_same_tokens_are_refused(chat: Chat) -> None:
    same = prompted_row("another text", "repair").model_copy(update={"example": labelled("another text", "mending")})
    with pytest.raises(UsageError, match=r"'repair' .* and 'mending' .* the same tokens"):
        preflight(chat, [ROWS[0], same], SETTINGS)
