"""The save in progress, and how many saves have failed. What a checkpoint holds is gathered here, too.

When a save is due is decided by training/train.py; which checkpoints are kept, by checkpoint/retention.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from clinical_pretrain.checkpoint.pending_save import PendingSave
from clinical_pretrain.checkpoint.state import RunState
from clinical_pretrain.config.recovery import CheckpointConfig
from clinical_pretrain.console import console
from clinical_pretrain.data.sampler import PROBE, generator
from clinical_pretrain.distributed import Ranks
from clinical_pretrain.engine.build import weights_are_finite
from clinical_pretrain.models.encoder import first_tokens
from clinical_pretrain.run_folder.history import best_validation
from clinical_pretrain.run_folder.paths import RunFolder
from clinical_pretrain.run_folder.starts import goodput
from clinical_pretrain.slurm_environment import reset_try_count, warning_seconds
from clinical_pretrain.training.loss_guard import BadStepsError
from clinical_pretrain.training.metrics_writer import MetricsWriter, SaveMetrics
from clinical_pretrain.training.watchdog import Watchdog
from tokenizer_tools.errors import UserError

if TYPE_CHECKING:
    from clinical_pretrain.training.run import Run

PROBE_POSITIONS = 8


class Checkpointer:
    """Saves checkpoints while training continues; one at a time.

    Args:
        folder: the run folder.
        config: how often to save, what to keep.
        ranks: all of them; every rank makes the same calls.
        watchdog: a save may take longer than a step.
        metrics: on rank 0, for how long each save took.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: CheckpointConfig,
        ranks: Ranks,
        watchdog: Watchdog,
        metrics: MetricsWriter | None,
    ) -> None:
        self.folder, self.config, self.ranks, self.watchdog, self.metrics = folder, config, ranks, watchdog, metrics
        self.pending: PendingSave | None = None
        self.failures = 0
        """Saves that failed since the last one that didn't."""
        self._seconds_waiting = 0.0
        """How long training has waited for the pending save."""
        self._has_warned = False
        """Whether a late signal has been warned of."""

    @property
    def is_writing(self) -> bool:
        """Whether this rank's part of a checkpoint isn't on the disk yet."""
        return self.pending is not None and not self.pending.is_written

    @property
    def newest_step(self) -> int:
        """The step of the newest checkpoint, 0 where there is none; the same on all ranks."""
        return int(self.ranks.broadcast(max(self.folder.saved_steps(), default=0)))

    def begin(self, engine: Any, state: RunState, probe: dict[str, torch.Tensor]) -> None:
        """Copy what a checkpoint holds; a thread writes it. No other save may be pending."""
        assert self.pending is None
        with self._training_waits():
            self.pending = PendingSave(self.folder, engine, state, probe, self.ranks)

    def finish(self, keep_all: bool = False) -> bool:
        """Wait for the pending save.

        Args:
            keep_all: delete no earlier checkpoint.

        Returns:
            Whether there is a new checkpoint. If not, the reason has been printed.
        """
        assert self.pending is not None
        pending, self.pending = self.pending, None
        with self._training_waits():
            result = pending.finish(
                replace(self.config, keep_latest=0) if keep_all else self.config,  # 0 keeps all
                lambda steps: best_validation(self.folder, self.folder.starts(), steps).get("step"),
            )
        took = time.monotonic() - pending.began
        self.failures = self.failures + 1 if result.error else 0
        if self.metrics is not None:
            seconds = self._seconds_waiting
            self.metrics.save(SaveMetrics(pending.step, seconds, took, result.bytes, result.error, self.failures))
            with suppress(OSError, UserError):  # run.json can't be read or written now
                self.metrics.goodput(pending.step, goodput(self.folder))
        self._seconds_waiting = 0.0
        if result.error is None and self.ranks.is_first:
            reset_try_count()
        self._warn_of_late_signal(took)
        return result.error is None

    def check_failures(self) -> None:
        """End a run whose saves keep failing: further work would be lost.

        Raises:
            UserError: more than checkpoint.max_consecutive_failures saves in a row have failed.
        """
        if self.failures > self.config.max_consecutive_failures:
            raise UserError(
                f"{self.folder}: {self.failures} saves in a row failed; free disk space, and start the same command "
                f"again to resume from step {self.newest_step:,}"
            )

    @contextmanager
    def _training_waits(self) -> Iterator[None]:
        """Count the time, and tell the watchdog that a save may take longer than a step."""
        began, self.watchdog.saving = time.monotonic(), True
        try:
            yield
        finally:
            self.watchdog.saving = False
        self.watchdog.reset_timer()
        self._seconds_waiting += time.monotonic() - began

    def _warn_of_late_signal(self, seconds_of_save: float) -> None:
        """Warn once, under SLURM, if a stop may take longer than the time between the signal and the end: a step, a
        pending save, and the last one."""
        warning = warning_seconds()
        needed = self.watchdog.longest_step + 2 * seconds_of_save
        if 0 < warning < needed and not self._has_warned:
            if self.ranks.is_first:
                console.say(
                    f"warning: to stop may take {needed:,.0f} s (a step, and two saves), but the time limit is "
                    f"announced only {warning} s ahead: raise --signal of slurm/pretrain.sh, or --slurm.warning_seconds"
                )
            self._has_warned = True


def save(run: Run) -> bool:
    """Write a checkpoint, and wait for it. Returns False where that failed; the reason has been printed."""
    begin_save(run)
    return finish_save(run)


def begin_save(run: Run) -> None:
    """Begin a save, after waiting for a pending one.

    Raises:
        BadStepsError: there are weights that aren't finite, which must not be saved.
    """
    if run.checkpointer.pending:
        finish_save(run)
    if not all_weights_are_finite(run):
        first = run.step - max(0, run.guard.consecutive_skips - 1)
        raise BadStepsError(first, run.step, "there are weights that are NaN or infinite")
    state = RunState(
        step=run.step,
        samples_consumed=run.progress.samples_consumed,
        world_size=run.ranks.world_size,
        zero_stage=run.spec.zero_stage,
        precision=run.config.precision,
        shard_fingerprint=run.spec.manifest.fingerprint,
        samples_skipped=run.batches.position(run.progress.samples_consumed) - run.progress.samples_consumed,
        recent_losses=tuple(run.guard.recent_losses),
        consecutive_bad_steps=run.guard.consecutive_bad_steps,
        consecutive_overflows=run.guard.consecutive_overflows,
        skipped_updates=run.guard.skipped_updates,
        zero_optimization=run.spec.resolved.get("zero_optimization", {}),
    )
    run.checkpointer.begin(run.engine, state, probe_logits(run))


def finish_save(run: Run) -> bool:
    """Wait for the pending save. While updates are skipped, it deletes no checkpoint: a roll-back may need any."""
    return run.checkpointer.finish(keep_all=run.guard.consecutive_skips > 0)


def all_weights_are_finite(run: Run) -> bool:
    """Whether no rank has a NaN or an infinity in its weights."""
    return not run.ranks.any(not weights_are_finite(run.engine, run.ranks.rank))


def probe_logits(run: Run) -> dict[str, torch.Tensor]:
    """The model's logits for a fixed sequence of random tokens (from no note), which the export must reproduce."""
    config, collator, length = run.config, run.batches.collator, run.spec.manifest.sequence_length
    rng, batch_size = generator(config.seed, PROBE), config.batch.micro_batch_size_per_gpu
    ids = torch.from_numpy(rng.choice(collator.vocabulary.replacement_ids, size=(1, length)))
    positions = torch.from_numpy(np.sort(rng.choice(length, size=PROBE_POSITIONS, replace=False)))
    question = {"input_ids": ids, "positions": positions}
    # The batch size of training: the layers are compiled for it.
    inputs = {"input_ids": ids.repeat(batch_size, 1), "documents": torch.ones_like(ids).repeat(batch_size, 1)}
    inputs |= {"positions": positions, "labels": ids[0, positions]}
    if collator.max_documents:
        inputs["position_ids"] = torch.arange(length).repeat(batch_size, 1)
    inputs = {name: value.to(run.engine.device) for name, value in inputs.items()}
    run.engine.eval()
    with torch.no_grad():
        _, logits = run.engine(**inputs, max_documents=collator.max_documents or 1, outputs="logits")
    run.engine.train()
    if config.attention.global_tokens == "first":
        question["global_attention_mask"] = first_tokens(torch.ones_like(ids)).long()
    return {**question, "logits": logits.cpu()}
