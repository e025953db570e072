"""The command itself: exit codes and messages as a shell sees them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness import __version__
from harness.cli import app
from tests.process import COMMAND, harness
from tests.stored import Stored, write_stored


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """One for all tests here: they only read it."""
    stored = write_stored(tmp_path_factory.mktemp("cli"))
    stored.bless()
    return stored


def test_a_reader_that_leaves_does_not_change_the_verdict(gate: Stored) -> None:
    command = [sys.executable, "-c", COMMAND, "check", "shop"]
    with subprocess.Popen(command, cwd=gate.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as done:
        assert done.stdout is not None
        done.stdout.close()
        assert done.stderr is not None
        assert "Traceback" not in done.stderr.read()
        assert done.wait() == 0


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["check", "shop"], 0, ""),
        (["check", "shop", "--unsure", "maybe"], 2, "it must be fail or pass"),
        (["check", ""], 2, "RUN is empty"),
        (["check", "shopp"], 2, "did you mean 'shop.yaml'"),
        (["check", "shopp", "--dry-run"], 2, "did you mean 'shop.yaml'"),
        (["chekc", "shop"], 2, "No such command"),
        (["check", "shop", "--nosuch"], 2, "No such option"),
        (["check", "shop", "--junit", "runs"], 2, "no place for a file"),
        (["check", "shop", "--set", "train.epochs"], 2, "epochs"),
        (["compare", "shop", "shop:nobody"], 2, "no student 'nobody'"),
        (["rescore", "shop", "--dry-run"], 0, ""),
        (["rescore", "shop", "--dry-run", "--engine", "vllm"], 0, ""),
        (["rescore", "shop", "--dry-run", "--engine", "vlm"], 2, "--engine vlm: it must be transformers or vllm"),
        (["rescore", "shop", "--dry-run", "--set", "ship=null"], 2, "it has no ship section"),
        (["plan", "--margin", "0"], 2, "at least 0.0001"),
        (["plan", "--margin", "0.05", "--seed-spread", "nan"], 2, "between 0 and 1"),
        (["plan", "--margin", "0.05"], 0, ""),
        (["suites", "--run", ""], 2, "RUN is empty"),
        (["show", "shop"], 2, "no report yet"),
    ],
)
def test_exit_codes(gate: Stored, words: list[str], code: int, says: str) -> None:
    done = harness(gate.root, *words)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert says in done.stderr.replace("\n", " ")


def test_a_folder_that_is_no_project(tmp_path: Path) -> None:
    for words in (["suites", "--prove"], ["clean"]):
        done = harness(tmp_path, *words)
        assert (done.returncode, "start in" in done.stderr) == (2, True)
    assert not list(tmp_path.iterdir())


def test_a_fault_of_the_harness_is_not_a_regression(gate: Stored) -> None:
    broken = "import harness.check.stage; harness.check.stage.check = None; " + COMMAND
    done = harness(gate.root, "check", "shop", program=broken)
    assert done.returncode == 3
    assert "a fault of the harness itself" in done.stderr


def test_the_version_and_the_names_of_runs_for_a_shell_that_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"harness {__version__}\n"
    (tmp_path / "runs").mkdir()
    for name in ("shop", "shop_study", "talk"):
        (tmp_path / f"runs/{name}.yaml").write_text("")
    monkeypatch.chdir(tmp_path)
    words = {"_HARNESS_COMPLETE": "complete_bash", "COMP_WORDS": "harness train sh", "COMP_CWORD": "2"}
    done = CliRunner().invoke(app, [], env=words, prog_name="harness")
    assert done.output.split() == ["shop", "shop_study"]
