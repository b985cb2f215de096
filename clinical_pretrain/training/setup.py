"""Set up a run: check everything, meet the other ranks, find the newest checkpoint, build the engine."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from clinical_pretrain.allocator import keep_freed_memory
from clinical_pretrain.checkpoint.restore import restore_engine
from clinical_pretrain.checkpoint.state import RunState, read_state
from clinical_pretrain.checkpoint.verify import latest_valid
from clinical_pretrain.config.run_config import NO_ZERO, RunConfig
from clinical_pretrain.console import console
from clinical_pretrain.distributed import Ranks, initialise, read_environment, uses_gpu
from clinical_pretrain.engine.build import make_engine
from clinical_pretrain.engine.deepspeed_internals import parameter_count, time_collectives
from clinical_pretrain.engine.step_reports import StepReports
from clinical_pretrain.models.build import build_model
from clinical_pretrain.models.flops import peak_flops, training_flops_per_token
from clinical_pretrain.run_folder.compatibility import stage_ends
from clinical_pretrain.run_folder.history import data_facts, validation_set
from clinical_pretrain.run_folder.lock import exclusive_lock
from clinical_pretrain.run_folder.paths import RunFolder
from clinical_pretrain.run_folder.starts import base_model, lost_steps, read_skipped_samples, record_start
from clinical_pretrain.slurm_environment import job_restarts, slurm_job
from clinical_pretrain.training import auto
from clinical_pretrain.training.batches import Batches
from clinical_pretrain.training.checkpointer import Checkpointer
from clinical_pretrain.training.hardware import check_agreement, check_hardware, this_card
from clinical_pretrain.training.loss_guard import LossGuard
from clinical_pretrain.training.metrics_writer import MetricsWriter
from clinical_pretrain.training.phases import Phases
from clinical_pretrain.training.preflight import RunSpec, check_folder, make_spec
from clinical_pretrain.training.run import Progress, Run
from clinical_pretrain.training.validation import Validation
from clinical_pretrain.training.watchdog import Watchdog
from tokenizer_tools.files import copy_files, write_atomically, write_json
from tokenizer_tools.manifest import TOKENIZER_FOLDER

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass
class OpenedRun:
    """A run before its engine is built: everything is checked, and the step to resume from is known."""

    spec: RunSpec
    model: PreTrainedModel
    """With our attention; see models/build.py."""
    ranks: Ranks
    watchdog: Watchdog
    changes: list[str]
    """Settings that differ from the start before, on rank 0."""
    stages: list[int]
    """The last step of each stage."""
    step: int
    """Of the newest intact checkpoint; 0 where there is none."""
    faults: list[str]
    """Faults of newer checkpoints, which were skipped."""
    memory_is_kept: bool
    """Whether freed memory is kept; see allocator.py."""

    @property
    def folder(self) -> RunFolder:
        """The run folder."""
        return self.spec.folder


def setup(config: RunConfig, stack: ExitStack) -> Run:
    """Everything before the first step. What must be closed afterwards goes onto `stack`."""
    return make_run(open_run(config, stack))


def open_run(config: RunConfig, stack: ExitStack) -> OpenedRun:
    """Check everything, meet the other ranks, and find the newest checkpoint.

    The watchdog goes onto `stack`: it begins as soon as the ranks meet.
    """
    rank, world_size = read_environment()
    is_auto = auto.is_auto(config)
    config = auto.settle(config, world_size, this_card())
    spec = make_spec(config, world_size)
    check_hardware(config)
    memory_is_kept = config.keep_freed_memory and not uses_gpu() and keep_freed_memory()
    announce(rank == 0, "building the model")
    model = build_model(config, spec.manifest, spec.zero_stage)
    announce(rank == 0, f"starting DeepSpeed on {world_size} {'rank' if world_size == 1 else 'ranks'}")
    ranks = initialise(config.watchdog.step_timeout_seconds)
    if is_auto:
        check_agreement(config, ranks)
    folder = spec.folder
    watchdog = Watchdog(ranks, folder, config.watchdog.heartbeat_timeout_seconds, config.watchdog.step_timeout_seconds)
    stack.enter_context(watchdog)
    ranks.on_first(lambda: check_folder(spec), str(folder))
    stack.enter_context(locked(folder, ranks))
    changes = ranks.on_first(lambda: prepare_folder(spec, folder, model), str(folder)) or []
    watchdog.folder_is_ours = True
    if folder.saved_steps():
        announce(rank == 0, "verifying the newest checkpoint")
    step, faults = latest_valid(folder, ranks)
    stages = ranks.from_first(lambda: stage_ends(folder, config)[0], str(folder))
    return OpenedRun(spec, model, ranks, watchdog, changes, stages, step, faults, memory_is_kept)


def make_run(opened: OpenedRun) -> Run:
    """Build DeepSpeed's engine, from the checkpoint if there is one, and everything that a step needs."""
    spec, folder, ranks, step = opened.spec, opened.folder, opened.ranks, opened.step
    config, place = spec.config, str(opened.folder)
    announce(ranks.is_first, f"reading the checkpoint of step {step:,}" if step else "building DeepSpeed's engine")
    state = read_state(folder, step) if step else None
    engine = make_engine_from(opened, state)
    lost = ranks.on_first(lambda: lost_steps(folder, step), place)
    ranks.on_first(lambda: write_start(opened), place)
    peak = peak_tokens_per_second(spec, engine.module.config, ranks)
    metrics = ranks.on_first(
        lambda: MetricsWriter(folder, step, opened.stages[-1], len(folder.starts()) - 1, peak), place
    )
    batches = Batches(spec, ranks, ranks.from_first(lambda: read_skipped_samples(folder), place))
    phases = Phases(ranks.device)
    time_collectives(partial(phases, "communication"))
    run = Run(
        spec=spec,
        ranks=ranks,
        engine=engine,
        progress=Progress(opened.stages, config.batch.train_batch_size, step),
        batches=batches,
        validation=Validation(config, spec.shards, batches.held_out, batches.collator, ranks),
        reports=StepReports(ranks, engine),
        guard=LossGuard.restored(config, state),
        checkpointer=Checkpointer(folder, config.checkpoint, ranks, opened.watchdog, metrics),
        watchdog=opened.watchdog,
        phases=phases,
        metrics=metrics,
    )
    if state:
        run.progress.move_to(step, state.samples_consumed)
    for line in first_lines(run, opened, lost or ""):
        run.say(line)
    return run


def make_engine_from(opened: OpenedRun, state: RunState | None) -> Any:
    """DeepSpeed's engine: new, or as the checkpoint holds it."""
    spec = opened.spec
    if state is None:
        return make_engine(opened.model, spec.config, spec.resolved)
    return restore_engine(opened.model, spec.config, spec.resolved, opened.folder, state, opened.ranks)


def announce(is_first: bool, doing: str) -> None:
    """Print what set-up is doing, on rank 0: it takes 10 to 20 s, or longer."""
    if is_first:
        console.progress([doing])


@contextmanager
def locked(folder: RunFolder, ranks: Ranks) -> Iterator[None]:
    """No other run writes to the folder meanwhile. Rank 0 holds the lock; all learn of an error."""
    stream = ranks.on_first(lambda: exclusive_lock(folder, slurm_job(), job_restarts()), str(folder))
    try:
        yield
    finally:
        if stream:
            stream.close()


def prepare_folder(spec: RunSpec, folder: RunFolder, model: PreTrainedModel) -> list[str]:
    """Make the run folder, or check that it holds this very run. On rank 0, with the folder locked.

    Returns:
        Differences from the folder's run that are accepted.
    """
    changes = check_folder(spec)
    if not folder.exists:
        create_folder(spec, folder, model)
    return changes


def create_folder(spec: RunSpec, folder: RunFolder, model: PreTrainedModel) -> None:
    """Write what a run is, before its first step; run.json comes last."""
    write_settings(spec, folder)
    model.config.save_pretrained(folder.model_config)
    frozen = {name: tensor for name, tensor in model.named_parameters() if not tensor.requires_grad}
    save_file(frozen, folder.frozen_weights)
    shutil.rmtree(folder.tokenizer, ignore_errors=True)
    copy_files(spec.shards / TOKENIZER_FOLDER, folder.tokenizer)
    settings = spec.config.model
    folder.write_run(
        {
            "run_id": uuid.uuid4().hex,
            "base_model": base_model(settings.name_or_path, settings.init == "random"),
            "shard_fingerprint": spec.manifest.fingerprint,
            "stages": [],
            "starts": [],
        }
    )


def write_settings(spec: RunSpec, folder: RunFolder) -> None:
    """Write the settings of this start."""
    write_atomically(folder.config_file, spec.config.to_yaml())
    write_json(folder.deepspeed_file, spec.resolved)
    folder.write_versioned(folder.data_file, data_facts(spec.manifest))


def write_start(opened: OpenedRun) -> None:
    """Write down the settings of this start, and the start."""
    spec, encode = opened.spec, opened.model.encode
    write_settings(spec, opened.folder)
    record_start(
        opened.folder,
        {
            "from_step": opened.step,
            "slurm_job": slurm_job(),
            "world_size": spec.world_size,
            "zero_stage": spec.zero_stage,
            "device": torch.cuda.get_device_name() if opened.ranks.device.type == "cuda" else "cpu",
            "attention_backend": encode.backend,
            "compiled": encode.compiled,
            "changes": opened.changes,
            "config": spec.config.to_dict(),
            "stages": opened.stages,
            "data": data_facts(spec.manifest),
            "shard_fingerprint": spec.manifest.fingerprint,
            "validation_set": validation_set(spec.config, spec.manifest),
        },
    )


def peak_tokens_per_second(spec: RunSpec, model_config: PreTrainedConfig, ranks: Ranks) -> float | None:
    """Tokens that all GPUs together could train at their peak, for the model FLOPs utilisation; None where that isn't
    known."""
    peak = peak_flops(torch.cuda.get_device_name()) if ranks.device.type == "cuda" else None
    if peak is None or spec.config.precision == "fp32":
        return None
    probability = spec.config.masking.probability
    return peak * ranks.world_size / training_flops_per_token(model_config, spec.manifest.sequence_length, probability)


def first_lines(run: Run, opened: OpenedRun, lost: str) -> Iterator[str]:
    """What a user reads before the first step."""
    for fault in opened.faults:
        yield f"damaged checkpoint skipped: {fault}"
    if opened.changes:
        yield f"changed settings: {'; '.join(opened.changes)}"
    yield describe(run, opened.memory_is_kept)
    if lost:
        yield lost
    if len(opened.stages) > 1:
        yield describe_stage(run)
    if not len(run.validation.numbers):
        yield "no held-out sequences in these shards: there will be no validation loss"


def describe(run: Run, memory_is_kept: bool) -> str:
    """What is about to be trained, in a line."""
    config, ranks, encode = run.config, run.ranks, run.engine.module.encode
    zero = f"ZeRO {run.spec.zero_stage}" if config.deepspeed != NO_ZERO else "no ZeRO"
    start = f"resuming from step {run.step:,}" if run.step else "starting"
    attention = f"{encode.backend} attention{', compiled' if encode.compiled else ''}"
    memory = ", freed memory kept" if memory_is_kept else ""
    return (
        f"{start}: {run.engine.module.config.model_type}, {parameter_count(run.engine.module) / 1e6:.1f} M parameters, "
        f"{ranks.world_size} x {ranks.device.type}, {zero}, {config.precision}, {attention}{memory}; "
        f"{len(run.batches.split):,} sequences of {run.spec.manifest.sequence_length:,} tokens, "
        f"{config.batch.train_batch_size} a step"
    )


def describe_stage(run: Run) -> str:
    """The stage of the next step, in a line."""
    progress, optim = run.progress, run.config.optim
    stage = progress.stage(min(run.step + 1, progress.last_step))
    line = f"stage {stage.number} of {len(progress.stages)}: steps {stage.first_step:,} to {stage.last_step:,}"
    if stage.number == 1:
        return line
    warmup = stage.schedule(optim).warmup_steps
    return (
        f"{line}: the learning rate warms up again over {warmup:,} {'step' if warmup == 1 else 'steps'} to "
        f"{optim.learning_rate:.2e}, then decays ({optim.schedule}) to "
        f"{stage.learning_rate(stage.last_step, optim):.2e}; sequences and masks continue from the stage before"
    )
