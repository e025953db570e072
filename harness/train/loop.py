"""Tuning one cell: LoRA on a frozen base, rows packed, the loss on answers only.

The base is loaded once for all cells of a student. Each cell puts a fresh adapter into it and takes it out
again, so that a cell in a grid equals the same cell alone.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM

from harness.config.run import Lora, Train
from harness.core.record import Record
from harness.errors import MachineError, UsageError
from harness.models.chat_template import TokenizedRow
from harness.models.device import device_of, memory_errors
from harness.models.files import load
from harness.models.resolve import Model
from harness.records import Row
from harness.train.packing import answer_tokens, keeps_rows_apart, micro_batches, pack, token_losses
from harness.train.sizes import batches

GRADIENT_NORM = 1.0
SMALLER = "train.micro_batch_tokens"  # the setting that decides how much memory is taken
FINISH_SECONDS = 25.0  # a cell this near to its end is finished when the user stops


@dataclass(frozen=True)
class Base:
    """A student before tuning, in memory. Tuning does not change it."""

    source: Model
    network: Any  # a transformers causal language model
    device: torch.device
    dtype: torch.dtype
    packs: bool  # whether rows can share a sequence without seeing each other


class CellLog(Record):
    """What tuning one cell did and took."""

    base: str  # name@revision
    rows: int
    steps: int
    losses: tuple[float, ...]  # per step: mean over its answer tokens, nats
    tokens: int  # read in all steps
    seconds: float  # of all steps, without loading
    peak_memory: int  # bytes: of the GPU in this cell, or of the whole process so far on a CPU
    device: str
    dtype: str
    packed: bool


def load_base(source: Model, examples: Sequence[TokenizedRow], device: str = "auto") -> Base:
    """Load a student's weights, and try on two examples whether its rows can be packed.

    `device` is auto, cpu or cuda. Raises UsageError for files that are no model, MachineError when the weights do not
    fit the memory.
    """
    place = torch.device(device_of(device))
    dtype = _dtype(place)
    config = load(AutoConfig, source.name, source.folder)
    # transformers' fused attention leaves out the soft cap of the models that have one
    attention = "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"
    with memory_errors(f"loading {source.name}", SMALLER):
        network = load(
            AutoModelForCausalLM,
            source.name,
            source.folder,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
        ).to(place)
    network.requires_grad_(False)
    # PEFT writes this name into what it saves; a path would be true on this machine only
    network.name_or_path = network.config._name_or_path = source.name
    packs = keeps_rows_apart(network, examples, place)
    return Base(source, network, place, dtype, packs)


def train_cell(
    base: Base,
    rows: Sequence[Row],
    examples: Mapping[str, TokenizedRow],
    settings: Train,
    steps: int,
    random_seed: int,
    out: Path,
    report: Callable[[int, str], None],
    stop: Callable[[], bool],
    finish_seconds: float = FINISH_SECONDS,
) -> CellLog | None:
    """Tune a fresh adapter on `rows` and save it into the folder `out` as PEFT does.

    `examples` are the rows tokenized, by row id. `report` is told (steps done, a note) after each. Returns
    None, with nothing saved, when `stop` turned true more than `finish_seconds` before the end. Raises MachineError
    for a loss that is no number and for memory or disk that does not suffice.
    """
    with (
        torch.random.fork_rng(),
        memory_errors(f"training {base.source.name}", SMALLER),
        _adapted(base, settings.lora, random_seed) as network,
    ):
        log = _tune(base, network, rows, examples, settings, steps, random_seed, report, stop, finish_seconds)
        if log is not None:
            _save(network, out)
        return log


def learning_rate(step: int, steps: int, settings: Train) -> float:
    """The rate of step 0..steps-1: up in a line over the first share `warmup_ratio`, then down in a line.

    The rate of the first and of the last step is above 0. The peak is settings.learning_rate.
    """
    rising = math.ceil(settings.warmup_ratio * steps)
    if step < rising:
        return settings.learning_rate * (step + 1) / rising
    return settings.learning_rate * (steps - step) / (steps - rising)


def add_gradients(
    network: torch.nn.Module,
    examples: Sequence[TokenizedRow],
    micro_batch_tokens: int,
    device: torch.device,
    alone: bool = False,
) -> float:
    """Add one step's gradients to the network's parameters. Returns the step's mean loss in nats.

    Every answer token of the whole step weighs the same, so how it is cut into pieces changes nothing.
    With `alone`, no two rows share a sequence.
    """
    total = answer_tokens(examples)
    loss = 0.0
    for piece in micro_batches(examples, micro_batch_tokens, alone):
        share = token_losses(network, pack(piece, device, alone)).sum() / total
        share.backward()  # type: ignore[no-untyped-call]
        loss += share.item()
    return loss


def _tune(
    base: Base,
    network: torch.nn.Module,
    rows: Sequence[Row],
    examples: Mapping[str, TokenizedRow],
    settings: Train,
    steps: int,
    random_seed: int,
    report: Callable[[int, str], None],
    stop: Callable[[], bool],
    finish_seconds: float,
) -> CellLog | None:
    network.train()
    adapter = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(adapter, lr=settings.learning_rate, weight_decay=0.0)
    losses: list[float] = []
    tokens = 0
    started = time.monotonic()
    for done, batch in enumerate(batches(rows, steps, settings.batch_size, random_seed)):
        if stop() and _seconds_left(done, steps, started) > finish_seconds:
            return None
        step_examples = [examples[row.id] for row in batch]
        loss = add_gradients(network, step_examples, settings.micro_batch_tokens, base.device, alone=not base.packs)
        norm = torch.nn.utils.clip_grad_norm_(adapter, GRADIENT_NORM)
        if not (math.isfinite(loss) and math.isfinite(norm.item())):
            raise MachineError(
                f"training {base.source.name}: step {done + 1} of {steps}: the loss is {loss} and the"
                f" gradient's norm {norm.item()}; a smaller train.learning_rate"
                f" ({settings.learning_rate:g} now) or a larger train.warmup_ratio usually helps"
            )
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(done, steps, settings)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(round(loss, 6))
        tokens += sum(len(example.ids) for example in step_examples)
        report(done + 1, f"loss {loss:.2f}, {tokens / (time.monotonic() - started):.0f} tokens/s")
    return CellLog(
        base=base.source.identity,
        rows=len(rows),
        steps=steps,
        losses=tuple(losses),
        tokens=tokens,
        seconds=round(time.monotonic() - started, 3),
        peak_memory=_peak_memory(base.device),
        device=str(base.device),
        dtype=str(base.dtype).removeprefix("torch."),
        packed=base.packs,
    )


def _seconds_left(done: int, steps: int, started: float) -> float:
    return (time.monotonic() - started) / done * (steps - done) if done else math.inf


@contextmanager
def _adapted(base: Base, lora: Lora, random_seed: int) -> Iterator[Any]:
    """The base with a fresh adapter (float32 weights) inside the block, and as it was after it."""
    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(random_seed)
    if base.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(base.device)
    try:
        network = get_peft_model(base.network, config, autocast_adapter_dtype=True)
    except ValueError as error:
        raise UsageError(f"train.lora: {base.source.name}: {error}") from error
    try:
        yield network
    finally:
        network.unload()
        for attribute in ("peft_config", "active_adapter"):
            base.network.__dict__.pop(attribute, None)
        base.network.eval()


def _save(network: PeftModel, out: Path) -> None:
    try:
        # "auto" would ask the hub whether the base's vocabulary has grown; it never has
        network.save_pretrained(out, safe_serialization=True, save_embedding_layers=False)
        (out / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    except (OSError, SafetensorError) as error:  # a full disk is no OSError to safetensors
        raise MachineError(f"{out}: the adapter cannot be written: {error}") from error


def _dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the processor computes in it. Elsewhere float32 is several times faster."""
    if device.type == "cuda":
        return torch.bfloat16
    able = [name for name, has in torch.cpu.get_capabilities().items() if has and "bf16" in name]
    return torch.bfloat16 if able else torch.float32


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
