"""The plugin in a pytest of its own: every limit of a run is a test that passes, fails or is skipped."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

from tests.process import environment
from tests.stored import Stored, rate

MODULE = "harness.check.pytest_plugin"


def run_pytest(stored: Stored, *words: str) -> subprocess.CompletedProcess[str]:
    """pytest in the project's folder, with the plugin loaded once."""
    known = any(entry.value == MODULE for entry in entry_points(group="pytest11"))
    loaded = [] if known else ["-p", MODULE]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", *loaded, *words],
        capture_output=True, text=True, check=False, cwd=stored.root, env=environment(),
    )  # fmt: skip


def test_every_limit_is_a_test_beside_the_ones_of_files(gate: Stored) -> None:
    gate.suite(limits={"accuracy": {"margin": 0.05, "min": 0.5}})
    (gate.root / "test_own.py").write_text("def test_own():\n    assert True\n")
    done = run_pytest(gate, "-v", "--harness-run", "runs/shop.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
    assert "runs/shop.yaml::shop::accuracy[margin 0.05] PASSED" in done.stdout
    assert "runs/shop.yaml::shop::accuracy[min 0.5] PASSED" in done.stdout
    done = run_pytest(gate, "-v", "--harness-run", "runs/shop.yaml", "-k", "min")
    assert "1 passed, 2 deselected" in done.stdout


def test_without_the_option_nothing_is_added(gate: Stored) -> None:
    done = run_pytest(gate)
    assert done.returncode == 5  # pytest's "no tests"
    assert "no tests ran" in done.stdout


def test_a_regression_fails_and_says_what_the_check_says(gate: Stored) -> None:
    gate.store(rate(0.4, salt=1), key="other")
    done = run_pytest(gate, "--harness-run", "runs/shop.yaml")
    assert done.returncode == 1
    assert "1 failed" in done.stdout
    assert "regressed: tiny.filtered.12.s0, shop accuracy margin 0.05: -0." in done.stdout
    assert "(these weights); p " in done.stdout
    assert "Traceback" not in done.stdout
    assert "pytest_plugin.py" not in done.stdout


def test_a_doubt_fails_or_is_skipped(gate: Stored) -> None:
    gate.suite(limits={"accuracy": {"min": 0.78}})
    done = run_pytest(gate, "--harness-run", "runs/shop.yaml")
    assert done.returncode == 1
    assert "inconclusive: tiny.filtered.12.s0" in done.stdout
    done = run_pytest(gate, "--harness-run", "runs/shop.yaml", "--harness-unsure", "skip", "-rs")
    assert done.returncode == 0
    assert "1 skipped" in done.stdout
    assert "inconclusive: tiny.filtered.12.s0" in done.stdout


def test_failed_items_fail(gate: Stored) -> None:
    gate.store(rate(0.8), failed=2, key="other")
    done = run_pytest(gate, "--harness-run", "runs/shop.yaml", "--harness-unsure", "skip")
    assert done.returncode == 1
    assert "failed: tiny.filtered.12.s0" in done.stdout


def test_a_wrong_file_is_a_usage_error_of_pytest(gate: Stored) -> None:
    gate.baseline.write_text("{")
    done = run_pytest(gate, "--harness-run", "runs/shop.yaml")
    assert done.returncode == 4
    assert "ERROR:" in done.stderr
    assert "a truncated or edited baseline" in done.stderr
    assert run_pytest(gate, "--harness-run", "runs/none.yaml").returncode == 4


def test_common_reaches_the_check(gate: Stored) -> None:
    gate.items(350)
    gate.suite(version=2, limits={"accuracy": {"margin": 0.05}})
    gate.store(rate(0.8), key="other")
    assert run_pytest(gate, "--harness-run", "runs/shop.yaml").returncode == 4
    done = run_pytest(gate, "--harness-run", "runs/shop.yaml", "--harness-common")
    assert done.returncode == 0, done.stdout + done.stderr
