"""Progress in a log, text that cannot drive the terminal, and Ctrl-C."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness import terminal
from harness.terminal import Stop, Terminal, printable

ROOT = Path(__file__).parent.parent


def test_what_a_model_wrote_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().say("[bold]hi[/bold] \x1b[31mred\x07 [link=x]y[/link]")
    assert capsys.readouterr().out == "[bold]hi[/bold]  [31mred  [link=x]y[/link]\n"
    assert printable("a\tb\nc\x00") == "a b\nc "


def test_progress_in_a_log_is_a_line_with_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "LINE_SECONDS", 0.0)
    with Terminal().progress("train", 3) as advance:
        advance(1, "loss 2.0")
        advance(3, "loss 1.0")
    first, last = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"train: 1/3 loss 2\.0, about \d+ s left", first)
    assert last == "train: 3/3 loss 1.0"


def test_the_first_ctrl_c_is_a_flag_and_the_second_ends_it() -> None:
    def second() -> None:
        with Stop().listening() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop()
            assert not stop.overdue
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        second()


def test_work_that_hangs_is_ended_after_its_time() -> None:
    code = (
        "import signal, time\nfrom harness import terminal\n"
        "terminal.DRAIN_SECONDS, terminal.GRACE_SECONDS = 0.3, 0.1\n"
        "try:\n    with terminal.Stop().listening():\n"
        "        signal.raise_signal(signal.SIGINT)\n        time.sleep(60)\n"
        "except KeyboardInterrupt:\n    print('ended')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=30, check=True
    )
    assert done.stdout.strip() == "ended"
