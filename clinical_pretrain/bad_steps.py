"""Steps without a finite loss: when a run must go back to a checkpoint, and which samples it then steps over."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from clinical_pretrain.config import BadStepsConfig
from clinical_pretrain.distributed import Report

WINDOW = 100
"""Losses that a spike is measured by."""
FEWEST = 20
"""Before so many, nothing is a spike."""


class BadStepsError(Exception):
    """A run can't go on as it is."""

    def __init__(self, first: int, last: int, reason: str) -> None:
        super().__init__(f"steps {first:,} to {last:,}: {reason}" if last > first else f"step {first:,}: {reason}")
        self.first, self.last = first, last


@dataclass(frozen=True)
class Jump:
    """Samples that a run steps over."""

    at: int
    """Sequences consumed before."""
    count: int
    """Sequences stepped over."""


class Judge:
    """Looks at every step, in order. All ranks see the same reports, and come to the same verdict.

    Args:
        config: what is too bad.
        fp16: whether gradients may overflow, until DeepSpeed has found the loss scale.
        recent_losses: of the steps before.
        in_a_row: the last so many steps were bad.
        skipped: so many were in all.
    """

    def __init__(
        self,
        config: BadStepsConfig,
        fp16: bool,
        recent_losses: Iterable[float] = (),
        in_a_row: int = 0,
        skipped: int = 0,
    ) -> None:
        self.config, self.fp16, self.in_a_row, self.skipped = config, fp16, in_a_row, skipped
        self.recent_losses = deque(recent_losses, maxlen=WINDOW)

    def look(self, report: Report) -> None:
        """Take one more step into account.

        Raises:
            BadStepsError: it was one too many.
        """
        if not math.isfinite(report.loss) or (math.isinf(report.gradient_norm) and not self.fp16):
            self.in_a_row += 1
            self.skipped += 1
            if self.in_a_row >= self.config.max_in_a_row:
                first = report.step - self.in_a_row + 1
                raise BadStepsError(first, report.step, f"the loss is {report.loss}, or its gradient infinite")
            return
        self.in_a_row = 0
        factor, losses = self.config.spike_factor, self.recent_losses
        if factor and len(losses) >= FEWEST and report.loss > factor * (median := statistics.median(losses)):
            raise BadStepsError(
                report.step, report.step, f"the loss jumped to {report.loss:.2f} from about {median:.2f}"
            )
        losses.append(report.loss)


def sample_index(consumed: int, jumps: Iterable[Jump]) -> int:
    """Where in the order of the data a run stands that has consumed so many samples."""
    return consumed + sum(jump.count for jump in jumps if jump.at <= consumed)


def skip_bad_updates(optimizer: torch.optim.Optimizer) -> None:
    """Make a plain fused AdamW pass over steps whose gradient is no finite number, as ZeRO's optimizers do, without
    asking the GPU for it."""

    def look(optimizer: Any, args: Any, kwargs: Any) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        optimizer.found_inf = (~torch.isfinite(norm)).float()

    optimizer.register_step_pre_hook(look)
