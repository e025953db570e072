"""How a cell is tuned: LoRA and its variants, LoRA on a base in 4 bits, or all weights; and at which learning rate."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from harness.core.record import Record, digested
from harness.data.documents import Documents
from harness.errors import nearest

LEARNING_RATE = 1e-3
OF_METHODS = ("kind", "learning_rate", "pretrain")  # the keys of a method that are none of LoRA's


def _written_as(value: object) -> str:
    return "word" if isinstance(value, str) else "number"


LearningRate = Annotated[  # a number, or auto: the rule of harness/train/learning_rate.py
    Annotated[Literal["auto"], Tag("word")] | Annotated[float, Field(gt=0, lt=1), Tag("number")],
    Discriminator(_written_as),
]

# What PEFT's LoraConfig knows beside the fields of `Lora`, and why it is not taken.
BASE_CHANGES = "it changes the base's weights, which all cells share"
NOT_TAKEN = {
    "bias": BASE_CHANGES,
    "layer_replication": "it changes the base's layers, which all cells share",
    "loftq_config": BASE_CHANGES,
    "corda_config": BASE_CHANGES,
    "lora_ga_config": BASE_CHANGES,
    "eva_config": "its initialization reads data, which a cell's key does not hold",
    "lora_bias": "such an adapter cannot be merged into layers without a bias, and students are scored merged",
    "alora_invocation_tokens": "such an adapter cannot be merged, and students are scored merged",
    "arrow_config": "it routes between adapters that exist, and trains none",
    "kasa_config": "its loss has terms of its own",
    "monteclora_config": "its loss has terms of its own",
    "velora_config": "it compresses what the backward pass needs, which the training loop does not do",
    "use_bdlora": "it is for adapters that are served in shards",
    "use_qalora": "it needs a base that GPTQ quantized",
    "qalora_group_size": "it needs a base that GPTQ quantized",
    "megatron_config": "it is for layers of Megatron",
    "megatron_core": "it is for layers of Megatron",
    "runtime_config": "it decides how PEFT works and nothing of the result",
    "fan_in_fan_out": "PEFT sets it by the kind of layer",
    **dict.fromkeys(
        ("task_type", "peft_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision",
         "inference_mode"),
        "the harness sets it",
    ),
}  # fmt: skip


class Lora(Record):
    """LoRA settings by the names that PEFT's LoraConfig has for them. `NOT_TAKEN` says which others it has."""

    r: Annotated[int, Field(ge=1, le=1024)] = 16
    lora_alpha: Annotated[int, Field(ge=1)] = 32
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"
    use_rslora: bool = False  # scaled by lora_alpha / sqrt(r), not lora_alpha / r (Kalajdzievski 2023)
    use_dora: bool = False  # the size of each weight vector learned beside its direction (Liu et al. 2024)
    init_lora_weights: Literal[True, "gaussian", "orthogonal", "mica"] = True
    rank_pattern: dict[str, Annotated[int, Field(ge=1, le=1024)]] = {}  # module, or a regular expression -> r
    alpha_pattern: dict[str, Annotated[int, Field(ge=1)]] = {}  # the same -> lora_alpha
    exclude_modules: str | tuple[str, ...] | None = None
    layers_to_transform: int | tuple[int, ...] | None = None
    layers_pattern: str | tuple[str, ...] | None = None
    modules_to_save: tuple[str, ...] | None = None  # tuned in full beside the adapter
    trainable_token_indices: tuple[int, ...] | dict[str, tuple[int, ...]] | None = None
    target_parameters: tuple[str, ...] | None = None
    ensure_weight_tying: bool = False

    @property
    def peft_settings(self) -> dict[str, Any]:
        """The keyword arguments of LoraConfig, as plain data: the first four, and what is not at its default."""
        return digested(self)

    @model_validator(mode="before")
    @classmethod
    def _taken(cls, written: Any) -> Any:
        for name in written if isinstance(written, dict) else ():
            if name in NOT_TAKEN:
                raise ValueError(f"{name}: a setting of PEFT that is not taken here: {NOT_TAKEN[name]}")
            if name == "init_lora_weights" and str(written[name]).startswith(("pissa", "olora", "corda", "loftq")):
                raise ValueError(f"{name}: {written[name]!r} is not taken here: {BASE_CHANGES}")
        return written

    @model_validator(mode="after")
    def _patterns(self) -> Self:
        for name in ("target_modules", "exclude_modules"):
            pattern = getattr(self, name)
            if isinstance(pattern, str):
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise ValueError(f"{name} {pattern!r} is no regular expression: {error}") from error
        return self

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        """What PEFT refuses when the base is loaded, and what it would leave out."""
        if self.layers_to_transform is not None and isinstance(self.target_modules, str):
            raise ValueError("layers_to_transform: it needs target_modules as a list of names")
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError("layers_pattern: it says where the layers of layers_to_transform are, and there are none")
        return self


class Pretrain(Record):
    """Continued pre-training before tuning: all weights, every token of a person's own texts (domain adaptation)."""

    documents: Documents
    steps: Annotated[int, Field(ge=1)]  # optimizer steps, each of train.batch_size pieces of the documents
    learning_rate: LearningRate = "auto"  # the peak, as of full fine-tuning


class Method(Record):
    """One way to tune a student. In a run file the settings of LoRA stand beside `kind` and `learning_rate`."""

    kind: Literal["lora", "qlora", "full"] = "lora"  # an adapter; one on a base in 4 bits (CUDA); all weights
    learning_rate: LearningRate  # the peak
    lora: Lora | None  # None where all weights are tuned
    pretrain: Pretrain | None = None  # what comes before

    @property
    def words(self) -> str:
        """What people read: the kind, what of LoRA is set, and what comes before it."""
        before = ""
        if self.pretrain:
            before = f", after {self.pretrain.steps} steps on the raw text of {self.pretrain.documents.path}"
        if self.lora is None:
            return f"full fine-tuning, all weights{before}"
        settings = ", ".join(f"{name} {_shown(value)}" for name, value in self.lora.peft_settings.items())
        return f"{'QLoRA, base in 4 bits' if self.kind == 'qlora' else 'LoRA'}, {settings}{before}"


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


class _Shared(Record):
    """What methods take from train where they do not say it."""

    lora: Lora
    learning_rate: LearningRate


def filled_in(methods: Any, lora: Any, learning_rate: Any) -> Any:
    """The methods of a run file with what they leave open taken from train.lora and train.learning_rate.

    A method that is null is left out, so that a run can take one away from the run that it extends. All values are as
    they were written, and are checked later. Raises ValueError for a key that a method does not have.
    """
    if not isinstance(methods, dict):
        return methods
    try:
        _Shared.model_validate({"lora": lora, "learning_rate": learning_rate})
    except ValidationError:
        return {}  # what is wrong is said where it is written, and not once more for each method
    shared = lora.model_dump() if isinstance(lora, Lora) else lora
    kept = {name: method for name, method in methods.items() if method is not None}
    return {name: _filled(name, method, shared, learning_rate) for name, method in kept.items()}


def _filled(name: str, method: Any, lora: Any, learning_rate: Any) -> Any:
    if not isinstance(method, dict) or not isinstance(lora, dict):
        return method
    own = {key: value for key, value in method.items() if key not in OF_METHODS}
    kind = method.get("kind", "lora")
    allowed = [*OF_METHODS, *(Lora.model_fields if kind != "full" else ())]
    for key in own:
        if key not in allowed and (kind == "full" or key not in NOT_TAKEN):
            hint = f"{nearest(str(key), allowed)}; allowed for {kind}: {', '.join(allowed)}"
            raise ValueError(f"methods.{name}.{key}: unknown key{hint}")
    if kind == "full" and "learning_rate" not in method:
        raise ValueError(
            f"methods.{name}.learning_rate: this key is missing: full fine-tuning takes about a tenth of LoRA's"
        )
    settings = None if kind == "full" else {**lora, **own}
    before = {"pretrain": method["pretrain"]} if "pretrain" in method else {}
    return {"kind": kind, "learning_rate": method.get("learning_rate", learning_rate), "lora": settings, **before}
