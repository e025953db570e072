"""What the folder of a model or an adapter may ask for, and what its tokenizer and chat template may do."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.engines.transformers import TransformersEngine
from harness.errors import UsageError
from harness.models.chat_template import left_out, load_chat, prompt_text, stop_tokens
from harness.models.files import CODE, KERNELS, check_adapter, check_model, read_settings
from harness.models.resolve import resolve
from harness.records import Message
from tests.tiny import TEMPLATE, make_adapter

TURNS = (Message(role="system", content="Name the topic."), Message(role="user", content="No parcel yet."))
EVIL = "open('executed', 'w')\nclass Evil: pass\n"


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A model folder of a test's own."""
    return Path(shutil.copytree(tiny_model, tmp_path / "tiny"))


def change(path: Path, **settings: Any) -> None:
    """Write some settings into a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def with_template(folder: Path, template: Any) -> None:
    """Give a model folder another chat template."""
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    change(folder / "tokenizer_config.json", chat_template=template)


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        ("config.json", {"auto_map": {"AutoModelForCausalLM": "evil.Evil"}}),
        ("config.json", {"auto_map": {"AutoConfig": "someone/else--evil.Evil"}}),
        ("config.json", {"text_config": {"auto_map": {"AutoConfig": "evil.Evil"}}}),
        ("config.json", {"custom_pipelines": {"x": {"impl": "evil.Evil"}}}),
        ("config.json", {"attn_implementation": "someone/kernel"}),
        ("config.json", {"_attn_implementation": {"": "someone/kernel@main"}}),
        ("config.json", {"trust_remote_code": True}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "Evil"}),
        ("generation_config.json", {"custom_generate": "evil"}),
    ],
)
def test_a_model_that_asks_for_code_is_refused_by_name(folder: Path, tmp_path: Path, file: str, settings: Any) -> None:
    (folder / "evil.py").write_text(EVIL)
    change(folder / file, **settings)
    for load in (lambda: resolve(str(folder), tmp_path / "cache"), lambda: TransformersEngine(folder)):
        with pytest.raises(UsageError, match=rf"model 'tiny': .*{file} asks for code of its own"):
            load()
    assert not list(tmp_path.rglob("executed"))


def test_a_model_without_code_is_loaded_though_files_lie_beside_it(folder: Path, tmp_path: Path) -> None:
    (folder / "evil.py").write_text(EVIL)
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")
    change(folder / "config.json", attn_implementation="eager")
    assert resolve(str(folder), tmp_path / "cache").name == "tiny"
    TransformersEngine(folder)
    assert not list(tmp_path.rglob("executed"))


@given(st.sampled_from((*CODE, *KERNELS)), st.lists(st.text("abc", min_size=1), max_size=4))
def test_code_is_found_however_deep_it_is_asked_for(key: str, path: list[str]) -> None:
    settings: dict[str, Any] = {key: "some/code"}
    for name in path:
        settings = {name: settings, "x": 1}
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "config.json").write_text(json.dumps(settings))
        (Path(name) / "model.safetensors").write_bytes(b"")
        with pytest.raises(UsageError, match=f"asks for code of its own \\({key}"):
            check_model("m", Path(name))


def test_an_adapter_is_data(tiny_model: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tiny_model, tmp_path / "adapter")
    assert check_adapter(adapter)["r"] == 4
    settings = json.loads((adapter / "adapter_config.json").read_text())
    for changed in (
        {"auto_mapping": {"parent_library": "evil", "base_model_class": "Evil"}},
        {"auto_map": {"x": "evil.Evil"}},
    ):
        (adapter / "adapter_config.json").write_text(json.dumps(settings | changed))
        with pytest.raises(UsageError, match=r"adapter 'adapter': .* asks for code"):
            check_adapter(adapter)
    (adapter / "adapter_config.json").write_text(json.dumps(settings | {"auto_mapping": "evil"}))
    with pytest.raises(UsageError, match=r"adapter 'adapter': .*auto_mapping: \"evil\""):
        check_adapter(adapter)
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(UsageError, match=r"adapter 'adapter': .* only adapter_model\.bin"):
        TransformersEngine(tiny_model, adapter)
    with pytest.raises(UsageError, match="not an adapter"):
        check_adapter(tiny_model)


@pytest.mark.parametrize("content", [b"{", b"[]", b"[" * 100_000, b"\xff", b"null"])
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_settings_that_are_none_name_the_file(folder: Path, tmp_path: Path, file: str, content: bytes) -> None:
    (folder / file).write_bytes(content)
    with pytest.raises(UsageError, match=rf"model 'tiny': .*{file}"):
        resolve(str(folder), tmp_path / "cache")


@pytest.mark.parametrize("file", ["tokenizer.json", "model.safetensors"])
def test_files_that_transformers_cannot_read_name_the_model(folder: Path, file: str) -> None:
    (folder / file).write_bytes(b"{}" * 100)
    with pytest.raises(UsageError, match="model 'tiny': transformers cannot load it"):
        TransformersEngine(folder)


def test_a_byte_order_mark_in_settings_is_taken_away(folder: Path) -> None:
    path = folder / "config.json"
    settings = read_settings("m", path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_settings("m", path) == settings


def test_a_token_beyond_the_embedding_is_named_before_anything_is_computed(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    tokenizer.add_tokens([f"<|extra_{i}|>" for i in range(rows - len(tokenizer) + 3)])
    tokenizer.save_pretrained(folder)
    first = re.escape(tokenizer.convert_ids_to_tokens(rows))
    for load in (lambda: load_chat("tiny", folder), lambda: TransformersEngine(folder)):
        with pytest.raises(UsageError, match=rf"tiny: .*\b3\b.*'{first}' \(id {rows}\)"):
            load()


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        ("config.json", {"vocab_size": "49152"}),
        ("config.json", {"text_config": "none"}),
        ("config.json", {"text_config": {"vocab_size": [1]}}),
        ("config.json", {"eos_token_id": "</s>"}),
        ("generation_config.json", {"eos_token_id": "</s>"}),
        ("generation_config.json", {"eos_token_id": [[1]]}),
        ("generation_config.json", {"eos_token_id": {"id": 1}}),
    ],
)
def test_settings_of_another_kind_name_the_model(folder: Path, file: str, settings: Any) -> None:
    change(folder / file, **settings)
    for load in (lambda: load_chat("tiny", folder), lambda: TransformersEngine(folder)):
        with pytest.raises(UsageError, match=rf"tiny'?: (transformers cannot load it|.*{file}: \w+: .* it must be)"):
            load()


def test_what_ends_an_answer_in_training_ends_it_in_scoring(folder: Path) -> None:
    (eos,) = stop_tokens(folder, None)
    change(folder / "generation_config.json", eos_token_id=[5, 6])
    change(folder / "config.json", eos_token_id=7)
    assert load_chat("tiny", folder).stops == set(TransformersEngine(folder).end_ids) == {eos, 5, 6, 7}
    change(folder / "config.json", text_config={"eos_token_id": 8})
    assert stop_tokens(folder, None) == {5, 6, 8}
    for file in ("generation_config.json", "config.json"):
        (folder / file).unlink()
    assert stop_tokens(folder, 3) == {3}


def test_a_chat_template_that_leaves_a_message_out_is_said(folder: Path) -> None:
    assert left_out(load_chat("tiny", folder), TURNS) == []
    assert TransformersEngine(folder).notes == []
    for role in ("system", "user"):
        with_template(folder, TEMPLATE.replace("in messages %}", f"in messages if message['role'] != '{role}' %}}"))
        said = left_out(load_chat("tiny", folder), TURNS)
        assert len(said) == 1
        assert f"tiny: its chat template leaves out the {role} message" in said[0]
        assert TransformersEngine(folder).notes == said
    with_template(folder, TEMPLATE.replace("message['content']", "message['content'] | trim"))
    assert left_out(load_chat("tiny", folder), TURNS) == []


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ([{"name": "rag", "template": TEMPLATE}], r"'rag'.* 'default'"),
        ("{{ messages | length + 'turns' }}", "TypeError"),
        ("{{ messages[99].content.x }}", "refuses a conversation of system, user"),
        ("{{ raise_exception('no system') }}", "no system"),
        ("{% for x in messages %}\n{% if %}", "broken at line 2"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{{ messages.x.y() }}", "refuses"),
    ],
)
def test_a_chat_template_that_fails_names_the_model(folder: Path, template: Any, said: str) -> None:
    with_template(folder, template)
    with pytest.raises(UsageError, match=f"^tiny: .*{said}"):
        prompt_text(load_chat("tiny", folder), TURNS)


def test_a_chat_template_writes_the_same_date_every_day(folder: Path) -> None:
    with_template(folder, "{{ strftime_now('%d %b %Y') }}" + TEMPLATE)
    assert prompt_text(load_chat("tiny", folder), TURNS).startswith("26 Jul 2024<")
