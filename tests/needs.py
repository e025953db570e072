"""What a test needs of the machine: it skips where that is missing, and fails where HARNESS_REQUIRE names it."""

from __future__ import annotations

import importlib.util
import os
from typing import NoReturn

import pytest


def required(name: str) -> bool:
    """Whether HARNESS_REQUIRE names this part, so that its absence is a failure."""
    return name in os.environ.get("HARNESS_REQUIRE", "").split(",")


def missing(name: str, why: str) -> NoReturn:
    """End a test that lacks a part: skip it, or fail where the part is required."""
    if required(name):
        pytest.fail(f"{why} (HARNESS_REQUIRE names {name})")
    pytest.skip(why)


# vLLM is only looked for: importing it changes process-wide state, so that tests run it in processes of their own.
needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None and not required("vllm"),
    reason="vllm is not installed (HARNESS_REQUIRE=vllm makes this a failure)",
)
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None and not required("ray"),
    reason="Ray is not installed: locks/cluster.txt (HARNESS_REQUIRE=ray makes this a failure)",
)
