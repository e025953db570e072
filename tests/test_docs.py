"""The guide: it builds without a warning, its links lead somewhere, and its commands are commands."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from harness.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"(?<!from )(?:\.venv/bin/)?harness ([a-z][a-z-]*(?: [^`\n|;]*)?)")
TARGET = re.compile(r"\bmake ((?:[a-z][a-z-]*)(?: [^`\n|;]*)?)")


def code(page: Path) -> list[str]:
    """What a page shows as code, but for the tree of files."""
    shown = re.findall(r"```(\w*)\n(.*?)```|`([^`\n]+)`", page.read_text(encoding="utf-8"), re.DOTALL)
    return [block or inline for language, block, inline in shown if language != "tree"]


def test_the_guide_builds_and_its_links_lead_somewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "training.html").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_and_headings_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{page.name}: {target}"
        if heading:
            headings = re.findall(r"(?m)^#+ (.*)$", file.read_text(encoding="utf-8"))
            assert heading in {re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_one_and_has_the_options_that_are_shown(page: Path) -> None:
    verbs = typer.main.get_command(app)
    assert isinstance(verbs, TyperGroup)
    shown = [words.split("#")[0] for text in code(page) for words in COMMAND.findall(text)]
    for verb, *words in map(shlex.split, shown):
        command = verbs.commands.get(verb)
        assert command is not None, f"{page.name}: harness {verb}"
        options = {name for option in command.params for name in option.opts}
        for word in words:
            if re.fullmatch(r"--?[a-z][\w-]*(=.*)?", word):
                assert word.split("=")[0] in options, f"{page.name}: harness {verb} {word}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_is_one(page: Path) -> None:
    targets = set(re.findall(r"(?m)^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8")))
    for words in (words for text in code(page) for words in TARGET.findall(text)):
        named = [word for word in words.split("#")[0].split() if "=" not in word]
        for word in named[: next((i for i, w in enumerate(named) if not re.fullmatch(r"[a-z][a-z-]*", w)), len(named))]:
            assert word in targets, f"{page.name}: make {words}"
