"""The whole run, top to bottom: set up, step after step, validate, save, sum up."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clinical_pretrain import checkpoint, deepspeed_config
from clinical_pretrain.config import NO_ZERO, RunConfig
from clinical_pretrain.data.masking import Vocabulary, collate
from clinical_pretrain.data.sampler import DROPOUT, MASKS, PROBE, Sampler, generator, micro_batch_of
from clinical_pretrain.data.shards import Split
from clinical_pretrain.distributed import Ranks, StopFlag, initialise, read_environment, uses_gpu
from clinical_pretrain.metrics import Metrics, read_metrics
from clinical_pretrain.models.build import build_model, encoder_inputs
from clinical_pretrain.optim import learning_rate, make_optimizer
from clinical_pretrain.run_folder import FORMAT_VERSION, prepare_run_folder
from clinical_pretrain.validation import Validation
from tokenizer_tools.manifest import (
    TOKENIZER_FOLDER,
    Manifest,
    UserError,
    tokenizer_sha256,
    write_json,
)

STOPPED = 75
"""Exit code of a run that was asked to stop, saved, and can go on (EX_TEMPFAIL)."""
PROBE_POSITIONS = 8


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
    vocabulary: Vocabulary
    validation: Validation
    metrics: Metrics | None
    stop: StopFlag
    zero_stage: int
    step: int
    """Steps done."""

    @property
    def samples_consumed(self) -> int:
        """Sequences trained on."""
        return self.step * self.config.batch.train_batch_size


def train(config: RunConfig) -> dict[str, Any]:
    """Train to the end, or to a stop signal.

    Returns:
        The run's summary, which is also in `summary.json`: steps, validation_loss_before and _after, and more.

    Raises:
        UserError: something in the config or its files can't work; nothing has been written then.
        SystemExit: with code STOPPED after a stop signal, once the run is saved.
    """
    run = setup(config)
    started = time.monotonic()
    if run.step == 0:
        validate(run)
    logged_at, logged_step = time.monotonic(), run.step
    while run.step < config.max_steps:
        loss = train_step(run)
        run.step += 1
        last = run.step == config.max_steps
        log_now, save_now = _due(run.step, config.log_every_steps), _due(run.step, config.checkpoint.every_steps)
        if log_now or save_now or last:
            mean_loss = check_finite(run, loss)
        if log_now or last:
            now = time.monotonic()
            log_step(run, mean_loss, (run.step - logged_step) / (now - logged_at))
            logged_at, logged_step = now, run.step
        if last:
            break
        if run.ranks.any(run.stop.signal is not None):
            save(run)
            say(run, f"stopped at step {run.step:,}, saved; the same command goes on from here")
            finish(run)
            sys.exit(STOPPED)
        if _due(run.step, config.validation.every_steps):
            validate(run)
        if save_now:
            save(run)
    if not run.ranks.agree(run.step in checkpoint.whole_steps(run.run_dir)):
        validate(run)
        save(run)
    if not (run.run_dir / "summary.json").exists():
        summarise(run, time.monotonic() - started)
    say(run, f"done: {run.step:,} steps; next: clinical-pretrain export {run.run_dir} --out model/")
    finish(run)
    path = run.run_dir / "summary.json"
    return dict(run.ranks.agree(json.loads(path.read_text()) if run.ranks.is_first else None))


def setup(config: RunConfig) -> Run:
    """Check everything, then build the model and the DeepSpeed engine, and go on from the newest checkpoint."""
    _, world_size = read_environment()
    shards = Path(config.data.shards)
    manifest = load_shards(shards)
    resolved = deepspeed_config.resolve(config, world_size)
    check_hardware(config)
    model = build_model(config, manifest)
    ranks = initialise()
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    run_dir = Path(config.run_dir)
    prepare_run_folder(run_dir, config, resolved, manifest, model, shards, ranks)
    step = ranks.agree(max(checkpoint.whole_steps(run_dir), default=0))  # a network disk may show others an older view
    engine = make_engine(model, config, resolved)
    if step:
        refuse_other_world(checkpoint.read_state(run_dir, step), ranks, run_dir)
        checkpoint.load(run_dir, engine, step)
    split = Split(shards, manifest, "train")
    vocabulary = Vocabulary.load(shards / TOKENIZER_FOLDER / "tokenizer.json", manifest.tokenizer)
    run = Run(
        config=config,
        run_dir=run_dir,
        manifest=manifest,
        ranks=ranks,
        engine=engine,
        split=split,
        sampler=Sampler(len(split), config.seed),
        vocabulary=vocabulary,
        validation=Validation(config, shards, manifest, vocabulary, ranks),
        metrics=Metrics(run_dir, step, config.max_steps) if ranks.is_first else None,
        stop=StopFlag(),
        zero_stage=deepspeed_config.zero_stage(resolved),
        step=step,
    )
    say(run, describe(run))
    if not len(run.validation.rows):
        say(run, "no held-out rows in these shards: there will be no validation loss")
    return run


def train_step(run: Run) -> torch.Tensor:
    """One optimizer step over this rank's share of the micro-batches. Returns its mean loss on this rank."""
    config, ranks = run.config, run.ranks
    rate = learning_rate(run.step + 1, config.optim, config.max_steps)
    for group in run.engine.optimizer.param_groups:
        group["lr"] = rate
    turns = config.accumulation_steps(ranks.world_size)
    total = torch.zeros((), device=run.engine.device)
    for turn in range(turns):
        number = micro_batch_of(ranks.rank, ranks.world_size, turn)
        inputs = micro_batch(run, number).to(run.engine.device)
        # Dropout depends on the micro-batch, not on the rank that happens to compute it.
        torch.manual_seed(int(generator(config.seed, DROPOUT, run.step, number).integers(2**63)))
        losses, _ = run.engine(**inputs, **encoder_inputs(config, inputs["input_ids"]))
        loss = losses.sum() / max(1, len(losses))
        run.engine.backward(loss)
        run.engine.step()
        total += loss.detach() / turns
    return total


def micro_batch(run: Run, number: int) -> Any:
    """The rows of a step's micro-batch `number`, masked."""
    config = run.config
    size = config.batch.micro_batch_size_per_gpu
    first = run.samples_consumed + number * size
    samples = [run.sampler.sample(first + i) for i in range(size)]
    return collate(
        [run.split[sample.row] for sample in samples],
        [generator(config.seed, MASKS, sample.epoch, sample.row) for sample in samples],
        run.manifest.sequence_length,
        config.masking,
        run.vocabulary,
    )


def check_finite(run: Run, loss: torch.Tensor) -> float:
    """The step's loss over all ranks.

    Raises:
        UserError: it isn't a finite number.
    """
    mean = float(run.ranks.sum(loss.double().cpu()) / run.ranks.world_size)
    if not math.isfinite(mean):
        raise UserError(
            f"step {run.step}: the loss is {mean}; lower optim.learning_rate or use precision bf16, and start the "
            "same command again to go on from the last checkpoint"
        )
    return mean


def log_step(run: Run, loss: float, steps_per_second: float) -> None:
    """Write a step's figures, on rank 0."""
    if run.metrics is None:
        return
    norm = run.engine.get_global_grad_norm()
    tokens_per_step = run.config.batch.train_batch_size * run.manifest.sequence_length
    run.metrics.train(
        run.step,
        loss=loss,
        learning_rate=learning_rate(run.step, run.config.optim, run.config.max_steps),
        gradient_norm=float(norm) if norm is not None else math.nan,
        tokens_per_second=steps_per_second * tokens_per_step,
        samples_consumed=run.samples_consumed,
        epoch=run.samples_consumed / len(run.split),
    )


def validate(run: Run) -> None:
    """Measure on held-out patients and write it down."""
    result = run.validation.run(run.engine)
    if run.metrics is not None and result:
        run.metrics.validation(run.step, result)


def save(run: Run) -> None:
    """Write a checkpoint."""
    state = checkpoint.RunState(
        step=run.step,
        samples_consumed=run.samples_consumed,
        world_size=run.ranks.world_size,
        zero_stage=run.zero_stage,
        precision=run.config.precision,
        shard_fingerprint=run.manifest.fingerprint,
    )
    checkpoint.save(run.run_dir, run.engine, state, probe(run), run.config.checkpoint.keep, run.ranks)


def probe(run: Run) -> dict[str, torch.Tensor]:
    """The model's logits for a fixed row of random tokens (no note's), which the export must reproduce."""
    rng = generator(run.config.seed, PROBE)
    ordinary = np.flatnonzero(run.vocabulary.ordinary)
    ids = torch.from_numpy(rng.choice(ordinary, size=(1, run.manifest.sequence_length)))
    positions = torch.from_numpy(np.sort(rng.choice(ids.shape[1], size=PROBE_POSITIONS, replace=False)))
    question = {"input_ids": ids, "positions": positions, **encoder_inputs(run.config, ids)}
    rest = {"attention_mask": torch.ones_like(ids), "labels": ids.flatten()[positions]}
    run.engine.eval()
    with torch.no_grad():
        _, logits = run.engine(**{name: value.to(run.engine.device) for name, value in (question | rest).items()})
    run.engine.train()
    return {**question, "logits": logits.cpu()}


def summarise(run: Run, seconds: float) -> None:
    """Write `summary.json`, on rank 0: the run in figures, flat."""
    if not run.ranks.is_first:
        return
    validations = read_metrics(run.run_dir, "validation")
    before, after = (validations[0], validations[-1]) if validations else ({}, {})
    write_json(
        run.run_dir / "summary.json",
        {
            "format_version": FORMAT_VERSION,
            "steps": run.step,
            "samples_consumed": run.samples_consumed,
            "tokens_consumed": run.samples_consumed * run.manifest.sequence_length,
            "validation_loss_before": before.get("loss"),
            "validation_loss_after": after.get("loss"),
            "validation_accuracy_before": before.get("accuracy"),
            "validation_accuracy_after": after.get("accuracy"),
            "seconds": round(seconds, 1),
        },
    )


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
    """Refuse a precision that this machine doesn't have."""
    if config.precision == "fp16" and not uses_gpu():
        raise UserError("precision fp16: needs a GPU, and none was found; use --precision fp32 or bf16 on a CPU")
    if config.precision == "bf16" and uses_gpu() and not torch.cuda.is_bf16_supported(False):
        raise UserError("precision bf16: this GPU has no bf16 (it came with Ampere); use --precision fp16")


def make_engine(model: Any, config: RunConfig, resolved: dict[str, Any]) -> Any:
    """DeepSpeed's engine around the model."""
    import deepspeed

    if uses_gpu() and "offload_optimizer" not in resolved.get("zero_optimization", {}):
        model.cuda()
    engine, *_ = deepspeed.initialize(model=model, optimizer=make_optimizer(model, config.optim), config=resolved)
    if deepspeed_config.zero_stage(resolved) == 0 and config.precision != "fp32":
        # DeepSpeed's wrapper has already taken a step, with gradients of zero: Adam's bias correction must not see it.
        engine.optimizer.optimizer.state.clear()
    return engine


def refuse_other_world(state: checkpoint.RunState, ranks: Ranks, run_dir: Path) -> None:
    """A checkpoint's optimizer state is split over the ranks that wrote it."""
    if state.world_size != ranks.world_size:
        raise UserError(
            f"{run_dir}: the checkpoint of step {state.step} was written by {state.world_size} ranks, and this run has "
            f"{ranks.world_size}; start {state.world_size}"
        )


def describe(run: Run) -> str:
    """What is about to happen, in a line."""
    config, ranks = run.config, run.ranks
    trained = sum(p.ds_numel if hasattr(p, "ds_numel") else p.numel() for p in run.engine.module.parameters())
    zero = f"ZeRO {run.zero_stage}" if config.deepspeed != NO_ZERO else "no ZeRO"
    start = f"going on from step {run.step:,}" if run.step else "starting"
    return (
        f"{start}: {run.engine.module.config.model_type}, {trained / 1e6:.1f} M parameters, {ranks.world_size} x "
        f"{ranks.device.type}, {zero}, {config.precision}; {len(run.split):,} rows of "
        f"{run.manifest.sequence_length:,} tokens, {config.batch.train_batch_size} a step"
    )


def say(run: Run, line: str) -> None:
    """Print a line, on rank 0."""
    if run.metrics is not None:
        run.metrics.say(line)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
