"""What this machine can do for the harness, and what to change."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path


def examine(root: Path) -> str:
    """Lines of `ok` / `--` findings. A `--` line says what to do."""
    findings = [
        _python(),
        _platform(),
        _machine(),
        _disk(root),
        *(_package(name, use) for name, use in PACKAGES.items()),
        _gpu(),
        _compiler(),
        _benchmarks(),
        _hub(),
        _project(root),
    ]
    return "\n".join(f"{'ok' if good else '--'}  {text}" for good, text in findings)


PACKAGES = {
    "torch": "students are trained and scored",
    "transformers": "models are loaded",
    "peft": "LoRA",
    "vllm": "the teacher is served",
    "lm_eval": "public benchmarks",
}


def _python() -> tuple[bool, str]:
    good = sys.version_info >= (3, 11)
    return good, f"Python {platform.python_version()}" + ("" if good else ": 3.11 or newer is needed")


def _platform() -> tuple[bool, str]:
    name = f"{platform.system()} {platform.machine()}"
    if name == "Linux x86_64":
        return True, name
    return False, f"{name}: no vLLM here; the transformers engine does the teacher's work"


def _machine() -> tuple[bool, str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError):
        return True, f"{cores} cores"
    text = f"{cores} cores, {memory:.0f} GiB of memory"
    return (True, text) if memory >= 8 else (False, f"{text}: the default run peaks near 8 GiB")


def _disk(root: Path) -> tuple[bool, str]:
    free = shutil.disk_usage(root).free / 2**30
    return (True, f"{free:.0f} GiB free") if free >= 5 else (False, f"{free:.1f} GiB free: 5 are advisable")


def _package(name: str, use: str) -> tuple[bool, str]:
    if find_spec(name) is None:
        return False, f"{name} is not installed ({use}): `make setup` installs it"
    for distribution in (name, f"{name}-cpu", name.replace("_", "-")):
        try:
            return True, f"{distribution} {metadata.version(distribution)} ({use})"
        except metadata.PackageNotFoundError:
            continue
    return True, f"{name} ({use})"


def _gpu() -> tuple[bool, str]:
    if find_spec("torch") is None:
        return False, "GPU: unknown without torch"
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return True, f"GPU: {', '.join(names)}; runs/gpu.yaml is made for it, make verify-gpu tries it"
    return False, "no GPU: runs/helpdesk.yaml fits a CPU; runs/gpu.yaml does not"


def _compiler() -> tuple[bool, str]:
    name = next((c for c in ("cc", "gcc", "clang") if shutil.which(c)), None)
    return (True, f"C compiler: {name}") if name else (False, "no C compiler: vLLM compiles small parts with it")


def _benchmarks() -> tuple[bool, str]:
    folder = os.environ.get("HARNESS_BENCHMARKS")
    if not folder:
        return (
            False,
            "HARNESS_BENCHMARKS is not set: public benchmarks need the hub, or are reported as not run",
        )
    count = len(list(Path(folder).glob("*.jsonl")))
    return bool(count), f"HARNESS_BENCHMARKS: {count} files of benchmark rows"


def _hub() -> tuple[bool, str]:
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return False, "HF_HUB_OFFLINE=1: models and benchmarks come from this disk only"
    return True, "the model hub is used when a run names a hub id (HF_TOKEN " + (
        "is set)" if os.environ.get("HF_TOKEN") else "is not set: gated models will be refused)"
    )


def _project(root: Path) -> tuple[bool, str]:
    runs = sorted(p.stem for p in (root / "runs").glob("*.yaml"))
    if not runs:
        return False, "no runs/*.yaml here: start in the folder that holds runs/"
    return True, f"runs: {', '.join(runs)}"
