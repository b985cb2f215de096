"""What the ranks tell each other at the end of each step."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from clinical_pretrain.distributed import Ranks
from clinical_pretrain.engine.deepspeed_internals import gradient_norm, loss_scale


@dataclass(frozen=True)
class StepReport:
    """A step's figures, the same on all ranks."""

    step: int
    loss: float
    """Mean over the ranks."""
    gradient_norm: float
    """Before clipping; infinite where the update was skipped, NaN where DeepSpeed doesn't say."""
    loss_scale: float = 1.0
    """After the step; 1.0 without fp16."""
    at: float = field(compare=False, default=0.0)
    """time.monotonic() at the end of the step."""


class StepReports:
    """What the ranks exchange at the end of each step, over the CPU group: flags of this step, such as whether to stop,
    and the figures of the step before, which the GPU has computed by then, so that reading them waits for nothing.

    Args:
        ranks: all of them; every rank makes the same calls.
        engine: DeepSpeed's, for the gradient norm.
    """

    def __init__(self, ranks: Ranks, engine: Any) -> None:
        self._ranks, self._engine = ranks, engine
        self._pending: tuple[StepReport, torch.Tensor, Any] | None = None
        self._loss_scale = loss_scale(self._engine)
        """Of the coming step's gradients; a step may change it."""

    def exchange(self, step: int, loss: torch.Tensor, *flags: bool) -> tuple[StepReport | None, list[bool]]:
        """Hand in a step's loss, a scalar on the device, and flags. Returns the report of the step before, None at the
        first step, and for each flag whether some rank has set it."""
        norm = gradient_norm(self._engine, self._loss_scale, like=loss)
        self._loss_scale = loss_scale(self._engine)
        figures = torch.empty(2, dtype=torch.float64, pin_memory=loss.is_cuda)
        for place, figure in zip(figures, (loss, norm), strict=True):
            place.copy_(figure, non_blocking=True)
        event = None
        if loss.is_cuda:
            event = torch.cuda.Event()
            event.record()
        report = StepReport(step, math.nan, math.nan, self._loss_scale, time.monotonic())
        before, self._pending = self._pending, (report, figures, event)
        return self._read(before, flags)

    def flush(self) -> StepReport | None:
        """The report of the last step, unless it has been returned; waits for the GPU."""
        before, self._pending = self._pending, None
        return None if before is None else self._read(before)[0]

    def _read(
        self, waiting: tuple[StepReport, torch.Tensor, Any] | None, flags: tuple[bool, ...] = ()
    ) -> tuple[StepReport | None, list[bool]]:
        report, figures, event = waiting or (None, torch.zeros(2), None)
        if event is not None:
            event.synchronize()
        loss, norm = figures.tolist()
        total, *counts = self._ranks.sum(torch.tensor([loss, *map(float, flags)], dtype=torch.float64)).tolist()
        if report is not None:
            report = replace(report, loss=total / self._ranks.world_size, gradient_norm=norm)
        return report, [count > 0 for count in counts]
