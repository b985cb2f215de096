"""`run --dry_run`: the largest micro-batch through forward pass, backward pass and update, before any data is read and
anything is written. It shows whether the memory is enough, in a minute."""

from __future__ import annotations

from typing import Any

import torch

from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.console import console
from clinical_pretrain.data.collator import MicroBatch, capacity
from clinical_pretrain.data.shards import Split
from clinical_pretrain.distributed import Ranks, initialise, peak_memory_bytes, read_environment, uses_gpu
from clinical_pretrain.engine.build import make_engine
from clinical_pretrain.engine.deepspeed_internals import backward
from clinical_pretrain.estimate.cards import Card
from clinical_pretrain.models.build import build_model
from clinical_pretrain.models.mlm_head import mean_loss
from clinical_pretrain.training import auto
from clinical_pretrain.training.hardware import check_agreement, check_hardware, this_card
from clinical_pretrain.training.preflight import RunSpec, make_spec
from tokenizer_tools.errors import UserError


def dry_run(config: RunConfig) -> dict[str, Any]:
    """Train a step on made-up tokens, and the first micro-steps of another: by then all is allocated that ever will be.

    Returns:
        micro_batch_size_per_gpu, checkpointing, peak_gb and reserved_gb (the most of any rank, on a CPU resident
        memory), and estimated_gb and card_gb, None where they aren't known.

    Raises:
        UserError: the GPU's memory isn't enough; or what a run would raise.
    """
    rank, world_size = read_environment()
    card, is_auto = this_card(), auto.is_auto(config)
    config = auto.settle(config, world_size, card)
    spec = make_spec(config, world_size)
    check_hardware(config)
    try:
        model = build_model(config, spec.manifest, spec.zero_stage)
        ranks = initialise(config.watchdog.step_timeout_seconds)
        if is_auto:
            check_agreement(config, ranks)
        engine = make_engine(model, config, spec.resolved)
        micro_steps = spec.accumulation_steps + min(spec.accumulation_steps, 2)
        for micro_step in range(micro_steps):
            if rank == 0:
                console.progress([f"dry run: micro-step {micro_step + 1} of {micro_steps}"])
            inputs = made_up_batch(spec).to(engine.device)
            losses, _ = engine(**inputs)
            backward(engine, mean_loss(losses, inputs["labels"]))
            engine.step()
        result = measured(spec, ranks, card)
    except torch.OutOfMemoryError:
        raise UserError(auto.out_of_memory(config, world_size, card)) from None
    if rank == 0:
        console.say(describe(result))
    ranks.barrier()
    return result


def made_up_batch(spec: RunSpec) -> MicroBatch:
    """A micro-batch as large as any of the run: full sequences, and as many predicted positions as there can be."""
    config, length = spec.config, spec.manifest.sequence_length
    shape = (config.batch.micro_batch_size_per_gpu, length)
    most = 1
    position_ids = None
    documents = torch.ones(shape, dtype=torch.int64)
    if config.data.document_attention == "isolate":
        most = max(Split(spec.shards, spec.manifest, name).max_segments for name in ("train", "validation"))
        tokens = torch.arange(length).expand(shape)
        documents, position_ids = tokens * most // length + 1, tokens.clone()
    predicted = capacity(documents.numel(), config.masking)
    return MicroBatch(
        input_ids=torch.full(shape, spec.manifest.tokenizer.mask_id),
        documents=documents,
        positions=torch.arange(predicted),
        labels=torch.full((predicted,), spec.manifest.tokenizer.end_id),
        position_ids=position_ids,
        max_documents=most,
    )


def measured(spec: RunSpec, ranks: Ranks, card: Card | None) -> dict[str, Any]:
    """What the dry run took, the most of any rank."""
    if uses_gpu():
        torch.cuda.synchronize()
    own = peak_memory_bytes(), torch.cuda.max_memory_reserved() if uses_gpu() else peak_memory_bytes()
    peak, reserved = (max(sizes) for sizes in zip(*ranks.all_gather(own), strict=True))
    estimate = auto.estimated(spec.config, spec.world_size, card)
    return {
        "micro_batch_size_per_gpu": spec.config.batch.micro_batch_size_per_gpu,
        "checkpointing": spec.config.activation_checkpointing,
        "peak_gb": round(peak / 1e9, 3),
        "reserved_gb": round(reserved / 1e9, 3),
        "estimated_gb": None if estimate is None else round(estimate.memory.peak_bytes / 1e9, 3),
        "card_gb": None if card is None else round(card.memory_bytes / 1e9, 3),
    }


def describe(result: dict[str, Any]) -> str:
    """The result in a line."""
    what = (
        f"dry run: micro-batches of {result['micro_batch_size_per_gpu']} with activation_checkpointing "
        f"{result['checkpointing']} fit"
    )
    if result["card_gb"] is None:
        return f"{what}: {result['peak_gb']:.2f} GB resident memory of a rank at most"
    estimate = "" if result["estimated_gb"] is None else f", {result['estimated_gb']:.2f} estimated"
    return (
        f"{what}: {result['peak_gb']:.2f} GB at the peak{estimate}; torch holds {result['reserved_gb']:.2f} of "
        f"{result['card_gb']:.2f} GB"
    )
