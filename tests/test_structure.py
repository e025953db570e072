"""The architecture, held: who may import whom, what starting costs, the tree in the README."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {
    "torch",
    "transformers",
    "peft",
    "vllm",
    "lm_eval",
    "datasets",
    "sklearn",
    "scipy",
    "matplotlib",
    "rensa",
}
STAGES = {"augment", "train", "evaluate", "report", "check"}
FOUNDATION = {"errors", "text", "completions"}  # import nothing of ours
READERS = {"errors", "json_file", "yaml_file", "table_file", "project_file"}  # of files that people wrote
MAY = {  # shelf -> the modules of ours it may use, besides itself
    "json_file": {"errors", "text"},
    "project_file": {"errors"},
    "yaml_file": {"errors", "json_file"},
    "table_file": {"errors", "json_file"},
    "records": {"errors", "completions"},
    "stats": {"records"},
    "call_file": {"records", "errors", "store"},
    "leases": {"errors"},
    "markdown": {"text"},
    "calls": {"records", "call_file", "leases"},
    "gate": {"stats", "records", "errors", "markdown", "store", "json_file", "config", "results", "scoring", "rows"}
    | {"text", "analysis"},
    "python_child": set(),
    "python_file": {"errors", "terminal", "text"},
    "sandbox": {"errors", "text"},
    "template_syntax": {"sandbox"},
    "prompts": {"errors", "json_file", "text", "sandbox", "template_syntax"},
    "filters": {"records", "errors", "json_file", "text", "prompts", "stats", "python_file"},
    "scoring": {"records", "completions", "text", "prompts", "stats", "store", "python_file"} | READERS,
    "model_files": {"errors"},
    "models": {"errors", "model_files", "records", "store", "engines"},
    "chat": {"records", "errors", "model_files"},
    "device": {"errors"},
    "engines": {"records", "errors", "text", "store", "yaml_file", "chat", "scoring", "device", "model_files"},
    "training": {"records", "errors", "store", "config", "examples", "rows", "models", "chat", "device", "model_files"},
}


HEAVY_FILES = {  # whose own import takes seconds; nothing imports these before they are needed
    "device.py",
    "training/packing.py",
    "training/loop.py",
    *(f"engines/{name}.py" for name in ("attention", "decoding", "embeddings", "kv", "likelihood")),
    *(f"engines/{name}.py" for name in ("passes", "transformers")),
}


def imports(path: Path, *, top_level: bool = False) -> set[str]:
    """Dotted names a file imports; with `top_level` those that run when it is imported."""
    tree = ast.parse(path.read_text())
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update(names if node.module == "harness" else {node.module})
        checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if checking or (top_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return found


def ours(path: Path) -> set[str]:
    """The first part below `harness` of everything of ours that a file imports."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("harness.")}


def modules() -> list[Path]:
    return sorted((ROOT / "harness").rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_who_may_import_whom(path: Path) -> None:
    below = path.relative_to(ROOT / "harness")
    part = below.parts[0].removesuffix(".py")
    used = ours(path) - {part}
    if part in FOUNDATION:
        assert not used
    if part in MAY:
        assert used <= MAY[part], f"{below} imports {sorted(used - MAY[part])}"
    if part in STAGES:
        assert not used & STAGES, f"a stage imports another: {sorted(used & STAGES)}"
        assert "engines" not in used, "only the verbs build engines"
    if part != "cli":
        assert "cli" not in used


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_heavy_libraries_are_imported_where_they_are_used(path: Path) -> None:
    below = str(path.relative_to(ROOT / "harness"))
    heavy = {name.split(".")[0] for name in imports(path, top_level=True)} & HEAVY
    assert bool(heavy) == (below in HEAVY_FILES), heavy


@pytest.mark.parametrize(
    "module",
    [
        *(f"harness.{stage}" for stage in ("cli", "config", "evaluate", "augment", "train")),
        *(f"harness.engines.{engine}" for engine in ("openai", "scripted", "vllm")),
    ],
)
def test_importing_a_stage_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sorted(set(sys.modules) & {HEAVY!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == ""


def test_files_and_functions_stay_readable() -> None:
    for path in modules():
        text = path.read_text()
        assert text.count("\n") <= 450, f"{path.name} has grown to {text.count(chr(10))} lines: split it by meaning"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno
                assert length <= 70, f"{path.name}: {node.name} has {length} lines"


def test_the_readme_names_every_file() -> None:
    listed = {
        line.split()[0]
        for line in (ROOT / "README.md").read_text().split("```tree\n")[1].split("```")[0].splitlines()
        if line.strip()
    }
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=True)
    there = {name for name in tracked.stdout.splitlines() if (ROOT / name).exists()}
    covered = {name for name in there if name in listed or any(name.startswith(f) for f in listed if f.endswith("/"))}
    assert there - covered == set(), "not in the README's tree"
    missing = {name for name in listed if not (ROOT / name).exists()}
    assert missing == set(), "in the README's tree, but not there"
