"""Names of models, and what is refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import MachineError, UsageError
from harness.models.resolve import BUNDLED, resolve
from tests.process import succeed
from tests.project import write_project


def test_a_local_folder_is_named_by_its_own_name_and_content(tiny_model: Path, tmp_path: Path) -> None:
    model = resolve(str(tiny_model), tmp_path)
    assert model.folder == tiny_model
    assert model.identity == f"{tiny_model.name}@{model.weights_digest[:16]}"
    assert len(model.weights_digest) == 64
    assert resolve(str(tiny_model), tmp_path) == model


def test_the_digest_follows_the_content(tiny_model: Path, tmp_path: Path) -> None:
    copy = tmp_path / tiny_model.name
    shutil.copytree(tiny_model, copy)
    before = resolve(str(copy), tmp_path / "cache").weights_digest
    assert before == resolve(str(tiny_model), tmp_path / "cache").weights_digest
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"transformers_version": "0.0"}))
    assert resolve(str(copy), tmp_path / "cache").weights_digest == before
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    os.utime(copy / "model.safetensors", ns=(1, 1))
    assert resolve(str(copy), tmp_path / "cache").weights_digest != before


def test_weights_that_are_not_safetensors_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_model / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(UsageError, match=r"only pytorch_model\.bin; weights must be \*\.safetensors"):
        resolve(str(tmp_path), tmp_path / "cache")


def test_an_incomplete_folder_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no config\.json"):
        resolve(str(tmp_path), tmp_path / "cache")
    shutil.copytree(tiny_model, tmp_path, dirs_exist_ok=True)
    names = {"a": "model.safetensors", "b": "model-2.safetensors"}
    for index, said in (({"weight_map": names}, r"lacks model-2\.safetensors"), ({}, "has no weight_map")):
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(UsageError, match=said):
            resolve(str(tmp_path), tmp_path / "cache")


def test_an_adapter_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UsageError, match="an adapter alone"):
        resolve(str(tmp_path), tmp_path / "cache")


def test_a_misspelt_name_says_what_exists(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"did you mean 'smollm2-135m-instruct'\?.*hub id"):
        resolve("smollm2-135m-instuct", tmp_path)


def test_a_hub_id_out_of_reach_says_so(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"hub cannot be reached.*bundled name"):
        resolve("nobody/no-such-model", tmp_path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_disk_that_takes_no_model_is_not_called_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fails(*given: object, **settings: object) -> str:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("huggingface_hub.snapshot_download", fails)
    with pytest.raises(MachineError, match=rf"cannot write it: {os.strerror(number)}"):
        resolve("nobody/no-such-model", tmp_path)


def test_a_proxy_variable_that_breaks_the_hub_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks://127.0.0.1:7897/")
    with pytest.raises(UsageError, match="the environment variable ALL_PROXY"):
        resolve("nobody/nothing", tmp_path)


def test_a_revision_is_for_hub_ids(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="only hub ids"):
        resolve(str(tiny_model), tmp_path, revision="main")


def test_a_snapshot_in_the_hub_cache_is_used_offline(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--some--tiny"
    shutil.copytree(tiny_model, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    model = resolve("some/tiny", tmp_path / "cache")
    assert model.identity == f"some/tiny@{commit}"


@pytest.mark.parametrize("verb", ["augment", "train", "eval"])
def test_a_dry_run_makes_no_model_ready(tmp_path: Path, verb: str) -> None:
    name = next(iter(BUNDLED))
    write_project(tmp_path, name, teacher={"model": name, "engine": "transformers"})
    before = sorted(tmp_path.rglob("*"))
    assert f"{verb} shop would" in succeed(tmp_path, verb, "shop", "--dry-run")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_converted_model_needs_neither_torch_nor_its_package(tiny_model: Path, tmp_path: Path) -> None:
    """Every command with nothing to do resolves its models: that has to be quick."""
    name = next(iter(BUNDLED))
    for version in ("0.1.2", "9"):
        shutil.copytree(tiny_model, tmp_path / "models" / f"{name}-{version}")
        sealed = resolve(str(tmp_path / "models" / f"{name}-{version}"), tmp_path).weights_digest
        (tmp_path / "models" / f"{name}-{version}.json").write_text(json.dumps({"digest": sealed}))
    program = (
        "import sys, pathlib; from harness.models.resolve import resolve;"
        f"print(resolve({name!r}, pathlib.Path({str(tmp_path)!r})).identity, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    identity, torch_was_imported = done.stdout.split()
    assert identity.startswith(f"{name}@")
    assert torch_was_imported == "False"


@pytest.mark.parametrize("damage", ["cut by a byte", "a file removed", "another's seal", "no seal"])
def test_a_damaged_conversion_is_no_model(tiny_model: Path, tmp_path: Path, damage: str) -> None:
    """The package is not installed in the process, so that nothing could be converted again: it says so."""
    name = next(iter(BUNDLED))
    folder = tmp_path / "models" / f"{name}-9"
    shutil.copytree(tiny_model, folder)
    seal = folder.with_name(f"{folder.name}.json")
    seal.write_text(json.dumps({"digest": resolve(str(folder), tmp_path).weights_digest}))
    weights = folder / "model.safetensors"
    if damage == "cut by a byte":
        weights.write_bytes(weights.read_bytes()[:-1])
    if damage == "a file removed":
        (folder / "tokenizer.json").unlink()
    if damage == "another's seal":
        seal.write_text(json.dumps({"digest": "0" * 64}))
    if damage == "no seal":
        seal.unlink()
    program = (
        "import importlib.metadata as m\n"
        "def absent(name): raise m.PackageNotFoundError(name)\n"
        "m.distribution = absent\n"
        "import pathlib; from harness.models.resolve import resolve\n"
        f"resolve({name!r}, pathlib.Path({str(tmp_path)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "MachineError" in done.stderr
    assert "is not installed here" in done.stderr


@pytest.mark.slow
def test_the_bundled_model_is_converted_once(bundled_model: Path) -> None:
    from safetensors import safe_open
    from transformers import AutoTokenizer

    with safe_open(str(bundled_model / "model.safetensors"), "pt") as weights:
        assert len(list(weights.keys())) == 272
        assert str(weights.get_tensor("model.layers.0.self_attn.q_proj.weight").dtype) == "torch.bfloat16"
    tokenizer = AutoTokenizer.from_pretrained(bundled_model)
    assert tokenizer.eos_token == tokenizer.pad_token == "<|im_end|>"
    text = "Paid 12.50  in 2023!\n\tда 漢"
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text
    digits = tokenizer(" 2023").input_ids
    assert [tokenizer.decode([token]) for token in digits] == [" ", "2", "0", "2", "3"]
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert prompt.endswith("<|im_start|>user\nhi<|im_end|>\n")
