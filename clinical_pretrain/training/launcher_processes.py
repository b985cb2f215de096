"""Find the launchers that started this process, in /proc."""

from __future__ import annotations

import os
from pathlib import Path

NAMES = ("deepspeed", "torchrun", "torch.distributed", "clinical-pretrain run", "clinical_pretrain run")
"""What the command line of a launcher contains."""


def launchers() -> list[tuple[int, str]]:
    """Processes that started this one and that it shouldn't outlive, with their start times: torchrun, or both of the
    deepspeed launcher's. (SIGTERM ends the outer one alone, and its ranks would run on.)"""
    found, process = [], os.getppid()
    for _ in range(2):
        try:
            command = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            break
        if not any(name in command for name in NAMES):
            break
        found.append((process, _start_time(process)))
        process = _parent(process)
    return found


def is_alive(process: tuple[int, str]) -> bool:
    return _start_time(process[0]) == process[1]


def _status(process: int) -> list[str]:
    """/proc/PID/stat from the state on."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return ["X"] * 20


def _start_time(process: int) -> str:
    """Empty for a process that has ended."""
    status = _status(process)
    return "" if status[0] in "XZ" else status[19]


def _parent(process: int) -> int:
    status = _status(process)
    return int(status[1]) if status[0] != "X" else 0
