"""A thread in each rank that sees what a training loop can't: signals while it hangs, other ranks' deaths, a launcher
that is gone, and steps that don't end.

Ranks are joined to rank 0 by TCP, and each sends a line every second. A process that dies closes its connection, so
that the others know at once; a lost node or a stopped rank falls silent. Those who remain then end, with one message,
rather than wait in a collective until its timeout.
"""

from __future__ import annotations

import faulthandler
import json
import math
import os
import secrets
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from clinical_pretrain.console import console
from clinical_pretrain.exit_codes import INTERRUPTED, LOST, USER_ERROR
from clinical_pretrain.training.launcher_processes import is_alive, launchers
from clinical_pretrain.training.signals import ENDING, STOP_SIGNALS, held, leave, leave_after_all, leave_to_thread
from tokenizer_tools.errors import UserError

if TYPE_CHECKING:  # the import takes seconds, and signals are to be held before
    from clinical_pretrain.distributed import Ranks
    from clinical_pretrain.run_folder.paths import RunFolder

BEAT_SECONDS = 1.0
GRACE_SECONDS = 3.0
"""For this long after another rank's death, this one may still end by itself, with its own exit code."""
BYE = "bye"
"""The last word of a rank that ends as it should."""


class Watchdog:
    """Of one rank; a context manager around all that it does together with the others.

    Args:
        ranks: all of them; every rank makes one.
        folder: the run's, for `stop.json`, and `stacks/` where steps hang.
        heartbeat_timeout_seconds: a rank that isn't heard of for so long is lost.
        step_timeout_seconds: a step that takes longer hangs; 0: none does.
    """

    def __init__(
        self, ranks: Ranks, folder: RunFolder, heartbeat_timeout_seconds: float, step_timeout_seconds: float
    ) -> None:
        self.ranks, self.folder = ranks, folder
        self.heartbeat_timeout_seconds, self.step_timeout_seconds = heartbeat_timeout_seconds, step_timeout_seconds
        self.signal: int | None = None
        """The first stop signal that came, or the first that ends the run for good."""
        self.asked_by = ""
        """Who asked for it, for the messages."""
        self.step = 0
        """Steps done, for the messages."""
        self.folder_is_ours = False
        """Set once the run folder is known to be this run's: before, nothing is written to it."""
        self.saving = False
        """A save may take its time, also after a stop signal."""
        self.longest_step = 0.0
        """Seconds of the longest step of training."""
        self._last, self._signal_at, self._interrupted_at = time.monotonic(), 0.0, 0.0
        self._lost, self._told, self._first_is_gone, self._beat_at = threading.Event(), "", False, 0.0
        self._looked = time.monotonic()
        self._launchers = launchers()
        self.has_launcher = bool(self._launchers)
        self._selector = selectors.DefaultSelector()
        self._heard: dict[socket.socket, float] = {}
        self._names: dict[socket.socket, str] = {}
        self._ended: set[socket.socket] = set()
        self._closing = threading.Event()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._handlers = {number: signal.signal(number, leave_to_thread) for number in STOP_SIGNALS}
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        os.write(self._wake_write, bytes(held))
        held.clear()
        self._connect()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tell the others that this rank has ended, and how."""
        if kind is not None and not issubclass(kind, SystemExit):
            # An error that isn't the user's may come of another rank's death, which is about to be heard of.
            if not issubclass(kind, UserError) and self.ranks.world_size > 1 and self._lost.wait(GRACE_SECONDS / 2):
                self._give_up()
            cause = f"{error}" if issubclass(kind, UserError) else f"{kind.__name__}: {error}"
            self._send_all({"died": self._own_name(), "cause": cause.split("\n")[0]})
            if self.ranks.is_first or not issubclass(kind, UserError):
                self._record(cause.split("\n")[0], USER_ERROR if issubclass(kind, UserError) else 1)
        self._send_all({BYE: True})
        self._closing.set()
        os.write(self._wake_write, b"\0")
        self._thread.join(timeout=2 * GRACE_SECONDS)
        signal.set_wakeup_fd(-1)
        for number, handler in self._handlers.items():
            # A run that has been asked to stop mustn't lose its exit code to the same question put twice.
            handler = leave_after_all if handler is leave else handler
            signal.signal(number, signal.SIG_IGN if kind is SystemExit else handler)
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def step_completed(self, step: int | None = None) -> None:
        """Something has come to its end: a step, or a validation's batch."""
        now = time.monotonic()
        if step is not None:
            self.longest_step, self.step = max(self.longest_step, now - self._last), step
        self._last = now

    def reset_timer(self) -> None:
        """What took time was no step: set-up, or a save."""
        self._last = time.monotonic()

    # Everything below runs in the thread, but for _connect, which goes before it.

    def _connect(self) -> None:
        if self.ranks.world_size == 1:
            return
        token = secrets.token_hex(16)
        listener = None
        if self.ranks.is_first:
            listener = socket.create_server(("", 0), backlog=self.ranks.world_size)
        own = (listener.getsockname()[1] if listener else 0, token, self._own_name())
        port, token, first = self.ranks.broadcast(own)
        if listener is None:
            hub = socket.create_connection((os.environ.get("MASTER_ADDR", "127.0.0.1"), port), timeout=60)
            hub.sendall(_line({"token": token, "name": self._own_name()}))
            self._add(hub, first)
        else:
            listener.settimeout(60)
            while len(self._heard) < self.ranks.world_size - 1:
                peer, _ = listener.accept()
                peer.settimeout(5)
                try:
                    hello = json.loads(_read_line(peer))
                    if secrets.compare_digest(hello["token"], token):
                        self._add(peer, hello["name"])
                        continue
                except (OSError, ValueError, KeyError, TypeError):
                    pass  # not one of ours
                peer.close()
            listener.close()
        self.ranks.barrier()

    def _add(self, peer: socket.socket, name: str) -> None:
        peer.setblocking(False)
        self._heard[peer], self._names[peer] = time.monotonic(), name
        self._selector.register(peer, selectors.EVENT_READ)

    def _own_name(self) -> str:
        return f"rank {self.ranks.rank} on {socket.gethostname()} (pid {os.getpid()})"

    def _run(self) -> None:
        try:
            self._watch()
        except Exception as error:
            self._say(f"the watchdog has failed, and the run continues without it: {type(error).__name__}: {error}")

    def _watch(self) -> None:
        buffers: dict[socket.socket, bytes] = {}
        while not self._closing.is_set():
            for key, _ in self._selector.select(BEAT_SECONDS):
                if key.fileobj == self._wake_read:
                    self._take_signals()
                else:
                    self._hear(key.fileobj, buffers)  # type: ignore[arg-type]
            if time.monotonic() - self._beat_at >= BEAT_SECONDS:
                self._beat_at = time.monotonic()
                self._send_all({"beat": self.step})
                self._look_around()
        self._part()

    def _part(self) -> None:
        """Hang up so that all has been heard: a connection closed with something unread in it loses what was sent."""
        until = time.monotonic() + GRACE_SECONDS
        for peer in self._heard:
            try:
                peer.shutdown(socket.SHUT_WR)
                peer.settimeout(max(0.1, until - time.monotonic()))
                while peer.recv(4096):
                    pass
            except OSError:
                pass
            peer.close()

    def _take_signals(self) -> None:
        for number in os.read(self._wake_read, 4096):
            if number not in STOP_SIGNALS:
                continue
            now = time.monotonic()
            if self.signal is None:
                self._ask(number, signal.Signals(number).name)
            elif number in ENDING and self.signal not in ENDING:
                self.signal, self.asked_by = number, signal.Signals(number).name
            elif number == signal.SIGINT and self._interrupted_at and now - self._interrupted_at >= 1:
                if self.ranks.is_first:
                    self._say("interrupted twice: ending at once, without saving")
                self._record(f"interrupted twice, not saved, at step {self.step}", INTERRUPTED)
                os._exit(INTERRUPTED)
            if number == signal.SIGINT:
                self._interrupted_at = self._interrupted_at or now

    def _ask(self, number: int, by: str) -> None:
        self.signal, self.asked_by, self._signal_at = number, by, time.monotonic()
        if self.ranks.is_first:
            hint = "; if a traceback appears, it comes from the launcher" if self.has_launcher else ""
            self._say(f"{by}: saving at the end of this step{hint if number == signal.SIGINT else ''}")

    def _hear(self, peer: socket.socket, buffers: dict[socket.socket, bytes]) -> None:
        try:
            data = peer.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(peer)
            if peer not in self._ended:
                self._lose(self._names[peer], "its process ended without a word, as by SIGKILL")
            return
        self._heard[peer] = time.monotonic()
        *lines, buffers[peer] = (buffers.get(peer, b"") + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if BYE in message:
                self._ended.add(peer)
            elif "died" in message:
                self._lose(message["died"], message["cause"], bool(message.get("hangs")))

    def _lose(self, name: str, cause: str, hangs: bool = False) -> None:
        """A rank is gone: pass it on, and end if the main thread doesn't by itself."""
        if self._lost.is_set():
            return
        self._told = cause if hangs else f"{name} is gone: {cause}"
        self._first_is_gone = name.startswith("rank 0 ") and not hangs
        self._lost.set()
        self._send_all({"died": name, "cause": cause, "hangs": hangs})
        if hangs:
            _briefly(self._dump_stacks)
        if not self._closing.wait(GRACE_SECONDS):
            self._give_up()

    def _give_up(self) -> None:
        """End this rank at once; the lowest one that is left says why."""
        # Where rank 0 is gone, nobody knows who is left: rank 1 says so, and the first rank of each other node.
        if (self.ranks.rank == 1 or self.ranks.local_rank == 0) if self._first_is_gone else self.ranks.is_first:
            self._say(f"error: {self._told}; all ranks end; the same command resumes from the last checkpoint")
            self._record(self._told, LOST)
        os._exit(LOST)

    def _look_around(self) -> None:
        now = time.monotonic()
        if now - self._looked > 5 * BEAT_SECONDS:  # this process itself stood still: it can't judge the others
            self._last = now
            self._heard = dict.fromkeys(self._heard, now)
        self._looked = now
        for peer, heard in self._heard.items():
            if peer not in self._ended and now - heard > self.heartbeat_timeout_seconds:
                self._lose(self._names[peer], f"not heard of for {self.heartbeat_timeout_seconds:.0f} s")
        hangs = self.step_timeout_seconds and now - self._last > self.step_timeout_seconds
        if self.signal is not None and not self.saving:
            # Until there has been a step, nobody knows how long one takes: it may have to be compiled.
            longest = 3 * self.longest_step or self.step_timeout_seconds or math.inf
            patience = max(self.heartbeat_timeout_seconds, longest)
            hangs = hangs or now - max(self._last, self._signal_at) > patience
        if hangs and not self._lost.is_set():
            asked = f", though asked to stop by {self.asked_by}" if self.signal else ""
            silent = [self._names[peer] for peer, heard in self._heard.items() if now - heard > 3 * BEAT_SECONDS]
            still = f"; not heard of meanwhile: {', '.join(silent)}" if silent else ""
            cause = f"no end of a step for {now - self._last:,.0f} s{asked}{still}; see {self.folder.stacks}"
            self._lose(self._own_name(), cause, hangs=True)
        if self.signal is None and any(not is_alive(process) for process in self._launchers):
            self._ask(signal.SIGTERM, "the launcher is gone")
            self._launchers = []

    def _dump_stacks(self) -> None:
        stacks = self.folder.stacks
        with suppress(OSError):
            stacks.mkdir(exist_ok=True)
            with (stacks / f"rank-{self.ranks.rank}.txt").open("w") as stream:
                faulthandler.dump_traceback(stream, all_threads=True)

    def _send_all(self, message: dict[str, Any]) -> None:
        for peer in list(self._heard):
            with suppress(OSError):  # gone, or about to be heard of as gone
                peer.sendall(_line(message))

    def _record(self, reason: str, code: int) -> None:
        from clinical_pretrain.run_folder.starts import record_stop

        if self.folder_is_ours:
            _briefly(lambda: record_stop(self.folder, reason, code, self.step))

    def _say(self, line: str) -> None:
        console.say(line, error=True)


def _briefly(write: Callable[[], None]) -> None:
    """Do something with the disk, but don't wait long for it: it may be the disk that hangs."""
    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(timeout=5)


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _read_line(peer: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n") and len(data) < 4096:
        piece = peer.recv(1)
        if not piece:
            break
        data += piece
    return data
