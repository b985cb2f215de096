"""Lines that stay, and one that is drawn again."""

import io
import sys

from clinical_pretrain.console import Console, fit, wrapped


class Terminal(io.StringIO):
    """A terminal; at each flush it calls `interrupt`, as a signal that arrives then calls its handler."""

    def __init__(self, interrupt=lambda: None):
        super().__init__()
        self.interrupt = interrupt

    def isatty(self):
        return True

    def flush(self):
        interrupt, self.interrupt = self.interrupt, lambda: None
        interrupt()


def test_progress_fits_its_line():
    parts = ["step 100,000/200,000", "loss 1.5342", "lr 2.99e-05", "1,234,567 tokens/s (41% MFU)", "100:01:55 left"]
    assert fit(parts, 200) == " · ".join(parts)
    assert fit(parts, 79) == "step 100,000/200,000 · loss 1.5342 · lr 2.99e-05 · 100:01:55 left"
    assert fit(parts, 40) == "step 100,000/200,000 · 100:01:55 left"
    assert fit(parts, 25) == "step 100,000/200,000" and fit(parts, 8) == "step 100" and fit(parts, 0) == ""


def test_a_terminal_wraps_lines_at_words(monkeypatch):
    line = f"ok       ports     a port of this machine, 127.0.0.1:44937, can be reached from {'x' * 50}, too"
    assert wrapped(line, 19) == line  # in a log
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "60")
    rows = wrapped(line, 19).split("\n")
    assert [row.strip() for row in rows] == [
        "ok       ports     a port of this machine, 127.0.0.1:44937,", "can be reached from", f"{'x' * 50},", "too"
    ]  # fmt: skip
    assert all(row.startswith(19 * " " + row[19]) and row[19] != " " for row in rows[1:])
    monkeypatch.setenv("COLUMNS", str(len(line)))
    assert wrapped(line, 19) == line


def test_what_a_signals_handler_says_stands_in_a_line_of_its_own(monkeypatch):
    """At any moment of drawing, also between the line and what is known of it."""
    for log in (True, False):
        console = Console()
        monkeypatch.setattr(sys, "stdout", terminal := Terminal(lambda: console.say("saving")))  # noqa: B023
        console.progress(["step 1"], log=log)
        console.say("stopped")
        drawn = [line.rpartition("\r\x1b[K")[2] for line in terminal.getvalue().split("\n")]
        assert drawn == (["step 1"] if log else []) + ["saving", "stopped", ""]


def test_a_log_gets_a_line_after_a_silence(monkeypatch, capsys):
    console, clock = Console(), iter([1e6, 1e6 + 59, 1e6 + 61, 1e6 + 70, 1e6 + 121, 1e6 + 131])
    monkeypatch.setattr("clinical_pretrain.console.time.monotonic", lambda: next(clock))
    for line in ("first", "early", "late"):
        console.progress([line], log=None)
    console.say("said")
    for line in ("early", "late"):
        console.progress([line], log=None)
    assert capsys.readouterr().out.split() == ["first", "late", "said", "late"]
