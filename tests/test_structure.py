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
    "ray",
}
LEVELS = (  # a module imports its own folder and what stands before it
    "errors",
    "core",
    "records",
    "stats",
    "models",
    "engines",
    "metrics",
    "data",
    "suites",
    "filters",
    "config",
    "augment",
    "train",
    "eval",
    "report",
    "check",
    "commands",
    "cluster",
    "builders",
    "verbs",
    "cli",
    "api",
)
STAGES = {f"harness.{stage}.stage" for stage in ("augment", "train", "eval", "report", "check")}


HEAVY_FILES = {  # whose own import takes seconds; nothing imports these before they are needed
    "models/device.py",
    "models/merge.py",
    *(f"train/{name}.py" for name in ("attention", "base", "checkpoint", "full", "lora", "loop", "packing", "trainee")),
    "engines/embeddings.py",
    "engines/transformers.py",
    *(f"engines/prefix_tree/{name}.py" for name in ("attention", "decoding", "kv", "likelihood", "passes")),
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
    """Dotted names of our modules that a file imports; `from harness.core import text` names harness.core.text."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return {name for name in found if name.startswith("harness.")}


def modules() -> list[Path]:
    return sorted((ROOT / "harness").rglob("*.py"))


def level(part: str) -> int:
    """Where the first part of a dotted name below `harness` stands."""
    assert part in LEVELS, f"harness/{part} stands nowhere in the order of levels"
    return LEVELS.index(part)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_lower_levels_and_its_own_folder(path: Path) -> None:
    own = path.relative_to(ROOT / "harness").parts[0].removesuffix(".py")
    if own == "__init__":
        assert imports(path, top_level=True) == {"typing"}, "importing harness costs nothing"
        return
    above = {name for name in ours(path) if (part := name.split(".")[1]) != own and level(part) >= level(own)}
    assert not above, f"imports {sorted(above)}, which stand above it"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_stage_imports_no_stage_and_builds_no_engine(path: Path) -> None:
    if f"harness.{'.'.join(path.relative_to(ROOT / 'harness').with_suffix('').parts)}" not in STAGES:
        return
    assert not ours(path) & STAGES
    engines = {name for name in ours(path) if name.startswith("harness.engines.")}
    light = ("harness.engines.protocols", "harness.engines.call_cache")
    assert not {name for name in engines if not name.startswith(light)}, "only builders.py builds engines"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_heavy_libraries_are_imported_where_they_are_used(path: Path) -> None:
    below = str(path.relative_to(ROOT / "harness"))
    heavy = {name.split(".")[0] for name in imports(path, top_level=True)} & HEAVY
    assert bool(heavy) == (below in HEAVY_FILES), heavy


@pytest.mark.parametrize(
    "module",
    [
        *(
            f"harness.{module}"
            for module in ("api", "cli", "verbs", "config.run", "eval.stage", "augment.stage", "train.stage")
        ),
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
