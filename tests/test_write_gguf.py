"""A model as a GGUF file: what is in it is what is in the folder, as near as its kind of numbers allows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader, LlamaFileType
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.errors import UsageError
from harness.models.files import copy_companions
from harness.models.gguf import convert
from harness.models.write_gguf import SPLIT, TYPES, UNUSED, _packed, read_back, splitting, write_gguf
from tests.tiny import make_tiny_model


def again(model: Path, folder: Path, kind: str) -> Path:
    """The model of a folder, written as a GGUF file and read back."""
    folder.mkdir()
    write_gguf(model, folder / "m.gguf", kind)
    read = folder / "read"
    read.mkdir()
    read_back(folder / "m.gguf", model, read)
    return read


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_in_full_precision_it_is_the_same_model(tmp_path: Path, architecture: str) -> None:
    model = make_tiny_model(tmp_path / "m", architecture)
    read = again(model, tmp_path / "x", "f32")
    before, after = (load_file(folder / "model.safetensors") for folder in (model, read))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name].float(), after[name]) for name in before)
    ids = torch.arange(5, 30)[None]
    one, other = (AutoModelForCausalLM.from_pretrained(f, dtype=torch.float32)(ids).logits for f in (model, read))
    assert torch.equal(one, other)


def test_the_file_is_what_a_reader_of_gguf_expects(tmp_path: Path) -> None:
    """The reader of the bundled model's file, which a stranger's converter wrote, makes the same model of ours."""
    model = make_tiny_model(tmp_path / "m", "llama")
    tokenizer = AutoTokenizer.from_pretrained(model)
    write_gguf(model, tmp_path / "m.gguf", "f32")
    fields = {name: field.contents() for name, field in GGUFReader(tmp_path / "m.gguf").fields.items()}
    assert fields["general.architecture"] == "llama"
    assert fields["tokenizer.ggml.pre"] == splitting(json.loads((model / "tokenizer.json").read_text()))
    assert fields["tokenizer.chat_template"] == tokenizer.chat_template
    tokens, size = fields["tokenizer.ggml.tokens"], len(tokenizer)
    assert tokens[:size] == tokenizer.convert_ids_to_tokens(range(size))
    assert len(tokens) == fields["llama.vocab_size"] > size
    assert set(fields["tokenizer.ggml.token_type"][size:]) == {UNUSED}
    assert fields["tokenizer.ggml.eos_token_id"] == tokenizer.eos_token_id
    assert not fields["tokenizer.ggml.add_bos_token"]
    marks = [i for i, kind in enumerate(fields["tokenizer.ggml.token_type"]) if kind == 3]
    assert marks == sorted(tokenizer.all_special_ids)


def test_the_bundled_models_file_comes_out_again(bundled_model: Path, tmp_path: Path) -> None:
    write_gguf(bundled_model, tmp_path / "m.gguf", "bf16")
    (tmp_path / "read").mkdir()
    convert(tmp_path / "m.gguf", tmp_path / "read")
    before, after = (load_file(folder / "model.safetensors") for folder in (bundled_model, tmp_path / "read"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    same = [json.loads((folder / "config.json").read_text()) for folder in (bundled_model, tmp_path / "read")]
    assert same[0] == same[1]
    text = "Order 4829, can't wait! Straße 12.5 €\n\n  <|im_end|>x"
    one, other = (
        AutoTokenizer.from_pretrained(folder)(text).input_ids for folder in (bundled_model, tmp_path / "read")
    )
    assert one == other


@pytest.mark.parametrize(("kind", "allowed"), [("f16", 1e-3), ("q8_0", 0.01), ("q5_1", 0.06), ("q4_0", 0.15)])
def test_fewer_bits_change_a_weight_by_no_more_than_their_step(tmp_path: Path, kind: str, allowed: float) -> None:
    model = make_tiny_model(tmp_path / "m", "llama")
    read = again(model, tmp_path / "x", kind)
    before, after = (load_file(folder / "model.safetensors") for folder in (model, read))
    for name, values in before.items():
        blocks = values.float().reshape(-1, 32) if values.dim() > 1 else values.float()[None]
        largest = blocks.abs().max(dim=-1, keepdim=True).values
        moved = (after[name].reshape(blocks.shape) - blocks).abs()
        assert bool((moved <= allowed * largest + 1e-12).all()), name
        if values.dim() == 1:
            assert torch.equal(after[name], values.float())
    assert (tmp_path / "x/m.gguf").stat().st_size < 40 * 2**20


def changed(model: Path, folder: Path, file: str, **settings: Any) -> Path:
    """A copy of a model with other settings in one file."""
    folder.mkdir()
    copy_companions(model, folder)
    shutil.copy(model / "model.safetensors", folder)
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


def test_what_it_cannot_write_is_refused_by_name(tmp_path: Path, tiny_model: Path) -> None:
    cases = {
        "gemma3_text": changed(tiny_model, tmp_path / "a", "config.json", model_type="gemma3_text"),
        "scaled": changed(
            tiny_model, tmp_path / "b", "config.json", rope_parameters={"rope_type": "llama3", "factor": 8.0}
        ),
        "splits text": changed(tiny_model, tmp_path / "c", "tokenizer.json", pre_tokenizer={"type": "Whitespace"}),
    }
    for said, folder in cases.items():
        with pytest.raises(UsageError, match=f"{said}.*convert_hf_to_gguf"):
            write_gguf(folder, tmp_path / "x.gguf", "q8_0")


@pytest.mark.parametrize(("digits", "name"), [("", "qwen2"), ("{1,3}", "llama-bpe")])
def test_the_ways_to_split_text_are_told_apart(digits: str, name: str) -> None:
    split = {"type": "Split", "pattern": {"Regex": SPLIT.replace("DIGITS", digits)}}
    steps = {"type": "Sequence", "pretokenizers": [split, {"type": "ByteLevel"}]}
    assert splitting({"model": {"type": "BPE"}, "pre_tokenizer": steps}) == name


def test_kinds_of_numbers_have_the_numbers_of_llama_cpp() -> None:
    assert {f"MOSTLY_{kind.upper()}": number for kind, number in TYPES.items() if kind != "f32"} == {
        kind.name: kind.value for kind in LlamaFileType if kind.name.removeprefix("MOSTLY_").lower() in TYPES
    }
    assert TYPES["f32"] == LlamaFileType.ALL_F32


def test_blocks_are_whole_or_left_alone(tmp_path: Path) -> None:
    """A row whose length is no whole number of blocks stays float32: cut off, it would be another row."""
    values = np.arange(2 * 48, dtype=np.float32).reshape(2, 48)
    packed, kind = _packed("blk.0.ffn_up.weight", values, "q8_0")
    assert kind.name == "F32"
    assert np.array_equal(packed, values)
