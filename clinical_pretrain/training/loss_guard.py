"""The rule for rolling back: what a bad step is, and how many of them are too many. rollback.py does the rest."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable

from clinical_pretrain.checkpoint.state import RunState
from clinical_pretrain.config.recovery import BadStepsConfig
from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.engine.step_reports import StepReport

WINDOW = 100
"""Number of recent losses that a spike is measured against."""
FEWEST = 20
"""With fewer losses, nothing is a spike."""


class BadStepsError(Exception):
    """A run can't continue as it is."""

    def __init__(self, first: int, last: int, reason: str) -> None:
        super().__init__(f"steps {first:,} to {last:,}: {reason}" if last > first else f"step {first:,}: {reason}")
        self.first, self.last, self.reason = first, last, reason


class LossGuard:
    """Observes every step, in order. All ranks see the same reports, and reach the same verdict.

    Args:
        config: the limits.
        fp16: whether gradients may overflow until DeepSpeed has found the loss scale.
        recent_losses: of the steps before.
        consecutive_bad_steps: steps since the last update with a NaN or infinite loss, or, unless in fp16, gradient.
        consecutive_overflows: in fp16, steps since the last update with a finite loss and an infinite gradient.
        skipped_updates: total number of skipped updates.
    """

    def __init__(
        self,
        config: BadStepsConfig,
        fp16: bool,
        recent_losses: Iterable[float] = (),
        consecutive_bad_steps: int = 0,
        consecutive_overflows: int = 0,
        skipped_updates: int = 0,
    ) -> None:
        self.config, self.fp16 = config, fp16
        self.consecutive_bad_steps, self.consecutive_overflows = consecutive_bad_steps, consecutive_overflows
        self.skipped_updates = skipped_updates
        self.recent_losses = deque(recent_losses, maxlen=WINDOW)

    @property
    def consecutive_skips(self) -> int:
        """Number of steps since the last update, whatever the reason."""
        return self.consecutive_bad_steps + self.consecutive_overflows

    def observe(self, report: StepReport) -> None:
        """Judge one more step.

        Raises:
            BadStepsError: a limit is reached.
        """
        has_loss, overflows = math.isfinite(report.loss), math.isinf(report.gradient_norm)
        if has_loss and not overflows:  # the weights were updated
            self.consecutive_bad_steps = self.consecutive_overflows = 0
        else:
            self.skipped_updates += 1
            if has_loss and self.fp16:
                self.consecutive_overflows += 1
            else:
                self.consecutive_bad_steps += 1
        first = report.step - self.consecutive_skips + 1
        if self.consecutive_bad_steps >= self.config.max_consecutive_skips:
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

    @classmethod
    def restored(cls, config: RunConfig, state: RunState | None) -> LossGuard:
        """The guard as it was when the checkpoint was saved."""
        is_fp16 = config.precision == "fp16"
        if state is None:
            return cls(config.bad_steps, is_fp16)
        return cls(
            config.bad_steps,
            is_fp16,
            state.recent_losses,
            state.consecutive_bad_steps,
            state.consecutive_overflows,
            state.skipped_updates,
        )
