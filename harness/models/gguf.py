"""The bundled model's GGUF file made into the folder that every engine loads.

Read with the `gguf` package alone and written by hand: transformers' own reader goes through the file's
98,000 strings three times, keeps the weights packed, and loses the rule that digits are tokens of their own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import MachineError

if TYPE_CHECKING:
    from gguf.gguf_reader import ReaderTensor

Array = NDArray[np.float32]

LAYER_NAMES = {  # GGUF's name of a tensor in block N -> its name in a Llama checkpoint
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OTHER_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
CONTROL = 3  # GGUF's token type of marks such as <|im_end|>


def convert(gguf_file: Path, folder: Path) -> None:
    """Write config, tokenizer and bf16 safetensors of a Llama GGUF with tied embeddings into `folder`.

    The output depends on the file alone, not on the versions of torch or transformers.
    """
    from gguf import GGUFReader

    reader = GGUFReader(gguf_file)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    _write_json(folder / "config.json", _config(fields))
    _write_json(folder / "generation_config.json", _ends(fields))
    _write_tokenizer(fields, folder)
    _write_weights(reader.tensors, fields, folder)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _ends(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
    }


def _config(fields: dict[str, Any]) -> dict[str, Any]:
    heads = fields["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "vocab_size": fields["llama.vocab_size"],
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "head_dim": fields["llama.embedding_length"] // heads,
        "hidden_act": "silu",
        "max_position_embeddings": fields["llama.context_length"],
        "rms_norm_eps": float(f"{fields['llama.attention.layer_norm_rms_epsilon']:.6g}"),  # it was a float32
        "rope_theta": fields["llama.rope.freq_base"],
        "tie_word_embeddings": True,
        **_ends(fields),
    }


def _write_tokenizer(fields: dict[str, Any], folder: Path) -> None:
    """Byte-level BPE with single digits, as SmolLM2's own tokenizer has it."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    marks = [t for t, kind in zip(tokens, fields["tokenizer.ggml.token_type"], strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": fields["llama.context_length"],
        "bos_token": tokens[fields["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[fields["tokenizer.ggml.eos_token_id"]],
        "pad_token": tokens[fields["tokenizer.ggml.padding_token_id"]],
        "unk_token": tokens[fields["tokenizer.ggml.unknown_token_id"]],
        "chat_template": fields["tokenizer.chat_template"],
    }
    _write_json(folder / "tokenizer_config.json", settings)


def _write_weights(tensors: Sequence[ReaderTensor], fields: dict[str, Any], folder: Path) -> None:
    """Unpack every tensor to bf16. The output head is the embedding, so it is not written twice."""
    import torch
    from gguf.quants import dequantize
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    heads = {
        "attn_q": fields["llama.attention.head_count"],
        "attn_k": fields["llama.attention.head_count_kv"],
    }
    weights: dict[str, torch.Tensor] = {}
    for tensor in tensors:
        stem, *block = reversed(tensor.name.removesuffix(".weight").split("."))
        values = dequantize(tensor.data, tensor.tensor_type)
        if stem in heads:
            values = _rotary_halves(values, heads[stem])
        name = f"model.layers.{block[0]}.{LAYER_NAMES[stem]}" if block else OTHER_NAMES[stem]
        weights[f"{name}.weight"] = torch.tensor(values).to(torch.bfloat16).contiguous()
    path = folder / "model.safetensors"
    try:
        save_file(weights, path, metadata={"format": "pt"})
    except SafetensorError as error:  # a full disk is no OSError here
        raise MachineError(f"{path}: cannot write it: {error}") from error
    path.chmod(0o644)


def _rotary_halves(values: Array, heads: int) -> Array:
    """[heads * dim, hidden], rotary pairs side by side (GGUF) -> first halves, then second (checkpoint)."""
    rows, columns = values.shape
    pairs = values.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)
