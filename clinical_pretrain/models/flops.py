"""How much arithmetic a token takes, and how much of it a GPU can do: for model FLOPs utilisation (MFU)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from clinical_pretrain.models.families import family_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

PEAK_FLOPS = {
    r"V100-SXM": 125e12,
    r"A100\b": 312e12,
    r"H100\b(?!.*(PCIe|NVL))": 989e12,
    r"H200\b(?!.*NVL)": 989e12,
    r"L40S\b": 362e12,
    r"A10\b": 125e12,
}
"""Floating-point operations per second of dense half-precision matrix products (the makers' data sheets), by what the
device's name must hold. Of a model that runs slower on a card, such as the H100 PCIe, none is known here."""


def training_flops_per_token(config: PreTrainedConfig, length: int, predicted_share: float = 0.15) -> float:
    """Floating-point operations of forward and backward pass, recomputation not counted: two for each multiplication
    with a weight, three passes, attention over what its pattern reaches, the head on the predicted share alone.

    Args:
        config: a transformers config of one of the families.
        length: tokens of a sequence.
        predicted_share: share of the positions whose tokens are predicted.
    """
    width = config.hidden_size
    linears = 4 * width * width + 2 * width * config.intermediate_size
    layers = sum(2 * linears + 4 * width * keys for keys in family_of(config).keys_per_query(config, length))
    head = 2 * (width * width + width * config.vocab_size)
    return float(3 * (layers + predicted_share * head))


def peak_flops(device_name: str) -> float | None:
    """Of a GPU by its name, as torch gives it; None where it isn't known."""
    return next((peak for name, peak in PEAK_FLOPS.items() if re.search(rf"\b{name}", device_name)), None)
