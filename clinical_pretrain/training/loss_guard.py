"""Skipped updates: when a run must go back to a checkpoint, and which samples it then steps over."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from clinical_pretrain.config.recovery import BadStepsConfig
from clinical_pretrain.distributed import Report

WINDOW = 100
"""Losses that a spike is measured by."""
FEWEST = 20
"""Before so many, nothing is a spike."""


class BadStepsError(Exception):
    """A run can't go on as it is."""

    def __init__(self, first: int, last: int, reason: str) -> None:
        super().__init__(f"steps {first:,} to {last:,}: {reason}" if last > first else f"step {first:,}: {reason}")
        self.first, self.last, self.reason = first, last, reason


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
        in_a_row: bad steps since the last update: the loss is no finite number, or, but for fp16, its gradient isn't.
        consecutive_overflows: steps since the last update whose loss is finite, but not its gradient in fp16.
        skipped: updates skipped in all.
    """

    def __init__(
        self,
        config: BadStepsConfig,
        fp16: bool,
        recent_losses: Iterable[float] = (),
        in_a_row: int = 0,
        consecutive_overflows: int = 0,
        skipped: int = 0,
    ) -> None:
        self.config, self.fp16 = config, fp16
        self.in_a_row, self.consecutive_overflows, self.skipped = in_a_row, consecutive_overflows, skipped
        self.recent_losses = deque(recent_losses, maxlen=WINDOW)

    @property
    def consecutive_skips(self) -> int:
        """Updates skipped since the last one that was made."""
        return self.in_a_row + self.consecutive_overflows

    def look(self, report: Report) -> None:
        """Take one more step into account.

        Raises:
            BadStepsError: it was one too many.
        """
        has_loss, overflows = math.isfinite(report.loss), math.isinf(report.gradient_norm)
        if has_loss and not overflows:
            self.in_a_row = self.consecutive_overflows = 0
        else:
            self.skipped += 1
            if has_loss and self.fp16:
                self.consecutive_overflows += 1
            else:
                self.in_a_row += 1
        first = report.step - self.consecutive_skips + 1
        if self.in_a_row >= self.config.max_consecutive_skips:
            raise BadStepsError(first, report.step, f"the loss is {report.loss}, or its gradient infinite")
        if self.consecutive_overflows >= self.config.max_consecutive_overflows:
            reason = f"the gradients overflow in fp16, at a loss scale of {report.loss_scale:g} still"
            raise BadStepsError(first, report.step, reason)
        if not has_loss:
            return
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
