"""Where a rank's time goes: data, forward pass, backward pass, optimizer, communication, validation, saving."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

PHASES = ("data", "forward", "backward", "optimizer", "communication", "validation", "saving")
ON_DEVICE = ("forward", "backward", "optimizer", "communication")
"""Phases that a GPU works through while the host is already further on."""


class Phases:
    """Adds up the time of phases.

    A CPU's phases may contain others: time counts for the innermost one, so that shares add up to 1. A GPU's are timed
    by events in its streams, for which nobody waits: communication is also part of the backward pass or the optimizer,
    and may overlap with them.

    Args:
        device: of the rank.
    """

    def __init__(self, device: torch.device) -> None:
        self._uses_events = device.type == "cuda"
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._open: list[str] = []
        self._since = self._taken = time.perf_counter()
        self._events: list[tuple[str, Any, Any]] = []
        self._shares: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """The time within belongs to a phase."""
        if self._uses_events and phase in ON_DEVICE:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            yield
            end.record()
            self._events.append((phase, begin, end))
            return
        self._count()
        self._open.append(phase)
        try:
            yield
        finally:
            self._count()
            self._open.pop()

    def take_shares(self) -> tuple[dict[str, float], float]:
        """Shares of the time since the last call, 0 to 1, by phase, and of what belongs to none (other); and how many
        seconds that time has. Of a GPU's phases, those that it has completed. Where no forward pass was since then, as
        two steps are reported at once: the same shares as then, of 0 seconds."""
        self._count()
        while self._events and self._events[0][2].query():
            phase, begin, end = self._events.pop(0)
            self._seconds[phase] += begin.elapsed_time(end) / 1e3
        if self._shares and not self._seconds["forward"]:
            return self._shares, 0.0
        elapsed, self._taken = self._since - self._taken, self._since
        shares = {phase: round(self._seconds[phase] / elapsed, 4) for phase in PHASES}
        of_steps = sum(shares.values()) - (shares["communication"] if self._uses_events else 0)
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._shares = {**shares, "other": round(max(0.0, 1 - of_steps), 4)}
        return self._shares, elapsed

    def _count(self) -> None:
        """Add the time since the last change to the innermost phase."""
        now = time.perf_counter()
        if self._open:
            self._seconds[self._open[-1]] += now - self._since
        self._since = now
