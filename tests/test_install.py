"""A checkout that was copied: its own code runs, or it is said that another one's does."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.needs import missing
from tests.process import ROOT, environment, harness

SCRIPT = ROOT / "locks" / "install.sh"


def made_elsewhere(folder: Path, first_lines: str) -> str:
    """What the installer says of a .venv whose command begins like this."""
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/harness").write_text(f"{first_lines}\nimport sys\n")
    (folder / "locks").mkdir()
    shutil.copy(SCRIPT, folder / "locks")
    done = subprocess.run([folder / "locks/install.sh", "moved"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("name", ["plain", "with a blank"])
def test_the_installer_knows_where_a_venv_was_made(tmp_path: Path, name: str) -> None:
    here, there = tmp_path / name, tmp_path / "other" / name
    assert made_elsewhere(there, f"#!{here}/.venv/bin/python3.11") == str(here)
    assert made_elsewhere(here, f"#!{here}/.venv/bin/python") == ""
    # how pip writes it where the path is long or has a blank
    long = f'#!/bin/sh\n\'\'\'exec\' "{here}/.venv/bin/python" "$0" "$@"'
    assert made_elsewhere(there / "long", long) == str(here)
    assert made_elsewhere(tmp_path / "unknown", "#!/usr/bin/env python3") == ""


def test_a_folder_with_other_code_is_said(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "harness", tmp_path / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "runs").mkdir()
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from harness.cli import main; main()"
    done = harness(tmp_path, "clean", "--dry-run", program=program)
    assert f"{ROOT / 'harness'}, not {tmp_path / 'harness'}" in done.stderr
    assert "warning" not in harness(ROOT, "clean", "--dry-run").stderr


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["doctor", "setup"])
def test_a_copied_checkout_runs_its_own_code(tmp_path: Path, verb: str) -> None:
    if not (ROOT / ".venv/.full").is_file():
        missing("install", "this checkout has no .venv that make installed")
    copy = tmp_path / "copied checkout"
    for part in ("harness", "locks", ".venv"):
        shutil.copytree(ROOT / part, copy / part, symlinks=True, copy_function=link_or_copy)
    for part in ("Makefile", "pyproject.toml", "README.md"):
        shutil.copy2(ROOT / part, copy / part)
    before = (ROOT / ".venv/bin/harness").read_text()
    done = subprocess.run(["make", verb], cwd=copy, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"made in {ROOT}" in done.stdout
    for command in ("harness", "pytest"):
        started = (copy / ".venv/bin" / command).read_text()
        assert str(copy) in started
        assert str(ROOT) not in started.replace(str(copy), "")
    where = [str(copy / ".venv/bin/python"), "-P", "-c", "import harness; print(harness.__file__)"]
    clean = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
    found = subprocess.run(where, cwd=tmp_path, env=clean, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(copy / "harness/__init__.py")
    assert (ROOT / ".venv/bin/harness").read_text() == before, "the copy shares files with the checkout"


def link_or_copy(source: str, target: str) -> None:
    """A hard link: gigabytes are not copied where the file system can do without."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
