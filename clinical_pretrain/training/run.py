"""The parts of a run, as every step needs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.console import console
from clinical_pretrain.distributed import Ranks
from clinical_pretrain.engine.schedule import Stage, stage_of
from clinical_pretrain.engine.step_reports import StepReports
from clinical_pretrain.run_folder.paths import RunFolder
from clinical_pretrain.training.preflight import RunSpec

if TYPE_CHECKING:
    from clinical_pretrain.training.batches import Batches
    from clinical_pretrain.training.checkpointer import Checkpointer
    from clinical_pretrain.training.loss_guard import LossGuard
    from clinical_pretrain.training.metrics_writer import MetricsWriter
    from clinical_pretrain.training.phases import Phases
    from clinical_pretrain.training.validation import Validation
    from clinical_pretrain.training.watchdog import Watchdog

T = TypeVar("T")


@dataclass
class Progress:
    """How far a run is."""

    stages: list[int]
    """The last step of each stage."""
    batch_size: int
    """Samples per step."""
    step: int
    """Steps done."""
    samples_before: int = 0
    """Samples consumed at step 0 if all steps had the present batch size; not 0 after a change of the batch size."""

    @property
    def last_step(self) -> int:
        """Where the run ends, unless early."""
        return self.stages[-1]

    @property
    def is_at_stage_end(self) -> bool:
        """Whether the step just done is a stage's last one."""
        return self.step in self.stages

    def stage(self, step: int) -> Stage:
        """The stage that a step belongs to."""
        return stage_of(step, self.stages)

    def samples_at(self, step: int) -> int:
        """Samples consumed after a step."""
        return self.samples_before + step * self.batch_size

    @property
    def samples_consumed(self) -> int:
        """Samples consumed so far."""
        return self.samples_at(self.step)

    def move_to(self, step: int, samples_consumed: int) -> None:
        """Continue from a checkpoint, which may have been written with another batch size."""
        self.step, self.samples_before = step, samples_consumed - step * self.batch_size


@dataclass
class Run:
    """Everything that a step needs."""

    spec: RunSpec
    ranks: Ranks
    engine: Any
    """DeepSpeed's, around the model."""
    progress: Progress
    batches: Batches
    validation: Validation
    reports: StepReports
    guard: LossGuard
    checkpointer: Checkpointer
    watchdog: Watchdog
    phases: Phases
    metrics: MetricsWriter | None
    """On rank 0."""

    @property
    def folder(self) -> RunFolder:
        """The run folder."""
        return self.spec.folder

    @property
    def config(self) -> RunConfig:
        """The run's settings."""
        return self.spec.config

    @property
    def step(self) -> int:
        """Steps done."""
        return self.progress.step

    def say(self, line: str) -> None:
        """Print a line, on rank 0."""
        if self.ranks.is_first:
            console.say(line)

    def on_first(self, action: Callable[[], T]) -> T | None:
        """Do something on rank 0 alone, and return there what it returns; see Ranks.on_first."""
        return self.ranks.on_first(action, str(self.folder))

    def from_first(self, action: Callable[[], T]) -> T:
        """Do something on rank 0 alone, and return what it returns on all ranks."""
        return self.ranks.from_first(action, str(self.folder))
