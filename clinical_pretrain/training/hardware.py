"""What this rank's GPU is, and whether it can train as the config asks."""

from __future__ import annotations

import os
from dataclasses import replace

import torch

from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.distributed import Ranks, check_gpu, own_device, uses_gpu
from clinical_pretrain.estimate.cards import CARDS, GIB, Card, card_of_device
from tokenizer_tools.errors import UserError


def check_hardware(config: RunConfig) -> None:
    """Check that torch supports this GPU, and the GPU the precision.

    Raises:
        UserError: it doesn't.
    """
    if uses_gpu():
        check_gpu(own_device(int(os.environ["LOCAL_RANK"])))
    if config.precision == "fp16" and not uses_gpu():
        raise UserError("precision fp16: needs a GPU, and none was found; use --precision fp32 or bf16 on a CPU")
    if config.precision == "bf16" and uses_gpu() and not torch.cuda.is_bf16_supported(False):
        raise UserError("precision bf16: this GPU has no bf16 (it came with Ampere); use --precision fp16")


def this_card() -> Card | None:
    """This rank's GPU, with its own memory; None on a CPU. Of one that isn't known the speed is that of the most
    similar."""
    if not uses_gpu():
        return None
    found = torch.cuda.get_device_properties(own_device(int(os.environ["LOCAL_RANK"])))
    capability = found.major + found.minor / 10
    like = card_of_device(found.name) or min(CARDS, key=lambda card: abs(card.capability - capability))
    return replace(like, memory_gib=found.total_memory / GIB, capability=capability)


def check_agreement(config: RunConfig, ranks: Ranks) -> None:
    """Refuse ranks whose GPUs differ so much that `auto` isn't the same on them.

    Raises:
        UserError: on all ranks.
    """
    found = {*ranks.all_gather((config.batch.micro_batch_size_per_gpu, config.activation_checkpointing))}
    if len(found) > 1:
        text = " and ".join(f"micro-batches of {size} with activation_checkpointing {kind}" for size, kind in found)
        raise UserError(f"auto: the GPUs differ, {text}; set both in the config")
