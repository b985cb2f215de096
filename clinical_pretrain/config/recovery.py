"""Settings of what lets a run survive faults: checkpoints, roll-back, the watchdog's timeouts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from clinical_pretrain.config.fields import Resume
from tokenizer_tools.ranges import MANY, Range


@dataclass(frozen=True)
class CheckpointConfig:
    """When to save a checkpoint, and which ones to keep. The last step is always saved."""

    every_steps: Annotated[int, Range(0, MANY), Resume.FREE] = 1000
    """Optimizer steps between checkpoints; 0: only at the end of a stage and for keep_best."""
    keep_latest: Annotated[int, Range(0, MANY), Resume.FREE] = 3
    """Number of newest checkpoints to keep; 0 keeps all."""
    keep_every_steps: Annotated[int, Range(0, MANY), Resume.FREE] = 0
    """Also keep older checkpoints at multiples of this many optimizer steps; 0: none."""
    accept_changes: Annotated[bool, Resume.FREE] = False
    """Resume although the data or settings differ from those that the run began with."""
    max_consecutive_failures: Annotated[int, Range(0, MANY), Resume.FREE] = 3
    """Number of consecutive saves that may fail, for example on a full disk, before the run ends. Earlier checkpoints
    stay intact."""
    keep_best: Annotated[bool, Resume.FREE] = True
    """Save a checkpoint when the validation loss is the lowest so far, and keep it, for `export --step best`."""


@dataclass(frozen=True)
class BadStepsConfig:
    """What to do about a NaN or infinite loss or gradient. All ranks skip the update together. If that goes on, or if
    weights or a validation loss become NaN or infinite, the run rolls back to the last checkpoint and skips the samples
    of those steps."""

    max_consecutive_skips: Annotated[int, Range(1, MANY), Resume.FREE] = 10
    """Roll back after this many consecutive skipped updates. In fp16, only those with a NaN or infinite loss count."""
    max_consecutive_overflows: Annotated[int, Range(1, MANY), Resume.FREE] = 25
    """fp16: roll back after this many consecutive updates skipped because the gradients overflowed though the loss is
    finite. Each halves the loss scale, from 65,536 to 1 in 17 steps: raise it with fp16.initial_scale_power."""
    spike_factor: Annotated[float, Range(0, MANY), Resume.FREE] = 0.0
    """Roll back at once when the loss is above this factor times the median of the last 100 losses; 0: never."""
    max_rollbacks: Annotated[int, Range(0, MANY), Resume.FREE] = 3
    """Number of roll-backs after which the next one ends the run."""


@dataclass(frozen=True)
class WatchdogConfig:
    """When to end a run that hangs, so that it can be restarted."""

    heartbeat_timeout_seconds: Annotated[int, Range(1, 1_000_000), Resume.FREE] = 60
    """End the run when a rank sends no heartbeat for this long: its node failed, or its process was stopped."""
    step_timeout_seconds: Annotated[int, Range(0, 1_000_000), Resume.FREE] = 1800
    """End the run when an optimizer step takes longer, and write every rank's stack to the run folder; 0: never."""


def spike_factor_fault(bad_steps: BadStepsConfig) -> str | None:
    """A factor of 1 or less would roll back at an ordinary loss."""
    if 0 < bad_steps.spike_factor <= 1:
        return f"bad_steps.spike_factor is {bad_steps.spike_factor}, must be above 1, or 0 for none"
    return None
