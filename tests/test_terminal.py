"""Progress in a log, text that cannot drive the terminal, and Ctrl-C."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.terminal import Stop, Terminal, tell
from harness.core.text import printable
from tests.process import harness
from tests.project import write_project

ROOT = Path(__file__).parent.parent


def test_what_a_model_wrote_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().say("[bold]hi[/bold] \x1b[31mred\x07 [link=x]y[/link]")
    assert capsys.readouterr().out == "[bold]hi[/bold]  [31mred  [link=x]y[/link]\n"
    assert printable("a\tb\nc\x00") == "a b\nc "


def test_a_terminal_has_a_width_and_a_file_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "72")
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w") as screen, redirect_stdout(screen):
        assert Terminal().width == 72
    os.close(reader)
    with (tmp_path / "log.txt").open("w") as log, redirect_stdout(log):
        assert Terminal().width is None


DRIVES = ("\x1b[2J", "\x1b]0;owned\x07", "\x9b31m", "\u202eevil", "\u2066x", "a\rb", "\x7f", "\u2028", "\u200b", "\x08")


@given(st.text() | st.lists(st.sampled_from(DRIVES)).map("".join))
def test_nothing_but_printable_characters_and_line_ends_is_left(text: str) -> None:
    shown = printable(text)
    assert len(shown) == len(text)
    assert all(c == "\n" or c.isprintable() for c in shown)
    assert all(a == b for a, b in zip(text, shown, strict=True) if a == "\n" or a.isprintable())


@pytest.mark.parametrize("text", DRIVES)
def test_every_way_to_a_person_is_clean(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().say(text)
    tell(text)
    with Terminal().progress(text, 1) as advance:
        advance(1, text)
    written = capsys.readouterr()
    for line in (written.out + written.err).splitlines():
        assert line.isprintable()


def test_on_a_terminal_foreign_words_are_no_markup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Terminal().progress("[red]title[/red]", 1) as advance:
        advance(1, "[/] [bold]note\x1b]0;owned\x07")
    written = capsys.readouterr().err
    assert "[red]title[/red]" in written
    assert "[/] [bold]note" in written
    assert "\x1b]0" not in written


def test_an_error_with_a_strangers_words_drives_no_terminal(tmp_path: Path) -> None:
    path = write_project(tmp_path, "nobody")
    with path.open("a") as file:
        file.write('"\\e[2J\\e]0;evil\\a\\u202e": 1\n')
    done = harness(tmp_path, "augment", "shop", "--dry-run")
    assert done.returncode == 2
    assert "unknown key" in done.stderr
    assert all(line.isprintable() for line in (done.stdout + done.stderr).splitlines())


def test_on_a_narrow_terminal_a_long_note_takes_no_room_of_the_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    with Terminal().progress("train steps", 1520) as advance:
        advance(400, "cells: 12 done, 8 in work, 24 waiting; loss 0.52, " + "words " * 20)
    written = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert " 400/1520 " in written
    assert "\ncells: 12 done, 8 in work, 24 waiting; loss 0.52" in written.replace("\r", "")


def test_progress_in_a_log_is_a_line_with_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    with Terminal(line_seconds=0.0).progress("train", 3) as advance:
        advance(0.5, "half of the first")
        advance(1, "loss 2.0")
        advance(3, "loss 1.0")
    half, first, last = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"train: 0/3 half of the first, about \d+ s left", half)
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


def test_nothing_ends_the_work_when_nobody_reads_what_went_wrong() -> None:
    code = "from harness.core.terminal import Terminal, tell\nTerminal().warn('x')\ntell('y')\nprint('worked on')\n"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=writer, text=True, cwd=ROOT, timeout=30
    )
    os.close(writer)
    assert done.stdout == "worked on\n"


def test_work_that_hangs_is_ended_after_its_time() -> None:
    code = (
        "import signal, time\nfrom harness.core import terminal\n"
        "terminal.DRAIN_SECONDS, terminal.GRACE_SECONDS = 0.3, 0.1\n"
        "try:\n    with terminal.Stop().listening():\n"
        "        signal.raise_signal(signal.SIGINT)\n        time.sleep(60)\n"
        "except KeyboardInterrupt:\n    print('ended')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=30, check=True
    )
    assert done.stdout.strip() == "ended"
