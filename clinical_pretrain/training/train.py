"""The whole run, top to bottom: set up, step after step, validate, save, sum up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from typing import Any

import torch

from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.console import console
from clinical_pretrain.data.collator import MicroBatch
from clinical_pretrain.data.sampler import DROPOUT, generator, micro_batch_of
from clinical_pretrain.engine.deepspeed_internals import backward
from clinical_pretrain.models.mlm_head import mean_loss
from clinical_pretrain.run_folder.starts import record_stop
from clinical_pretrain.training import validation
from clinical_pretrain.training.auto import out_of_memory
from clinical_pretrain.training.checkpointer import begin_save, finish_save, save
from clinical_pretrain.training.ending import finish, next_command, reason_of_end, save_and_exit
from clinical_pretrain.training.hardware import this_card
from clinical_pretrain.training.loss_guard import BadStepsError
from clinical_pretrain.training.rollback import roll_back
from clinical_pretrain.training.run import Run
from clinical_pretrain.training.setup import OpenedRun, describe_stage, make_run, open_run
from clinical_pretrain.training.step_log import StepLog, is_due
from clinical_pretrain.training.trace import traced
from tokenizer_tools.errors import UserError


def train(config: RunConfig) -> dict[str, Any]:
    """Train to the end, or to a stop signal.

    Returns:
        The run's summary, which is also in `summary.json`: steps, validation_loss_before and _after, and more.

    Raises:
        UserError: something in the config or its files can't work, and nothing has been written then; or the GPU's
            memory isn't enough.
        SystemExit: with code STOPPED or ENDED after a stop signal, once the run is saved.
    """
    with ExitStack() as stack:
        opened = open_run(config, stack)
        summary = report_if_finished(opened)
        try:
            return train_to_end(make_run(opened)) if summary is None else summary
        except torch.OutOfMemoryError:
            raise UserError(out_of_memory(opened.spec.config, opened.spec.world_size, this_card())) from None


def report_if_finished(opened: OpenedRun) -> dict[str, Any] | None:
    """Tell the user of a finished run what to do next, and return its summary, on all ranks; None if steps are left."""
    config, folder, stages = opened.spec.config, opened.folder, opened.stages

    def read_and_report() -> dict[str, Any] | None:
        summary = folder.read_summary()
        is_end = opened.step == stages[-1] or validation.is_early_stop(opened.step, folder, config, stages)
        if summary is None or summary["steps"] != opened.step or not is_end:
            return None
        more = f"--extend with more than {config.extend:,}" if config.extend else "--extend STEPS"
        more = "--validation.early_stopping_patience 0" if summary["stopped_early"] else more
        line = f"{folder}: already finished at step {opened.step:,} (to train further: {more})"
        console.say(f"{line}; {next_command(folder, summary)}")
        reason, stop = reason_of_end(summary), None
        with suppress(UserError):
            stop = folder.read_stop()
        if stop is None or stop["reason"] != reason:  # killed after the summary was written
            record_stop(folder, reason, 0, opened.step)
        return summary

    return opened.ranks.from_first(read_and_report, str(folder))


def train_to_end(run: Run) -> dict[str, Any]:
    """All steps that are left, and the summary."""
    started = time.monotonic()
    while True:
        try:
            if validation.is_missing(run):  # the one before the first step, or one that a stop has interrupted
                validation.validate(run)
            if not validation.stops_early(run):
                train_steps(run)
            if validation.is_missing(run):  # the one after the last step
                validation.validate(run)
            if run.checkpointer.pending:
                finish_save(run)
            is_saved = run.checkpointer.newest_step == run.step or save(run)
            break
        except BadStepsError as bad:
            roll_back(run, bad)
    if not is_saved:
        raise UserError(f"{run.folder}: trained to the end, but it can't be saved; free disk space, and start it again")
    return finish(run, time.monotonic() - started)


def train_steps(run: Run) -> None:
    """To the last step, or to early stopping.

    Raises:
        BadStepsError: too many steps in a row have a NaN or infinite loss, or the loss has jumped.
    """
    log = StepLog(run)
    run.watchdog.reset_timer()
    with closing(run.batches.micro_batches(run.progress)) as batches, traced(run) as trace_step:
        while run.step < run.progress.last_step:
            loss = train_step(run, batches)
            run.progress.step += 1
            trace_step()
            run.watchdog.step_completed(run.step)
            asked_to_stop, writing = run.watchdog.signal is not None, run.checkpointer.is_writing
            # The flags are of this step. The report is of the step before: this step's loss may still be computed by
            # the GPU, for which no rank should wait.
            with run.phases("communication"):
                previous_report, (any_asked_to_stop, any_writing) = run.reports.exchange(
                    run.step, loss, asked_to_stop, writing
                )
            log.add(previous_report)
            if run.step == run.progress.last_step or end_step(run, log, any_asked_to_stop, any_writing):
                break
        log.add(run.reports.flush())


def train_step(run: Run, batches: Iterator[MicroBatch]) -> torch.Tensor:
    """One optimizer step over this rank's share of the micro-batches. Returns its mean loss on this rank."""
    config, ranks, accumulation_steps = run.config, run.ranks, run.spec.accumulation_steps
    rate = run.progress.stage(run.step + 1).learning_rate(run.step + 1, config.optim)
    for group in run.engine.optimizer.param_groups:
        group["lr"] = rate
    total = torch.zeros((), device=run.engine.device)
    for micro_step in range(accumulation_steps):
        with run.phases("data"):
            inputs = next(batches).to(run.engine.device)
        # Dropout depends on the micro-batch, not on the rank that happens to compute it.
        number = micro_batch_of(ranks.rank, ranks.world_size, micro_step)
        torch.manual_seed(int(generator(config.seed, DROPOUT, run.step, number).integers(2**63)))
        with run.phases("forward"):
            losses, _ = run.engine(**inputs)
            loss = mean_loss(losses, inputs["labels"])
        with run.phases("backward"):
            backward(run.engine, loss)
        with run.phases("optimizer"):
            run.engine.step()
        total += loss.detach() / accumulation_steps
    return total


def end_step(run: Run, log: StepLog, any_asked_to_stop: bool, any_writing: bool) -> bool:
    """Validate, save or stop, whatever is due after a step that isn't the last.

    Args:
        run: whose step.
        log: of the steps.
        any_asked_to_stop: whether any rank has been asked to stop.
        any_writing: whether any rank is still writing a checkpoint.

    Returns:
        Whether early stopping ends the run.
    """
    config, at_stage_end = run.config, run.progress.is_at_stage_end
    save_now = is_due(run.step, config.checkpoint.every_steps) or at_stage_end
    validate_now = is_due(run.step, config.validation.every_steps) or at_stage_end
    if run.checkpointer.pending and (save_now or not any_writing):
        with run.phases("saving"):
            is_saved = finish_save(run)
        if not is_saved:
            run.checkpointer.check_failures()
    if save_now or validate_now or any_asked_to_stop:
        log.add(run.reports.flush())
    if validate_now or any_asked_to_stop:
        log.write_newest()
    if any_asked_to_stop:
        save_and_exit(run)
    if validate_now:
        validation.validate(run)
        save_now = save_now or (config.checkpoint.keep_best and validation.best_step(run) == run.step)
        if validation.stops_early(run):
            return True
        if at_stage_end:
            run.say(describe_stage(run))
    # A step was bad: the weights may be damaged, and a roll-back will need the checkpoint of before.
    if save_now and not run.guard.consecutive_bad_steps:
        with run.phases("saving"):
            begin_save(run)
    if validate_now or save_now:
        log.reset_timer()
    return False
