"""What `learning_rate: auto` comes to: a rule from how wide a student is, and of which family. No torch."""

from __future__ import annotations

from pathlib import Path

from harness.config.methods import Method
from harness.errors import UsageError
from harness.models.files import text_number, text_settings

FULL = 5e-5  # of full fine-tuning, at a width of WIDTH
LORA = 10.0  # times as much for an adapter
WIDTH = 2000
EXPONENTS = {"llama": 0.781, "qwen": 0.0775}  # family -> how fast the rate falls with the width
FAMILIES = {"qwen": "qwen", "llama": "llama", "mistral": "llama", "smollm": "llama"}  # by how model_type begins
WIDTHS = ("hidden_size", "n_embd", "d_model")  # what config.json calls the width, by architecture


def recommended(width: int, model_type: str, full: bool) -> float:
    """The peak rate for a model of this width and transformers model type, rounded to three digits.

    5e-5 x 10 x (2000 / width) ** P, without the 10 where all weights are tuned. P is 0.0775 for Qwen and 0.781 for
    Llama: fitted by Thinking Machines over sweeps of both families (tinker-cookbook, hyperparam_utils.get_lr, with a
    regret below 0.5%). Later versions of it list the best rate of a coarse sweep for each model instead, such as 1e-3
    for Llama-3.2-1B, where the rule says 4.91e-4. The factor 10, and that the rate needs no change with the rank, are
    of "LoRA Without Regret" (Schulman et al. 2025). Mistral and SmolLM have Llama's blocks and are taken for it. For
    any other family nobody has fitted P: of both rates the smaller is taken, for one that is too small costs steps, one
    that is too large the training.
    """
    family = next((family for start, family in FAMILIES.items() if model_type.startswith(start)), None)
    exponents = [EXPONENTS[family]] if family else EXPONENTS.values()
    rate = FULL * (1.0 if full else LORA) * min((WIDTH / width) ** exponent for exponent in exponents)
    return float(f"{rate:.3g}")


def peak_rate(method: Method, name: str, folder: Path) -> float:
    """The number that a method's learning rate comes to for the student `name`, whose weights are in `folder`.

    Raises UsageError where it is auto and config.json does not say how wide the model is.
    """
    if method.learning_rate != "auto":
        return method.learning_rate
    what, path = f"model {name!r}", folder / "config.json"
    width = next((number for key in WIDTHS if (number := text_number(what, path, key))), None)
    if not width:
        raise UsageError(
            f"train.learning_rate: auto: {what}: {path} has no {', '.join(WIDTHS[:-1])} or {WIDTHS[-1]} to go by:"
            " write a number"
        )
    return recommended(width, str(text_settings(what, path).get("model_type", "")), full=method.kind == "full")
