"""Progress: a bar on a terminal, or a line now and then in a log file."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tokenizer_tools.wording import counted


def say(line: str) -> None:
    """Print a line to stderr; stdout is for results."""
    print(line, file=sys.stderr, flush=True)


class Progress:
    """Count notes and show it. Use as a context manager.

    Args:
        what: name of the work.
        total: number of notes, if known.
    """

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what, self.total, self.count = what, total, 0
        self.started = self.printed = time.monotonic()
        self.bar = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                SpinnerColumn,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )
            from rich.progress import Progress as Bar

            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("notes"),
            )
            self.bar = Bar(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True))
            self.task = self.bar.add_task(what, total=total)

    def __enter__(self) -> Progress:
        if self.bar is not None:
            self.bar.start()
        return self

    def advance(self, count: int) -> None:
        """Report that `count` more notes are done."""
        self.count += count
        if self.bar is not None:
            self.bar.advance(self.task, count)
        elif time.monotonic() - self.printed > 30:
            self._print()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()
        elif kind is None:
            self._print()

    def _print(self) -> None:
        self.printed = time.monotonic()
        total = max(self.count, self.total or 0)
        of = f"{self.count:,} of " if self.count < total else ""
        say(f"{self.what}: {of}{counted(total, 'note')}, {self.printed - self.started:.0f} s")
