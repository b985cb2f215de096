"""Roll back to a checkpoint, and skip the samples of the bad steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clinical_pretrain.checkpoint.restore import load
from clinical_pretrain.checkpoint.state import read_state
from clinical_pretrain.checkpoint.verify import latest_valid
from clinical_pretrain.engine.step_reports import StepReports
from clinical_pretrain.run_folder.starts import SkippedSamples, record_rollback
from clinical_pretrain.training.checkpointer import all_weights_are_finite, finish_save
from clinical_pretrain.training.ending import exit_resumable
from clinical_pretrain.training.loss_guard import BadStepsError, LossGuard
from tokenizer_tools.errors import UserError

if TYPE_CHECKING:
    from clinical_pretrain.training.run import Run


def roll_back(run: Run, bad: BadStepsError) -> None:
    """Roll back to the last checkpoint before the bad steps, and skip their samples.

    Raises:
        UserError: there is no such checkpoint, or this has happened too often.
        SystemExit: the checkpoint is of another number of ranks, ZeRO stage or settings of it; the next start resumes
            from it.
    """
    if run.checkpointer.pending:
        finish_save(run)
    if bad.first > 1 and not all_weights_are_finite(run):
        # The update before was the bad one, unless it is in a checkpoint: those have finite weights.
        saved = run.ranks.broadcast(max((s for s in run.folder.saved_steps() if s < bad.first), default=0))
        bad = BadStepsError(max(bad.first - 1, saved + 1), bad.last, bad.reason)
    skipped_ranges, precision = run.batches.skipped_ranges, run.config.precision
    remedy = "lower optim.learning_rate" + (", or use precision bf16" if precision == "fp16" else "")
    if len(skipped_ranges) >= run.config.bad_steps.max_rollbacks:
        raise UserError(f"{bad}, and the run has rolled back {len(skipped_ranges)} times; {remedy}")
    step, faults = latest_valid(run.folder, run.ranks, before=bad.first)
    if not step:
        raise UserError(f"{bad}, and there is no earlier checkpoint to roll back to; {remedy}")
    state = read_state(run.folder, step)
    # samples_at() assumes the present batch size, and the checkpoint may be of another.
    first = max(run.progress.samples_at(bad.first - 1), state.samples_consumed)
    count = run.progress.samples_at(bad.last) - first
    position = run.batches.position(first)
    skipped_ranges.append(SkippedSamples(first, count))
    run.on_first(lambda: record_rollback(run.folder, step, skipped_ranges))
    for fault in faults:
        run.say(f"damaged checkpoint skipped: {fault}")
    line = f"{bad}; rolled back to step {step:,}, skipping {count} samples from number {position:,} on"
    if not state.fits(run.ranks.world_size, run.spec.zero_stage, run.spec.resolved.get("zero_optimization", {})):
        reason = "for that checkpoint is of other ranks, or of another ZeRO file"
        exit_resumable(run, f"{line}: start the same command again, {reason}")
    load(run.folder, run.engine, step)
    run.progress.move_to(step, state.samples_consumed)
    run.guard, run.reports = LossGuard.restored(run.config, state), StepReports(run.ranks, run.engine)
    metrics = run.metrics
    if metrics is not None:
        metrics.close()
    run.on_first(lambda: metrics.open(step) if metrics else None)
    if metrics is not None:
        metrics.rollback(step, first_sample=position, samples=count)
    run.say(line)
