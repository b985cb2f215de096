"""The model to train: a pretrained or random model of one of the families, which fits the shards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import transformers

from clinical_pretrain.config.run_config import RunConfig
from clinical_pretrain.distributed import uses_gpu
from clinical_pretrain.models.base_model import fitting_model_config, load_pretrained
from clinical_pretrain.models.choose_backend import choose_backend
from clinical_pretrain.models.encoder import Encoder, HuggingFaceEncoder, use_fused_gelu
from clinical_pretrain.models.families import family_of
from clinical_pretrain.models.mlm_head import pad_vocabulary
from clinical_pretrain.models.positions import tile_positions
from tokenizer_tools.manifest import Manifest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

COMPILER = "inductor"


def build_model(config: RunConfig, manifest: Manifest, zero_stage: int = 0) -> PreTrainedModel:
    """Make the model, in fp32, in training mode, with the weights that the loss never reaches frozen, and attention by
    the backend that the config asks for.

    Raises:
        UserError: the base model isn't there or lacks weights, or doesn't fit the shards' tokenizer or length.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(config.seed)
    model_config = fitting_model_config(config, manifest)
    family = family_of(model_config)
    if config.model.init == "random":
        model = family.model_class(model_config)
    else:
        model = load_pretrained(config.model.name_or_path, model_config, family.model_class, torch.float32)
        if config.model.position_embeddings == "tile":
            model = tile_positions(model, manifest.sequence_length)
    freeze_unused(model, config)
    if config.attention.dropout is not None:
        family.set_attention_dropout(model, config.attention.dropout)
    install_encoder(model, config, zero_stage)
    return model.train()


def freeze_unused(model: PreTrainedModel, config: RunConfig) -> None:
    """Freeze what gets no gradient: weight decay would still shrink it."""
    family = family_of(model.config)
    unused = family.unused_weights + (family.global_weights if config.attention.global_tokens == "none" else ())
    for name, parameter in model.named_parameters():
        if any(part in name for part in unused):
            parameter.requires_grad_(False)


def compiles(config: RunConfig, zero_stage: int) -> bool:
    """Whether the layers and the head are compiled, which wants micro-batches of one shape."""
    wanted = config.compile == "on" or (config.compile == "auto" and uses_gpu() and zero_stage < 3)
    return wanted and config.attention.backend != "hf"


def install_encoder(model: PreTrainedModel, config: RunConfig, zero_stage: int) -> None:
    """Give a model its encode(): attention by the backend that the config asks for, activation checkpointing and
    compilation."""
    backend = choose_backend(model, config, uses_gpu())
    settings = {
        "activation_checkpointing": config.activation_checkpointing,
        "global_tokens": config.attention.global_tokens,
    }
    if backend == "hf":
        model.encode = HuggingFaceEncoder(model, **settings)
        return
    use_fused_gelu(model)
    compiled = COMPILER if compiles(config, zero_stage) else None
    model.encode = Encoder(model, backend, **settings, dropout=config.attention.dropout, compile_backend=compiled)
    if compiled:
        model.predict = torch.compile(model.predict, backend=compiled, dynamic=False)
    elif uses_gpu() and config.precision != "fp32":
        pad_vocabulary(model)
