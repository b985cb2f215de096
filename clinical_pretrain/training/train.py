"""The whole run, top to bottom: set up, step after step, validate, save, sum up."""

from __future__ import annotations

import math
import os
import shlex
import signal
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from clinical_pretrain.checkpoint import save as checkpoint
from clinical_pretrain.cluster.jobs import read_json
from clinical_pretrain.config.run_config import NO_ZERO, RunConfig
from clinical_pretrain.console import console
from clinical_pretrain.data.masking import Collator, MicroBatch, Vocabulary
from clinical_pretrain.data.prefetch import prefetch
from clinical_pretrain.data.sampler import DROPOUT, MASKS, PROBE, Sampler, generator, micro_batch_of
from clinical_pretrain.data.shards import Split
from clinical_pretrain.distributed import (
    Ranks,
    Report,
    Reports,
    check_gpu,
    initialise,
    own_device,
    read_environment,
    uses_gpu,
)
from clinical_pretrain.engine import deepspeed_config
from clinical_pretrain.engine.build import backward, make_engine, restore_engine, weights_are_finite
from clinical_pretrain.engine.optim import parameter_count, stage_of
from clinical_pretrain.models.build import build_model, compiles
from clinical_pretrain.models.encoder import first_tokens
from clinical_pretrain.models.flops import peak_flops, training_flops_per_token
from clinical_pretrain.models.mlm_head import mean_loss
from clinical_pretrain.run_folder.folder import (
    FORMAT_VERSION,
    account,
    agree_on_first,
    alone_in,
    lost_steps,
    note_start,
    on_first_rank,
    prepare_run_folder,
    read_jumps,
    read_run,
    record_rollback,
    refuse_other_folder,
    stage_ends,
)
from clinical_pretrain.run_folder.history import best_validation, validations, validations_without_progress
from clinical_pretrain.run_folder.metrics import Metrics, read_metrics
from clinical_pretrain.training.loss_guard import BadStepsError, Judge, Jump, sample_index
from clinical_pretrain.training.validation import Validation
from clinical_pretrain.training.watchdog import ENDED, ENDING, STOPPED, Watch, note_stop
from tokenizer_tools.command_line import typed
from tokenizer_tools.errors import UserError
from tokenizer_tools.files import write_json
from tokenizer_tools.manifest import TOKENIZER_FOLDER, Manifest
from tokenizer_tools.tokenizer.identity import tokenizer_sha256

PROBE_POSITIONS = 8
VALIDATION_LOG_SECONDS = 30
"""Between two progress lines of a validation, in a log."""


@dataclass
class Run:
    """All that a step needs."""

    config: RunConfig
    run_dir: Path
    manifest: Manifest
    ranks: Ranks
    engine: Any
    split: Split
    sampler: Sampler
    collator: Collator
    validation: Validation
    metrics: Metrics | None
    reports: Reports
    watch: Watch
    judge: Judge
    jumps: list[Jump]
    stages: list[int]
    """The last step of each."""
    zero_stage: int
    peak_seconds_per_token: float | None
    """Seconds that a token would take all GPUs at their peak; None where that isn't known."""
    step: int
    """Steps done."""
    samples_before: int = 0
    """Sequences consumed at step 0, were all steps as large as now: not 0 after a change of the batch size."""
    saving: checkpoint.Save | None = None
    """A save under way."""
    seconds_saving: float = 0.0
    """Training has stood still for it so long."""
    failed_saves: int = 0
    """The last so many saves failed."""

    @property
    def last_step(self) -> int:
        """Where the run ends, if not early."""
        return self.stages[-1]

    def samples_at(self, step: int) -> int:
        """Sequences consumed when a step is done."""
        return self.samples_before + step * self.config.batch.train_batch_size

    @property
    def samples_consumed(self) -> int:
        """Sequences consumed so far."""
        return self.samples_at(self.step)


def train(config: RunConfig) -> dict[str, Any]:
    """Train to the end, or to a stop signal.

    Returns:
        The run's summary, which is also in `summary.json`: steps, validation_loss_before and _after, and more.

    Raises:
        UserError: something in the config or its files can't work; nothing has been written then.
        SystemExit: with code STOPPED or ENDED after a stop signal, once the run is saved.
    """
    with ExitStack() as stack:
        opened = open_run(config, stack)
        summary = summary_if_done(opened)
        return steps(make_run(opened)) if summary is None else summary


def steps(run: Run) -> dict[str, Any]:
    """All steps that are left."""
    started = time.monotonic()
    while True:
        try:
            if validation_is_missing(run):
                validate(run)
            if not stops_early(run):
                steps_until_bad(run)
            if validation_is_missing(run):
                validate(run)
            if run.saving:
                end_save(run)
            is_saved = newest_saved(run) == run.step or save(run)
            break
        except BadStepsError as bad:
            roll_back(run, bad)
    if not is_saved:
        raise UserError(f"{run.run_dir}: trained to the end, but it can't be saved; make room and start it again")
    summary = summarise(run, time.monotonic() - started)
    skipped = f", {run.judge.skipped:,} of them without an update" if run.judge.skipped else ""
    early = ", early: the validation loss stopped falling" if summary["stopped_early"] else ""
    say(run, f"done: {run.step:,} steps{early}{skipped}; {next_command(run.run_dir, summary)}")
    if run.ranks.is_first:
        note_stop(run.run_dir, reason_of_end(summary), 0, run.step)
    finish(run)
    return summary


def steps_until_bad(run: Run) -> None:
    """To the last step.

    Raises:
        BadStepsError: too many in a row have no finite loss, or the loss has jumped.
    """
    config, log = run.config, Log(run)
    run.watch.go_on()
    with closing(micro_batches(run)) as batches:
        while run.step < run.last_step:
            loss = train_step(run, batches)
            run.step += 1
            run.watch.progress(run.step)
            # A step's figures are read one step later: for them nobody waits for a GPU.
            asked = run.watch.signal is not None
            before, (stop, writing) = run.reports.exchange(run.step, loss, asked, is_writing(run))
            log.add(before)
            if run.step == run.last_step:
                break
            save_now, validate_now = (
                _due(run.step, part.every_steps) or run.step in run.stages
                for part in (config.checkpoint, config.validation)
            )
            if run.saving and (save_now or not writing) and not end_save(run):
                refuse_more_failures(run)
            if save_now or validate_now or stop:
                log.add(run.reports.flush())
            if stop:
                end_early(run)
            if validate_now:
                validate(run)
                save_now = save_now or (config.checkpoint.keep_best and best_step(run) == run.step)
                if stops_early(run):
                    break
                if run.step in run.stages:
                    say(run, describe_stage(run))
            # Amid bad steps the weights may be spoilt: those of the checkpoint before are what will be needed.
            if save_now and not run.judge.in_a_row:
                begin_save(run)
            if validate_now or save_now:
                log.resume()
        log.add(run.reports.flush())


def roll_back(run: Run, bad: BadStepsError) -> None:
    """Go back to the last checkpoint before the bad steps, and past their samples.

    Raises:
        UserError: there is no such checkpoint, or this has happened too often.
    """
    if run.saving:
        end_save(run)
    if bad.first > 1 and not all_weights_are_finite(run):
        # The update before spoilt them, unless it is in a checkpoint: those have finite weights.
        saved = run.ranks.broadcast(max((s for s in checkpoint.saved_steps(run.run_dir) if s < bad.first), default=0))
        bad = BadStepsError(max(bad.first - 1, saved + 1), bad.last, bad.reason)
    remedy = "lower optim.learning_rate" + (", or use precision bf16" if run.config.precision == "fp16" else "")
    if len(run.jumps) >= run.config.bad_steps.max_rollbacks:
        raise UserError(f"{bad}, and the run has gone back {len(run.jumps)} times; {remedy}")
    step, faults = checkpoint.newest_whole(run.run_dir, run.ranks, before=bad.first)
    if not step:
        raise UserError(f"{bad}, and there is no checkpoint of an earlier step to go back to; {remedy}")
    state = checkpoint.read_state(run.run_dir, step)
    # samples_at() is of the present batch size, and the checkpoint may be of another.
    at, end = max(run.samples_at(bad.first - 1), state.samples_consumed), run.samples_at(bad.last)
    first = sample_index(at, run.jumps)
    run.jumps.append(Jump(at, end - at))
    record_rollback(run.run_dir, step, run.jumps, run.ranks)
    for fault in faults:
        say(run, f"damaged checkpoint passed over: {fault}")
    line = f"{bad}; back to step {step:,}, and past the {end - at} samples from number {first:,} on"
    if state.layout != (run.zero_stage, run.ranks.world_size):
        leave(run, f"{line}: start the same command again, for that checkpoint is of other ranks")
    checkpoint.load(run.run_dir, run.engine, step)
    run.step, run.judge = step, make_judge(run.config, state)
    run.samples_before = samples_before(run.config, state)
    run.reports = Reports(run.ranks, run.engine)
    if run.metrics is not None:
        run.metrics.close()
    run.metrics = make_metrics(run.run_dir, step, run.last_step, run.ranks)
    if run.metrics is not None:
        run.metrics.rollback(step, first_sample=first, samples=end - at)
    say(run, line)


def make_judge(config: RunConfig, state: checkpoint.RunState | None) -> Judge:
    """As it was when the checkpoint was saved."""
    judge = Judge(config.bad_steps, config.precision == "fp16", state.recent_losses if state else ())
    if state:
        judge.in_a_row, judge.consecutive_overflows = state.bad_in_a_row, state.consecutive_overflows
        judge.skipped = state.skipped_updates
    return judge


def end_early(run: Run) -> NoReturn:
    """Save what isn't, and leave with the exit code of a run that was asked to stop."""
    asked = [(number, by) for number, by in run.ranks.all_gather((run.watch.signal, run.watch.asked_by)) if number]
    number, by = next(((number, by) for number, by in asked if number in ENDING), asked[0])
    try:
        is_saved = newest_saved(run) == run.step or save(run)
    except BadStepsError:  # what must be done then, the next start does
        is_saved = False
    step = run.step if is_saved else newest_saved(run)
    code = ENDED if number in ENDING else STOPPED
    if number == signal.SIGINT and run.watch.has_launcher:
        say(run, "if a traceback follows, it comes from the launcher")
    leave(run, f"stopped at step {run.step:,} ({by}); the same command goes on from step {step:,}", code)


def newest_saved(run: Run) -> int:
    """The step of the newest checkpoint, 0 where there is none."""
    return int(run.ranks.broadcast(max(checkpoint.saved_steps(run.run_dir), default=0)))


def leave(run: Run, reason: str, code: int = STOPPED) -> NoReturn:
    """End with the exit code of a run that goes on when it is started again."""
    say(run, reason)
    if run.ranks.is_first:
        note_stop(run.run_dir, reason, code, run.step)
    finish(run)
    sys.exit(code)


def samples_before(config: RunConfig, state: checkpoint.RunState) -> int:
    """See Run.samples_before."""
    return state.samples_consumed - state.step * config.batch.train_batch_size


def make_metrics(run_dir: Path, step: int, last_step: int, ranks: Ranks) -> Metrics | None:
    """On rank 0; all learn of an error."""
    return on_first_rank(
        lambda: Metrics(run_dir, step, last_step, len(read_run(run_dir)["starts"]) - 1), run_dir, ranks
    )


@dataclass
class Opened:
    """A run before its engine is built: all is checked, and the step to resume from is known."""

    config: RunConfig
    run_dir: Path
    manifest: Manifest
    resolved: dict[str, Any]
    """DeepSpeed's config."""
    model: Any
    ranks: Ranks
    watch: Watch
    changes: list[str]
    """Settings that differ from the start before, on rank 0."""
    stages: list[int]
    step: int
    """Of the newest whole checkpoint; 0 where there is none."""
    faults: list[str]
    """Why newer checkpoints were passed over."""


def tell(is_first: bool, doing: str) -> None:
    """Say what set-up is doing: it takes 10 to 20 s, or longer."""
    if is_first:
        console.progress([doing])


def setup(config: RunConfig, stack: ExitStack) -> Run:
    """All before the first step."""
    return make_run(open_run(config, stack))


def open_run(config: RunConfig, stack: ExitStack) -> Opened:
    """Check everything, meet the other ranks, and find the newest checkpoint.

    The watch over the other ranks goes onto `stack`: it begins as soon as they meet.
    """
    rank, world_size = read_environment()
    shards = Path(config.data.shards)
    manifest = load_shards(shards)
    resolved = deepspeed_config.resolve(config, world_size)
    check_hardware(config)
    tell(rank == 0, "building the model")
    model = build_model(config, manifest, deepspeed_config.zero_stage(resolved))
    tell(rank == 0, f"starting DeepSpeed on {world_size} {'rank' if world_size == 1 else 'ranks'}")
    ranks = initialise(config.watchdog.step_timeout_seconds)
    run_dir = Path(config.run_dir)
    watch = stack.enter_context(
        Watch(ranks, run_dir, config.watchdog.heartbeat_timeout_seconds, config.watchdog.step_timeout_seconds)
    )
    on_first_rank(lambda: refuse_other_folder(run_dir, config, resolved, manifest), run_dir, ranks)
    stack.enter_context(alone_in(run_dir, ranks))
    changes = prepare_run_folder(run_dir, config, resolved, manifest, model, shards, ranks)
    watch.run_is_there = True
    if checkpoint.saved_steps(run_dir):
        tell(rank == 0, "verifying the newest checkpoint")
    step, faults = checkpoint.newest_whole(run_dir, ranks)
    stages = agree_on_first(lambda: stage_ends(run_dir, config)[0], run_dir, ranks)
    return Opened(config, run_dir, manifest, resolved, model, ranks, watch, changes, stages, step, faults)


def summary_if_done(opened: Opened) -> dict[str, Any] | None:
    """The summary of a finished run, on all ranks; None for a run that has steps left."""
    config, run_dir = opened.config, opened.run_dir

    def look() -> dict[str, Any] | None:
        summary = read_json(run_dir / "summary.json") or {}
        is_end = opened.step == opened.stages[-1] or early_stop_at(opened.step, run_dir, config, opened.stages)
        if summary.get("steps") != opened.step or not is_end:
            return None
        more = f"--extra_steps with more than {config.extra_steps:,}" if config.extra_steps else "--extra_steps STEPS"
        more = "--validation.early_stopping_patience 0" if summary["stopped_early"] else more
        line = f"{run_dir}: already finished at step {opened.step:,} (to train further: {more})"
        console.say(f"{line}; {next_command(run_dir, summary)}")
        note_stop(run_dir, reason_of_end(summary), 0, opened.step)
        return summary

    return agree_on_first(look, run_dir, opened.ranks)


def make_run(opened: Opened) -> Run:
    """Build the DeepSpeed engine, from the checkpoint if there is one, and all that a step needs."""
    config, run_dir, manifest, resolved = opened.config, opened.run_dir, opened.manifest, opened.resolved
    model, ranks, step, shards = opened.model, opened.ranks, opened.step, Path(opened.config.data.shards)
    tell(ranks.is_first, f"reading the checkpoint of step {step:,}" if step else "building DeepSpeed's engine")
    state = checkpoint.read_state(run_dir, step) if step else None
    if state:
        engine = restore_engine(model, config, resolved, run_dir, state, ranks)
    else:
        engine = make_engine(model, config, resolved)
    note_start(run_dir, step, opened.changes, opened.stages, config, resolved, manifest, model, ranks)
    split, held_out = Split(shards, manifest, "train"), Split(shards, manifest, "validation")
    isolate = config.data.document_attention == "isolate"
    collator = Collator(
        manifest.sequence_length,
        config.masking,
        Vocabulary.load(shards / TOKENIZER_FOLDER / "tokenizer.json", manifest.tokenizer),
        max_documents=max(split.max_segments, held_out.max_segments) if isolate else 0,
        pad_to_capacity=compiles(config, deepspeed_config.zero_stage(resolved)),
    )
    lost = lost_steps(run_dir, step) if ranks.is_first else ""
    run = Run(
        config=config,
        run_dir=run_dir,
        manifest=manifest,
        ranks=ranks,
        engine=engine,
        split=split,
        sampler=Sampler(len(split), config.seed),
        collator=collator,
        validation=Validation(config, shards, held_out, collator, ranks),
        metrics=make_metrics(run_dir, step, opened.stages[-1], ranks),
        reports=Reports(ranks, engine),
        watch=opened.watch,
        judge=make_judge(config, state),
        jumps=read_jumps(run_dir, ranks),
        stages=opened.stages,
        zero_stage=deepspeed_config.zero_stage(resolved),
        peak_seconds_per_token=peak_seconds_per_token(config, model.config, manifest, ranks),
        step=step,
        samples_before=samples_before(config, state) if state else 0,
    )
    for fault in opened.faults:
        say(run, f"damaged checkpoint passed over: {fault}")
    if opened.changes:
        say(run, f"changed settings: {'; '.join(opened.changes)}")
    say(run, describe(run))
    if lost:
        say(run, lost)
    if len(run.stages) > 1:
        say(run, describe_stage(run))
    if not len(run.validation.rows):
        say(run, "no held-out rows in these shards: there will be no validation loss")
    return run


def train_step(run: Run, batches: Iterator[MicroBatch]) -> torch.Tensor:
    """One optimizer step over this rank's share of the micro-batches. Returns its mean loss on this rank."""
    config, ranks = run.config, run.ranks
    rate = stage_of(run.step + 1, run.stages).learning_rate(run.step + 1, config.optim)
    for group in run.engine.optimizer.param_groups:
        group["lr"] = rate
    accumulation_steps = config.accumulation_steps(ranks.world_size)
    total = torch.zeros((), device=run.engine.device)
    for micro_step in range(accumulation_steps):
        inputs = next(batches).to(run.engine.device)
        # Dropout depends on the micro-batch, not on the rank that happens to compute it.
        number = micro_batch_of(ranks.rank, ranks.world_size, micro_step)
        torch.manual_seed(int(generator(config.seed, DROPOUT, run.step, number).integers(2**63)))
        losses, _ = run.engine(**inputs)
        loss = mean_loss(losses, inputs["labels"])
        backward(run.engine, loss)
        run.engine.step()
        total += loss.detach() / accumulation_steps
    return total


def micro_batches(run: Run) -> Generator[MicroBatch]:
    """This rank's micro-batches from the next step to the run's end, made ahead of time."""
    ranks, size = run.ranks, run.config.batch.micro_batch_size_per_gpu
    accumulation_steps = run.config.accumulation_steps(ranks.world_size)

    def make(first_sample: int) -> MicroBatch:
        samples = [run.sampler.sample(first_sample + i) for i in range(size)]
        rows = [run.split[sample.row] for sample in samples]
        batch = run.collator(rows, [generator(run.config.seed, MASKS, s.epoch, s.row) for s in samples])
        return batch.pinned() if ranks.device.type == "cuda" else batch

    numbers = (
        sample_index(run.samples_at(step), run.jumps) + micro_batch_of(ranks.rank, ranks.world_size, micro_step) * size
        for step in range(run.step, run.last_step)
        for micro_step in range(accumulation_steps)
    )
    yield from prefetch(make, numbers)


class Log:
    """Takes ranks' reports on steps, in order, and writes what is due of them."""

    def __init__(self, run: Run) -> None:
        self.run, self.at, self.step = run, time.monotonic(), run.step

    def add(self, report: Report | None) -> None:
        """Look at one step's loss and write its line, if it is due.

        Raises:
            BadStepsError: too many in a row have no finite loss, or the loss has jumped.
        """
        if report is None:
            return
        self.run.judge.look(report)
        config = self.run.config
        if _due(report.step, config.log_every_steps) or report.step == self.run.last_step:
            log_step(self.run, report, report.step - self.step, report.at - self.at)
            self.at, self.step = report.at, report.step
        elif self.run.metrics is not None:
            self.run.metrics.progress(report.step, report.loss)

    def resume(self) -> None:
        """Leave out of the speed what has been done beside training."""
        self.at, self.step = time.monotonic(), self.run.step


def log_step(run: Run, report: Report, steps: int, seconds: float) -> None:
    """Write a step's figures, on rank 0, and the speed of the last so many."""
    if run.metrics is None:
        return
    config, samples, stage = run.config, run.samples_at(report.step), stage_of(report.step, run.stages)
    tokens_per_second = steps * config.batch.train_batch_size * run.manifest.sequence_length / seconds
    run.metrics.train(
        report.step,
        loss=report.loss,
        learning_rate=stage.learning_rate(report.step, config.optim),
        gradient_norm=report.gradient_norm,
        tokens_per_second=tokens_per_second,
        seconds=seconds,
        mfu=tokens_per_second * run.peak_seconds_per_token if run.peak_seconds_per_token else None,
        samples_consumed=samples,
        epoch=samples / len(run.split),
        skipped_updates=run.judge.skipped,
        loss_scale=report.loss_scale if config.precision == "fp16" else None,
        stage=stage.number,
    )


def validation_is_missing(run: Run) -> bool:
    """At the start, at a stage's end, or where the run was stopped before a validation that was due, or amid it."""
    if run.step not in (0, *run.stages) and not _due(run.step, run.config.validation.every_steps):
        return False

    def look() -> bool:
        lines = read_metrics(run.run_dir, "validation")
        return run.step not in [line["step"] for line in lines if line["loss"] is not None]

    return agree_on_first(look, run.run_dir, run.ranks)


def validate(run: Run) -> None:
    """Measure on held-out notes and write it down. A stop signal ends it, and the next start does it again.

    Raises:
        BadStepsError: the loss is no finite number.
        UserError: it isn't before the first step.
    """

    said = time.monotonic()

    def go_on(done: int, total: int) -> bool:
        nonlocal said
        run.watch.progress()
        if run.ranks.is_first:
            is_time = time.monotonic() - said > VALIDATION_LOG_SECONDS
            said = time.monotonic() if is_time else said
            console.progress([f"step {run.step:,}", f"validation: {done:,}/{total:,} micro-batches"], log=is_time)
        return done == 0 or not run.ranks.any(run.watch.signal is not None)

    result = run.validation.run(run.engine, go_on)
    if result is None:
        end_early(run)
    if run.metrics is not None and result:
        run.metrics.validation(run.step, result)
    if result and not math.isfinite(result["loss"]):
        refuse_validation(run, f"the validation loss is {result['loss']}")


def refuse_validation(run: Run, reason: str) -> NoReturn:
    """Neither train on nor save: the model can't compute the loss of held-out rows."""
    if run.step == 0:
        precision = run.config.precision
        cause = f"the model overflows in {precision}" if all_weights_are_finite(run) else "not all weights are finite"
        remedy = "try precision fp32, or take" if precision != "fp32" else "take"
        raise UserError(f"{reason} before the first step: {cause}; {remedy} another model.name_or_path")
    if run.saving:
        end_save(run)
    first = run.step - run.judge.consecutive_skips + 1
    if first > run.step:  # no update was skipped: any since the last checkpoint may be behind it
        steps = checkpoint.saved_steps(run.run_dir)
        first = run.ranks.broadcast(max((step for step in steps if step < run.step), default=0)) + 1
    raise BadStepsError(first, run.step, reason)


def best_step(run: Run) -> int | None:
    """The step with the lowest validation loss so far, on all ranks."""
    return agree_on_first(
        lambda: best_validation(run.run_dir, read_run(run.run_dir)["starts"]).get("step"), run.run_dir, run.ranks
    )


def stops_early(run: Run) -> bool:
    """Whether early stopping ends the run at this step, on all ranks."""
    return agree_on_first(lambda: early_stop_at(run.step, run.run_dir, run.config, run.stages), run.run_dir, run.ranks)


def early_stop_at(step: int, run_dir: Path, config: RunConfig, stages: list[int]) -> bool:
    """Whether early stopping ends the run at a step. Of the metrics up to that step alone: the same after a resume. Not
    where a stage ends and another follows: somebody has asked for that one."""
    if step in stages[:-1]:
        return False
    patience, stage = config.validation.early_stopping_patience, stage_of(step, stages)
    starts, first = read_run(run_dir)["starts"], stage.first_step if stage.number > 1 else 0
    return 0 < patience <= validations_without_progress(run_dir, starts, range(first, step + 1))


def save(run: Run) -> bool:
    """Write a checkpoint, and wait for it. False where that failed, which has been said then."""
    begin_save(run)
    return end_save(run)


def begin_save(run: Run) -> None:
    """Take what a checkpoint holds; a thread writes it. One that is still being written comes to its end first.

    Raises:
        BadStepsError: there are weights that aren't finite: what must not be saved.
    """
    if run.saving:
        end_save(run)
    if not all_weights_are_finite(run):
        first = run.step - max(0, run.judge.consecutive_skips - 1)
        raise BadStepsError(first, run.step, "there are weights that are NaN or infinite")
    state = checkpoint.RunState(
        step=run.step,
        samples_consumed=run.samples_consumed,
        world_size=run.ranks.world_size,
        zero_stage=run.zero_stage,
        precision=run.config.precision,
        shard_fingerprint=run.manifest.fingerprint,
        samples_skipped=sample_index(run.samples_consumed, run.jumps) - run.samples_consumed,
        recent_losses=tuple(run.judge.recent_losses),
        bad_in_a_row=run.judge.in_a_row,
        consecutive_overflows=run.judge.consecutive_overflows,
        skipped_updates=run.judge.skipped,
    )
    with standing_still(run):
        run.saving = checkpoint.Save(run.run_dir, run.engine, state, probe(run), run.ranks)


def all_weights_are_finite(run: Run) -> bool:
    """On all ranks."""
    return not run.ranks.any(not weights_are_finite(run.engine, run.ranks.rank))


def is_writing(run: Run) -> bool:
    """Whether this rank's part of a checkpoint isn't on the disk yet."""
    return run.saving is not None and not run.saving.is_written


def end_save(run: Run) -> bool:
    """Wait for what is being written. False where that failed, which has been said then."""
    saving, run.saving = run.saving, None
    assert saving is not None
    # While steps are bad, what lies before them is needed.
    keep = 0 if run.judge.consecutive_skips else run.config.checkpoint.keep_latest
    with standing_still(run):
        saved = saving.finish(
            replace(run.config.checkpoint, keep_latest=keep),
            lambda steps: best_validation(run.run_dir, read_run(run.run_dir)["starts"], steps).get("step"),
        )
    took = time.monotonic() - saving.began
    run.failed_saves = run.failed_saves + 1 if saved.error else 0
    if run.metrics is not None:
        run.metrics.save(
            saving.step,
            seconds=run.seconds_saving,
            seconds_until_whole=took,
            size=saved.bytes,
            error=saved.error,
            failures=run.failed_saves,
        )
        with suppress(OSError):
            run.metrics.account(saving.step, account(run.run_dir))
    run.seconds_saving = 0.0
    if saved.error is None and run.ranks.is_first:
        forget_tries()
    warn_of_short_warning(run, took)
    return saved.error is None


def warn_of_short_warning(run: Run, seconds_of_save: float) -> None:
    """Say once, under SLURM, if a stop may take longer than the time between the signal and the end: a step, a save
    that is under way, and the last one."""
    warning = int(os.environ.get("WARNING_SECONDS") or 0)
    needed = run.watch.longest + 2 * seconds_of_save
    if 0 < warning < needed:
        say(
            run,
            f"warning: to stop may take {needed:,.0f} s (a step, and two saves), but the time limit is "
            f"announced only {warning} s ahead: raise --signal of slurm/pretrain.sh, or --slurm.warning_seconds",
        )
        os.environ["WARNING_SECONDS"] = ""


def forget_tries() -> None:
    """Tell slurm/begin.sh and end.sh that the run has come further."""
    if path := os.environ.get("TRIES_FILE"):
        with suppress(OSError):
            Path(path).unlink(missing_ok=True)


@contextmanager
def standing_still(run: Run) -> Iterator[None]:
    """Training waits for a checkpoint."""
    began, run.watch.saving = time.monotonic(), True
    try:
        yield
    finally:
        run.watch.saving = False
    run.watch.go_on()
    run.seconds_saving += time.monotonic() - began


def refuse_more_failures(run: Run) -> None:
    """End a run whose saves keep failing: what it does more would be lost."""
    if run.failed_saves > run.config.checkpoint.max_consecutive_failures:
        raise UserError(
            f"{run.run_dir}: {run.failed_saves} saves in a row failed; make room, and start the same command again to "
            f"go on from step {newest_saved(run):,}"
        )


def probe(run: Run) -> dict[str, torch.Tensor]:
    """The model's logits for a fixed row of random tokens (no note's), which the export must reproduce."""
    rng, rows = generator(run.config.seed, PROBE), run.config.batch.micro_batch_size_per_gpu
    ids = torch.from_numpy(rng.choice(run.collator.vocabulary.replacement_ids, size=(1, run.manifest.sequence_length)))
    positions = torch.from_numpy(np.sort(rng.choice(ids.shape[1], size=PROBE_POSITIONS, replace=False)))
    question = {"input_ids": ids, "positions": positions}
    # As many rows as in training: for these the layers are compiled.
    inputs = {"input_ids": ids.repeat(rows, 1), "documents": torch.ones_like(ids).repeat(rows, 1)}
    inputs |= {"positions": positions, "labels": ids[0, positions]}
    if run.collator.max_documents:
        inputs["position_ids"] = torch.arange(ids.shape[1]).repeat(rows, 1)
    inputs = {name: value.to(run.engine.device) for name, value in inputs.items()}
    run.engine.eval()
    with torch.no_grad():
        _, logits = run.engine(**inputs, max_documents=run.collator.max_documents or 1, outputs="logits")
    run.engine.train()
    if run.config.attention.global_tokens == "first":
        question["global_attention_mask"] = first_tokens(torch.ones_like(ids)).long()
    return {**question, "logits": logits.cpu()}


def summarise(run: Run, seconds: float) -> dict[str, Any]:
    """The run in figures, flat, on all ranks. Rank 0 writes `summary.json`."""

    def write() -> dict[str, Any]:
        starts = read_run(run.run_dir)["starts"]
        measured, best = validations(run.run_dir, starts, run.step), best_validation(run.run_dir, starts)
        before, after = {} if measured.differences else measured.before, measured.after
        summary = {
            "format_version": FORMAT_VERSION,
            "steps": run.step,
            "stages": run.stages,
            "stopped_early": run.step < run.last_step,
            "samples_consumed": run.samples_consumed,
            "tokens_consumed": run.samples_consumed * run.manifest.sequence_length,
            "skipped_updates": run.judge.skipped,
            "validation_loss_before": before.get("loss"),
            "validation_loss_after": after.get("loss"),
            "validation_accuracy_before": before.get("accuracy"),
            "validation_accuracy_after": after.get("accuracy"),
            "best_step": best.get("step"),
            "best_validation_loss": best.get("loss"),
            "seconds": round(seconds, 1),
            **account(run.run_dir),
        }
        write_json(run.run_dir / "summary.json", summary)
        return summary

    return agree_on_first(write, run.run_dir, run.ranks)


def reason_of_end(summary: dict[str, Any]) -> str:
    """For stop.json."""
    return "finished early: the validation loss stopped falling" if summary["stopped_early"] else "finished"


def next_command(run_dir: Path, summary: dict[str, Any]) -> str:
    """What to type now."""
    best = summary["best_step"]
    is_there = best != summary["steps"] and best in checkpoint.saved_steps(run_dir)
    other = f" (step {best:,} has the lowest validation loss: --step best)" if is_there else ""
    return f"next: {typed()} export {shlex.quote(str(run_dir))} --out model/{other}"


def finish(run: Run) -> None:
    """Close what is open, on all ranks."""
    if run.metrics is not None:
        run.metrics.close()
    run.ranks.barrier()


# Set-up -----------------------------------------------------------------------------------------------------------


def load_shards(shards: Path) -> Manifest:
    """A shard folder's manifest, once its tokenizer has been seen to be the one that it was built with."""
    from tokenizers import Tokenizer

    manifest = Manifest.load(shards)
    path = shards / TOKENIZER_FOLDER / "tokenizer.json"
    try:
        found = tokenizer_sha256(Tokenizer.from_file(str(path)))
    except Exception:  # tokenizers raises no narrower one
        found = None
    if found != manifest.tokenizer.sha256:
        raise UserError(f"{path}: not the tokenizer that these shards were built with; build the shards again")
    return manifest


def check_hardware(config: RunConfig) -> None:
    """Refuse a GPU that this torch can't use, and a precision that this machine doesn't have."""
    if uses_gpu():
        check_gpu(own_device(int(os.environ["LOCAL_RANK"])))
    if config.precision == "fp16" and not uses_gpu():
        raise UserError("precision fp16: needs a GPU, and none was found; use --precision fp32 or bf16 on a CPU")
    if config.precision == "bf16" and uses_gpu() and not torch.cuda.is_bf16_supported(False):
        raise UserError("precision bf16: this GPU has no bf16 (it came with Ampere); use --precision fp16")


def peak_seconds_per_token(config: RunConfig, model_config: Any, manifest: Manifest, ranks: Ranks) -> float | None:
    """For model FLOPs utilisation: a token's floating-point operations over those of all GPUs per second."""
    peak = peak_flops(torch.cuda.get_device_name()) if ranks.device.type == "cuda" else None
    if peak is None or config.precision == "fp32":
        return None
    flops = training_flops_per_token(model_config, manifest.sequence_length, config.masking.probability)
    return flops / (peak * ranks.world_size)


def describe(run: Run) -> str:
    """What is about to happen, in a line."""
    config, ranks = run.config, run.ranks
    trained = parameter_count(run.engine.module)
    zero = f"ZeRO {run.zero_stage}" if config.deepspeed != NO_ZERO else "no ZeRO"
    start = f"going on from step {run.step:,}" if run.step else "starting"
    encode = run.engine.module.encode
    attention = f"{encode.backend} attention{', compiled' if encode.compiled else ''}"
    return (
        f"{start}: {run.engine.module.config.model_type}, {trained / 1e6:.1f} M parameters, {ranks.world_size} x "
        f"{ranks.device.type}, {zero}, {config.precision}, {attention}; {len(run.split):,} rows of "
        f"{run.manifest.sequence_length:,} tokens, {config.batch.train_batch_size} a step"
    )


def describe_stage(run: Run) -> str:
    """The stage of the next step, in a line."""
    stage, optim = stage_of(min(run.step + 1, run.last_step), run.stages), run.config.optim
    line = f"stage {stage.number} of {len(run.stages)}: steps {stage.first_step:,} to {stage.last_step:,}"
    if stage.number == 1:
        return line
    warmup = stage.schedule(optim).warmup_steps
    return (
        f"{line}: the learning rate warms up again over {warmup:,} {'step' if warmup == 1 else 'steps'} to "
        f"{optim.learning_rate:.2e}, then decays ({optim.schedule}) to "
        f"{stage.learning_rate(stage.last_step, optim):.2e}; rows and masks continue from the stage before"
    )


def say(run: Run, line: str) -> None:
    """Print a line, on rank 0."""
    if run.ranks.is_first:
        console.say(line)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
