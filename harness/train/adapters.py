"""The files of a trained cell: sealed when they are written, looked at before they are used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.core.record import digest
from harness.core.store import Manifest, file_digest, finished, write_manifest

CONFIG = "adapter_config.json"
# what PEFT would load (its settings, and weights in whichever format lies there), and what transformers would
WEIGHTS = ("adapter_*", "*.safetensors*")


def seal_adapter(folder: Path, key: str) -> None:
    """Write the manifest that vouches for every file of a cell's folder, under the cell's key."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    write_manifest(folder, Manifest(stage="cell", inputs=key), files, adapter_digest)


def is_intact(folder: Path, key: str) -> bool:
    """Whether a folder holds what was trained under `key`, an adapter or all weights: its files, weights among them,
    and no other weights.
    """
    manifest = finished(folder, key, adapter_digest)
    weights = {path.name for pattern in WEIGHTS for path in folder.glob(pattern)}
    if manifest is None or not any(name.endswith(".safetensors") for name in manifest.outputs):
        return False
    return weights <= set(manifest.outputs)


def adapter_digest(path: Path) -> str:
    """As `store.file_digest`, but of PEFT's settings without the order of modules, which differs between writes."""
    if path.name != CONFIG:
        return file_digest(path)
    try:
        return digest("adapter config", _unordered(json.loads(path.read_text(encoding="utf-8"))))[:16]
    except (OSError, ValueError, RecursionError):
        return ""


def _unordered(value: Any) -> Any:
    """JSON with the texts of a list in one order."""
    if isinstance(value, dict):
        return {name: _unordered(inner) for name, inner in value.items()}
    if isinstance(value, list) and all(isinstance(inner, str) for inner in value):
        return sorted(value)
    return [_unordered(inner) for inner in value] if isinstance(value, list) else value
