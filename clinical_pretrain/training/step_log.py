"""Gather the figures of a step, and pass them on to metrics_writer.py when they are due."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from clinical_pretrain.distributed import peak_memory_bytes
from clinical_pretrain.engine.step_reports import StepReport
from clinical_pretrain.training.metrics_writer import StepMetrics, Usage

if TYPE_CHECKING:
    from clinical_pretrain.training.run import Run


class StepLog:
    """Takes the ranks' reports on steps, in order, and writes those that are due.

    Args:
        run: whose steps.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._began, self._before = time.monotonic(), run.step
        """When the steps began that are without a line and without an interruption, and after which step."""
        self._seconds, self._steps = 0.0, 0
        """Those before the interruption: time and number."""
        self._newest: StepReport | None = None
        """Of the last step, if it has no line yet."""

    def add(self, report: StepReport | None) -> None:
        """Let the guard judge a step's loss, and write its line if it is due.

        Raises:
            BadStepsError: too many steps in a row have a NaN or infinite loss, or the loss has jumped.
        """
        if report is None:
            return
        run, self._newest = self.run, report
        run.guard.observe(report)
        if is_due(report.step, run.config.log_every_steps) or report.step == run.progress.last_step:
            self.write_newest()
        elif run.metrics is not None:
            run.metrics.progress(report.step, report.loss)

    def write_newest(self) -> None:
        """Write a line on the last step, unless it has one: before a validation, and where the run may end."""
        if self._newest is not None:
            self._count(self._newest)
            self._write(self._newest)
            self._seconds, self._steps, self._newest = 0.0, 0, None

    def reset_timer(self) -> None:
        """Exclude from the speed what was done since the last step, such as a validation."""
        if self._newest is not None:
            self._count(self._newest)
        self._began, self._before = time.monotonic(), self.run.step

    def _count(self, report: StepReport) -> None:
        """Add the steps up to this one, since the last interruption."""
        self._seconds += report.at - self._began
        self._steps += report.step - self._before
        self._began, self._before = report.at, report.step

    def _write(self, report: StepReport) -> None:
        run, seconds = self.run, self._seconds
        shares, clock_seconds = run.phases.take_shares()  # on all ranks: it lets a GPU's events go
        padding_share = run.batches.take_padding_share()
        if run.metrics is None:
            return
        samples, stage = run.progress.samples_at(report.step), run.progress.stage(report.step)
        tokens = self._steps * run.config.batch.train_batch_size * run.spec.manifest.sequence_length
        run.metrics.train(
            StepMetrics(
                step=report.step,
                loss=report.loss,
                learning_rate=stage.learning_rate(report.step, run.config.optim),
                gradient_norm=report.gradient_norm,
                tokens_per_second=tokens / seconds,
                seconds=seconds,
                stage=stage.number,
                samples_consumed=samples,
                epoch=samples / len(run.batches.split),
                skipped_updates=run.guard.skipped_updates,
                loss_scale=report.loss_scale if run.config.precision == "fp16" else None,
                usage=Usage(
                    clock_seconds=clock_seconds,
                    tokens_per_second_per_gpu=tokens / seconds / run.ranks.world_size,
                    memory_gb=peak_memory_bytes() / 1e9,
                    padding_share=padding_share,
                    shares=shares,
                ),
            )
        )


def is_due(step: int, every_steps: int) -> bool:
    """Whether something that happens every so many steps happens after this one; 0: never."""
    return every_steps > 0 and step % every_steps == 0
