"""The whole run, top to bottom: set up, step after step, validate, save, sum up."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clinical_pretrain import checkpoint, deepspeed_config
from clinical_pretrain.config import NO_ZERO, RunConfig
from clinical_pretrain.data.masking import Collator, MicroBatch, Vocabulary
from clinical_pretrain.data.prefetch import ahead
from clinical_pretrain.data.sampler import DROPOUT, MASKS, PROBE, Sampler, generator, micro_batch_of
from clinical_pretrain.data.shards import Split
from clinical_pretrain.distributed import (
    Ranks,
    Report,
    Reports,
    StopFlag,
    initialise,
    read_environment,
    uses_gpu,
)
from clinical_pretrain.metrics import Metrics, read_metrics
from clinical_pretrain.models.build import build_model, compiles
from clinical_pretrain.models.encoder import first_tokens
from clinical_pretrain.models.flops import peak_flops, training_flops_per_token
from clinical_pretrain.models.mlm_head import mean_loss
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
    collator: Collator
    validation: Validation
    metrics: Metrics | None
    reports: Reports
    stop: StopFlag
    zero_stage: int
    peak_seconds_per_token: float | None
    """Seconds that a token would take all GPUs at their peak; None where that isn't known."""
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
    batches, log = micro_batches(run), Log(run)
    while run.step < config.max_steps:
        loss = train_step(run, batches)
        run.step += 1
        # A step's figures are read one step later: for them nobody waits for a GPU.
        before, stop = run.reports.exchange(run.step, loss, run.stop.signal is not None)
        log.add(before)
        if run.step == config.max_steps:
            break
        save_now, validate_now = (_due(run.step, part.every_steps) for part in (config.checkpoint, config.validation))
        if save_now or validate_now or stop:
            log.add(run.reports.flush())
        if stop:
            save(run)
            say(run, f"stopped at step {run.step:,}, saved; the same command goes on from here")
            finish(run)
            sys.exit(STOPPED)
        if validate_now:
            validate(run)
        if save_now:
            save(run)
        if validate_now or save_now:
            log.resume()
    log.add(run.reports.flush())
    batches.close()
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
    model = build_model(config, manifest, deepspeed_config.zero_stage(resolved))
    ranks = initialise()
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    run_dir = Path(config.run_dir)
    prepare_run_folder(run_dir, config, resolved, manifest, model, shards, ranks)
    step = ranks.agree(max(checkpoint.whole_steps(run_dir), default=0))  # a network disk may show others an older view
    engine = make_engine(model, config, resolved)
    if step:
        refuse_other_world(checkpoint.read_state(run_dir, step), ranks, run_dir)
        checkpoint.load(run_dir, engine, step)
    split, held_out = Split(shards, manifest, "train"), Split(shards, manifest, "validation")
    isolate = config.data.document_attention == "isolate"
    collator = Collator(
        manifest.sequence_length,
        config.masking,
        Vocabulary.load(shards / TOKENIZER_FOLDER / "tokenizer.json", manifest.tokenizer),
        most_documents=max(split.most_segments, held_out.most_segments) if isolate else 0,
        fill_up=compiles(config, deepspeed_config.zero_stage(resolved)),
    )
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
        metrics=Metrics(run_dir, step, config.max_steps) if ranks.is_first else None,
        reports=Reports(ranks, engine),
        stop=StopFlag(),
        zero_stage=deepspeed_config.zero_stage(resolved),
        peak_seconds_per_token=peak_seconds_per_token(config, model.config, manifest, ranks),
        step=step,
    )
    say(run, describe(run))
    if not len(run.validation.rows):
        say(run, "no held-out rows in these shards: there will be no validation loss")
    return run


def train_step(run: Run, batches: Iterator[MicroBatch]) -> torch.Tensor:
    """One optimizer step over this rank's share of the micro-batches. Returns its mean loss on this rank."""
    config, ranks = run.config, run.ranks
    rate = learning_rate(run.step + 1, config.optim, config.max_steps)
    for group in run.engine.optimizer.param_groups:
        group["lr"] = rate
    turns = config.accumulation_steps(ranks.world_size)
    total = torch.zeros((), device=run.engine.device)
    for turn in range(turns):
        inputs = next(batches).to(run.engine.device)
        # Dropout depends on the micro-batch, not on the rank that happens to compute it.
        number = micro_batch_of(ranks.rank, ranks.world_size, turn)
        torch.manual_seed(int(generator(config.seed, DROPOUT, run.step, number).integers(2**63)))
        losses, _ = run.engine(**inputs)
        loss = mean_loss(losses, inputs["labels"])
        run.engine.backward(loss)
        run.engine.step()
        total += loss.detach() / turns
    return total


def micro_batches(run: Run) -> Generator[MicroBatch]:
    """This rank's micro-batches from the next step to the run's end, made ahead of time."""
    ranks, size = run.ranks, run.config.batch.micro_batch_size_per_gpu
    turns = run.config.accumulation_steps(ranks.world_size)

    def make(first_sample: int) -> MicroBatch:
        samples = [run.sampler.sample(first_sample + i) for i in range(size)]
        rows = [run.split[sample.row] for sample in samples]
        batch = run.collator(rows, [generator(run.config.seed, MASKS, s.epoch, s.row) for s in samples])
        return batch.pinned() if ranks.device.type == "cuda" else batch

    numbers = (
        step * run.config.batch.train_batch_size + micro_batch_of(ranks.rank, ranks.world_size, turn) * size
        for step in range(run.step, run.config.max_steps)
        for turn in range(turns)
    )
    yield from ahead(make, numbers)


class Log:
    """Takes ranks' reports on steps, in order, and writes what is due of them."""

    def __init__(self, run: Run) -> None:
        self.run, self.at, self.step = run, time.monotonic(), run.step

    def add(self, report: Report | None) -> None:
        """Check one step's loss and write its line, if it is due.

        Raises:
            UserError: the loss isn't a finite number.
        """
        if report is None:
            return
        if not math.isfinite(report.loss):
            raise UserError(
                f"step {report.step}: the loss is {report.loss}; lower optim.learning_rate or use precision bf16, and "
                "start the same command again to go on from the last checkpoint"
            )
        config = self.run.config
        if _due(report.step, config.log_every_steps) or report.step == config.max_steps:
            log_step(self.run, report, (report.step - self.step) / (report.at - self.at))
            self.at, self.step = report.at, report.step

    def resume(self) -> None:
        """Leave out of the speed what has been done beside training."""
        self.at, self.step = time.monotonic(), self.run.step


def log_step(run: Run, report: Report, steps_per_second: float) -> None:
    """Write a step's figures, on rank 0."""
    if run.metrics is None:
        return
    config, samples = run.config, report.step * run.config.batch.train_batch_size
    tokens_per_second = steps_per_second * config.batch.train_batch_size * run.manifest.sequence_length
    run.metrics.train(
        report.step,
        loss=report.loss,
        learning_rate=learning_rate(report.step, config.optim, config.max_steps),
        gradient_norm=report.gradient_norm,
        tokens_per_second=tokens_per_second,
        mfu=tokens_per_second * run.peak_seconds_per_token if run.peak_seconds_per_token else None,
        samples_consumed=samples,
        epoch=samples / len(run.split),
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
    rng, rows = generator(run.config.seed, PROBE), run.config.batch.micro_batch_size_per_gpu
    ids = torch.from_numpy(rng.choice(run.collator.vocabulary.stand_ins, size=(1, run.manifest.sequence_length)))
    positions = torch.from_numpy(np.sort(rng.choice(ids.shape[1], size=PROBE_POSITIONS, replace=False)))
    question = {"input_ids": ids, "positions": positions}
    # As many rows as in training: for these the layers are compiled.
    inputs = {"input_ids": ids.repeat(rows, 1), "documents": torch.ones_like(ids).repeat(rows, 1)}
    inputs |= {"positions": positions, "labels": ids[0, positions]}
    if run.collator.most_documents:
        inputs["position_ids"] = torch.arange(ids.shape[1]).repeat(rows, 1)
    inputs = {name: value.to(run.engine.device) for name, value in inputs.items()}
    run.engine.eval()
    with torch.no_grad():
        _, logits = run.engine(**inputs, most_documents=run.collator.most_documents or 1, also="logits")
    run.engine.train()
    if run.config.attention.global_tokens == "first":
        question["global_attention_mask"] = first_tokens(torch.ones_like(ids)).long()
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


def peak_seconds_per_token(config: RunConfig, model_config: Any, manifest: Manifest, ranks: Ranks) -> float | None:
    """For model FLOPs utilisation: a token's floating-point operations over those of all GPUs per second."""
    peak = peak_flops(torch.cuda.get_device_name()) if ranks.device.type == "cuda" else None
    if peak is None or config.precision == "fp32":
        return None
    flops = training_flops_per_token(model_config, manifest.sequence_length, config.masking.probability)
    return flops / (peak * ranks.world_size)


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
    encode = run.engine.module.encode
    attention = f"{encode.backend} attention{', compiled' if encode.compiled else ''}"
    return (
        f"{start}: {run.engine.module.config.model_type}, {trained / 1e6:.1f} M parameters, {ranks.world_size} x "
        f"{ranks.device.type}, {zero}, {config.precision}, {attention}; {len(run.split):,} rows of "
        f"{run.manifest.sequence_length:,} tokens, {config.batch.train_batch_size} a step"
    )


def say(run: Run, line: str) -> None:
    """Print a line, on rank 0."""
    if run.metrics is not None:
        run.metrics.say(line)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
