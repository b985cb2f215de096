"""Printing that never ends the work, and one progress line that a terminal redraws in place."""

from __future__ import annotations

import errno
import io
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS)
REDRAW_SECONDS = 0.1
LOG_SECONDS = 60
"""Silence after which a log gets a line of what else only a terminal shows."""
ERASE = "\r\x1b[K"
"""Back to the beginning of a terminal's line, and clears it."""


class LenientStream:
    """A standard stream that drops what it can't write: the terminal is closed, the reader is gone, the disk is full.

    Args:
        stream: the stream itself.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, if that is possible."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        """Flush, if that is possible."""
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Redirect the descriptor to /dev/null, for what is in the buffer (a failing flush at exit would change the
        exit code) and for C code. Not on a full disk, which may have room again."""
        if error.errno not in FULL_DISK:
            with suppress(OSError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def make_output_lenient() -> None:
    """From now on, no output that can't be written ends this process or changes its exit code."""
    for descriptor in range(3):  # one that was closed before the start would be taken by the next file
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")  # what the terminal's encoding lacks
        if not isinstance(stream, LenientStream):
            setattr(sys, name, LenientStream(stream or Path(os.devnull).open("w")))  # noqa: SIM115


class Console:
    """Lines that stay, and one progress line that a terminal redraws in place."""

    def __init__(self) -> None:
        self._open_line = ""
        """What ends the line that is drawn, if there is one: a line break, or its erasure. Set before drawing, as a
        signal's handler may print right after it."""
        self._drawn_at, self._logged_at = 0.0, time.monotonic()

    def say(self, line: str, error: bool = False) -> None:
        """Print a line that stays."""
        print(self._open_line, end="", flush=True)
        self._open_line, self._logged_at = "", time.monotonic()
        print(line, file=sys.stderr if error else sys.stdout, flush=True)

    def progress(self, parts: Sequence[str], log: bool | None = True) -> None:
        """Say how far the work is.

        Args:
            parts: most important: the first and the last. A terminal leaves out what doesn't fit into its width.
            log: whether this is worth a line of a log, and stays on a terminal; None: in a log, after a silence.
        """
        now = time.monotonic()
        if not sys.stdout.isatty():
            if log or (log is None and now - self._logged_at >= LOG_SECONDS):
                self._logged_at = now
                print(" · ".join(parts), flush=True)
        elif log or now - self._drawn_at >= REDRAW_SECONDS:
            self._open_line, self._drawn_at = "\n" if log else ERASE, now
            print(f"{ERASE}{fit(parts, shutil.get_terminal_size().columns - 1)}", end="", flush=True)


def fit(parts: Sequence[str], width: int) -> str:
    """Join parts to a line of at most `width` characters, dropping the last but one until it fits."""
    kept = list(parts)
    while len(line := " · ".join(kept)) > width and len(kept) > 1:
        kept.pop(-2 if len(kept) > 2 else -1)
    return line[: max(0, width)]


def wrapped(line: str, indent: int) -> str:
    """A line in the terminal's width, indented from its second row on. In a log or a pipe it stays one row."""
    width = shutil.get_terminal_size().columns
    if not sys.stdout.isatty() or len(line) <= width or width < 2 * indent:
        return line
    return textwrap.fill(line, width, subsequent_indent=indent * " ", break_long_words=False, break_on_hyphens=False)


console = Console()
