"""What a folder of a model or an adapter may hold: numbers and settings. What asks for code is refused by name.

Code that comes with a model is never run: `trust_remote_code` is used nowhere, no setting may name code or a kernel of
its own, and weights in formats that unpickle (.bin, .pt) are neither loaded nor downloaded.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.errors import UsageError

SETTINGS = ("config.json", "tokenizer_config.json", "generation_config.json", "processor_config.json")
CODE = ("auto_map", "custom_pipelines", "custom_generate", "trust_remote_code")  # settings that name code to run
KERNELS = ("attn_implementation", "experts_implementation")  # a name with a slash is code from a hub
RECORDS = ("cell.json", "manifest.json")  # how a cell of a run was made
# the ends of files that hold weights, or say where they are
WEIGHT_FILES = (".safetensors", ".bin", ".gguf", ".pt", ".safetensors.index.json", ".bin.index.json")
OTHER_FORMATS = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".gguf", ".h5", ".msgpack"}


def check_model(name: str, folder: Path) -> None:
    """Raises UsageError unless the folder holds a config and whole safetensors weights, and asks for no code."""
    if not (folder / "config.json").is_file():
        adapter = (folder / "adapter_config.json").is_file()
        what = "an adapter alone, without its base" if adapter else "no config.json"
        raise UsageError(f"model {name!r}: {folder} holds {what}; it must hold config.json and *.safetensors")
    _check_weights(f"model {name!r}", folder)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        parts = read_settings(f"model {name!r}", index).get("weight_map")
        if not isinstance(parts, dict):
            raise UsageError(f"model {name!r}: {index} has no weight_map (tensor -> file)")
        missing = sorted(part for part in map(str, parts.values()) if not (folder / part).is_file())
        if missing:
            raise UsageError(f"model {name!r}: {folder} lacks {missing[0]}, which {index.name} names")
    for path in (folder / settings for settings in SETTINGS):
        if path.is_file():
            _refuse_code(f"model {name!r}", path, read_settings(f"model {name!r}", path))


def check_adapter(folder: Path) -> dict[str, Any]:
    """The settings of an adapter as PEFT saves it. Raises UsageError unless it is one, in safetensors, without code."""
    path = folder / "adapter_config.json"
    if not path.is_file():
        raise UsageError(f"{folder}: not an adapter as PEFT saves it (adapter_config.json)")
    _check_weights(f"adapter {folder.name!r}", folder, "adapter_model.safetensors")
    settings = read_settings(f"adapter {folder.name!r}", path)
    _refuse_code(f"adapter {folder.name!r}", path, settings)
    mapping = settings.get("auto_mapping") or {}
    if not isinstance(mapping, dict):
        raise UsageError(f"adapter {folder.name!r}: {path}: auto_mapping: {_shown(mapping)}: it must be a JSON object")
    library = mapping.get("parent_library") or "transformers"
    if str(library).split(".")[0] != "transformers":
        raise UsageError(f"adapter {folder.name!r}: {path} asks for code of its own (auto_mapping: {library!r})")
    return settings


def load(kind: Any, name: str, folder: Path, **settings: Any) -> Any:
    """What `kind.from_pretrained` of transformers makes of a folder: nothing is fetched, no code of its own is run.

    Raises UsageError naming the model when its files are wrong. A lack of memory is raised as it is.
    """
    try:
        return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **settings)
    except Exception as error:  # every kind of model and tokenizer says in its own way what is wrong with its files
        lack = isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or "allocate" in str(error)
        if lack:
            raise
        reason = " ".join(str(error).split())[:300]
        raise UsageError(f"model {name!r}: transformers cannot load it: {type(error).__name__}: {reason}") from error


def read_settings(what: str, path: Path) -> dict[str, Any]:
    """A JSON object of settings. Raises UsageError naming `what` and the file when it holds none."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{what}: {path} cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise UsageError(f"{what}: {path} must hold a JSON object")
    return settings


def text_settings(what: str, path: Path) -> dict[str, Any]:
    """Settings of a text model. In one of several parts `text_config` goes before what stands beside it.

    Raises UsageError as `read_settings`.
    """
    settings = read_settings(what, path)
    part = settings.get("text_config") or {}
    if not isinstance(part, dict):
        raise UsageError(f"{what}: {path}: text_config: {_shown(part)}: it must be a JSON object")
    return settings | {name: value for name, value in part.items() if value is not None}


def text_number(what: str, path: Path, name: str) -> int | None:
    """A whole number among the settings of a text model, or None without it. Raises UsageError for anything else."""
    value = text_settings(what, path).get(name)
    if value is not None and type(value) is not int:
        raise UsageError(f"{what}: {path}: {name}: {_shown(value)}: it must be a whole number")
    return value


def weight_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Weight -> its shape, of a model's safetensors. Reads no weights. Empty without the library that reads them.

    Raises UsageError naming a file that cannot be read.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        return {}
    shapes: dict[str, tuple[int, ...]] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="numpy") as weights:
                shapes |= {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise UsageError(f"model {folder.name!r}: {path} cannot be read: {error}") from error
    return shapes


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers would load: those of the index, else the one of its own name, else all."""
    index, whole = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        parts = read_settings(f"model {folder.name!r}", index).get("weight_map", {})
        return sorted({folder / str(part) for part in parts.values()})
    return [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))


def copy_companions(source: Path, folder: Path) -> None:
    """Copy a model's files but its weights to where they are not yet: tokenizer, chat template, settings.

    Of a model that was trained here, what says how it was made is not copied: it would be said of the copy.
    """
    for file in source.iterdir():
        left_out = file.name.endswith(WEIGHT_FILES) or file.name in RECORDS
        if file.is_file() and not left_out and not (folder / file.name).exists():
            shutil.copy(file, folder / file.name)


def token_ids(what: str, path: Path, name: str) -> list[int]:
    """The ids that a setting names, one or a list. Empty without it. Raises UsageError for anything else."""
    value = text_settings(what, path).get(name)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if any(type(token) is not int for token in ids):
        raise UsageError(f"{what}: {path}: {name}: {_shown(value)}: it must be the id of a token, or a list of them")
    return ids


def _shown(value: Any) -> str:
    return json.dumps(value)[:80]


def _check_weights(what: str, folder: Path, pattern: str = "*.safetensors") -> None:
    if any(folder.glob(pattern)):
        return
    other_files = sorted(p.name for p in folder.iterdir() if p.suffix in OTHER_FORMATS)
    has = f"only {', '.join(other_files[:3])}" if other_files else "no weights"
    raise UsageError(
        f"{what}: {folder} holds {has}; weights must be {pattern}"
        " (save_pretrained(folder) of transformers and PEFT writes them)"
    )


def _refuse_code(what: str, path: Path, settings: dict[str, Any]) -> None:
    for key, value in _entries(settings):
        kernel = key.removeprefix("_") in KERNELS and "/" in str(value)
        if (key in CODE and value) or kernel:
            raise UsageError(
                f"{what}: {path} asks for code of its own ({key}: {_shown(value)}), which is never run; where"
                f" transformers itself knows this model, a copy of the folder without {key!r} is loaded as that"
            )


def _entries(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every key with its value, also of settings inside settings (a text model in a model of several parts)."""
    for key, value in settings.items():
        yield key, value
        if isinstance(value, dict):
            yield from _entries(value)
