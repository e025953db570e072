"""A model folder as one GGUF file, for llama.cpp, Ollama and LM Studio, and such a file read back as a model folder.

The `gguf` package names the tensors and packs the numbers. What it does not do stands here: which settings a file of
these architectures has, how their tokenizers are named, and the order of rotary rows that llama.cpp reads. Where an
architecture or a tokenizer is not among these, llama.cpp's own convert_hf_to_gguf.py reads an exported merged folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.core.store import disk_errors
from harness.errors import UsageError
from harness.models.files import check_model, copy_companions, load, read_settings, weight_files, weight_shapes

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter

Array = NDArray[np.float32]

TYPES = {  # what weights are packed as -> llama.cpp's number for a file of them
    "f32": 0, "f16": 1, "bf16": 32, "q8_0": 7, "q5_1": 9, "q5_0": 8, "q4_1": 3, "q4_0": 2,
}  # fmt: skip
ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}  # model_type of a config -> GGUF's name of it
EMBEDDING = "token_embd.weight"  # often the output head as well: 8 bits at least, as llama.cpp has it
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # GGUF's kinds of token
SPLIT = (  # how text is cut before byte-level BPE, but for how many digits are one piece
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TOKENIZERS = {SPLIT.replace("DIGITS", ""): "qwen2", SPLIT.replace("DIGITS", "{1,3}"): "llama-bpe"}  # llama.cpp's names
ELSEWHERE = "export it with --merged, and convert that folder with llama.cpp's convert_hf_to_gguf.py"


def write_gguf(folder: Path, path: Path, kind: str) -> None:
    """Write the model of `folder` into one file, its matrices packed as `kind`, one of TYPES.

    Raises UsageError for a model whose architecture, tokenizer or sizes this cannot write.
    """
    from gguf import GGUFWriter

    check_model(folder.name, folder)
    config = read_settings("--gguf", folder / "config.json")
    architecture = ARCHITECTURES.get(str(config["model_type"]))
    if architecture is None:
        known = ", ".join(ARCHITECTURES)
        raise UsageError(
            f"--gguf: models of the type {config['model_type']!r} are not written (only {known}): {ELSEWHERE}"
        )
    tokenizer = read_settings("--gguf", folder / "tokenizer.json")
    splits = splitting(tokenizer)
    with disk_errors(path):
        writer = GGUFWriter(path, architecture)
        _write_sizes(writer, config, kind)
        _write_tokenizer(writer, folder, tokenizer, splits, int(config["vocab_size"]))
        for name, values in _named_tensors(folder, config):
            packed, packed_as = _packed(name, values, kind)
            writer.add_tensor(name, packed, raw_dtype=packed_as)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def read_back(path: Path, model: Path, folder: Path) -> None:
    """Write the model of a GGUF file into `folder` as transformers loads it, its weights as they are in the file.

    `model` is the folder that the file was written from: it has the config and the tokenizer.
    """
    import torch
    from gguf import GGUFReader
    from gguf.quants import dequantize
    from safetensors.torch import save_file

    config = read_settings("--gguf", model / "config.json")
    gguf_name = _gguf_names(config)
    names = {gguf_name(name): name for name in weight_shapes(model)}
    weights = {}
    for tensor in GGUFReader(path).tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        if heads := _rotary_heads(tensor.name, config):
            values = _halves(values, heads)
        weights[names[tensor.name]] = torch.tensor(values).contiguous()
    copy_companions(model, folder)
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float32"}, indent=1), encoding="utf-8")
    with disk_errors(folder):
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def splitting(tokenizer: dict[str, Any]) -> str:
    """llama.cpp's name of how a tokenizer.json splits text before BPE. Raises UsageError where it is none of them."""
    parts = tokenizer.get("pre_tokenizer") or {}
    parts = parts.get("pretokenizers") or [parts]
    kinds = [part.get("type") for part in parts]
    patterns = [part["pattern"].get("Regex", "") for part in parts if part.get("type") == "Split"]
    single_digits = any(part.get("type") == "Digits" and part.get("individual_digits") for part in parts)
    if tokenizer["model"]["type"] == "BPE" and kinds[-1:] == ["ByteLevel"]:
        if kinds == ["ByteLevel"]:
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and single_digits:
            return "smollm"
        if kinds == ["Split", "ByteLevel"] and patterns[0] in TOKENIZERS:
            return TOKENIZERS[patterns[0]]
    raise UsageError(
        f"--gguf: how its tokenizer splits text ({', '.join(map(str, kinds))}) is not known here: {ELSEWHERE}"
    )


def _write_sizes(writer: GGUFWriter, config: dict[str, Any], kind: str) -> None:
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        raise UsageError(f"--gguf: its rotary positions are scaled ({rope}), which is not written: {ELSEWHERE}")
    heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
    head = int(config.get("head_dim") or hidden // heads)
    writer.add_type("model")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(hidden)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(float(config.get("rope_theta") or rope.get("rope_theta") or 10000.0))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(TYPES[kind])
    writer.add_quantization_version(2)


def _write_tokenizer(writer: GGUFWriter, folder: Path, tokenizer: dict[str, Any], splits: str, size: int) -> None:
    """Tokens by their numbers (those without one are unused), merges, the marks by their roles, the chat template."""
    from transformers import AutoTokenizer

    marks = {token["id"]: token for token in tokenizer.get("added_tokens", ())}
    by_id = {number: text for text, number in tokenizer["model"]["vocab"].items()}
    by_id |= {number: token["content"] for number, token in marks.items()}
    kinds = [NORMAL if number in by_id else UNUSED for number in range(size)]
    for number, mark in marks.items():
        kinds[number] = CONTROL if mark["special"] else USER_DEFINED
    merges = tokenizer["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splits)
    writer.add_token_list([by_id.get(number, f"[unused {number}]") for number in range(size)])
    writer.add_token_types(kinds)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    loaded = load(AutoTokenizer, folder.name, folder)
    roles = (
        (loaded.bos_token_id, writer.add_bos_token_id),
        (loaded.eos_token_id, writer.add_eos_token_id),
        (loaded.unk_token_id, writer.add_unk_token_id),
        (loaded.pad_token_id, writer.add_pad_token_id),
    )
    for number, add in roles:
        if number is not None:
            add(number)
    begins = loaded("a").input_ids[:1] == [loaded.bos_token_id] and loaded.bos_token_id is not None
    writer.add_add_bos_token(begins)
    if loaded.chat_template:
        writer.add_chat_template(loaded.chat_template)


def _named_tensors(folder: Path, config: dict[str, Any]) -> Iterator[tuple[str, Array]]:
    """(GGUF's name, float32 values in GGUF's order) of every tensor, one at a time."""
    from safetensors import safe_open

    gguf_name = _gguf_names(config)
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dictionary
                named, values = gguf_name(name), file.get_tensor(name).float().numpy()
                heads = _rotary_heads(named, config)
                yield named, _pairs(values, heads) if heads else values


def _gguf_names(config: dict[str, Any]) -> Callable[[str], str]:
    """A tensor's name in a checkpoint -> GGUF's. Raises UsageError for one that it has no name for."""
    from gguf import MODEL_ARCH, get_tensor_name_map

    arch = MODEL_ARCH[ARCHITECTURES[config["model_type"]].upper()]
    known = get_tensor_name_map(arch, config["num_hidden_layers"])

    def gguf_name(name: str) -> str:
        found = known.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise UsageError(f"--gguf: the tensor {name} has no name in GGUF for this architecture: {ELSEWHERE}")
        return str(found)

    return gguf_name


def _rotary_heads(gguf_name: str, config: dict[str, Any]) -> int:
    """How many heads the rows of a tensor belong to where llama.cpp wants rotary pairs side by side, else 0."""
    if config["model_type"] != "llama":
        return 0
    heads = int(config["num_attention_heads"])
    of = {"attn_q": heads, "attn_k": int(config.get("num_key_value_heads") or heads)}
    return of.get(gguf_name.split(".")[-2], 0)


def _pairs(values: Array, heads: int) -> Array:
    """First halves, then second, of each head's rows (checkpoint) -> rotary pairs side by side (GGUF)."""
    return values.reshape(heads, 2, values.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(values.shape)


def _halves(values: Array, heads: int) -> Array:
    """The reverse of `_pairs`."""
    return values.reshape(heads, values.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(values.shape)


def _packed(name: str, values: Array, kind: str) -> tuple[Any, GGMLQuantizationType]:
    """(The numbers as the file holds them, their type). Vectors stay float32, and so does a row of no whole blocks."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import quantize

    packed_as = GGMLQuantizationType[kind.upper()]
    if name == EMBEDDING and GGML_QUANT_SIZES[packed_as][1] / GGML_QUANT_SIZES[packed_as][0] < 1:
        packed_as = GGMLQuantizationType.Q8_0
    if values.ndim < 2 or values.shape[-1] % GGML_QUANT_SIZES[packed_as][0]:
        packed_as = GGMLQuantizationType.F32
    return quantize(values, packed_as), packed_as
