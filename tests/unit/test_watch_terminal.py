"""`watch` in a real terminal of 80 by 24: what it shows, its keys, and what it leaves behind."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time

import pyte
import pytest
from conftest import REPOSITORY
from run_folders import metrics_line, start_entry, train_line, validation_line, write_run

ENTER, LEAVE, CURSOR = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25h"
LINES = [*(train_line(step, start=0) for step in range(10, 500, 10)), validation_line(400)]


class Terminal:
    """A terminal with `watch` in it. Its screen is wider than `watch` is told, and so shows lines that are too wide."""

    def __init__(self, *words, size=(80, 24), **environment):
        self.master, self.inner = pty.openpty()
        self.resize(*size)
        self.modes = termios.tcgetattr(self.inner)
        self.screen = pyte.Screen(200, 50)
        self.stream, self.raw = pyte.Stream(self.screen), ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "clinical_pretrain", "watch", *map(str, words)],
            stdin=self.inner, stdout=self.inner, stderr=self.inner, process_group=0, cwd=REPOSITORY,
            env={name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
            | {"TERM": "xterm-256color"} | environment,
        )  # fmt: skip

    def resize(self, width, height):
        termios.tcsetwinsize(self.inner, (height, width))
        self.width = width

    def read(self, seconds):
        if select.select([self.master], [], [], seconds)[0]:
            piece = os.read(self.master, 65536).decode(errors="replace")
            self.raw += piece
            self.stream.feed(piece)

    def wait(self, is_shown):
        """Until this is so of the screen's lines."""
        deadline = time.monotonic() + 60
        while not is_shown("\n".join(self.screen.display)):
            assert time.monotonic() < deadline, self.raw[-3000:]
            self.read(0.2)
        assert max(len(line.rstrip()) for line in self.screen.display) <= self.width

    def end(self):
        """Its exit code, when it has ended by itself; the terminal is as it was."""
        while self.process.poll() is None:
            self.read(0.1)
        self.read(0.1)
        assert termios.tcgetattr(self.inner) == self.modes
        if ENTER in self.raw:
            assert self.raw.rindex(LEAVE) > self.raw.rindex(ENTER) and CURSOR in self.raw[self.raw.rindex(ENTER) :]
        return self.process.returncode

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.inner)


@pytest.fixture
def terminal():
    opened = []

    def terminal(*words, **how):
        opened.append(Terminal(*words, **how))
        return opened[-1]

    yield terminal
    for each in opened:
        each.close()


@pytest.fixture
def run(tmp_path):
    """A run that another process of this machine, `sleep`, seems to train."""
    with subprocess.Popen(["sleep", "300"]) as process:
        here = {"host": os.uname().nodename, "process": process.pid, "timestamp": time.time()}
        write_run(tmp_path / "run", LINES, [start_entry(**here)])
        yield tmp_path / "run"
        process.kill()


@pytest.mark.parametrize(("key", "code"), [("q", 0), ("\x03", 0), (signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_a_run_is_followed_until_the_user_leaves(terminal, run, key, code):
    opened = terminal(run)
    opened.wait(lambda screen: "q or Ctrl-C leaves" in screen)
    shown = "\n".join(opened.screen.display)
    for text in ("  running", "24.5%  490/2,000", "time left  0:25:10", "loss       8.5100 █", "validation 8.7000 ▁"):
        assert text in shown, shown
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write(metrics_line(train_line(500)) + metrics_line(train_line(510))[:40])
    opened.wait(lambda screen: "25.0%  500/2,000" in screen)
    os.write(opened.master, key.encode()) if isinstance(key, str) else opened.process.send_signal(key)
    assert opened.end() == code and "Traceback" not in opened.raw
    if code == 0:  # the newest picture stays
        assert "25.0%  500/2,000" in opened.raw[opened.raw.rindex(LEAVE) :]


def test_the_screen_follows_the_terminals_size_and_ctrl_z(terminal, run):
    opened = terminal(run, run.parent)
    opened.wait(lambda screen: "q or Ctrl-C leaves" in screen)
    opened.screen.reset()
    opened.resize(44, 12)
    opened.wait(lambda screen: "490/2,000" in screen and "q or Ctrl-C leaves; the run cont…" in screen)
    os.write(opened.master, b"\x1a")
    while os.waitid(os.P_PID, opened.process.pid, os.WSTOPPED | os.WNOHANG) is None and opened.process.poll() is None:
        opened.read(0.1)
    opened.wait(lambda screen: LEAVE in opened.raw)  # it may stop between the read and the question
    assert termios.tcgetattr(opened.inner) == opened.modes and opened.raw.rindex(LEAVE) > opened.raw.rindex(ENTER)
    opened.process.send_signal(signal.SIGCONT)
    opened.wait(lambda screen: opened.raw.count(ENTER) == 2)
    os.write(opened.master, b"q")
    assert opened.end() == 0


def test_it_leaves_when_the_run_is_finished(terminal, run):
    opened = terminal(run)
    opened.wait(lambda screen: "q or Ctrl-C leaves" in screen)
    write_run(run, [*LINES, train_line(2000)], [start_entry()], stop=("finished", 0))
    assert opened.end() == 0 and "finished" in opened.raw[opened.raw.rindex(LEAVE) :]


@pytest.mark.parametrize(("environment", "is_finished"), [({}, True), ({"TERM": "dumb"}, False)])
def test_one_picture_of_a_finished_run_and_on_a_dumb_terminal(terminal, run, environment, is_finished):
    if is_finished:
        write_run(run, LINES, [start_entry()], stop=("finished", 0))
    opened = terminal(run, **environment)
    assert opened.end() == 0
    shown = "\n".join(opened.screen.display)
    assert "490/2,000" in shown and ENTER not in opened.raw and (is_finished or "\x1b" not in opened.raw)


def test_no_colour_is_no_colour(terminal, run):
    opened = terminal(run, NO_COLOR="1")
    opened.wait(lambda screen: "490/2,000" in screen)
    os.write(opened.master, b"q")
    assert opened.end() == 0
    assert not re.search(r"\x1b\[(\d+;)*(3\d|4\d|9\d)(;\d+)*m", opened.raw)


def test_without_a_terminal_one_picture_is_printed(run, tmp_path):
    call = [sys.executable, "-m", "clinical_pretrain", "watch", str(run)]
    done = subprocess.run(call, capture_output=True, text=True, cwd=REPOSITORY, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stderr) == (0, "") and "\x1b" not in done.stdout
    assert "490/2,000" in done.stdout and max(map(len, done.stdout.splitlines())) <= 80
