"""Settings of what keeps a run going: checkpoints, roll-back, watchdog."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tokenizer_tools.ranges import MANY, Range


@dataclass(frozen=True)
class CheckpointConfig:
    """What is kept to go on from. The last step is always saved."""

    every_steps: Annotated[int, Range(0, MANY)] = 1000
    """Optimizer steps between two; 0: only at the end of a stage, and for keep_best."""
    keep_latest: Annotated[int, Range(0, MANY)] = 3
    """The newest so many stay; 0: all."""
    keep_every_steps: Annotated[int, Range(0, MANY)] = 0
    """Of the older ones, those at multiples of so many steps stay, too; 0: none."""
    accept_changes: bool = False
    """Go on although data or settings are others than those the run began with. Never another model or precision."""
    max_consecutive_failures: Annotated[int, Range(0, MANY)] = 3
    """So many saves in a row may fail, say on a full disk, before the run ends; the earlier checkpoints stay whole."""
    keep_best: bool = True
    """Save when a validation's loss is the lowest so far, and keep that checkpoint, for `export --step best`."""


@dataclass(frozen=True)
class BadStepsConfig:
    """What happens to steps whose loss or gradient is no finite number: all ranks skip the update together. Where that
    doesn't end, or weights or a validation loss aren't finite, the run goes back to the last checkpoint, and past the
    samples of those steps."""

    max_consecutive_skips: Annotated[int, Range(1, MANY)] = 10
    """So many skipped updates in a row, and the run goes back. (Of fp16, only those whose loss itself isn't finite.)"""
    max_consecutive_overflows: Annotated[int, Range(1, MANY)] = 25
    """fp16: roll back after this many consecutive updates skipped because the gradients overflowed though the loss is
    finite. Each halves the loss scale, from 65,536 to 1 in 17 steps: raise it with fp16.initial_scale_power."""
    spike_factor: Annotated[float, Range(0, MANY)] = 0.0
    """A loss above so many times the median of the last 100 makes the run go back at once. 0: never."""
    max_rollbacks: Annotated[int, Range(0, MANY)] = 3
    """So often a run goes back; then it ends."""


@dataclass(frozen=True)
class WatchdogConfig:
    """When a run that stands still is ended, so that it can be started again."""

    heartbeat_timeout_seconds: Annotated[int, Range(1, 1_000_000)] = 60
    """A rank that isn't heard of for so long is lost: its node, or the process was stopped."""
    step_timeout_seconds: Annotated[int, Range(0, 1_000_000)] = 1800
    """A step that takes longer hangs: every rank's stack goes to the run folder, and the run ends. 0: none does."""
