"""Signals that ask a run to stop, and what they do before the watchdog takes them over."""

from __future__ import annotations

import os
import signal
from types import FrameType

from clinical_pretrain.console import console
from clinical_pretrain.exit_codes import INTERRUPTED

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Somebody wants the run to end: from Ctrl-C, a closed terminal, `scancel` and a launcher that is gone. SLURM's
preemption sends SIGTERM, too; slurm/end.sh tells it from scancel, and requeues the job."""
STOP_SIGNALS: tuple[signal.Signals, ...] = (*ENDING, signal.SIGUSR1, signal.SIGUSR2)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN and "TORCHELASTIC_RUN_ID" not in os.environ:
    # By nohup: a closed terminal isn't to end the run. (Torchrun ends then all the same, and tells its ranks by SIGHUP,
    # which lie in sessions of their own.)
    STOP_SIGNALS = tuple(number for number in STOP_SIGNALS if number != signal.SIGHUP)
held: list[int] = []
"""Numbers of stop signals that came before there was a watchdog."""


def hold_signals() -> None:
    """From now on, keep SIGUSR1 and SIGUSR2 for the Watchdog: a time limit may come near while a run is still set up.
    On Ctrl-C leave at once, without a traceback from amid an import."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, frame: held.append(number))
    signal.signal(signal.SIGINT, leave)


def leave(number: int, frame: FrameType | None) -> None:
    if os.environ.get("RANK", "0") == "0":
        console.say("interrupted before the first step; nothing to save", error=True)
    os._exit(INTERRUPTED)


def leave_after_all(number: int, frame: FrameType | None) -> None:
    """The run has ended, and said so."""
    os._exit(INTERRUPTED)


def leave_to_thread(number: int, frame: FrameType | None) -> None:
    """The thread hears of signals by the wake-up pipe, also while the main thread is in a collective."""
