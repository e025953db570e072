"""LoRA adapters of several cells on one frozen base: each sees its own tokens of a pass that they share.

PEFT makes the fresh adapters and opens the saved ones; its own layers mix adapters in inference only, and multiply in
float32, which cost more than half of the frozen products on a CPU. Here weights are kept in float32 and
multiplied in the base's type, as mixed precision does it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear as PeftLinear
from safetensors.torch import save_file
from torch import Tensor, nn

BASE_KEPT = (True, "gaussian", "orthogonal")  # ways to begin that leave the base's weights alone
PREFIX = "base_model.model."  # of every weight in a file of PEFT


@dataclass(frozen=True)
class Factors:
    """One adapter's part in one linear layer: it adds scaling * B A x."""

    a: nn.Parameter  # (r, in) float32
    b: nn.Parameter  # (out, r) float32
    scaling: float
    dropout: float


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter in memory, by the names of the layers that it is put into."""

    config: LoraConfig
    layers: Mapping[str, Factors]
    noise: torch.Generator  # of its dropout: an adapter's numbers do not depend on who shares its passes

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All weights, in one order."""
        return [weight for factors in self.layers.values() for weight in (factors.a, factors.b)]

    def state(self) -> dict[str, Tensor]:
        """The weights by PEFT's names."""
        names = ((name, f"{PREFIX}{name}.lora_{which}.weight") for name in self.layers for which in "AB")
        return {full: weight.detach() for (_, full), weight in zip(names, self.parameters, strict=True)}

    def save(self, folder: Path) -> None:
        """Write it as PEFT does. Raises OSError or SafetensorError where it cannot be written."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: w.cpu().contiguous() for name, w in self.state().items()}, folder / "adapter_model.safetensors"
        )
        self.config.save_pretrained(str(folder))


@dataclass(frozen=True)
class PeftWeights:
    """An adapter of any kind, inside PEFT's own model. Only one at a time is in a base."""

    network: Any  # a PeftModel

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All weights that are tuned, in one order."""
        return [weight for weight in self.network.parameters() if weight.requires_grad]

    def save(self, folder: Path) -> None:
        """Write it as PEFT does. Raises OSError or SafetensorError where it cannot be written."""
        # "auto" would ask the hub whether the base's vocabulary has grown; it never has
        self.network.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card


@dataclass
class Sharing:
    """Which tokens of the pass at hand belong to which adapter. Every layer of a base looks here."""

    adapters: Sequence[Adapter]
    parts: Sequence[tuple[slice, int]] = ()  # tokens, and whose they are among the adapters

    @property
    def layers(self) -> list[str]:
        """Every layer that an adapter is put into."""
        return sorted({name for adapter in self.adapters for name in adapter.layers})


class SharedLinear(nn.Module):
    """A frozen linear layer of the base, with what each part's adapter adds to it."""

    def __init__(self, name: str, frozen: nn.Linear, sharing: Sharing) -> None:
        super().__init__()
        self.name, self.frozen, self.sharing = name, frozen, sharing

    def forward(self, x: Tensor) -> Tensor:
        """(..., out) of (..., in). The leading dimensions, flattened, are the tokens of the pass."""
        flat = x.flatten(0, -2)
        owners = [(where, self.sharing.adapters[number]) for where, number in self.sharing.parts]
        parts = [(where, own, own.layers[self.name]) for where, own in owners if self.name in own.layers]
        places = tuple((where, factors.scaling) for where, _, factors in parts)
        weights = [weight for _, _, factors in parts for weight in (factors.a, factors.b)]
        noisy = self.training and any(factors.dropout for _, _, factors in parts)
        seen = [_dropped(flat[where], factors.dropout, own.noise) for where, own, factors in parts] if noisy else []
        frozen = (self.frozen.weight, self.frozen.bias)
        out: Tensor = _Product.apply(flat, *frozen, places, *weights, *seen)  # type: ignore[no-untyped-call]
        return out.view(*x.shape[:-1], -1)


def _dropped(x: Tensor, share: float, noise: torch.Generator) -> Tensor:
    """x with a share of its numbers set to 0 and the others raised, so that the mean stays."""
    if not share:
        return x
    kept = torch.empty(x.shape, device=x.device).bernoulli_(1 - share, generator=noise)
    return x * kept.to(x.dtype).div_(1 - share)


class _Product(torch.autograd.Function):
    """W x + bias, and in each part scaling * B A x. Behind all factors may come each part's own x (dropout)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, frozen: Tensor, bias: Tensor | None, parts: Sequence[tuple[slice, float]], *tensors: Tensor
    ) -> Tensor:
        out = nn.functional.linear(x, frozen, bias)
        seen = tensors[2 * len(parts) :]
        saved: list[Tensor] = []
        for number, (where, scaling) in enumerate(parts):
            a, b = (weight.to(x.dtype) for weight in tensors[2 * number : 2 * number + 2])
            inner = (seen[number] if seen else x[where]) @ a.T
            out[where].addmm_(inner, b.T, alpha=scaling)
            saved += [a, b, inner]
        ctx.save_for_backward(x, frozen, *saved, *seen)
        ctx.parts = parts
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, frozen, *rest = ctx.saved_tensors
        seen = rest[3 * len(ctx.parts) :]
        to_x = gradients[0] @ frozen if ctx.needs_input_grad[0] else None
        to_weights: list[Tensor] = []
        to_seen: list[Tensor] = []
        for number, (where, scaling) in enumerate(ctx.parts):
            a, b, inner = rest[3 * number : 3 * number + 3]
            to_out = gradients[0][where]
            to_inner = (to_out @ b).mul_(scaling)
            of_part = seen[number] if seen else x[where]
            to_weights += [(to_inner.T @ of_part).float(), (to_out.T @ inner).float().mul_(scaling)]
            if seen:
                to_seen.append(to_inner @ a)
            elif to_x is not None:
                to_x[where].addmm_(to_inner, a)
        return (to_x, None, None, None, *to_weights, *to_seen)


@contextmanager
def shared(network: nn.Module, sharing: Sharing) -> Iterator[None]:
    """The base with its linear layers shared by the adapters inside the block, and as it was after it."""
    frozen = [(name, network.get_submodule(name)) for name in sharing.layers]
    for name, layer in frozen:
        network.set_submodule(name, SharedLinear(name, layer, sharing))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name, layer in frozen:
            network.set_submodule(name, layer)


def fresh(network: nn.Module, config: LoraConfig, random_seed: int) -> Adapter | None:
    """A new adapter as PEFT makes it for this base. None where it is more than two factors beside linear layers.

    The random numbers of the caller are left as they were. Raises ValueError as PEFT does, for layers it does not find.
    """
    device = next(network.parameters()).device
    with peft_model(network, config, random_seed) as wrapped:
        layers: dict[str, Factors] = {}
        for name, layer in wrapped.named_modules():
            if type(layer) is PeftLinear and _plain(layer):
                a, b = (factor["default"].weight for factor in (layer.lora_A, layer.lora_B))
                layers[name.removeprefix(PREFIX)] = Factors(
                    nn.Parameter(a.detach().clone()),
                    nn.Parameter(b.detach().clone()),
                    layer.scaling["default"],
                    getattr(layer.lora_dropout["default"], "p", 0.0),
                )
        trained = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
        own = wrapped.peft_config["default"]
        if own.init_lora_weights not in BASE_KEPT or trained != sum(f.a.numel() + f.b.numel() for f in layers.values()):
            return None
    noise = torch.Generator(device).manual_seed(random_seed)
    return Adapter(dataclasses.replace(own, inference_mode=True), layers, noise)


@contextmanager
def peft_model(network: nn.Module, config: LoraConfig, random_seed: int) -> Iterator[Any]:
    """The base with a fresh adapter of PEFT's own inside the block, and as it was after it.

    Random numbers are those of `random_seed` inside the block. Raises ValueError as PEFT does.
    """
    before = [(module, dict(module._modules)) for module in network.modules()]
    with torch.random.fork_rng():
        torch.manual_seed(random_seed)
        try:
            yield get_peft_model(network, config, autocast_adapter_dtype=True)
        finally:
            # PEFT's own unload puts layers that were tuned in full (modules_to_save) in the place of the base's
            for module, children in before:
                module._modules = children
            network.requires_grad_(False)
            for attribute in ("peft_config", "active_adapter"):
                network.__dict__.pop(attribute, None)


def _plain(layer: PeftLinear) -> bool:
    """Whether a layer of PEFT computes W x + scaling * B A x and nothing else."""
    others = (layer.lora_variant, layer.lora_embedding_A, layer.lora_magnitude_vector)
    biased = any(layer.lora_bias.values()) or layer.fan_in_fan_out
    return type(layer.base_layer) is nn.Linear and not biased and not any(len(other) for other in others)
