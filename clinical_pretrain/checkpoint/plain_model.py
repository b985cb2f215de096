"""Make the run's model in plain transformers, to load a checkpoint's weights into."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForMaskedLM

from clinical_pretrain.run_folder.paths import RunFolder

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def plain_model(folder: RunFolder) -> tuple[PreTrainedModel, dict[str, torch.Tensor]]:
    """Build the run's model with random weights, and freeze what training left alone.

    Returns:
        The model, and the frozen weights by name.
    """
    model = AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(folder.model_config))
    frozen = load_file(folder.frozen_weights)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return model, frozen
