"""What a person sees while work goes on: lines, progress with time left, and stopping on Ctrl-C."""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from harness.core.text import printable

KNOWN_SHARE = 0.01  # of the work, before it is said how long the rest takes
DRAIN_SECONDS = 30.0  # what is in flight may take this long to finish after the first Ctrl-C
GRACE_SECONDS = 5.0  # more than that, to write what there is
LINE_SECONDS = 10.0  # between progress lines where there is no terminal
LIVE_SECONDS = 0.5  # between changes of a line that stays in its place
RATE_SECONDS = 300.0  # the time left goes by the last of these: one step of a training may take a minute

BRACKETS = (("[", "]"), ("⟦", "⟧"))  # around marked text where there are no colours
MARK = "bold green"

Marked = tuple[str, bool]  # a text, and whether it is marked
Advance = Callable[[float, str], None]  # (done so far, a note such as "312 tokens/s")


class Terminal:
    """Plain lines to stdout. Progress: a bar on a terminal, a line now and then in a log, one line in a notebook."""

    def __init__(self, line_seconds: float = LINE_SECONDS, silent: bool = False) -> None:
        """With `silent` nothing is printed but warnings: one of several processes speaks for all."""
        self._line_seconds = line_seconds
        self._notebook = in_notebook()
        # a notebook says that it is a terminal with colours, and rich would write HTML there: plain text is wanted
        no_terminal = False if self._notebook else None
        plain: dict[str, Any] = {"highlight": False, "quiet": silent, "force_terminal": no_terminal}
        self._out = Console(soft_wrap=True, force_jupyter=False, **plain)
        self._err = Console(stderr=True, force_jupyter=False, **plain)

    def say(self, text: str = "") -> None:
        """Print text as it is. Nothing in it is read as markup or as a terminal command."""
        # a closed pipe (rich answers with SystemExit), a terminal that is gone: work goes on, its exit code stands
        with suppress(SystemExit, OSError):
            self._out.print(printable(text), markup=False, emoji=False)

    def say_marked(self, parts: Sequence[Marked], brackets: tuple[str, str] = BRACKETS[0]) -> None:
        """Print texts as one, the marked ones in colour, or in brackets where the output shows none."""
        if not self.colours:
            first, last = brackets
            self.say("".join(f"{first}{text}{last}" if marked else text for text, marked in parts))
            return
        with suppress(SystemExit, OSError):
            self._out.print(Text.assemble(*((printable(text), MARK if marked else "") for text, marked in parts)))

    @property
    def colours(self) -> bool:
        """Whether the output shows colours: a terminal that has them, and no NO_COLOR in the environment."""
        return self._out.color_system is not None and not self._out.no_color

    @property
    def width(self) -> int | None:
        """Characters of a line. None where the output is no terminal, so that no line needs to fit."""
        return self._out.width if self._out.file.isatty() else None

    def warn(self, text: str) -> None:
        """Print to stderr what went wrong without changing the outcome."""
        tell(f"harness: warning: {text}")

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Advance]:
        """Show how far work is. The block calls what it is given with (done, note)."""
        if self._err.quiet:
            yield lambda done, note: None
        elif self._err.is_terminal:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            bar = Progress(*columns, console=self._err, speed_estimate_period=RATE_SECONDS)
            words = Text(no_wrap=True, overflow="ellipsis")  # in a line of its own, so that it takes no room of the bar
            task = bar.add_task(printable(title), total=total)

            def advance(done: float, note: str) -> None:
                bar.update(task, completed=done)
                words.plain = printable(note)

            with Live(Group(bar, words), console=self._err, transient=True):
                yield advance
        elif self._notebook:
            yield _lines(title, total, min(self._line_seconds, LIVE_SECONDS), _notebook_line())
        else:
            yield _lines(title, total, self._line_seconds, tell)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    return Console().is_jupyter


def _lines(title: str, total: int, every: float, write: Callable[[str], None]) -> Advance:
    """Writes how far work is, with the time left: once in so many seconds, and at the end."""
    started = last = time.monotonic()

    def advance(done: float, note: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < every and done < total:
            return
        last = now
        seconds = (now - started) / done * (total - done) if done else float("nan")
        ending = f", about {seconds:.0f} s left" if KNOWN_SHARE * total <= done < total and done else ""
        write(f"{title}: {int(done)}/{total} {note}{ending}")

    return advance


def _notebook_line() -> Callable[[str], None]:
    """What replaces a line below the cell by another one. The notebook keeps the last of them."""
    from IPython.display import display

    shown: list[Any] = []

    def write(text: str) -> None:
        content = {"text/plain": printable(text)}
        if shown:
            shown[0].update(content, raw=True)
        else:
            shown.append(display(content, raw=True, display_id=True))

    return write


def tell(text: str) -> None:
    """A line to stderr, printable: names and words of files, models and servers are in it.

    After a hangup the terminal is gone: then nothing more is written to it.
    """
    try:
        print(printable(text), file=sys.stderr, flush=True)
    except OSError:
        leave_terminal()


def leave_terminal() -> None:
    """Send what is still written to a terminal to nowhere: a write that fails would end the work."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):
                os.dup2(nowhere, descriptor)
    os.close(nowhere)


def heard_signals() -> list[signal.Signals]:
    """Ctrl-C, a polite kill, and the end of the session unless it is to be ignored (nohup)."""
    signals = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    return [s for s in signals if s != signal.SIGHUP or signal.getsignal(s) != signal.SIG_IGN]


def clean_up_on_signals() -> None:
    """Make a kill and a hangup end the process as Ctrl-C does: what it holds is given back, its children end."""
    for number in heard_signals():
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


class Stop:
    """Turns the first Ctrl-C into a flag that work looks at. The second one ends the process at once."""

    def __init__(self) -> None:
        self._since: float | None = None

    def __call__(self) -> bool:
        """Whether the user asked to stop."""
        return self._since is not None

    def request(self) -> None:
        """Stop as the first Ctrl-C does."""
        self._since = time.monotonic()

    @property
    def overdue(self) -> bool:
        """Whether what was in flight has had its time to finish."""
        return self._since is not None and time.monotonic() - self._since > DRAIN_SECONDS

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        """Catch Ctrl-C, a polite kill and the end of the session inside the block.

        Only the main thread can: in another one nothing is caught, and `request` is the way to stop.
        """

        timers: list[threading.Timer] = []

        def handle(number: int, frame: FrameType | None) -> None:
            if self._since is not None:
                tell("\nStopped at once; the same command goes on from what is stored.")
                raise KeyboardInterrupt
            self.request()
            # should what is in flight hang (an endpoint that never answers), this is the second Ctrl-C
            last_call = threading.Timer(DRAIN_SECONDS + GRACE_SECONDS, os.kill, (os.getpid(), signal.SIGINT))
            last_call.daemon = True
            last_call.start()
            timers.append(last_call)
            tell("\nStopping: finishing what is in flight (again Ctrl-C stops at once).")

        main = threading.current_thread() is threading.main_thread()
        before = {s: signal.signal(s, handle) for s in heard_signals()} if main else {}
        try:
            yield self
        finally:
            for timer in timers:
                timer.cancel()
            for number, handler in before.items():
                signal.signal(number, handler)
