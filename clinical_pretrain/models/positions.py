"""Position embeddings: how many a model has, and how it gets more."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from clinical_pretrain.models.families import family_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def available_positions(config: PreTrainedConfig) -> int:
    """Tokens of the longest sequence that a model's position embeddings are made for."""
    return int(config.max_position_embeddings) - family_of(config).first_position(config)


def tile_positions(model: PreTrainedModel, length: int) -> PreTrainedModel:
    """A copy of the model for sequences of `length` tokens, its position embeddings repeated (Beltagy et al. 2020,
    section 5: how Longformer's 4,096 were made from RoBERTa's 512). The model itself where it has enough."""
    config, name = copy.deepcopy(model.config), f"{model.base_model_prefix}.embeddings.position_embeddings.weight"
    family = family_of(config)
    first, available, needed = family.first_position(config), available_positions(config), family.padded(config, length)
    if needed <= available:
        return model
    config.max_position_embeddings = first + needed
    weights = model.state_dict()
    rows = torch.cat([torch.arange(first), first + torch.arange(needed) % available])
    weights[name] = weights[name][rows]
    longer = type(model)(config)
    longer.load_state_dict(weights)
    return longer
