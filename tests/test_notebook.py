"""The API in a notebook's kernel: what it shows, how it stops, and the example."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.process import LIMIT_S, ROOT, environment
from tests.project import write_project

EXAMPLE = ROOT / "examples" / "first_student.ipynb"
FAQ = EXAMPLE.with_name("faq.jsonl")
# in a process of its own: the client leaves sockets open
EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=1200, kernel_name="python3", allow_errors=True).execute()
nbformat.write(notebook, sys.argv[1])
"""
Cell = dict[str, Any]


def executed(folder: Path, *sources: str) -> list[Cell]:
    """The cells after a kernel has run them in a folder."""
    cells: list[Cell] = [
        {"cell_type": "code", "id": f"c{i}", "source": source, "metadata": {}, "outputs": [], "execution_count": None}
        for i, source in enumerate(sources)
    ]
    path = folder / "executed.ipynb"
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    own = {"IPYTHONDIR": str(folder / "ipython"), "JUPYTER_RUNTIME_DIR": str(folder / "jupyter")}
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, str(path)], cwd=folder, env=environment(**own), capture_output=True, text=True,
        timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    executed_cells: list[Cell] = json.loads(path.read_text())["cells"]
    return executed_cells


def shown(cell: Cell, form: str = "text/plain") -> str:
    """What a cell prints and displays, in one form."""
    parts = [output.get("text") or output.get("data", {}).get(form, "") for output in cell["outputs"]]
    return "".join(part if isinstance(part, str) else "".join(part) for part in parts)


def example_cells() -> list[Cell]:
    return [cell for cell in json.loads(EXAMPLE.read_text())["cells"] if cell["cell_type"] == "code"]


def test_the_example_is_stored_without_results() -> None:
    for cell in example_cells():
        assert (cell["outputs"], cell["execution_count"]) == ([], None)


@pytest.mark.slow
@pytest.mark.usefixtures("bundled_model")
def test_the_example_runs(tmp_path: Path) -> None:
    shutil.copy(FAQ, tmp_path)
    sources = ["".join(cell["source"]) for cell in example_cells()]
    done = executed(tmp_path, *sources)
    errors = [output for cell in done for output in cell["outputs"] if output["output_type"] == "error"]
    assert not errors
    headline = done[sources.index("result")]
    assert "32 rows (filtered)" in shown(headline)
    assert "<table>" in shown(headline, "text/html")
    again = shown(done[-1])
    for verb in ("augment", "train", "eval"):
        assert f"{verb}: nothing to do" in again


@pytest.mark.slow
def test_progress_is_one_line_and_an_error_is_one_message(tmp_path: Path, tiny_model: Path) -> None:
    shutil.copy(FAQ, tmp_path)
    tune = f"from harness import tune\ntune('faq.jsonl', student={str(tiny_model)!r}, sizes=[4, 8])"
    first, wrong = executed(tmp_path, tune, "tune('nosuch.jsonl')")
    streams = [output for output in first["outputs"] if output["output_type"] == "stream"]
    assert {output["name"] for output in streams} == {"stdout"}, "stderr is red there"
    assert "\x1b" not in shown(first)
    *progress, result = [shown({"outputs": [o]}) for o in first["outputs"] if "text/plain" in o.get("data", {})]
    assert [line.split(":")[0] for line in progress] == ["augment", "train", "eval"], (
        "a line each, which stays in its place"
    )
    assert "8 rows (filtered)" in result
    (error,) = wrong["outputs"]
    assert error["ename"] == "UsageError"
    assert error["traceback"] == [f"UsageError: {error['evalue']}"]
    assert "file nosuch.jsonl" in error["evalue"]


@pytest.mark.slow
def test_interrupting_a_kernel_keeps_what_is_done(tmp_path: Path, tiny_model: Path) -> None:
    write_project(tmp_path, str(tiny_model))
    load = "from harness import Run\nrun = Run.load('shop', {'train.sizes': [0, 4, 12], 'train.min_steps': 2000})"
    # what a notebook's stop button sends, when the training is under way
    interrupt = (
        "import os, pathlib, signal, threading, time\ndef interrupt():\n"
        "    while not pathlib.Path('runs/shop/train/log.jsonl').is_file():\n        time.sleep(0.1)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread(target=interrupt, daemon=True).start()\nrun.augment().train()"
    )
    _, train, handler = executed(tmp_path, load, interrupt, "signal.getsignal(signal.SIGINT)")
    assert [output["ename"] for output in train["outputs"] if output["output_type"] == "error"] == ["Interrupted"]
    assert "default_int_handler" in shown(handler)
    assert (tmp_path / "runs/shop/train/cells.json").is_file()
