"""YAML into plain data: every mistake has a file and a line, and exit code 2."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from harness.core import yaml_file
from harness.errors import UsageError
from tests.process import harness
from tests.project import write_project

NO_NUMBER = re.compile(r"(?!\d\S*[eE])")  # PyYAML writes the text 0E0 bare, which is a number here
TEXTS = st.text().filter(lambda text: NO_NUMBER.match(text) is not None)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=20,
)


def loaded(folder: Path, raw: bytes | str) -> object:
    path = folder / "a.yaml"
    path.write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    return yaml_file.load(path).data


@given(VALUES)
def test_plain_data_is_read_as_it_was_written(value: object) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        assert loaded(Path(folder), yaml.safe_dump(value)) == value


@given(st.text("!<>bolintsr:yamg.,2{}[]&*?|-'\"x 0_e~=\n"))
def test_any_text_is_read_or_refused_with_its_line(text: str) -> None:
    import tempfile

    refused = ""
    with tempfile.TemporaryDirectory() as folder:
        try:
            loaded(Path(folder), text)
        except UsageError as error:
            refused = str(error)
    assert not refused or refused.startswith(f"{folder}/a.yaml:")


TAGS = ["!!bool x", "!!int ''", "!!float x", "!!null x", "!!set {x}", "!!binary '&&'", "!!omap [x]", "!mine x",
        "!!python/object/apply:os.system [x]", "!!python/name:os.system ''", "!<tag:yaml.org,2002:int> x"]  # fmt: skip


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_with_an_odd_value_is_refused_in_files_and_settings(tmp_path: Path, tag: str) -> None:
    with pytest.raises(UsageError, match=r"a.yaml:2: "):
        loaded(tmp_path, f"a: 1\nb: {tag}\n")
    with pytest.raises(UsageError) as caught:
        yaml_file.override(yaml_file.Document({"b": 1}), [f"b={tag}"])
    assert str(caught.value).startswith(f"--set b={tag}: ")


@pytest.mark.parametrize("number", [".nan", ".NaN", ".inf", "-.inf", "+.INF", "1e999", "!!float nan", "!!float inf"])
def test_a_number_that_is_none_is_refused(tmp_path: Path, number: str) -> None:
    with pytest.raises(UsageError, match=r"a.yaml:2: b\.0"):
        loaded(tmp_path, f"a: 1\nb: [{number}]\n")


def test_what_is_not_utf_8_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a.yaml: not UTF-8 text \(byte 3\)"):
        loaded(tmp_path, b"a: \xe9")
    with pytest.raises(UsageError, match=r"a.yaml:2: not valid YAML: unacceptable character"):
        loaded(tmp_path, "a: 1\nb: \x1b[2J\n")
    with pytest.raises(UsageError, match=r"a.yaml:1: a: half of a surrogate pair"):
        loaded(tmp_path, 'a: "\\uD800"\n')
    for deep in ("[" * 3000, "a: &x [*x]"):
        with pytest.raises(UsageError, match=r"a.yaml:1: not valid YAML"):
            loaded(tmp_path, deep)
    assert loaded(tmp_path, b"\xef\xbb\xbfa: 1") == {"a": 1}, "a byte order mark is no text"


def test_dates_stay_as_they_are_written_and_1e_3_is_a_number(tmp_path: Path) -> None:
    written = "a: 2026-11-21\nb: 2026-02-31\nc: 1e-3\nd: =\ne: 'off'\n"
    assert loaded(tmp_path, written) == {"a": "2026-11-21", "b": "2026-02-31", "c": 0.001, "d": "=", "e": "off"}


def test_the_command_ends_with_2(tmp_path: Path) -> None:
    path = write_project(tmp_path, "nobody")
    task = tmp_path / "prompts/shop/task.yaml"
    before = task.read_text()
    task.write_bytes(before.replace("Sort messages", "Trie les réclamations").encode("latin-1"))
    done = harness(tmp_path, "augment", "shop", "--dry-run")
    assert (done.returncode, "not UTF-8 text (byte" in done.stderr) == (2, True)
    task.write_text(before)
    path.write_text(path.read_text().replace("random_seed: 0", "random_seed: !!bool x", 1))
    done = harness(tmp_path, "augment", "shop", "--dry-run")
    assert (done.returncode, "shop.yaml:1: random_seed: 'x' is no !!bool" in done.stderr) == (2, True)
