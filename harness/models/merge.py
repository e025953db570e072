"""An adapter merged into its base as a model folder of its own, compared with what it was made from.

A merge can go wrong in silence: weights that are tied, a module that merging leaves out, a file that is read otherwise
than it was written. So base and adapter answer apart, in float32. The merged weights must answer the same before they
are rounded, and so must the folder that was written, loaded again, but for what rounding changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.core.store import disk_errors
from harness.errors import MachineError
from harness.models.attach import attach
from harness.models.device import device_of, memory_errors
from harness.models.files import check_model, copy_companions, load

# of the spread of the logits. Measured on SmolLM2-135M tuned for 32 steps: rounding to bfloat16 changes them by 0.027
TOLERANCE = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}
POSITIONS = 16  # of a prompt's end, whose logits are compared
WRITTEN = 48  # tokens of a greedy answer
SMALLER = "the number of other processes"


@dataclass(frozen=True)
class Checked:
    """How near a merged model is to its base and adapter."""

    prompts: int
    dtype: str  # in which it is stored
    deviation: float  # largest over the prompts: root mean square of the logits' difference, over their spread
    ties: int  # prompts whose greedy answers part where the two likeliest tokens are nearly equal

    @property
    def words(self) -> str:
        """What people read."""
        greedy = "all greedy answers are equal"
        if self.ties:
            greedy = f"{self.prompts - self.ties} greedy answers are equal, {self.ties} part at a near tie"
        return (
            f"checked on {self.prompts} prompts against base and adapter apart: logits differ by"
            f" {self.deviation:.2g} of their spread (allowed for {self.dtype}: {TOLERANCE[self.dtype]:g}); {greedy}"
        )


@dataclass(frozen=True)
class Said:
    """What a model says to a prompt."""

    logits: Tensor  # (positions, vocabulary) float32: at the prompt's end
    answer: tuple[int, ...]  # greedy tokens
    steps: Tensor  # (len(answer), vocabulary) float32: the logits that each of them was taken from


def merge(
    base: Path, adapter: Path, folder: Path, prompts: Sequence[Sequence[int]], stops: Sequence[int], dtype: str = "auto"
) -> Checked:
    """Write base and adapter as one model with the base's tokenizer into `folder`, and check it on `prompts`.

    Prompts are token ids, and `stops` end a greedy answer. `dtype` is float32, float16, bfloat16, or auto: as the base
    is stored. Raises UsageError for an adapter that is not one of this base, and MachineError naming a prompt where the
    merged model answers otherwise: the folder is then of no use.
    """
    check_model(base.name, base)
    with memory_errors(f"merging {adapter.name} into {base.name}", SMALLER):
        apart, stored = _merged(base, adapter, folder, prompts, stops, dtype)
        return compare(apart, _said(_load(folder, torch.float32), prompts, stops), stored)


def compare(apart: Sequence[Said], together: Sequence[Said], dtype: str) -> Checked:
    """How a merged model's answers are like those of base and adapter apart, prompt by prompt.

    Raises MachineError where logits differ by more than TOLERANCE, or where a greedy answer is another one and the two
    tokens at which it parts are no near tie: within TOLERANCE of each other, in the same unit.
    """
    allowed, deviations, ties = TOLERANCE[dtype], [], 0
    for number, (one, other) in enumerate(zip(apart, together, strict=True), start=1):
        where = f"the merged model is not what base and adapter are: on prompt {number} of {len(apart)}"
        deviations.append(_deviation(one.logits, other.logits))
        if not deviations[-1] <= allowed:  # also what is no number
            raise MachineError(
                f"{where} its logits differ by {deviations[-1]:.3g} of their spread, and {allowed:g} is allowed for"
                f" {dtype}; take the adapter as it is"
            )
        margin = _margin(one, other.answer)
        if margin > allowed:
            raise MachineError(
                f"{where} it writes the tokens {_listed(other.answer)} in place of {_listed(one.answer)}; --dtype"
                " float32 keeps every digit, or take the adapter as it is"
            )
        ties += one.answer != other.answer
    return Checked(len(apart), dtype, max(deviations), ties)


def _merged(
    base: Path, adapter: Path, folder: Path, prompts: Sequence[Sequence[int]], stops: Sequence[int], dtype: str
) -> tuple[list[Said], str]:
    """(What base and adapter say apart, the type in which the merged model was written). Raises as `compare`."""
    wrapped = attach(_load(base, torch.float32), base.name, adapter)
    apart = _said(wrapped, prompts, stops)
    merged = wrapped.merge_and_unload()
    compare(apart, _said(merged, prompts, stops), "float32")
    kept = str(load_dtype(base)).removeprefix("torch.") if dtype == "auto" else dtype
    for weights in merged.parameters():  # not .to(): it would round the rotary frequencies as well
        weights.data = weights.data.to(getattr(torch, kept))
    merged.config.dtype = getattr(torch, kept)
    with disk_errors(folder):
        merged.save_pretrained(folder, safe_serialization=True)
        copy_companions(base, folder)
    return apart, kept


def load_dtype(folder: Path) -> torch.dtype:
    """The type in which a model's weights are stored, by its config. float32 where it names none."""
    from transformers import AutoConfig

    dtype = load(AutoConfig, folder.name, folder).dtype
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def _load(folder: Path, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    network = load(AutoModelForCausalLM, folder.name, folder, dtype=dtype, use_safetensors=True)
    return network.to(device_of("auto")).eval()


@torch.no_grad()
def _said(network: Any, prompts: Sequence[Sequence[int]], stops: Sequence[int]) -> list[Said]:
    """What a network says, one prompt at a time."""
    said = []
    for prompt in prompts:
        ids = torch.tensor([list(prompt)], device=network.device)
        kept = min(POSITIONS, ids.shape[1])
        logits = network(input_ids=ids, logits_to_keep=kept).logits[0].float().cpu()
        written = network.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=WRITTEN,
            eos_token_id=list(stops),
            pad_token_id=stops[0],
            output_logits=True,
            return_dict_in_generate=True,
        )
        answer = tuple(written.sequences[0, ids.shape[1] :].tolist())
        said.append(Said(logits, answer, torch.stack([step[0] for step in written.logits]).float().cpu()))
    return said


def _deviation(apart: Tensor, together: Tensor) -> float:
    """Root mean square of the difference, over the spread of the logits at a position."""
    return float((together - apart).square().mean().sqrt() / apart.std(dim=-1).mean())


def _margin(said: Said, other: Sequence[int]) -> float:
    """How much likelier a model finds its own token than another answer's where they part, in spreads. 0 if equal."""
    parts = (n for n, (a, b) in enumerate(zip(said.answer, other, strict=False)) if a != b)
    place = next(parts, None)
    if place is None:  # equal: a greedy answer ends only with a stop token, or at the same limit
        return 0.0
    step = said.steps[place]
    return float((step[said.answer[place]] - step[other[place]]) / step.std())


def _listed(tokens: Sequence[int]) -> str:
    return " ".join(map(str, tokens[:8])) + (" ..." if len(tokens) > 8 else "")
