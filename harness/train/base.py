"""A student before tuning, in memory, and whether its rows can share a sequence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

from harness.engines.prefix_tree.passes import attention_windows
from harness.errors import UsageError
from harness.models.chat_template import TokenizedRow
from harness.models.device import device_of, dtype_of, memory_errors
from harness.models.files import load
from harness.models.resolve import Model
from harness.train import attention
from harness.train.packing import pack, pad, token_losses

SMALLER = "train.micro_batch_tokens"  # the setting that decides how much memory is taken
SAME_LOSS = 0.02  # relative, in bfloat16: a row's mean loss after another row and by itself


@dataclass(frozen=True)
class Base:
    """A student before tuning. Tuning LoRA does not change it."""

    source: Model
    network: Any  # a transformers causal language model
    device: torch.device
    dtype: torch.dtype  # in which it computes
    windows: Mapping[str, int | None]  # kind of attention layer -> its reach in tokens; none where rows need a
    # sequence each
    four_bits: bool = False

    @property
    def packs(self) -> bool:
        """Whether rows can share a sequence without seeing each other."""
        return bool(self.windows)

    @property
    def noisy(self) -> bool:
        """Whether it has dropout of its own, which cells of one pass would draw together."""
        return any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in self.network.modules())

    def mixed_precision(self) -> AbstractContextManager[Any]:
        """Products in the base's type where its weights are float32 for the time of their tuning."""
        kept = next(iter(self.network.parameters())).dtype
        return torch.autocast(self.device.type, self.dtype) if kept != self.dtype else nullcontext()


def load_base(source: Model, examples: Sequence[TokenizedRow], device: str = "auto", four_bits: bool = False) -> Base:
    """Load a student's weights, and try on two examples whether its rows can be packed.

    `device` is auto, cpu or cuda. `four_bits` loads them quantized as QLoRA does (NF4, Dettmers et al. 2023).
    Raises UsageError for files that are no model, MachineError when the weights do not fit the memory.
    """
    kind = device_of(device)
    place = torch.device(kind)
    config = load(AutoConfig, source.name, source.folder)
    # transformers' fused attention leaves out the soft cap of the models that have one
    plain = "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"
    dtype = dtype_of(kind)
    with memory_errors(f"loading {source.name}", SMALLER):
        network = load(
            AutoModelForCausalLM,
            source.name,
            source.folder,
            dtype=dtype,
            attn_implementation=plain,
            use_safetensors=True,
            **({"quantization_config": _nf4(dtype), "device_map": {"": place}} if four_bits else {}),
        )
        network = network if four_bits else network.to(place)
    network.requires_grad_(False)
    # PEFT writes this name into what it saves; a path would be true on this machine only
    network.name_or_path = network.config._name_or_path = source.name
    return Base(source, network, place, dtype, packed_windows(network, plain, examples, place), four_bits)


def packed_windows(
    network: Any, plain: str, examples: Sequence[TokenizedRow], device: torch.device
) -> Mapping[str, int | None]:
    """How far the model's layers see, with its attention changed to that over packed rows. Empty where it cannot be.

    `plain` is the attention that it has now. Some architectures carry a state from token to token past any mask, some
    have attention that cannot be exchanged, and some drop attention at random.
    """
    config = network.config.get_text_config()
    try:
        windows = attention_windows(config)
    except UsageError:
        return {}
    if getattr(config, "attention_dropout", 0):
        return {}
    attention.make_known()
    # all their tokens count: the mean over two tokens of a label is within rounding of nothing in bfloat16
    whole = [TokenizedRow(e.row, e.ids, ((1, len(e.ids)),)) for e in (examples[0], examples[-1])]
    first, second = sorted(whole, key=lambda example: -len(example.ids))
    other = TokenizedRow(first.row, first.ids[::-1], first.learned)
    with torch.no_grad():
        alone = token_losses(network, pad([second], device), {})
        try:
            network.set_attn_implementation(attention.NAME)
            after = [token_losses(network, pack([[row], [second]], device), windows) for row in (first, other)]
        except (ValueError, TypeError, RuntimeError):  # whatever it is, this architecture does without
            after = [torch.full_like(alone, math.nan)] * 2
    one, two = (losses[-len(alone) :] for losses in after)
    apart = torch.allclose(one, two, rtol=1e-3, atol=1e-3)
    if apart and torch.allclose(one.mean(), alone.mean(), rtol=SAME_LOSS, atol=SAME_LOSS):
        return windows
    network.set_attn_implementation(plain)
    return {}


def _nf4(dtype: torch.dtype) -> Any:
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
