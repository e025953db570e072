"""An adapter put into its base, all of it or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.models.files import check_adapter


def attach(network: Any, name: str, adapter: Path) -> Any:
    """The PEFT model of a network in memory and an adapter in a folder. `name` is the network's, for messages.

    PEFT leaves out what has no place in the network, such as the layers of a deeper base: here that is an error. Raises
    UsageError for a folder that is no adapter, or one of another base.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    check_adapter(adapter)
    try:
        wrapped = PeftModel.from_pretrained(network, str(adapter)).eval()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UsageError(f"{adapter}: not an adapter of {name}: {reason}") from error
    placed = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    with safe_open(adapter / "adapter_model.safetensors", framework="pt") as weights:
        lost = sorted(key for key in weights.keys() if "lora_" in key and key not in placed)  # noqa: SIM118
    if lost:
        raise UsageError(
            f"{adapter}: not an adapter of {name}: {len(lost)} of its weights have no place there, the first {lost[0]}"
        )
    return wrapped
