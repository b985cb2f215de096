"""The model to train: a pretrained or random Longformer or BigBird that fits the shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoTokenizer, BigBirdConfig, LongformerConfig

from clinical_pretrain.config import ModelConfig, RunConfig
from clinical_pretrain.models.mlm_head import BigBirdForMaskedPositions, LongformerForMaskedPositions
from tokenizer_tools.manifest import Manifest, TokenizerInfo, UserError, vocab_sha256

MODEL_CLASSES: dict[str, Any] = {
    "longformer": LongformerForMaskedPositions,
    "big_bird": BigBirdForMaskedPositions,
}


def build_model(config: RunConfig, manifest: Manifest) -> Any:
    """Make the model, in fp32, in training mode, with what the loss never reaches frozen.

    Raises:
        UserError: the base model isn't there or lacks weights, or doesn't fit the shards' tokenizer or length.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(config.seed)
    if config.model.init == "random":
        model_config = random_config(config.model, manifest)
        check_fit(model_config, manifest, config.model.family)
        model = MODEL_CLASSES[model_config.model_type](model_config)
    else:
        model_config = load_model_config(config.model.name_or_path)
        check_fit(model_config, manifest, config.model.name_or_path)
        _check_tokenizer(config.model.name_or_path, manifest.tokenizer)
        model = _load_pretrained(config.model.name_or_path, model_config)
    if config.attention.global_tokens != "none" and model_config.model_type != "longformer":
        raise UserError("attention.global_tokens: only a Longformer has global tokens that can be chosen; use none")
    _freeze_unused(model, config)
    _checkpoint_activations(model, config)
    return model.train()


def random_config(config: ModelConfig, manifest: Manifest) -> Any:
    """Configuration of a random model of the wanted size, for the shards' vocabulary and length."""
    size, info = config.size, manifest.tokenizer
    common = {
        "vocab_size": info.vocab_size,
        "num_hidden_layers": size.layers,
        "hidden_size": size.hidden_size,
        "num_attention_heads": size.heads,
        "intermediate_size": size.intermediate_size,
        "pad_token_id": info.pad_id,
        "bos_token_id": info.begin_id,
        "eos_token_id": info.end_id,
        "sep_token_id": info.end_id,
    }
    if config.family == "longformer":
        # Longformer numbers positions from pad_token_id + 1.
        positions = manifest.sequence_length + info.pad_id + 1
        return LongformerConfig(
            **common,
            attention_window=size.attention_window,
            max_position_embeddings=positions,
            type_vocab_size=1,
        )
    return BigBirdConfig(
        **common,
        block_size=size.block_size,
        num_random_blocks=size.random_blocks,
        max_position_embeddings=manifest.sequence_length,
        attention_type="block_sparse",
    )


def load_model_config(name_or_path: str) -> Any:
    """A base model's configuration.

    Raises:
        UserError: it isn't to be had, or is neither Longformer nor BigBird.
    """
    model_config = _from_hub_or_folder(AutoConfig.from_pretrained, name_or_path)
    if model_config.model_type not in MODEL_CLASSES:
        raise UserError(
            f"{name_or_path}: a {model_config.model_type} model; this trains {' and '.join(sorted(MODEL_CLASSES))}"
        )
    return model_config


def check_fit(model_config: Any, manifest: Manifest, name: str) -> None:
    """Refuse a model that can't take the shards' ids, padding or length."""
    info, length = manifest.tokenizer, manifest.sequence_length
    longformer = model_config.model_type == "longformer"
    if info.vocab_size > model_config.vocab_size:
        raise UserError(
            f"{name}: the model knows {model_config.vocab_size:,} tokens, but the shards' tokenizer {info.name} has "
            f"{info.vocab_size:,}; build the shards with the model's own tokenizer"
        )
    if model_config.pad_token_id != info.pad_id:
        raise UserError(
            f"{name}: the model pads with id {model_config.pad_token_id}, but the shards' tokenizer {info.name} with "
            f"{info.pad_id}; build the shards with the model's own tokenizer"
        )
    positions = model_config.max_position_embeddings - (info.pad_id + 1 if longformer else 0)
    if length > positions:
        raise UserError(
            f"{name}: rows of {length:,} tokens, but the model has {positions:,} positions; build the shards with "
            f"--sequence-length {positions} or less"
        )
    if not longformer and model_config.attention_type == "block_sparse":
        # transformers' BigBirdModel changes to full attention, for good, at this length or less.
        shortest = (5 + 2 * model_config.num_random_blocks) * model_config.block_size
        if length <= shortest:
            raise UserError(
                f"{name}: rows of {length:,} tokens are too short for BigBird's block-sparse attention (it needs more "
                f"than {shortest:,}: blocks of {model_config.block_size}); build longer rows or use smaller blocks"
            )


def _check_tokenizer(name_or_path: str, info: TokenizerInfo) -> None:
    """If the base model brings a tokenizer, the shards must have been made with the same vocabulary."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path)
        vocabulary = tokenizer.backend_tokenizer.get_vocab()
    except Exception:
        return  # a folder with weights alone; the sizes have been compared
    if len(vocabulary) > 100 and vocab_sha256(vocabulary) != info.vocab_sha256:
        raise UserError(
            f"{name_or_path}: its tokenizer gives other ids than {info.name}, which the shards were built with; "
            f"build them with --tokenizer {name_or_path}"
        )


def _load_pretrained(name_or_path: str, model_config: Any) -> Any:
    model, report = _from_hub_or_folder(
        MODEL_CLASSES[model_config.model_type].from_pretrained,
        name_or_path,
        config=model_config,
        dtype=torch.float32,
        output_loading_info=True,
    )
    fresh = {*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])}
    fresh = {name for name in fresh if ".pooler." not in name}  # never trained, never used by the masked-LM head
    if fresh:
        raise UserError(
            f"{name_or_path}: no pretrained weights for {', '.join(sorted(fresh)[:5])}"
            f"{f' and {len(fresh) - 5} more' if len(fresh) > 5 else ''}; they would start at random: use a checkpoint "
            "with its masked-LM head"
        )
    return model


def _from_hub_or_folder(load: Any, name_or_path: str, **arguments: Any) -> Any:
    folder = Path(name_or_path)
    if folder.is_absolute() and not folder.is_dir():
        raise UserError(f"{name_or_path}: no such folder (model.name_or_path)")
    try:
        return load(name_or_path, **arguments)
    except (OSError, ValueError) as error:
        if folder.is_dir():
            reason = (str(error).strip().splitlines() or ["unreadable"])[0][:200]
            raise UserError(f"{name_or_path}: no model could be loaded from this folder ({reason})") from None
        raise UserError(
            f"{name_or_path}: neither a folder nor a model in the Hugging Face cache, and the Hub can't be reached "
            f"from here; on a machine with internet run 'hf download {name_or_path}', or give a folder's path"
        ) from None


def encoder_inputs(config: RunConfig, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the encoder takes beside ids and padding: Longformer's global_attention_mask, (batch, length), if any."""
    if config.attention.global_tokens == "none":
        return {}
    global_mask = torch.zeros_like(input_ids)
    global_mask[:, 0] = 1
    return {"global_attention_mask": global_mask}


def _freeze_unused(model: Any, config: RunConfig) -> None:
    """Without a gradient, weight decay would still shrink them."""
    for name, parameter in model.named_parameters():
        unused_global = "_global." in name and config.attention.global_tokens == "none"
        if ".pooler." in name or unused_global:
            parameter.requires_grad_(False)


def _checkpoint_activations(model: Any, config: RunConfig) -> None:
    for layer in model.base_model.encoder.layer if config.checkpointing != "none" else ():
        part = layer if config.checkpointing == "full" else layer.attention
        part.forward = _recomputed(part.forward)


def _recomputed(forward: Any) -> Any:
    """A forward() that keeps its inputs alone, and runs again when its gradient is asked for."""

    def run(*arguments: Any, **named: Any) -> Any:
        return checkpoint(forward, *arguments, use_reentrant=False, **named)

    return run
