"""The learning-rate schedule, of the whole run and of the stages that `--extend` adds."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

from clinical_pretrain.config.optim import OptimConfig


def learning_rate(step: int, config: OptimConfig, max_steps: int) -> float:
    """Learning rate of an optimizer step.

    Rises linearly to its peak at step `warmup_steps`, then falls towards its final fraction, which it would reach one
    step after the last: neither the first nor the last step has a learning rate of 0.

    Args:
        step: counted from 1.
        config: peak, warm-up and schedule.
        max_steps: number of steps in all.
    """
    peak, final = config.learning_rate, config.final_learning_rate_fraction
    if step < config.warmup_steps:
        return peak * step / config.warmup_steps
    start = max_steps - config.decay_steps if config.schedule == "wsd" else config.warmup_steps
    progress = max(0, step - start) / (max_steps + 1 - start)
    falling = 0.5 * (1 + math.cos(math.pi * progress)) if config.schedule == "cosine" else 1 - progress
    return peak * (final + (1 - final) * falling)


@dataclass(frozen=True)
class Stage:
    """Steps of a run that have a schedule of their own: those up to max_steps, and what each `--extend` has added."""

    number: int
    """From 1."""
    first_step: int
    last_step: int

    @property
    def steps(self) -> int:
        """Number of its steps."""
        return self.last_step - self.first_step + 1

    def schedule(self, config: OptimConfig) -> OptimConfig:
        """The settings of its schedule: the run's own, with a shorter warm-up in later stages."""
        if self.number == 1:
            return config
        warmup = min(config.warmup_steps, math.ceil(self.steps / 10))
        return replace(config, warmup_steps=warmup, decay_steps=min(config.decay_steps, self.steps - warmup))

    def learning_rate(self, step: int, config: OptimConfig) -> float:
        """Learning rate of one of its steps, counted from the start of the run."""
        return learning_rate(step - self.first_step + 1, self.schedule(config), self.steps)


def stage_of(step: int, ends: Sequence[int]) -> Stage:
    """The stage that a step belongs to.

    Args:
        step: counted from 1.
        ends: the last step of each stage.
    """
    index = bisect_left(ends, step)
    return Stage(index + 1, (ends[index - 1] if index else 0) + 1, ends[index])
