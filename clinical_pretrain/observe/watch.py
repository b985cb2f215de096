"""Watch runs in a terminal: a picture that is redrawn in place until the runs are finished or the user leaves.

A thread reads the files, as a network disk or SLURM may take seconds to answer; the screen and the keys don't wait.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from rich.console import Console, Group
from rich.live import Live

from clinical_pretrain.observe.status import runs_in
from clinical_pretrain.observe.watch_view import fit, screen, snapshot
from clinical_pretrain.observe.watched_run import RunView, WatchedRun
from clinical_pretrain.run_folder.paths import RunFolder

READ_SECONDS, DRAW_SECONDS = 2.0, 1.0
"""How often the files are read, and the screen is drawn."""
LEAVE = ("q", "Q", "\x03", "")
"""Keys that end it: q and Ctrl-C; empty where the terminal is gone."""
SUSPEND = "\x1a"
"""Ctrl-Z."""


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Run folders in the order of the paths, those in folders of runs included.

    Raises:
        UserError: a path leads to no run.
    """
    runs = [[path] if RunFolder(path).lock_file.exists() else runs_in([path]) for path in paths]  # locked: it starts
    return list(dict.fromkeys(run for found in runs for run in found))


def watch(runs: Sequence[Path]) -> list[RunView]:
    """Show runs until all are finished, or the user leaves by q or Ctrl-C; the newest picture then stays.

    Runs that are all finished, and an output that can't be redrawn (not a terminal, TERM=dumb), get one picture.

    Returns:
        What was seen last, one per run.
    """
    console = Console(highlight=False, soft_wrap=True)
    reader = Reader([WatchedRun(run) for run in runs])
    if sys.stdout.isatty() and not console.is_dumb_terminal and not reader.all_finished:
        with _signals():
            reader.start()
            _follow(reader, console)
    # Rich takes 80 columns for a dumb terminal, and COLUMNS=0 as it is.
    if console.is_dumb_terminal or not console.width:
        console.width = shutil.get_terminal_size().columns
    for line in snapshot(reader.views, console.width):
        console.print(fit(line, console.width, console.encoding))
    return reader.views


class Reader(threading.Thread):
    """Reads the files of runs, at once and, when it is started, again and again.

    Args:
        watched: the runs.
    """

    def __init__(self, watched: Sequence[WatchedRun]) -> None:
        super().__init__(daemon=True)
        self._watched = watched
        self.views = [run.refresh() for run in watched]
        self.error: Exception | None = None
        """Why it has ended."""

    @property
    def all_finished(self) -> bool:
        """Whether nothing more will change."""
        return all(view.is_finished for view in self.views)

    def run(self) -> None:
        """Read until all runs are finished."""
        try:
            while not self.all_finished:
                time.sleep(READ_SECONDS)
                self.views = [run.refresh() for run in self._watched]
        except Exception as error:
            self.error = error


def _follow(reader: Reader, console: Console) -> None:
    """Redraw until the runs are finished, or the user leaves."""
    key: str | None = None
    with suppress(KeyboardInterrupt):
        while key not in LEAVE and not reader.all_finished:
            with keys() as read_key, _screen(console) as live:
                key = None
                while key not in (*LEAVE, SUSPEND) and not reader.all_finished:
                    if reader.error:
                        raise reader.error
                    lines = screen(reader.views, console.width, console.height)
                    live.update(Group(*(fit(line, console.width, console.encoding) for line in lines)), refresh=True)
                    key = read_key(DRAW_SECONDS)
            if key == SUSPEND:
                os.kill(os.getpid(), signal.SIGTSTP)


def _screen(console: Console) -> Live:
    return Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)


@contextmanager
def keys() -> Iterator[Callable[[float], str | None]]:
    """Gives a function that waits for a key, at most so many seconds: the key; None without one; empty where the
    terminal is gone. Meanwhile keys aren't echoed, and Ctrl-C and Ctrl-Z are keys."""
    if not sys.stdin.isatty():
        yield lambda seconds: time.sleep(seconds)
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def read_key(seconds: float) -> str | None:
        ready = select.select([descriptor], [], [], seconds)[0]
        return os.read(descriptor, 1).decode(errors="replace") if ready else None

    try:
        tty.setcbreak(descriptor)
        attributes = termios.tcgetattr(descriptor)
        for name in (termios.VINTR, termios.VSUSP):
            attributes[6][name] = b"\0"
        termios.tcsetattr(descriptor, termios.TCSANOW, attributes)
        yield read_key
    finally:
        termios.tcsetattr(descriptor, termios.TCSAFLUSH, before)


@contextmanager
def _signals() -> Iterator[None]:
    """Let SIGINT and SIGTERM leave a clean terminal: they raise an exception, wherever the main thread is."""
    own = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: _exit}
    before = {number: signal.signal(number, handler) for number, handler in own.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
